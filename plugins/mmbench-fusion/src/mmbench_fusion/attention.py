"""Attention over modalities: a softmax over what each modality has to say weighs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import masked_softmax
from mmbench_fusion.projection import Projections


class Attention(nn.Module):
    """fused = sum over m of a_m h_m, a = softmax over present m of v . tanh(U h_m), h_m = norm_m(W_m x_m + b_m).

    Source: the modality attention of Hori et al. 2017, arXiv:1701.03126, without a decoder's state, so each modality's
    score is its own. A consequence, easily overlooked: with S_m = exp(score of m), every logit is
    (sum over m of S_m w . h_m) / (sum over m of S_m) + bias, and its sign or order over classes is that of a sum of
    unimodal functions. Hence no parameters make this form, under a linear head, solve XOR.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality has weight zero.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, attention_dim: int, fused_dim: int
    ) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, fused_dim)
        self.key = nn.Linear(fused_dim, attention_dim)
        self.query = nn.Linear(attention_dim, 1, bias=False)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, fused_dim), (B, M)
        scores = self.query(self.key(vectors).tanh()).squeeze(2)  # (B, M)
        weights = masked_softmax(scores, present, dim=1)
        return (weights.unsqueeze(2) * vectors).sum(dim=1)
