"""Sets whose best possible scores are known exactly, for any subset of their modalities.

Every modality shows one symbol without ambiguity (see `rendering`), so what can be known of the label from a subset of
modalities is what can be known from their symbols. Symbols and label follow a finite table of equally likely rows,
and the best accuracy from a subset S of modalities is the sum, over the values x of S, of the most frequent label's
share: sum_x max_y P(S = x, y). Each split holds every row equally often, so no function of the symbols passes it on the
test split itself. A model sees noise beside the symbols and may, by luck, guess more than half of the undecided samples
right: the ceiling is that of the expected score, and one test set can lie above it. The tables, and why each ceiling is
what it is:

- `xor`: label = a xor b. Given one bit the other is a fair coin, and so is the label: 1/2. Both: 1.
- `quarters`: ten classes; the image tells y // 2, the audio y % 5. Either leaves two classes (y and its neighbour; y
  and y ± 5): 1/2. y // 2 leaves two neighbours, which differ modulo 5: together 1. Shapes as AV-MNIST's.
- `redundant`, `redundant-3`: all modalities show the same one of four symbols, which is the label in 9 of 10 samples,
  and each of the other three labels in 1 of 30. Any subset: 9/10.
- `unique`, `unique-3`: each modality shows a bit of its own and the label is all bits together: k known of m bits
  leave 2^(m-k) equally likely labels, 2^(k-m).
- `synergy`: each of two modalities shows one of three symbols and the label is their sum modulo 3: uniform given
  either one: 1/3. Both: 1.
- `synergy-3`: the label is the parity of three bits in three tables: a fair coin given any two: 1/2. All: 1.
- `redundant-missing`: both modalities show the label, one of four; 3 of 10 samples lack the first, 3 of 10 others lack
  the second, none lacks both, whatever the label. One modality: 7/10 + 3/10 * 1/4 = 0.775. Both: 1.
- `tasks`: text shows t and a table shows r, each one of four. `code` (multiclass) = (t + r) % 4: 1/4 from either, 1
  from both. `tags` (multilabel) = [t is odd, r is odd, both are at least 2]. `amount` (regression) = t - r.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data import SPLITS, Sample, Split
from mmbench.errors import UsageError
from mmbench_datasets.rendering import RENDERERS, Renderer, image


@dataclass(frozen=True, kw_only=True)
class Row:
    """One equally likely combination.

    Attributes:
        symbols: By modality; None where the modality is missing.
        targets: By task.
    """

    symbols: Mapping[str, int | None]
    targets: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a set is made.

    Attributes:
        renderers: By modality: what turns its symbol into an input.
        rows: The table of equally likely combinations.
        repeats: By split: how often each row occurs.
    """

    renderers: Mapping[str, Renderer]
    rows: tuple[Row, ...]
    repeats: Mapping[Split, int] = field(default_factory=dict)


def open_recipe(recipe: Recipe, root: Path, *, seed: int) -> dict[Split, list[Sample]]:
    """Return the splits of a set, made from `seed`; nothing is written to `root`.

    Raises:
        UsageError: the seed is not a whole number of at least 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"the seed of a ceiling set must be a whole number of at least 0, got {seed!r}")
    return {split: _make_split(recipe, split, seed) for split in SPLITS}


def _make_split(recipe: Recipe, split: Split, seed: int) -> list[Sample]:
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    order = rng.permutation(np.repeat(np.arange(len(recipe.rows)), recipe.repeats[split]))
    samples = []
    for number, position in enumerate(order):
        chosen = recipe.rows[position]
        inputs = {
            name: None if chosen.symbols[name] is None else renderer(chosen.symbols[name], rng)
            for name, renderer in recipe.renderers.items()
        }
        samples.append(Sample(sample_id=f"{split}-{number:04}", inputs=inputs, targets=chosen.targets))
    return samples


def _repeats(train: int, val: int, test: int) -> dict[Split, int]:
    return {"train": train, "val": val, "test": test}


def _of_kinds(*kinds: str) -> dict[str, Renderer]:
    return {kind: RENDERERS[kind] for kind in kinds}  # type: ignore[index]


def _table(names: tuple[str, ...], num_symbols: int, label: Callable[..., int]) -> tuple[Row, ...]:
    """Every combination of independent symbols, with the label that they make."""
    return tuple(
        Row(symbols=dict(zip(names, symbols, strict=True)), targets={"label": label(*symbols)})
        for symbols in itertools.product(range(num_symbols), repeat=len(names))
    )


def _redundant(names: tuple[str, ...]) -> tuple[Row, ...]:
    """All modalities show z of four; of 30 samples the label is z in 27 and each other label in 1."""
    labels = {z: [z] * 27 + [other for other in range(4) if other != z] for z in range(4)}
    return tuple(Row(symbols=dict.fromkeys(names, z), targets={"label": y}) for z in range(4) for y in labels[z])


def _redundant_missing(first: str, second: str) -> tuple[Row, ...]:
    """Of ten samples of each label three lack the first modality and three others the second."""
    presence = [(None, True)] * 3 + [(True, None)] * 3 + [(True, True)] * 4
    return tuple(
        Row(symbols={first: has_first and y, second: has_second and y}, targets={"label": y})
        for y in range(4)
        for has_first, has_second in presence
    )


def _tasks() -> tuple[Row, ...]:
    return tuple(
        Row(
            symbols={"text": t, "tabular": r},
            targets={
                "code": (t + r) % 4,
                "tags": (t % 2, r % 2, int(t >= 2 and r >= 2)),
                "amount": float(t - r),
            },
        )
        for t in range(4)
        for r in range(4)
    )


def _bits(*bits: int) -> int:
    return sum(bit << position for position, bit in enumerate(reversed(bits)))


def _sum_mod_3(*symbols: int) -> int:
    return sum(symbols) % 3


def _parity(*bits: int) -> int:
    return sum(bits) % 2


XOR = Recipe(
    renderers={"a": RENDERERS["tabular"], "b": RENDERERS["tabular"]},
    rows=_table(("a", "b"), 2, _parity),
    repeats=_repeats(200, 50, 100),
)
QUARTERS = Recipe(
    renderers={"image": partial(image, size=28), "audio": RENDERERS["audio"]},
    rows=tuple(Row(symbols={"image": y // 2, "audio": y % 5}, targets={"label": y}) for y in range(10)),
    repeats=_repeats(160, 40, 40),
)
REDUNDANT = Recipe(
    renderers=_of_kinds("tabular", "text"), rows=_redundant(("tabular", "text")), repeats=_repeats(8, 2, 4)
)
REDUNDANT_3 = Recipe(
    renderers=_of_kinds("audio", "image", "text"),
    rows=_redundant(("audio", "image", "text")),
    repeats=_repeats(8, 2, 4),
)
REDUNDANT_MISSING = Recipe(
    renderers=_of_kinds("image", "text"), rows=_redundant_missing("image", "text"), repeats=_repeats(24, 6, 10)
)
UNIQUE = Recipe(
    renderers=_of_kinds("image", "sequence"),
    rows=_table(("image", "sequence"), 2, _bits),
    repeats=_repeats(200, 50, 100),
)
MOVING = Recipe(
    renderers=_of_kinds("tabular", "video"),
    rows=_table(("tabular", "video"), 2, _bits),
    repeats=_repeats(200, 50, 100),
)
UNIQUE_3 = Recipe(
    renderers=_of_kinds("audio", "sequence", "tabular"),
    rows=_table(("audio", "sequence", "tabular"), 2, _bits),
    repeats=_repeats(120, 30, 50),
)
SYNERGY = Recipe(
    renderers=_of_kinds("sequence", "text"),
    rows=_table(("sequence", "text"), 3, _sum_mod_3),
    repeats=_repeats(110, 25, 45),
)
SYNERGY_3 = Recipe(
    renderers=dict.fromkeys(("a", "b", "c"), RENDERERS["tabular"]),
    rows=_table(("a", "b", "c"), 2, _parity),
    repeats=_repeats(150, 30, 50),
)
TASKS = Recipe(renderers=_of_kinds("tabular", "text"), rows=_tasks(), repeats=_repeats(75, 15, 25))

open_moving = partial(open_recipe, MOVING)
open_xor = partial(open_recipe, XOR)
open_quarters = partial(open_recipe, QUARTERS)
open_redundant = partial(open_recipe, REDUNDANT)
open_redundant_3 = partial(open_recipe, REDUNDANT_3)
open_redundant_missing = partial(open_recipe, REDUNDANT_MISSING)
open_unique = partial(open_recipe, UNIQUE)
open_unique_3 = partial(open_recipe, UNIQUE_3)
open_synergy = partial(open_recipe, SYNERGY)
open_synergy_3 = partial(open_recipe, SYNERGY_3)
open_tasks = partial(open_recipe, TASKS)
