"""CMU-MOSI, CMU-MOSEI, UR-FUNNY and MUStARD as feature files: the pickles of MultiBench, and those of MMSA.

Both are a dict of train, valid and test, each a dict of arrays with one row per utterance: ``vision``, ``audio`` and
``text`` (N, T, F), and ``id``. MultiBench adds ``labels`` and pads in front with zeros; MMSA adds
``regression_labels``, ``raw_text``, and for unaligned features ``audio_lengths`` and ``vision_lengths``.

What the field does to them is done here too, and nothing more: values that are not finite become 0 (COVAREP writes
-inf), padding is taken off, and an utterance without any text is left out (MultiBench's `drop_entry`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmbench_datasets.lazy import LazySamples, Read
from numpy.typing import NDArray

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError, UsageError, did_you_mean
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench_benchmarks.corpus import fingerprint
from mmbench_benchmarks.folder import Folder, Published
from mmbench_benchmarks.restricted_pickle import load_pickle

Array = NDArray[Any]

_SEQUENCES = ("vision", "audio", "text")
_KEYS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "val": ("valid", "val", "dev"), "test": ("test",)}
_MMSA_FILES = ("aligned_50.pkl", "unaligned_50.pkl", "Processed/aligned_50.pkl", "Processed/unaligned_50.pkl")
#: Utterances of one video are numbered: "03bSnISJMiM[2]" in MultiBench's files, "03bSnISJMiM$_$2" in MMSA's.
_UTTERANCE = re.compile(r"(?P<video>.+?)(\[\d+\]|\$_\$\d+)")
_MULTIBENCH = "MultiBench's page of affective computing data (github.com/pliang279/MultiBench)"
_MMSA = "MMSA's page of datasets (github.com/thuiar/MMSA)"

_SENTIMENT = TaskSpec(name="sentiment", kind="regression", num_outputs=1, primary="mae")
_POLARITY = TaskSpec(name="polarity", kind="multiclass", num_outputs=2, class_names=("not positive", "positive"))
_SIGN = TaskSpec(name="polarity", kind="multiclass", num_outputs=2, class_names=("negative", "positive"))
#: What to predict from a sentiment in -3 … 3; the first is the usual one.
_SENTIMENT_TASKS: Mapping[str, tuple[TaskSpec, ...]] = {
    "sentiment": (_SENTIMENT,),
    "polarity": (_POLARITY,),
    "polarity-without-neutral": (_SIGN,),
    "both": (_SENTIMENT, _POLARITY),
}


@dataclass(frozen=True, kw_only=True)
class _Set:
    """One of the four datasets.

    Attributes:
        published: Where to get it.
        files: Names that its file goes by, in the order in which they are looked for.
        tasks: By word of the option `task`; empty when there is one task only.
        task: That one task.
    """

    published: Published
    files: tuple[str, ...]
    tasks: Mapping[str, tuple[TaskSpec, ...]]
    task: TaskSpec


def _two_classes(name: str, negative: str) -> TaskSpec:
    return TaskSpec(name=name, kind="multiclass", num_outputs=2, class_names=(negative, name))


def _published(name: str, title: str, files: tuple[str, ...], origin: str) -> Published:
    return Published(name=name, title=title, origin=origin, layout=" or ".join(files))


_SETS = {
    item.published.name: item
    for item in (
        _Set(
            published=_published(
                "mosi", "CMU-MOSI", ("mosi_raw.pkl", "aligned_50.pkl", "unaligned_50.pkl"), f"{_MULTIBENCH} or {_MMSA}"
            ),
            files=("mosi_raw.pkl", "mosi_data.pkl", *_MMSA_FILES),
            tasks=_SENTIMENT_TASKS,
            task=_SENTIMENT,
        ),
        _Set(
            published=_published(
                "mosei",
                "CMU-MOSEI",
                ("mosei_raw.pkl", "mosei_senti_data.pkl", "aligned_50.pkl", "unaligned_50.pkl"),
                f"{_MULTIBENCH} or {_MMSA}",
            ),
            files=("mosei_raw.pkl", "mosei_senti_data.pkl", *_MMSA_FILES),
            tasks=_SENTIMENT_TASKS,
            task=_SENTIMENT,
        ),
        _Set(
            published=_published("ur-funny", "UR-FUNNY", ("humor.pkl",), _MULTIBENCH),
            files=("humor.pkl",),
            tasks={},
            task=_two_classes("humour", "no humour"),
        ),
        _Set(
            published=_published("mustard", "MUStARD", ("sarcasm.pkl",), _MULTIBENCH),
            files=("sarcasm.pkl",),
            tasks={},
            task=_two_classes("sarcasm", "no sarcasm"),
        ),
    )
}


def describe_mosi(target: str = "", **options: Any) -> DatasetInfo:
    """See `_describe`."""
    return _describe("mosi", target, **options)


def describe_mosei(target: str = "", **options: Any) -> DatasetInfo:
    """See `_describe`."""
    return _describe("mosei", target, **options)


def describe_ur_funny(target: str = "", **options: Any) -> DatasetInfo:
    """See `_describe`."""
    return _describe("ur-funny", target, **options)


def describe_mustard(target: str = "", **options: Any) -> DatasetInfo:
    """See `_describe`."""
    return _describe("mustard", target, **options)


def open_mosi(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """See `_open`."""
    return _open("mosi", root, target, **options)


def open_mosei(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """See `_open`."""
    return _open("mosei", root, target, **options)


def open_ur_funny(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """See `_open`."""
    return _open("ur-funny", root, target, **options)


def open_mustard(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """See `_open`."""
    return _open("mustard", root, target, **options)


def _describe(name: str, target: str, *, task: str = "", raw_text: bool = False) -> DatasetInfo:
    """Return what planning must know; a file that was not seen before is read whole, once.

    Raises:
        Unavailable: the file is not there.
        UsageError: the folder holds several, or `task` is none of the dataset's.
        DataError: the file is no pickle of plain arrays in one of the two layouts.
    """
    known = _SETS[name]
    tasks = _tasks(known, task)
    folder = Folder(known.published, target)
    file = _find(known, folder)
    modalities = [Modality(name=sequence, kind="sequence") for sequence in _SEQUENCES]
    if raw_text:
        modalities.append(Modality(name="raw_text", kind="text"))
    return DatasetInfo(
        modalities=tuple(modalities),
        tasks=tasks,
        fingerprint=fingerprint(folder, [file], {}, lambda name: _check(folder.root / name, raw_text)),
    )


def _open(name: str, root: Path, target: str, *, task: str = "", raw_text: bool = False) -> dict[Split, LazySamples]:
    """Return the splits that the file gives.

    Args:
        name: Of the dataset.
        root: The folder to look in when there is no target.
        target: The file or its folder.
        task: What to predict, for CMU-MOSI and CMU-MOSEI.
        raw_text: Whether to add the words themselves, which MMSA's files hold.

    Raises:
        Unavailable: the file is not there.
        UsageError: the folder holds several, or `task` is none of the dataset's.
        DataError: the file is no pickle of plain arrays in one of the two layouts.
    """
    known = _SETS[name]
    tasks = _tasks(known, task)
    folder = Folder(known.published, target, root)
    path = folder.root / _find(known, folder)
    parts = _read(path, raw_text)
    ids = {split: _ids(part) for split, part in parts.items()}
    every = [each for split in SPLITS for each in ids[split]]
    if not all(every) or len(set(every)) < len(every):
        ids = {split: [f"{split}-{row:05}" for row in range(len(ids[split]))] for split in SPLITS}
    return {
        split: _samples(part, ids[split], tasks, without_neutral=tasks == (_SIGN,), raw_text=raw_text)
        for split, part in parts.items()
    }


def _tasks(known: _Set, task: str) -> tuple[TaskSpec, ...]:
    if not known.tasks:
        return (known.task,)
    if task not in known.tasks:
        raise UsageError(
            f"{known.published.name} has no task {task!r}; choose [task=…] from {', '.join(known.tasks)}."
            f"{did_you_mean(task, known.tasks)}"
        )
    return known.tasks[task]


def _find(known: _Set, folder: Folder) -> str:
    if folder.file:
        return folder.file
    found = [name for name in known.files if folder.status(name, known.published.title)]
    if not found:
        raise folder.unavailable(f"none of {', '.join(known.files)} is there")
    if len(found) > 1:
        name = known.published.name
        raise UsageError(f"{folder.root} holds {' and '.join(found)}; say which, as in {name}:{folder.root}/{found[0]}")
    return found[0]


def _check(path: Path, raw_text: bool) -> None:
    _read(path, raw_text)


def _read(path: Path, raw_text: bool) -> dict[Split, dict[str, Any]]:
    """Return the arrays of each split, their shapes checked, "labels" (N,) float64 among them."""
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise DataError(f"{path.name} holds {type(content).__name__}, not a dict of train, valid and test")
    parts: dict[Split, dict[str, Any]] = {}
    for split, names in _KEYS.items():
        name = next((name for name in names if isinstance(content.get(name), dict)), "")
        if not name:
            held = ", ".join(map(str, list(content)[:8]))
            raise DataError(f"{path.name} has no dict {names[0]!r}; it holds {held}. MultiBench's and MMSA's files do")
        parts[split] = _checked(content[name], f"{path.name}, {name}", raw_text)
    return parts


def _checked(part: Mapping[Any, Any], where: str, raw_text: bool) -> dict[str, Any]:
    checked: dict[str, Any] = {"where": where}
    for name in _SEQUENCES:
        checked[name] = _sequences(part.get(name), f"{where}: {name!r}")
    count = len(checked["vision"])
    labels = part.get("regression_labels", part.get("labels"))
    checked["labels"] = _labels(labels, f"{where}: labels")
    checked["id"] = part.get("id")
    for name in ("vision", "audio", "text"):
        lengths = part.get(f"{name}_lengths")
        if lengths is not None:
            checked[f"{name}_lengths"] = np.asarray(lengths).reshape(-1)
    if raw_text:
        words = part.get("raw_text")
        if words is None:
            raise DataError(f"{where} has no 'raw_text', which MMSA's files have; leave [raw_text=true] out")
        checked["raw_text"] = [_text(each) for each in np.asarray(words, dtype=object).reshape(-1)]
    for name in checked:
        if name not in ("where", "id") and len(checked[name]) != count:
            raise DataError(f"{where}: {name!r} has {len(checked[name])} rows, 'vision' {count}; get the file again")
    return checked


def _sequences(value: Any, where: str) -> Sequence[Array]:
    """Return (T, F) arrays of numbers, one per row, of one width."""
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        rows = list(value)
    elif isinstance(value, np.ndarray) and value.ndim == 3:
        rows = value  # type: ignore[assignment]
    else:
        raise DataError(f"{where} must be an array (N, T, F), got {_shown(value)}; get the file again")
    widths = set()
    for row in rows:
        if not (isinstance(row, np.ndarray) and row.ndim == 2 and row.dtype.kind in "fiu" and row.size):
            raise DataError(f"{where} must hold arrays (T, F) of numbers, got {_shown(row)}; get the file again")
        widths.add(row.shape[1])
    if len(widths) != 1:
        raise DataError(f"{where} must have one number of features, got {sorted(widths)[:8]}; get the file again")
    return rows


def _labels(value: Any, where: str) -> Array:
    """Return (N,): the first of each row's values, since CMU-MOSEI's emotions may follow the sentiment."""
    if not isinstance(value, np.ndarray) and not (isinstance(value, list) and all(map(_is_flat, value))):
        raise DataError(f"{where} must be numbers, one row per utterance, got {_shown(value)}")
    try:
        labels = np.asarray(value, dtype=np.float64)
        first = labels.reshape(len(labels), -1)[:, 0]
    except (TypeError, ValueError, IndexError):
        raise DataError(f"{where} must be numbers, one row per utterance, got {_shown(value)}") from None
    if not np.isfinite(first).all():
        raise DataError(f"{where}: row {int(np.flatnonzero(~np.isfinite(first))[0])} is not finite; get the file again")
    return first


def _is_flat(value: Any) -> bool:
    """Return whether a row is a number, an array, or a list of numbers: a list of lists may grow beyond measure."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, int | float | np.generic | np.ndarray) for item in value)
    return isinstance(value, int | float | np.generic | np.ndarray)


def _first(value: Any) -> Any:
    """Return the first item of an array or of lists in lists, or "" where there is none."""
    while isinstance(value, list | tuple | np.ndarray):
        if isinstance(value, np.ndarray):
            return value.flat[0] if value.size else ""
        value = value[0] if value else ""
    return value


def _ids(part: Mapping[str, Any]) -> list[str]:
    """Return the utterances' names, "" where the file gives none."""
    given = part["id"]
    count = len(part["labels"])
    if not isinstance(given, list | np.ndarray) or len(given) != count:
        return [""] * count
    return [_text(_first(each)) for each in given]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shown(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _samples(
    part: Mapping[str, Any], ids: Sequence[str], tasks: Sequence[TaskSpec], *, without_neutral: bool, raw_text: bool
) -> LazySamples:
    labels = part["labels"]
    rows = [
        row for row in range(len(ids)) if np.any(part["text"][row]) and not (without_neutral and labels[row] == 0.0)
    ]
    readers: dict[str, Read] = {name: _reader(part, name) for name in _SEQUENCES}
    if raw_text:
        readers["raw_text"] = lambda row: part["raw_text"][row]
    targets = {
        task.name: [float(label) if task.kind == "regression" else int(label > 0) for label in labels] for task in tasks
    }
    return LazySamples(rows, ids=ids, targets=targets, readers=readers, groups=[_video(each) for each in ids])


def _video(utterance: str) -> str:
    """Return the video that an utterance is of, "" where its name does not say it.

    >>> _video("03bSnISJMiM[2]"), _video("03bSnISJMiM$_$2"), _video("test-00002")
    ('03bSnISJMiM', '03bSnISJMiM', '')
    """
    found = _UTTERANCE.fullmatch(utterance)
    return found["video"] if found else ""


def _reader(part: Mapping[str, Any], name: str) -> Read:
    """Return what gives one modality: cut to its length where the file says it, else without padding at either end.

    Aligned features share the padding of the text: a word without a face in sight has zeros and is no padding.
    """
    lengths = part.get(f"{name}_lengths")

    def read(row: int) -> Array:
        values = np.nan_to_num(np.asarray(part[name][row], dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        if lengths is not None:
            return values[: max(1, int(lengths[row]))]
        text = part["text"][row]
        guide = text if len(text) == len(values) else values
        filled = np.flatnonzero(np.any(guide != 0, axis=1))
        return values[filled[0] : filled[-1] + 1] if len(filled) else values[:1]

    return read
