"""What a fusion says that it can and cannot solve is tried out."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seeded import failures, fusion_package

from mmbench.testing.learns import SETS

ADDITIVE = """
class Fusion(nn.Module):
    def __init__(self, dims, tasks):
        super().__init__()
        self.names, self.fused_dim = sorted(dims), 16
        self.layers = nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)

    def forward(self, features):
        return sum(layer(features[name].tensor) for name, layer in zip(self.names, self.layers))
"""


def test_a_claim_that_the_form_cannot_keep_is_caught(tmp_path: Path) -> None:
    package = fusion_package(tmp_path, "claims-xor", ADDITIVE, solves=("unique", "xor"))

    caught = failures(package, "full")

    assert set(caught) == {"fusion.solves-what-it-says"}
    assert caught["fusion.solves-what-it-says"].found.startswith("on 'xor' it reached 0.")
    assert caught["fusion.solves-what-it-says"].expected == "at least 0.950"


def test_a_modesty_that_is_false_is_caught(tmp_path: Path) -> None:
    package = fusion_package(
        tmp_path, "too-modest", ADDITIVE, solves=("redundant",), cannot_solve={"xor": "it adds", "unique": "it adds"}
    )

    assert set(failures(package, "full")) == {"fusion.cannot-solve-what-it-says"}


@pytest.mark.parametrize("name", SETS)
def test_the_ceiling_of_a_set_is_what_the_best_rule_reaches(name: str) -> None:
    rows = SETS[name].rows
    by_symbols: dict[tuple[int, ...], list[int]] = {}
    for symbols, label in rows:
        by_symbols.setdefault(symbols, []).append(label)

    best = sum(max(map(labels.count, labels)) for labels in by_symbols.values()) / len(rows)

    assert best == pytest.approx(SETS[name].ceiling)


@pytest.mark.parametrize("name", ["xor", "synergy", "synergy-3"])
def test_no_smaller_set_of_modalities_tells_anything_of_an_interaction(name: str) -> None:
    rows, width = SETS[name].rows, SETS[name].num_modalities
    for kept in itertools.combinations(range(width), width - 1):
        seen: dict[tuple[int, ...], list[int]] = {}
        for symbols, label in rows:
            seen.setdefault(tuple(symbols[column] for column in kept), []).append(label)

        assert all(len(set(labels)) == len(labels) == SETS[name].num_classes for labels in seen.values())
