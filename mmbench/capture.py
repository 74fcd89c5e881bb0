"""Training steps as replays of a CUDA graph, where launching the work takes longer than doing it.

A graph repeats what the device was asked to do, not what the host decided on the way. So a step is captured only
when nothing in it is decided on the host: no answer is waited for, no random number drawn there, no module keeps count,
and the objective reads nothing of the `Step` that changes from one to the next. All this is looked at while the first
steps run as usual. Then the graph has to prove itself: two replays and two usual steps from the same state must give
the same losses. Whatever goes wrong, training goes on with usual steps and the record says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from mmbench.hostwork import HostWaits, difference, drawn_on_host, host_state
from mmbench.model import Batch
from mmbench.optimiser import hold_rates, release_rates
from mmbench.recorder import CudaRecorder, Recorder, Replay
from mmbench.torch_compat import GRAPH_CAPTURE, copy_each

CaptureMode: TypeAlias = Literal["auto", "never"]

#: Capturing costs about as much as a few dozen steps.
MIN_STEPS = 100
#: Usual steps with batches of one shape before that shape is captured: one is watched, one is timed.
WARM_UP = 3
#: Shapes of batches that get a graph; each keeps memory for all that a step holds.
MAX_GRAPHS = 4
#: How often graphs are made anew because something that they rest on has changed.
MAX_RENEWALS = 3
#: Where launching takes less than this share of a step, the device is the one that is waited for.
MIN_LAUNCH_SHARE = 0.6
#: How far the losses of replays may be from those of usual steps, relative to them.
TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
#: Shapes of batches after which no more is hoped for.
MAX_SHAPES = 16


class Trainable(Protocol):
    """What is captured: `mmbench.train.Trainer` has it."""

    objective: nn.Module
    optimiser: torch.optim.Optimizer
    device: torch.device

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def prepare(self, batch: Batch) -> Batch:
        """Do what comes before each step and is never captured."""

    def work(
        self, batch: Batch, epoch: int, grad_norms: dict[str, Tensor] | None = None, read: set[str] | None = None
    ) -> Tensor:
        """Take the step; return its loss. `read` is filled with the names of host values that the objective reads."""


@dataclass
class _Graph:
    """One captured step: where its batch is put, and what repeats it."""

    inputs: list[Tensor]
    replay: Replay


@dataclass
class CapturedSteps:
    """Takes a trainer's steps, as replays where that is possible and pays.

    Args:
        trainer: Whose steps.
        mode: "never" leaves all steps as they are.
        resident: Whether the data lie on the device.
        num_steps: Of the whole training.
        precision: Decides how exactly replays must agree with usual steps.
        recorder: How to capture; by default as the device does.

    Attributes:
        reason: Why no step is captured, or none any more; "" while they may be.
        num_replayed: Steps taken as replays.
    """

    trainer: Trainable
    mode: CaptureMode = "auto"
    resident: bool = True
    num_steps: int = 0
    precision: str = "fp32"
    recorder: Recorder | None = None
    reason: str = field(default="", init=False)
    num_replayed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._graphs: dict[Any, _Graph] = {}
        self._seen: Counter[Any] = Counter()
        self._earlier: dict[Any, Batch] = {}
        self._rests_on: dict[str, Any] = {}
        self._num_renewals = 0
        self._num_graphs = 0
        self._rates_held = self._closed = False
        self.reason = self._reason_against()

    def facts(self) -> dict[str, Any]:
        """Return what the record says: whether steps were captured, how many of them, and why not (any more)."""
        facts: dict[str, Any] = {"captured": self.num_replayed > 0}
        if self.num_replayed:
            facts.update(num_replayed_steps=self.num_replayed, num_graphs=self._num_graphs)
        if self.reason:
            facts["reason"] = self.reason
        elif not self.num_replayed:
            facts["reason"] = (
                f"no shape of batch came more than {WARM_UP} times"
                if self._closed
                else "its steps were taken otherwise"
            )
        return facts

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Hold the device's stream for the steps of one epoch."""
        if not (self.reason or self._rates_held or self._closed):
            self._begin()
        if not self._rates_held:
            yield
            return
        assert self.recorder is not None
        self._drop_stale()
        with self.recorder.stream():
            yield

    def step(self, batch: Batch, epoch: int, grad_norms: dict[str, Tensor] | None = None) -> Tensor:
        """Take one step; return its loss, on the device. With `grad_norms` to fill it is always a usual one."""
        batch = self.trainer.prepare(batch)
        if self.reason or not self._rates_held or grad_norms is not None:
            return self.trainer.work(batch, epoch, grad_norms)
        key = signature(batch)
        graph = self._graphs.get(key)
        if graph is not None:
            return self._replayed(graph, batch)
        self._seen[key] += 1
        if len(self._seen) > MAX_SHAPES:
            self._stop(f"batches come in more than {MAX_SHAPES} shapes")
            return self.trainer.work(batch, epoch)
        if self._seen[key] <= WARM_UP:
            self._earlier[key] = batch
            return self._warm_up(batch, epoch, self._seen[key])
        if len(self._graphs) >= MAX_GRAPHS:
            return self.trainer.work(batch, epoch)
        assert self.recorder is not None
        # A capture that runs out of memory would leave less of it than there was.
        if not self.recorder.has_room():
            self._stop("the device has no room for a second copy of what a step holds")
            return self.trainer.work(batch, epoch)
        return self._captured(key, batch, epoch)

    def close(self) -> None:
        """Let go of all graphs and of what they hold; steps are usual ones from here on."""
        self._forget()
        if self._rates_held:
            release_rates(self.trainer.optimiser)
            self.recorder, self._rates_held = None, False
        self._closed = True

    def _begin(self) -> None:
        try:
            self.recorder = self.recorder or CudaRecorder(self.trainer.device)
        except RuntimeError as error:
            self._stop(f"there is no stream for it: {error}")
            return
        hold_rates(self.trainer.optimiser, self.trainer.device)
        self._rates_held = True

    def _reason_against(self) -> str:
        if self.mode == "never":
            return "switched off"
        if self.trainer.device.type != "cuda" and self.recorder is None:
            return f"only CUDA has graphs; this ran on {self.trainer.device.type}"
        if reason := GRAPH_CAPTURE.missing():
            return reason
        if not self.resident:
            return "the data do not lie on the device"
        if self.num_steps < MIN_STEPS:
            return f"{self.num_steps} steps do not pay for it, {MIN_STEPS} may"
        objective = self.trainer.objective
        for hook in ("after_backward", "before_epoch"):
            if hasattr(objective, hook) and not getattr(objective, "capturable", False):
                return f"the objective has {hook} and does not say that it is capturable"
        return ""

    def _warm_up(self, batch: Batch, epoch: int, number: int) -> Tensor:
        """Take a usual step and see whether others can be captured."""
        assert self.recorder is not None
        if number == 1:
            return self._watched(batch, epoch)
        if number < WARM_UP or self._graphs:
            return self.trainer.work(batch, epoch)
        self.recorder.synchronise()
        began = perf_counter()
        loss = self.trainer.work(batch, epoch)
        launched = perf_counter()
        self.recorder.synchronise()
        share = (launched - began) / max(perf_counter() - began, 1e-9)
        if share < MIN_LAUNCH_SHARE:
            self._stop(f"launching takes {share:.0%} of a step: the device is what is waited for")
        return loss

    def _watched(self, batch: Batch, epoch: int) -> Tensor:
        read: set[str] = set()
        before, drawn = self._host_state(), drawn_on_host(self.trainer.device)
        with HostWaits(self.trainer.device) as seen:
            loss = self.trainer.work(batch, epoch, None, read)
        changed = difference(before, self._host_state())
        if read:
            self._stop(f"the objective reads {', '.join(sorted(read))} in each step")
        elif seen.waits or (seen.copies and self.trainer.device.type != "cpu"):
            self._stop(f"a step asks the host: {', '.join([*seen.waits, *seen.copies])}")
        elif drawn_on_host(self.trainer.device) != drawn:
            self._stop("a step draws random numbers on the host")
        elif changed:
            self._stop(f"a step changes {changed}, which a graph would not")
        return loss

    def _captured(self, key: Any, batch: Batch, epoch: int) -> Tensor:
        """Capture the step, try it out beside usual ones, and return the loss of a usual one."""
        assert self.recorder is not None
        trainer = self.trainer
        held = _map_tensors(self._earlier.pop(key), torch.clone)
        chosen = [group.get("capturable") for group in trainer.optimiser.param_groups]
        try:
            for group in trainer.optimiser.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
            graph = _Graph(_tensors(held), self.recorder.record(lambda: trainer.work(held, epoch)))
        except Exception as error:  # whatever a plugin or the driver raises: usual steps still work
            self._stop(f"it failed: {type(error).__name__}: {error}")
            trainer.optimiser.zero_grad(set_to_none=True)
            return trainer.work(batch, epoch)
        finally:
            for group, before in zip(trainer.optimiser.param_groups, chosen):
                if before is not None:
                    group["capturable"] = before
        self._rests_on = self._rests_on or self._host_state()
        loss, told = self._tried(graph, batch, epoch)
        if told:
            self._stop(told)
        else:
            self._graphs[key] = graph
            self._num_graphs += 1
        return loss

    def _tried(self, graph: _Graph, batch: Batch, epoch: int) -> tuple[Tensor, str]:
        """Take the step twice in both ways; leave the state after one usual step, and say what differs."""
        assert self.recorder is not None
        start = self._save()
        try:
            replayed = [self._replayed(graph, batch, counts=False) for _ in range(2)]
            self.recorder.synchronise()
        except Exception as error:  # the driver's; the state before is whole
            self._restore(start)
            return self.trainer.work(batch, epoch), f"a replay failed: {type(error).__name__}: {error}"
        self._restore(start)
        usual = [self.trainer.work(batch, epoch)]
        after = self._save()
        usual.append(self.trainer.work(batch, epoch))
        self._restore(after)
        ours, theirs = ([float(loss) for loss in losses] for losses in (replayed, usual))
        tolerance = TOLERANCE[self.precision]
        same = all(
            math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-6) or not math.isfinite(other)
            for one, other in zip(ours, theirs)
        )
        told = f"replays gave the losses {ours[0]:.6g}, {ours[1]:.6g}, usual steps {theirs[0]:.6g}, {theirs[1]:.6g}"
        return usual[0], "" if same else told

    def _replayed(self, graph: _Graph, batch: Batch, *, counts: bool = True) -> Tensor:
        copy_each(graph.inputs, _tensors(batch))
        self.num_replayed += counts
        return graph.replay()

    def _drop_stale(self) -> None:
        """Forget graphs that rest on memory, flags or numbers that are no longer there."""
        if not self._graphs:
            return
        changed = difference(self._rests_on, self._host_state())
        if not changed:
            return
        self._forget()
        self._num_renewals += 1
        if self._num_renewals > MAX_RENEWALS:
            self._stop(f"{changed} changes again and again between epochs")

    def _host_state(self) -> dict[str, Any]:
        return host_state({"model": self.trainer.model, "objective": self.trainer.objective})

    def _stop(self, reason: str) -> None:
        self._forget()
        self.reason = reason

    def _forget(self) -> None:
        self._graphs.clear()
        self._seen.clear()
        self._earlier.clear()
        self._rests_on = {}

    def _save(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        assert self.recorder is not None
        held = [
            tensor
            for module in (self.trainer.model, self.trainer.objective)
            for tensor in (*module.parameters(), *module.buffers())
        ]
        for state in self.trainer.optimiser.state.values():
            held += [value for value in state.values() if isinstance(value, Tensor)]
        return [(tensor, tensor.detach().clone()) for tensor in held], self.recorder.random_state()

    @torch.no_grad()
    def _restore(self, saved: tuple[list[tuple[Tensor, Tensor]], Tensor]) -> None:
        assert self.recorder is not None
        tensors, state = saved
        for tensor, value in tensors:
            tensor.copy_(value)
        self.recorder.set_random_state(state)


def signature(batch: Batch) -> tuple[Any, ...]:
    """Return what two batches must share to be put through one graph: names, shapes and types of all tensors."""
    inputs = [
        (name, *(_shape(item) for item in (given.values, given.mask, given.rows)))
        for name, given in batch.inputs.items()
    ]
    targets = [(name, _shape(target)) for name, target in batch.targets.items()]
    return (batch.size, *inputs, *targets, _shape(batch.rows))


def _shape(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _tensors(batch: Batch) -> list[Tensor]:
    found = [item for given in batch.inputs.values() for item in (given.values, given.mask, given.rows)]
    return [item for item in (*found, *batch.targets.values(), batch.rows) if item is not None]


def _map_tensors(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    def changed(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    inputs = {
        name: replace(given, values=change(given.values), mask=changed(given.mask), rows=changed(given.rows))
        for name, given in batch.inputs.items()
    }
    targets = {name: change(target) for name, target in batch.targets.items()}
    return replace(batch, inputs=inputs, targets=targets, rows=changed(batch.rows))
