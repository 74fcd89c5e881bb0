"""A data card as Croissant 1.0 metadata (mlcommons.org/croissant), so that other tools find and load the data."""

from __future__ import annotations

import csv
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbench.data import SPLITS
from mmbench.data_card import DataCard

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

#: Terms of the specification, in a fixed order.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            "citeAs", "column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes",
            "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
            "repeated", "replace", "separator", "source", "subField", "transform",
        )
    },
}  # fmt: skip
_DATA_TYPES = {
    "image": "sc:ImageObject",
    "audio": "sc:AudioObject",
    "video": "sc:VideoObject",
    "text": "sc:Text",
    "tabular": "sc:Float",
    "sequence": "sc:Float",
}
_TASK_TYPES = {"multiclass": "sc:Text", "multilabel": "sc:Text", "regression": "sc:Float", "retrieval": "sc:Integer"}
_MEDIA = ("sc:ImageObject", "sc:AudioObject", "sc:VideoObject")
_TEXT_TABLES = (".csv", ".tsv")
_OUTPUTS = {"multiclass": "classes", "multilabel": "labels", "regression": "values"}
_ENCODINGS = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/x-parquet",
}


def croissant(card: DataCard, *, target: str = "", options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON-LD of a dataset.

    Where the dataset is one table, its columns become the fields of a record set; of other datasets only sizes and
    splits are described. Licence, URL and date are the publisher's to add.

    Args:
        card: Of the dataset.
        target: What the reference names beside the part: a table, or a folder.
        options: Of the reference.
    """
    file = Path(target).expanduser() if target else None
    columns = _columns(file) if file is not None and file.is_file() else ()
    sizes = ", ".join(f"{card.num_samples[split]:,} {split}" for split in SPLITS)
    splits = {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": f"Splits of the samples: {sizes}.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": "splits/name",
                "name": "splits/name",
                "description": "Name of the split.",
                "dataType": "sc:Text",
            }
        ],
        "data": [{"splits/name": split} for split in SPLITS],
    }
    found: dict[str, Any] = {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "name": card.title or card.name,
        "description": f"{card.summary}. {sum(card.num_samples.values()):,} samples: {sizes}.",
        "conformsTo": CONFORMS_TO,
        **({"version": f"0.0.0+{card.fingerprint[:12]}"} if card.fingerprint else {}),
    }
    if file is None or not columns:
        return {**found, "recordSet": [splits]}
    samples = {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "One record for each sample.",
        "field": _fields(card, file, columns, {name: str(value) for name, value in (options or {}).items()}),
    }
    return {**found, "distribution": [_file_object(file)], "recordSet": [splits, samples]}


def _fields(card: DataCard, file: Path, columns: Sequence[str], options: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a field for each column that is read as an id, a split, a modality or a label."""
    wanted: list[tuple[str, str, str]] = [
        (options.get("id", "id"), "Identifier of the sample.", "sc:Text"),
        (options.get("split", "split"), "Split of the sample.", "sc:Text"),
    ]
    for modality in card.modalities:
        for part in options.get(modality.name, modality.name).split("+"):
            data_type = _DATA_TYPES.get(modality.kind, "sc:Text")
            described = f"Modality {modality.name!r}, of the kind {modality.kind}."
            if data_type in _MEDIA and file.suffix.lower() in _TEXT_TABLES:
                described += " The cells are paths below the table's folder."
                data_type = "sc:Text"
            wanted.append((part, described, data_type))
    labels = options.get("label", "label").split("+")
    for task, label in zip(card.tasks, labels):
        described = f"Target {task.name!r}: {task.kind}, {task.num_outputs} {_OUTPUTS.get(task.kind, 'outputs')}."
        wanted.append((label, described, _TASK_TYPES.get(task.kind, "sc:Text")))
    fields: dict[str, dict[str, Any]] = {}
    for name, description, data_type in wanted:
        column = name if name in columns else name.rpartition(":")[0]
        if column in columns:
            fields.setdefault(
                column,
                {
                    "@type": "cr:Field",
                    "@id": f"samples/{column}",
                    "name": f"samples/{column}",
                    "description": description,
                    "dataType": data_type,
                    "source": {"fileObject": {"@id": file.name}, "extract": {"column": column}},
                },
            )
    return list(fields.values())


def _columns(file: Path) -> Sequence[str]:
    """Return the names of a table's columns, () where it is no table whose columns Croissant can name."""
    if file.suffix.lower() in _TEXT_TABLES:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            return next(csv.reader(stream, delimiter="," if file.suffix.lower() == ".csv" else "\t"), [])
    if file.suffix.lower() == ".parquet":
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError:
            return ()
        return list(map(str, parquet.read_schema(file).names))
    return ()


def _file_object(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.stat().st_size} B",
        "encodingFormat": _ENCODINGS.get(file.suffix.lower(), "application/octet-stream"),
        "sha256": digest,
    }
