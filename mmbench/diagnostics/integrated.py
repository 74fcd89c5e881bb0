"""Integrated gradients: what every number of an input adds to an output, from a baseline to where the input is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def integrated_gradients(
    function: Callable[[Mapping[Key, Tensor]], Tensor],
    at: Mapping[Key, Tensor],
    baseline: Mapping[Key, Tensor],
    steps: int,
) -> dict[Key, Tensor]:
    """Attribute a function's value to all its inputs at once.

    ``(x_i - b_i) * integral over a from 0 to 1 of df/dx_i at b + a (x - b)``, the integral by the midpoint rule. As
    the steps grow, the attributions of a sample add up to ``f(x) - f(b)``. One step is the gradient halfway, times the
    way. Where an input is NaN nothing is moved and nothing attributed.

    Source: Sundararajan et al. 2017, arXiv:1703.01365.

    Args:
        function: Its value for a sample must not depend on the batch's others.
        at, baseline: Floating point, by the same keys, with the same shapes.
        steps: How many gradients are taken.

    Shapes: {key: (B, …)}, function {key: (B, …)} -> (B,); gives {key: (B, …)}.
    """
    way = {key: torch.nan_to_num(at[key] - baseline[key]).detach() for key in at}
    total = {key: torch.zeros_like(value) for key, value in way.items()}
    for step in range(steps):
        share = (step + 0.5) / steps
        # From x backwards, so that what is NaN in x stays NaN: encoders know what to make of it.
        points = {key: (at[key].detach() - (1 - share) * way[key]).requires_grad_() for key in at}
        value = function(points)
        if not value.requires_grad:
            break  # nothing differentiable leads from here to the output
        found = torch.autograd.grad(value.sum(), list(points.values()), allow_unused=True)
        for key, gradient in zip(points, found):
            if gradient is not None:
                total[key] += torch.nan_to_num(gradient, posinf=0.0, neginf=0.0) / steps
    return {key: total[key] * way[key] for key in at}
