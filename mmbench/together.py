"""Several seeds of one combo trained in one vectorised pass: what each would have done alone, done for all at once.

Weights, buffers and optimiser state of all seeds are stacked along a first axis, and `torch.func.vmap` runs the model
over it. Each seed keeps its own initialisation, order of batches, dropout, choice of epoch and end: one that stops or
diverges leaves the stack, and the others go on. What is computed for a seed is what `Trainer.run` computes, in another
order of sums; evaluation is that of `Trainer`, seed by seed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from mmbench.epochs import EpochChoice, Trained
from mmbench.errors import Diverged
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.optimiser import rate_of
from mmbench.train import Trainer

Arrays = dict[str, Tensor]


@dataclass
class _Seed:
    """One of those that still train."""

    trainer: Trainer
    choice: EpochChoice
    stream: Stream


class TrainerOfSeveral:
    """Trains the models of several trainers at once.

    Args:
        trainers: Made alike but for their seeds, and sharing the data they train on.

    Raises:
        ValueError: they do not share their data, or do something that one pass cannot do for all.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        first = trainers[0]
        if any(trainer.train_data is not first.train_data for trainer in trainers):
            raise ValueError("seeds that are trained together must share their training data")
        hooks = [name for name in ("after_backward", "before_epoch") if hasattr(first.objective, name)]
        if hooks or first.augments:
            raise ValueError(f"seeds that are trained together can have no {' and no '.join(hooks or ['augment'])}")
        self.trainers = tuple(trainers)
        self.device, self.config = first.device, first.config
        self._template = _OneSeed(first)
        self._dropouts = [module for module in self._template.modules() if isinstance(module, OwnDropout)]

    def run(self) -> list[Trained | Diverged]:
        """Train all; return how each seed went, in the order of the trainers.

        Time is shared: a seed's epoch took its equal share of what the epoch took for all that still trained.
        """
        patience = self.config.patience
        seeds = [
            _Seed(trainer, EpochChoice(trainer.model, patience), Stream(trainer.noise_seed, self.device))
            for trainer in self.trainers
        ]
        ended: dict[int, Trained | Diverged] = {}
        live = list(enumerate(seeds))
        self._stack([seed for _, seed in live])
        for epoch in range(self.config.epochs):
            lr = rate_of(self._optimiser.param_groups[0])
            began = time.perf_counter()
            losses, grad_norms = self._epoch([seed for _, seed in live], epoch)  # numbers: the device has done it all
            share = (time.perf_counter() - began) / len(live)
            kept = []
            for place, (number, seed) in enumerate(live):
                norms = {name: values[place] for name, values in grad_norms.items()}
                try:
                    ends = seed.trainer.end_epoch(seed.choice, losses[place], lr=lr, time_s=share, grad_norms=norms)
                except Diverged as error:
                    ended[number] = error
                    continue
                if ends:
                    ended[number] = self._finish(seed)
                else:
                    kept.append(place)
            if not kept:
                break
            if len(kept) < len(live) and epoch + 1 < self.config.epochs:
                live = [live[place] for place in kept]
                self._keep(kept, [seed for _, seed in live])
        for number, seed in live:
            if number not in ended:
                ended[number] = self._finish(seed)
        return [ended[number] for number in range(len(seeds))]

    def _epoch(self, seeds: Sequence[_Seed], epoch: int) -> tuple[list[float], dict[str, list[float]]]:
        """Train each seed on every sample once; return their mean losses, and norms of gradients by modality."""
        # Batch by batch, the samples of all seeds one after the other, so that they are gathered at once.
        chunks = [torch.cat(batch) for batch in zip(*(seed.trainer.next_chunks() for seed in seeds))]
        self._template.train()
        for dropout in self._dropouts:
            dropout.streams = [seed.stream for seed in seeds]
        total = torch.zeros(len(seeds), device=self.device)
        norms: Arrays = {}
        watched = len(self.trainers[0].model.modalities) > 1
        for count, batch in enumerate(self.trainers[0].train_data.gathered(chunks), start=1):
            total += self._step(seeds, batch, epoch, norms if watched and count == len(chunks) else None)
        return (total / max(len(chunks), 1)).tolist(), {name: values.tolist() for name, values in norms.items()}

    def _step(self, seeds: Sequence[_Seed], batch: Batch, epoch: int, norms: Arrays | None) -> Tensor:
        """One optimiser step of every seed; return their losses (S,)."""
        num_seeds, config = len(seeds), self.config
        for group, source in zip(self._optimiser.param_groups, seeds[0].trainer.set_lr()):
            group.update(lr=source["lr"], rate=source["rate"])
        values, masks, targets = _unstacked(batch, num_seeds)

        def loss_of_one(parameters: Arrays, buffers: Arrays, values: Arrays, masks: Arrays, targets: Arrays) -> Tensor:
            loss: Tensor = functional_call(self._template, (parameters, buffers), (values, masks, targets, epoch))
            return loss

        losses = vmap(loss_of_one, randomness="error")(self._parameters, self._buffers, values, masks, targets)
        if config.l1:
            losses = losses + config.l1 * sum(_rows(item).abs().sum(dim=1) for item in self._trained)
        losses.sum().backward()  # the sum of independent terms: to each seed its own gradient
        if norms is not None:
            norms.update(self._grad_norms())
        if config.clip_norm:
            gradients = [item.grad for item in self._trained if item.grad is not None]
            factors = (config.clip_norm / (_total_norms(gradients) + 1e-6)).clamp(max=1.0)  # as `clip_grad_norm_` does
            for gradient in gradients:
                _rows(gradient).mul_(factors[:, None])
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        for seed in seeds:
            seed.trainer.step_number += 1
        return losses.detach()

    def _grad_norms(self) -> Arrays:
        model, found = self.trainers[0].model, {}
        for number, name in enumerate(model.modalities):
            prefix = f"model.encoders.{number}."
            gradients = [
                item.grad for key, item in self._parameters.items() if key.startswith(prefix) and item.grad is not None
            ]
            if gradients:
                found[name] = _total_norms(gradients)
        return found

    def _stack(self, seeds: Sequence[_Seed]) -> None:
        """Stack the weights of all seeds, of which each seed's model then holds a part."""
        modules = [_both(seed.trainer) for seed in seeds]
        parameters = [dict(module.named_parameters()) for module in modules]
        buffers = [dict(module.named_buffers()) for module in modules]
        self._parameters = {
            name: torch.stack([own[name].detach() for own in parameters]).requires_grad_(value.requires_grad)
            for name, value in parameters[0].items()
        }
        self._buffers = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
        self._link(seeds)
        stacked = {id(value): self._parameters[name] for name, value in parameters[0].items()}
        self._trained = [item for item in self._parameters.values() if item.requires_grad]
        like = self.trainers[0].optimiser
        groups = [{**group, "params": [stacked[id(item)] for item in group["params"]]} for group in like.param_groups]
        # A group carries all settings of its optimiser, so the defaults never count.
        self._optimiser: torch.optim.Optimizer = type(like)(groups)  # type: ignore[call-arg]

    def _keep(self, places: Sequence[int], seeds: Sequence[_Seed]) -> None:
        """Let all but some seeds leave the stack."""
        index = torch.tensor(places, device=self.device)
        state = self._optimiser.state
        for item in self._parameters.values():
            whole = item.shape
            item.data = item.detach().index_select(0, index)
            for key, value in state.get(item, {}).items():
                if isinstance(value, Tensor) and value.shape == whole:
                    state[item][key] = value.index_select(0, index)
        self._buffers = {name: value.index_select(0, index) for name, value in self._buffers.items()}
        self._link(seeds)

    def _link(self, seeds: Sequence[_Seed]) -> None:
        for place, seed in enumerate(seeds):
            for name, own in _both(seed.trainer).named_parameters():
                own.data = self._parameters[name].detach()[place]

    def _finish(self, seed: _Seed) -> Trained:
        """Give a seed's model weights of its own again: those of its chosen epoch."""
        for own in _both(seed.trainer).parameters():
            own.data = own.detach().clone()
        return seed.trainer.finish(seed.choice)


class _OneSeed(nn.Module):
    """The loss of one seed as a function of its weights and a batch, for `functional_call`."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.model: MultimodalModel = with_own_dropout(copy.deepcopy(trainer.model))
        self.objective = with_own_dropout(copy.deepcopy(trainer.objective))
        self._look = trainer.look

    def forward(self, values: Arrays, masks: Arrays, targets: Arrays, epoch: int) -> Tensor:
        inputs = {name: Input(value, masks.get(name)) for name, value in values.items()}
        size = len(next(iter(targets.values())))
        return self._look(self.model, self.objective, Batch(size, inputs, targets), epoch)[1]


class Stream:
    """The random numbers of one seed, drawn as if it trained alone."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._state = torch.Generator(device).manual_seed(seed).get_state()

    def mask(self, shape: Sequence[int], p: float, dtype: torch.dtype) -> Tensor:
        """Return what dropout multiplies a tensor by: zeros, and 1 / (1 - p)."""
        before = self._get()
        self._set(self._state)
        drawn = F.dropout(torch.ones(shape, dtype=dtype, device=self._device), p)
        self._state = self._get()
        self._set(before)
        return drawn

    def _get(self) -> Tensor:
        return torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else torch.get_rng_state()

    def _set(self, state: Tensor) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state, self._device)
        else:
            torch.set_rng_state(state)


class OwnDropout(nn.Module):
    """Dropout under `vmap`, each seed drawing from its own stream."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.streams: list[Stream] = []

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.p:
            return values
        masks: Tensor = _Masks.apply(values.detach(), self.p, self.streams)
        return values * masks


class _Masks(torch.autograd.Function):
    """Dropout's masks for all seeds: (S, …) -> (S, …)."""

    @staticmethod
    def forward(values: Tensor, p: float, streams: Sequence[Stream]) -> Tensor:
        raise RuntimeError("dropout of something that is the same for all seeds has no vmap rule here")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, values: Tensor, p: float, streams: Sequence[Stream]) -> tuple[Tensor, int]:
        shape = list(values.shape)
        del shape[in_dims[0]]
        return torch.stack([stream.mask(shape, p, values.dtype) for stream in streams]), 0


def with_own_dropout(module: Any) -> Any:
    """Put `OwnDropout` in the place of every `nn.Dropout` in a module, and return it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, OwnDropout(child.p))
    return module


def _both(trainer: Trainer) -> nn.ModuleDict:
    return nn.ModuleDict({"model": trainer.model, "objective": trainer.objective})


def _unstacked(batch: Batch, num_seeds: int) -> tuple[Arrays, Arrays, Arrays]:
    """Part a batch of all seeds by seed: (S * B, …) -> (S, B, …)."""
    values, masks = {}, {}
    for name, given in batch.inputs.items():
        if given.rows is not None:
            raise ValueError(f"some samples lack {name!r}: batches of several seeds differ in shape")
        values[name] = given.values.unflatten(0, (num_seeds, -1))
        if given.mask is not None:
            masks[name] = given.mask.unflatten(0, (num_seeds, -1))
    return values, masks, {name: value.unflatten(0, (num_seeds, -1)) for name, value in batch.targets.items()}


def _rows(stacked: Tensor) -> Tensor:
    """Everything of one seed in one row: (S, …) -> (S, P)."""
    return stacked.reshape(len(stacked), -1)


def _total_norms(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients of each seed: (S,)."""
    each = torch.stack([torch.linalg.vector_norm(_rows(gradient.detach()), dim=1) for gradient in gradients])
    return torch.linalg.vector_norm(each, dim=0)
