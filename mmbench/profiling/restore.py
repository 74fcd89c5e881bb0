"""Leaves a model, its optimiser and the random state as they were before anything was measured."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook


@contextmanager
def gc_paused() -> Iterator[None]:
    """Keep the garbage collector's pauses out of the percentiles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def restored(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back tensors, gradients and modes of the model, every optimiser that takes a step, and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    tensors = _saved([*model.parameters(), *model.buffers()])
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    optimisers: dict[int, tuple[Optimizer, dict[str, Any], list[tuple[Tensor, Tensor]]]] = {}

    def remember(optimiser: Optimizer, *_: Any) -> None:
        if id(optimiser) not in optimisers:
            held = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            optimisers[id(optimiser)] = optimiser, _on_host(optimiser.state_dict()), _saved(held)

    handle = register_optimizer_step_pre_hook(remember)
    cuda = [device] if device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        handle.remove()
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for optimiser, state, held in optimisers.values():
            optimiser.load_state_dict(state)
            _put_back(held)
        _put_back(tensors)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def _saved(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Copies in host memory: on the device they would count as the model's."""
    return [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]


def _put_back(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, copy in saved:
            tensor.copy_(copy)


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_host(item) for item in value)
    return value
