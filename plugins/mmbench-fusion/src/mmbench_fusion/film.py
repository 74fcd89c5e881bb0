"""Feature-wise linear modulation: each modality is scaled and shifted by what the others say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections


class Film(nn.Module):
    """fused = relu(norm(sum over present m of (1 + g_m) * h_m + s_m)), [g_m; s_m] = C_m [h of the others] + c_m.

    h_m = norm_m(W_m x_m + b_m), zeros for a missing modality.

    Source: Perez et al. 2018, arXiv:1709.07871, where one modality modulates the convolutional maps of another. Here no
    modality is the chosen one: each is modulated by all others, and the results are added. The 1 makes an untrained
    modulation the identity.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality is not modulated and
    modulates by its absence, as zeros.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, fused_dim)
        self.conditions = nn.ModuleList(nn.Linear((len(dims) - 1) * fused_dim, 2 * fused_dim) for _ in dims)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, fused_dim), (B, M)
        modulated = []
        for own, condition in enumerate(self.conditions):
            rest = torch.cat([vectors[:, :own], vectors[:, own + 1 :]], dim=1).flatten(1)
            gain, shift = condition(rest).chunk(2, dim=1)  # (B, fused_dim) each
            modulated.append((1.0 + gain) * vectors[:, own] + shift)
        joined = torch.stack(modulated, dim=1).masked_fill(~present.unsqueeze(2), 0.0).sum(dim=1)
        return self.norm(joined).relu()
