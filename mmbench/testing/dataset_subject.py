"""A dataset under check: opened once here, once in another process, and read within a budget of time."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data import SPLITS, Sample, Waveform
from mmbench.errors import Unavailable
from mmbench.part_code import load_attribute
from mmbench.spec import DatasetInfo, DatasetSpec
from mmbench.testing.checks import Fault, Level, NotChecked
from mmbench.testing.target import Part

#: How long a level may spend on decoding inputs, in seconds; ids and labels are always read whole.
_DECODE_S: dict[Level, float] = {"api": 0.0, "smoke": 2.0, "full": 120.0}
_CHILD_LIMIT_S = 300.0


class DatasetSubject:
    """A dataset, opened once and read within a level's budget."""

    def __init__(self, part: Part, level: Level, device: str) -> None:
        self.part, self.level, self.device = part, level, device

    @property
    def spec(self) -> DatasetSpec:
        """Its descriptor."""
        assert isinstance(self.part.spec, DatasetSpec)
        return self.part.spec

    @functools.cached_property
    def root(self) -> Path:
        """Where it may keep files: what an installed one uses in runs, so that nothing is fetched or made twice."""
        if self.part.plugin.form == "distribution":
            from mmbench.config import data_dir, part_root  # pydantic is slow to import, and a child has no need of it

            root = part_root(data_dir(), self.part.ref)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="mmbench-check-")
            root = Path(self._temporary.name)
        root.mkdir(parents=True, exist_ok=True)
        return root

    @property
    def target(self) -> dict[str, str]:
        """The keyword that a dataset with a target is called with."""
        if self.spec.target == "required" and not self.part.target:
            raise NotChecked(f"it needs a target: check dataset:{self.part.ref}:TARGET")
        return {"target": self.part.target} if self.spec.target != "none" else {}

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """What the descriptor or `describe` says."""
        spec = self.spec
        if not spec.describe:
            return DatasetInfo(modalities=spec.modalities, tasks=spec.tasks, missing=spec.missing)
        told = self.describe()
        if not isinstance(told, DatasetInfo):
            raise Fault(f"describe returned {type(told).__name__}", expected="a DatasetInfo")
        return told

    def describe(self) -> Any:
        """Call the descriptor's `describe` as planning does.

        Raises:
            NotChecked: its data are not here.
        """
        try:
            return load_attribute(self.spec.describe)(*self.target.values(), **self.part.options)
        except Unavailable as error:
            raise NotChecked(f"unavailable here: {error}") from None

    def open(self) -> Mapping[str, Sequence[Sample]]:
        """Call the factory.

        Raises:
            NotChecked: its data are not here.
        """
        try:
            splits = load_attribute(self.spec.factory)(self.root, **self.target, **self.part.options)
        except Unavailable as error:
            raise NotChecked(f"unavailable here: {error}") from None
        return splits  # type: ignore[no-any-return]

    @functools.cached_property
    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """The first opening."""
        return self.open()

    @functools.cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """Every sample of every split; lazy inputs stay undecoded."""
        return {split: [self.splits[split][i] for i in range(len(self.splits[split]))] for split in SPLITS}

    @functools.cached_property
    def decoded(self) -> list[tuple[str, Sample, dict[str, Any]]]:
        """(split, sample, inputs by modality) of as many samples as time allows, spread over all splits."""
        limit = time.monotonic() + _DECODE_S[self.level]
        found = []
        for split, sample in _alternating(self.samples):
            inputs = {modality.name: sample.inputs.get(modality.name) for modality in self.info.modalities}
            found.append((split, sample, inputs))
            if time.monotonic() > limit and len(found) >= 30:
                break
        return found

    @functools.cached_property
    def hashes(self) -> list[tuple[str, str, str]]:
        """(split, sample id, digest of all inputs) of the decoded samples."""
        return [(split, sample.sample_id, content_hash(inputs)) for split, sample, inputs in self.decoded]


def content_hash(inputs: Mapping[str, Any]) -> str:
    """Return a digest of everything that a sample shows."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        digest.update(f"\0{name}\0".encode())
        if isinstance(value, Waveform):
            digest.update(str(value.rate).encode())
            value = value.values
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _alternating(samples: Mapping[str, Sequence[Sample]]) -> Iterator[tuple[str, Sample]]:
    """Yield samples of all splits in turn, each split's in a fixed spread order."""
    orders = {split: list(np.random.default_rng(0).permutation(len(found))) for split, found in samples.items()}
    for position in range(max(map(len, samples.values()))):
        for split, order in orders.items():
            if position < len(order):
                yield split, samples[split][order[position]]


def ids_digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def ids_in_child(subject: DatasetSubject) -> dict[str, str]:
    """Open the dataset in another process with another PYTHONHASHSEED; return the digest of each split's ids."""
    plugin = subject.part.plugin
    request = {
        "path": list(plugin.path),
        "factory": subject.spec.factory,
        "root": str(subject.root),
        "options": {**subject.target, **subject.part.options},
    }
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-m", "mmbench.testing.dataset_subject", json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=_CHILD_LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    try:
        told: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        raise Fault(f"in another process it cannot be opened: {said[-1] if said else 'no word why'}") from None
    return told


def _main(request: Mapping[str, Any]) -> dict[str, str]:
    sys.path[:0] = request["path"]
    splits = load_attribute(request["factory"])(Path(request["root"]), **request["options"])
    return {split: ids_digest([splits[split][i].sample_id for i in range(len(splits[split]))]) for split in SPLITS}


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(_main(json.loads(sys.argv[1])))}\n")
