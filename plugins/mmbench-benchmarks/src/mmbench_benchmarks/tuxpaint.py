"""Tux Paint's stamps, straight from the folder that Debian's tuxpaint-stamps-default installs.

A stamp is a picture ``NAME.png`` or ``NAME.svg`` with what is beside it: ``NAME.txt`` (its description: English in the
first line, then ``de.utf8=…``), ``NAME_desc_fr.ogg`` (the description read aloud) and ``NAME.ogg`` or ``NAME.wav`` (a
sound effect). ``NAME_mirror.png`` and ``NAME_flip.png`` are the same stamp turned round, and no stamps of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.media import Embedded, MediaFile
from mmbench_datasets.media_columns import AudioColumn, ImageColumn
from mmbench_datasets.splits import split_groups

from mmbench.errors import DataError, Unavailable, UsageError
from mmbench.isolation import TooSlow, time_limit
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench_benchmarks.corpus import Corpus
from mmbench_benchmarks.folder import Folder, Published, default_root

_PUBLISHED = Published(
    name="tuxpaint",
    title="Tux Paint's stamps",
    origin="Debian (apt install tuxpaint-stamps-default)",
    layout="the content of its folder stamps",
)
_DEBIAN = Path("/usr/share/tuxpaint/stamps")
#: Top folders with enough stamps to learn from; the letters are taken out of the symbols, which they would swamp.
_CATEGORIES = (
    *("animals", "clothes", "food", "household", "letters", "people", "plants", "seasonal", "space", "symbols"),
    *("town", "vehicles"),
)
_LETTERS = "symbols/alphabets/"
_TURNED = re.compile(r"_(mirror|flip)(_|$)")
_SPOKEN = re.compile(r"(.+)_desc(?:_([A-Za-z_]+))?\.(ogg|wav)")
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?(@[a-z]+)?")
#: Languages in which nearly every stamp is spoken.
_ANY_OF = ("bg", "ca", "es", "fr", "ro", "ru")
_MOST_SVG_BYTES = 16 << 20
_MOST_DRAWING_S = 20.0
_MAX_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class _Stamp:
    """What there is of one stamp: paths, "" where there is none."""

    stem: str
    picture: str
    text: str
    speech: str
    sound: str


def describe_tuxpaint(target: str = "", **options: Any) -> DatasetInfo:
    """See `open_tuxpaint`."""
    return _corpus(_folder(target, None), **options).info()


def open_tuxpaint(root: Path, *, target: str = "", **options: Any) -> dict[Any, LazySamples]:
    """Return stamps of twelve categories, split 70/15/15 so that stamps of one description stay together.

    Args:
        root: The folder to look in when there is no target; Debian's own comes next.
        target: The folder of stamps.
        options: `language` of the text, as "en" or "de"; `speech`: a language, "any" (one per stamp out of six in
            which nearly all are spoken) or "none"; `sound`: whether the sound effect is a modality; `svg`: whether
            stamps that are drawn only as SVG are taken, at `svg_size` pixels (CairoSVG needed); `seed` of the split.

    Raises:
        Unavailable: the folder is not there, or CairoSVG is not.
        UsageError: an option is out of its range.
        DataError: a file cannot be read.
    """
    return _corpus(_folder(target, root), **options).splits()


def _folder(target: str, root: Path | None) -> Folder:
    given = root or default_root(_PUBLISHED.name)
    found = [path for path in (given, _DEBIAN) if any((path / category).is_dir() for category in _CATEGORIES)]
    return Folder(_PUBLISHED, target, found[0] if found else given)


def _corpus(
    folder: Folder,
    *,
    language: str = "en",
    speech: str = "any",
    sound: bool = True,
    svg: bool = False,
    svg_size: int = 256,
    seed: int = 0,
) -> Corpus:
    _check_options(language, speech, svg_size)
    if svg:
        _require_cairosvg()
    stamps = _stamps(folder, speech, svg=svg)
    if not stamps:
        raise folder.unavailable(f"it holds no folder {_CATEGORIES[0]}/ … {_CATEGORIES[-1]}/ with pictures")
    texts = [_text(folder, stamp.text, language) for stamp in stamps]
    english = [_text(folder, stamp.text, "en") for stamp in stamps]
    categories = [_category(stamp.stem) for stamp in stamps]
    modalities = [
        (Modality(name="image", kind="image", facts={"channels": 3}), _pictures(folder, stamps, svg_size), False),
        (Modality(name="text", kind="text"), lambda row: texts[row] or None, not all(texts)),
    ]
    if speech != "none":
        paths = [stamp.speech for stamp in stamps]
        modalities.append((Modality(name="speech", kind="audio"), _sounds(folder, paths), not all(paths)))
    if sound:
        paths = [stamp.sound for stamp in stamps]
        modalities.append((Modality(name="sound", kind="audio"), _sounds(folder, paths), not all(paths)))
    media = [path for stamp in stamps for path in (stamp.picture, stamp.speech, stamp.sound) if path]
    groups = [text.lower() or stamp.stem for text, stamp in zip(english, stamps)]
    return Corpus(
        folder=folder,
        modalities=tuple(modality for modality, _, _ in modalities),
        missing=tuple(modality.name for modality, _, lacking in modalities if lacking),
        tasks=(TaskSpec(name="category", kind="multiclass", num_outputs=len(_CATEGORIES), class_names=_CATEGORIES),),
        rows=split_groups(groups, categories, seed),
        groups=groups,
        ids=[stamp.stem for stamp in stamps],
        targets={"category": [_CATEGORIES.index(category) for category in categories]},
        readers={modality.name: read for modality, read, _ in modalities},
        annotations=tuple(stamp.text for stamp in stamps if stamp.text),
        media=folder.statuses([(path, path) for path in media]),
    )


def _check_options(language: str, speech: str, svg_size: int) -> None:
    if not _LANGUAGE.fullmatch(language):
        raise UsageError(f"tuxpaint takes a language such as en, de or pt_BR, got [language={language}]")
    if speech not in ("any", "none") and not _LANGUAGE.fullmatch(speech):
        raise UsageError(f"tuxpaint takes speech=any, speech=none or a language such as fr, got [speech={speech}]")
    if not 16 <= svg_size <= 2048:
        raise UsageError(f"tuxpaint draws SVG at 16 to 2048 pixels, got [svg_size={svg_size}]")


def _category(stem: str) -> str:
    return "letters" if stem.startswith(_LETTERS) else stem.split("/", 1)[0]


def _stamps(folder: Folder, speech: str, *, svg: bool) -> list[_Stamp]:
    """Return the stamps of the twelve categories in order of path."""
    files = folder.walk("", ".png", ".svg", ".txt", ".ogg", ".wav")
    spoken: dict[str, dict[str, str]] = {}
    beside: dict[str, dict[str, str]] = {}
    for path in files:
        said = _SPOKEN.fullmatch(path)
        if said:
            spoken.setdefault(said[1], {}).setdefault(said[2] or "en", path)
        else:
            stem, _, ending = path.rpartition(".")
            beside.setdefault(stem, {})[ending.lower()] = path
    stamps = []
    for stem, found in beside.items():
        # A picture that is there in both forms was drawn by the same hand: no rasteriser is better than its PNG.
        picture = found.get("png") or (found.get("svg", "") if svg else "")
        if not picture or _category(stem) not in _CATEGORIES or _TURNED.search(stem.rsplit("/", 1)[-1]):
            continue
        stamps.append(
            _Stamp(
                stem=stem,
                picture=picture,
                text=found.get("txt", ""),
                speech=_chosen(stem, spoken.get(stem, {}), speech),
                sound=found.get("ogg", found.get("wav", "")),
            )
        )
    return sorted(stamps, key=lambda stamp: stamp.stem)


def _chosen(stem: str, languages: Mapping[str, str], speech: str) -> str:
    """Return the path of what is read aloud: the language asked for, or one that a hash of the name draws."""
    if speech != "any":
        return languages.get(speech, "")
    known = [language for language in _ANY_OF if language in languages]
    if not known:
        return ""
    draw = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big")
    return languages[known[draw % len(known)]]


def _text(folder: Folder, path: str, language: str) -> str:
    """Return a description in a language, "" where it is not given; English is the first line."""
    if not path:
        return ""
    lines = folder.text(path).splitlines()
    if language == "en":
        return lines[0].strip() if lines else ""
    marker = f"{language}.utf8="
    return next((line.removeprefix(marker).strip() for line in lines if line.startswith(marker)), "")


def _pictures(folder: Folder, stamps: Sequence[_Stamp], size: int) -> Read:
    def file(row: int) -> MediaFile:
        path = stamps[row].picture
        if path.endswith(".svg"):
            return Embedded(path, _drawn(folder.root / path, path, size))
        return folder.root / path

    return ImageColumn(file, lambda row: stamps[row].picture, channels=3)


def _sounds(folder: Folder, paths: Sequence[str]) -> Read:
    return AudioColumn(
        lambda row: folder.root / paths[row] if paths[row] else None, lambda row: paths[row], max_seconds=_MAX_SECONDS
    )


def _require_cairosvg() -> Any:
    try:
        import cairosvg
    except (ImportError, OSError):  # OSError: the package is there and the library that it stands on is not
        raise Unavailable(
            "stamps in SVG are drawn by CairoSVG and the library cairo: pip install 'mmbench-benchmarks[svg]', or "
            "leave [svg=true] out"
        ) from None
    return cairosvg


def _drawn(path: Path, where: str, size: int) -> bytes:
    """Draw an SVG into a square, as PNG; nothing that it refers to is fetched, and entities are refused.

    Raises:
        DataError: it cannot be drawn, or takes longer than 20 s.
    """
    _require_cairosvg()
    from cairosvg.surface import PNGSurface

    content = path.read_bytes()
    if len(content) > _MOST_SVG_BYTES or content.startswith(b"\x1f\x8b"):
        raise DataError(f"{where} is compressed or has more than 16 MiB, which no drawing needs; get the file again")
    try:
        with time_limit(_MOST_DRAWING_S):
            drawn: bytes = PNGSurface.convert(
                bytestring=content, output_width=size, output_height=size, url_fetcher=_fetch_nothing
            )
    except (Exception, TooSlow) as error:  # CairoSVG lets through whatever its parsers raise
        slow = isinstance(error, TooSlow)
        reason = f"it takes more than {_MOST_DRAWING_S:g} s" if slow else (str(error).splitlines() or [repr(error)])[0]
        raise DataError(f"{where} cannot be drawn ({reason[:200]}); get the file again") from None
    return drawn


def _fetch_nothing(url: str, *_: Any, **__: Any) -> bytes:
    raise ValueError(f"it refers to {url[:80]!r}, and nothing is fetched")
