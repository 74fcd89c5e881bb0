"""`steps`: the steps of a sequence, each brought to one width, and nothing more."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range, span_means
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_sequence.steps import Steps


class EmbeddedSteps(nn.Module):
    """Standardised steps through one linear layer.

    Nothing here looks beyond a step or bends: all understanding is left to what reads the tokens, as in early fusion.
    A vector holds the means of `num_spans` equal spans of the steps side by side, so that it has one width for any
    length and still knows early from late.

    Shapes: float32 (B, T, F), mask (B, T) -> (B, T, token_dim) with its mask, or (B, num_spans * token_dim).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(self, modality: Modality, layout: Layout, *, token_dim: int, num_spans: int, max_length: int) -> None:
        super().__init__()
        check_range("token_dim", token_dim, 1)
        check_range("num_spans", num_spans, 1)
        check_range("max_length", max_length, 1)
        self.layout = layout
        self.num_spans = num_spans
        self.feature_dim = token_dim * (num_spans if layout == "vector" else 1)
        self.transform = Steps(max_length=max_length)
        num_features = modality.facts["num_features"]
        self.standardise = Standardiser(num_features)
        self.embed = nn.Linear(num_features, token_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each feature over all training steps."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        steps = without_padding(self.standardise(values), mask)
        tokens = self.embed(steps)  # (B, T, token_dim)
        if self.layout == "vector":
            return Features(span_means(tokens, mask, self.num_spans).flatten(1))
        return Features(tokens, mask)
