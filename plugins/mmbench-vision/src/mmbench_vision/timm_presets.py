"""A few of timm's models under names of their own, each with one set of published weights; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from mmbench import EncoderSpec
from mmbench_vision import timm_files

#: By our name: timm's name of architecture and weights, the paper, and the licence of the weights.
PRESETS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "resnet18": ("resnet18.a1_in1k", "He et al. 2015, arXiv:1512.03385", "Apache-2.0"),
        "resnet50": ("resnet50.a1_in1k", "He et al. 2015, arXiv:1512.03385", "Apache-2.0"),
        "vgg11": ("vgg11.tv_in1k", "Simonyan & Zisserman 2014, arXiv:1409.1556", "BSD-3-Clause"),
        "mobilenetv3-small": (
            "mobilenetv3_small_100.lamb_in1k",
            "Howard et al. 2019, arXiv:1905.02244",
            "Apache-2.0",
        ),
        "convnext-atto": ("convnext_atto.d2_in1k", "Liu et al. 2022, arXiv:2201.03545", "Apache-2.0"),
        "vit-tiny-patch16": (
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
            "Dosovitskiy et al. 2020, arXiv:2010.11929; Steiner et al. 2021, arXiv:2106.10270",
            "Apache-2.0",
        ),
        "dinov2-small": ("vit_small_patch14_dinov2.lvd142m", "Oquab et al. 2023, arXiv:2304.07193", "Apache-2.0"),
    }
)


def specs() -> list[EncoderSpec]:
    """Return a descriptor for each preset."""
    return [
        EncoderSpec(
            name=name,
            kinds=("image",),
            layouts=("vector", "sequence", "pyramid"),
            tunings=("frozen", "finetune", "adapter"),  # for fresh weights there is timm/NAME
            describe=f"mmbench_vision.timm_presets:describe_{_word(name)}",
            prepare=f"mmbench_vision.timm_presets:prepare_{_word(name)}",
            factory=f"mmbench_vision.timm_model:{_word(name)}",
            defaults={"size": 0, "stages": 3},
            version="1",
            summary=f"{target} of timm",
            paper=paper,
            licence=licence,
            requires=("timm",),
            in_all=False,
        )
        for name, (target, paper, licence) in PRESETS.items()
    ]


def target_of(word: str) -> str | None:
    """Return the target of the preset that an attribute's name ends with: "vit_tiny_patch16" -> timm's name."""
    return next((target for name, (target, _, _) in PRESETS.items() if _word(name) == word), None)


def __getattr__(name: str) -> Callable[..., Any]:
    verb, _, word = name.partition("_")
    target = target_of(word)
    if target is None or verb not in ("describe", "prepare"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(getattr(timm_files, verb), target)


def _word(name: str) -> str:
    return name.replace("-", "_")
