"""`columns`: one token per column of numbers, and nothing more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range
from mmbench.spec import Layout
from mmbench_tabular.mlp import Columns


class ColumnTokens(nn.Module):
    """Token of column j = x_j v_j + b_j, x_j standardised by its known training values; w_j + b_j where it is missing.

    Nothing here looks beyond a column or bends: all understanding is left to what reads the tokens, as in early fusion.
    b_j says which column it is. A vector is all tokens side by side.

    Source: the feature tokenizer of Gorishniy et al. 2021, arXiv:2106.11959, section 3.3; w_j is added for NaN.

    Shapes: float32 (B, F) -> (B, F, token_dim), or (B, F * token_dim).

    Raises:
        UsageError: `token_dim` is less than 1.
    """

    def __init__(self, modality: Modality, layout: Layout, *, token_dim: int) -> None:
        super().__init__()
        check_range("token_dim", token_dim, 1)
        self.layout = layout
        self.transform = Columns()
        num_features = modality.facts["num_features"]
        self.feature_dim = token_dim * (num_features if layout == "vector" else 1)
        self.standardise = Standardiser(num_features)
        bound = token_dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_features, 2, token_dim).uniform_(-bound, bound))  # v_j, w_j
        self.bias = nn.Parameter(torch.empty(num_features, token_dim).uniform_(-bound, bound))

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each column over its known training values."""
        self.standardise.fit(values)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        missing = values.isnan()
        known = self.standardise(values).masked_fill(missing, 0.0)
        read = torch.stack([known, missing.to(known.dtype)], dim=2)  # (B, F, 2)
        tokens = (read.unsqueeze(3) * self.weight).sum(dim=2) + self.bias  # (B, F, token_dim)
        return Features(tokens.flatten(1) if self.layout == "vector" else tokens)
