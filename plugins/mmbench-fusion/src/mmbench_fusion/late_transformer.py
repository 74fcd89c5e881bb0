"""Late transformer: one token per modality and a summary token, read by a transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import TransformerBlock, check_range
from mmbench_fusion.projection import Projections


class LateTransformer(nn.Module):
    """fused = norm(first token of blocks([summary; h_1 + e_1; …; h_M + e_M])), h_m = norm_m(W_m x_m + b_m).

    Source: the late-fusion transformer of MultiBench (Liang et al. 2021, arXiv:2107.07502), after Vaswani et al. 2017,
    arXiv:1706.03762. Differs in a learned summary token, marks of the modalities, and norms before each layer.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, model_dim). A missing modality is not attended to.

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
    ) -> None:
        super().__init__()
        check_range("num_layers", num_layers, 1)
        self.fused_dim = model_dim
        self.projections = Projections(dims, model_dim)
        self.marks = nn.Parameter(0.02 * torch.randn(len(dims), model_dim))
        self.summary = nn.Parameter(0.02 * torch.randn(1, model_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(model_dim, num_heads, mlp_dim=2 * model_dim, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, model_dim), (B, M)
        summary = self.summary.expand(len(vectors), 1, -1).to(vectors.dtype)
        tokens = torch.cat([summary, vectors + self.marks], dim=1)  # (B, 1 + M, model_dim)
        mask = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens[:, 0])
