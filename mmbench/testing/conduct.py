"""Checks of conduct: seeds, global settings, inputs, low precision, waiting for the device and torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbench.testing.checks import Fault, NotChecked, Owner, Remark, check, first_line
from mmbench.testing.compare import close, difference, evaluate, seed_everything, tolerance
from mmbench.testing.state import changes, read_seeds, read_state
from mmbench.testing.subjects import Case, FusionCase, convert, per_case
from mmbench.testing.walk import used_in_forward
from mmbench.torch_compat import OP_INTERCEPTION, num_graph_breaks, reset_compiler

_BOTH: tuple[Owner, ...] = ("encoder", "fusion")


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
        seed_everything(11)
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
            seed_everything(seed)
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
    evaluate(case, module, inputs)
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
            raise Fault(f"under bfloat16 autocast: {first_line(error)}") from None
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
        evaluate(case, module, inputs)
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            evaluate(case, module, inputs)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            raise Fault(f"forward waits for the GPU: {first_line(error)}") from None
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        return
    if reason := OP_INTERCEPTION.missing():
        raise NotChecked(reason)
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
    reset_compiler()
    inputs = case.inputs(4)
    plain = evaluate(case, module, inputs).real()
    try:
        other = evaluate(case, torch.compile(module, backend="aot_eager"), inputs).real()  # type: ignore[arg-type]
    except Exception as error:  # the compiler's own errors have many types
        raise Fault(f"under torch.compile: {type(error).__name__}: {first_line(error)}") from None
    finally:
        breaks = num_graph_breaks()
        reset_compiler()
    if not close(plain, other, tolerance(case.device)):
        raise Fault(f"under torch.compile: {difference(plain, other)}")
    if breaks:
        raise Remark(f"torch.compile works with {breaks} graph break{'s' * (breaks > 1)}")
