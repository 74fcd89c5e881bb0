"""`transformers`: speech and sound encoders of the transformers library, from a folder or from the hub's cache."""

from __future__ import annotations

from typing import Any

from mmbench import Modality
from mmbench.errors import Unavailable
from mmbench.pretrained import load_config
from mmbench.spec import Layout
from mmbench.weights import WeightFolder
from mmbench_audio.ast_model import AstPatches
from mmbench_audio.backbone import Backbone, PretrainedAudio
from mmbench_audio.pretrained_files import WEIGHTS
from mmbench_audio.speech import SPEECH_MODELS, SpeechFrames
from mmbench_audio.whisper import WhisperFrames


class TransformerAudio(PretrainedAudio):
    """A pretrained audio encoder of the library: Whisper, AST, or one of the wav2vec 2.0 family.

    Source: Wolf et al. 2019, arXiv:1910.03771; each family's module names its own.

    Args:
        target: Path of a folder, or a name on the hub whose snapshot lies in the hub's cache.
        tuning: "scratch" for fresh weights of the same architecture, anything else for the pretrained ones.

    Raises:
        Unavailable: the folder or its weights are not there or cannot be used.
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, target: str, tuning: str, max_seconds: float, stages: int
    ) -> None:
        folder = WEIGHTS.find(target)
        backbone = _build(load_config(folder), folder, tuning)
        super().__init__(modality, layout, backbone, max_seconds=max_seconds, stages=stages)


def _build(config: Any, folder: WeightFolder, tuning: str) -> Backbone:
    if config.model_type == "whisper":
        return WhisperFrames(config, folder, tuning)
    if config.model_type == "audio-spectrogram-transformer":
        return AstPatches(config, folder, tuning)
    if config.model_type in SPEECH_MODELS:
        return SpeechFrames(config, folder, tuning)
    known = ", ".join(("whisper", "audio-spectrogram-transformer", *SPEECH_MODELS))
    raise Unavailable(f"{folder.path} holds a model of type {config.model_type!r}, which is none of: {known}")
