"""The optimiser of a training and its learning rates: whose they are, how they change, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmbench.config import TrainConfig


def lr_factor(progress: float, config: TrainConfig) -> float:
    """Return what the learning rate is multiplied by: linear warm-up, then constant or a half cosine to zero."""
    if progress < config.warmup:
        return max(progress / config.warmup, 0.02)
    if config.schedule == "constant":
        return 1.0
    rest = (progress - config.warmup) / (1.0 - config.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(rest, 1.0)))


def make_optimiser(
    modules: Sequence[nn.Module],
    config: TrainConfig,
    device: torch.device,
    lr_factors: Mapping[int, float] | None = None,
) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay leaves vectors (biases, norms, tokens) alone.

    Args:
        lr_factors: By id of a parameter, what multiplies its learning rate; 1 where nothing is said.
    """
    factors = lr_factors or {}
    grouped: dict[tuple[float, bool], dict[int, nn.Parameter]] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                key = (factors.get(id(parameter), 1.0), parameter.dim() >= 2)
                grouped.setdefault(key, {})[id(parameter)] = parameter
    # The rate of most parameters first, their matrices before their vectors.
    order = sorted(grouped, key=lambda key: (key[0] != 1.0, key[0], not key[1]))
    groups: list[dict[str, Any]] = [
        {
            "params": list(grouped[factor, decayed].values()),
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_factor": factor,
        }
        for factor, decayed in order
    ]
    fused = all(parameter.is_floating_point() for members in grouped.values() for parameter in members.values())
    match config.optimiser:
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=config.lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group of parameters, in place where it lies on the device."""
    group["rate"] = rate
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def rate_of(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group as the host knows it."""
    return float(group.get("rate", group["lr"]))


def hold_rates(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep learning rates on the device: a graph would keep a number of the host as it was."""
    for group in optimiser.param_groups:
        group["rate"] = float(group["lr"])
        group["lr"] = torch.tensor(group["rate"], dtype=torch.float32, device=device)


def release_rates(optimiser: torch.optim.Optimizer) -> None:
    """Give the learning rates back to the host."""
    for group in optimiser.param_groups:
        group["lr"] = group["rate"]
