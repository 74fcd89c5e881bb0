"""Calls plugins' code for one cell: seeds that depend on the cell alone, promises checked, globals put back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmbench.columns import Column, transform_key
from mmbench.data import Split
from mmbench.dataset_source import DatasetSource
from mmbench.errors import ContractError
from mmbench.isolation import working_directory
from mmbench.missing import make_filler
from mmbench.model import MultimodalModel, encoder_dim
from mmbench.part_code import load_attribute
from mmbench.spec import Layout, Modality, TaskSpec
from mmbench.tuning import apply_tuning


def derive_seed(*parts: Any) -> int:
    """Return a seed that depends on `parts` only: 63 bits, the same on every machine.

    >>> derive_seed("order", 0, 0) == derive_seed("order", 0, 0)
    True
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def build_encoder(modality: Modality, part: Mapping[str, Any], seed: int, warnings: list[str]) -> nn.Module:
    """Build one encoder, tuned as its part asks; what it draws at random depends on the seed alone.

    Raises:
        Unavailable: its weights, or what its tuning needs, are not at hand.
        ContractError: what the factory gives is no encoder, or has no layer that an adapter could go to.
    """
    torch.manual_seed(seed)
    layout: Layout = part["layout"]
    encoder = call_factory(part, warnings, modality, layout)
    if not isinstance(encoder, nn.Module):
        raise ContractError(f"encoder {part['ref']} must return an nn.Module, got {type(encoder).__name__}")
    if not callable(getattr(encoder, "transform", None)):
        raise ContractError(f"encoder {part['ref']} has no transform(sample) -> array")
    apply_tuning(encoder, part)
    return encoder


def read_inputs(
    source: DatasetSource, modality: str, encoder: nn.Module, part: Mapping[str, Any], warnings: list[str]
) -> dict[Split, Column]:
    """Return one modality of every split as an encoder takes it."""
    key = transform_key(encoder, fallback=part["digest"])
    with guarded_globals(warnings):
        return source.columns(modality, encoder.transform, key)  # type: ignore[arg-type]


def build_objective(
    payload: Mapping[str, Any], encoders: Mapping[str, nn.Module], tasks: tuple[TaskSpec, ...], warnings: list[str]
) -> nn.Module:
    """Build the objective of a cell."""
    part = payload["objective"]
    torch.manual_seed(derive_seed("objective", payload["cell_id"]))
    objective = call_factory(part, warnings, _dims(encoders), tasks)
    if not isinstance(objective, nn.Module):
        raise ContractError(f"objective {part['ref']} must return an nn.Module, got {type(objective).__name__}")
    return objective


def build_model(
    payload: Mapping[str, Any],
    encoders: Mapping[str, nn.Module],
    objective: nn.Module,
    tasks: tuple[TaskSpec, ...],
    dropout: float,
    warnings: list[str],
) -> MultimodalModel:
    """Build the fusion and join everything to one model."""
    part = payload["fusion"]
    torch.manual_seed(derive_seed("missing", payload["cell_id"]))
    missing = make_filler(part["missing_policy"], _dims(encoders))
    torch.manual_seed(derive_seed("fusion", payload["cell_id"]))
    fusion = call_factory(part, warnings, _dims(encoders), tasks)
    if not isinstance(fusion, nn.Module):
        raise ContractError(f"fusion {part['ref']} must return an nn.Module, got {type(fusion).__name__}")
    return MultimodalModel(
        encoders,
        {name: encoder["layout"] for name, encoder in payload["encoders"].items()},
        fusion,
        tasks,
        level=part["level"],
        accepts=part["accepts"],
        unimodal_heads=bool(getattr(objective, "needs_unimodal_heads", False)),
        dropout=dropout,
        missing=missing,
    )


def _dims(encoders: Mapping[str, nn.Module]) -> dict[str, Any]:
    return {name: encoder_dim(name, encoder) for name, encoder in encoders.items()}


def call_factory(part: Mapping[str, Any], warnings: list[str], *arguments: Any) -> Any:
    """Call a plugin's factory so that the parts built after it do not feel what it did to global settings."""
    told = {} if part["target"] is None else {"target": part["target"]}
    if part.get("takes_tuning"):
        told["tuning"] = part["tuning"]
    with guarded_globals(warnings):
        return load_attribute(part["factory"])(*arguments, **told, **part["options"])


def _read_globals() -> dict[str, Any]:
    return {
        "the working directory": working_directory(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's TF32 setting": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "cuDNN's benchmark mode": torch.backends.cudnn.benchmark,
    }


def _set_tf32(value: tuple[bool, bool]) -> None:
    in_products, torch.backends.cudnn.allow_tf32 = value
    # A plugin's call sets all backends; CUDA's flag alone would then leave torch with two answers, and it refuses both.
    torch.set_float32_matmul_precision("high" if in_products else "highest")


def _set_cudnn_benchmark(value: bool) -> None:
    torch.backends.cudnn.benchmark = value


_RESTORE: Mapping[str, Callable[[Any], Any]] = {
    "the working directory": os.chdir,
    "torch's default dtype": torch.set_default_dtype,
    "torch's number of threads": torch.set_num_threads,
    "torch's deterministic mode": torch.use_deterministic_algorithms,
    "torch's grad mode": torch.set_grad_enabled,
    "torch's TF32 setting": _set_tf32,
    "cuDNN's benchmark mode": _set_cudnn_benchmark,
}


@contextmanager
def guarded_globals(warnings: list[str]) -> Iterator[None]:
    """Put back global settings that a plugin changed, and say so in the record."""
    before = _read_globals()
    try:
        yield
    finally:
        after = _read_globals()
        for what, value in before.items():
            if after[what] != value and value is not None:  # no folder that is gone can be gone back to
                _RESTORE[what](value)
                warnings.append(f"a plugin changed {what} from {value} to {after[what]}; it was put back")
