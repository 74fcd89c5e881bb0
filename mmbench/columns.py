"""Columns: one modality of a split as arrays, after an encoder's transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mmbench.data import SPLITS, Array, Sample, Split, check_canonical, input_digest, iterate_samples
from mmbench.errors import ContractError, DataError, error_list
from mmbench.spec import Modality

Transform: TypeAlias = Callable[[Any], Array]


@dataclass(frozen=True)
class Column:
    """One modality of one split after an encoder's transform.

    Attributes:
        values: (N, …) when every sample has the same shape, else all samples joined along their first axis.
        offsets: (N + 1,) where each sample begins and ends in `values`; None when shapes are equal.
        present: (N,) boolean; an absent sample has zeros, or no rows at all.
        digests: (N,) uint64 of the inputs before the transform, 0 where absent; None where they were not computed.
    """

    values: Array
    offsets: Array | None
    present: Array
    digests: Array | None = None

    def __len__(self) -> int:
        return len(self.present)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], prefix: str = "") -> Column:
        """Return the column whose parts stand in a mapping, such as an entry of the cache, under their names.

        Args:
            arrays: By ``values``, ``present``, and where there are any ``offsets`` and ``digests``.
            prefix: What stands before these names, as "train.".
        """
        return cls(
            values=arrays[f"{prefix}values"],
            offsets=arrays.get(f"{prefix}offsets"),
            present=arrays[f"{prefix}present"],
            digests=arrays.get(f"{prefix}digests"),
        )


def transform_key(encoder: Any, fallback: str) -> str:
    """Name a transform by what it does, so that encoders with equal transforms share one cached column.

    A transform that is a frozen dataclass is named by its class and fields; any other by `fallback`, the encoder's
    own identity.
    """
    transform = encoder.transform
    if dataclasses.is_dataclass(transform) and not isinstance(transform, type):
        owner = type(transform)
        return f"{owner.__module__}.{owner.__qualname__}:{transform!r}@{getattr(owner, 'version', '1')}"
    return fallback


def make_columns(
    splits: Mapping[Split, Sequence[Sample]], modality: Modality, transform: Transform
) -> dict[str, Array]:
    """Return the arrays of one modality of every split after `transform`, as `Column.from_arrays` reads them.

    Raises:
        DataError: some inputs cannot be read, or no sample has the modality.
        ContractError: an input or what `transform` makes of it is not of the promised form.
    """
    name = modality.name
    arrays: dict[str, Array] = {}
    shapes: set[tuple[int, ...]] = set()
    rows: dict[Split, list[Array | None]] = {}
    errors: list[str] = []
    for split in SPLITS:
        rows[split] = []
        digests: list[int] = []
        for sample in iterate_samples(splits[split], split):
            try:
                value = sample.inputs.get(name)
            except DataError as error:
                errors.append(str(error))
                continue
            if value is None:
                rows[split].append(None)
                digests.append(0)
                continue
            check_canonical(f"{name!r} of sample {sample.sample_id!r}", modality.kind, value)
            digests.append(input_digest(value))
            rows[split].append(_transformed(name, value, transform, shapes))
        arrays[f"{split}.digests"] = np.array(digests, dtype=np.uint64)
    if errors:
        raise DataError(error_list(f"{len(errors):,} inputs of {name!r} cannot be read", errors))
    if not shapes:
        raise DataError(f"no sample has the modality {name!r}; leave it out of the selection")
    same = len(shapes) == 1
    for split in SPLITS:
        packed = _pack(rows[split], shape=next(iter(shapes)), same=same)
        arrays.update({f"{split}.{part}": array for part, array in packed.items()})
    return arrays


def make_changed_column(
    samples: Sequence[Sample],
    positions: Sequence[int],
    modality: Modality,
    transform: Transform,
    change: Callable[[str, Any], Any],
) -> dict[str, Array]:
    """Return the arrays of one modality of some samples, changed before `transform`.

    Args:
        samples: Of a split.
        positions: Of those that are read.
        modality: Which.
        transform: The encoder's.
        change: (sample_id, canonical input) -> canonical input.
    """
    rows: list[Array | None] = []
    shapes: set[tuple[int, ...]] = set()
    for position in positions:
        sample = samples[position]
        value = sample.inputs.get(modality.name)
        if value is None:
            rows.append(None)
            continue
        value = change(sample.sample_id, value)
        check_canonical(f"{modality.name!r} of sample {sample.sample_id!r}, changed,", modality.kind, value)
        rows.append(_transformed(modality.name, value, transform, shapes))
    return _pack(rows, shape=next(iter(shapes), (1,)), same=len(shapes) == 1)


def _transformed(modality: str, value: Any, transform: Transform, shapes: set[tuple[int, ...]]) -> Array:
    """Return an input after `transform`, checked; its shape joins those seen so far."""
    where, row = f"the transform of {modality!r}", np.asarray(transform(value))
    if row.dtype.kind not in "uifb":
        raise ContractError(f"{where} must give numbers, got dtype {row.dtype}")
    shapes.add(row.shape)
    if len(shapes) > 1:
        trailing = {shape[1:] for shape in shapes} | ({()} if any(not shape for shape in shapes) else set())
        if len(trailing) > 1 or len({len(shape) for shape in shapes}) > 1:
            a, b = sorted(shapes)[:2]
            raise ContractError(f"{where} gives shapes {a} and {b}; only the first axis may vary between samples")
    return row


def _pack(rows: Sequence[Array | None], *, shape: tuple[int, ...], same: bool) -> dict[str, Array]:
    present = np.array([row is not None for row in rows], dtype=bool)
    real = [row for row in rows if row is not None]
    dtype = real[0].dtype if real else np.dtype(np.float32)
    if same:
        values = np.zeros((len(rows), *shape), dtype=dtype)
        for position, row in enumerate(rows):
            if row is not None:
                values[position] = row
        return {"values": values, "present": present}
    lengths = [0 if row is None else len(row) for row in rows]
    values = np.concatenate(real) if real else np.zeros((0, *shape[1:]), dtype=dtype)
    return {"values": values, "offsets": np.cumsum([0, *lengths], dtype=np.int64), "present": present}
