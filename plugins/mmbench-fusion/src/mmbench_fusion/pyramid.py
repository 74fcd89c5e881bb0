"""Pyramid: the layers of all encoders joined one level after another, from early to late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.levels import Dims, aligned
from mmbench_fusion.presence import presence


class Pyramid(nn.Module):
    """s_l = relu(norm_l(W_l [s_(l-1); h_1,l; …; h_M,l; a_1; …; a_M] + b_l)), and fused is the s of the last level.

    h_m,l = norm_m,l(mean over tokens of layer l of modality m), a_m is 1 where a sample lacks modality m, else 0, and
    there is no s_0. Levels are aligned from the last: an encoder with fewer layers joins later.

    Source: the fusion network of MFAS (Perez-Rua et al. 2019, arXiv:1903.06496), which pools each layer over its places
    too; CentralNet (Vielzeuf et al. 2018, arXiv:1808.07275) adds where this concatenates. Differs in that no
    search chooses the layers: all of one level meet. Norms keep early layers, whose scale nothing fixes, in bounds.

    Shapes: {modality: Features} each a pyramid of (B, T_i, D_i) -> (B, fused_dim). A missing modality enters as zeros
    and by its flag.
    """

    def __init__(self, dims: Dims, tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.names = tuple(sorted(dims))
        self.levels = aligned(dims)
        self.layer_norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(member.dim) for member in level) for level in self.levels
        )
        self.linears = nn.ModuleList()
        carried = 0
        for level in self.levels:
            self.linears.append(nn.Linear(carried + sum(member.dim for member in level) + len(dims), fused_dim))
            carried = fused_dim
        self.norms = nn.ModuleList(nn.LayerNorm(fused_dim) for _ in self.levels)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        present = presence(features, self.names)  # (B, M)
        state: list[Tensor] = []
        for level, layer_norms, linear, norm in zip(self.levels, self.layer_norms, self.linears, self.norms):
            pooled = []
            for member, layer_norm in zip(level, layer_norms):
                vector = layer_norm(features[member.name].layers[member.layer].to_vector().tensor)  # (B, D)
                pooled.append(vector.masked_fill(~present[:, member.row, None], 0.0))
            joined = torch.cat([*state, *pooled, (~present).to(pooled[0].dtype)], dim=1)
            state = [norm(linear(joined)).relu()]
        return state[0]
