"""`convlstm`: an LSTM whose states are feature maps and whose gates are convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.spec import Layout
from mmbench_video.clips import ClipPixels, ClipScaler, group_norm, square_side

# The maps that the recurrence runs over are at most this high; it is the costly part.
_STATE_SIDE = 8
# The linear layer reads the mean over cells of a grid of this side.
_READ_SIDE = 4


class ConvLSTM(nn.Module):
    """Convolutional LSTM with peepholes.

    With * for convolution, ∘ for the product of elements and S for the logistic function, at each step

        i = S(W_xi * x + W_hi * h + W_ci ∘ c + b_i)
        f = S(W_xf * x + W_hf * h + W_cf ∘ c + b_f)
        c' = f ∘ c + i ∘ tanh(W_xc * x + W_hc * h + b_c)
        o = S(W_xo * x + W_ho * h + W_co ∘ c' + b_o)
        h' = o ∘ tanh(c')

    where the peepholes W_c have a weight of their own at every place. States begin at zero. A padded step leaves them
    as they are, so the last states are those after a sample's last real step, wherever its padding stands.

    Source: Shi et al. 2015, arXiv:1506.04214, equation 3. The forget gate's bias begins at 1 (Gers et al. 2000,
    doi:10.1162/089976600300015015), the peepholes at 0.

    Shapes: maps (B, T, C, H, W), mask (B, T) or None -> (B, T, width, H, W), the state after every step.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int], kernel_size: int = 3) -> None:
        super().__init__()
        self.width = width
        padding = kernel_size // 2
        self.of_input = nn.Conv2d(channels, 4 * width, kernel_size, padding=padding)
        self.of_state = nn.Conv2d(width, 4 * width, kernel_size, padding=padding, bias=False)
        self.peephole = nn.Parameter(torch.zeros(3, width, *size))
        with torch.no_grad():
            assert self.of_input.bias is not None
            self.of_input.bias[width : 2 * width] = 1.0

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        num_samples = len(maps)
        given = self.of_input(maps.flatten(0, 1)).unflatten(0, (num_samples, -1))  # (B, T, 4 * width, H, W)
        state = given.new_zeros(num_samples, self.width, *given.shape[3:])
        cell = torch.zeros_like(state)
        states = []
        # Taking steps by index would write a gradient as large as all of them for each.
        for step, given_now in enumerate(given.unbind(dim=1)):
            new_state, new_cell = self._step(given_now, state, cell)
            if mask is None:
                state, cell = new_state, new_cell
            else:
                real = mask[:, step, None, None, None]
                state, cell = torch.where(real, new_state, state), torch.where(real, new_cell, cell)
            states.append(state)
        return torch.stack(states, dim=1)

    def _step(self, given: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        to_input, to_forget, to_cell, to_output = (given + self.of_state(state)).chunk(4, dim=1)
        see_input, see_forget, see_output = self.peephole.unbind()
        kept = torch.sigmoid(to_forget + see_forget * cell) * cell
        new_cell = kept + torch.sigmoid(to_input + see_input * cell) * torch.tanh(to_cell)
        new_state = torch.sigmoid(to_output + see_output * new_cell) * torch.tanh(new_cell)
        # Under autocast convolutions give bfloat16 and sums with the peepholes float32.
        return new_state.to(state.dtype), new_cell.to(cell.dtype)


class VideoConvLSTM(nn.Module):
    """One strided convolution for each halving down to 8 x 8, a `ConvLSTM`, and one linear layer over a 4 x 4 grid.

    A vector reads the state after the last real frame; a sequence has a token per frame, read from the state after it.

    Source: Shi et al. 2015, arXiv:1506.04214. Differs from it in reading a summary and not forecasting frames.

    Shapes: uint8 (B, T, C, S, S), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        feature_dim: int,
        width: int,
        num_frames: int,
        dropout: float,
        max_side: int,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("num_frames", num_frames, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim = feature_dim
        channels = modality.facts["channels"]
        side = square_side(modality, max_side)
        self.transform = ClipPixels(side=side, channels=channels, num_frames=num_frames)
        self.scale = ClipScaler(channels)
        stem: list[nn.Module] = []
        while not stem or side > _STATE_SIDE:
            stride = 2 if side > _STATE_SIDE else 1
            side = -(-side // stride)
            stem += [nn.Conv2d(channels, width, 3, stride=stride, padding=1), group_norm(width, side), nn.ReLU()]
            channels = width
        self.stem = nn.Sequential(*stem)
        self.recurrence = ConvLSTM(width, width, (side, side))
        self.read = nn.AdaptiveAvgPool2d(min(side, _READ_SIDE))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width * min(side, _READ_SIDE) ** 2, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each channel over the training videos' real frames."""
        self.scale.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        num_samples = len(values)
        pixels = self.scale(values, mask)
        maps = self.stem(pixels.flatten(0, 1)).unflatten(0, (num_samples, -1))  # (B, T, width, H, W)
        states = self.recurrence(maps, mask)
        if self.layout == "vector":
            return Features(self.project(self.dropout(self.read(states[:, -1]).flatten(1))))
        grids = self.read(states.flatten(0, 1)).flatten(1).unflatten(0, (num_samples, -1))  # (B, T, width * 16)
        return Features(self.project(self.dropout(grids)), mask)
