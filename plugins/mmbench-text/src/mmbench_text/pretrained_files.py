"""Where the weights of `transformers` text encoders are, for planning and for `mmbench prepare`; no torch here."""

from __future__ import annotations

from typing import Any

from mmbench.spec import AssetSpec, EncoderInfo
from mmbench.weights import WeightFolder, find_folder, hub_assets

#: What a tokenizer may be made of.
TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.bpe",
    "*.codes",
)
#: What says how a sentence encoder pools its tokens, and how many it reads.
POOLING_FILES = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")


def find(target: str) -> WeightFolder:
    """Return the folder that a target means.

    Raises:
        Unavailable: nothing is there.
    """
    return find_folder(target, reference="transformers/", modality="text")


def describe(target: str, *, tuning: str, **options: Any) -> EncoderInfo:
    """Say whether config and weights are at hand, and what identifies them and the tokenizer.

    Raises:
        Unavailable: they are not, or cannot be used.
    """
    folder = find(target)
    folder.config()
    folder.weights()
    return EncoderInfo(
        fingerprint=folder.fingerprint((*TOKENIZER_FILES, *POOLING_FILES)),
        licence=folder.licence(),
    )


def prepare(target: str, *, tuning: str, **options: Any) -> tuple[AssetSpec, ...]:
    """Return what to fetch for a target: nothing for a folder."""
    return hub_assets(target, ("config.json", "README.md", *TOKENIZER_FILES, *POOLING_FILES), tuning=tuning)
