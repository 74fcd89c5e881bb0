"""`frames`: any image encoder over the frames of a video, and what joins them over time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import BidirectionalRNN, TransformerBlock, check_range, sinusoidal_positions
from mmbench.columns import transform_key
from mmbench.errors import ContractError
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench.spec_values import to_json
from mmbench_video.clips import evenly_spaced
from mmbench_video.inner import build, check_pool, find

#: Layers whose training statistics mix the samples of a batch.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class EachFrame:
    """Keep evenly spaced frames and give each to an image transform.

    Attributes:
        num_frames: At most so many frames; a shorter video keeps all of its own.
        image: What the image transform does, in words: what names this transform.
        transform: uint8 (C, H, W) -> an array of always the same shape.
    """

    version: ClassVar[str] = "1"

    num_frames: int
    image: str
    transform: Callable[[Any], Any] = field(repr=False, compare=False)

    def __call__(self, video: NDArray[np.uint8]) -> NDArray[Any]:
        """Shapes: uint8 (T, C, H, W) -> (min(T, num_frames), …).

        Raises:
            ContractError: the image transform gives frames of one video different shapes.
        """
        rows = [np.asarray(self.transform(frame)) for frame in evenly_spaced(video, self.num_frames)]
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            a, b = sorted(shapes)[:2]
            raise ContractError(f"frames needs images of one shape, but its image encoder's transform gave {a}, {b}")
        return np.stack(rows)


class VideoFrames(nn.Module):
    """An image encoder over frames; over time the mean, a bidirectional LSTM, or a transformer.

    ========= ============================================ =========================
    pool      tokens, one per frame                        width
    ========= ============================================ =========================
    mean      what the image encoder gives                 the image encoder's
    lstm      states of a bidirectional LSTM               2 `width`
    attention after a transformer over the frames          `width`
    ========= ============================================ =========================

    A sequence is these tokens, a vector their mean over the real frames. With `mean` the encoder has no weights but the
    image encoder's, and the order of frames means nothing.

    Frozen, the whole encoder is: its tokens or their mean are computed once and kept like any frozen encoder's. Under
    ``tuning=adapter`` the weights over time, which are new, are trained beside the adapters.

    Source: Ng et al. 2015, arXiv:1503.08909 (pooling and LSTM over the features of frames); attention: Vaswani et al.
    2017, arXiv:1706.03762.

    Args:
        target: Reference of the image encoder, with its options: ``cnn``, ``timm/resnet18``, ``cnn[width=32]``.
        tuning: "scratch" for fresh weights of the image encoder, anything else for pretrained ones.
        pool: "mean", "lstm" or "attention".
        num_frames: Most frames that are looked at, evenly spaced.
        width: Of the LSTM each way, or of the transformer.
        depth: Layers of either.
        num_heads: Of the transformer.
        dropout: Before and between the layers of either, and within the transformer's.

    Shapes: (B, T, …) as the image encoder's transform gives, mask (B, T) -> (B, D), or (B, T, D) with its mask.

    Raises:
        Unavailable: the image encoder's weights are not at hand.
        UsageError: there is no such image encoder, it cannot be trained that way, or an option is out of range.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        target: str,
        tuning: str,
        pool: str,
        num_frames: int,
        width: int,
        depth: int,
        num_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_pool(pool, tuning)
        check_range("num_frames", num_frames, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        facts = {name: modality.facts[name] for name in ("channels", "size")}
        reference = find(target, tuning)
        self.image = build(reference, tuning, Modality(name=modality.name, kind="image", facts=facts))
        identity = [reference.entry.ref, reference.entry.version, reference.target, to_json(reference.options), facts]
        self.transform = EachFrame(
            num_frames=num_frames,
            image=transform_key(self.image, fallback=json.dumps([*identity, tuning])),
            transform=self.image.transform,
        )
        self.dropout = nn.Dropout(dropout)
        #: What no pretrained weights exist for: trained whatever becomes of the rest.
        self.fresh_parts = () if pool == "mean" else ("over_time",)
        self.over_time, self.feature_dim = _over_time(pool, self.image.feature_dim, width, depth, num_heads, dropout)
        self.adapter_targets = getattr(self.image, "adapter_targets", ()) or tuple(
            f"image.{name}" for name, module in self.image.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
        )
        self._mixes_frames = any(isinstance(module, _BATCH_NORMS) for module in self.image.modules())

    def fit(self, values: Any, mask: Any = None) -> None:
        """Show the image encoder the real frames of the training videos, where it wants to see images."""
        fit = getattr(self.image, "fit", None)
        if callable(fit):
            values = torch.as_tensor(values)
            fit(values.flatten(0, 1) if mask is None else values[torch.as_tensor(mask)], None)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        encoded = self._encode(values, mask)
        tokens = without_padding(encoded.tensor, mask)  # (B, T, D of the image encoder)
        if self.over_time is not None:
            tokens = self.over_time(self.dropout(tokens), mask)
        features = Features(tokens, mask, encoded.losses)
        return features if self.layout == "sequence" else Features(features.to_vector().values, None, encoded.losses)

    def _encode(self, values: Tensor, mask: Tensor | None) -> Features:
        """Give every frame to the image encoder: (B, T, …) -> (B, T, D)."""
        if mask is not None and self.training and self._mixes_frames:
            # Batch normalisation would count padding as frames. Choosing costs a stall of the device, so only here.
            given = self._images(values[mask])
            tokens = given.tensor.new_zeros(*mask.shape, given.tensor.shape[-1])
            return Features(tokens.masked_scatter(mask.unsqueeze(-1), given.tensor), None, given.losses)
        given = self._images(values.flatten(0, 1))
        return Features(given.tensor.unflatten(0, values.shape[:2]), None, given.losses)

    def _images(self, images: Tensor) -> Features:
        """Encode images to vectors: (N, …) -> (N, D)."""
        given = self.image(images, None)
        return (Features(given) if isinstance(given, Tensor) else given).to_vector()


class _Recurrent(nn.Module):
    """States of a bidirectional LSTM: tokens (B, T, dim), mask (B, T) or None -> (B, T, 2 * width)."""

    def __init__(self, dim: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        # Frozen encoders that were pretrained give features of any scale.
        self.norm = nn.LayerNorm(dim)
        self.rnn = BidirectionalRNN("lstm", dim, width, num_layers=depth, dropout=dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        states: Tensor = self.rnn(without_padding(self.norm(tokens), mask), mask)
        return states


class _Attentive(nn.Module):
    """Transformer layers over frames in their order: tokens (B, T, dim), mask (B, T) or None -> (B, T, width).

    Each frame is embedded together with its two neighbours, so that what moves between them is seen from the start.
    """

    def __init__(self, dim: int, width: int, depth: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.norm_input = nn.LayerNorm(dim)
        self.embed = nn.Conv1d(dim, width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, mlp_dim=2 * width, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        tokens = without_padding(self.norm_input(tokens), mask)
        tokens = self.embed(tokens.transpose(1, 2)).transpose(1, 2)
        tokens = tokens + sinusoidal_positions(tokens.shape[1], self.width, device=tokens.device)
        for block in self.blocks:
            tokens = block(tokens, mask)
        normalised: Tensor = self.norm(tokens)
        return normalised


def _over_time(
    pool: str, dim: int, width: int, depth: int, num_heads: int, dropout: float
) -> tuple[nn.Module | None, int]:
    """Return what the tokens of frames go through, and their width afterwards."""
    if pool == "lstm":
        return _Recurrent(dim, width, depth, dropout), 2 * width
    if pool == "attention":
        return _Attentive(dim, width, depth, num_heads, dropout), width
    return None, dim
