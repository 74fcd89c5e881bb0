"""Checks of meaning: what may influence an output, what may not, and what must stay finite."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.spec import FusionSpec
from mmbench.testing.checks import Fault, NotChecked, Remark, check
from mmbench.testing.state import changes, read_seeds, read_state
from mmbench.testing.subjects import (
    Case,
    EncoderCase,
    FusionCase,
    Given,
    Inputs,
    Out,
    close,
    convert,
    difference,
    per_case,
    take,
    tolerance,
)
from mmbench.testing.walk import used_in_forward

_BOTH = ("encoder", "fusion")


@check(
    "eval-is-deterministic",
    *_BOTH,
    promise="In evaluation, the same batch gives the same output each time.",
    mend="Use nn.Dropout, or pass training=self.training to functional dropout; sample noise in training only.",
    needs=("inputs-stay-as-they-are",),
)
@per_case
def eval_is_deterministic(case: Case) -> None:
    module = case.build().eval()
    inputs = case.inputs(8)
    outs = []
    for seed in (1, 2):
        _seed_everything(seed)
        outs.append(_evaluate(case, module, inputs).real())
    if not close(outs[0], outs[1], 1e-5):
        raise Fault(f"two calls of the same module in eval mode: {difference(*outs)}")


@check(
    "batch-mates-do-not-matter",
    *_BOTH,
    promise="In evaluation, a sample's output does not depend on the other samples of its batch.",
    mend="BatchNorm must use running statistics in eval: no training=True, no track_running_stats=False.",
    needs=("eval-is-deterministic", "batch-of-one"),
)
@per_case
def batch_mates_do_not_matter(case: Case) -> None:
    module = case.build().train()
    case.run(module, case.inputs(8, seed=3))
    module.eval()
    own = case.inputs(6, seed=4)
    together = _evaluate(case, module, own)
    with_others = _evaluate(case, module, _with_strange_mates(own, num_kept=2))
    alone = _evaluate(case, module, take(own, [0]))
    for other, words in ((with_others, "beside other samples"), (alone, "alone")):
        for first, second in zip(together.sample(0), other.sample(0)):
            if not close(first, second, tolerance(case.device)):
                raise Fault(f"the first sample's output {words}: {difference(first, second)}")


@check(
    "padding-content",
    *_BOTH,
    promise="What stands in padding has no influence.",
    mend="Apply the mask before anything sums or convolves over tokens: values.masked_fill(~mask[..., None], 0).",
    needs=("eval-is-deterministic",),
)
@per_case
def padding_content(case: Case) -> None:
    module = case.build().eval()
    inputs = case.inputs(8, seed=5)
    if not _has_padding(inputs):
        raise NotChecked("its samples have no padding")
    clean = _evaluate(case, module, inputs).real()
    for fill in (1.0, -30.0, 1e3):
        dirty = _evaluate(case, module, _fill_padding(inputs, fill)).real()
        if not close(clean, dirty, tolerance(case.device)):
            raise Fault(f"with {fill:g} in padding instead of 0: {difference(clean, dirty)}")
    if any(value.is_floating_point() for given in inputs.values() for value in given.values):
        dirty = _evaluate(case, module, _fill_padding(inputs, float("nan"))).real()
        if not torch.isfinite(dirty).all():
            raise Remark("NaN in padding reaches the output, as 0 * NaN is NaN; masked_fill it first and nothing can")


@check(
    "padding-amount",
    *_BOTH,
    promise="How much padding follows a sample has no influence.",
    mend="Divide by the number of real tokens, take the last real one, and mask attention; never count by shape[1].",
    needs=("padding-content",),
)
@per_case
def padding_amount(case: Case) -> None:
    module = case.build().eval()
    inputs = case.inputs(6, seed=6)
    if not _has_padding(inputs):
        raise NotChecked("its samples have no padding")
    plain, longer = _evaluate(case, module, inputs), _evaluate(case, module, _pad_more(inputs, 9))
    for row in range(6):
        for first, second in zip(plain.sample(row), longer.sample(row)):
            if not close(first, second, tolerance(case.device)):
                raise Fault(f"with nine more places of padding: {difference(first, second)}")


@check(
    "missing-is-finite",
    "fusion",
    promise="A sample that lacks a modality, or all of them, gives finite outputs and gradients.",
    mend="A softmax over nothing is NaN: give absent samples a learned token to attend to, or a finite score.",
    needs=("inputs-stay-as-they-are",),
)
@per_case
def missing_is_finite(case: FusionCase) -> None:
    spec = case.part.spec
    assert isinstance(spec, FusionSpec)
    if not spec.missing:
        raise NotChecked("it declares missing=False, so absent modalities never reach it")
    for gone in ([name] for name in case.dims):
        _check_finite_without(case, gone)
    _check_finite_without(case, list(case.dims))


def _check_finite_without(case: FusionCase, gone: list[str]) -> None:
    words = f"without {', '.join(map(repr, gone))}"
    for training in (False, True):
        module = case.build().train(training)
        inputs = _with_grad(case.inputs(6, seed=8, missing=gone))
        out = case.run(module, inputs)
        if not torch.isfinite(out.values[0]).all():
            raise Fault(f"{words}, the output holds NaN or infinity")
        total = out.values[0].square().mean() + sum(loss for loss in out.losses.values())
        if total.requires_grad:
            total.backward()
        grads = {name: item.grad for name, item in module.named_parameters()}
        grads |= {f"the input {name!r}": value.grad for name, given in inputs.items() for value in given.values}
        for name, grad in grads.items():
            if grad is not None and not torch.isfinite(grad).all():
                raise Fault(f"{words}, the output is finite but the gradient of {name} is not")


@check(
    "missing-is-told-apart",
    "fusion",
    promise="A present modality that happens to be all zero is not taken for an absent one.",
    mend="Read presence from Features.present, never from the values.",
    needs=("missing-is-finite", "mask-of-ones"),
    level="full",
)
@per_case
def missing_is_told_apart(case: FusionCase) -> None:
    spec = case.part.spec
    assert isinstance(spec, FusionSpec)
    if not spec.missing:
        raise NotChecked("it declares missing=False, so absent modalities never reach it")
    module = case.build().eval()
    inputs = case.inputs(6, seed=9, missing=[next(iter(case.dims))])
    name = next(iter(case.dims))
    given = inputs[name]
    full = replace(given, masks=tuple(mask if mask is None else torch.ones_like(mask) for mask in given.masks))
    if torch.equal(_evaluate(case, module, inputs).real(), _evaluate(case, module, {**inputs, name: full}).real()):
        raise Remark("absent and all-zero samples give the same output: its formula does not use the mask")


@check(
    "every-modality-counts",
    "fusion",
    promise="Every modality influences the output.",
    mend="Look for a modality that is overwritten, multiplied by zero or left out of a loop.",
    needs=("eval-is-deterministic",),
)
@per_case
def every_modality_counts(case: FusionCase) -> None:
    module = case.build().eval()
    for name in case.dims:
        if not any(_changes_output(case, module, name, seed) for seed in range(3)):
            raise Fault(f"replacing {name!r} by other values leaves every output as it was")


def _changes_output(case: FusionCase, module: nn.Module, name: str, seed: int) -> bool:
    first = case.inputs(8, seed=20 + seed, lengths="same")
    second = {**first, name: case.inputs(8, seed=40 + seed, lengths="same")[name]}
    return not close(_evaluate(case, module, first).real(), _evaluate(case, module, second).real(), 1e-6)


@check(
    "every-modality-gets-gradient",
    "fusion",
    promise="Gradient flows back to every modality, so that its encoder learns.",
    mend="Look for .detach(), .data, torch.no_grad() or an argmax between that input and the output.",
    needs=("every-modality-counts",),
)
@per_case
def every_modality_gets_gradient(case: FusionCase) -> None:
    module = case.build().train()
    reached: set[str] = set()
    for seed in range(3):
        inputs = _with_grad(case.inputs(8, seed=60 + seed))
        out = case.run(module, inputs)
        if not out.values[0].requires_grad:
            raise Fault("the output has no gradient at all")
        weights = torch.randn(out.values[0].shape, generator=torch.Generator().manual_seed(seed)).to(out.values[0])
        (out.values[0] * weights).sum().backward()
        reached |= {
            name
            for name, given in inputs.items()
            if any(value.grad is not None and bool(value.grad.any()) for value in given.values)
        }
    blocked = [name for name in case.dims if name not in reached]
    if blocked:
        raise Fault(f"{', '.join(map(repr, blocked))} changes the output but gets no gradient")


@check(
    "input-counts",
    "encoder",
    promise="The input influences the features.",
    mend="Look for an input that is overwritten, clamped flat or left unused.",
    needs=("eval-is-deterministic",),
)
@per_case
def input_counts(case: EncoderCase) -> None:
    module = case.build().eval()
    out = _evaluate(case, module, case.inputs(8, lengths="same"))
    first = [piece.flatten() for piece in out.sample(0)]
    if all(all(close(a, b.flatten(), 1e-6) for a, b in zip(first, out.sample(row))) for row in range(1, 8)):
        raise Fault("eight different samples give the same features")


@check(
    "order-does-not-matter",
    "fusion",
    promise="The order of the modality dict does not matter.",
    mend="Fix the order in __init__: self.names = sorted(dims), and read features[name] for name in self.names.",
    needs=("eval-is-deterministic",),
)
@per_case
def order_does_not_matter(case: FusionCase) -> None:
    if len(case.dims) < 2:
        raise NotChecked("it joins one modality only")
    inputs = case.inputs(8)
    turned = dict(reversed(inputs.items()))
    module = case.build(seed=3).eval()
    plain = _evaluate(case, module, inputs).real()
    try:
        other = _evaluate(case, module, turned).real()
    except Exception as error:
        raise Fault(f"with the dict turned round, forward fails: {type(error).__name__}: {error}") from None
    if not close(plain, other, tolerance(case.device)):
        raise Fault(f"with the dict turned round: {difference(plain, other)}")
    made = case.turned().build(seed=3).eval()
    other = _evaluate(case, made, inputs).real()
    if not close(plain, other, tolerance(case.device)):
        raise Remark("built from dims in another order, the same seed gives other weights; iterate over sorted(dims)")


@check(
    "same-seed-same-weights",
    *_BOTH,
    promise="The same seed gives the same weights.",
    mend="Draw weights by torch's global generator only, as nn.init does; not from the clock, a hash or os.urandom.",
    needs=("builds",),
)
@per_case
def same_seed_same_weights(case: Case) -> None:
    states = []
    for _ in range(2):
        _seed_everything(11)
        states.append(case.build(seed=11).state_dict())
    for name, value in states[0].items():
        if not torch.equal(value, states[1][name]):
            raise Fault(f"{name} differs between two modules built after torch.manual_seed(11)")


@check(
    "leaves-seeds-alone",
    *_BOTH,
    promise="Neither building nor running it sets a global seed.",
    mend="Remove torch.manual_seed, random.seed and np.random.seed; the core seeds every cell.",
    needs=("runs",),
)
@per_case
def leaves_seeds_alone(case: Case) -> None:
    inputs = case.inputs(4)
    module = case.build().train()
    for words, act in (("building", case.make), ("running", lambda: case.run(module, inputs))):
        after = []
        for seed in (101, 202):
            _seed_everything(seed)
            act()
            after.append(read_seeds())
        fixed = [what for what, value in after[0].items() if after[1][what] == value]
        if fixed:
            raise Fault(f"{words} it sets {', '.join(fixed)} to a fixed state")


@check(
    "leaves-settings-alone",
    *_BOTH,
    promise="Building and running it changes no default dtype, TF32 flag, thread count, grad mode, folder or variable.",
    mend="Use context managers around your own code (torch.autocast, warnings.catch_warnings), never global switches.",
    needs=("runs",),
)
@per_case
def leaves_settings_alone(case: Case) -> None:
    inputs = case.inputs(4)
    before = read_state(seeds=False)
    module = case.build()
    case.run(module.train(), inputs)
    case.run(module.eval(), inputs)
    changed = changes(before, read_state(seeds=False))
    if changed:
        raise Fault(f"it changed {'; '.join(changed)}")


@check(
    "inputs-stay-as-they-are",
    *_BOTH,
    promise="forward does not change its inputs in place.",
    mend="Replace x += … and x[…] = … on inputs by expressions that make a new tensor: others read the same tensor.",
    needs=("runs",),
)
@per_case
def inputs_stay_as_they_are(case: Case) -> None:
    module = case.build().eval()
    inputs = case.inputs(6, seed=12)
    copies = {name: given.map(torch.clone, torch.clone) for name, given in inputs.items()}
    names = list(inputs)
    _evaluate(case, module, inputs)
    if list(inputs) != names:
        raise Fault("it changed the dict of features")
    for name, given in inputs.items():
        for value, copy in zip((*given.values, *given.masks), (*copies[name].values, *copies[name].masks)):
            if value is not None and copy is not None and not torch.equal(value, copy):
                raise Fault(f"it changed {name!r} in place")


@check(
    "bf16-is-finite",
    *_BOTH,
    promise="Under bfloat16 autocast, outputs and gradients are finite.",
    mend="Compute exponentials, variances and logarithms in float32, under torch.autocast(..., enabled=False).",
    needs=("runs",),
)
@per_case
def bf16_is_finite(case: Case) -> None:
    module = case.build().train()
    inputs = case.inputs(8, seed=13)
    if isinstance(case, FusionCase):  # encoders under autocast give bfloat16, absent modalities float32 zeros
        inputs = {
            name: convert({name: given}, torch.bfloat16)[name] if i % 2 == 0 else given
            for i, (name, given) in enumerate(inputs.items())
        }
    with torch.autocast(torch.device(case.device).type, torch.bfloat16):
        try:
            out = case.run(module, inputs)
        except RuntimeError as error:
            raise Fault(f"under bfloat16 autocast: {str(error).splitlines()[0]}") from None
    if not torch.isfinite(out.real().float()).all():
        raise Fault("under bfloat16 autocast, the output holds NaN or infinity")
    total = sum(
        (value.float().square().mean() for value in out.values), sum(loss.float() for loss in out.losses.values())
    )
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise Fault(f"under bfloat16 autocast, the gradient of {name} holds NaN or infinity")


@check(
    "does-not-wait",
    *_BOTH,
    promise="forward never waits for the device: no .item(), no tensor in an if, no boolean indexing.",
    mend="Use torch.where, masked_fill and gather; sizes come from shapes, not from values.",
    needs=("runs",),
)
@per_case
def does_not_wait(case: Case) -> None:
    module = case.build().eval()
    inputs = case.inputs(8, seed=14)
    if case.device.startswith("cuda"):
        _evaluate(case, module, inputs)
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            _evaluate(case, module, inputs)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            raise Fault(f"forward waits for the GPU: {str(error).splitlines()[0]}") from None
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        return
    waits = used_in_forward(module, lambda: case.run(module, inputs), []).waits
    if waits:
        raise Remark(f"on a GPU, forward would wait for it at {', '.join(waits)}")


@check(
    "compiles",
    *_BOTH,
    promise="It gives the same under torch.compile, or says by `compiles = False` that it does not.",
    mend="Find the graph break with TORCH_LOGS=graph_breaks, or set the class attribute `compiles = False`.",
    needs=("eval-is-deterministic",),
    level="full",
)
@per_case
def compiles(case: Case) -> None:
    module = case.build().eval()
    if not getattr(module, "compiles", True):
        raise NotChecked("it says compiles = False")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    inputs = case.inputs(4)
    plain = _evaluate(case, module, inputs).real()
    try:
        other = _evaluate(case, torch.compile(module, backend="aot_eager"), inputs).real()  # type: ignore[arg-type]
    except Exception as error:
        raise Fault(f"under torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    finally:
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        torch._dynamo.reset()
    if not close(plain, other, tolerance(case.device)):
        raise Fault(f"under torch.compile: {difference(plain, other)}")
    if breaks:
        raise Remark(f"torch.compile works with {breaks} graph break{'s' * (breaks > 1)}")


def _evaluate(case: Case, module: nn.Module, inputs: Inputs) -> Out:
    with torch.no_grad():
        return case.run(module, inputs)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _with_grad(inputs: Inputs) -> Inputs:
    return {name: given.map(lambda value: value.clone().requires_grad_()) for name, given in inputs.items()}


def _with_strange_mates(inputs: Inputs, num_kept: int) -> Inputs:
    """Keep the first samples of a batch and make the others quite different, with the same lengths."""

    def strange(value: Tensor) -> Tensor:
        rest = value[num_kept:].flip(0)
        rest = rest * 4 + 3 if value.is_floating_point() else rest
        return torch.cat([value[:num_kept], rest])

    return {name: given.map(strange) for name, given in inputs.items()}


def _has_padding(inputs: Inputs) -> bool:
    return any(
        mask is not None and mask.dim() == 2 and not mask.all() for given in inputs.values() for mask in given.masks
    )


def _fill_padding(inputs: Inputs, fill: float) -> Inputs:
    return {
        name: Given(tuple(_filled(value, mask, fill) for value, mask in zip(given.values, given.masks)), given.masks)
        for name, given in inputs.items()
    }


def _filled(value: Tensor, mask: Tensor | None, fill: float) -> Tensor:
    if mask is None or mask.dim() != 2:
        return value
    hole = ~mask.reshape(*mask.shape, *[1] * (value.dim() - 2))
    if value.is_floating_point():
        return value.masked_fill(hole, fill)
    if not np.isfinite(fill):
        return value
    # Whole numbers may be ids: fill with some that do occur.
    ids = value[mask].flatten()
    return torch.where(hole, ids[int(abs(fill)) % len(ids)], value)


def _pad_more(inputs: Inputs, amount: int) -> Inputs:
    longer = {}
    for name, given in inputs.items():
        values, masks = [], []
        for value, mask in zip(given.values, given.masks):
            if mask is not None and mask.dim() == 2:
                value = torch.cat([value, value.new_zeros(len(value), amount, *value.shape[2:])], dim=1)
                mask = torch.cat([mask, mask.new_zeros(len(mask), amount)], dim=1)
            values.append(value)
            masks.append(mask)
        longer[name] = Given(tuple(values), tuple(masks))
    return longer
