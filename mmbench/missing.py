"""What stands in for a missing modality: policies that fill its features before the fusion sees them.

A policy is part of the combo, named in a fusion's reference (`gated[missing=impute]`). Under "mask", the default, the
fusion is told what is missing and there is nothing here. Under every other policy it is told that nothing is missing,
so that fusions which take no mask work too. An absent vector is replaced by the filling; an absent sequence becomes one
real token, the filling of its mean token. What is present is never changed.

What a policy knows of the data (means, neighbours) it reads off the *training* set: `Trainer` shows it every training
sample's features, in evaluation mode, before the first epoch and after each one. So validation and test are filled with
exact statistics of the weights they are predicted with, and batches of an epoch with those from its beginning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from mmbench.errors import UsageError
from mmbench.features import Features
from mmbench.spec import MissingPolicy

#: Training samples in whose features `Interpolate` looks for neighbours, evenly spread over the training set.
MAX_BANK = 4096
#: Neighbours whose features `Interpolate` averages.
NUM_NEIGHBOURS = 5
#: Width of the hidden layer of each of `Impute`'s networks.
HIDDEN_DIM = 128

Encoded: TypeAlias = Mapping[str, Features]


class Filler(nn.Module, ABC):
    """Fills the gaps of encoded features.

    Inside, the modalities' pooled features stand side by side in one matrix (B, D), D being the sum of their widths;
    `owner` (D,) says whose column each is.

    Args:
        dims: Width of the features by modality.

    Shapes: {modality: Features}, vectors or sequences -> the same, nothing missing.
    """

    #: Whether `observe` must be shown the training set.
    observes: ClassVar[bool] = False
    #: Whether it keeps training samples, up to `MAX_BANK`.
    keeps_samples: ClassVar[bool] = False
    owner: Tensor
    mean: Tensor
    scale: Tensor
    bank: Tensor
    bank_present: Tensor

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.dims = dict(dims)
        widths = torch.tensor(list(self.dims.values()))
        total, count = int(widths.sum()), len(self.dims)
        self.register_buffer("owner", torch.arange(count).repeat_interleave(widths), persistent=False)
        if self.observes:
            self.register_buffer("mean", torch.zeros(total))  # (D,) over training samples that have the modality
            self.register_buffer("scale", torch.ones(count))  # (M,) root mean variance of a modality's features
        if self.keeps_samples:
            self.register_buffer("bank", torch.zeros(0, total))
            self.register_buffer("bank_present", torch.zeros(0, count, dtype=torch.bool))

    def forward(self, features: Encoded) -> dict[str, Features]:
        """Return the features with every gap filled; in training, losses of the policy's own come with them."""
        values, present = self.lay_out(features)
        filling = dict(zip(self.dims, self.fill(values, present).split(list(self.dims.values()), dim=1)))
        losses = self.losses(values, present) if self.training else {}
        return {
            name: _filled(given, filling[name], {**given.losses, **losses.get(name, {})})
            for name, given in features.items()
        }

    @abstractmethod
    def fill(self, values: Tensor, present: Tensor) -> Tensor:
        """Return what would stand in for every modality of every sample.

        Shapes: values (B, D), zero where missing; present (B, M) -> (B, D).
        """

    def losses(self, values: Tensor, present: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """Return named losses by modality that train the policy."""
        return {}

    def lay_out(self, features: Encoded) -> tuple[Tensor, Tensor]:
        """Return pooled features side by side, zero where missing (B, D), and what is present (B, M)."""
        pooled = {name: features[name].to_vector() for name in self.dims}
        present = torch.stack([given.present for given in pooled.values()], dim=1)
        values = torch.cat([given.tensor.float() for given in pooled.values()], dim=1)
        return values.masked_fill(~present[:, self.owner], 0.0), present

    @torch.no_grad()
    def observe(self, batches: Iterable[Encoded], num_samples: int) -> None:
        """Take the statistics of the training set, anew.

        Args:
            batches: Features of every training sample, once.
            num_samples: How many there are.
        """
        totals: Tensor | None = None
        stride, start = -(-num_samples // MAX_BANK), 0
        bank, bank_present = [], []
        for features in batches:
            values, present = self.lay_out(features)
            # Sums in double precision: the variance is a small difference of large ones.
            counted = torch.stack([present[:, self.owner].double().sum(0), values.double().sum(0), _squares(values)])
            totals = counted if totals is None else totals + counted
            rows = torch.arange(len(values), device=values.device)[-start % stride :: stride]
            bank.append(values[rows])
            bank_present.append(present[rows])
            start += len(values)
        if totals is None:
            return
        count, total, squares = totals[0].clamp(min=1.0), totals[1], totals[2]
        variance = (squares / count - (total / count).square()).clamp(min=0.0)
        by_modality = torch.zeros_like(self.scale, dtype=torch.double).scatter_reduce(
            0, self.owner, variance, "mean", include_self=False
        )
        self.mean.copy_(total / count)
        self.scale.copy_(torch.where(by_modality > 1e-12, by_modality.sqrt(), torch.ones_like(by_modality)))
        if self.keeps_samples:
            self.bank, self.bank_present = self.standardised(torch.cat(bank)), torch.cat(bank_present)

    def standardised(self, values: Tensor) -> Tensor:
        """Return z = (f - mean) / scale, as `observe` found them: (B, D) -> (B, D)."""
        return (values - self.mean) / self.scale[self.owner]


class Zero(Filler):
    """Zeros, as real features."""

    def fill(self, values: Tensor, present: Tensor) -> Tensor:
        """Return zeros: (B, D)."""
        return torch.zeros_like(values)


class Mean(Filler):
    """The mean of the modality's features over the training samples that have it."""

    observes = True

    def fill(self, values: Tensor, present: Tensor) -> Tensor:
        """Return the means, the same for all: (B, D)."""
        return self.mean.expand_as(values)


class LearnedToken(Filler):
    """One learned vector per modality, trained by whatever reads it."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__(dims)
        self.token = nn.Parameter(0.02 * torch.randn(len(self.owner)))

    def fill(self, values: Tensor, present: Tensor) -> Tensor:
        """Return the tokens, the same for all: (B, D)."""
        return self.token.expand_as(values)


class Interpolate(Filler):
    """The mean of the modality's features over the nearest training samples that have it.

    Samples i and j are as far apart as, on average over the modalities m that both have, |f_m,i - f_m,j|^2 / (D_m v_m),
    v_m being the mean variance of that modality's features. The `NUM_NEIGHBOURS` nearest training samples that have the
    wanted modality, and any of those at hand, count equally; the training mean stands in where there is no such sample.
    No gradient passes. After KNNimpute (Troyanskaya et al. 2001, doi:10.1093/bioinformatics/17.6.520), which weights
    neighbours by their distance.
    """

    observes = True
    keeps_samples = True

    @torch.no_grad()
    def fill(self, values: Tensor, present: Tensor) -> Tensor:
        """Return the neighbours' means: (B, D)."""
        if not len(self.bank):
            return self.mean.expand_as(values)
        distance = self._distances(values, present)
        filling = []
        for m, theirs in enumerate(self.bank.split(list(self.dims.values()), dim=1)):
            having = distance.masked_fill(~self.bank_present[None, :, m], torch.inf)
            nearest = having.topk(min(NUM_NEIGHBOURS, len(self.bank)), dim=1, largest=False)
            counts = nearest.values.isfinite().to(values.dtype).unsqueeze(2)  # (B, K, 1)
            filling.append((theirs[nearest.indices] * counts).sum(1) / counts.sum(1).clamp(min=1.0))
        return self.mean + torch.cat(filling, dim=1) * self.scale[self.owner]

    def _distances(self, values: Tensor, present: Tensor) -> Tensor:
        """How far each sample is from each that is kept; infinitely, where they share no modality: (B, N)."""
        widths = list(self.dims.values())
        ours, theirs = (given.split(widths, dim=1) for given in (self.standardised(values), self.bank))
        distance = values.new_zeros(len(values), len(self.bank))
        shared = torch.zeros_like(distance)
        with torch.autocast(values.device.type, enabled=False):  # small differences of large products
            for m, (one, other) in enumerate(zip(ours, theirs)):
                both = (present[:, m, None] & self.bank_present[None, :, m]).to(distance.dtype)
                squared = one.square().sum(1)[:, None] + other.square().sum(1)[None, :] - 2.0 * one @ other.T
                distance += both * squared.clamp(min=0.0) / widths[m]
                shared += both
        return torch.where(shared > 0, distance / shared.clamp(min=1.0), torch.inf)


class Impute(Filler):
    """A small network per modality predicts its features from those of the others.

    With z = (f - mean) / scale, zero where a modality is missing, network m reads the others' z and which of them are
    there; its prediction of z_m has one hidden layer and starts at zero, that is at the mean. Its loss, added to the
    objective's as "MODALITY.impute", is |z_m predicted - z_m|^2 / D_m over the training samples that have m and any
    other: the share of m's variance that the others do not explain. With three modalities and more each of the others
    is hidden from the loss's prediction with probability 1/2 (all but never: one that is there stays), so that any
    subset may be asked for at test. A sample with no modality at all gets the mean.

    Features are neither trained to be predicted nor to predict: the loss trains the networks only, and the task's loss
    does not reach them. After the missing-modality imputation of Ma et al. 2021, arXiv:2103.05677 (SMIL), without its
    priors and meta-learning.
    """

    observes = True

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__(dims)
        self.networks = nn.ModuleList()
        for width in self.dims.values():
            last = nn.Linear(HIDDEN_DIM, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            read = len(self.owner) - width + len(self.dims) - 1
            self.networks.append(nn.Sequential(nn.Linear(read, HIDDEN_DIM), nn.ReLU(), last))

    @torch.no_grad()
    def fill(self, values: Tensor, present: Tensor) -> Tensor:
        """Return the networks' predictions: (B, D)."""
        standard = self.standardised(values)
        predicted = torch.cat([self._predict(m, standard, present) for m in range(len(self.dims))], dim=1)
        filling = self.mean + predicted * self.scale[self.owner]
        return torch.where(present.any(1, keepdim=True), filling, self.mean)

    def losses(self, values: Tensor, present: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """Return {modality: {"impute": scalar}}."""
        standard = self.standardised(values.detach())
        shown = present
        if len(self.dims) > 2:
            shown = present & (torch.rand(present.shape, device=present.device) < 0.5)
        found = {}
        for m, name in enumerate(self.dims):
            left = _without(shown, m).any(1, keepdim=True)
            predicted = self._predict(m, standard, torch.where(left, shown, present))
            ours = standard.split(list(self.dims.values()), dim=1)[m]
            error = (predicted - ours).square().mean(dim=1)  # (B,)
            counts = (present[:, m] & _without(present, m).any(1)).to(error.dtype)
            found[name] = {"impute": (error * counts).sum() / counts.sum().clamp(min=1.0)}
        return found

    def _predict(self, m: int, standard: Tensor, present: Tensor) -> Tensor:
        shown = standard.masked_fill(~present[:, self.owner], 0.0).split(list(self.dims.values()), dim=1)
        read = torch.cat([*shown[:m], *shown[m + 1 :], _without(present, m).to(standard.dtype)], dim=1)
        predicted: Tensor = self.networks[m](read)
        return predicted


#: "drop" removes incomplete samples from training, so that the fusion has never met a gap: what is likeliest to look
#: like what it has met, whatever is known of the sample, is the mean. Zeros may lie far from any feature.
_FILLERS: Mapping[str, type[Filler]] = {
    "drop": Mean,
    "zero": Zero,
    "mean": Mean,
    "interpolate": Interpolate,
    "impute": Impute,
    "learned-token": LearnedToken,
}


def make_filler(policy: MissingPolicy, dims: Mapping[str, int | tuple[int, ...]]) -> Filler | None:
    """Return what fills gaps under a policy; None under "mask".

    Raises:
        UsageError: an encoder gives features of several layers.
    """
    if policy == "mask":
        return None
    widths = {name: dim for name, dim in dims.items() if isinstance(dim, int)}
    if len(widths) < len(dims):
        layered = ", ".join(sorted(dims.keys() - widths.keys()))
        raise UsageError(f"missing={policy} fills vectors and sequences, but {layered} has features of several layers")
    return _FILLERS[policy](widths)


def _filled(features: Features, filling: Tensor, losses: Mapping[str, Tensor]) -> Features:
    """Put the filling where the modality is missing: (B, D) into (B, D), or into the first token of (B, T, D)."""
    here, values = features.present, features.tensor
    filling = filling.to(values.dtype)
    if features.layout == "vector":
        return replace(features, values=torch.where(here[:, None], values, filling), mask=None, losses=losses)
    first = torch.where(here[:, None], values[:, 0], filling)
    mask = torch.cat([features.token_mask[:, :1] | ~here[:, None], features.token_mask[:, 1:]], dim=1)
    return replace(features, values=torch.cat([first[:, None], values[:, 1:]], dim=1), mask=mask, losses=losses)


def _without(present: Tensor, m: int) -> Tensor:
    """Leave out a column: (B, M) -> (B, M - 1)."""
    return torch.cat([present[:, :m], present[:, m + 1 :]], dim=1)


def _squares(values: Tensor) -> Tensor:
    return values.double().square().sum(0)
