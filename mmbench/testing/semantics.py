"""Checks of meaning: what may influence an output, what may not, and what must stay finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.spec import FusionSpec
from mmbench.testing.checks import Fault, NotChecked, Owner, Remark, check
from mmbench.testing.compare import close, difference, evaluate, seed_everything, tolerance
from mmbench.testing.subjects import Case, EncoderCase, FusionCase, Given, Inputs, per_case, take

_BOTH: tuple[Owner, ...] = ("encoder", "fusion")


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
        seed_everything(seed)
        outs.append(evaluate(case, module, inputs).real())
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
    together = evaluate(case, module, own)
    with_others = evaluate(case, module, _with_strange_mates(own, num_kept=2))
    alone = evaluate(case, module, take(own, [0]))
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
    clean = evaluate(case, module, inputs).real()
    for fill in (1.0, -30.0, 1e3):
        dirty = evaluate(case, module, _fill_padding(inputs, fill)).real()
        if not close(clean, dirty, tolerance(case.device)):
            raise Fault(f"with {fill:g} in padding instead of 0: {difference(clean, dirty)}")
    if any(value.is_floating_point() for given in inputs.values() for value in given.values):
        dirty = evaluate(case, module, _fill_padding(inputs, float("nan"))).real()
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
    plain, longer = evaluate(case, module, inputs), evaluate(case, module, _pad_more(inputs, 9))
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
    if torch.equal(evaluate(case, module, inputs).real(), evaluate(case, module, {**inputs, name: full}).real()):
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
    return not close(evaluate(case, module, first).real(), evaluate(case, module, second).real(), 1e-6)


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
    out = evaluate(case, module, case.inputs(8, lengths="same"))
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
    plain = evaluate(case, module, inputs).real()
    try:
        other = evaluate(case, module, turned).real()
    except Exception as error:  # dicts turned round end in whatever the module does with them
        raise Fault(f"with the dict turned round, forward fails: {type(error).__name__}: {error}") from None
    if not close(plain, other, tolerance(case.device)):
        raise Fault(f"with the dict turned round: {difference(plain, other)}")
    made = case.turned().build(seed=3).eval()
    other = evaluate(case, made, inputs).real()
    if not close(plain, other, tolerance(case.device)):
        raise Remark("built from dims in another order, the same seed gives other weights; iterate over sorted(dims)")


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
