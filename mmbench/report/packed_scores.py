"""The scores of single test samples, packed into one small file: published rows can be tested without predictions.

A right or wrong answer takes one bit, any other score two bytes. Samples are named by hashes of their ids alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.encoding import parse_json
from mmbench.influence import Shape
from mmbench.report.pairwise import is_share

Floats: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = NDArray[np.int64]

PACKED_FILE = "scores.safetensors"
#: A packed file is refused beyond this size: 20,000 cells of 10,000 samples take 25 MB.
MAX_BYTES = 256 * 1024 * 1024
_FORMAT = "mmbench-sample-scores-1"
_LEVELS = 65535
_ID_BYTES = 8


@dataclass(frozen=True)
class SampleScores:
    """What each test sample adds to the metric, for one cell; samples in the order of their hashed ids.

    That is its score where the metric is a mean over samples, else the metric plus the sample's influence.

    Attributes:
        scores: (N,).
        samples: Digest of all hashed ids. Cells with the same digest were tested on the same samples.
        groups: (N,), number of each sample's group, or None where samples are independent.
        shape, bias, least_variance, fewest: Of `mmbench.influence.Influence`; shape is None for a mean over samples.
    """

    scores: Floats
    samples: str
    groups: Groups | None = None
    shape: Shape | None = None
    bias: float = 0.0
    least_variance: float = 0.0
    fewest: int | None = None


@dataclass(frozen=True)
class ScoreKey:
    """Which scores: of a cell, in one of its tasks, in one metric."""

    cell_id: str
    task: str
    metric: str


def in_canonical_order(scores: Floats, ids: Sequence[str], groups: Groups | None = None) -> SampleScores:
    """Return scores in the order of their samples' hashed ids.

    Args:
        scores: (N,), in the order of `ids`.
        ids: Names of the samples, each once.
        groups: (N,), number of each sample's group; None where samples are independent.

    Raises:
        ValueError: an id stands twice.
    """
    order, digest = _hashed_order(tuple(ids))
    return SampleScores(np.asarray(scores, dtype=np.float64)[order], digest, None if groups is None else groups[order])


@lru_cache(maxsize=16)
def _hashed_order(ids: tuple[str, ...]) -> tuple[NDArray[np.int64], str]:
    """Order of the samples by their hashed ids, and the digest of the hashes in that order."""
    hashes = [hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest() for name in ids]
    if len(set(hashes)) != len(hashes):
        raise ValueError("a sample's id stands twice")
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    digest = hashlib.blake2b(b"".join(hashes[at] for at in order), digest_size=16).hexdigest()
    return np.array(order, dtype=np.int64), digest


def pack(found: Mapping[ScoreKey, SampleScores]) -> bytes:
    """Return the contents of a packed file.

    Cells with the same task, metric, samples and encoding share one block: a row of bytes for each cell.
    """
    from safetensors.numpy import save

    blocks: dict[tuple[str, str, str, bool], list[tuple[str, SampleScores]]] = defaultdict(list)
    for key, scored in found.items():
        if np.isfinite(scored.scores).all() and len(scored.scores):
            as_bits = is_share(scored.scores)
            blocks[key.task, key.metric, scored.samples, as_bits].append((key.cell_id, scored))
    header: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for number, ((task, metric, samples, as_bits), cells) in enumerate(sorted(blocks.items(), key=lambda kv: kv[0])):
        cells.sort(key=lambda cell: cell[0])
        scores = np.stack([scored.scores for _, scored in cells])
        groups = cells[0][1].groups
        header.append(
            {"task": task, "metric": metric, "samples": samples, "num_samples": scores.shape[1], "bits": as_bits}
        )
        arrays[f"{number}.cells"] = np.stack([_id_bytes(cell_id) for cell_id, _ in cells])
        if groups is not None:
            arrays[f"{number}.groups"] = groups.astype(np.min_scalar_type(int(groups.max())))
        if as_bits:
            arrays[f"{number}.scores"] = np.packbits(scores > 0, axis=1)
        else:
            low, high = scores.min(axis=1), scores.max(axis=1)
            step = np.where(high > low, (high - low) / _LEVELS, 1.0)
            arrays[f"{number}.scores"] = np.rint((scores - low[:, None]) / step[:, None]).astype(np.uint16)
            arrays[f"{number}.range"] = np.stack([low, step], axis=1)
    # One key alone: safetensors writes several in no fixed order, and equal scores should give equal bytes.
    return save(arrays, metadata={_FORMAT: json.dumps(header)})


class PackedScores:
    """The scores that a packed file holds, by cell, task and metric; empty where there is no file that can be read.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._found = _read(path)
            self.problem = ""
        except FileNotFoundError:
            self._found, self.problem = {}, ""
        except _UnreadableError as error:
            self._found, self.problem = {}, f"{path.name} cannot be read: {error}"

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: ScoreKey) -> SampleScores | None:
        """Return the scores, or None where the file has none."""
        return self._found.get(key)


class _UnreadableError(Exception):
    """A packed file that is damaged, too large or of another format."""


def _read(path: Path) -> dict[ScoreKey, SampleScores]:
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > MAX_BYTES:
        raise _UnreadableError(f"it is larger than {MAX_BYTES} bytes")
    found: dict[ScoreKey, SampleScores] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            blocks = (file.metadata() or {}).get(_FORMAT)
            if blocks is None:
                raise _UnreadableError(f"its format is not {_FORMAT}")
            names = set(file.keys())
            for number, block in enumerate(parse_json(blocks)):
                about = _Block.parse(block)
                arrays = {
                    part: file.get_tensor(f"{number}.{part}")
                    for part in ("cells", "scores", "range", "groups")
                    if f"{number}.{part}" in names
                }
                found.update(about.unpack(arrays))
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _UnreadableError(str(error) or type(error).__name__) from None
    return found


@dataclass(frozen=True)
class _Block:
    """The header of cells that were tested on the same samples in the same metric."""

    task: str
    metric: str
    samples: str
    num_samples: int
    bits: bool

    @classmethod
    def parse(cls, data: Any) -> _Block:
        """Raises: ValueError: it is no such header."""
        block = cls(**data)
        texts = (block.task, block.metric, block.samples)
        if not all(isinstance(text, str) for text in texts) or type(block.bits) is not bool:
            raise ValueError("a block's header has a value of the wrong type")
        if type(block.num_samples) is not int or block.num_samples < 1:
            raise ValueError("a block's number of samples is not positive")
        return block

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> dict[ScoreKey, SampleScores]:
        """Raises: ValueError, KeyError: arrays do not fit one another."""
        cells, packed = arrays["cells"], arrays["scores"]
        width = (self.num_samples + 7) // 8 if self.bits else self.num_samples
        kind = np.uint8 if self.bits else np.uint16
        if cells.dtype != np.uint8 or cells.shape != (len(packed), _ID_BYTES):
            raise ValueError("cell ids do not fit the scores")
        if packed.dtype != kind or packed.shape != (len(cells), width):
            raise ValueError("scores do not fit the number of samples")
        if self.bits:
            scores = np.unpackbits(packed, axis=1, count=self.num_samples).astype(np.float64)
        else:
            bounds = arrays["range"]
            if bounds.dtype != np.float64 or bounds.shape != (len(cells), 2) or not np.isfinite(bounds).all():
                raise ValueError("the scores' ranges do not fit them")
            scores = bounds[:, :1] + packed * bounds[:, 1:]
        groups = arrays.get("groups")
        if groups is not None:
            if groups.shape != (self.num_samples,) or groups.dtype.kind != "u":
                raise ValueError("groups do not fit the number of samples")
            groups = groups.astype(np.int64)
        return {
            ScoreKey(row.tobytes().hex(), self.task, self.metric): SampleScores(scores[at], self.samples, groups)
            for at, row in enumerate(cells)
        }


def _id_bytes(cell_id: str) -> NDArray[np.uint8]:
    """Raises: ValueError: the id is not 16 hexadecimal digits."""
    raw = bytes.fromhex(cell_id)
    if len(raw) != _ID_BYTES:
        raise ValueError(f"cell id {cell_id!r} is not {2 * _ID_BYTES} hexadecimal digits")
    return np.frombuffer(raw, dtype=np.uint8)
