"""Multi-head attention that gives zeros, not NaN, where there is nothing to attend to."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mmbench.blocks import check_heads


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with several heads and a mask over keys.

    `nn.MultiheadAttention` gives NaN for a sample whose keys are all masked, which is what a missing modality is.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        width: Width of queries, keys and result.
        num_heads: Must divide `width`.

    Shapes: queries (B, Q, width), tokens (B, T, width), mask (B, T) True = real -> (B, Q, width); zeros for samples
    whose tokens are all masked.

    Raises:
        UsageError: `num_heads` does not divide `width`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        check_heads("width", width, num_heads)
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Attend; see the class."""
        any_token = mask.any(dim=1)  # (B,)
        readable = mask | ~any_token.unsqueeze(1)  # a softmax over nothing would be NaN: let it read, then forget
        query = self._split(self.query(queries))  # (B, heads, Q, width / heads)
        key, value = (self._split(part) for part in self.key_value(tokens).chunk(2, dim=2))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=readable[:, None, None, :])
        attended = self.out(attended.transpose(1, 2).flatten(2))  # (B, Q, width)
        return attended.masked_fill(~any_token[:, None, None], 0.0)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
