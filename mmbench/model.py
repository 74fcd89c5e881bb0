"""Composition: encoders, a fusion and heads as one module, each promise checked where it could be broken."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mmbench.errors import ContractError
from mmbench.features import Features
from mmbench.missing import Filler
from mmbench.spec import FusionLevel, Layout, TaskSpec


@dataclass(frozen=True)
class Input:
    """One modality of a batch, as its encoder takes it.

    Attributes:
        values: (P, …): the samples that have this modality, P of the batch's B.
        mask: (P, T) True = real; None when all samples have one length.
        rows: (P,) positions of those samples in the batch; None when every sample has the modality (P = B).
    """

    values: Tensor
    mask: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Some samples of one split.

    Attributes:
        size: B, how many samples.
        inputs: By modality.
        targets: By task: int64 (B,) for multiclass, float32 (B, K) for multilabel, float64 (B, K) for regression.
        rows: (B,) int64: where the samples stand in their split; None for samples of no split.
    """

    size: int
    inputs: Mapping[str, Input]
    targets: Mapping[str, Tensor]
    rows: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        logits: By task: (B, K); for regression the standardised prediction, for retrieval the vectors (B, M * K).
        features: By modality, as the encoders gave them.
        fused: (B, D) joined features; None for a decision-level fusion.
        unimodal_logits: By modality and task; only where heads per modality exist.
        losses: Named auxiliary losses of encoders and fusion, to be added.
    """

    logits: Mapping[str, Tensor]
    features: Mapping[str, Features]
    fused: Tensor | None
    unimodal_logits: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class MultimodalModel(nn.Module):
    """Encoders by modality, a fusion, and one linear head per task.

    Args:
        encoders: By modality name.
        layouts: What each encoder promised to give.
        fusion: Feature-level: `{modality: Features}` -> (B, fused_dim). Decision-level: called once per task with the
            task's name and `{modality: Features of logits (B, K)}` -> (B, K).
        level: Which of the two.
        accepts: The layout that the fusion takes; sequences are pooled by masked mean where it takes vectors.
        tasks: What to predict.
        unimodal_heads: Whether to give every modality heads of its own (always so at decision level).
        dropout: Applied to what the heads read.
        missing: Fills the features of missing modalities before anything reads them; None leaves that to the fusion.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        layouts: Mapping[str, Layout],
        fusion: nn.Module,
        tasks: Sequence[TaskSpec],
        *,
        level: FusionLevel = "feature",
        accepts: Layout = "vector",
        unimodal_heads: bool = False,
        dropout: float = 0.0,
        missing: Filler | None = None,
    ) -> None:
        super().__init__()
        self.modalities = tuple(encoders)
        self.layouts = dict(layouts)
        self.level = level
        self.accepts = accepts
        self.tasks = tuple(tasks)
        self.dims = {name: encoder_dim(name, encoder) for name, encoder in encoders.items()}
        # nn.ModuleDict refuses keys such as "type" or "a.b", which are fair names for a modality or a task.
        self.encoders = nn.ModuleList(encoders.values())
        self._held: frozenset[str] = frozenset()
        self.fusion = fusion
        self.missing = missing
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList()
        if level == "feature":
            width = fused_dim(fusion)
            self.heads.extend(_head(task, width, len(encoders)) for task in tasks)
        self.unimodal_heads = nn.ModuleList()
        if level == "decision" or unimodal_heads:
            for dim in self.dims.values():
                width = dim if isinstance(dim, int) else dim[-1]
                self.unimodal_heads.extend(nn.Linear(width, task.num_outputs) for task in tasks)

    def hold(self, modalities: Iterable[str]) -> None:
        """Keep these modalities' encoders in evaluation mode whatever `train` says, and no others.

        An encoder whose weights stand still must not drop features or move the statistics of its normalisation.
        """
        self._held = frozenset(modalities)
        self.train(self.training)

    def train(self, mode: bool = True) -> MultimodalModel:
        """Set training mode on everything but the held encoders."""
        super().train(mode)
        for name, encoder in zip(self.modalities, self.encoders):
            if name in self._held:
                encoder.eval()
        return self

    def encode(self, batch: Batch, *, only: Collection[str] | None = None) -> dict[str, Features]:
        """Run every encoder on the samples that have its modality; the others get zeros and a False mask.

        Args:
            batch: The samples.
            only: Modalities to encode; all by default.
        """
        encoded = {}
        for name, encoder in zip(self.modalities, self.encoders):
            if only is not None and name not in only:
                continue
            encoded[name] = self._encode_one(name, encoder, batch.inputs[name], batch.size)
        return encoded

    def fuse(self, features: Mapping[str, Features]) -> Output:
        """Join encoded features and predict, so that fusion can run on features that were encoded before."""
        filled = features if self.missing is None else self.missing(self.accepted(features))
        losses = {f"{name}.{loss}": value for name, given in filled.items() for loss, value in given.losses.items()}
        unimodal = self._unimodal_logits(filled)
        size = _batch_size(features)
        if self.level == "decision":
            logits = self._vote(unimodal, filled, size)
            return Output(logits=logits, features=features, fused=None, unimodal_logits=unimodal, losses=losses)
        fused = self.fusion(self.accepted(filled))
        if isinstance(fused, Features):
            losses.update({f"fusion.{loss}": value for loss, value in fused.losses.items()})
            fused = fused.tensor
        self._check_fused(fused, (size, fused_dim(self.fusion)))
        read = self.dropout(fused)
        logits = {task.name: head(read) for task, head in zip(self.tasks, self.heads)}
        return Output(logits=logits, features=features, fused=fused, unimodal_logits=unimodal, losses=losses)

    def accepted(self, features: Mapping[str, Features]) -> dict[str, Features]:
        """Return features in the layout that the fusion takes: sequences pooled where it takes vectors."""
        return {name: self._as_accepted(name, given) for name, given in features.items()}

    def forward(self, batch: Batch) -> Output:
        """Predict every task for a batch."""
        return self.fuse(self.encode(batch))

    def _encode_one(self, name: str, encoder: nn.Module, given: Input, size: int) -> Features:
        dim = self.dims[name]
        num_present = given.values.shape[0]
        if num_present == 0:
            return _absent(self.layouts[name], dim, size, given.values.device, self._float_dtype())
        features = encoder(given.values, given.mask)
        if isinstance(features, Tensor):
            features = Features(features)
        self._check_features(name, features, num_present)
        return features if given.rows is None else _scatter(features, given.rows, size)

    def _vote(
        self, unimodal: Mapping[str, Mapping[str, Tensor]], features: Mapping[str, Features], size: int
    ) -> dict[str, Tensor]:
        logits = {}
        for task in self.tasks:
            votes = {name: Features(unimodal[name][task.name], mask=features[name].present) for name in self.modalities}
            decided: Tensor = self.fusion(task.name, votes)
            self._check_fused(decided, (size, task.num_outputs))
            logits[task.name] = decided
        return logits

    def _as_accepted(self, name: str, features: Features) -> Features:
        if self.accepts == "vector" and features.layout == "sequence":
            return features.to_vector()
        if features.layout != self.accepts:
            raise ContractError(
                f"encoder of {name!r} gave layout {features.layout!r}; the fusion takes {self.accepts!r}"
            )
        return features

    def _unimodal_logits(self, features: Mapping[str, Features]) -> dict[str, dict[str, Tensor]]:
        if not self.unimodal_heads:
            return {}
        heads = iter(self.unimodal_heads)
        logits: dict[str, dict[str, Tensor]] = {}
        for name in self.modalities:
            read = self.dropout(features[name].layers[-1].to_vector().tensor)
            logits[name] = {task.name: next(heads)(read) for task in self.tasks}
        return logits

    def _check_features(self, name: str, features: Features, size: int) -> None:
        promised, layout = self.dims[name], self.layouts[name]
        what = f"the encoder of {name!r}"
        if not isinstance(features, Features):
            raise ContractError(f"{what} must return a tensor or Features, got {type(features).__name__}")
        if features.layout != layout:
            raise ContractError(f"{what} promised layout {layout!r}, but its forward gave {features.layout!r}")
        values = features.values if isinstance(features.values, tuple) else (features.values,)
        dims = (promised,) if isinstance(promised, int) else promised
        if len(values) != len(dims):
            raise ContractError(f"{what} promised {len(dims)} layers, but its forward gave {len(values)}")
        for value, dim in zip(values, dims):
            if value.shape[0] != size or value.shape[-1] != dim:
                raise ContractError(
                    f"{what} promised feature_dim {dim} for a batch of {size}, "
                    f"but its forward gave {tuple(value.shape)}"
                )

    def _check_fused(self, value: Tensor, expected: tuple[int, int]) -> None:
        if not isinstance(value, Tensor) or tuple(value.shape) != expected:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ContractError(f"the fusion promised {expected} (batch, width), but its forward gave {got}")

    def _float_dtype(self) -> torch.dtype:
        return next((parameter.dtype for parameter in self.parameters()), torch.float32)


def encoder_dim(name: str, encoder: nn.Module) -> int | tuple[int, ...]:
    """Return an encoder's promised width, or widths by layer for a pyramid.

    Raises:
        ContractError: it promises none.
    """
    dim = getattr(encoder, "feature_dim", None)
    if isinstance(dim, int) and dim > 0:
        return dim
    if isinstance(dim, list | tuple) and dim and all(isinstance(width, int) and width > 0 for width in dim):
        return tuple(dim)
    raise ContractError(f"the encoder of {name!r} must have feature_dim, a positive whole number; got {dim!r}")


def fused_dim(fusion: nn.Module) -> int:
    """Return a fusion's promised width.

    Raises:
        ContractError: it promises none.
    """
    dim = getattr(fusion, "fused_dim", None)
    if isinstance(dim, int) and dim > 0:
        return dim
    raise ContractError(f"a feature-level fusion must have fused_dim, a positive whole number; got {dim!r}")


def _head(task: TaskSpec, width: int, num_modalities: int) -> nn.Module:
    if task.kind != "retrieval":
        return nn.Linear(width, task.num_outputs)
    if width != num_modalities * task.num_outputs:
        raise ContractError(
            f"a fusion for the retrieval task {task.name!r} must give one vector of {task.num_outputs} for each of "
            f"{num_modalities} modalities, joined: fused_dim {num_modalities * task.num_outputs}, not {width}"
        )
    return nn.Identity()


def _batch_size(features: Mapping[str, Features]) -> int:
    values = next(iter(features.values())).values
    return (values[0] if isinstance(values, tuple) else values).shape[0]


def _scatter(features: Features, rows: Tensor, size: int) -> Features:
    """Put the present samples' features back in their places in the batch: (P, …) -> (B, …)."""

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(size, *values.shape[1:]).index_copy(0, rows, values)

    if isinstance(features.values, tuple):
        masks = tuple(place(layer.real) for layer in features.layers)
        return replace(features, values=tuple(place(value) for value in features.values), mask=masks)
    return replace(features, values=place(features.values), mask=place(features.real))


def _absent(
    layout: Layout, dim: int | tuple[int, ...], size: int, device: torch.device, dtype: torch.dtype
) -> Features:
    """Features of a batch in which nobody has the modality."""
    if isinstance(dim, tuple):
        values = tuple(torch.zeros(size, 1, width, device=device, dtype=dtype) for width in dim)
        return Features(values, tuple(torch.zeros(size, 1, dtype=torch.bool, device=device) for _ in dim))
    if layout == "vector":
        return Features(
            torch.zeros(size, dim, device=device, dtype=dtype), torch.zeros(size, dtype=torch.bool, device=device)
        )
    return Features(
        torch.zeros(size, 1, dim, device=device, dtype=dtype), torch.zeros(size, 1, dtype=torch.bool, device=device)
    )
