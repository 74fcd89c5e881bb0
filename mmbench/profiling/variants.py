"""Puts a model into the number format, the compiled form and the layout in which it is to be measured."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmbench.model import Batch, MultimodalModel
from mmbench.torch_compat import (
    DYNAMIC_QUANTIZATION,
    are_ops_intercepted,
    is_dynamically_quantized,
    quantize_dynamic,
)
from mmbench.variant import Variant

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class UnsupportedError(Exception):
    """This machine or this model cannot be run that way; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """A model ready to be measured.

    Attributes:
        model: Of its own where preparing changes weights, else the given one.
        autocast: Precision of inference; None for the model's own.
        untrainable: Why no training step can be measured; "" where one can.
    """

    model: MultimodalModel
    autocast: torch.dtype | None = None
    untrainable: str = ""


def prepare(model: MultimodalModel, variant: Variant, device: torch.device) -> Prepared:
    """Return the model as the variant wants it; call inside `settings`.

    Raises:
        UnsupportedError: it cannot be done here.
    """
    untrainable = ""
    if variant.precision == "int8":
        model = _quantised(model, device)
        untrainable = "int8 is for inference only"
    if variant.precision == "fp16":
        untrainable = "fp16 training needs loss scaling, which mmbench does not do; bf16 needs none"
    if variant.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if variant.compile != "none":
        _compile(model, variant.compile, device)
    return Prepared(model, _AUTOCAST.get(variant.precision), untrainable)


def convolves_in_tf32(precision: str, device: torch.device) -> bool:
    """Whether convolutions of fp32 numbers are done in TF32, as torch lets cuDNN do them unless `settings` says no."""
    return precision == "fp32" and _has_tf32(device) and bool(torch.backends.cudnn.allow_tf32)


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def settings(variant: Variant, device: torch.device) -> Iterator[None]:
    """Switch TF32 as the variant says, and put it back.

    Raises:
        UnsupportedError: the device has no TF32.
    """
    if variant.precision == "tf32" and not _has_tf32(device):
        raise UnsupportedError("tf32 is a format of NVIDIA GPUs from compute capability 8.0 on; this device has none")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    wanted = variant.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def arranged(batch: Batch, variant: Variant) -> Batch:
    """Return the batch with its images (B, C, H, W) laid out as the variant says."""
    if variant.memory_format != "channels_last":
        return batch
    inputs = {
        name: dataclasses.replace(given, values=given.values.contiguous(memory_format=torch.channels_last))
        if given.values.dim() == 4
        else given
        for name, given in batch.inputs.items()
    }
    return dataclasses.replace(batch, inputs=inputs)


class _Compiled(nn.Module):
    """A compiled module in the place of the module, so that what watches stages stays outside the compiled code."""

    def __init__(self, module: nn.Module, mode: str) -> None:
        super().__init__()
        self.module = module
        for name in ("feature_dim", "fused_dim"):
            if hasattr(module, name):
                setattr(self, name, getattr(module, name))
        self._run = torch.compile(module, mode=mode)

    def forward(self, *arguments: Any) -> Any:
        # Operations are counted one by one, and those of a compiled graph are not seen.
        return self.module(*arguments) if are_ops_intercepted() else self._run(*arguments)


def _compile(model: MultimodalModel, mode: str, device: torch.device) -> None:
    if mode == "reduce-overhead" and device.type != "cuda":
        raise UnsupportedError(f"compile mode reduce-overhead is CUDA graphs, and a {device.type} device has none")
    if any(is_dynamically_quantized(module) for module in model.modules()):
        raise UnsupportedError("torch.compile does not take what dynamic quantisation makes; measure int8 uncompiled")
    for place, encoder in enumerate(model.encoders):
        model.encoders[place] = _Compiled(encoder, mode)
    model.fusion = _Compiled(model.fusion, mode)


def _quantised(model: MultimodalModel, device: torch.device) -> MultimodalModel:
    """Return a copy with int8 weights: torch's dynamic quantisation on a CPU, torchao's weight-only one on a GPU."""
    made = copy.deepcopy(model).eval()
    if device.type == "cuda":
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError:
            raise UnsupportedError("int8 on a GPU needs torchao, which is not installed: pip install torchao") from None
        quantize_(made, Int8WeightOnlyConfig())
        return made
    if device.type != "cpu":
        raise UnsupportedError(f"int8 is known for CPUs and NVIDIA GPUs; this is {device.type}")
    if reason := DYNAMIC_QUANTIZATION.missing():
        raise UnsupportedError(reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that its successor is torchao, which has no CPU kernels for it
        quantize_dynamic(made, {nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell})
    if not any(is_dynamically_quantized(module) for module in made.modules()):
        raise UnsupportedError("dynamic quantisation finds nothing here: the model has no linear or recurrent layer")
    return made
