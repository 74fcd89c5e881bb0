"""`transformers`: speech and sound encoders of the transformers library, from a folder or from the hub's cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.errors import Unavailable
from mmbench.pretrained import attention_projections, load_config, spread_layers
from mmbench.spec import Layout
from mmbench.weights import WeightFolder
from mmbench_audio.pcm import Pcm
from mmbench_audio.pretrained_files import find
from mmbench_audio.whisper import WhisperFrames


class TransformerAudio(nn.Module):
    """A pretrained audio encoder that reads waveforms at its own rate.

    A sequence has the last hidden states of the real frames; a pyramid has those of `stages` layers, evenly spread,
    the last among them; a vector is the mean over real frames.

    Source: Wolf et al. 2019, arXiv:1910.03771; each family's module names its own.

    Args:
        target: Path of a folder, or a name on the hub whose snapshot lies in the hub's cache.
        tuning: "scratch" for fresh weights of the same architecture, anything else for the pretrained ones.
        max_seconds: What comes later is cut off; never more than the model can read.
        stages: How many layers a pyramid has.

    Shapes: int16 (B, L), mask (B, L) or None -> (B, D), (B, T, D), or `stages` of (B, T, D).

    Raises:
        Unavailable: the folder or its weights are not there or cannot be used.
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, target: str, tuning: str, max_seconds: float, stages: int
    ) -> None:
        super().__init__()
        check_range("max_seconds", max_seconds, 0.01)
        folder = find(target)
        self.layout = layout
        self.model = _build(load_config(folder), folder, tuning)
        self.layers = spread_layers(self.model.num_layers, stages) if layout == "pyramid" else ()
        width = self.model.feature_dim
        self.feature_dim = (width,) * stages if layout == "pyramid" else width
        self.adapter_targets = attention_projections(self.model)
        self.transform = Pcm(
            rate=self.model.rate,
            max_seconds=min(max_seconds, self.model.max_seconds),
            min_samples=self.model.min_samples,
        )

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        hidden, mask = self.model(values, mask, all_layers=self.layout == "pyramid")
        if self.layout == "pyramid":
            tokens = tuple(hidden[layer] for layer in self.layers)
            return Features(tokens, None if mask is None else (mask,) * len(tokens))
        features = Features(hidden[-1], mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)


def _build(config: Any, folder: WeightFolder, tuning: str) -> nn.Module:
    if config.model_type == "whisper":
        return WhisperFrames(config, folder, tuning)
    raise Unavailable(f"{folder.path} holds a model of type {config.model_type!r}, which is none of: whisper")
