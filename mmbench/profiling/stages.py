"""Splits a training step among encoders, fusion, head, objective, backward and optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mmbench.model import MultimodalModel
from mmbench.profiling.meter import Meter


class StageClock:
    """Splits the time of a step among stages: at every moment the innermost one that was entered and not left."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.reset()

    def reset(self) -> None:
        """Begin a step."""
        self._base = "other"
        self._stack: list[str] = []
        self._marks = [("", self._meter.mark())]

    def enter(self, stage: str) -> None:
        self._switch()
        self._stack.append(stage)

    def leave(self, base: str | None = None) -> None:
        """Leave the innermost stage; `base` is what runs from here on while no stage is entered."""
        self._switch()
        self._stack.pop()
        self._base = base or self._base

    def times(self) -> dict[str, float]:
        """End the step; return seconds by stage."""
        self._switch()
        self._meter.synchronise()
        spent: dict[str, float] = defaultdict(float)
        for (_, earlier), (stage, later) in pairwise(self._marks):
            spent[stage] += self._meter.between(earlier, later)
        return dict(spent)

    def _switch(self) -> None:
        self._marks.append((self._stack[-1] if self._stack else self._base, self._meter.mark()))


@contextmanager
def staged(model: MultimodalModel, clock: StageClock) -> Iterator[None]:
    """Tell the clock when encoders, the model, backward and the optimiser begin and end."""
    with ExitStack() as stack:

        def around(module: nn.Module, stage: str, then: str | None) -> None:
            stack.callback(module.register_forward_pre_hook(lambda *_: clock.enter(stage)).remove)
            stack.callback(module.register_forward_hook(lambda *_: clock.leave(then)).remove)

        around(model, "head", "objective")  # whatever the model does beside encoders and fusion: heads, pooling, masks
        around(model.fusion, "fusion", None)
        if model.missing is not None:
            around(model.missing, "missing", None)
        for name, encoder in zip(model.modalities, model.encoders):
            around(encoder, f"encode.{name}", None)
        stack.callback(register_optimizer_step_pre_hook(lambda *_: clock.enter("optimiser")).remove)
        stack.callback(register_optimizer_step_post_hook(lambda *_: clock.leave("other")).remove)
        backward = torch.autograd.backward

        def timed_backward(*arguments: Any, **options: Any) -> None:
            clock.enter("backward")
            backward(*arguments, **options)
            clock.leave("other")

        # Tensor.backward looks this up at every call; torch has no hook for the beginning and end of a backward pass.
        torch.autograd.backward = timed_backward
        stack.callback(setattr, torch.autograd, "backward", backward)
        yield
