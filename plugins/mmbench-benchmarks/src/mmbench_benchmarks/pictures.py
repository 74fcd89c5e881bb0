"""Pictures with words: MM-IMDb, Hateful Memes, UPMC Food-101, Flickr8k's captions, and questions as in VQA."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.media_columns import ImageColumn

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError, UsageError
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench_benchmarks.corpus import Corpus, carve_val, fingerprint
from mmbench_benchmarks.folder import Folder, Published, field

_IMAGE_AND_TEXT = (Modality(name="image", kind="image", facts={"channels": 3}), Modality(name="text", kind="text"))
_MM_IMDB = Published(
    name="mm-imdb",
    title="MM-IMDb",
    origin="its archive mmimdb.tar.gz (Arevalo et al. 2017)",
    layout="split.json and dataset/ (0000005.jpeg, 0000005.json, …)",
)
_HATEFUL_MEMES = Published(
    name="hateful-memes",
    title="Hateful Memes",
    origin="the Hateful Memes challenge (Kiela et al. 2020), whose licence must be agreed to",
    layout="train.jsonl, dev_seen.jsonl, test_seen.jsonl and img/",
)
_FOOD_101 = Published(
    name="food-101",
    title="UPMC Food-101",
    origin="its authors' page (Wang et al. 2015)",
    layout="texts/train_titles.csv, texts/test_titles.csv and images/{train,test}/CLASS/",
)
_FLICKR8K = Published(
    name="flickr8k",
    title="Flickr8k",
    origin="its authors (Hodosh et al. 2013), on request",
    layout="Flickr8k.token.txt, Flickr_8k.{train,dev,test}Images.txt and Flicker8k_Dataset/",
)
_VQA = Published(
    name="vqa",
    title="VQA v2",
    origin="visualqa.org",
    layout="v2_OpenEnded_mscoco_{train,val}2014_questions.json, v2_mscoco_{train,val}2014_annotations.json, "
    "train2014/ and val2014/",
)
#: The 23 that the paper keeps of the genres that IMDb knows.
_GENRES = (
    *("Action", "Adventure", "Animation", "Biography", "Comedy", "Crime", "Documentary", "Drama", "Family", "Fantasy"),
    *("Film-Noir", "History", "Horror", "Music", "Musical", "Mystery", "Romance", "Sci-Fi", "Short", "Sport"),
    *("Thriller", "War", "Western"),
)
_GENRE_TASK = TaskSpec(name="genres", kind="multilabel", num_outputs=len(_GENRES), class_names=_GENRES)
_FIND_TASK = TaskSpec(name="match", kind="retrieval", num_outputs=256)
_MATCH_TASK = TaskSpec(name="match", kind="multiclass", num_outputs=2, class_names=("other", "own"))
_SPLIT_NAMES: Mapping[Split, str] = {"train": "train", "val": "dev", "test": "test"}


def describe_mm_imdb(target: str = "") -> DatasetInfo:
    """Return what planning must know; the films' own files are looked at and not read, for there are 26,000.

    Raises:
        Unavailable: the folder or split.json is not there.
        DataError: split.json is broken or names a film that is not there.
    """
    folder = Folder(_MM_IMDB, target)
    films = [film for each in _films(folder).values() for film in each]
    media = folder.statuses([(path, "split.json") for film in films for path in (f"{film}.json", f"{film}.jpeg")])
    return DatasetInfo(
        modalities=_IMAGE_AND_TEXT, tasks=(_GENRE_TASK,), fingerprint=fingerprint(folder, ["split.json"], media)
    )


def open_mm_imdb(root: Path, *, target: str = "") -> dict[Split, LazySamples]:
    """Return posters and plots (the first outline of each film) with the paper's 23 genres, in the published split.

    Films of none of these genres are left out.

    Raises:
        Unavailable: the folder or split.json is not there.
        DataError: a film's files are not there or broken.
    """
    folder = Folder(_MM_IMDB, target, root)
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    films: list[str] = []
    texts: list[str] = []
    genres: list[tuple[int, ...]] = []
    for split, names in _films(folder).items():
        for film in names:
            path = f"{film}.json"
            told = folder.json(path)
            has = field(told, "genres", list, path)
            marks = tuple(int(genre in has) for genre in _GENRES)
            if any(marks):
                plot = told.get("plot") or [""]
                rows[split].append(len(films))
                films.append(film)
                texts.append(str(plot[0] if isinstance(plot, list) else plot))
                genres.append(marks)
    pictures = [f"{film}.jpeg" for film in films]
    folder.statuses([(picture, "split.json") for picture in pictures])
    return Corpus(
        folder=folder,
        modalities=_IMAGE_AND_TEXT,
        tasks=(_GENRE_TASK,),
        rows=rows,
        ids=[film.removeprefix("dataset/") for film in films],
        targets={"genres": genres},
        readers={"image": _image(folder, pictures), "text": lambda row: texts[row]},
    ).splits()


def _films(folder: Folder) -> dict[Split, list[str]]:
    """Return the films of each split, as paths without an ending."""
    folder.require("split.json", "dataset")
    told = folder.json("split.json")
    return {
        split: [f"dataset/{film}" for film in field(told, name, list, "split.json")]
        for split, name in _SPLIT_NAMES.items()
    }


def describe_hateful_memes(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_hateful_memes`."""
    return _hateful_memes(Folder(_HATEFUL_MEMES, target), **options).info()


def open_hateful_memes(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """Return memes and their words; a phase's dev and test files are val and test.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        options: `phase` is "seen" (dev_seen.jsonl, test_seen.jsonl) or "unseen".

    Raises:
        Unavailable: the folder or a file of the phase is not there.
        DataError: a line is broken or without a label, or names an image that is not there.
        UsageError: there is no such phase.
    """
    return _hateful_memes(Folder(_HATEFUL_MEMES, target, root), **options).splits()


def _hateful_memes(folder: Folder, *, phase: str = "seen") -> Corpus:
    if phase not in ("seen", "unseen"):
        raise UsageError(f"hateful-memes has no phase {phase!r}; choose [phase=seen] or [phase=unseen]")
    names: dict[Split, str] = {"train": "train.jsonl", "val": f"dev_{phase}.jsonl", "test": f"test_{phase}.jsonl"}
    folder.require(*names.values(), "img")
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    ids: list[str] = []
    texts: list[str] = []
    labels: list[int] = []
    pictures: list[tuple[str, str]] = []
    for split, name in names.items():
        for where, item in folder.json_lines(name):
            label = item.get("label")
            if label not in (0, 1):
                raise DataError(f"{where} has the label {label!r}, not 0 or 1; get the labelled file of the challenge")
            rows[split].append(len(ids))
            ids.append(str(field(item, "id", (int, str), where)))
            texts.append(field(item, "text", str, where))
            labels.append(int(label))
            pictures.append((field(item, "img", str, where), where))
    classes = ("not hateful", "hateful")
    return Corpus(
        folder=folder,
        modalities=_IMAGE_AND_TEXT,
        # The challenge ranks by the area under the ROC curve.
        tasks=(TaskSpec(name="hateful", kind="multiclass", num_outputs=2, class_names=classes, primary="auroc"),),
        rows=rows,
        ids=ids,
        targets={"hateful": labels},
        readers={"image": _image(folder, [path for path, _ in pictures]), "text": lambda row: texts[row]},
        annotations=tuple(names.values()),
        media=folder.statuses(pictures),
    )


def describe_food_101(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_food_101`."""
    return _food_101(Folder(_FOOD_101, target), **options).info()


def open_food_101(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """Return pictures of dishes with the titles of their web pages; val is a part of train, by class.

    Rows whose picture is not there are left out: the published archive lacks some.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        options: `val_share`: of train, from 0 to 0.5.

    Raises:
        Unavailable: the folder or one of the two tables is not there.
        DataError: a table is broken, or more than a tenth of its pictures are not there.
        UsageError: `val_share` is outside its range.
    """
    return _food_101(Folder(_FOOD_101, target, root), **options).splits()


def _food_101(folder: Folder, *, val_share: float = 0.1) -> Corpus:
    if not 0.0 < val_share <= 0.5:
        raise UsageError(f"food-101 takes a val_share above 0 and up to 0.5, got {val_share:g}")
    tables = {"train": "texts/train_titles.csv", "test": "texts/test_titles.csv"}
    folder.require(*tables.values(), "images")
    parts: dict[str, list[int]] = {"train": [], "test": []}
    ids: list[str] = []
    texts: list[str] = []
    dishes: list[str] = []
    pictures: dict[str, Any] = {}
    for part, name in tables.items():
        table = folder.csv(name, num_columns=3)
        lacking = 0
        for where, (picture, title, dish, *_) in table:
            path = f"images/{part}/{dish}/{picture}"
            status = folder.status(path, where)
            if status is None:
                lacking += 1
                continue
            if path in pictures:
                raise DataError(f"{where}: {picture!r} stands there twice; get the file again")
            pictures[path] = status
            parts[part].append(len(ids))
            ids.append(f"{part}/{Path(picture).stem}")
            texts.append(title)
            dishes.append(dish)
        if lacking * 10 > len(table):
            raise DataError(
                f"{name} names {len(table):,} pictures, and {lacking:,} of them are not in images/{part}/; "
                "unpack the archive whole"
            )
    names = tuple(sorted(set(dishes)))
    if len(names) < 2:
        raise DataError(f"{folder.root} holds {len(names)} classes of dishes; unpack the archive whole")
    paths = list(pictures)
    return Corpus(
        folder=folder,
        modalities=_IMAGE_AND_TEXT,
        tasks=(TaskSpec(name="dish", kind="multiclass", num_outputs=len(names), class_names=names),),
        rows={**carve_val(parts["train"], dishes, ids, share=val_share), "test": parts["test"]},
        ids=ids,
        targets={"dish": [names.index(dish) for dish in dishes]},
        readers={"image": _image(folder, paths), "text": lambda row: texts[row]},
        annotations=tuple(tables.values()),
        media=pictures,
    )


def describe_flickr8k(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_flickr8k`."""
    return _flickr8k(Folder(_FLICKR8K, target), **options).info()


def open_flickr8k(root: Path, *, target: str = "", **options: Any) -> dict[Split, LazySamples]:
    """Return pairs of a picture and a caption of its own, to be found among all others of their split.

    For task=matching each picture comes with as many captions of another picture of the same split, and whether they
    belong together is asked: half do, and neither alone tells. The lists of the publication decide the split; where
    they are not there (as beside captions.txt), a hash of the picture's name does, 6,000 : 1,000 : 1,000.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        options: `task` is "retrieval" or "matching"; `captions` from 1 to 5: how many of each picture.

    Raises:
        Unavailable: the folder or its captions are not there.
        DataError: a line is broken, or names a picture that is not there.
        UsageError: `captions` is outside its range, or there is no such task.
    """
    return _flickr8k(Folder(_FLICKR8K, target, root), **options).splits()


def _flickr8k(folder: Folder, *, task: str = "retrieval", captions: int = 5) -> Corpus:
    if task not in ("retrieval", "matching"):
        raise UsageError(f"flickr8k has no task {task!r}; choose [task=retrieval] or [task=matching]")
    if not 1 <= captions <= 5:
        raise UsageError(f"flickr8k has 5 captions per picture, got [captions={captions}]")
    tokens = folder.first("Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt", "captions.txt")
    images = folder.first("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
    if not tokens or not images:
        raise folder.unavailable("its captions (Flickr8k.token.txt or captions.txt) or its pictures are not there")
    of_picture = _captions(folder, tokens)
    split_of, lists = _flickr_split(folder, sorted(of_picture))
    number_of = {name: number for number, name in enumerate(sorted(of_picture))}
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    ids: list[str] = []
    texts: list[str] = []
    labels: list[int] = []
    pictures: list[str] = []
    for split in SPLITS:
        names = [name for name in sorted(of_picture) if split_of.get(name) == split]
        others = _derangement(names)
        for name in names:
            own = [(number_of[name] if task == "retrieval" else 1, name, "")]
            for number in range(captions):
                for label, owner, mark in own if task == "retrieval" else [*own, (0, others[name], "!")]:
                    rows[split].append(len(ids))
                    ids.append(f"{name}#{number}{mark}")
                    texts.append(of_picture[owner][number % len(of_picture[owner])])
                    labels.append(label)
                    pictures.append(f"{images}/{name}")
    return Corpus(
        folder=folder,
        modalities=_IMAGE_AND_TEXT,
        tasks=(_FIND_TASK if task == "retrieval" else _MATCH_TASK,),
        rows=rows,
        ids=ids,
        targets={"match": labels},
        readers={"image": _image(folder, pictures), "text": lambda row: texts[row]},
        groups=pictures,
        annotations=(tokens, *lists),
        media=folder.statuses([(path, tokens) for path in pictures]),
    )


def _captions(folder: Folder, path: str) -> dict[str, list[str]]:
    """Return the captions of every picture: "1.jpg#0<tab>A dog" per line, or a CSV of image and caption."""
    found: dict[str, list[str]] = {}
    if path.endswith("token.txt"):
        for number, line in enumerate(folder.lines(path), start=1):
            name, _, caption = line.partition("\t")
            if not caption.strip():
                raise DataError(f"{path} line {number} has no caption after a tab; get the file again")
            found.setdefault(name.partition("#")[0], []).append(caption.strip())
    else:
        (_, header), *table = folder.csv(path, num_columns=2)
        if [cell.strip() for cell in header[:2]] != ["image", "caption"]:
            raise DataError(f"{path} must begin with 'image,caption', got {','.join(header[:2])!r}; get the file again")
        for _, (name, *words) in table:
            found.setdefault(name.strip(), []).append(",".join(words).strip())
    # One line of the publication names a file that was never part of it.
    return {name: captions for name, captions in found.items() if name.lower().endswith((".jpg", ".png"))}


def _flickr_split(folder: Folder, names: Sequence[str]) -> tuple[dict[str, Split], list[str]]:
    lists: dict[Split, str] = {
        split: folder.first(f"Flickr_8k.{word}Images.txt", f"Flickr8k_text/Flickr_8k.{word}Images.txt")
        for split, word in _SPLIT_NAMES.items()
    }
    if all(lists.values()):
        split_of: dict[str, Split] = {}
        for split, path in lists.items():
            for line in folder.lines(path):
                if split_of.setdefault(line, split) != split:
                    raise DataError(f"{path} names {line!r}, which is in {split_of[line]} too; get the lists again")
        return split_of, list(lists.values())
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    eighth = max(1, len(order) // 8)
    return {
        name: "test" if place < eighth else "val" if place < 2 * eighth else "train" for place, name in enumerate(order)
    }, []


def _derangement(names: Sequence[str]) -> dict[str, str]:
    """Give every name another one, in an order that hashes decide."""
    order = sorted(names, key=lambda name: hashlib.sha256(f"other {name}".encode()).digest())
    return {name: order[(place + 1) % len(order)] for place, name in enumerate(order)}


def describe_vqa(target: str = "", *, answers: int = 1000, val_share: float = 0.1) -> DatasetInfo:
    """Return what planning must know; the questions are not read, for there are 650,000. See `open_vqa`."""
    _check_vqa(answers, val_share)
    folder = Folder(_VQA, target)
    files = [name for part in ("train", "val") for name in _vqa_files(folder, part)]
    pictures = [path for part in ("train", "val") for path in folder.walk(f"{part}2014", ".jpg")]
    return DatasetInfo(
        modalities=_IMAGE_AND_TEXT,
        tasks=(TaskSpec(name="answer", kind="multiclass", num_outputs=answers),),
        fingerprint=fingerprint(folder, files, folder.statuses([(path, path) for path in pictures])),
    )


def open_vqa(root: Path, *, target: str = "", answers: int = 1000, val_share: float = 0.1) -> dict[Split, LazySamples]:
    """Return pictures and questions with the commonest answers of train as classes, the commonest first.

    The official validation part, whose answers are public, is test; val is a part of train, by whole pictures.
    Questions whose answer is none of the classes are left out of all splits.

    Args:
        root: The folder to look in when there is no target.
        target: The dataset's folder.
        answers: How many classes.
        val_share: Of train's pictures, from 0 to 0.5.

    Raises:
        Unavailable: the folder or a file is not there.
        DataError: a file is broken, names a picture that is not there, or holds too few answers.
        UsageError: an option is outside its range.
    """
    _check_vqa(answers, val_share)
    folder = Folder(_VQA, target, root)
    files = {part: _vqa_files(folder, part) for part in ("train", "val")}
    asked = {part: _questions(folder, *names, part) for part, names in files.items()}
    counts = Counter(item.answer for item in asked["train"])
    if len(counts) < answers:
        raise DataError(f"{files['train'][1]} holds {len(counts):,} different answers; choose [answers={len(counts)}]")
    # Ties by alphabet, so that the classes do not depend on the file's order.
    kept = sorted(counts, key=lambda answer: (-counts[answer], answer))[:answers]
    number_of = {answer: number for number, answer in enumerate(kept)}
    items = {part: [item for item in each if item.answer in number_of] for part, each in asked.items()}
    every = [*items["train"], *items["val"]]
    num_train = len(items["train"])
    pictures = [item.picture for item in every]
    classes = [number_of[item.answer] for item in every]
    folder.statuses([(item.picture, files[part][0]) for part, each in items.items() for item in each])
    return Corpus(
        folder=folder,
        modalities=_IMAGE_AND_TEXT,
        tasks=(TaskSpec(name="answer", kind="multiclass", num_outputs=answers),),
        rows={
            **carve_val(range(num_train), classes, pictures, share=val_share),
            "test": range(num_train, len(every)),
        },
        ids=[item.question_id for item in every],
        targets={"answer": classes},
        groups=pictures,
        readers={"image": _image(folder, pictures), "text": lambda row: every[row].question},
    ).splits()


def _check_vqa(answers: int, val_share: float) -> None:
    if answers < 2:
        raise UsageError(f"vqa needs at least two answers to choose from, got [answers={answers}]")
    if not 0.0 < val_share <= 0.5:
        raise UsageError(f"vqa takes a val_share above 0 and up to 0.5, got {val_share:g}")


def _vqa_files(folder: Folder, part: str) -> tuple[str, str]:
    names = [
        (f"{prefix}OpenEnded_mscoco_{part}2014_questions.json", f"{prefix}mscoco_{part}2014_annotations.json")
        for prefix in ("v2_", "")
    ]
    chosen = next((pair for pair in names if all((folder.root / name).exists() for name in pair)), names[0])
    folder.require(*chosen, f"{part}2014")
    return chosen


class _Question(NamedTuple):
    """A question about a picture, with the answer that most people gave."""

    question_id: str
    picture: str
    question: str
    answer: str


def _questions(folder: Folder, questions: str, annotations: str, part: str) -> list[_Question]:
    """Return every question that has an answer, in the file's order."""
    answer_of = {
        field(item, "question_id", int, annotations): field(item, "multiple_choice_answer", str, annotations)
        for item in field(folder.json(annotations), "annotations", list, annotations)
    }
    found = []
    for item in field(folder.json(questions), "questions", list, questions):
        number = field(item, "question_id", int, questions)
        if number in answer_of:
            picture = f"{part}2014/COCO_{part}2014_{field(item, 'image_id', int, questions):012}.jpg"
            text = field(item, "question", str, questions)
            found.append(_Question(f"{part}/{number}", picture, text, answer_of[number]))
    return found


def _image(folder: Folder, paths: Sequence[str]) -> Read:
    return ImageColumn(lambda row: folder.root / paths[row], lambda row: paths[row], channels=3)
