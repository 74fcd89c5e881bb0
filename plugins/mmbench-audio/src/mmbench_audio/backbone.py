"""What every pretrained audio model is brought to: hidden states of real frames, and their mask."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.pretrained import attention_projections, spread_layers
from mmbench.spec import Layout


@dataclass(frozen=True)
class Hidden:
    """What a pretrained model gives for a batch.

    Attributes:
        layers: Hidden states (B, T, D) before the first layer and after each, the last as the model gives it; or
            that last one alone.
        mask: (B, T) True = real; None when everything is.
        pooled: (B, D) what the family pools to; None where that is the mean over real tokens.
    """

    layers: tuple[Tensor, ...]
    mask: Tensor | None
    pooled: Tensor | None = None


class Backbone(nn.Module):
    """A pretrained model with the transform that feeds it.

    Attributes:
        feature_dim: D, width of its hidden states.
        num_layers: How many layers it has.
        adapter_targets: What LoRA adapts where that is not attention's projections.
    """

    feature_dim: int
    num_layers: int
    adapter_targets: tuple[str, ...] = ()

    @abstractmethod
    def transform(self, max_seconds: float) -> Callable[[Any], Any]:
        """Return the transform from a waveform to what `forward` takes."""

    @abstractmethod
    def forward(self, values: Tensor, mask: Tensor | None, *, all_layers: bool) -> Hidden:
        """Encode a batch; with `all_layers` the hidden states of every layer are wanted."""


class PretrainedAudio(nn.Module):
    """A backbone in one of the three layouts.

    A sequence has the last hidden states of the real frames; a pyramid has those of `stages` layers, evenly spread,
    the last among them; a vector is what the family pools to, else the mean over real frames.

    Args:
        backbone: The model.
        layout: What to give.
        max_seconds: What comes later is cut off; never more than the model can read.
        stages: How many layers a pyramid has.

    Shapes: what the backbone's transform gives, mask (B, …) or None -> (B, D), (B, T, D), or `stages` of (B, T, D).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, backbone: Backbone, *, max_seconds: float, stages: int
    ) -> None:
        super().__init__()
        check_range("max_seconds", max_seconds, 0.01)
        self.layout = layout
        self.model = backbone
        self.layers = spread_layers(backbone.num_layers, stages) if layout == "pyramid" else ()
        width = backbone.feature_dim
        self.feature_dim: int | tuple[int, ...] = (width,) * stages if layout == "pyramid" else width
        self.adapter_targets = backbone.adapter_targets or attention_projections(backbone)
        self.transform = backbone.transform(max_seconds)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        hidden: Hidden = self.model(values, mask, all_layers=self.layout == "pyramid")
        if self.layout == "pyramid":
            tokens = tuple(hidden.layers[layer] for layer in self.layers)
            return Features(tokens, None if hidden.mask is None else (hidden.mask,) * len(tokens))
        if self.layout == "vector" and hidden.pooled is not None:
            return Features(hidden.pooled)
        features = Features(hidden.layers[-1], hidden.mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
