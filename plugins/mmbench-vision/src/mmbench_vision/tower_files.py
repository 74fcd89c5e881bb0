"""Where the weights of the transformers library's image models are, for planning and for `mmbench prepare`."""

from __future__ import annotations

from typing import Any

from mmbench.spec import AssetSpec, EncoderInfo
from mmbench.weights import WeightFolder, find_folder, hub_assets

PROCESSOR = "preprocessor_config.json"


def find(target: str) -> WeightFolder:
    """Return the folder that a target of `transformers` means.

    Raises:
        Unavailable: nothing is there.
    """
    return find_folder(target, reference="transformers/", modality="image")


def describe(target: str, *, tuning: str, **options: Any) -> EncoderInfo:
    """Say whether config and weights are at hand, and what identifies them.

    Raises:
        Unavailable: they are not, or cannot be used.
    """
    folder = find(target)
    folder.config()
    folder.weights()
    return EncoderInfo(fingerprint=folder.fingerprint((PROCESSOR,)), licence=folder.licence())


def prepare(target: str, *, tuning: str, **options: Any) -> tuple[AssetSpec, ...]:
    """Return what to fetch for a target: nothing for a folder."""
    return hub_assets(target, ("config.json", "README.md", PROCESSOR), tuning=tuning)
