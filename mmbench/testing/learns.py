"""Checks that a fusion learns what it says it can: small made-up versions of the ceiling sets, a fixed budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench.features import Features
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.spec import FusionSpec, Layout, TaskSpec
from mmbench.testing.checks import Fault, NotChecked, Remark, check
from mmbench.testing.subjects import MODALITIES, FusionCase, ModuleSubject

NUM_STEPS = 500
#: One for each try. The smallest first: it suits attention over tokens, and linear layers lose only a moment by it.
LEARNING_RATES = (5e-4, 1e-3, 3e-3, 5e-4)
NUM_TRIES = len(LEARNING_RATES)
SHARE_OF_CEILING = 0.95
_BATCH, _CHECK_EVERY = 64, 25
#: A multiple of every set's number of rows, so that the test holds each of them equally often.
_NUM_TEST = 360
_WIDTH, _HIDDEN, _TOKENS, _NOISE = 16, 32, 4, 0.15


@dataclass(frozen=True)
class TinySet:
    """A table of equally likely rows: the symbol that each modality shows, and the label.

    Attributes:
        rows: (symbols, label).
        ceiling: Best accuracy from all modalities together.
    """

    rows: tuple[tuple[tuple[int, ...], int], ...]
    ceiling: float = 1.0

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return 1 + max(label for _, label in self.rows)

    @property
    def num_modalities(self) -> int:
        """How many modalities show something."""
        return len(self.rows[0][0])


def _product(num_symbols: int, num_modalities: int, label: Callable[[tuple[int, ...]], int]) -> TinySet:
    return TinySet(tuple((row, label(row)) for row in itertools.product(range(num_symbols), repeat=num_modalities)))


def _binary(symbols: tuple[int, ...]) -> int:
    return sum(bit << place for place, bit in enumerate(symbols))


def _redundant(num_modalities: int) -> TinySet:
    noisy = [(z, y) for z in range(4) for y in [z] * 27 + [other for other in range(4) if other != z]]
    return TinySet(tuple(((z,) * num_modalities, y) for z, y in noisy), ceiling=0.9)


#: By name, as `FusionSpec.solves` uses them; the sets of mmbench-datasets without their pictures and sounds.
SETS: dict[str, TinySet] = {
    "xor": _product(2, 2, lambda symbols: sum(symbols) % 2),
    "quarters": TinySet(tuple(((y // 2, y % 5), y) for y in range(10))),
    "redundant": _redundant(2),
    "redundant-3": _redundant(3),
    "unique": _product(2, 2, _binary),
    "unique-3": _product(2, 3, _binary),
    "synergy": _product(3, 2, lambda symbols: sum(symbols) % 3),
    "synergy-3": _product(2, 3, lambda symbols: sum(symbols) % 2),
}


@check(
    "solves-what-it-says",
    "fusion",
    level="full",
    promise="It reaches 95 % of the ceiling of every set that it declares in `solves`, within 500 steps.",
    mend="Take the set out of `solves` and give the reason in `cannot_solve`, or look for what keeps it from learning.",
    needs=("every-parameter-trains", "every-modality-gets-gradient", "declared-width"),
)
def solves_what_it_says(subject: ModuleSubject) -> None:
    spec = subject.spec
    assert isinstance(spec, FusionSpec)
    if not spec.solves:
        if spec.cannot_solve or (spec.max_modalities or 2) < 2:
            raise NotChecked("it declares no set that it solves")
        raise Remark("it declares neither `solves` nor `cannot_solve`; readers cannot tell what its form can express")
    unknown = []
    for name in spec.solves:
        if name not in SETS:
            unknown.append(name)
            continue
        score = best_score(subject, name)
        if score is not None and score < SHARE_OF_CEILING * SETS[name].ceiling:
            raise Fault(
                f"on {name!r} it reached {score:.3f} in the best of {NUM_TRIES} tries",
                expected=f"at least {SHARE_OF_CEILING * SETS[name].ceiling:.3f}",
            )
    if unknown:
        raise Remark(f"this kit has no set called {', '.join(unknown)}; it has {', '.join(SETS)}")


@check(
    "cannot-solve-what-it-says",
    "fusion",
    level="full",
    promise="It does not reach the ceiling of a set that it declares in `cannot_solve`.",
    mend="It can: take the set out of `cannot_solve`, or correct the formula.",
    needs=("solves-what-it-says",),
)
def cannot_solve_what_it_says(subject: ModuleSubject) -> None:
    spec = subject.spec
    assert isinstance(spec, FusionSpec)
    both = sorted(set(spec.solves) & set(spec.cannot_solve))
    if both:
        raise Fault(f"{', '.join(both)} stands in both `solves` and `cannot_solve`")
    names = [name for name in spec.cannot_solve if name in SETS]
    if not names:
        raise NotChecked("it declares no set that it cannot solve")
    for name in names:
        if not spec.cannot_solve[name]:
            raise Fault(f"cannot_solve[{name!r}] gives no reason")
        score = best_score(subject, name, num_tries=1)
        if score is not None and score >= SHARE_OF_CEILING * SETS[name].ceiling:
            raise Fault(
                f"on {name!r} it reached {score:.3f}, though it is said to be unable: {spec.cannot_solve[name]}"
            )


def best_score(subject: ModuleSubject, name: str, *, num_tries: int = NUM_TRIES) -> float | None:
    """Return the best test accuracy of some tries; None where the fusion cannot take so many modalities."""
    tiny, spec = SETS[name], subject.spec
    assert isinstance(spec, FusionSpec)
    if tiny.num_modalities > (spec.max_modalities or len(MODALITIES)) or tiny.num_modalities < spec.min_modalities:
        return None
    if "multiclass" not in spec.task_kinds:
        return None
    best = 0.0
    for seed in range(num_tries):
        best = max(best, _train(subject, tiny, seed))
        if best >= SHARE_OF_CEILING * tiny.ceiling:
            break
    return best


class _TinyEncoder(nn.Module):
    """Two layers, applied to a vector or to every token; a pyramid has the hidden one too."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.feature_dim: int | tuple[int, ...] = (_HIDDEN, _WIDTH) if layout == "pyramid" else _WIDTH
        self.layers = nn.Sequential(nn.Linear(_WIDTH, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _WIDTH))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        if self.layout != "pyramid":
            return Features(self.layers(values), mask)
        hidden = self.layers[:2](values)
        return Features((hidden, self.layers[2](hidden)), None if mask is None else (mask, mask))


def _train(subject: ModuleSubject, tiny: TinySet, seed: int) -> float:
    spec = subject.spec
    assert isinstance(spec, FusionSpec)
    task = TaskSpec(name="label", kind="multiclass", num_outputs=tiny.num_classes)
    names = MODALITIES[: tiny.num_modalities]
    case = FusionCase(subject.part, subject.device, names, task)
    layout: Layout = "vector" if spec.level == "decision" else spec.accepts
    torch.manual_seed(seed)
    encoders = {name: _TinyEncoder(layout) for name in names}
    case.dims = {name: encoder.feature_dim for name, encoder in encoders.items()}
    model = MultimodalModel(
        encoders, dict.fromkeys(names, layout), case.make(), (task,), level=spec.level, accepts=layout
    ).to(subject.device)
    generator = torch.Generator().manual_seed(seed)
    draw = _Drawer(tiny, names, tokens=layout != "vector", device=subject.device)
    test = draw(torch.arange(_NUM_TEST) % len(tiny.rows), torch.Generator().manual_seed(99))
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATES[seed], fused=True)
    best = 0.0
    for step in range(1, NUM_STEPS + 1):
        batch = draw(_balanced_rows(len(tiny.rows), generator), generator)
        output = model.train()(batch)
        loss = F.cross_entropy(output.logits["label"], batch.targets["label"]) + sum(output.losses.values())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % _CHECK_EVERY == 0:
            with torch.no_grad():
                right = model.eval()(test).logits["label"].argmax(1) == test.targets["label"]
            best = max(best, float(right.float().mean()))
            if best >= SHARE_OF_CEILING * tiny.ceiling:
                break
    return best


def _balanced_rows(num_rows: int, generator: torch.Generator) -> Tensor:
    """Rows for one batch, each as often as the others where they fit: (_BATCH,).

    An interaction shows in the difference between rows only; with unequal counts, chance is louder than it is.
    """
    rounds = -(-_BATCH // num_rows)
    return torch.cat([torch.randperm(num_rows, generator=generator) for _ in range(rounds)])[:_BATCH]


class _Drawer:
    """Draws batches: each symbol shown by a fixed random vector with noise; of several tokens, one shows it."""

    def __init__(self, tiny: TinySet, names: tuple[str, ...], *, tokens: bool, device: str) -> None:
        self.names, self.tokens, self.device = names, tokens, device
        self.symbols = torch.tensor([symbols for symbols, _ in tiny.rows])
        self.labels = torch.tensor([label for _, label in tiny.rows])
        fixed = torch.Generator().manual_seed(5)
        num_symbols = int(self.symbols.max()) + 1
        self.shown = {name: torch.randn(num_symbols, _WIDTH, generator=fixed) for name in names}

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Batch:
        size = len(rows)
        inputs = {}
        for column, name in enumerate(self.names):
            values = self.shown[name][self.symbols[rows, column]]  # (B, D)
            mask = None
            if self.tokens:
                place = torch.randint(_TOKENS - 1, (size,), generator=generator)
                tokens = torch.zeros(size, _TOKENS, _WIDTH)
                tokens[torch.arange(size), place] = values
                values = tokens
                mask = torch.ones(size, _TOKENS, dtype=torch.bool)
                mask[::3, -1] = False
            values = values + _NOISE * torch.randn(values.shape, generator=generator)
            inputs[name] = Input(values.to(self.device), None if mask is None else mask.to(self.device))
        return Batch(size=size, inputs=inputs, targets={"label": self.labels[rows].to(self.device)})
