"""`torchaudio`: the self-supervised speech models of torchaudio's pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmbench import Modality
from mmbench.errors import Unavailable
from mmbench.spec import Layout
from mmbench_audio.backbone import Backbone, Hidden, PretrainedAudio
from mmbench_audio.pcm import Pcm
from mmbench_audio.speech_convolutions import SpeechConvolutions
from mmbench_audio.torchaudio_files import find

# Added to the waveform's variance by the library's own layer normalisation.
_EPS = 1e-5


class PipelineFrames(Backbone):
    """wav2vec 2.0 or HuBERT of a pipeline, over raw waveforms; a token every 20 ms.

    Source: Yang et al. 2021, arXiv:2110.15018; wav2vec 2.0: Baevski et al. 2020, arXiv:2006.11477; HuBERT: Hsu et al.
    2021, arXiv:2106.07447.

    Shapes: int16 (B, L), mask (B, L) or None -> hidden states (B, T, D), mask (B, T) or None.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchaudio.pipelines

        file = find(name)
        bundle = getattr(torchaudio.pipelines, name)
        # The file is there, so the library's downloader only reads it: as tensors, never as pickled code.
        options = {"model_dir": str(file.parent), "file_name": file.name, "weights_only": True, "map_location": "cpu"}
        try:
            loaded: Any = bundle.get_model(dl_kwargs=options)
        except Exception as error:  # a damaged file raises what its reader happens to
            raise Unavailable(f"{file} cannot be read as the checkpoint of {name}: {error}") from error
        normalise = hasattr(loaded, "normalize_waveform") and bool(loaded.normalize_waveform)
        model = getattr(loaded, "model", loaded).float()
        self.encoder = model.encoder
        self.encoder.transformer.layer_drop = 0.0  # draws on the host, and trains layers by turns
        self.convolutions = SpeechConvolutions(model.feature_extractor.conv_layers, normalise=normalise, eps=_EPS)
        self.rate = int(bundle.sample_rate)
        self.num_layers = len(self.encoder.transformer.layers)
        self.feature_dim = int(self.encoder.transformer.layer_norm.normalized_shape[0])

    def transform(self, max_seconds: float) -> Pcm:
        return Pcm(rate=self.rate, max_seconds=max_seconds, min_samples=self.convolutions.min_samples)

    def forward(self, values: Tensor, mask: Tensor | None, *, all_layers: bool) -> Hidden:
        frames, real = self.convolutions(values, mask)
        lengths = None if real is None else real.sum(dim=1)
        if not all_layers:
            return Hidden((self.encoder(frames, lengths),), real)
        layers: list[Tensor] = self.encoder.extract_features(frames, lengths)
        transformer = self.encoder.transformer
        last = layers[-1] if transformer.layer_norm_first else transformer.layer_norm(layers[-1])
        return Hidden((torch.zeros_like(last), *layers[:-1], last), real)


class TorchaudioSpeech(PretrainedAudio):
    """A pipeline's model with its weights, as torchaudio names them: ``torchaudio/WAV2VEC2_BASE``.

    Source: Yang et al. 2021, arXiv:2110.15018.

    Args:
        target: Name of the pipeline.
        tuning: All of them want the pretrained weights.

    Raises:
        Unavailable: the checkpoint is not at hand or damaged.
        UsageError: there is no such pipeline, or an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, target: str, tuning: str, max_seconds: float, stages: int
    ) -> None:
        super().__init__(modality, layout, PipelineFrames(target), max_seconds=max_seconds, stages=stages)
