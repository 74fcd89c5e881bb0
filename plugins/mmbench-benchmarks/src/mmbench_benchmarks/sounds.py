"""Sounds in folders: CREMA-D (emotions), Speech Commands (words) and ESC-50 (everyday sounds)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.media_columns import AudioColumn, VideoColumn
from mmbench_datasets.splits import split_groups
from mmbench_datasets.video import MAX_FRAMES, require_av

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError, UsageError
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench_benchmarks.corpus import Corpus
from mmbench_benchmarks.folder import Folder, Published

_CREMA_D = Published(
    name="crema-d",
    title="CREMA-D",
    origin="github.com/CheyneyComputerScience/CREMA-D (by git lfs)",
    layout="AudioWAV/ (1001_DFA_ANG_XX.wav, …), and VideoFlash/ (1001_DFA_ANG_XX.flv, …) where films are wanted,",
)
_SPEECH_COMMANDS = Published(
    name="speech-commands",
    title="Speech Commands",
    origin="its archive speech_commands_v0.02.tar.gz (Warden 2018)",
    layout="one folder per word, validation_list.txt and testing_list.txt",
)
_ESC_50 = Published(
    name="esc-50", title="ESC-50", origin="github.com/karolpiczak/ESC-50", layout="audio/ and meta/esc50.csv"
)
_CLIP = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)\.wav", re.ASCII)
_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
#: The ten words that the paper's task knows; every other word is "unknown".
_COMMANDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_FOLDS = range(1, 6)
_LFS_NOTE = b"version https://git-lfs"


def describe_crema_d(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_crema_d`."""
    return _crema_d(Folder(_CREMA_D, target), **options).info()


def open_crema_d(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """Return clips split by actor, about 70/15/15: whoever is heard in test was never heard in training.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        options: `seed` draws other actors; `video` says whether the clip's film is a modality: "true", "false", or
            "auto": where VideoFlash is there; `max_seconds` bounds a clip, `max_frames` the frames kept of its film.

    Raises:
        Unavailable: the folder is not there, or there are films and PyAV is not.
        DataError: no clip is there, or a sound has no film.
        UsageError: `video` is none of the three.
    """
    return _crema_d(Folder(_CREMA_D, target, root), **options).splits()


def _crema_d(
    folder: Folder, *, seed: int = 0, video: str = "auto", max_seconds: float = 30.0, max_frames: int = MAX_FRAMES
) -> Corpus:
    if video not in ("auto", "true", "false"):
        raise UsageError(f"crema-d has no [video={video}]; choose true, false, or auto")
    if max_frames < 1:
        raise UsageError(f"max_frames must be at least 1, got {max_frames}")
    folder.require("AudioWAV", *(["VideoFlash"] if video == "true" else []))
    has_films = video == "true" or (video == "auto" and _has_films(folder))
    if has_films:
        require_av()
    paths = [path for path in folder.walk("AudioWAV", ".wav") if _CLIP.fullmatch(path.rsplit("/", 1)[1])]
    if not paths:
        raise folder.unavailable("AudioWAV holds no file like 1001_DFA_ANG_XX.wav")
    ids = [Path(path).stem for path in paths]
    words = [_CLIP.fullmatch(path.rsplit("/", 1)[1]) for path in paths]
    emotions = [word[3] for word in words if word]
    media = folder.statuses([(path, "AudioWAV") for path in paths])
    modalities = [Modality(name="audio", kind="audio")]
    readers: dict[str, Read] = {"audio": _audio(folder, paths, max_seconds)}
    if has_films:
        films = [f"VideoFlash/{name}.flv" for name in ids]
        media |= folder.statuses([(film, "VideoFlash") for film in films])
        modalities.append(Modality(name="video", kind="video"))
        readers["video"] = VideoColumn(
            lambda row: folder.root / films[row],
            lambda row: films[row],
            max_seconds=max_seconds,
            max_frames=max_frames,
        )
    return Corpus(
        folder=folder,
        modalities=tuple(modalities),
        tasks=(TaskSpec(name="emotion", kind="multiclass", num_outputs=6, class_names=tuple(_EMOTIONS.values())),),
        rows=split_groups([word[1] for word in words if word], emotions, seed),
        groups=[word[1] for word in words if word],
        ids=ids,
        targets={"emotion": [list(_EMOTIONS).index(emotion) for emotion in emotions]},
        readers=readers,
        media=media,
    )


def _has_films(folder: Folder) -> bool:
    """Whether films are there, and not the notes that git lfs leaves in the place of files it did not fetch."""
    film = next(iter(folder.walk("VideoFlash", ".flv")), "")
    if not film:
        return False
    with (folder.root / film).open("rb") as stream:
        return stream.read(len(_LFS_NOTE)) != _LFS_NOTE


def describe_speech_commands(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_speech_commands`."""
    return _speech_commands(Folder(_SPEECH_COMMANDS, target), **options).info()


def open_speech_commands(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """Return the published split: the two lists are val and test, all else is train; no speaker is in two.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        options: `words`: "all" are classes, or "commands": ten of them and "unknown". `max_seconds` bounds a clip.

    Raises:
        Unavailable: the folder or one of its lists is not there.
        DataError: a list names a file that is not there.
        UsageError: `words` is neither.
    """
    return _speech_commands(Folder(_SPEECH_COMMANDS, target, root), **options).splits()


def _speech_commands(folder: Folder, *, words: str = "all", max_seconds: float = 30.0) -> Corpus:
    if words not in ("all", "commands"):
        raise UsageError(f"speech-commands has no words {words!r}; choose [words=all] or [words=commands]")
    lists: dict[Split, str] = {"val": "validation_list.txt", "test": "testing_list.txt"}
    folder.require(*lists.values())
    listed: dict[str, Split] = {}
    for split, name in lists.items():
        for number, line in enumerate(folder.lines(name), start=1):
            if listed.setdefault(line, split) != split:
                raise DataError(f"{name} line {number}: {line!r} is in validation_list.txt too; get the lists again")
    # A folder such as _background_noise_ holds no word.
    paths = [path for path in folder.walk("", ".wav") if path.count("/") == 1 and not path.startswith(("_", "."))]
    media = folder.statuses(
        [*((path, lists[split]) for path, split in listed.items()), *((path, path) for path in paths)]
    )
    spoken = [path.split("/")[0] for path in paths]
    names = tuple(sorted(set(spoken)))
    if words == "commands":
        names = (*_COMMANDS, "unknown")
        spoken = [word if word in _COMMANDS else "unknown" for word in spoken]
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row, path in enumerate(paths):
        rows[listed.get(path, "train")].append(row)
    if len(names) < 2:
        raise folder.unavailable("there are no folders of words with .wav files")
    return Corpus(
        folder=folder,
        modalities=(Modality(name="audio", kind="audio"),),
        tasks=(TaskSpec(name="word", kind="multiclass", num_outputs=len(names), class_names=names),),
        rows=rows,
        ids=paths,
        groups=[Path(path).name.split("_nohash_")[0] for path in paths],  # speakers
        targets={"word": [names.index(word) for word in spoken]},
        readers={"audio": _audio(folder, paths, max_seconds)},
        annotations=tuple(lists.values()),
        media=media,
    )


def describe_esc_50(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_esc_50`."""
    return _esc_50(Folder(_ESC_50, target), **options).info()


def open_esc_50(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """Return one turn of the published five-fold split: a fold is test, the fold before it val, the others train.

    Clips cut from one recording share a fold, so the test's recordings are new.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        options: `test_fold` from 1 to 5; `esc10` keeps the ten easy classes; `max_seconds` bounds a clip.

    Raises:
        Unavailable: the folder or meta/esc50.csv is not there.
        DataError: the table is broken or names a file that is not there.
        UsageError: there is no such fold.
    """
    return _esc_50(Folder(_ESC_50, target, root), **options).splits()


def _esc_50(folder: Folder, *, test_fold: int = 5, esc10: bool = False, max_seconds: float = 30.0) -> Corpus:
    if test_fold not in _FOLDS:
        raise UsageError(f"esc-50 has the folds 1 to 5, got [test_fold={test_fold}]")
    folder.require("meta/esc50.csv", "audio")
    (_, header), *table = folder.csv("meta/esc50.csv", num_columns=5)
    columns = {name: header.index(name) for name in ("filename", "fold", "category", "esc10") if name in header}
    if len(columns) < 4:
        raise DataError(f"meta/esc50.csv has the columns {', '.join(header)}; filename, fold, category, esc10 are due")
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    val_fold = test_fold - 1 or len(_FOLDS)
    kept = [(where, cells) for where, cells in table if not esc10 or cells[columns["esc10"]] == "True"]
    for row, (where, cells) in enumerate(kept):
        fold = cells[columns["fold"]]
        if fold not in map(str, _FOLDS):
            raise DataError(f"{where}: the fold is {fold!r}, and there are 1 to 5; get the file again")
        rows["test" if int(fold) == test_fold else "val" if int(fold) == val_fold else "train"].append(row)
    paths = [f"audio/{cells[columns['filename']]}" for _, cells in kept]
    categories = [cells[columns["category"]] for _, cells in kept]
    names = tuple(sorted(set(categories)))
    media = folder.statuses([(path, where) for path, (where, _) in zip(paths, kept)])
    if len(names) < 2:
        raise DataError(f"meta/esc50.csv holds {len(names)} classes, and there are 50; get the file again")
    return Corpus(
        folder=folder,
        modalities=(Modality(name="audio", kind="audio"),),
        tasks=(TaskSpec(name="sound", kind="multiclass", num_outputs=len(names), class_names=names),),
        rows=rows,
        ids=[Path(path).stem for path in paths],
        groups=["-".join(Path(path).stem.split("-")[:2]) for path in paths],  # recordings, by fold and number
        targets={"sound": [names.index(category) for category in categories]},
        readers={"audio": _audio(folder, paths, max_seconds)},
        annotations=("meta/esc50.csv",),
        media=media,
    )


def _audio(folder: Folder, paths: Sequence[str], max_seconds: float) -> Read:
    return AudioColumn(lambda row: folder.root / paths[row], lambda row: paths[row], max_seconds=max_seconds)
