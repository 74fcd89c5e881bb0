"""wav2vec 2.0, HuBERT, WavLM and UniSpeech of the transformers library, over raw waveforms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench.errors import Unavailable
from mmbench.pretrained import build
from mmbench.weights import WeightFolder
from mmbench_audio.backbone import Backbone, Hidden
from mmbench_audio.pcm import Pcm
from mmbench_audio.speech_convolutions import SpeechConvolutions

#: Classes by model type.
SPEECH_MODELS = {
    "wav2vec2": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "unispeech": "UniSpeechModel",
    "unispeech-sat": "UniSpeechSatModel",
}
# Added to the variance by the library's own processor.
_EPS = 1e-7


class SpeechFrames(Backbone):
    """A self-supervised speech model over raw waveforms; a token every 20 ms.

    Layers are never dropped and spectra never masked while it is trained further: both draw on the host.

    Source: wav2vec 2.0: Baevski et al. 2020, arXiv:2006.11477; HuBERT: Hsu et al. 2021, arXiv:2106.07447; WavLM:
    Chen et al. 2021, arXiv:2110.13900; UniSpeech: Wang et al. 2021, arXiv:2101.07597.

    Shapes: int16 (B, L), mask (B, L) or None -> hidden states (B, T, D), mask (B, T) or None.
    """

    def __init__(self, config: Any, folder: WeightFolder, tuning: str) -> None:
        super().__init__()
        import transformers

        processor = folder.read_json("preprocessor_config.json")
        if processor is None:
            raise Unavailable(f"{folder.path} has no preprocessor_config.json, which says the rate in Hz of its audio")
        self.rate = int(processor.get("sampling_rate", 16_000))
        config.layerdrop = 0.0
        config.apply_spec_augment = False
        config.mask_time_prob = config.mask_feature_prob = 0.0  # or the model makes a parameter that nothing trains
        config.add_adapter = False
        self.model = build(getattr(transformers, SPEECH_MODELS[config.model_type]), config, folder, tuning)
        self.convolutions = SpeechConvolutions(
            self.model.feature_extractor.conv_layers, normalise=bool(processor.get("do_normalize", True)), eps=_EPS
        )
        # What the model would do with the waveform is done before, with the mask.
        self.model.feature_extractor = nn.Identity()
        if config.model_type == "wavlm":
            # Its attention hands weights to torch's own function and never calls the projections.
            self.adapter_targets = ("intermediate_dense", "output_dense")
        self.num_layers = config.num_hidden_layers
        self.feature_dim = config.hidden_size

    def transform(self, max_seconds: float) -> Pcm:
        return Pcm(rate=self.rate, max_seconds=max_seconds, min_samples=self.convolutions.min_samples)

    def forward(self, values: Tensor, mask: Tensor | None, *, all_layers: bool) -> Hidden:
        frames, real = self.convolutions(values, mask)
        given = self.model(
            frames.transpose(1, 2),
            attention_mask=None if mask is None else mask.long(),
            output_hidden_states=all_layers,
        )
        last = given.last_hidden_state
        return Hidden((*given.hidden_states[:-1], last) if all_layers else (last,), real)
