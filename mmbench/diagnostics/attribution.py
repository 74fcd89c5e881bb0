"""What a trained cell looked at in a few test samples: integrated gradients of features and inputs, with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench.batches import some_of
from mmbench.diagnostics.depiction import Looked, depicted
from mmbench.diagnostics.disturbed import DisturbedInputs
from mmbench.diagnostics.integrated import integrated_gradients
from mmbench.diagnostics.subject import Subject
from mmbench.features import Features
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.spec import Kind, TaskSpec

VERSION = 1
#: Name of the file in a cell's folder, and the most bytes that it may have.
FILE_NAME = "attribution.json"
MAX_BYTES = 200_000
#: Sides of thumbnails, in pixels: the first with which all samples fit is taken.
SIDES = (96, 64, 48, 32, 16)
#: Gradients taken on the way from the baseline: to features only the fusion runs, to inputs the encoders too.
FEATURE_STEPS = 32
INPUT_STEPS = 16
#: Training samples whose mean is the baseline.
MAX_MEAN_SAMPLES = 64
#: Relative difference that reading an input as floating point may make.
_SAME = 1e-3

Array = NDArray[Any]
#: Modality and layer; features other than pyramids, and inputs, have the one layer 0.
Place = tuple[str, int]


@dataclass(frozen=True)
class Chosen:
    """A test sample worth looking at.

    Attributes:
        position: In the test split.
        why: "surest right".
        output: Number of the class, label or value that is explained.
    """

    position: int
    why: str
    output: int


def attribute(subject: Subject, given: DisturbedInputs) -> dict[str, Any] | None:
    """Explain the first task's predictions for up to four test samples, as plain JSON of at most 200 kB.

    Evidence is integrated gradients of the predicted class's log probability: from the mean features of training
    samples to the sample's features, all modalities together, so that the evidence of the modalities adds up to what
    the model learned from the sample. Inputs (pixels, frames, columns, steps, token embeddings) get theirs on a way of
    their own, from a mean input or from zero embeddings.

    Args:
        subject: The cell.
        given: Its inputs before their transforms.

    Returns:
        None where there is nothing to explain: a search has no predicted class.
    """
    task = next((task for task in subject.tasks if task.kind != "retrieval"), None)
    if task is None:
        return None
    samples = choose(task, subject.clean[task.name], subject.target(task), _complete(subject))
    explained = Explained(subject, task, samples)
    looked, ends = explained.features(), explained.ends
    explained.inputs(looked, {name: given.kinds[name] for name in subject.model.modalities if name not in given.encode})
    originals = {name: given.originals(name, [one.position for one in samples]) for name in subject.model.modalities}
    transforms = {
        name: None if name in given.encode else given.transform_of(name)[0] for name in subject.model.modalities
    }

    def document(side: int, count: int) -> dict[str, Any]:
        return {
            "version": VERSION,
            "task": task.name,
            "kind": task.kind,
            "steps": {"features": FEATURE_STEPS, "inputs": INPUT_STEPS},
            "samples": [
                {
                    "id": given.ids([one.position])[0][:200],
                    "why": one.why,
                    **_outcome(task, subject, one),
                    "from": _rounded(ends[at][0]),
                    "to": _rounded(ends[at][1]),
                    "modalities": [
                        depicted(
                            name, given.kinds[name], looked[name][at], originals[name][at], transforms[name], side=side
                        )
                        for name in subject.model.modalities
                    ],
                }
                for at, one in enumerate(samples[:count])
            ],
        }

    for count in range(len(samples), 0, -1):
        for side in SIDES:
            made = document(side, count)
            if len(json.dumps(made)) <= MAX_BYTES:
                return made
    return None


def choose(task: TaskSpec, prediction: Array, target: Array, complete: Array) -> list[Chosen]:
    """Choose up to four different samples, always the same; those that have every modality first.

    Of classes and labels: the surest right one, the surest wrong one, one of median confidence and the least sure one.
    Of values: the smallest, the largest and the median error. The first of equals is taken.

    Shapes: prediction (N, K), target (N,) or (N, K), complete (N,) boolean.
    """
    if task.kind == "regression":
        error = np.abs(prediction - target.reshape(prediction.shape)).mean(axis=1)
        wishes = [
            ("smallest error", error),
            ("largest error", -error),
            ("median error", np.abs(error - _middle(error))),
        ]
        outputs = np.zeros(len(prediction), dtype=np.int64)
    else:
        outputs = prediction.argmax(axis=1)
        if task.kind == "multilabel":
            sure = np.abs(prediction - 0.5).mean(axis=1) + 0.5
            right = ((prediction > 0.5) == (target > 0.5)).all(axis=1)
        else:
            sure, right = prediction.max(axis=1), outputs == target
        wishes = [
            ("surest right", np.where(right, -sure, np.inf)),
            ("surest wrong", np.where(right, np.inf, -sure)),
            ("of median confidence", np.abs(sure - _middle(sure))),
            ("least sure", sure),
        ]
    chosen: list[Chosen] = []
    taken: set[int] = set()
    for why, cost in wishes:
        # Complete ones come first whatever they cost; what costs infinity is no such sample at all.
        order = np.lexsort((cost, ~complete))
        found = next((int(at) for at in order if np.isfinite(cost[at]) and int(at) not in taken), None)
        if found is not None:
            taken.add(found)
            chosen.append(Chosen(found, why, int(outputs[found])))
    return chosen


class Explained:
    """The outputs to explain for some samples, and the attributions of a model's features and inputs to them.

    Args:
        subject: The cell.
        task: Which of its tasks.
        samples: Which of its test samples.

    Attributes:
        ends: By sample: the explained output for baseline features, and for the sample's own.
    """

    def __init__(self, subject: Subject, task: TaskSpec, samples: Sequence[Chosen]) -> None:
        self.subject, self.task, self.samples = subject, task, samples
        self.model = subject.model.eval()
        self.batch = subject.data["test"].batch(torch.tensor([one.position for one in samples]))
        self.ends: list[tuple[float, float]] = []
        self._outputs = torch.tensor([one.output for one in samples], device=subject.data["test"].device)

    def features(self) -> dict[str, list[Looked]]:
        """Attribute to features: by modality and sample."""
        with torch.no_grad():
            given = {name: replace(found, losses={}) for name, found in self.model.encode(self.batch).items()}
            means = self._mean_features()
        layers = {(name, number): layer for name, one in given.items() for number, layer in enumerate(one.layers)}
        at = {place: layer.tensor for place, layer in layers.items()}
        baseline = {
            place: torch.where(layer.real.unsqueeze(-1), means[place], layer.tensor) for place, layer in layers.items()
        }

        def value(points: Mapping[Place, Tensor]) -> Tensor:
            return self._output(self.model.fuse({name: _with_layers(one, name, points) for name, one in given.items()}))

        with _differentiable():
            found = integrated_gradients(value, at, baseline, FEATURE_STEPS)
            with torch.no_grad():
                self.ends = list(zip(value(baseline).tolist(), value(at).tolist()))
        looked: dict[str, list[Looked]] = {}
        for name, one in given.items():
            evidence = sum(found[name, number].flatten(1).sum(dim=1) for number in range(len(one.layers)))
            assert isinstance(evidence, Tensor)
            present = one.present.tolist()
            for row in range(self.batch.size):
                tokens = None
                if one.layout == "sequence":
                    tokens = found[name, 0][row].sum(dim=-1)[one.token_mask[row]].cpu().numpy()
                looked.setdefault(name, []).append(
                    Looked(present[row], float(evidence[row]), tokens, inputs=None, seen=None)
                )
        return looked

    def inputs(self, looked: dict[str, list[Looked]], kinds: Mapping[str, Kind]) -> None:
        """Add to each modality what its inputs contribute, as far as gradients reach them; the others stay as they are.

        Args:
            looked: By modality and sample; changed.
            kinds: Of the modalities whose encoders run in the model.
        """
        ways = {name: way for name, kind in kinds.items() if (way := self._way(name, kind)) is not None}
        if not ways:
            return

        def value(points: Mapping[str, Tensor]) -> Tensor:
            inputs, replaced = dict(self.batch.inputs), {}
            for name, point in points.items():
                if ways[name].table is not None:
                    replaced[name] = (ways[name].table, point)
                else:
                    inputs[name] = replace(inputs[name], values=point)
            with _replaced_embeddings(replaced.values()):
                return self._output(self.model(Batch(self.batch.size, inputs, self.batch.targets)))

        with _differentiable():
            found = integrated_gradients(
                value,
                {name: way.at for name, way in ways.items()},
                {name: way.baseline for name, way in ways.items()},
                INPUT_STEPS,
            )
        for name, way in ways.items():
            given = self.batch.inputs[name]
            rows = list(range(self.batch.size)) if given.rows is None else given.rows.tolist()
            for place, row in enumerate(rows):
                length = None if given.mask is None else int(given.mask[place].sum())
                amount = found[name][place]
                if way.table is not None:
                    amount = amount.sum(dim=-1)
                seen = None if way.table is not None else given.values[place][:length].cpu().numpy()
                looked[name][row] = replace(looked[name][row], inputs=amount[:length].cpu().numpy(), seen=seen)

    def _output(self, output: Any) -> Tensor:
        """(B,): log probability of the explained class or label, or the explained value in the target's unit."""
        logits = output.logits[self.task.name].float()
        if self.task.kind == "multiclass":
            logits = F.log_softmax(logits, dim=1)
        elif self.task.kind == "multilabel":
            logits = F.logsigmoid(logits)
        chosen: Tensor = logits.gather(1, self._outputs.unsqueeze(1)).squeeze(1)
        scaler = self.subject.scalers.get(self.task.name)
        if scaler is not None:
            chosen = chosen * scaler.std[self._outputs] + scaler.mean[self._outputs]
        return chosen

    def _mean_features(self) -> dict[Place, Tensor]:
        """The mean of every feature over real tokens of training samples, (D,)."""
        train = self.subject.data["train"]
        positions = torch.tensor(some_of(MAX_MEAN_SAMPLES, len(train)))
        total: dict[Place, Tensor] = {}
        count: dict[Place, Tensor] = {}
        for batch in train.batches(positions, min(self.subject.batch_size, 16)):
            for name, one in self.model.encode(batch).items():
                for number, layer in enumerate(one.layers):
                    value = layer.tensor
                    real = layer.real.unsqueeze(-1).expand_as(value)
                    axes = tuple(range(value.dim() - 1))
                    place = name, number
                    total[place] = total.get(place, 0.0) + value.masked_fill(~real, 0.0).sum(dim=axes)
                    count[place] = count.get(place, 0.0) + real.sum(dim=axes)
        return {place: total[place] / count[place].clamp(min=1.0) for place in total}

    def _way(self, name: str, kind: Kind) -> _Way | None:
        """From where to where a modality's inputs go; None where no gradient can."""
        given = self.batch.inputs[name]
        if not len(given.values):
            return None
        encoder = self.model.encoders[self.model.modalities.index(name)]
        if kind == "text" and not given.values.dtype.is_floating_point and given.values.dim() == 2:
            found = _embedded(encoder, given)
            if found is not None:
                table, vectors = found
                return _Way(vectors, torch.zeros_like(vectors), table)
        floating = given.values.float()
        if not _reads(self.model, name, self.batch, floating):
            return None
        values, mask = self.subject.data["train"].fit_inputs(name, MAX_MEAN_SAMPLES)
        mean = _mean_input(values.float(), mask, kind)
        if mean is None:
            return None
        baseline = mean.expand_as(floating)
        if given.mask is not None:
            real = given.mask.reshape(*given.mask.shape, *[1] * (floating.dim() - 2))
            baseline = torch.where(real, baseline, floating)
        return _Way(floating, torch.where(floating.isnan(), floating, baseline), None)


@dataclass(frozen=True)
class _Way:
    """Where a modality's inputs, or the vectors of its tokens, are and where they come from.

    Attributes:
        at, baseline: (P, …).
        table: The embedding whose output they are; None for inputs.
    """

    at: Tensor
    baseline: Tensor
    table: nn.Embedding | None


def _complete(subject: Subject) -> Array:
    """Which test samples have every modality: (N,)."""
    here: Array = np.ones(len(subject.data["test"]), dtype=bool)
    for name in subject.model.modalities:
        here &= subject.data["test"].present(name)
    return here


def _outcome(task: TaskSpec, subject: Subject, one: Chosen) -> dict[str, Any]:
    prediction = subject.clean[task.name][one.position]
    target = np.atleast_1d(subject.target(task)[one.position])
    if task.kind == "regression":
        return {"output": one.output, "true": _rounded(target[0]), "predicted": _rounded(prediction[0])}
    found: dict[str, Any] = {"output": one.output, "confidence": _rounded(prediction[one.output])}
    if task.kind == "multiclass":
        return {**found, "true": int(target[0]), "predicted": one.output}
    return {
        **found,
        "true": np.flatnonzero(target > 0.5).tolist()[:20],
        "predicted": np.flatnonzero(prediction > 0.5).tolist()[:20],
    }


def _with_layers(features: Features, name: str, points: Mapping[Place, Tensor]) -> Features:
    if isinstance(features.values, tuple):
        return replace(features, values=tuple(points[name, layer] for layer in range(len(features.values))))
    return replace(features, values=points[name, 0])


def _reads(model: MultimodalModel, name: str, batch: Batch, floating: Tensor) -> bool:
    """Whether an encoder makes the same of inputs as floating point."""
    changed = replace(batch, inputs={**batch.inputs, name: replace(batch.inputs[name], values=floating)})
    with torch.no_grad():
        try:
            first, second = (model.encode(one, only=(name,))[name].layers for one in (batch, changed))
        except Exception:  # a plugin's encoder may raise anything at a type that it was not promised
            return False
    return all(
        one.tensor.shape == other.tensor.shape
        and bool(torch.allclose(one.tensor, other.tensor, rtol=_SAME, atol=_SAME, equal_nan=True))
        for one, other in zip(first, second)
    )


def _mean_input(values: Tensor, mask: Tensor | None, kind: Kind) -> Tensor | None:
    """The mean input of training samples, known values only, in a shape that broadcasts over a batch.

    Images and videos: by channel. Tables: by column. Waveforms: one number. Frames and steps: by feature.
    None for any other shape.
    """
    channel = {2: 1, 3: 2, 4: 1, 5: 2}.get(values.dim())
    if channel is None:
        return None
    if mask is not None:
        values = values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.dim() - 2)), torch.nan)
    kept = [channel] if kind != "audio" or values.dim() > 2 else []
    return torch.nan_to_num(
        values.nanmean(dim=[axis for axis in range(values.dim()) if axis not in kept], keepdim=True)
    )


def _embedded(encoder: nn.Module, given: Input) -> tuple[nn.Embedding, Tensor] | None:
    """The embedding that an encoder looks its tokens up in first, and their vectors (P, T, D); None without one."""
    found: list[tuple[nn.Embedding, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        numbers = args[0] if args else None
        if isinstance(numbers, Tensor) and _per_token(numbers, output, given):
            assert isinstance(module, nn.Embedding)
            found.append((module, output.detach()))

    hooks = [module.register_forward_hook(note) for module in encoder.modules() if isinstance(module, nn.Embedding)]
    try:
        with torch.no_grad():
            encoder(given.values, given.mask)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _per_token(numbers: Tensor, vectors: Tensor, given: Input) -> bool:
    """Whether an embedding was asked for the tokens themselves, up to the longest text that the encoder reads."""
    if numbers.dim() != 2 or vectors.dim() != 3 or len(numbers) != len(given.values):
        return False  # of positions, or of kinds of token
    length = numbers.shape[1]
    if length > given.values.shape[1]:
        return False
    same = numbers == given.values[:, :length]
    return bool((same if given.mask is None else same | ~given.mask[:, :length]).all())


@contextmanager
def _replaced_embeddings(pairs: Any) -> Iterator[None]:
    """Let embeddings give these vectors the first time that they are asked for as many."""
    hooks = [table.register_forward_hook(_giving(vectors)) for table, vectors in pairs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _giving(vectors: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    done = False

    def give(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        nonlocal done
        if done or output.shape != vectors.shape:
            return None
        done = True
        return vectors

    return give


@contextmanager
def _differentiable() -> Iterator[None]:
    """Gradients on; cuDNN's recurrent networks have none in evaluation mode, so torch's own stand in."""
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


def _rounded(value: float) -> float | None:
    return float(f"{float(value):.6g}") if np.isfinite(value) else None


def _middle(values: Array) -> float:
    """The lower of the two middle values: one that some sample has."""
    return float(np.sort(values)[(len(values) - 1) // 2])
