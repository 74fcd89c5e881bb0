"""How a model is run while its cost is measured: number format, compilation and layout in memory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mmbench.errors import UsageError, did_you_mean

Precision: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
Compile: TypeAlias = Literal["none", "default", "reduce-overhead"]
MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
COMPILES: tuple[Compile, ...] = get_args(Compile)
MEMORY_FORMATS: tuple[MemoryFormat, ...] = get_args(MemoryFormat)
#: Version of the measuring code, in the key of every cost. Increase it with each change to `mmbench.profiling`, or to
#: how training is timed, that moves figures of an unchanged model: costs of different versions are never compared.
MEASURING_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run a model.

    Attributes:
        precision: "fp32", "tf32" (NVIDIA's tensor cores on fp32 numbers), "bf16" and "fp16" by autocast, "int8" by
            dynamic quantisation, for inference only.
        compile: "none", or the mode of `torch.compile` for encoders and fusion ("reduce-overhead" is CUDA graphs).
        memory_format: "contiguous", or "channels_last" for images.
    """

    precision: Precision = "fp32"
    compile: Compile = "none"
    memory_format: MemoryFormat = "contiguous"

    @property
    def condition(self) -> str:
        """Return what a row's `condition` says of it: "clean" for the plain way.

        >>> Variant(precision="bf16", compile="default").condition, Variant().condition
        ('bf16+compile:default', 'clean')
        """
        words = [
            self.precision if self.precision != "fp32" else "",
            f"compile:{self.compile}" if self.compile != "none" else "",
            self.memory_format if self.memory_format != "contiguous" else "",
        ]
        return "+".join(filter(None, words)) or "clean"

    def to_json(self) -> dict[str, str]:
        """Return it as plain JSON data."""
        return {"precision": self.precision, "compile": self.compile, "memory_format": self.memory_format}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Variant:
        """Read what `to_json` wrote."""
        return cls(**data)


def at_batch_size(condition: str, batch_size: int) -> str:
    """Return the condition of a row of the batch-size sweep.

    >>> at_batch_size("clean", 8), at_batch_size("bf16", 8)
    ('batch:8', 'bf16+batch:8')
    """
    return f"batch:{batch_size}" if condition == "clean" else f"{condition}+batch:{batch_size}"


def variants(precisions: Sequence[str], compiles: Sequence[str], memory_formats: Sequence[str]) -> tuple[Variant, ...]:
    """Return the product of three axes, the first value of each first.

    Raises:
        UsageError: a word is not one of its axis.
    """
    axes = (
        ("--precision", precisions, PRECISIONS),
        ("--compile", compiles, COMPILES),
        ("--memory-format", memory_formats, MEMORY_FORMATS),
    )
    for flag, given, known in axes:
        for word in given:
            if word not in known:
                raise UsageError(
                    f"{flag} {word}: there is {', '.join(known)}; several are joined by commas."
                    f"{did_you_mean(word, known)}"
                )
    chosen = (dict.fromkeys(given) for _, given, _ in axes)
    return tuple(
        Variant(precision=precision, compile=mode, memory_format=layout)  # type: ignore[arg-type]
        for precision, mode, layout in itertools.product(*chosen)
    )
