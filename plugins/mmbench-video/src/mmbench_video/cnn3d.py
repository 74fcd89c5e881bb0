"""`cnn3d`: three blocks of convolution over space and time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range, sinusoidal_positions
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_video.clips import ClipPixels, ClipScaler, group_norm, square_side

# The blocks halve the map until it is at most this high: 4 x 4 positions for any default video.
_FINAL_SIDE = 4
# The second and the third block halve the number of frames.
_TIME_STRIDES = (1, 2, 2)


class VideoCNN(nn.Module):
    """Three blocks of 3 x 3 x 3 convolution, group normalisation and ReLU; then one linear layer.

    The blocks have `width`, 2 `width` and 4 `width` channels. As many of them stride by two in space as it takes to
    bring the map down to 4 x 4. A vector reads the last map's mean over time, position by position; a sequence has one
    token per position in space and time, with a learned place and a sinusoidal time added.

    Source: Tran et al. 2014, arXiv:1412.0767 (C3D), much smaller, with strides in place of pooling. Group
    normalisation (Wu & He 2018, arXiv:1803.08494) is taken over each frame by itself: neither a sample's batch nor the
    padding behind a short video can reach its features.

    Shapes: uint8 (B, T, C, S, S), mask (B, T) -> (B, feature_dim), or (B, T' * H * W, feature_dim) with its mask, where
    T' = ceil(T / 4).

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
        blocks = []
        for time_stride, growth in zip(_TIME_STRIDES, (1, 2, 4)):
            stride = 2 if side > _FINAL_SIDE else 1
            side = -(-side // stride)
            blocks.append(_Block(channels, width * growth, time_stride, stride, side))
            channels = width * growth
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(dropout)
        if layout == "sequence":
            self.project = nn.Linear(channels, feature_dim)
            self.place = nn.Parameter(torch.randn(side * side, feature_dim) * 0.02)
        else:
            self.project = nn.Linear(channels * side * side, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each channel over the training videos' real frames."""
        self.scale.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        maps = self.scale(values, mask)  # (B, T, C, S, S)
        for block in self.blocks:
            maps, mask = block(maps, mask)
        if self.layout == "sequence":
            return self._tokens(maps, mask)
        frames = Features(maps.flatten(2), mask)  # (B, T', 4 * width * H * W)
        return Features(self.project(self.dropout(frames.to_vector().tensor)))

    def _tokens(self, maps: Tensor, mask: Tensor | None) -> Features:
        tokens = self.project(self.dropout(maps.flatten(3).transpose(2, 3)))  # (B, T', H * W, feature_dim)
        time = sinusoidal_positions(tokens.shape[1], self.feature_dim, device=tokens.device)
        tokens = tokens + self.place + 0.1 * time.unsqueeze(1)  # a tenth: the sines would drown small features
        if mask is not None:
            mask = mask.repeat_interleave(tokens.shape[2], dim=1)
        return Features(tokens.flatten(1, 2), mask)


class _Block(nn.Module):
    """Convolution over space and time, each frame normalised by itself, ReLU; padding is zero before and after.

    Shapes: maps (B, T, C, H, W), mask (B, T) -> (B, ceil(T / time_stride), width, H', W') and its mask.
    """

    def __init__(self, channels: int, width: int, time_stride: int, stride: int, side: int) -> None:
        super().__init__()
        self.time_stride = time_stride
        self.convolve = nn.Conv3d(channels, width, kernel_size=3, stride=(time_stride, stride, stride), padding=1)
        self.norm = group_norm(width, side)

    def forward(self, maps: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        convolved = self.convolve(maps.transpose(1, 2)).transpose(1, 2)  # (B, T', width, H', W')
        num_samples = len(convolved)
        normalised = self.norm(convolved.flatten(0, 1)).unflatten(0, (num_samples, -1))
        # Output t is centred on input t * time_stride, and is real where that is.
        mask = None if mask is None else mask[:, :: self.time_stride]
        return without_padding(normalised.relu(), mask), mask
