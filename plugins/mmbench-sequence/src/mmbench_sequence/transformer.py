"""`transformer`: a small transformer over a sequence of features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, TransformerBlock, check_range, sinusoidal_positions
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_sequence.steps import Steps


class SequenceTransformer(nn.Module):
    """Transformer over standardised steps with sinusoidal positions; a vector is the mean over steps.

    Source: Vaswani et al. 2017, arXiv:1706.03762, the encoder, with normalisation first.

    A pyramid has the steps after every layer: `depth` levels, all but the last of `width`; its last level is the
    sequence.

    Shapes: float32 (B, T, F), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

    Raises:
        UsageError: an option is out of range, or `num_heads` does not divide `width`.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        feature_dim: int,
        width: int,
        depth: int,
        num_heads: int,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("max_length", max_length, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim: int | tuple[int, ...] = feature_dim
        if layout == "pyramid":
            self.feature_dim = (*[width] * (depth - 1), feature_dim)
        self.width = width
        self.transform = Steps(max_length=max_length)
        num_features = modality.facts["num_features"]
        self.standardise = Standardiser(num_features)
        self.embed = nn.Linear(num_features, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, mlp_dim=2 * width, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each feature over all training steps."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        # Attention weights of padding are zero, but zero times NaN is NaN.
        steps = without_padding(self.standardise(values), mask)
        positions = sinusoidal_positions(steps.shape[1], self.width, device=steps.device)
        tokens = self.dropout(self.embed(steps) + positions)  # (B, T, width)
        early = []
        for block in self.blocks:
            tokens = block(tokens, mask)
            early.append(tokens)
        tokens = self.project(self.norm(tokens))
        if self.layout == "pyramid":
            return Features((*early[:-1], tokens), None if mask is None else (mask,) * len(early))
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
