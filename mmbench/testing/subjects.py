"""One encoder or fusion in every situation it must serve: how to build it, feed it and read what it gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.errors import Unavailable
from mmbench.features import Features
from mmbench.part_code import load_attribute
from mmbench.spec import EncoderSpec, FusionSpec, Layout, Modality, Spec, TaskSpec
from mmbench.testing.checks import Fault, Finding, Level, NotChecked, Remark, covers
from mmbench.testing.inputs import VARIANTS, batch_of, sample
from mmbench.testing.target import Part

Lengths: TypeAlias = Literal["mixed", "same", "short"]

MODALITIES = ("audio", "image", "text", "video", "depth", "touch", "sound", "radar")
TASKS = {
    "multiclass": TaskSpec(name="species", kind="multiclass", num_outputs=5),
    "multilabel": TaskSpec(name="tags", kind="multilabel", num_outputs=3),
    "regression": TaskSpec(name="age", kind="regression", num_outputs=2),
    "retrieval": TaskSpec(name="match", kind="retrieval", num_outputs=4),
}
_WIDTHS = (24, 16, 32, 8, 40, 48, 56, 64)
_MAX_TOKENS = 7


@dataclass(frozen=True)
class Given:
    """What one modality of a batch brings: its tensors (several only for a pyramid) and their masks."""

    values: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...] = (None,)

    def map(self, values: Callable[[Tensor], Tensor], masks: Callable[[Tensor], Tensor] = lambda mask: mask) -> Given:
        """Return a copy with functions applied to the tensors and to the masks that are there."""
        return Given(
            tuple(map(values, self.values)), tuple(mask if mask is None else masks(mask) for mask in self.masks)
        )


Inputs: TypeAlias = dict[str, Given]


def take(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    """Return some samples of a batch, in the given order."""
    index = list(rows)
    return {name: given.map(lambda value: value[index], lambda mask: mask[index]) for name, given in inputs.items()}


def convert(inputs: Inputs, target: torch.device | torch.dtype | str) -> Inputs:
    """Move a batch to a device, or its floating tensors to a dtype."""
    if isinstance(target, torch.dtype):
        return {
            name: given.map(lambda value: value.to(target) if value.is_floating_point() else value)
            for name, given in inputs.items()
        }
    return {
        name: given.map(lambda value: value.to(target), lambda mask: mask.to(target)) for name, given in inputs.items()
    }


@dataclass(frozen=True)
class Out:
    """What a forward pass gave: tensors (several only for a pyramid), their masks, and losses."""

    values: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...] = (None,)
    losses: Mapping[str, Tensor] = field(default_factory=dict)

    def sample(self, row: int) -> list[Tensor]:
        """Return what concerns one sample, without padding."""
        kept = []
        for value, mask in zip(self.values, self.masks):
            kept.append(value[row] if mask is None or mask.dim() == 1 else value[row][mask[row]])
        return kept

    def real(self) -> Tensor:
        """Return every number that counts, flattened."""
        return torch.cat([piece.flatten() for row in range(len(self.values[0])) for piece in self.sample(row)])

    @staticmethod
    def of(given: Any) -> Out:
        """Read what a forward returned: a tensor or `Features`."""
        if isinstance(given, Tensor):
            return Out((given,))
        if not isinstance(given, Features):
            raise Fault(f"forward returned {type(given).__name__}", expected="a tensor or mmbench.Features")
        values = given.values if isinstance(given.values, tuple) else (given.values,)
        masks = given.mask if isinstance(given.mask, tuple) else (given.mask,) * len(values)
        return Out(values, masks, given.losses)


class Case:
    """One situation of a part: what it is built with and fed with."""

    label: str = ""

    def __init__(self, part: Part, device: str) -> None:
        self.part, self.device = part, device

    def call_factory(self, *arguments: Any) -> nn.Module:
        """Build the module as the core does.

        Raises:
            NotChecked: something that it needs is not on this machine.
        """
        try:
            module = load_attribute(self.part.spec.factory)(*arguments, **self.part.told, **self.part.options)
        except Unavailable as error:
            raise NotChecked(f"unavailable here: {error}") from None
        if not isinstance(module, nn.Module):
            raise Fault(f"the factory returned {type(module).__name__}", expected="an nn.Module")
        return module

    def build(self, seed: int = 0, *, fitted: bool = True) -> nn.Module:
        """Return a fresh module, its weights drawn from `seed`; an encoder's `fit` is called where it has one."""
        raise NotImplementedError

    def make(self) -> nn.Module:
        """Call the factory and nothing else: no seed is set and nothing is moved to the device."""
        raise NotImplementedError

    def inputs(self, size: int, *, seed: int = 0, lengths: Lengths = "mixed", missing: Sequence[str] = ()) -> Inputs:
        """Return a batch; modalities in `missing` are absent from every second sample, the first included."""
        raise NotImplementedError

    def run(self, module: nn.Module, inputs: Inputs) -> Out:
        """Call forward as the core does."""
        raise NotImplementedError

    def check_out(self, module: nn.Module, out: Out, size: int) -> None:
        """Check shapes and types of what forward gave.

        Raises:
            Fault: they are not what the part promised.
        """
        raise NotImplementedError

    def varied(self) -> Iterator[Inputs]:
        """Yield batches that differ in size, lengths and missing modalities: what training may bring."""
        for seed, (size, lengths) in enumerate(((8, "mixed"), (3, "same"), (16, "mixed"), (2, "short"), (7, "mixed"))):
            yield self.inputs(size, seed=100 + seed, lengths=lengths)  # type: ignore[arg-type]


class FusionCase(Case):
    """A fusion with so many modalities and, at decision level, one task."""

    def __init__(self, part: Part, device: str, names: Sequence[str], task: TaskSpec) -> None:
        super().__init__(part, device)
        spec = part.spec
        assert isinstance(spec, FusionSpec)
        self.spec, self.task = spec, task
        pyramid = spec.accepts == "pyramid" and spec.level == "feature"
        self.dims: dict[str, Any] = {
            name: (width // 2, width, width) if pyramid else width for name, width in zip(names, _WIDTHS)
        }
        self.label = f"{len(names)} modalit{'y' if len(names) == 1 else 'ies'}"
        if spec.level == "decision":
            self.label += f", {task.kind}"

    def turned(self) -> FusionCase:
        """Return the same case with its modalities named in the opposite order."""
        other = FusionCase(self.part, self.device, list(self.dims), self.task)
        other.dims = dict(reversed(self.dims.items()))
        return other

    def build(self, seed: int = 0, *, fitted: bool = True) -> nn.Module:
        torch.manual_seed(seed)
        return self.make().to(self.device)

    def make(self) -> nn.Module:
        return self.call_factory(dict(self.dims), (self.task,))

    def inputs(self, size: int, *, seed: int = 0, lengths: Lengths = "mixed", missing: Sequence[str] = ()) -> Inputs:
        generator = torch.Generator().manual_seed(1000 + seed)
        batch = {}
        for name, width in self.dims.items():
            there = torch.ones(size, dtype=torch.bool)
            if name in missing:
                there[::2] = False
            given = self._one(width, size, lengths, there, generator)
            batch[name] = given
        return convert(batch, self.device)

    def _one(self, width: Any, size: int, lengths: Lengths, there: Tensor, generator: torch.Generator) -> Given:
        if self.spec.level == "decision" or self.spec.accepts == "vector":
            columns = self.task.num_outputs if self.spec.level == "decision" else width
            vectors = torch.randn(size, columns, generator=generator) * there[:, None]
            return Given((vectors,), (None if there.all() else there,))
        values: list[Tensor] = []
        masks: list[Tensor | None] = []
        for layer_width in width if isinstance(width, tuple) else (width,):
            longest = 1 if lengths == "short" else int(torch.randint(3, _MAX_TOKENS + 1, (), generator=generator))
            num_tokens = torch.randint(1, longest + 1, (size, 1), generator=generator)
            mask = torch.arange(longest)[None, :] < (num_tokens if lengths == "mixed" else longest)
            mask = mask & there[:, None]
            values.append(torch.randn(size, longest, layer_width, generator=generator) * mask[..., None])
            masks.append(None if mask.all() and lengths == "same" else mask)
        return Given(tuple(values), tuple(masks))

    def run(self, module: nn.Module, inputs: Inputs) -> Out:
        features = {name: self._features(given) for name, given in inputs.items()}
        return Out.of(module(self.task.name, features) if self.spec.level == "decision" else module(features))

    def _features(self, given: Given) -> Features:
        if self.spec.accepts == "pyramid" and self.spec.level == "feature":
            masks = None if any(mask is None for mask in given.masks) else given.masks
            return Features(given.values, masks)  # type: ignore[arg-type]
        return Features(given.values[0], given.masks[0])

    def check_out(self, module: nn.Module, out: Out, size: int) -> None:
        if self.spec.level == "decision":
            expected, what = (size, self.task.num_outputs), f"{self.task.num_outputs} logits for {self.task.kind!r}"
        else:
            width = getattr(module, "fused_dim", None)
            if not isinstance(width, int) or width < 1:
                raise Fault(f"fused_dim is {width!r}", expected="fused_dim, a positive whole number")
            expected, what = (size, width), f"fused_dim {width}"
        got = tuple(out.values[0].shape)
        if len(out.values) != 1 or got != expected:
            raise Fault(f"forward gave {got} for a batch of {size}", expected=f"{what}: {expected}")

    def varied(self) -> Iterator[Inputs]:
        yield from super().varied()
        if self.spec.missing:
            for seed, name in enumerate(self.dims):
                yield self.inputs(6, seed=200 + seed, missing=(name,))


class EncoderCase(Case):
    """An encoder for one kind of modality and one layout."""

    def __init__(self, part: Part, device: str, modality: Modality, layout: Layout) -> None:
        super().__init__(part, device)
        self.modality, self.layout = modality, layout
        said = ", ".join(f"{name} {value}" for name, value in modality.facts.items())
        self.label = f"{modality.kind}{f' ({said})' if said else ''} -> {layout}"
        self._batches: dict[tuple[Any, ...], Inputs] = {}

    @functools.cached_property
    def reader(self) -> Any:
        """An instance whose transform makes the inputs."""
        torch.manual_seed(0)
        return self.make()

    def make(self) -> nn.Module:
        module = self.call_factory(self.modality, self.layout)
        if not callable(getattr(module, "transform", None)):
            raise Fault(
                "it has no `transform`", expected="transform(sample) -> array", mend="Set self.transform in __init__."
            )
        return module

    def build(self, seed: int = 0, *, fitted: bool = True) -> nn.Module:
        given = self.inputs(12, seed=50)["input"]
        torch.manual_seed(seed)
        module: Any = self.make().to(self.device)
        if fitted and callable(getattr(module, "fit", None)):
            module.fit(given.values[0], given.masks[0])
        return module  # type: ignore[no-any-return]

    def inputs(self, size: int, *, seed: int = 0, lengths: Lengths = "mixed", missing: Sequence[str] = ()) -> Inputs:
        key = (size, seed, lengths)
        if key not in self._batches:
            rng = np.random.default_rng(3000 + seed)
            spread = {"mixed": rng.uniform(0.1, 1.0, size), "same": np.full(size, 0.6), "short": np.zeros(size)}[
                lengths
            ]
            samples = [sample(self.modality, rng, float(length)) for length in spread]
            values, mask = batch_of(self.reader, samples)
            self._batches[key] = convert({"input": Given((values,), (mask,))}, self.device)
        return dict(self._batches[key])

    def run(self, module: nn.Module, inputs: Inputs) -> Out:
        given = inputs["input"]
        return Out.of(module(given.values[0], given.masks[0]))

    def check_out(self, module: nn.Module, out: Out, size: int) -> None:
        width: Any = getattr(module, "feature_dim", None)
        widths = tuple(width) if self.layout == "pyramid" and isinstance(width, list | tuple) else (width,)
        if not all(isinstance(one, int) and one > 0 for one in widths):
            raise Fault(f"feature_dim is {width!r}", expected="feature_dim, a positive whole number")
        dims = 2 if self.layout == "vector" else 3
        for value, mask, one in zip(out.values, out.masks, widths):
            got = tuple(value.shape)
            if value.dim() != dims or got[0] != size or got[-1] != one or len(out.values) != len(widths):
                shape = f"({size}, {one})" if dims == 2 else f"({size}, T, {one})"
                raise Fault(
                    f"forward gave {got} for a batch of {size}",
                    expected=f"layout {self.layout!r}, feature_dim {width}: {shape}",
                )
            if not value.is_floating_point():
                raise Fault(f"forward gave {value.dtype}", expected="floating point")
            if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != got[: dims - 1]):
                raise Fault(
                    f"the mask is {mask.dtype} {tuple(mask.shape)}",
                    expected=f"torch.bool {got[: dims - 1]}, True = real",
                )


class ModuleSubject:
    """An encoder or a fusion with the cases that a level asks for."""

    def __init__(self, part: Part, level: Level, device: str) -> None:
        self.part, self.level, self.device = part, level, device

    @property
    def spec(self) -> Spec:
        """Its descriptor."""
        return self.part.spec

    @functools.cached_property
    def cases(self) -> list[Case]:
        """Every situation to check."""
        if isinstance(self.spec, EncoderSpec):
            return list(self._encoder_cases(self.spec))
        assert isinstance(self.spec, FusionSpec)
        return list(self._fusion_cases(self.spec))

    def _encoder_cases(self, spec: EncoderSpec) -> Iterator[Case]:
        if spec.target == "required" and not self.part.target:
            raise NotChecked(f"it needs a target: check encoder:{self.part.ref}:TARGET")
        for kind in spec.kinds:
            variants = VARIANTS[kind] if covers(self.level, "full") else VARIANTS[kind][:1]
            for layout in spec.layouts:
                for facts in variants:
                    yield EncoderCase(self.part, self.device, Modality(name="input", kind=kind, facts=facts), layout)

    def _fusion_cases(self, spec: FusionSpec) -> Iterator[Case]:
        most = min(spec.max_modalities or spec.min_modalities + 2, len(MODALITIES))
        counts = list(range(min(spec.min_modalities, most), min(spec.min_modalities + 2, most) + 1))
        if not covers(self.level, "full"):
            counts = counts[:2]
        kinds = spec.task_kinds if spec.level == "decision" else spec.task_kinds[:1]
        for count in counts:
            for kind in kinds:
                yield FusionCase(self.part, self.device, MODALITIES[:count], TASKS[kind])


def per_case(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Turn a check of one case into a check of all: the first fault ends it, remarks are kept, and each says where.

    The check it makes takes any subject that has `cases`, each with a `label`.
    """

    @functools.wraps(function)
    def run(subject: Any) -> None:
        remark: Remark | None = None
        skipped: NotChecked | None = None
        done = 0
        for case in subject.cases:
            try:
                function(case)
                done += 1
            except NotChecked as finding:
                skipped = finding
            except Remark as finding:
                remark = remark or _placed(finding, case)
            except Finding as finding:
                raise _placed(finding, case) from None
        if remark is not None:
            raise remark
        if skipped is not None and not done:
            raise skipped

    return run


def _placed(finding: Any, case: Case) -> Any:
    return type(finding)(f"{finding.found} [{case.label}]", expected=finding.expected, mend=finding.mend)
