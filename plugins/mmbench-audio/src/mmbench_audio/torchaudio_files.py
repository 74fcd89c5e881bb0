"""Where the weights of torchaudio's pipelines are, for planning and for `mmbench prepare`; no torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmbench.config import data_dir
from mmbench.errors import Unavailable, UsageError, did_you_mean
from mmbench.spec import AssetSpec, EncoderInfo
from mmbench.weights import content_hash

#: Checkpoint by pipeline: those that were trained to represent speech, not yet to recognise words.
CHECKPOINTS: Mapping[str, str] = MappingProxyType(
    {
        "HUBERT_BASE": "hubert_fairseq_base_ls960.pth",
        "HUBERT_LARGE": "hubert_fairseq_large_ll60k.pth",
        "HUBERT_XLARGE": "hubert_fairseq_xlarge_ll60k.pth",
        "WAV2VEC2_BASE": "wav2vec2_fairseq_base_ls960.pth",
        "WAV2VEC2_LARGE": "wav2vec2_fairseq_large_ls960.pth",
        "WAV2VEC2_LARGE_LV60K": "wav2vec2_fairseq_large_lv60k.pth",
        "WAV2VEC2_XLSR53": "wav2vec2_fairseq_large_xlsr53.pth",
        "WAV2VEC2_XLSR_300M": "wav2vec2_xlsr_300m.pth",
        "WAV2VEC2_XLSR_1B": "wav2vec2_xlsr_1b.pth",
        "WAV2VEC2_XLSR_2B": "wav2vec2_xlsr_2b.pth",
    }
)
_URL = "https://download.pytorch.org/torchaudio/models/"
_OWN_FOLDER = "mmbench-audio--torchaudio"


def find(target: str) -> Path:
    """Return the checkpoint of a pipeline: in torch hub's cache, or where `mmbench prepare` puts it.

    Raises:
        Unavailable: it is in neither.
        UsageError: there is no such pipeline.
    """
    name = _checkpoint(target)
    for folder in (data_dir() / _OWN_FOLDER, _torch_home() / "hub" / "checkpoints"):
        file = folder / name
        if file.is_file() and file.stat().st_size:
            return file
    raise Unavailable(
        f"the weights of torchaudio/{target} are not at hand: run `mmbench prepare -e audio=torchaudio/{target}`, "
        f"or put {name} into {_torch_home() / 'hub' / 'checkpoints'}"
    )


def describe(target: str, *, tuning: str, **options: Any) -> EncoderInfo:
    """Say whether a pipeline's checkpoint is at hand, and what identifies it.

    Raises:
        Unavailable: it is not.
        UsageError: there is no such pipeline.
    """
    file = find(target)
    return EncoderInfo(fingerprint=content_hash(file.parent, [file]))


def prepare(target: str, *, tuning: str, **options: Any) -> tuple[AssetSpec, ...]:
    """Return what to fetch for a pipeline.

    Raises:
        UsageError: there is no such pipeline.
    """
    name = _checkpoint(target)
    return (AssetSpec(name=name, url=_URL + name, licence="MIT"),)


def _checkpoint(target: str) -> str:
    if target not in CHECKPOINTS:
        hint = did_you_mean(target, CHECKPOINTS)
        raise UsageError(f"torchaudio/{target}: there is {', '.join(CHECKPOINTS)}.{hint}")
    return CHECKPOINTS[target]


def _torch_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser()
