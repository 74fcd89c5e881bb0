"""Models whose memory is known, for the process that measures it."""

from __future__ import annotations

import torch
from torch import nn

from mmbench.profiling.footprint import Build, Runs

MIB = 2**20


def allocates(payload: dict) -> Build:
    """Parameters of `parameters_mib`; a pass holds `held_mib` more at its peak. Something else ran before."""
    torch.set_num_threads(1)
    before = torch.ones(payload.get("before_mib", 0) * MIB // 4)
    del before

    def build() -> Runs:
        model = nn.Module()
        model.weight = nn.Parameter(torch.ones(payload["parameters_mib"] * MIB // 4))

        def infer() -> None:
            torch.ones(payload["held_mib"] * MIB // 4).sum()

        def step() -> None:
            model.weight.grad = torch.ones_like(model.weight)  # kept from here on, as an optimiser keeps its state

        return Runs(infer, step if payload.get("trains") else None)

    return build


def fails(payload: dict) -> Build:
    """There is no such model."""
    raise RuntimeError("no such model")
