"""Building blocks for encoders that get padding, batches of one and missing values right."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.errors import UsageError
from mmbench.features import without_padding

_FIT_VALUES = 1 << 22  # read at once by Standardiser.fit: 32 MiB as float64


def check_range(option: str, value: float, low: float, high: float = math.inf) -> None:
    """Check that an option lies in [low, high].

    Raises:
        UsageError: it does not.
    """
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise UsageError(f"option {option!r} must be {limits}, got {value!r}")


def check_heads(option: str, width: int, num_heads: int) -> None:
    """Check that `num_heads` divides `width`.

    Raises:
        UsageError: it does not.
    """
    if num_heads < 1 or width % num_heads:
        fitting = ", ".join(str(heads) for heads in range(1, min(width, 16) + 1) if width % heads == 0)
        raise UsageError(f"{option}={width} cannot be divided among num_heads={num_heads}; choose heads from {fitting}")


class Standardiser(nn.Module):
    """Subtract the training mean and divide by the training standard deviation, per feature.

    Until `fit` is called it changes nothing. Mean and deviation are buffers, so they are saved with the weights.

    Args:
        num_features: F, size of the feature axis.
        axis: Which axis of the values holds the features.

    Shapes: (…, F, …) -> the same, float32 or the buffers' dtype.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int, *, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    @torch.no_grad()
    def fit(self, values: Any, mask: Any = None) -> None:
        """Take mean and deviation over all real and finite values.

        A feature that never varies, or was never seen, is only shifted: its deviation stays 1.

        Args:
            values: (N, …) tensor or array; read a part at a time, summed in float64.
            mask: (N, T) True = real, where the second axis of `values` is time; or None.
        """
        values = torch.as_tensor(values)
        mask = None if mask is None else torch.as_tensor(mask)
        count, total = self._sums(values, mask, centre=None)
        mean = total / count.clamp(min=1.0)
        _, squares = self._sums(values, mask, centre=mean)
        std = (squares / count.clamp(min=1.0)).sqrt()
        varies = (std > 1e-7 * mean.abs()) & (std > 1e-30)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(varies, std, torch.ones_like(std)))

    def forward(self, values: Tensor) -> Tensor:
        shape = [1] * values.dim()
        shape[self.axis] = -1
        return (values - self.mean.view(shape)) / self.std.view(shape)

    def _sums(self, values: Tensor, mask: Tensor | None, centre: Tensor | None) -> tuple[Tensor, Tensor]:
        """Count real values and sum them (or, with a centre, their squared distances) by feature: (F,), (F,)."""
        count = torch.zeros(len(self.mean), dtype=torch.float64, device=values.device)
        total = torch.zeros_like(count)
        step = max(_FIT_VALUES // max(values[:1].numel(), 1), 1)
        for start in range(0, len(values), step):
            rows = values[start : start + step].to(torch.float64)
            real = rows.isfinite()
            if mask is not None:
                here = mask[start : start + step]
                real &= here.reshape(*here.shape, *[1] * (rows.dim() - 2))
            rows = rows.movedim(self.axis, -1).reshape(-1, len(count))
            real = real.movedim(self.axis, -1).reshape(-1, len(count))
            if centre is not None:
                rows = (rows - centre).square()
            count += real.sum(dim=0)
            total += rows.masked_fill(~real, 0.0).sum(dim=0)
        return count, total


class TransformerBlock(nn.Module):
    """One pre-norm transformer layer in which padded tokens are never attended to.

    Written out because `nn.TransformerEncoderLayer` swaps in a fused operation for evaluation that the FLOP counter
    takes for zero, and gives NaN for a sample without any real token.

    Source: Vaswani et al. 2017, arXiv:1706.03762; normalisation first as in Xiong et al. 2020, arXiv:2002.04745.

    Shapes: tokens (B, T, D), mask (B, T) or None -> (B, T, D); what stands at padded places means nothing.

    Raises:
        UsageError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        check_heads("width", dim, num_heads)
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        attended: Tensor = tokens + self.dropout(self._attend(self.attention_norm(tokens), mask))
        transformed: Tensor = attended + self.dropout(self.mlp(attended))
        return transformed

    def _attend(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        split = self.query_key_value(tokens).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, D / H)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        if mask is not None:
            # A sample without real tokens attends to its padding: the result is never read, but must be finite.
            mask = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]  # (B, 1, 1, T)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))  # (B, T, D)
        return output


class BidirectionalRNN(nn.Module):
    """LSTM or GRU over both directions of padded sequences, each read backwards from its own last real token.

    `pack_padded_sequence` would need the lengths on the host, which stalls a GPU at every step; here the backward
    direction runs over sequences whose real part is reversed by a gather.

    Source: Schuster & Paliwal 1997, doi:10.1109/78.650093; LSTM: Hochreiter & Schmidhuber 1997,
    doi:10.1162/neco.1997.9.8.1735; GRU: Cho et al. 2014, arXiv:1406.1078.

    Shapes: tokens (B, T, input_dim), mask (B, T) with the real tokens first, or None -> (B, T, 2 * hidden_dim), zero
    at padded places.
    """

    def __init__(
        self, cell: Literal["lstm", "gru"], input_dim: int, hidden_dim: int, *, num_layers: int, dropout: float
    ) -> None:
        super().__init__()
        make = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        dims = [input_dim] + [2 * hidden_dim] * (num_layers - 1)
        self.forwards = nn.ModuleList(make(dim, hidden_dim, batch_first=True) for dim in dims)
        self.backwards = nn.ModuleList(make(dim, hidden_dim, batch_first=True) for dim in dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        reversal = None if mask is None else _reversal(mask)
        for layer, (ahead, back) in enumerate(zip(self.forwards, self.backwards)):
            if layer:
                tokens = self.dropout(tokens)
            read_ahead = ahead(tokens)[0]
            read_back = _reverse(back(_reverse(tokens, reversal))[0], reversal)
            tokens = torch.cat([read_ahead, read_back], dim=-1)
        return without_padding(tokens, mask)


def _reversal(mask: Tensor) -> Tensor:
    """Positions that reverse the real part of each sequence and leave its padding in place: (B, T) -> (B, T)."""
    position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    mirrored = mask.sum(dim=1, keepdim=True) - 1 - position
    return torch.where(mask, mirrored, position)


def _reverse(tokens: Tensor, reversal: Tensor | None) -> Tensor:
    if reversal is None:
        return tokens.flip(1)
    return tokens.gather(1, reversal.unsqueeze(-1).expand_as(tokens))


def span_means(tokens: Tensor, mask: Tensor | None, num_spans: int) -> Tensor:
    """Cut the real tokens of each sequence into spans of equal length and take the mean of each.

    Span s of a sequence of n real tokens reaches from token floor(s n / S) to just before token ceil((s + 1) n / S), so
    spans overlap by one token where S does not divide n and repeat tokens where n is smaller. A sequence without real
    tokens gives zeros.

    Args:
        tokens: (B, T, D).
        mask: (B, T) True = real, real ones first; None when all are.
        num_spans: S.

    Returns:
        (B, S, D).
    """
    if mask is None:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    count = mask.sum(dim=1).view(-1, 1, 1)  # (B, 1, 1)
    span = torch.arange(num_spans, device=tokens.device).view(1, -1, 1)
    place = torch.arange(tokens.shape[1], device=tokens.device).view(1, 1, -1)
    begin, end = span * count // num_spans, -(-(span + 1) * count // num_spans)
    weights = ((place >= begin) & (place < end)).to(tokens.dtype)  # (B, S, T)
    total = weights @ without_padding(tokens, mask)
    return total / weights.sum(dim=2, keepdim=True).clamp(min=1.0)


def sinusoidal_positions(length: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of position at geometrically spaced wavelengths: (length, dim).

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; here all sines come first, then all cosines.
    """
    num_sines = (dim + 1) // 2
    steps = torch.arange(num_sines, device=device, dtype=torch.float32) / max(num_sines - 1, 1)
    angles = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1) * 10_000.0**-steps
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]
