"""AV-MNIST in MultiBench's layout: degraded MNIST images and spectrograms of spoken digits, as flat npy files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmbench_datasets.lazy import LazySamples
from numpy.typing import NDArray

from mmbench.data import Split
from mmbench.errors import DataError
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench_benchmarks.corpus import fingerprint
from mmbench_benchmarks.folder import Folder, Published

_PUBLISHED = Published(
    name="av-mnist",
    title="AV-MNIST",
    origin="MultiBench's data page (github.com/pliang279/MultiBench)",
    layout="image/{train,test}_data.npy, audio/{train,test}_data.npy and {train,test}_labels.npy",
)
_FILES = tuple(
    path.format(part=part)
    for part in ("train", "test")
    for path in ("image/{part}_data.npy", "audio/{part}_data.npy", "{part}_labels.npy")
)
_SIDES: Mapping[str, int] = {"image": 28, "audio": 112}
#: The published split: the last 5,000 of 60,000 training samples are for validation.
_VAL_DIVISOR = 12
_LOOKED_AT = 1000
_TASK = TaskSpec(name="digit", kind="multiclass", num_outputs=10, class_names=tuple("0123456789"))


def describe_av_mnist(target: str = "") -> DatasetInfo:
    """Return what planning must know; the headers of new files are read.

    Raises:
        Unavailable: a file is not there.
        DataError: a file is no npy of the published form.
    """
    folder = Folder(_PUBLISHED, target)
    folder.require(*_FILES)
    return DatasetInfo(
        modalities=tuple(
            Modality(name=name, kind="image", facts={"channels": 1, "size": [side, side]})
            for name, side in _SIDES.items()
        ),
        tasks=(_TASK,),
        fingerprint=fingerprint(folder, _FILES, {}, lambda name: _check(folder, name)),
    )


def open_av_mnist(root: Path, *, target: str = "") -> dict[Split, LazySamples]:
    """Return the published split; the spectrogram is an image of one channel.

    Raises:
        Unavailable: a file is not there.
        DataError: a file is no npy of the published form.
    """
    folder = Folder(_PUBLISHED, target, root)
    folder.require(*_FILES)
    train, test = _Part(folder, "train"), _Part(folder, "test")
    cut = len(train) - len(train) // _VAL_DIVISOR
    return {
        "train": train.samples(range(cut)),
        "val": train.samples(range(cut, len(train))),
        "test": test.samples(range(len(test))),
    }


class _Part:
    """The training or the test files."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._name = name
        self._labels = _read(folder, f"{name}_labels.npy").reshape(-1)
        self._data = {modality: _read(folder, f"{modality}/{name}_data.npy") for modality in _SIDES}
        for modality, data in self._data.items():
            if len(data) != len(self._labels):
                raise DataError(
                    f"{modality}/{name}_data.npy has {len(data):,} rows and {name}_labels.npy {len(self._labels):,}; "
                    "get the files again"
                )
        self._scales = {modality: _scale(data) for modality, data in self._data.items()}

    def __len__(self) -> int:
        return len(self._labels)

    def samples(self, rows: range) -> LazySamples:
        return LazySamples(
            rows,
            ids=[f"{self._name}-{row:05}" for row in range(len(self))],
            targets={"digit": [int(label) for label in self._labels]},
            readers={
                "image": lambda row: self._picture("image", row),
                "audio": lambda row: self._picture("audio", row),
            },
        )

    def _picture(self, modality: str, row: int) -> NDArray[np.uint8]:
        values = np.asarray(self._data[modality][row], dtype=np.float64) * self._scales[modality]
        side = _SIDES[modality]
        return np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8).reshape(1, side, side)


def _scale(data: NDArray[Any]) -> float:
    """255 where values lie in 0 … 1, else 1: the published files hold 0 … 255."""
    return 255.0 if data.dtype.kind == "f" and len(data) and float(np.max(data[:_LOOKED_AT])) <= 1.0 else 1.0


def _check(folder: Folder, name: str) -> None:
    _read(folder, name)


def _read(folder: Folder, name: str) -> NDArray[Any]:
    """Map a file into memory: nothing is unpacked, and a header that claims more than the file holds is refused."""
    if folder.status(name, _PUBLISHED.title) is None:
        raise DataError(f"{name} is no file; get it again from {_PUBLISHED.origin}")
    try:
        data: NDArray[Any] = np.lib.format.open_memmap(folder.root / name, mode="r")
    except (ValueError, TypeError, OSError, SyntaxError, MemoryError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{name} cannot be read as npy ({reason}); get it again from {_PUBLISHED.origin}") from None
    side = next((side for modality, side in _SIDES.items() if name.startswith(modality)), 0)
    width = int(np.prod(data.shape[1:], dtype=np.int64))
    if data.dtype.kind not in "fiu" or not data.ndim or width != (side * side or 1) or not len(data):
        due = f"(N, {side * side}) or (N, {side}, {side})" if side else "(N,)"
        raise DataError(f"{name} holds {data.dtype} {data.shape} where numbers {due} are due; get it again")
    if not side and not np.isin(data, range(10)).all():
        raise DataError(f"{name} holds labels that are not 0 to 9; get it again from {_PUBLISHED.origin}")
    return data
