"""Compact bilinear pooling: the outer product of all modalities, hashed to a few places by count sketches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections

_EPSILON = 1e-3


class CompactBilinear(nn.Module):
    """fused = normalise(root(sketch_1 * … * sketch_M)), * the circular convolution, through the Fourier transform.

    sketch_m adds s_m,d h_m,d into place p_m,d for every d, with signs s and places p drawn once; h_m =
    norm_m(W_m x_m + b_m) with a 1 appended; root(z) = sign(z) (sqrt(|z| + e) - sqrt(e)); normalise divides by the
    length and multiplies by sqrt(fused_dim).

    Source: Fukui et al. 2016, arXiv:1606.01847 (MCB); the sketch is Pham & Pagh 2013, doi:10.1145/2487575.2487591.
    Differs in the width (the paper: 16,000), in the appended 1, which keeps products of fewer modalities as in tensor
    fusion, in e = 1e-3, which keeps the root's gradient finite at zero, and in the final scale.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality enters as the
    appended 1 alone.
    """

    places: Tensor
    signs: Tensor

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, modality_dim: int, fused_dim: int
    ) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, modality_dim)
        shape = (len(dims), modality_dim + 1)
        self.register_buffer("places", torch.randint(fused_dim, shape))
        self.register_buffer("signs", torch.randint(2, shape) * 2.0 - 1.0)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, _ = self.projections(features)  # (B, M, modality_dim)
        extended = torch.cat([vectors, torch.ones_like(vectors[:, :, :1])], dim=2)
        signed = extended * self.signs  # float32 under autocast, too: the Fourier transform knows no bfloat16
        sketches = signed.new_zeros(*signed.shape[:2], self.fused_dim)
        sketches = sketches.scatter_add(2, self.places.expand(signed.shape), signed)
        spectrum = torch.fft.rfft(sketches, dim=2).prod(dim=1)
        pooled = torch.fft.irfft(spectrum, n=self.fused_dim, dim=1)  # (B, fused_dim)
        rooted = pooled.sign() * ((pooled.abs() + _EPSILON).sqrt() - _EPSILON**0.5)
        return nn.functional.normalize(rooted, dim=1) * self.fused_dim**0.5
