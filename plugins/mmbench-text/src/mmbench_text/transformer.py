"""`transformers`: any text encoder of the transformers library, from a folder or from the hub's cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.errors import Unavailable, UsageError
from mmbench.features import masked_mean
from mmbench.pretrained import attention_projections, build, drop_pooler, load_config, plain_linears, spread_layers
from mmbench.spec import Layout
from mmbench.weights import WeightFolder
from mmbench_text.pretrained_files import WEIGHTS
from mmbench_text.wordpieces import WordPieces, load_tokenizer

POOLINGS = ("mean", "cls", "last", "max")
#: Models whose config describes two towers, and the class of the one that reads text.
_TEXT_TOWERS = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
    "siglip2": "Siglip2TextModel",
    "siglip2_text_model": "Siglip2TextModel",
}
#: How the sentence-transformers library says in 1_Pooling/config.json how it pools.
_SENTENCE_POOLINGS = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}


class TransformerText(nn.Module):
    """A pretrained text encoder with its own tokenizer.

    A sequence has the last hidden states of all real tokens, the special ones among them. A pyramid has those of
    `stages` layers, evenly spread, the last among them. With `pooling="auto"` the family says how a vector is pooled:

    ======================================================= =====================================================
    family                                                  vector
    ======================================================= =====================================================
    a folder with 1_Pooling/config.json (sentence encoders) as that file says
    CLIP                                                    the end-of-text token, last
    SigLIP                                                  its own head over the last of a fixed number of tokens
    decoders that read from left to right (GPT-2, Llama, …) the last real token
    everything else (BERT, RoBERTa, DeBERTa, T5, …)         the mean over real tokens
    ======================================================= =====================================================

    Of encoder-decoder models only the encoder is used. Any padding number may stand at masked places.

    Source: Wolf et al. 2019, arXiv:1910.03771; pooling: Reimers & Gurevych 2019, arXiv:1908.10084.

    Args:
        target: Path of a folder, or a name on the hub whose snapshot lies in the hub's cache.
        tuning: "scratch" for fresh weights of the same architecture, anything else for the pretrained ones.
        pooling: "auto", or one of "mean", "cls" (the first token), "last", "max".
        max_length: Greatest number of tokens, special ones counted; never more than the model can read.
        stages: How many layers a pyramid has.

    Shapes: int32 (B, T), mask (B, T) or None -> (B, D), (B, T, D), or `stages` of (B, T, D).

    Raises:
        Unavailable: the folder or its weights are not there or cannot be used.
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        target: str,
        tuning: str,
        pooling: str,
        max_length: int,
        stages: int,
    ) -> None:
        super().__init__()
        check_range("max_length", max_length, 2)
        if pooling not in ("auto", *POOLINGS):
            raise UsageError(f"option 'pooling' must be auto, {', '.join(POOLINGS)}; got {pooling!r}")
        folder = WEIGHTS.find(target)
        config = load_config(folder)
        self.layout = layout
        self.model = _build(config, folder, tuning)
        drop_pooler(self.model)
        own = self.model.config
        self.fixed_length = own.model_type.startswith("siglip")
        self.pooling = _pooling(folder, own) if pooling == "auto" else pooling
        if self.fixed_length and not (layout == "vector" and self.pooling == "head"):
            self.model.head = nn.Identity()
        self.padding_number = _padding_number(own)
        self.layers = spread_layers(own.num_hidden_layers, stages) if layout == "pyramid" else ()
        self.feature_dim = own.hidden_size if layout != "pyramid" else (own.hidden_size,) * stages
        self.adapter_targets = attention_projections(self.model)
        tokenizer = load_tokenizer(folder.path)
        limit = min(max_length, _longest(self.model), tokenizer.model_max_length)
        self.max_length = limit
        self.transform = WordPieces.of(folder, max_length=limit, fixed_length=self.fixed_length)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        # What stands beyond the longest text that the model can read is padding.
        numbers, mask = values[:, : self.max_length].long(), None if mask is None else mask[:, : self.max_length]
        if mask is not None:
            numbers = numbers.masked_fill(~mask, self.padding_number)
        given = self.model(
            input_ids=numbers,
            attention_mask=None if mask is None else mask.long(),
            output_hidden_states=self.layout == "pyramid",
        )
        if self.layout == "pyramid":
            tokens = (*(given.hidden_states[layer] for layer in self.layers[:-1]), given.last_hidden_state)
            return Features(tokens, None if mask is None else (mask,) * len(tokens))
        if self.layout == "sequence":
            return Features(given.last_hidden_state, mask)
        if self.pooling == "head":
            return Features(given.pooler_output)
        return Features(pool(given.last_hidden_state, mask, self.pooling))


def pool(tokens: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Join the tokens of each sample to one vector; real tokens come first.

    Shapes: tokens (B, T, D), mask (B, T) or None -> (B, D).
    """
    if pooling == "cls":
        return tokens[:, 0]
    if mask is None:
        return {"mean": lambda: tokens.mean(dim=1), "max": lambda: tokens.amax(dim=1), "last": lambda: tokens[:, -1]}[
            pooling
        ]()
    if pooling == "mean":
        return masked_mean(tokens, mask)
    if pooling == "max":
        return tokens.masked_fill(~mask.unsqueeze(-1), torch.finfo(tokens.dtype).min).amax(dim=1)
    last = (mask.sum(dim=1) - 1).clamp(min=0)  # (B,)
    return tokens.gather(1, last.view(-1, 1, 1).expand(-1, 1, tokens.shape[2])).squeeze(1)


def _build(config: Any, folder: WeightFolder, tuning: str) -> nn.Module:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    if config.model_type in _TEXT_TOWERS:
        tower = getattr(config, "text_config", config)
        return build(getattr(transformers, _TEXT_TOWERS[config.model_type]), tower, folder, tuning)
    config.use_cache = False
    model_class: Any = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None) or MODEL_MAPPING.get(type(config), None)
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    if model_class is None or model_class.main_input_name != "input_ids":
        raise Unavailable(f"{folder.path} holds a model of type {config.model_type!r}, which does not read text")
    model = build(model_class, config, folder, tuning)
    plain_linears(model)
    if config.is_encoder_decoder and "Encoder" not in model_class.__name__:
        encoder: nn.Module = model.get_encoder()
        return encoder
    return model


def _pooling(folder: WeightFolder, config: Any) -> str:
    from transformers.models.auto import modeling_auto

    said = folder.read_json("1_Pooling/config.json")
    if said is not None:
        return _sentence_pooling(folder, said)
    if config.model_type.startswith("siglip"):
        return "head"
    # CLIP's tokenizer ends every text with the token that CLIP pools by, however much of it was cut off.
    left_to_right = (
        config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and not config.is_encoder_decoder
    )
    return "last" if left_to_right or config.model_type.startswith("clip") else "mean"


def _sentence_pooling(folder: WeightFolder, said: dict[str, Any]) -> str:
    """Read both forms of the file: a flag for each mode, or one ``pooling_mode``."""
    if isinstance(said.get("pooling_mode"), str):
        asked = [said["pooling_mode"]]
    else:
        asked = [
            key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for key, value in said.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    if len(asked) == 1 and asked[0] in _SENTENCE_POOLINGS:
        return _SENTENCE_POOLINGS[asked[0]]
    raise UsageError(
        f"{folder.path / '1_Pooling/config.json'} pools by {' and '.join(asked) or 'nothing'}, which mmbench does not; "
        f"choose pooling={'|'.join(POOLINGS)}"
    )


def _padding_number(config: Any) -> int:
    """Return what stands at masked places: RoBERTa and its kin count positions by it."""
    number = getattr(config, "pad_token_id", None)
    return number if isinstance(number, int) and 0 <= number < config.vocab_size else 0


def _longest(model: nn.Module) -> int:
    """Return how many tokens the model has positions for."""
    for name, module in model.named_modules():
        if name.endswith("embeddings.position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin keep the first positions for padding.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    promised = getattr(model.config, "max_position_embeddings", None)
    return promised if isinstance(promised, int) and promised > 0 else 1 << 30
