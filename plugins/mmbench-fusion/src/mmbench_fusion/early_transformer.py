"""Early transformer: the tokens of all modalities in one row, read by one transformer from the first layer on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import TransformerBlock, check_range, sinusoidal_positions
from mmbench_fusion.projection import TokenProjections


class EarlyTransformer(nn.Module):
    """fused = relu(norm'(W norm(first token of blocks([summary; t_1 + p; …; t_M + p])) + b)).

    t_m are the tokens of modality m, projected and marked, p sinusoidal positions within each modality. With encoders
    that only cut and embed (`patches`, `frames`, `tokens`, `columns`, `steps`) this is fusion at the level of data: one
    network for all modalities, and nothing learned of any of them alone.

    Source: the one-stream transformer of VisualBERT (Li et al. 2019, arXiv:1908.03557) and ViLT (Kim et al. 2021,
    arXiv:2102.03334), over any modalities and without pretraining. Differs in norms before each layer, sinusoidal
    positions for all kinds of tokens, and the hidden layer that reads the summary, as in this package's other token
    fusions.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing modality has no token.

    Raises:
        UsageError: `num_heads` does not divide `model_dim`, or there is no layer.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        model_dim: int,
        num_heads: int,
        num_layers: int,
        dropout: float,
        fused_dim: int,
    ) -> None:
        super().__init__()
        check_range("num_layers", num_layers, 1)
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        self.summary = nn.Parameter(0.02 * torch.randn(1, model_dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(model_dim, num_heads, mlp_dim=2 * model_dim, dropout=dropout) for _ in range(num_layers)
        )
        self.summary_norm = nn.LayerNorm(model_dim)
        self.linear = nn.Linear(model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        parts, masks = self.projections(features)
        placed = [
            part + sinusoidal_positions(part.shape[1], part.shape[2], device=part.device).to(part.dtype)
            for part in parts
        ]
        summary = self.summary.expand(len(parts[0]), 1, -1).to(parts[0].dtype)
        tokens = self.dropout(torch.cat([summary, *placed], dim=1))  # (B, 1 + sum of T, model_dim)
        mask = torch.cat([torch.ones_like(masks[0][:, :1]), *masks], dim=1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(self.linear(self.summary_norm(tokens[:, 0]))).relu()
