"""The check of `vectorises`: several seeds in one pass give what each gives alone."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmbench.testing.checks import Fault, NotChecked, check, first_line
from mmbench.testing.compare import close, difference, tolerance
from mmbench.testing.subjects import Case, Given, Inputs, per_case, take
from mmbench.together import OwnDropout, Stream, with_own_dropout

_NUM_SEEDS, _SIZE = 3, 4


@check(
    "vectorises",
    "encoder",
    "fusion",
    promise="Where it declares `vectorises`, several seeds in one vectorised pass give what each gives alone.",
    mend="Leave `vectorises` out; or use operations that torch.func.vmap knows, nn.Dropout for all that is random, "
    "and buffers that no forward changes.",
    needs=("inputs-stay-as-they-are",),
)
@per_case
def vectorises(case: Case) -> None:
    if not getattr(case.part.spec, "vectorises", False):
        raise NotChecked("it does not declare it")
    inputs = case.inputs(_NUM_SEEDS * _SIZE, seed=70)
    parts = [take(inputs, range(_SIZE * seed, _SIZE * (seed + 1))) for seed in range(_NUM_SEEDS)]
    modules = [case.build(seed).train() for seed in range(_NUM_SEEDS)]
    before = [{name: value.clone() for name, value in module.named_buffers()} for module in modules]
    parameters = _stacked([dict(module.named_parameters()) for module in modules])
    buffers = _stacked(before)
    template = with_own_dropout(_Numbers(case, copy.deepcopy(modules[0])))
    device = torch.device(case.device)
    for dropout in template.modules():
        if isinstance(dropout, OwnDropout):
            dropout.streams = [Stream(seed, device) for seed in range(_NUM_SEEDS)]

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], given: Any) -> tuple[Tensor, ...]:
        known = {f"module.{name}": value for name, value in {**parameters, **buffers}.items()}
        numbers: tuple[Tensor, ...] = functional_call(template, known, (_unpacked(given),))
        return numbers

    try:
        with warnings.catch_warnings():
            # An operation without a rule of its own is done seed by seed, which saves nothing.
            warnings.filterwarnings("error", "There is a performance drop")
            together = vmap(one, randomness="error")(parameters, buffers, _packed(parts))
            _backward(together, num_seeds=_NUM_SEEDS)
    except Exception as error:  # whatever an operation without a rule, or a branch on values, ends in
        raise Fault(f"the vectorised pass fails: {type(error).__name__}: {first_line(error)}") from None
    for seed, (module, own) in enumerate(zip(modules, parts)):
        torch.manual_seed(seed)
        alone = _Numbers(case, module)(own)
        _backward(alone)
        for theirs, ours in zip(together, alone):
            if not close(theirs[seed], ours, tolerance(case.device)):
                raise Fault(f"in training, seed {seed} of {_NUM_SEEDS}: {difference(theirs[seed], ours)}")
        for name, parameter in module.named_parameters():
            grad, stacked = parameter.grad, parameters[name].grad
            if grad is not None and (stacked is None or not close(stacked[seed], grad, 10 * tolerance(case.device))):
                raise Fault(f"the gradient of {name} differs for seed {seed} of {_NUM_SEEDS}")
        if any(not torch.equal(value, before[seed][name]) for name, value in module.named_buffers()):
            raise Fault("forward changes a buffer, which a vectorised pass does not keep")


class _Numbers(nn.Module):
    """What a module gives as bare tensors, zero where there is only padding."""

    def __init__(self, case: Case, module: nn.Module) -> None:
        super().__init__()
        self.case, self.module = case, module

    def forward(self, inputs: Inputs) -> tuple[Tensor, ...]:
        out = self.case.run(self.module, inputs)
        values = [
            value
            if mask is None
            else value.masked_fill(~mask.reshape(*mask.shape, *[1] * (value.dim() - mask.dim())), 0)
            for value, mask in zip(out.values, out.masks)
        ]
        return (*values, *out.losses.values())


def _stacked(states: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([state[name].detach() for state in states]).requires_grad_(value.requires_grad)
        for name, value in states[0].items()
    }


def _packed(parts: list[Inputs]) -> dict[str, dict[str, Tensor]]:
    """Stack the inputs of all seeds, as nothing but tensors in dicts: what is not there has no key."""
    packed: dict[str, dict[str, Tensor]] = {}
    for name, given in parts[0].items():
        layers = range(len(given.values))
        packed[name] = {f"value {layer}": torch.stack([part[name].values[layer] for part in parts]) for layer in layers}
        for layer in layers:
            masks = [mask for part in parts if (mask := part[name].masks[layer]) is not None]
            packed[name].update({f"mask {layer}": torch.stack(masks)} if masks else {})
    return packed


def _unpacked(packed: dict[str, dict[str, Tensor]]) -> Inputs:
    return {
        name: Given(
            tuple(value for key, value in given.items() if key.startswith("value")),
            tuple(given.get(key.replace("value", "mask")) for key in given if key.startswith("value")),
        )
        for name, given in packed.items()
    }


def _backward(numbers: tuple[Tensor, ...], *, num_seeds: int = 1) -> None:
    """Run back from a weighted sum of all numbers: the same weights for each seed."""
    total = torch.zeros(())
    for value in numbers:
        generator = torch.Generator().manual_seed(0)
        shape = value.shape[1:] if num_seeds > 1 else value.shape
        total = total + (value.float() * torch.randn(shape, generator=generator).to(value.device)).sum().cpu()
    if total.requires_grad:
        total.backward()
