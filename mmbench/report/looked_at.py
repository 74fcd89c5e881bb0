"""What a board's best row looked at in a few test samples, read from its cells' files: bounded, checked, cleaned."""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbench.report.tables import Board
from mmbench.report.text import clean, named, visible

#: Written by `mmbench.diagnostics.attribution`, whose numbers these are (a test compares them).
FILE_NAME = "attribution.json"
VERSION = 1
#: Larger files were not written by mmbench and are not read.
MAX_FILE_BYTES = 400_000
#: Bytes that the samples of all boards may take of a page.
MAX_PAGE_BYTES = 1_500_000
MAX_SAMPLES, MAX_MODALITIES = 4, 16
_MAX_SIDE, _MAX_GRID, _MAX_STEPS, _MAX_COLUMNS, _MAX_PIECES, _MAX_CHARACTERS = 128, 16, 64, 24, 500, 400
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def looked_at(board: Board, folder: Path, max_bytes: int = MAX_PAGE_BYTES) -> list[dict[str, Any]]:
    """Return the samples of the best ranked row that has any and, where that is one modality, of the best fusion too.

    What stands in the files is not trusted: a sample that is not what mmbench writes is left out.

    Args:
        board: Whose rows.
        folder: Of the run.
        max_bytes: That the samples may take; the last ones are left out when they do not fit.
    """
    chosen: list[dict[str, Any]] = []
    cells = str(folder / "cells")
    for place, row in enumerate(board.rows):
        if row.rank is None:
            break  # ranked rows come first
        if chosen and row.unimodal:
            continue
        for seed, cell_id in row.cell_ids.items():
            samples = _fitting(_samples(f"{cells}/{cell_id}/{FILE_NAME}", board), max_bytes)
            if samples:
                max_bytes -= len(json.dumps(samples))
                chosen.append({"row": place, "seed": seed, "samples": samples})
                break
        if chosen and (len(chosen) == 2 or not row.unimodal):
            break
    return chosen


def _fitting(samples: Sequence[dict[str, Any]], max_bytes: int) -> list[dict[str, Any]]:
    found = list(samples)
    while found and len(json.dumps(found)) > max_bytes:
        found.pop()
    return found


def _samples(path: str, board: Board) -> list[dict[str, Any]]:
    found = _read(path)
    if found.get("version") != VERSION or found.get("task") != board.task or not _is_list(found.get("samples")):
        return []
    return [sample for given in found["samples"][:MAX_SAMPLES] if (sample := _sample(given, board)) is not None]


def _read(path: str) -> Mapping[str, Any]:
    try:
        # Text and no Path: where no cell has the file, all of them are asked, and making paths would take most of that.
        if os.stat(path).st_size > MAX_FILE_BYTES:  # noqa: PTH116
            return {}
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, Mapping) else {}


def _sample(given: Any, board: Board) -> dict[str, Any] | None:
    if not isinstance(given, Mapping) or not _is_list(given.get("modalities")):
        return None
    modalities = [_modality(item) for item in given["modalities"][:MAX_MODALITIES]]
    true, predicted = (_said(given.get(key), board) for key in ("true", "predicted"))
    if true is None or predicted is None or None in modalities:
        return None
    return {
        "id": named(str(given.get("id", ""))),
        "why": clean(str(given.get("why", "")), 40),
        "true": true,
        "predicted": predicted,
        "right": None if board.kind == "regression" else given["true"] == given["predicted"],
        "of": None if board.kind == "regression" else _said(given.get("output"), board),
        "confidence": _finite(given.get("confidence")),
        "from": _finite(given.get("from")),
        "to": _finite(given.get("to")),
        "modalities": modalities,
    }


def _modality(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return None
    found: dict[str, Any] = {
        "name": named(given["name"]),
        "kind": clean(str(given.get("kind", "")), 20),
        "present": given.get("present") is True,
        "evidence": _finite(given.get("evidence")),
        "tokens": given.get("by") == "tokens",
    }
    parts = {
        "picture": _picture(given.get("picture")),
        "grid": _grid(given.get("grid")),
        "steps": _steps(given.get("steps")),
        "words": _words(given.get("words")),
        "columns": _columns(given.get("columns")),
        "seconds": _finite(given.get("seconds")),
        "length": _finite(given.get("length")),
    }
    return {**found, **{key: part for key, part in parts.items() if part is not None}}


def _said(value: Any, board: Board) -> str | None:
    """A class by its name, labels by theirs, a value as a number; None for anything else."""
    if board.kind == "regression":
        number = _finite(value)
        return None if number is None else f"{number:.4g}"
    if board.kind == "multilabel" and _is_list(value):
        names = [_said(item, board) for item in value[:20]]
        return None if None in names else ", ".join(map(str, names)) or "none"
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < board.num_outputs:
        return None
    return named(board.class_names[value]) if board.class_names else str(value)


def _picture(given: Any) -> dict[str, Any] | None:
    """A picture whose size is what its own header says, and small."""
    if not isinstance(given, Mapping) or not isinstance(given.get("png"), str):
        return None
    try:
        content = base64.b64decode(given["png"], validate=True)
    except (binascii.Error, ValueError):
        return None
    if not content.startswith(_PNG):
        return None
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        return None
    return {"png": base64.b64encode(content).decode(), "width": width, "height": height}


def _part(value: Any) -> int | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and -100 <= value <= 100
    return value if fits else None


def _parts(given: Any, most: int) -> list[int] | None:
    """Contributions, of which there must be some and not too many."""
    if not _is_list(given) or not 0 < len(given) <= most:
        return None
    found = [part for value in given if (part := _part(value)) is not None]
    return found if len(found) == len(given) else None


def _steps(given: Any) -> list[int] | None:
    return _parts(given, _MAX_STEPS)


def _grid(given: Any) -> list[list[int]] | None:
    if not _is_list(given) or not 0 < len(given) <= _MAX_GRID:
        return None
    rows = [row for line in given if (row := _parts(line, _MAX_GRID)) is not None]
    return rows if len(rows) == len(given) and len({len(row) for row in rows}) == 1 else None


def _words(given: Any) -> list[list[Any]] | None:
    if not _is_list(given):
        return None
    found: list[list[Any]] = []
    left = _MAX_CHARACTERS
    for item in given[:_MAX_PIECES]:
        if not (_is_list(item) and len(item) == 2 and isinstance(item[0], str)) or _part(item[1]) is None:
            return None
        text = visible(item[0][:left])
        left -= len(text)
        if text:
            found.append([text, item[1]])
    return found


def _columns(given: Any) -> list[list[Any]] | None:
    if not _is_list(given):
        return None
    found = []
    for item in given[:_MAX_COLUMNS]:
        if not (_is_list(item) and len(item) == 3 and isinstance(item[0], int)) or _part(item[2]) is None:
            return None
        found.append([f"column {item[0] + 1}", _finite(item[1]), item[2]])
    return found


def _finite(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(f"{value:.6g}") if fits else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
