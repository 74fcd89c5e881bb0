"""Tensor fusion: the outer product of all modalities, formed in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.errors import UsageError
from mmbench_fusion.projection import Projections


class TensorFusion(nn.Module):
    """fused = relu(norm(W vec([1; h_1] ⊗ … ⊗ [1; h_M]) + b)) with h_m = norm_m(W_m x_m + b_m).

    The appended ones keep every product of fewer modalities in the tensor.

    Source: Zadeh et al. 2017, arXiv:1707.07250. Differs in that each modality is first projected to a width that keeps
    the tensor within `max_tensor_dim` (the authors' subnetworks do so by hand: 32 each for three modalities), that
    the projections are layer-normed, because products of badly scaled vectors do not train, and that one hidden layer
    instead of two follows.

    Args:
        dims: Feature width by modality.
        tasks: What will be predicted.
        modality_dim: Width that each modality is projected to, where the tensor stays small enough.
        max_tensor_dim: Most entries of the tensor.
        fused_dim: Width of the result.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality enters as
    [1; 0 … 0], which leaves the products of the others as they are.

    Raises:
        UsageError: `max_tensor_dim` is less than 2 to the number of modalities.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        modality_dim: int,
        max_tensor_dim: int,
        fused_dim: int,
    ) -> None:
        super().__init__()
        width = affordable_width(len(dims), modality_dim, max_tensor_dim)
        self.fused_dim = fused_dim
        self.projections = Projections(dims, width)
        self.linear = nn.Linear((width + 1) ** len(dims), fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, _ = self.projections(features)  # (B, M, width)
        extended = torch.cat([torch.ones_like(vectors[:, :, :1]), vectors], dim=2)  # (B, M, 1 + width)
        tensor = extended[:, 0]
        for modality in range(1, extended.shape[1]):
            tensor = (tensor.unsqueeze(2) * extended[:, modality].unsqueeze(1)).flatten(1)
        return self.norm(self.linear(tensor)).relu()  # (B, (1 + width) ** M) -> (B, fused_dim)


def affordable_width(num_modalities: int, wanted: int, max_tensor_dim: int) -> int:
    """The largest width up to `wanted` with (1 + width) ** num_modalities at most `max_tensor_dim`.

    Raises:
        UsageError: not even a width of 1 fits.

    >>> affordable_width(3, 32, 2048)
    11
    """
    width = wanted
    while width > 1 and (1 + width) ** num_modalities > max_tensor_dim:
        width -= 1
    if (1 + width) ** num_modalities > max_tensor_dim:
        raise UsageError(
            f"tensor fusion of {num_modalities} modalities needs at least {(1 + width) ** num_modalities} entries, "
            f"but max_tensor_dim is {max_tensor_dim}; raise it, or use low-rank-tensor"
        )
    return width
