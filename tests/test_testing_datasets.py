"""The conformance checks catch every seeded fault of a dataset by name, and leave a sound one alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seeded import dataset_package, failures

SOUND = """
from mmbench import Sample

WORDS = "red green blue white black".split()

def one(split, number, place):
    rng = np.random.default_rng([place, number])
    return Sample(
        sample_id=f"{split}-{number}",
        inputs={
            "table": rng.normal(size=4).astype(np.float32),
            "words": " ".join(rng.choice(WORDS, 3)),
        },
        targets={"label": number % 3},
    )

def open_set(root):
    sizes = {"train": 60, "val": 20, "test": 20}
    return {
        split: [one(split, number, place) for number in range(size)]
        for place, (split, size) in enumerate(sizes.items())
    }
"""

#: By fault: what to replace in the sound dataset, by what, and the checks that must fail.
FAULTS: dict[str, tuple[str, str, set[str]]] = {
    "content-leaks-between-splits": (
        "rng = np.random.default_rng([place, number])",
        "rng = np.random.default_rng([0 if number == 7 else place, number])",
        {"dataset.splits-share-no-content"},
    ),
    "ids-shared-by-splits": ('f"{split}-{number}"', 'f"{number}"', {"dataset.splits-share-no-id"}),
    "ids-repeated": ('f"{split}-{number}"', 'f"{split}-{number % 50}"', {"dataset.splits-share-no-id"}),
    "ids-that-are-numbers": ('f"{split}-{number}"', "number + 1000 * place", {"dataset.splits-share-no-id"}),
    "random-ids": ('f"{split}-{number}"', "uuid.uuid4().hex", {"dataset.ids-are-stable"}),
    "hashed-ids": ('f"{split}-{number}"', 'f"{hash((split, number)):x}"', {"dataset.ids-are-stable"}),
    "order-of-a-set": (
        "for number in range(size)]",
        "for number in sorted(range(size), key=lambda n: hash(str(n)))]",
        {"dataset.ids-are-stable"},
    ),
    "content-drawn-anew": (
        "rng = np.random.default_rng([place, number])",
        "rng = np.random.default_rng(np.random.randint(2**31))",
        {"dataset.opened-twice-is-the-same"},
    ),
    "labels-drawn-anew": (
        '{"label": number % 3}',
        '{"label": random.randrange(3)}',
        {"dataset.opened-twice-is-the-same"},
    ),
    "label-out-of-range": ('{"label": number % 3}', '{"label": 1 + number % 3}', {"dataset.labels-in-range"}),
    "label-as-text": ('{"label": number % 3}', '{"label": str(number % 3)}', {"dataset.labels-in-range"}),
    "no-label": ('{"label": number % 3}', '{"class": number % 3}', {"dataset.labels-in-range"}),
    "one-class-only": ('{"label": number % 3}', '{"label": 1}', {"dataset.labels-in-range"}),
    "float64-table": (".astype(np.float32)", "", {"dataset.samples-are-canonical"}),
    "infinite-table": (
        ".astype(np.float32)",
        ".astype(np.float32) / np.float32(number != 3)",
        {"dataset.samples-are-canonical"},
    ),
    "bytes-for-text": ('" ".join(rng.choice(WORDS, 3))', 'b"words"', {"dataset.samples-are-canonical"}),
    "missing-but-not-declared": (
        '" ".join(rng.choice(WORDS, 3))',
        'None if number % 5 == 0 else " ".join(rng.choice(WORDS, 3))',
        {"dataset.missing-is-declared"},
    ),
    "a-modality-too-many": (
        '"words": " ".join',
        '"colour": "red", "words": " ".join',
        {"dataset.missing-is-declared"},
    ),
    "nothing-at-all": (
        '"table": rng.normal(size=4).astype(np.float32),\n            "words": " ".join(rng.choice(WORDS, 3)),',
        "",
        {"dataset.missing-is-declared", "dataset.splits-share-no-content"},
    ),
    "no-val": ('"val": 20, ', "", {"dataset.opens"}),
    "empty-test": ('"test": 20', '"test": 0', {"dataset.opens"}),
    "iterators": (
        "split: [one(split, number, place) for number in range(size)]",
        "split: iter([one(split, number, place) for number in range(size)])",
        {"dataset.opens"},
    ),
    "global-seed": (
        "    sizes = {",
        "    np.random.seed(0)\n    sizes = {",
        {"dataset.leaves-the-process-alone"},
    ),
    "changes-the-folder": (
        "    sizes = {",
        "    os.chdir(root)\n    sizes = {",
        {"dataset.leaves-the-process-alone"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_of_a_dataset_is_caught_by_the_right_check(fault: str, tmp_path: Path) -> None:
    old, new, expected = FAULTS[fault]
    assert old in SOUND
    package = dataset_package(tmp_path, f"seeded-dataset-{fault}", SOUND.replace(old, new, 1))

    caught = failures(package)

    assert {check: result.found for check, result in caught.items()}.keys() == expected
    assert all(result.found and result.expected and result.mend for result in caught.values())


def test_a_sound_dataset_passes_every_check(tmp_path: Path) -> None:
    assert failures(dataset_package(tmp_path, "sound-dataset", SOUND)) == {}


def test_a_declared_missing_modality_is_no_fault(tmp_path: Path) -> None:
    code = SOUND.replace(
        '" ".join(rng.choice(WORDS, 3))', 'None if number % 5 == 0 else " ".join(rng.choice(WORDS, 3))'
    )

    assert failures(dataset_package(tmp_path, "sound-missing", code, missing=("words",))) == {}


@pytest.mark.parametrize(
    ("ceilings", "found"),
    [
        ({"image": 1.0}, "'image' is no sorted subset"),
        ({"table": 1.5}, "the ceiling of 'table' is 1.5"),
        ({"table": 0.9, "table+words": 0.8}, "table may reach 0.9, but table+words only 0.8"),
    ],
)
def test_ceilings_that_cannot_be_are_caught(ceilings: dict[str, float], found: str, tmp_path: Path) -> None:
    name = f"ceilings-{abs(hash(str(ceilings)))}"

    caught = failures(dataset_package(tmp_path, name, SOUND, ceilings=ceilings))

    assert set(caught) == {"dataset.ceilings-make-sense"}
    assert found in caught["dataset.ceilings-make-sense"].found
