"""MMTM: at each level every modality's channels are scaled by what all modalities say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench.features import masked_mean
from mmbench_fusion.levels import Dims, aligned
from mmbench_fusion.presence import presence, real_tokens


class Mmtm(nn.Module):
    """Squeeze all modalities at a level to one vector; excite each one's channels by it; go on to the next level.

    At level l, for each modality m that has a layer there and each of its tokens t:

        x_m,t = norm_m,l(W_m,l layer_m,l,t + b) + c_m,       c_m = 0 before the first level
        z     = relu(S_l [mean_t x_1,t; …; mean_t x_M,t] + b)
        c_m   = mean_t relu(V_m,l (2 sigmoid(E_m,l z + b) * x_m,t) + b)

    and after the last, fused = relu(norm(W [c_1; …; c_M] + b)).

    Source: the multimodal transfer module of Joze et al. 2020, arXiv:1911.08670: z (eq. 4, with the rectifier of the
    authors' code), E and the gate 2 sigmoid(…) are theirs. There the module sits between the encoders' layers, and what
    it has scaled runs through the next ones. Here encoders have run already: V stands where the next layer would, and
    its mean is added to the tokens of the next level, so that what is said early is still heard late. Layers are
    brought to one width first, and one hidden layer reads all modalities, where the authors average predictions.

    Shapes: {modality: Features} each a pyramid of (B, T_i, D_i) -> (B, fused_dim). A missing modality is squeezed as
    zeros and adds zeros.

    Raises:
        UsageError: `squeeze_dim` is less than 1.
    """

    def __init__(
        self, dims: Dims, tasks: Sequence[TaskSpec], *, model_dim: int, squeeze_dim: int, fused_dim: int
    ) -> None:
        super().__init__()
        check_range("squeeze_dim", squeeze_dim, 1)
        self.fused_dim = fused_dim
        self.names = tuple(sorted(dims))
        self.levels = aligned(dims)
        self.projections = nn.ModuleList(
            nn.ModuleList(nn.Sequential(nn.Linear(member.dim, model_dim), nn.LayerNorm(model_dim)) for member in level)
            for level in self.levels
        )
        self.squeezes = nn.ModuleList(nn.Linear(len(level) * model_dim, squeeze_dim) for level in self.levels)
        self.excitations = nn.ModuleList(
            nn.ModuleList(nn.Linear(squeeze_dim, model_dim) for _ in level) for level in self.levels
        )
        self.nexts = nn.ModuleList(
            nn.ModuleList(nn.Linear(model_dim, model_dim) for _ in level) for level in self.levels
        )
        self.linear = nn.Linear(len(dims) * model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        present = presence(features, self.names)  # (B, M)
        carried: dict[int, Tensor] = {}  # by modality: (B, model_dim)
        parts = zip(self.levels, self.projections, self.squeezes, self.excitations, self.nexts)
        for level, projections, squeeze, excitations, nexts in parts:
            tokens, masks = [], []
            for member, projection in zip(level, projections):
                values, mask = real_tokens(features[member.name].layers[member.layer])
                projected = projection(values)  # (B, T, model_dim)
                if member.row in carried:
                    projected = projected + carried[member.row].unsqueeze(1)
                tokens.append(projected)
                masks.append(mask)
            squeezed = torch.cat([masked_mean(part, mask) for part, mask in zip(tokens, masks)], dim=1)
            joint = squeeze(squeezed).relu()  # (B, squeeze_dim)
            for member, part, mask, excite, go_on in zip(level, tokens, masks, excitations, nexts):
                gate = 2.0 * excite(joint).sigmoid().unsqueeze(1)  # (B, 1, model_dim)
                mean = masked_mean(go_on(gate * part).relu(), mask)
                carried[member.row] = mean.masked_fill(~present[:, member.row, None], 0.0)
        return self.norm(self.linear(torch.cat([carried[row] for row in range(len(self.names))], dim=1))).relu()
