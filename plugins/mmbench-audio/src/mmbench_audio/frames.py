"""`frames`: the frames of a log-mel spectrogram, a few joined to each token, and nothing more."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range, span_means
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_audio.waveform import log_mel


class Frames(nn.Module):
    """`stack` neighbouring frames of the standardised log-mel spectrogram, joined, through one linear layer.

    Nothing here looks beyond a token or bends: all understanding is left to what reads the tokens, as in early fusion.
    A last token that is not full is filled up with zeros, which is the mean. A vector holds the means of `num_spans`
    equal spans of the tokens side by side, so that it has one width for any length and still knows early from late.

    Source: frame stacking as of Sak et al. 2015, arXiv:1507.06947.

    Shapes: (B, T, M), mask (B, T) -> (B, T / stack, token_dim) with its mask, or (B, num_spans * token_dim).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, token_dim: int, stack: int, num_spans: int, **spectrogram: Any
    ) -> None:
        super().__init__()
        check_range("token_dim", token_dim, 1)
        check_range("stack", stack, 1)
        check_range("num_spans", num_spans, 1)
        self.layout = layout
        self.stack, self.num_spans = stack, num_spans
        self.feature_dim = token_dim * (num_spans if layout == "vector" else 1)
        self.transform = log_mel(modality, **spectrogram)
        self.standardise = Standardiser(self.transform.num_mels)
        self.embed = nn.Linear(stack * self.transform.num_mels, token_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each mel band over the training frames."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        frames = without_padding(self.standardise(values.float()), mask)  # (B, T, M)
        mask = None if mask is None else mask[:, :: self.stack]
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % self.stack))
        tokens = self.embed(frames.unflatten(1, (-1, self.stack)).flatten(2))  # (B, T / stack, token_dim)
        if self.layout == "vector":
            return Features(span_means(tokens, mask, self.num_spans).flatten(1))
        return Features(tokens, mask)
