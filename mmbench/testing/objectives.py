"""Checks of objectives: named finite losses whose gradient reaches every part of the model that is being trained."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmbench.errors import Unavailable
from mmbench.features import Features
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.part_code import load_attribute
from mmbench.spec import FusionLevel, ObjectiveSpec, TaskSpec
from mmbench.tasks import task_loss
from mmbench.testing.checks import Fault, Level, NotChecked, check, covers, first_line
from mmbench.testing.compare import seed_everything
from mmbench.testing.state import changes, read_seeds, read_state
from mmbench.testing.subjects import MODALITIES, TASKS, per_case
from mmbench.testing.target import Part
from mmbench.testing.walk import hidden_tensors
from mmbench.train import EpochStart, Step

_WIDTH, _BATCH = 12, 16


class ObjectiveCase:
    """An objective beside a small model: one level of fusion, so many modalities, these tasks."""

    def __init__(
        self, part: Part, device: str, level: FusionLevel, num_modalities: int, tasks: tuple[TaskSpec, ...]
    ) -> None:
        self.part, self.device, self.level = part, device, level
        self.names = MODALITIES[:num_modalities]
        self.tasks = tasks
        kinds = " + ".join(task.kind for task in tasks)
        self.label = f"{level} level, {num_modalities} modalit{'y' if num_modalities == 1 else 'ies'}, {kinds}"

    def build(self, seed: int = 0) -> tuple[nn.Module, MultimodalModel]:
        """Return a fresh objective and a model for it."""
        torch.manual_seed(seed)
        objective = self.make().to(self.device)
        heads = bool(getattr(objective, "needs_unimodal_heads", False))
        model = MultimodalModel(
            {name: _Encoder() for name in self.names},
            dict.fromkeys(self.names, "vector"),
            _Mean() if self.level == "decision" else _Join(len(self.names)),
            self.tasks,
            level=self.level,
            unimodal_heads=heads,
        ).to(self.device)
        return objective, model

    def make(self) -> nn.Module:
        """Call the factory."""
        try:
            made = load_attribute(self.part.spec.factory)(
                dict.fromkeys(self.names, _WIDTH), self.tasks, **self.part.options
            )
        except Unavailable as error:
            raise NotChecked(f"unavailable here: {error}") from None
        if not isinstance(made, nn.Module):
            raise Fault(f"the factory returned {type(made).__name__}", expected="an nn.Module")
        tell_samples = getattr(made, "before_training", None)
        if tell_samples is not None:
            tell_samples([f"sample-{row}" for row in range(_BATCH)])
        observe_targets = getattr(made, "observe_targets", None)
        if observe_targets is not None:
            observe_targets(self.batch().targets)
        return made

    def batch(self, size: int = _BATCH, *, seed: int = 0, missing: bool = False) -> Batch:
        """Return samples whose labels can be told from their inputs."""
        generator = torch.Generator().manual_seed(seed)
        inputs, signal = {}, torch.randn(size, _WIDTH, generator=generator)
        for position, name in enumerate(self.names):
            values = signal + 0.3 * torch.randn(size, _WIDTH, generator=generator)
            rows = None
            if missing and position == 0:
                rows = torch.arange(1, size, 2)
                values = values[rows]
            inputs[name] = Input(values.to(self.device), None, None if rows is None else rows.to(self.device))
        targets: dict[str, Tensor] = {}
        for task in self.tasks:
            match task.kind:
                case "multiclass":
                    targets[task.name] = signal[:, : task.num_outputs].argmax(1)
                case "multilabel":
                    targets[task.name] = (signal[:, : task.num_outputs] > 0).float()
                case _:
                    targets[task.name] = signal[:, : task.num_outputs].clone()
        targets = {name: value.to(self.device) for name, value in targets.items()}
        return Batch(size=size, inputs=inputs, targets=targets, rows=torch.arange(size))

    def losses(
        self, objective: nn.Module, model: MultimodalModel, batch: Batch, *, progress: float = 0.5
    ) -> tuple[Any, Step]:
        """Call the objective as the training loop does; return what it gave, and the step."""

        generator = torch.Generator().manual_seed(3)
        step = Step(
            model=model, batch=batch, output=model(batch), epoch=int(progress * 10), progress=progress,
            generator=generator, task_loss=functools.partial(self.task_loss, targets=batch.targets),
        )  # fmt: skip
        return objective(step), step

    def task_loss(self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the core's losses over the tasks in `logits`."""
        given = [task for task in self.tasks if task.name in logits]
        return torch.stack([task_loss(task, logits[task.name].float(), targets[task.name]) for task in given]).sum()

    def total(
        self, objective: nn.Module, model: MultimodalModel, batch: Batch, *, progress: float = 0.5
    ) -> tuple[Tensor, Step]:
        """Return the sum that is minimised, checked."""
        losses, step = self.losses(objective, model, batch, progress=progress)
        if not isinstance(losses, Mapping) or not losses:
            raise Fault(f"forward(step) returned {losses!r}", expected='named losses such as {"task": scalar}')
        for name, loss in losses.items():
            if not (isinstance(name, str) and isinstance(loss, Tensor) and loss.dim() == 0):
                raise Fault(f"loss {name!r} is {loss!r}", expected="a scalar tensor under a text name")
            if not torch.isfinite(loss):
                raise Fault(f"loss {name!r} is {float(loss)}", expected="a finite number")
        return torch.stack([loss.float() for loss in losses.values()]).sum(), step


class ObjectiveSubject:
    """An objective with the cases that a level asks for."""

    def __init__(self, part: Part, level: Level, device: str) -> None:
        self.part, self.level, self.device = part, level, device

    @functools.cached_property
    def cases(self) -> list[ObjectiveCase]:
        """Every declared level, the fewest modalities and one more; every kind of task, alone and together."""
        spec = self.part.spec
        assert isinstance(spec, ObjectiveSpec)
        most = min(spec.max_modalities or spec.min_modalities + 1, spec.min_modalities + 1)
        counts = sorted({spec.min_modalities, most})
        kinds = [TASKS[kind] for kind in spec.task_kinds if kind != "retrieval"]
        groups: list[tuple[TaskSpec, ...]] = [(task,) for task in kinds]
        if len(kinds) > 1:
            groups.append(tuple(kinds))
        if not covers(self.level, "full"):
            groups = [groups[0], groups[-1]] if len(groups) > 1 else groups
        return [
            ObjectiveCase(self.part, self.device, level, count, group)
            for level in spec.levels
            for count in counts
            for group in groups
        ]


@check(
    "losses-are-finite",
    "objective",
    promise="forward(step) gives named scalar losses, finite at every stage of training, on a batch of two as well.",
    mend='Return {"name": scalar}; guard logarithms and divisions; a contrastive loss must bear a batch of two.',
    needs=("options-fit-the-factory",),
)
@per_case
def losses_are_finite(case: ObjectiveCase) -> None:
    objective, model = case.build()
    for size, progress in ((_BATCH, 0.0), (2, 0.5), (_BATCH, 1.0)):
        case.total(objective.train(), model.train(), case.batch(size), progress=progress)


@check(
    "gradient-reaches-the-model",
    "objective",
    promise="The gradient reaches every encoder, the fusion and the heads, and stays finite.",
    mend="Build the losses from step.output and step.task_loss without detaching them; see after_backward.",
    needs=("losses-are-finite",),
)
@per_case
def gradient_reaches_the_model(case: ObjectiveCase) -> None:
    objective, model = case.build()
    reached: set[str] = set()
    for batch in _batches(case):
        model.zero_grad(set_to_none=True)
        total, step = case.total(objective.train(), model.train(), batch)
        if not total.requires_grad:
            raise Fault("the losses have no gradient")
        total.backward()
        _after_backward(objective, step)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                if not torch.isfinite(parameter.grad).all():
                    raise Fault(f"the gradient of {name} holds NaN or infinity")
                if parameter.grad.any():
                    reached.add(
                        name.split(".")[0] if not name.startswith("encoders.") else ".".join(name.split(".")[:2])
                    )
    parts = {f"encoders.{position}": f"the encoder of {name!r}" for position, name in enumerate(case.names)}
    parts["unimodal_heads" if case.level == "decision" else "heads"] = "the heads"
    blocked = [words for prefix, words in parts.items() if prefix not in reached]
    if blocked:
        raise Fault(f"no gradient reaches {', '.join(blocked)}")


@check(
    "missing-modality-is-finite",
    "objective",
    promise="Samples that lack a modality give finite losses and gradients.",
    mend="Read step.output.features[name].present and leave absent samples out of that modality's loss.",
    needs=("losses-are-finite",),
)
@per_case
def missing_modality_is_finite(case: ObjectiveCase) -> None:
    objective, model = case.build()
    total, step = case.total(objective.train(), model.train(), case.batch(missing=True))
    if total.requires_grad:
        total.backward()
        _after_backward(objective, step)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise Fault(f"the gradient of {name} holds NaN or infinity")


@check(
    "weights-are-registered",
    "objective",
    promise="Every tensor with a gradient that the objective keeps is a registered parameter, and all of them train.",
    mend="Keep weights in nn.Parameter, nn.ParameterList or nn.ModuleList.",
    needs=("losses-are-finite",),
)
@per_case
def weights_are_registered(case: ObjectiveCase) -> None:
    objective, model = case.build()
    hidden = [item for item in hidden_tensors(objective) if item.tensor.requires_grad]
    if hidden:
        raise Fault(f"{', '.join(map(str, hidden[:3]))}: no optimiser sees them")
    reached: set[str] = set()
    for batch in _batches(case):
        objective.zero_grad(set_to_none=True)
        total, _ = case.total(objective.train(), model.train(), batch)
        total.backward()
        reached |= {
            name for name, item in objective.named_parameters() if item.grad is not None and bool(item.grad.any())
        }
    idle = [name for name, item in objective.named_parameters() if item.requires_grad and name not in reached]
    if idle:
        raise Fault(f"{', '.join(idle[:5])} never gets gradient")


@check(
    "keeps-nothing",
    "objective",
    promise="It keeps no graph between steps: a second step works after the first was freed.",
    mend="Keep detached values only, by .detach().",
    needs=("gradient-reaches-the-model",),
)
@per_case
def keeps_nothing(case: ObjectiveCase) -> None:
    objective, model = case.build()
    parameters = [item for module in (model, objective) for item in module.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=0.01)
    for number, batch in enumerate(_batches(case)):
        total, step = case.total(objective.train(), model.train(), batch, progress=number / 3)
        optimiser.zero_grad(set_to_none=True)
        try:
            total.backward()
        except RuntimeError as error:
            raise Fault(f"step {number + 1}: {first_line(error)}") from None
        _after_backward(objective, step)
        optimiser.step()


@check(
    "before-epoch-leaves-no-trace",
    "objective",
    promise="before_epoch(start), where it has one, changes nothing of the model; losses are finite after it.",
    mend="Change the objective's own buffers only, under whatever data `start.seen()` and `start.held_out()` give.",
    needs=("losses-are-finite",),
)
@per_case
def before_epoch_leaves_no_trace(case: ObjectiveCase) -> None:
    objective, model = case.build()
    act = getattr(objective, "before_epoch", None)
    if not callable(act):
        raise NotChecked("it has no before_epoch")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for epoch in range(3):
        start = EpochStart(
            model=model.eval(),
            epoch=epoch,
            progress=epoch / 3,
            seen=lambda: [case.batch(seed=1), case.batch(3, seed=2, missing=True)],
            held_out=lambda: [case.batch(seed=3, missing=True)] if getattr(objective, "held_out_share", 0.0) else [],
            task_loss=case.task_loss,
        )
        with torch.no_grad():
            act(start)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        if changed:
            raise Fault(f"it changed {', '.join(changed[:3])} of the model")
        case.total(objective.train(), model.train(), case.batch(), progress=epoch / 3)


@check(
    "draws-by-the-generator",
    "objective",
    promise="Its random choices come from step.generator alone: the same step, the same losses; no seed is set.",
    mend="Pass generator=step.generator to torch's random functions (they draw on the CPU; move the result).",
    needs=("losses-are-finite",),
)
@per_case
def draws_by_the_generator(case: ObjectiveCase) -> None:
    batch = case.batch()
    totals, seeds = [], []
    for seed in (5, 6):
        objective, model = case.build()  # anew: an objective may keep running means
        seed_everything(seed)
        totals.append(case.total(objective.eval(), model.eval(), batch)[0].detach())
        seeds.append(read_seeds())
    fixed = [what for what, value in seeds[0].items() if seeds[1][what] == value]
    if fixed:
        raise Fault(f"it sets {', '.join(fixed)} to a fixed state")
    if not torch.allclose(totals[0], totals[1], rtol=1e-5, atol=1e-6):
        raise Fault(f"the same step gave {float(totals[0]):.6g} and {float(totals[1]):.6g}")


@check(
    "leaves-settings-alone",
    "objective",
    promise="Building and running it changes no default dtype, TF32 flag, thread count, grad mode, folder or variable.",
    mend="Use context managers around your own code, never global switches.",
    needs=("losses-are-finite",),
)
@per_case
def leaves_settings_alone(case: ObjectiveCase) -> None:
    before = read_state(seeds=False)
    objective, model = case.build()
    case.total(objective.train(), model.train(), case.batch())
    changed = changes(before, read_state(seeds=False))
    if changed:
        raise Fault(f"it changed {'; '.join(changed)}")


@check(
    "trains-the-tasks",
    "objective",
    level="full",
    promise="A hundred steps by it lower the tasks' own loss.",
    mend="Keep the tasks' loss among the losses, or a loss that brings it down.",
    needs=("gradient-reaches-the-model",),
)
@per_case
def trains_the_tasks(case: ObjectiveCase) -> None:
    objective, model = case.build()
    parameters = [item for module in (model, objective) for item in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    held = case.batch(128, seed=777)
    before = _task_loss(case, objective, model, held)
    for number in range(100):
        total, step = case.total(objective.train(), model.train(), case.batch(32, seed=number), progress=number / 100)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        _after_backward(objective, step)
        optimiser.step()
    after = _task_loss(case, objective, model, held)
    if not after < before:
        raise Fault(f"the tasks' loss on other samples went from {before:.3f} to {after:.3f}")


def _task_loss(case: ObjectiveCase, objective: nn.Module, model: MultimodalModel, batch: Batch) -> float:
    with torch.no_grad():
        _, step = case.losses(objective.eval(), model.eval(), batch)
        return float(step.task_loss(step.output.logits))


def _after_backward(objective: nn.Module, step: Step) -> None:
    act = getattr(objective, "after_backward", None)
    if callable(act):
        act(step)


def _batches(case: ObjectiveCase) -> Iterator[Batch]:
    yield from (case.batch(seed=seed) for seed in range(3))


class _Encoder(nn.Module):
    feature_dim = _WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(_WIDTH, 24), nn.ReLU(), nn.Linear(24, _WIDTH))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        return Features(self.layers(values))


class _Join(nn.Module):
    fused_dim = 16

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_modalities * _WIDTH, self.fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        return self.layer(torch.cat([features[name].tensor for name in sorted(features)], dim=1)).relu()


class _Mean(nn.Module):
    def forward(self, task: str, logits: Mapping[str, Features]) -> Tensor:
        return torch.stack([given.tensor for given in logits.values()]).mean(dim=0)
