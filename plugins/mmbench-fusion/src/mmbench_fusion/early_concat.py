"""Early concatenation: thin features side by side, read by one deep trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench_fusion.presence import presence, present_vectors


class EarlyConcat(nn.Module):
    """s_l = relu(norm_l(W_l s_(l-1) + b_l)) for l = 1 … depth, from s_0 = [x_1; …; x_M; a_1; …; a_M].

    fused is the last of them; a_m is 1 where a sample lacks modality m, else 0. All layers but the last are `width`
    wide. With encoders that only cut and embed (`patches`, `frames`, `tokens`, `columns`, `steps`), whose vectors are
    linear in the data, this is fusion at the level of data: one network for all modalities, and nothing learned of any
    of them alone.

    Source: the early fusion of Barnum et al. 2020, arXiv:2011.07191, who join inputs at the first layer; here the trunk
    is a perceptron, because modalities of different shape share no convolution.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality enters as zeros and
    by its flag.

    Raises:
        UsageError: `depth` or `width` is less than 1.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        depth: int,
        width: int,
        dropout: float,
        fused_dim: int,
    ) -> None:
        super().__init__()
        check_range("depth", depth, 1)
        check_range("width", width, 1)
        self.names = tuple(sorted(dims))
        self.fused_dim = fused_dim
        widths = [*[width] * (depth - 1), fused_dim]
        reads = [sum(dims.values()) + len(dims), *widths[:-1]]
        self.linears = nn.ModuleList(nn.Linear(read, given) for read, given in zip(reads, widths, strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(given) for given in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors = present_vectors(features, self.names)
        absent = ~presence(features, self.names)  # (B, M)
        state = torch.cat([*vectors, absent.to(vectors[0].dtype)], dim=1)  # (B, sum of D + M)
        for linear, norm in zip(self.linears, self.norms):
            state = norm(linear(self.dropout(state))).relu()
        return state
