"""Perceiver: a few latent vectors look into the joined tokens of all modalities, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import TransformerBlock, check_range
from mmbench_fusion.multihead import MultiheadAttention
from mmbench_fusion.projection import TokenProjections


class Perceiver(nn.Module):
    """num_rounds times: latents += attend(norm(latents), norm(tokens of all)); latents = block(latents).

    fused = norm(mean over latents). All rounds share their weights.

    Source: Jaegle et al. 2021, arXiv:2103.03206. Reads the encoders' tokens, each with a learned mark of its modality,
    instead of raw inputs with Fourier positions; one self-attention block per round; the cross-attention's own MLP is
    left to that block.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, model_dim). A missing modality has no token.

    Raises:
        UsageError: `num_heads` does not divide `model_dim`, or a number is less than 1.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        model_dim: int,
        num_heads: int,
        num_latents: int,
        num_rounds: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_range("num_latents", num_latents, 1)
        check_range("num_rounds", num_rounds, 1)
        self.fused_dim = model_dim
        self.num_rounds = num_rounds
        self.projections = TokenProjections(dims, model_dim)
        self.latents = nn.Parameter(0.02 * torch.randn(num_latents, model_dim))
        self.latent_norm = nn.LayerNorm(model_dim)
        self.token_norm = nn.LayerNorm(model_dim)
        self.attend = MultiheadAttention(model_dim, num_heads)
        self.block = TransformerBlock(model_dim, num_heads, mlp_dim=2 * model_dim, dropout=dropout)
        self.norm = nn.LayerNorm(model_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        parts, masks = self.projections(features)
        tokens, mask = self.token_norm(torch.cat(parts, dim=1)), torch.cat(masks, dim=1)
        latents = self.latents.expand(len(tokens), -1, -1)  # (B, latents, model_dim)
        for _ in range(self.num_rounds):
            latents = latents + self.attend(self.latent_norm(latents), tokens, mask)
            latents = self.block(latents)
        return self.norm(latents.mean(dim=1))
