"""The one training loop: every objective and every method goes through it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmbench.augment import Augment, augment_batch
from mmbench.batches import SplitData, split_order
from mmbench.capture import CapturedSteps, CaptureMode
from mmbench.config import TrainConfig
from mmbench.epochs import Epoch, EpochChoice, Trained
from mmbench.errors import Diverged, UsageError
from mmbench.evaluate import primary_value
from mmbench.hostwork import watched
from mmbench.metric_catalog import metric_specs, primary_metric
from mmbench.model import Batch, MultimodalModel, Output
from mmbench.optimiser import lr_factor, make_optimiser, rate_of, set_rate
from mmbench.profiling.watch import TrainingWatch
from mmbench.sampler import balanced_sampler
from mmbench.spec import TaskSpec
from mmbench.tasks import TargetScaler, class_weights, predictions, task_loss
from mmbench.tuning import EncoderTuning, layer_groups

TaskLoss = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Step:
    """What an objective sees of one training step, in its `forward` and in `after_backward`.

    What it may see between epochs is `EpochStart`.

    Attributes:
        model: The model being trained.
        batch: The samples.
        output: What the model made of them.
        epoch: From 0.
        progress: Share of training done, 0 to 1.
        generator: For an objective's own random choices; on the CPU.
        task_loss: Weighted sum of the core's losses, for logits by task; a task left out adds nothing.
        class_weights: By task, (K,) on the device where `class_weights=balanced` asks for them; `task_loss` has them.
        sample_weights: (B,) where the dataset gives samples weights of their own, else None; `task_loss` has them.
    """

    model: MultimodalModel
    batch: Batch
    output: Output
    epoch: int
    progress: float
    generator: torch.Generator
    task_loss: TaskLoss = field(repr=False)
    class_weights: Mapping[str, Tensor | None] = field(default_factory=dict, repr=False)
    sample_weights: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EpochStart:
    """What an objective with `before_epoch` sees before each epoch; the model is in evaluation mode, without gradients.

    An objective with `held_out_share` above 0 keeps that share of the training set from being stepped on: losses on it
    say how training generalises while it goes on. Val stays what chooses the epoch.

    Attributes:
        model: The model being trained.
        epoch: The epoch that begins, from 0.
        progress: Share of training done, 0 to 1.
        seen: Gives batches of samples that steps are taken on: as many as are held out, all where none is.
        held_out: Gives batches of all that is held out.
        task_loss: Weighted sum of the core's losses, for logits and targets by task.
    """

    model: MultimodalModel
    epoch: int
    progress: float
    seen: Callable[[], Iterable[Batch]] = field(repr=False)
    held_out: Callable[[], Iterable[Batch]] = field(repr=False)
    task_loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor] = field(repr=False)


class Trainer:
    """One model, one objective, one optimiser.

    Args:
        model: Trained in place.
        objective: Called once per step with a `Step`; gives named losses, which are summed. It may also have
            `after_backward(step)`, `before_epoch(EpochStart)` and `held_out_share`.
        train, val: The only data that training sees.
        tasks: What to predict.
        scalers: By task: what the targets of a regression are standardised by; None for any other.
        config: Settings.
        order_seed: Decides the order of batches; equal for all cells of one repeat.
        noise_seed: Decides dropout and the objective's own random choices.
        tunings: How encoders are trained, by modality; those not named are trained from scratch.
        augments: Random changes to what each step reads, by modality.
        on_epoch: Told of every epoch when it is done; its time does not count as training.
        cuda_graphs: Whether steps may be captured.

    Attributes:
        watch: Takes the times of steps and of passes over val, where somebody wants them.
    """

    def __init__(
        self,
        model: MultimodalModel,
        objective: nn.Module,
        train: SplitData,
        val: SplitData,
        tasks: Sequence[TaskSpec],
        scalers: Mapping[str, TargetScaler | None],
        config: TrainConfig,
        *,
        order_seed: int,
        noise_seed: int,
        tunings: Mapping[str, EncoderTuning] | None = None,
        augments: Mapping[str, Augment] | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        cuda_graphs: CaptureMode = "never",
    ) -> None:
        self.on_epoch = on_epoch
        self.model, self.objective = model, objective
        self.train_data, self.val_data = train, val
        self.tasks, self.scalers, self.config = tuple(tasks), scalers, config
        self.device = train.device
        self.weights = {task.name: _weights(task, train, config.class_weights == "balanced") for task in tasks}
        self.parameters = [
            parameter for module in (model, objective) for parameter in module.parameters() if parameter.requires_grad
        ]
        encoders = dict(zip(model.modalities, model.encoders))
        self.tuned = [(name, encoders[name], tuning) for name, tuning in (tunings or {}).items()]
        lr_factors = {id(item): tuning.lr_factor for _, encoder, tuning in self.tuned for item in encoder.parameters()}
        self.optimiser = make_optimiser([model, objective], config, self.device, lr_factors)
        self._open_layers(epoch=0)
        balanced = config.sampler == "balanced"
        self.order = torch.Generator().manual_seed(order_seed)
        self.generator = torch.Generator().manual_seed(noise_seed)
        self.noise_seed = noise_seed
        self.augments = dict(augments or {})
        self.stepped_on, self.held_out = _divided(len(train), getattr(objective, "held_out_share", 0.0), order_seed)
        self._sampler = balanced_sampler(self.tasks, train.targets, self.stepped_on) if balanced else None
        steps_per_epoch = max(1, math.ceil(len(self.stepped_on) / config.batch_size))
        self.total_steps = steps_per_epoch * config.epochs
        self.step_number = 0
        self.watch: TrainingWatch | None = None
        self._after_backward = getattr(objective, "after_backward", None)
        self._before_epoch = getattr(objective, "before_epoch", None)
        self.captured = CapturedSteps(
            self, cuda_graphs, resident=train.resident, num_steps=self.total_steps, precision=config.precision
        )

    def run(self) -> Trained:
        """Train, choose the epoch on val, and leave its weights in the model.

        Raises:
            Diverged: the loss is not finite.
        """
        torch.manual_seed(self.noise_seed)
        choice = EpochChoice(self.model, self.config.patience)
        for epoch in range(self.config.epochs):
            lr = rate_of(self.optimiser.param_groups[0])
            began = time.perf_counter()
            grad_norms: dict[str, float] = {}
            if epoch == 0:
                self.observe()
            self.before_epoch(epoch)
            train_loss = self.epoch(epoch, grad_norms)
            self.observe()
            taken = time.perf_counter() - began
            if self.end_epoch(choice, train_loss, lr=lr, time_s=taken, grad_norms=grad_norms):
                break
        return self.finish(choice)

    def end_epoch(
        self, choice: EpochChoice, train_loss: float, *, lr: float, time_s: float, grad_norms: Mapping[str, float]
    ) -> bool:
        """Look at val after an epoch; return whether training ends here.

        Raises:
            Diverged: the loss is not finite.
        """
        epoch = len(choice.history)
        _check_finite(train_loss, "train", epoch)
        val_loss, score = self.validate()
        _check_finite(val_loss, "val", epoch)
        ends = choice.add(Epoch(train_loss, val_loss, score, lr, time_s, grad_norms))
        self.on_epoch(choice.history[-1])
        return ends

    def finish(self, choice: EpochChoice) -> Trained:
        """Leave the weights of the chosen epoch in the model."""
        self.captured.close()
        choice.restore()
        history = choice.history
        later = history[1:] or history
        return Trained(
            history=tuple(history),
            best_epoch=choice.best_epoch,
            selected_by=self.selected_by,
            num_steps=self.step_number,
            train_time_s=sum(item.time_s for item in history),
            samples_per_s=len(self.stepped_on) * len(later) / max(sum(item.time_s for item in later), 1e-9),
        )

    @property
    def progress(self) -> float:
        """Share of training done, 0 to 1; steps that are taken afterwards, to be measured, add nothing."""
        return min(self.step_number / self.total_steps, 1.0)

    @property
    def selected_by(self) -> str:
        """Name of what chooses the epoch: several tasks have no common metric, so their loss does."""
        by_loss = self.config.select == "loss" or len(self.tasks) > 1
        return "loss" if by_loss else primary_metric(self.tasks[0])

    def epoch(self, epoch: int, grad_norms: dict[str, float] | None = None) -> float:
        """Train on every sample once; return the mean loss. Nothing in here waits for the device but the end.

        What an objective holds out is left out.

        Args:
            epoch: From 0.
            grad_norms: Filled with `Epoch.grad_norms`, where several modalities are trained.
        """
        self._open_layers(epoch)
        self.model.train()
        self.objective.train()
        chunks = self.next_chunks()
        total = torch.zeros((), device=self.device)
        norms: dict[str, Tensor] = {}
        measured = grad_norms is not None and len(self.model.modalities) > 1
        take = self.captured.step if self.watch is None else functools.partial(self.watch.step, self.captured.step)
        with self.captured.epoch():
            for count, batch in enumerate(self.train_data.gathered(chunks), start=1):
                total += take(batch, epoch, norms if measured and count == len(chunks) else None)
                self.step_number += 1
        if grad_norms is not None:
            grad_norms.update({name: float(norm) for name, norm in norms.items()})
        return float(total) / max(len(chunks), 1)

    def next_chunks(self) -> list[Tensor]:
        """Return the positions of the samples that the next epoch steps on, batch by batch."""
        order = self.stepped_on[self._draw_epoch()]
        # A last batch of one, after larger ones, would give BatchNorm nothing to normalise over.
        size = self.config.batch_size
        return split_order(order, size, min_size=min(2, size))

    def _draw_epoch(self) -> Tensor:
        """Return positions in `stepped_on` for one epoch, in the order of training."""
        num_samples = len(self.stepped_on)
        if self._sampler is None:
            return torch.randperm(num_samples, generator=self.order)
        return self._sampler.draw(num_samples, self.order)

    def before_epoch(self, epoch: int) -> None:
        """Show the objective how training stands, where it wants to know."""
        if self._before_epoch is None:
            return
        self.model.eval()
        self.objective.eval()
        size = evaluation_batch_size(self.config)
        seen = self.stepped_on[: len(self.held_out) or None]
        start = EpochStart(
            model=self.model,
            epoch=epoch,
            progress=self.progress,
            seen=lambda: self.train_data.batches(seen, size),
            held_out=lambda: self.train_data.batches(self.held_out, size) if len(self.held_out) else (),
            task_loss=self.loss,
        )
        with torch.no_grad(), _autocast(self.device, self.config):
            self._before_epoch(start)

    def observe(self) -> None:
        """Show the policy for missing modalities the training set's features as the weights give them now."""
        filler = self.model.missing
        if filler is None or not filler.observes:
            return
        self.model.eval()
        batches = self.train_data.in_order(evaluation_batch_size(self.config))
        with torch.no_grad(), _autocast(self.device, self.config):
            filler.observe((self.model.accepted(self.model.encode(batch)) for batch in batches), len(self.train_data))

    def step(self, batch: Batch, epoch: int = 0, grad_norms: dict[str, Tensor] | None = None) -> Tensor:
        """One optimiser step; return the detached loss. `grad_norms` is filled with each encoder's, on the device."""
        loss = self.work(self.prepare(batch), epoch, grad_norms)
        self.step_number += 1
        return loss

    def prepare(self, batch: Batch) -> Batch:
        """Set the learning rate of the step to come, and change its samples at random where that is asked for."""
        self.set_lr()
        return augment_batch(batch, self.augments) if self.augments else batch

    def work(
        self, batch: Batch, epoch: int, grad_norms: dict[str, Tensor] | None = None, read: set[str] | None = None
    ) -> Tensor:
        """Do what a step asks of the device; `read` is filled with what the objective reads of the host's values."""
        config = self.config
        with _autocast(self.device, config):
            step, loss = self.look(self.model, self.objective, batch, epoch, read)
        if config.l1:
            loss = loss + config.l1 * functools.reduce(torch.add, [item.abs().sum() for item in self.parameters])
        loss.backward()
        if self._after_backward is not None:
            self._after_backward(step)
        if grad_norms is not None:
            grad_norms.update(_grad_norms(self.model))
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    def look(
        self, model: MultimodalModel, objective: nn.Module, batch: Batch, epoch: int, read: set[str] | None = None
    ) -> tuple[Step, Tensor]:
        """Run a model and its objective over a batch; return what the objective saw and the loss, a scalar."""
        output = model(batch)
        weights = self._sample_weights(batch)
        step = Step(
            model=model,
            batch=batch,
            output=output,
            epoch=epoch,
            progress=self.progress,
            generator=self.generator,
            task_loss=lambda logits: self.loss(logits, batch.targets, weights),
            class_weights=self.weights,
            sample_weights=weights,
        )
        step = step if read is None else watched(step, read)
        losses = {**objective(step), **output.losses}
        return step, functools.reduce(torch.add, [value.float() for value in losses.values()])

    def _sample_weights(self, batch: Batch) -> Tensor | None:
        """Return the weights of a batch's samples, (B,); None where all are 1."""
        if self.train_data.weights is None:
            return None
        if batch.rows is None:
            raise UsageError("samples have weights of their own, which seeds that are trained together do not take")
        return self.train_data.weights.index_select(0, batch.rows)

    def loss(
        self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], sample_weights: Tensor | None = None
    ) -> Tensor:
        """Weighted sum over the tasks in `logits` of their losses, with regression targets standardised.

        With sample weights, (B,), each task's loss is the weighted mean over samples.
        """
        terms = []
        for task in self.tasks:
            if task.name not in logits:
                continue
            scaler = self.scalers[task.name]
            target = targets[task.name] if scaler is None else scaler.scale(targets[task.name])
            value = task_loss(
                task,
                logits[task.name].float(),
                target,
                class_weights=self.weights[task.name],
                sample_weights=sample_weights,
            )
            terms.append(task.weight * value)
        return functools.reduce(torch.add, terms)

    def set_lr(self) -> list[dict[str, Any]]:
        """Give the optimiser the rates of the next step, and return its groups."""
        factor = lr_factor(self.progress, self.config)
        for group in self.optimiser.param_groups:
            set_rate(group, self.config.lr * factor * group["lr_factor"])
        return self.optimiser.param_groups

    def validate(self) -> tuple[float, float]:
        """Return the task loss on val and the score that chooses the epoch, more being better."""
        run = self.model if self.watch is None else self.watch.infer
        logits = predict(self.model, self.val_data, self.config, run)
        loss = float(self.loss(logits, self.val_data.targets))
        if self.selected_by == "loss":
            return loss, -loss
        task = self.tasks[0]
        predicted = predictions(task, logits[task.name].float(), self.scalers[task.name])
        value = primary_value(task, predicted, self.val_data.targets[task.name])
        return loss, -value if metric_specs(task)[primary_metric(task)].direction == "min" else value

    def _open_layers(self, epoch: int) -> None:
        """Let gradients reach the layers that each encoder's tuning trains in this epoch."""
        held = []
        for name, encoder, tuning in self.tuned:
            if tuning.tuning != "finetune":
                # What is trained of it, adapters say themselves.
                held += [name] if tuning.tuning in ("frozen", "adapter") else []
                continue
            groups = layer_groups(encoder)
            num_open = tuning.num_open(len(groups), epoch)
            for number, group in enumerate(groups):
                for parameter in group:
                    parameter.requires_grad_(number >= len(groups) - num_open)
            held += [name] if not num_open else []
        self.model.hold(held)


@torch.inference_mode()
def predict(
    model: MultimodalModel, data: SplitData, config: TrainConfig, run: Callable[[Batch], Output] | None = None
) -> dict[str, Tensor]:
    """Return logits by task for a whole split, in its order: (N, K); `run` runs the model in its place."""
    run = run or model
    model.eval()
    parts: dict[str, list[Tensor]] = {task.name: [] for task in model.tasks}
    with _autocast(data.device, config):
        for batch in data.in_order(evaluation_batch_size(config)):
            for name, logits in run(batch).logits.items():
                parts[name].append(logits)
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def evaluation_batch_size(config: TrainConfig) -> int:
    """Return how many samples a forward pass takes where nothing is learned from it."""
    return max(config.batch_size, 256)


def _autocast(device: torch.device, config: TrainConfig) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _grad_norms(model: MultimodalModel) -> dict[str, Tensor]:
    """Return the norm of the gradient of each encoder that has one."""
    found = {}
    for name, encoder in zip(model.modalities, model.encoders):
        gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
        if gradients:
            found[name] = nn.utils.get_total_norm(gradients).detach()
    return found


def _divided(num_samples: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the samples to step on and of those to hold out, which the seed alone chooses."""
    if not share:
        return torch.arange(num_samples), torch.arange(0)
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    num_held = min(max(1, round(share * num_samples)), num_samples - 1)
    return order[num_held:], order[:num_held]


def _check_finite(loss: float, split: str, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the loss on {split} is {loss} in epoch {epoch + 1}; a lower lr may help")


def _weights(task: TaskSpec, train: SplitData, balanced: bool) -> Tensor | None:
    if not balanced:
        return None
    weights = class_weights(task, train.targets[task.name].cpu().numpy())
    return None if weights is None else weights.to(train.device)
