"""`transformers`: image towers of the transformers library, from a folder or from the hub's cache."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.errors import Unavailable, UsageError
from mmbench.pretrained import attention_projections, build, drop_pooler, load_config, spread_layers
from mmbench.spec import Layout
from mmbench.weights import WeightFolder
from mmbench_vision.pixels import with_channels
from mmbench_vision.tower_files import PROCESSOR, WEIGHTS

POOLINGS = ("auto", "cls", "mean")
#: Models whose config describes two towers, and the class of the one that sees.
_VISION_TOWERS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
#: Normalisations of the pooled vector alone, which a model that is not asked for it has no use for.
_POOLED_NORMS = {
    "CLIPVisionModel": "post_layernorm",
    "ConvNextModel": "layernorm",
    "ConvNextV2Model": "layernorm",
}


@dataclass(frozen=True)
class ProcessedPixels:
    """Resize and crop as the weights' own image processor does; bytes, not yet normalised.

    Attributes:
        processor: All settings of the processor, as JSON: what names this transform, wherever the folder lies.
        channels: 1 (grey) or 3 (RGB) of the result.
        folder: Where the processor is.
    """

    version: ClassVar[str] = "1"

    processor: str
    channels: int
    folder: Path = field(repr=False, compare=False)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Shapes: uint8 (1 or 3, H, W) -> uint8 (channels, H', W')."""
        given = _processor(self.folder)(
            torch.tensor(with_channels(image, 3)),
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_first",
            return_tensors="pt",
        )
        pixels: NDArray[np.uint8] = given["pixel_values"][0].to(torch.uint8).numpy()
        return pixels[: self.channels]  # made of grey, all three are equal


class TransformerImage(nn.Module):
    """A pretrained image tower with its own processor.

    A vector is what the family itself pools by (CLIP and DINOv2: the class token after the last normalisation; SigLIP:
    its attention head; BEiT, Swin, ConvNeXt: the mean over patches; ViT, DeiT: the class token); a sequence has the
    last hidden states of the patches, without class and register tokens; a pyramid has those of `stages` layers, evenly
    spread, the last among them.

    Grey images are kept grey on the way and given three times to the model.

    Source: Wolf et al. 2019, arXiv:1910.03771; CLIP: Radford et al. 2021, arXiv:2103.00020; DINOv2: Oquab et al. 2023,
    arXiv:2304.07193.

    Args:
        target: Path of a folder, or a name on the hub whose snapshot lies in the hub's cache.
        tuning: "scratch" for fresh weights of the same architecture, anything else for the pretrained ones.
        pooling: "auto", "cls" (the first token) or "mean" (over the patches).
        stages: How many layers a pyramid has.

    Shapes: uint8 (B, C, H, W) -> (B, D), (B, T, D), or `stages` of (B, T, D).

    Raises:
        Unavailable: the folder, its weights or its processor are not there or cannot be used.
        UsageError: an option is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, modality: Modality, layout: Layout, *, target: str, tuning: str, pooling: str, stages: int
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UsageError(f"option 'pooling' must be one of {', '.join(POOLINGS)}; got {pooling!r}")
        folder = WEIGHTS.find(target)
        config = load_config(folder)
        tower = getattr(config, "vision_config", config)
        self.layout = layout
        self.pooling = pooling
        self.own_pooling = layout == "vector" and pooling == "auto"
        self.model = _build(config, tower, folder, tuning, own_pooling=self.own_pooling)
        if not (folder.path / PROCESSOR).is_file():
            raise Unavailable(f"{folder.path} has no {PROCESSOR}, which says how images are resized and normalised")
        processor = _processor(folder.path)
        settings = {key: value for key, value in processor.to_dict().items() if not key.startswith("_")}
        self.transform = ProcessedPixels(
            processor=json.dumps(settings, sort_keys=True, default=str),
            channels=1 if modality.facts["channels"] == 1 else 3,
            folder=folder.path,
        )
        mean, std = (0.0,) * 3, (1.0,) * 3
        if processor.do_normalize:
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        full_scale = 1 / processor.rescale_factor if processor.do_rescale else 1.0
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * full_scale)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * full_scale)
        self.layers: tuple[int, ...] = ()
        width = int(getattr(tower, "hidden_size", 0) or tower.hidden_sizes[-1])
        self.feature_dim: int | tuple[int, ...] = width
        if layout == "pyramid":
            if not isinstance(getattr(tower, "num_hidden_layers", None), int) or hasattr(tower, "depths"):
                raise Unavailable(f"models of type {tower.model_type!r} give no pyramid here; timm's do: timm/NAME")
            self.layers = spread_layers(tower.num_hidden_layers, stages)
            self.feature_dim = (width,) * stages
        self.patch = getattr(tower, "patch_size", None)
        self.adapter_targets = attention_projections(self.model)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        pixels = (values.to(self.mean.dtype) - self.mean) / self.std  # grey is repeated over the channels here
        given = self.model(pixel_values=pixels, output_hidden_states=self.layout == "pyramid")
        last = given.last_hidden_state
        if self.layout == "pyramid":
            layers = [*(given.hidden_states[layer] for layer in self.layers[:-1]), last]
            return Features(tuple(self._patches(layer, pixels) for layer in layers))
        if self.layout == "sequence":
            return Features(self._patches(last, pixels))
        if self.pooling == "mean":
            return Features(self._patches(last, pixels).mean(dim=1))
        pooled = given.get("pooler_output") if self.own_pooling else None
        return Features(last[:, 0] if pooled is None else pooled.flatten(1))

    def _patches(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Return the tokens of the patches: (B, T, D) or (B, D, H, W) -> (B, T', D)."""
        if tokens.dim() == 4:
            return tokens.flatten(2).transpose(1, 2)
        if not isinstance(self.patch, int):
            return tokens
        num_patches = (pixels.shape[2] // self.patch) * (pixels.shape[3] // self.patch)
        # What pools the patches (class, distillation and register tokens) stands before them. Models that merge
        # patches have fewer tokens than that, and no such ones.
        return tokens[:, max(tokens.shape[1] - num_patches, 0) :]


def _build(config: Any, tower: Any, folder: WeightFolder, tuning: str, *, own_pooling: bool) -> nn.Module:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if config.model_type in _VISION_TOWERS:
        model_class: Any = getattr(transformers, _VISION_TOWERS[config.model_type])
    else:
        model_class = MODEL_MAPPING.get(type(tower), None)
    if model_class is None or isinstance(model_class, tuple) or model_class.main_input_name != "pixel_values":
        raise Unavailable(f"{folder.path} holds a model of type {config.model_type!r}, which is no image tower")
    if not own_pooling and hasattr(tower, "vision_use_head"):
        tower.vision_use_head = False
    model = build(model_class, tower, folder, tuning)
    # ViT's pooler ends its first pretraining; few checkpoints have it and fewer use it.
    if not own_pooling or hasattr(getattr(model, "pooler", None), "dense"):
        drop_pooler(model)
    if not own_pooling and model_class.__name__ in _POOLED_NORMS:
        setattr(model, _POOLED_NORMS[model_class.__name__], nn.Identity())
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "mask_token":
            parameter.requires_grad_(False)
    return model


@lru_cache(maxsize=8)
def _processor(folder: Path) -> Any:
    """Return the image processor of a folder; no network, no code of the folder's own."""
    import transformers

    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise Unavailable(f"{folder / PROCESSOR} cannot be read as an image processor: {error}") from error
