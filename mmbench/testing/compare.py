"""Comparing outputs, and drawing them under seeds that are known."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.testing.subjects import Case, Inputs, Out


def evaluate(case: Case, module: nn.Module, inputs: Inputs) -> Out:
    """Run forward without gradients."""
    with torch.no_grad():
        return case.run(module, inputs)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Whether two tensors agree, relative to the largest number in them."""
    if first.shape != second.shape:
        return False
    if not first.numel():
        return True
    first, second = first.detach().double(), second.detach().double()
    scale = float(torch.nan_to_num(first, posinf=0.0, neginf=0.0).abs().max())
    return torch.allclose(first, second, rtol=0.0, atol=tolerance * scale + 1e-7, equal_nan=True)


def difference(first: Tensor, second: Tensor) -> str:
    """Say how far two tensors are apart."""
    if first.shape != second.shape:
        return f"shapes {tuple(first.shape)} and {tuple(second.shape)}"
    gap = float((first.detach().double() - second.detach().double()).abs().max())
    return f"outputs of size {float(first.detach().abs().max()):.3g} differ by {gap:.3g}"


def tolerance(device: str) -> float:
    """Return the relative error that arithmetic alone may cause on a device."""
    return 5e-3 if device.startswith("cuda") else 2e-4
