"""Checks that what a module learns with is registered, trains, moves and survives: the fault that hides longest."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmbench.testing.checks import Fault, Finding, NotChecked, Owner, check, first_line
from mmbench.testing.compare import close, difference, tolerance
from mmbench.testing.subjects import Case, EncoderCase, Given, Inputs, Out, convert, per_case
from mmbench.testing.walk import Hidden, hidden_tensors, registered, storages, used_in_forward
from mmbench.torch_compat import (
    AUTOGRAD_GRAPH,
    FAKE_TENSORS,
    OP_INTERCEPTION,
    autograd_leaves,
    fake_tensors,
    meta_device,
)

_BOTH: tuple[Owner, ...] = ("encoder", "fusion")
_NO_GPU_WORDS = ("CUDA", "NVIDIA driver", "not linked with support")
_DEVICE_WORDS = ("not on the expected device", "two different devices", "same device", "on different device")


@check(
    "builds",
    *_BOTH,
    promise="The factory builds an nn.Module with the default options for everything that the descriptor accepts.",
    mend="The factory is called as its descriptor's docstring in mmbench.spec says, with the options in `defaults`.",
    needs=("options-fit-the-factory",),
)
@per_case
def builds(case: Case) -> None:
    case.build(fitted=False)


@check(
    "runs",
    *_BOTH,
    promise="forward takes an ordinary batch, in training and in evaluation.",
    mend="Run the factory and forward by hand with these shapes; the line named is where it stopped.",
    needs=("builds", "transform-is-regular"),
)
@per_case
def runs(case: Case) -> None:
    module = case.build()
    for training in (True, False):
        out = case.run(module.train(training), case.inputs(8))
        for value in out.values:
            if not torch.isfinite(value).all():
                raise Fault("an ordinary batch gave NaN or infinity")


@check(
    "weights-are-registered",
    *_BOTH,
    promise="Every tensor with a gradient is a registered parameter, so that optimisers, .to() and state_dict find it.",
    mend="Keep weights in nn.Parameter, nn.ParameterList or nn.ModuleList, never in a plain list, dict or closure.",
    needs=("runs",),
)
@per_case
def weights_are_registered(case: Case) -> None:
    module = case.build()
    inputs = case.inputs(8)
    out = case.run(module.train(), inputs)
    known = storages([*registered(module), *_tensors(inputs)])
    hidden = [
        item for item in hidden_tensors(module) if item.tensor.requires_grad or isinstance(item.tensor, nn.Parameter)
    ]
    named = storages(item.tensor for item in hidden)
    leaves = [] if AUTOGRAD_GRAPH.missing() else autograd_leaves([*out.values, *out.losses.values()])
    hidden += [Hidden(leaf, "") for leaf in leaves if not storages([leaf]) & (known | named)]
    if not hidden and (reason := AUTOGRAD_GRAPH.missing()):
        raise NotChecked(reason)
    if hidden:
        lost, kept = sum(item.tensor.numel() for item in hidden), sum(item.numel() for item in module.parameters())
        raise Fault(
            f"{_some(hidden)}: {lost:,} weights that no optimiser sees, beside {kept:,} registered",
            expected="every one of them among module.parameters()",
        )


@check(
    "constants-are-registered",
    *_BOTH,
    promise="Every constant tensor that forward reads is a registered buffer, so that it follows .to() and state_dict.",
    mend="Use self.register_buffer(name, tensor); persistent=False where it can be computed again.",
    needs=("weights-are-registered",),
)
@per_case
def constants_are_registered(case: Case) -> None:
    if reason := OP_INTERCEPTION.missing():
        raise NotChecked(reason)
    module = case.build().eval()
    inputs = case.inputs(8)
    used = used_in_forward(module, lambda: case.run(module, inputs), _tensors(inputs))
    if used.foreign:
        paths = {id(item.tensor): item.path for item in hidden_tensors(module)}
        by_storage = {next(iter(storages([item.tensor])), 0): item.path for item in hidden_tensors(module)}
        hidden = [
            Hidden(item, paths.get(id(item), by_storage.get(next(iter(storages([item])), -1), "")))
            for item in used.foreign
        ]
        raise Fault(f"forward reads {_some(hidden)}, not registered")


@check(
    "every-parameter-trains",
    *_BOTH,
    promise="Every parameter gets gradient and changes within a few optimiser steps on varied data.",
    mend="Use it in forward, remove it, or set requires_grad=False where it is meant to stay; look for a detach.",
    needs=("runs",),
)
@per_case
def every_parameter_trains(case: Case) -> None:
    module = case.build().train()
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise NotChecked("it has no trainable parameters")
    before = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    optimiser = torch.optim.Adam(trainable.values(), lr=1e-3)
    touched: set[str] = set()
    generator = torch.Generator().manual_seed(7)
    for number, inputs in enumerate(case.varied()):
        optimiser.zero_grad(set_to_none=True)
        try:
            out = case.run(module, inputs)
        except (RuntimeError, ValueError, IndexError):
            if number == 0:
                raise
            continue  # which sizes work is another check's question
        _loss(out, generator).backward()
        touched |= {
            name for name, parameter in trainable.items() if parameter.grad is not None and bool(parameter.grad.any())
        }
        optimiser.step()
    idle = [name for name in trainable if name not in touched]
    if idle:
        never = [name for name in idle if trainable[name].grad is None]
        words = "no gradient" if never else "a gradient of exactly zero"
        names = ", ".join(idle[:5]) + (" …" if len(idle) > 5 else "")
        raise Fault(f"{names} had {words} in any step ({len(idle)} of {len(trainable)} parameters)")
    stuck = [name for name, parameter in trainable.items() if torch.equal(parameter.detach(), before[name])]
    if stuck:
        raise Fault(f"{', '.join(stuck[:5])} had gradient, but did not change after optimiser steps")


@check(
    "follows-dtype",
    *_BOTH,
    promise="module.to(torch.float64) takes everything along, and a fusion then works on float64 features.",
    mend="Register weights and constants; make new tensors with dtype=x.dtype, or by x.new_zeros.",
    needs=("weights-are-registered", "constants-are-registered"),
)
@per_case
def follows_dtype(case: Case) -> None:
    module = case.build().to(torch.float64).eval()
    left = [
        name
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and tensor.dtype != torch.float64
    ]
    if left:
        raise Fault(f"{', '.join(left)} stayed behind")
    if isinstance(case, EncoderCase):
        return  # it may cast the raw integers of its input as it likes
    try:
        out = case.run(module, convert(case.inputs(4), torch.float64))
    except RuntimeError as error:
        if "dtype" not in str(error) and "scalar type" not in str(error):
            raise
        raise Fault(f"with float64 weights and inputs: {first_line(error)}") from None
    if not torch.isfinite(out.values[0]).all():
        raise Fault("with float64 weights and inputs, forward gave NaN or infinity")


@check(
    "made-on-any-device",
    *_BOTH,
    promise="Weights are made on the device that the caller sets: none is written into __init__.",
    mend="Leave device=, .cuda() and .to(...) out of __init__; the core moves the module.",
    needs=("options-fit-the-factory",),
)
@per_case
def made_on_any_device(case: Case) -> None:
    if getattr(case.part.spec, "weights", ()):
        raise NotChecked("its weights are loaded from files")
    try:
        with meta_device():
            module = case.make()
    except Finding as finding:
        raise NotChecked(f"it cannot be built: {finding.found}") from None
    except (NotImplementedError, RuntimeError, AssertionError) as error:
        if any(words in str(error) for words in (*_DEVICE_WORDS, *_NO_GPU_WORDS)):
            raise Fault(f"made elsewhere, it meets a device of its own: {first_line(error)}") from None
        raise NotChecked("it computes with its first weights, which a device without numbers cannot") from None
    fixed = [name for name, item in module.named_parameters() if not item.is_meta]
    if fixed:
        where = module.get_parameter(fixed[0]).device
        raise Fault(f"{', '.join(fixed[:5])} was made on {where} whatever device was asked for")


@check(
    "follows-device",
    *_BOTH,
    promise="After module.to(device), forward works there and names no device of its own.",
    mend="Write device=x.device, x.new_zeros or torch.zeros_like in forward; never .cuda() or .to('cpu').",
    needs=("weights-are-registered", "constants-are-registered"),
)
@per_case
def follows_device(case: Case) -> None:
    if reason := FAKE_TENSORS.missing():
        raise NotChecked(reason)
    module = case.build().eval()
    inputs = case.inputs(4)
    states = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }

    class Call(nn.Module):
        """Lets `functional_call` swap the weights below a call that is not plain forward."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, inputs: Inputs) -> Out:
            return case.run(self.inner, inputs)

    try:
        with fake_tensors(), torch.no_grad():
            there = {
                name: Given(
                    tuple(torch.empty_like(value, device="meta") for value in given.values),
                    tuple(mask if mask is None else torch.empty_like(mask, device="meta") for mask in given.masks),
                )
                for name, given in inputs.items()
            }
            out = functional_call(Call(), {f"inner.{name}": state for name, state in states.items()}, (there,))
    except Exception as error:  # pretended tensors raise what no real one does
        if any(words in str(error) for words in _DEVICE_WORDS):
            met = first_line(error)
            raise Fault(f"with weights and inputs on another device, forward met tensors of its own: {met}") from None
        return  # an op that the pretended device cannot do says nothing about the module
    if any(value.device.type != "meta" for value in out.values):
        raise Fault(f"forward moved its output to {out.values[0].device}")


@check(
    "state-survives",
    *_BOTH,
    promise="state_dict -> a fresh instance -> equal outputs: a saved model is the model.",
    mend="Register as buffers all that `fit` or training changes; build the same parameters whatever the seed.",
    needs=("constants-are-registered", "eval-is-deterministic"),
)
@per_case
def state_survives(case: Case) -> None:
    module = case.build(seed=1).train()
    for inputs in (case.inputs(8, seed=1), case.inputs(6, seed=2)):
        case.run(module, inputs)  # running statistics move
    fresh = case.build(seed=2, fitted=False)
    state = copy.deepcopy(module.state_dict())
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        raise Fault(f"a fresh instance cannot load it: {' '.join(str(error).split())}") from None
    with torch.no_grad():
        first, second = (case.run(one.eval(), case.inputs(8)).real() for one in (module, fresh))
    if not close(first, second, tolerance(case.device)):
        raise Fault(f"after loading, {difference(first, second)}")


def _loss(out: Out, generator: torch.Generator) -> Tensor:
    """Squared distance to random targets, plus the module's own losses."""
    total = sum(loss.mean() for loss in out.losses.values())
    for value, mask in zip(out.values, out.masks):
        target = torch.randn(value.shape, generator=generator).to(value)
        gap = (value - target).square()
        if mask is not None and mask.dim() == value.dim() - 1:
            gap = gap.masked_fill(~mask[..., None], 0.0)
        total = total + gap.mean()
    assert isinstance(total, Tensor)
    return total


def _tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Any] = [item for given in inputs.values() for item in (*given.values, *given.masks)]
    return [item for item in found if item is not None]


def _some(hidden: list[Hidden]) -> str:
    rest = f" and {len(hidden) - 3} more" if len(hidden) > 3 else ""
    return f"{', '.join(str(item) for item in hidden[:3])}{rest}"
