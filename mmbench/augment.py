"""Augmentation: random changes to what encoders read in training, by kind of modality, as part of the combo.

Named in an encoder's reference (`cnn[augment="crop+flip"]`) and off by default. It works on batches as the encoder's
transform made them, on the device, in steps of training alone: never on what validation, test, diagnostics or an
objective's own look at the data see. What is random depends on the cell's seed alone. Padding stays what it is, a
missing modality stays missing, and whole numbers stay whole numbers of the same type.

========= ==================================================================================================
image     ``crop`` moved by up to 1/8 of each side, edges repeated; ``flip`` mirrored left to right, every second;
          ``rotate`` by up to 15 degrees; ``scale`` by 0.8 to 1.25; ``color`` brightness, contrast and saturation
          each times 0.8 to 1.2
audio     ``noise`` up to 0.1 deviations of the sample; ``shift`` round in time by up to 1/10; ``time-mask`` two
          spans of up to 1/10 of the time, ``frequency-mask`` two bands of up to 27/80 of the frequencies, set to
          the sample's mean (SpecAugment: Park et al. 2019, arXiv:1904.08779, policy LD without its warping)
text      ``drop`` each token but the first and the last with probability 1/10
video     ``crop`` and ``flip`` alike for all frames; ``noise`` up to 0.1 deviations of the sample; ``drop`` a frame
          with probability 1/10, the one before it staying in its place
tabular   ``noise`` up to 0.1 deviations of the column; ``drop`` a value with probability 1/10: it becomes the
          column's mean; NaN stays NaN
sequence  ``noise`` up to 0.1 deviations of the feature; ``drop`` each step but the first and the last with
          probability 1/10
========= ==================================================================================================

"Up to": each sample draws its own amount, evenly from nothing to the most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.batches import SplitData
from mmbench.blocks import Standardiser
from mmbench.build import derive_seed
from mmbench.errors import Unavailable
from mmbench.model import Batch, Input
from mmbench.spec import Kind

MAX_MOVE = 1 / 8
MAX_ANGLE = math.radians(15.0)
MAX_ZOOM = 1.25
MAX_TINT = 0.2
MAX_NOISE = 0.1
MAX_ROLL = 1 / 10
MAX_TIME = 1 / 10
MAX_FREQUENCY = 27 / 80
NUM_MASKS = 2
DROP = 1 / 10
#: ITU-R BT.601, as encoders convert colour to grey.
_LUMA = (0.299, 0.587, 0.114)

_Masked: TypeAlias = tuple[Tensor, Tensor | None]


class Augment:
    """The chosen changes to one modality.

    Args:
        kind: Of the modality.
        names: What to do, from `mmbench.spec.AUGMENTATIONS` of this kind; done in that order.
        seed: What is random follows from it.
        device: Of the batches.
    """

    def __init__(self, kind: Kind, names: Sequence[str], seed: int, device: torch.device) -> None:
        self.kind, self.names = kind, tuple(names)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.constants: Standardiser | None = None

    def fit(self, values: Tensor, mask: Tensor | None = None) -> None:
        """Take the mean and deviation of each column or feature over training samples."""
        if self.kind in ("tabular", "sequence"):
            self.constants = Standardiser(values.shape[-1]).to(values.device)
            self.constants.fit(values, mask)

    def __call__(self, given: Input) -> Input:
        """Return a changed copy of one modality of a batch; `given` stays as it is."""
        if not len(given.values):
            return given
        values, mask = given.values, given.mask
        for name in self.names:
            values, mask = _CHANGES[self.kind][name](self, values, mask)
        return replace(given, values=values, mask=mask)

    def uniform(self, size: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw evenly from [low, high)."""
        drawn = torch.rand(*size, generator=self.generator, device=self.generator.device)
        return low + (high - low) * drawn

    def below(self, limit: Tensor) -> Tensor:
        """Draw whole numbers, each evenly from 0 to its limit, the limit included."""
        drawn = (self.uniform(limit.shape) * (limit + 1)).floor().long()
        return drawn.minimum(limit)

    def normal(self, like: Tensor) -> Tensor:
        """Draw from the standard normal distribution, float32, in the shape of `like`."""
        return torch.randn(like.shape, generator=self.generator, device=self.generator.device)

    def crop(self, values: Tensor, mask: Tensor | None) -> _Masked:
        height, width = values.shape[-2:]
        rows, columns = (
            self.below(torch.full((len(values),), 2 * int(side * MAX_MOVE), device=values.device))
            - int(side * MAX_MOVE)
            for side in (height, width)
        )
        return moved(values, rows, columns), mask

    def flip(self, values: Tensor, mask: Tensor | None) -> _Masked:
        return mirrored(values, self.uniform((len(values),)) < 0.5), mask

    def rotate(self, values: Tensor, mask: Tensor | None) -> _Masked:
        angle = self.uniform((len(values),), -MAX_ANGLE, MAX_ANGLE)
        return turned(values, angle, torch.ones_like(angle)), mask

    def scale(self, values: Tensor, mask: Tensor | None) -> _Masked:
        zoom = self.uniform((len(values),), -math.log(MAX_ZOOM), math.log(MAX_ZOOM)).exp()
        return turned(values, torch.zeros_like(zoom), zoom), mask

    def color(self, values: Tensor, mask: Tensor | None) -> _Masked:
        factors = self.uniform((3, len(values)), 1.0 - MAX_TINT, 1.0 + MAX_TINT)
        return tinted(values, *factors), mask

    def sample_noise(self, values: Tensor, mask: Tensor | None) -> _Masked:
        amount = self.uniform((len(values),), 0.0, MAX_NOISE)
        return noisy(values, mask, amount, self.normal(values)), mask

    def column_noise(self, values: Tensor, mask: Tensor | None) -> _Masked:
        amount = self.uniform((len(values), *[1] * (values.dim() - 1)), 0.0, MAX_NOISE)
        std = self._constants().std.to(torch.float32)
        changed = values.float() + amount * std * self.normal(values)
        return _only_real(like(changed, values), values, mask), mask

    def column_drop(self, values: Tensor, mask: Tensor | None) -> _Masked:
        gone = (self.uniform(values.shape) < DROP) & ~values.isnan()
        return torch.where(gone, self._constants().mean.to(values.dtype), values), mask

    def roll(self, values: Tensor, mask: Tensor | None) -> _Masked:
        most = (_lengths(values, mask) * MAX_ROLL).long()
        return rolled(values, mask, self.below(2 * most) - most), mask

    def time_mask(self, values: Tensor, mask: Tensor | None) -> _Masked:
        lengths = _lengths(values, mask)
        return self._hide(values, mask, lengths, (lengths * MAX_TIME).long(), axis=1), mask

    def frequency_mask(self, values: Tensor, mask: Tensor | None) -> _Masked:
        if values.dim() != 3:
            raise Unavailable(
                f"augment=frequency-mask needs an encoder that reads a spectrogram (B, T, M), but this one reads "
                f"{tuple(values.shape)}; use time-mask, noise or shift"
            )
        bands = torch.full((len(values),), values.shape[2], device=values.device)
        return self._hide(values, mask, bands, (bands * MAX_FREQUENCY).long(), axis=2), mask

    def token_drop(self, values: Tensor, mask: Tensor | None) -> _Masked:
        return without(values, mask, self.uniform(values.shape[:2]) < DROP)

    def frame_drop(self, values: Tensor, mask: Tensor | None) -> _Masked:
        return repeated(values, self.uniform(values.shape[:2]) < DROP), mask

    def _hide(self, values: Tensor, mask: Tensor | None, lengths: Tensor, most: Tensor, axis: int) -> Tensor:
        mean = _moments(values, mask)[0]
        for _ in range(NUM_MASKS):
            width = self.below(most)
            begin = self.below(lengths - width)
            values = hidden(values, mask, begin, width, mean, axis)
        return values

    def _constants(self) -> Standardiser:
        assert self.constants is not None, "fit comes first"
        return self.constants


_Change: TypeAlias = Callable[[Augment, Tensor, Tensor | None], _Masked]
_CHANGES: Mapping[Kind, Mapping[str, _Change]] = {
    "image": {
        "crop": Augment.crop,
        "flip": Augment.flip,
        "rotate": Augment.rotate,
        "scale": Augment.scale,
        "color": Augment.color,
    },
    "audio": {
        "noise": Augment.sample_noise,
        "shift": Augment.roll,
        "time-mask": Augment.time_mask,
        "frequency-mask": Augment.frequency_mask,
    },
    "text": {"drop": Augment.token_drop},
    "video": {
        "crop": Augment.crop,
        "flip": Augment.flip,
        "noise": Augment.sample_noise,
        "drop": Augment.frame_drop,
    },
    "tabular": {"noise": Augment.column_noise, "drop": Augment.column_drop},
    "sequence": {"noise": Augment.column_noise, "drop": Augment.token_drop},
}


def make_augments(payload: Mapping[str, Any], kinds: Mapping[str, Kind], data: SplitData) -> dict[str, Augment]:
    """Return what a cell asks for, by modality.

    Args:
        payload: Of the cell.
        kinds: Of its modalities.
        data: The training set.
    """
    made = {}
    for name, part in payload["encoders"].items():
        if part.get("augment"):
            seed = derive_seed("augment", payload["cell_id"], name)
            made[name] = Augment(kinds[name], part["augment"], seed, data.device)
            made[name].fit(*data.fit_inputs(name))
    return made


def augment_batch(batch: Batch, augments: Mapping[str, Augment]) -> Batch:
    """Return a batch in which the named modalities are changed; the batch itself stays as it is."""
    inputs = {name: augments[name](given) if name in augments else given for name, given in batch.inputs.items()}
    return replace(batch, inputs=inputs)


def moved(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Move images down and right by whole pixels, their edges repeated: (B, …, H, W), (B,), (B,) -> (B, …, H, W)."""
    height, width = values.shape[-2:]
    flat = values.flatten(1, -3)  # (B, C, H, W), or (B, T * C, H, W)
    row = (torch.arange(height, device=values.device) - rows[:, None]).clamp(0, height - 1)  # (B, H)
    column = (torch.arange(width, device=values.device) - columns[:, None]).clamp(0, width - 1)  # (B, W)
    down = flat.gather(2, row[:, None, :, None].expand_as(flat))
    return down.gather(3, column[:, None, None, :].expand_as(flat)).view_as(values)


def mirrored(values: Tensor, which: Tensor) -> Tensor:
    """Mirror some images left to right: (B, …, W), (B,) boolean -> (B, …, W)."""
    return torch.where(_beside(which, values), values.flip(-1), values)


def turned(values: Tensor, angle: Tensor, zoom: Tensor) -> Tensor:
    """Turn images clockwise about their centre and enlarge them, bilinearly, edges repeated.

    Shapes: (B, C, H, W), angles in radians (B,), factors (B,) -> (B, C, H, W).
    """
    height, width = values.shape[-2:]
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    zero = torch.zeros_like(angle)
    # Where each pixel comes from, in coordinates from -1 to 1; turning keeps pixels square though those are not.
    theta = torch.stack(
        [
            torch.stack([cosine, sine * (height / width), zero], dim=1),
            torch.stack([-sine * (width / height), cosine, zero], dim=1),
        ],
        dim=1,
    )  # (B, 2, 3)
    grid = F.affine_grid(theta, list(values.shape), align_corners=False)
    return like(F.grid_sample(values.float(), grid, padding_mode="border", align_corners=False), values)


def tinted(values: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiply images by brightness, their distance from their mean grey by contrast, from their grey by saturation.

    Shapes: (B, C, H, W), three of (B,) -> (B, C, H, W); saturation counts for three channels only.
    """
    pixels = values.float() * _beside(brightness, values)
    mean = _grey(pixels).mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * _beside(contrast, values)
    grey = _grey(pixels)
    return like(grey + (pixels - grey) * (_beside(saturation, values) if values.shape[1] == 3 else 1.0), values)


def noisy(values: Tensor, mask: Tensor | None, amount: Tensor, normal: Tensor) -> Tensor:
    """Add noise in proportion to each sample's deviation: (B, …), mask (B, T), (B,), (B, …) -> (B, …)."""
    _, std = _moments(values, mask)
    changed = values.float() + _beside(amount * std, values) * normal
    return _only_real(like(changed, values), values, mask)


def rolled(values: Tensor, mask: Tensor | None, by: Tensor) -> Tensor:
    """Move the real part of each sample later in time, its end coming round to its beginning: (B, T, …), (B,)."""
    place = torch.arange(values.shape[1], device=values.device)
    lengths = _lengths(values, mask).clamp(min=1)[:, None]
    source = torch.where(place < lengths, (place - by[:, None]) % lengths, place)  # (B, T)
    return values.gather(1, _beside(source, values).expand_as(values))


def hidden(values: Tensor, mask: Tensor | None, begin: Tensor, width: Tensor, fill: Tensor, axis: int) -> Tensor:
    """Put one value per sample in a span of an axis, leaving padding alone: (B, T, …), spans (B,), fill (B,)."""
    place = torch.arange(values.shape[axis], device=values.device)
    inside = (place >= begin[:, None]) & (place < (begin + width)[:, None])  # (B, T) or (B, M)
    shape = [len(values), *[1] * (values.dim() - 1)]
    shape[axis] = -1
    changed = torch.where(inside.view(shape), like(_beside(fill, values), values), values)
    return _only_real(changed, values, mask)


def without(values: Tensor, mask: Tensor | None, gone: Tensor) -> _Masked:
    """Take tokens out and close the gaps; the first and the last real token always stay.

    Shapes: (B, T, …), mask (B, T) or None, (B, T) boolean -> (B, T, …) and the new mask (B, T).
    """
    if mask is None:
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    place = torch.arange(values.shape[1], device=values.device)
    last = place == _lengths(values, mask)[:, None] - 1
    stays = mask & (~gone | last | (place == 0))
    order = (~stays).to(torch.uint8).argsort(dim=1, stable=True)
    return values.gather(1, _beside(order, values).expand_as(values)), stays.gather(1, order)


def repeated(values: Tensor, gone: Tensor) -> Tensor:
    """Let frames be replaced by the last one before them that stays; the first always does: (B, T, …), (B, T)."""
    place = torch.arange(values.shape[1], device=values.device).expand_as(gone)
    kept = torch.where(gone & (place > 0), 0, place)
    source = kept.cummax(dim=1).values
    return values.gather(1, _beside(source, values).expand_as(values))


def like(changed: Tensor, values: Tensor) -> Tensor:
    """Return numbers in the type of `values`: rounded and kept in its range where that is of whole numbers."""
    if values.is_floating_point():
        return changed.to(values.dtype)
    limits = torch.iinfo(values.dtype)
    return changed.round().clamp(limits.min, limits.max).to(values.dtype)


def _grey(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W)."""
    if pixels.shape[1] != 3:
        return pixels.mean(dim=1, keepdim=True)
    luma = torch.tensor(_LUMA, device=pixels.device).view(1, 3, 1, 1)
    return (pixels * luma).sum(dim=1, keepdim=True)


def _moments(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each sample over its real part: (B,), (B,)."""
    real = values.float() if mask is None else values.float().masked_fill(~_beside(mask, values), 0.0)
    share = torch.ones(len(values), device=values.device) if mask is None else mask.float().mean(dim=1)
    count = (share * real[0].numel()).clamp(min=1.0)
    mean = real.flatten(1).sum(dim=1) / count
    away = real - _beside(mean, values)
    away = away if mask is None else away.masked_fill(~_beside(mask, values), 0.0)
    return mean, (away.square().flatten(1).sum(dim=1) / count).sqrt()


def _lengths(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.full((len(values),), values.shape[1], device=values.device)
    return mask.sum(dim=1)


def _only_real(changed: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    return changed if mask is None else torch.where(_beside(mask, values), changed, values)


def _beside(given: Tensor, values: Tensor) -> Tensor:
    """Append axes of size 1 until `given` has as many as `values`."""
    return given.view(*given.shape, *[1] * (values.dim() - given.dim()))
