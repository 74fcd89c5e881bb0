"""Checks that declared widths and layouts are true for every batch size and length."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from mmbench.columns import transform_key
from mmbench.spec import FusionSpec
from mmbench.testing.checks import Fault, NotChecked, Owner, Remark, check, first_line
from mmbench.testing.inputs import sample
from mmbench.testing.subjects import Case, EncoderCase, FusionCase, Lengths, per_case, take

_BOTH: tuple[Owner, ...] = ("encoder", "fusion")


@check(
    "declared-width",
    *_BOTH,
    promise="Outputs have the declared width and layout.",
    mend="Set feature_dim (an encoder) or fused_dim (a fusion) to the width that forward gives.",
    needs=("runs",),
)
@per_case
def declared_width(case: Case) -> None:
    module = case.build().eval()
    for size in (2, 8):
        case.check_out(module, case.run(module, case.inputs(size)), size)


@check(
    "batch-of-one",
    *_BOTH,
    promise="A batch of one sample works and keeps its batch axis.",
    mend="Squeeze named axes only: x.squeeze(-1), never x.squeeze(); prefer LayerNorm or GroupNorm to BatchNorm.",
    needs=("declared-width",),
)
@per_case
def batch_of_one(case: Case) -> None:
    module = case.build().eval()
    for lengths in ("mixed", "same"):
        try:
            case.check_out(module, case.run(module, case.inputs(1, lengths=lengths)), 1)
        except (RuntimeError, ValueError, IndexError) as error:
            raise Fault(f"a batch of one fails: {type(error).__name__}: {first_line(error)}") from None
    try:
        case.check_out(module.train(), case.run(module, case.inputs(1)), 1)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise Remark("BatchNorm cannot train on a batch of one; mmbench never trains on one, others may") from None


@check(
    "many-sizes",
    *_BOTH,
    promise="Batches of 2, 3 and many, short, odd and equal lengths all give the declared shape and finite numbers.",
    mend="Take sizes from the tensors in forward; a length of one token or frame must work.",
    needs=("declared-width", "batch-of-one"),
)
@per_case
def many_sizes(case: Case) -> None:
    module = case.build()
    situations: list[tuple[int, Lengths]] = [(2, "mixed"), (3, "same"), (5, "short"), (33, "mixed")]
    for size, lengths in situations:
        for training in (True, False):
            inputs = case.inputs(size, seed=size, lengths=lengths)
            out = case.run(module.train(training), inputs)
            case.check_out(module, out, size)
            if not torch.isfinite(out.real()).all():
                raise Fault(f"a batch of {size} with {lengths} lengths gave NaN or infinity")


@check(
    "empty-input",
    "encoder",
    promise="A sample with no token at all, such as empty text, gives finite features.",
    mend="Give a sample whose mask is all False zeros or a learned vector, as mmbench.features.masked_mean does.",
    needs=("runs",),
)
@per_case
def empty_input(case: EncoderCase) -> None:
    inputs = case.inputs(4, lengths="mixed")
    given = inputs["input"]
    mask = given.masks[0]
    if mask is None:
        raise NotChecked("its samples all have one shape")
    empty = mask.clone()
    empty[1] = False
    values = given.values[0].clone()
    values[1] = 0
    module = case.build().eval()
    inputs["input"] = dataclasses.replace(given, values=(values,), masks=(empty,))
    for value in case.run(module, inputs).values:
        if not torch.isfinite(value).all():
            raise Fault("a sample whose mask is all False gave NaN or infinity")


@check(
    "transform-is-regular",
    "encoder",
    promise="The transform gives numbers, the same twice, in one dtype; only its first axis varies between samples.",
    mend="Make it a frozen dataclass with __call__(sample) -> numpy array; random augmentation belongs in forward.",
    needs=("builds",),
)
@per_case
def transform_is_regular(case: EncoderCase) -> None:
    transform: Any = case.reader.transform
    rng = np.random.default_rng(5)
    rows = []
    for length in (0.0, 0.3, 0.7, 1.0):
        given = sample(case.modality, rng, length)
        first, second = np.asarray(transform(given)), np.asarray(transform(given))
        if first.dtype.kind not in "uifb":
            raise Fault(f"it gave dtype {first.dtype}", expected="numbers")
        if first.shape != second.shape or not np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
            raise Fault("the same sample gave two different arrays")
        if first.dtype.kind == "f" and not np.isfinite(first).all():
            raise Fault("it gave NaN or infinity")
        rows.append(first)
    if len({row.dtype for row in rows}) > 1:
        raise Fault(f"it gave dtypes {', '.join(sorted({str(row.dtype) for row in rows}))}", expected="one dtype")
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1 and (len({len(shape) for shape in shapes}) > 1 or len({shape[1:] for shape in shapes}) > 1):
        raise Fault(
            f"it gave shapes {shapes[0]} and {shapes[-1]}", expected="shapes that differ in the first axis only"
        )
    if transform_key(case.reader, "") == "":
        raise Remark("it is no dataclass, so its cached columns cannot be shared with other encoders")
    if rows[0].dtype == np.float64:
        raise Remark("it gives float64, which takes twice the memory of float32 in the cache and on the device")


@check(
    "any-modality-name",
    "fusion",
    promise="Modalities may be called 'type', 'front.camera' or '2': any name that a dataset may use.",
    mend="nn.ModuleDict refuses such keys: keep an nn.ModuleList in the order of sorted(dims).",
    needs=("declared-width",),
)
@per_case
def any_modality_name(case: FusionCase) -> None:
    names = ("front.camera", "type", "2", "_", "a-b", "forward", "training", "weight")[: len(case.dims)]
    spec = case.part.spec
    assert isinstance(spec, FusionSpec)
    odd = FusionCase(case.part, case.device, names, case.task)
    try:
        module = odd.build().eval()
        odd.check_out(module, odd.run(module, odd.inputs(3)), 3)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise Fault(f"with modalities named {', '.join(map(repr, names))}: {type(error).__name__}: {error}") from None


@check(
    "mask-of-ones",
    "fusion",
    promise="A mask that is all True means the same as no mask.",
    mend="Treat mask=None as all True; Features.present and Features.token_mask do.",
    needs=("eval-is-deterministic",),
)
@per_case
def mask_of_ones(case: FusionCase) -> None:
    module = case.build().eval()
    inputs = case.inputs(5, lengths="same")
    masked = {}
    for name, given in inputs.items():
        ones = [
            torch.ones(value.shape[: 1 if value.dim() == 2 else 2], dtype=torch.bool, device=value.device)
            for value in given.values
        ]
        masked[name] = dataclasses.replace(given, masks=tuple(ones))
        inputs[name] = dataclasses.replace(given, masks=(None,) * len(given.values))
    with torch.no_grad():
        bare, full = case.run(module, inputs).real(), case.run(module, masked).real()
    if not torch.allclose(bare, full, atol=1e-4, rtol=1e-4):
        raise Fault(f"with and without a mask of ones, outputs differ by {float((bare - full).abs().max()):.3g}")


@check(
    "returns-what-the-core-reads",
    "fusion",
    promise="forward gives a floating tensor or Features, and its losses are named scalars.",
    mend="Return the fused tensor, or Features(fused, losses={'name': scalar}).",
    needs=("runs",),
)
@per_case
def returns_what_the_core_reads(case: FusionCase) -> None:
    module = case.build().train()
    out = case.run(module, take(case.inputs(4), range(4)))
    if not out.values[0].is_floating_point():
        raise Fault(f"forward gave {out.values[0].dtype}", expected="floating point")
    for name, loss in out.losses.items():
        if not (isinstance(name, str) and isinstance(loss, torch.Tensor) and loss.dim() == 0):
            raise Fault(f"loss {name!r} is {loss!r}", expected="a scalar tensor under a text name")
