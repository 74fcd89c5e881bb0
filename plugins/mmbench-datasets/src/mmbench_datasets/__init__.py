"""Datasets for mmbench: digits seen, read and heard; sets with known ceilings; and any manifest of one's own files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mmbench import DatasetSpec, Modality, TaskSpec, hookimpl

_MEDIA_LICENCE = "Apache-2.0 (generated)"
_FACTS: Mapping[str, Mapping[str, object]] = {
    "image": {"channels": 1, "size": [16, 16]},
    "audio": {"rate": 8_000},
    "text": {},
    "tabular": {"num_features": 5},
    "sequence": {"num_features": 5},
    "video": {"channels": 1, "size": [16, 16]},
}
_REDUNDANT_3 = {
    "audio": 0.9, "image": 0.9, "text": 0.9,
    "audio+image": 0.9, "audio+text": 0.9, "image+text": 0.9, "audio+image+text": 0.9,
}  # fmt: skip
_UNIQUE_3 = {
    "audio": 0.25, "sequence": 0.25, "tabular": 0.25,
    "audio+sequence": 0.5, "audio+tabular": 0.5, "sequence+tabular": 0.5, "audio+sequence+tabular": 1.0,
}  # fmt: skip
_SYNERGY_3 = {"a": 0.5, "b": 0.5, "c": 0.5, "a+b": 0.5, "a+c": 0.5, "b+c": 0.5, "a+b+c": 1.0}


def _kind(kind: str, name: str = "", **facts: object) -> Modality:
    return Modality(name=name or kind, kind=kind, facts={**_FACTS[kind], **facts})  # type: ignore[arg-type]


def _ceiling_set(
    name: str,
    summary: str,
    *,
    modalities: tuple[Modality, ...],
    ceilings: Mapping[str, float],
    num_classes: int = 0,
    tasks: tuple[TaskSpec, ...] = (),
    missing: tuple[str, ...] = (),
    cell_time_s: float = 2.0,
    train: Mapping[str, object] = MappingProxyType({}),
    in_all: bool = True,
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        factory=f"mmbench_datasets.ceilings:open_{name.replace('-', '_')}",
        version="1",
        defaults={"seed": 0},
        summary=summary,
        licence=_MEDIA_LICENCE,
        modalities=modalities,
        tasks=tasks or (TaskSpec(name="label", kind="multiclass", num_outputs=num_classes),),
        missing=missing,
        ceilings=ceilings,
        cell_time_s=cell_time_s,
        train=train,
        # The grid `all` holds one set of each sort, so that it ends over a cup of coffee.
        in_all=in_all,
    )


@hookimpl
def mmbench_datasets() -> list[DatasetSpec]:
    """Return the datasets of this package."""
    return [
        DatasetSpec(
            name="digits",
            factory="mmbench_datasets.digits:open_digits",
            describe="mmbench_datasets.digits:describe",
            version="2",
            defaults={"difficulty": "default", "seed": 0},
            summary="Handwritten digits, number words and spoken digits (synthesised by eSpeak NG); "
            "test words, languages and voices are new",
            paper="Degraded as AV-MNIST: Vielzeuf et al. 2018, arXiv:1808.07275",
            licence="images CC-BY-4.0 (UCI), words LGPL-2.1 (num2words), speech by eSpeak NG (GPL-3.0-or-later)",
            requires=("espeakng_loader", "num2words", "scipy", "sklearn"),
            modalities=(
                Modality(name="image", kind="image", facts={"channels": 1, "size": [8, 8]}),
                Modality(name="text", kind="text"),
                Modality(name="audio", kind="audio", facts={"rate": 8_000}),
            ),
            tasks=(TaskSpec(name="digit", kind="multiclass", num_outputs=10, class_names=tuple("0123456789")),),
            # The choice of epoch moves little after this many, and the whole grid ends sooner.
            train={"epochs": 8},
            cell_time_s=3.0,
        ),
        DatasetSpec(
            name="manifest",
            factory="mmbench_datasets.manifest:open_manifest",
            describe="mmbench_datasets.manifest:describe",
            subgroups="mmbench_datasets.subgroups:read_subgroups",
            accepts="mmbench_datasets.folders:accepts",
            version="3",
            summary="Your own data: a CSV or Parquet file of paths, texts, numbers and labels",
            requires=("PIL", "soundfile"),
            target="required",
            open_options=True,
            in_all=False,
        ),
        _ceiling_set(
            "xor",
            "The label is the exclusive or of two tables: neither alone tells anything",
            modalities=(_kind("tabular", "a"), _kind("tabular", "b")),
            ceilings={"a": 0.5, "b": 0.5, "a+b": 1.0},
            num_classes=2,
        ),
        _ceiling_set(
            "quarters",
            "Ten classes: the image tells y // 2, the audio tells y % 5",
            modalities=(_kind("image", size=[28, 28]), _kind("audio")),
            ceilings={"audio": 0.5, "image": 0.5, "audio+image": 1.0},
            num_classes=10,
            cell_time_s=5.0,
            train={"epochs": 8},
        ),
        _ceiling_set(
            "redundant",
            "Table and text tell the same, and one label in ten is wrong",
            modalities=(_kind("tabular"), _kind("text")),
            ceilings={"tabular": 0.9, "text": 0.9, "tabular+text": 0.9},
            num_classes=4,
            in_all=False,
        ),
        _ceiling_set(
            "redundant-3",
            "Audio, image and text tell the same, and one label in ten is wrong",
            modalities=(_kind("audio"), _kind("image"), _kind("text")),
            ceilings=_REDUNDANT_3,
            num_classes=4,
            cell_time_s=4.0,
            in_all=False,
        ),
        _ceiling_set(
            "redundant-missing",
            "Image and text tell the same; three samples in ten lack one, three the other",
            modalities=(_kind("image"), _kind("text")),
            ceilings={"image": 0.775, "text": 0.775, "image+text": 1.0},
            num_classes=4,
            missing=("image", "text"),
        ),
        _ceiling_set(
            "unique",
            "The label is two bits: one in the image, one in the sequence",
            modalities=(_kind("image"), _kind("sequence")),
            ceilings={"image": 0.5, "sequence": 0.5, "image+sequence": 1.0},
            num_classes=4,
            in_all=False,
        ),
        _ceiling_set(
            "moving",
            "The label is two bits: which way the shape in the video moves, which no frame tells, and one in the table",
            modalities=(_kind("tabular"), _kind("video")),
            ceilings={"tabular": 0.5, "video": 0.5, "tabular+video": 1.0},
            num_classes=4,
            # Motion gives no gradient until two frames are compared: patience would end it too early.
            train={"epochs": 16, "patience": 16, "lr": 1e-3},
            cell_time_s=8.0,
            in_all=False,
        ),
        _ceiling_set(
            "unique-3",
            "The label is three bits: one in the audio, one in the sequence, one in the table",
            modalities=(_kind("audio"), _kind("sequence"), _kind("tabular")),
            ceilings=_UNIQUE_3,
            num_classes=8,
            cell_time_s=3.0,
            in_all=False,
        ),
        _ceiling_set(
            "synergy",
            "The label is the sum modulo 3 of what sequence and text tell: neither alone tells anything",
            modalities=(_kind("sequence"), _kind("text")),
            ceilings={"sequence": 1 / 3, "text": 1 / 3, "sequence+text": 1.0},
            num_classes=3,
        ),
        _ceiling_set(
            "synergy-3",
            "The label is the parity of three bits in three tables: no two tell anything",
            modalities=(_kind("tabular", "a"), _kind("tabular", "b"), _kind("tabular", "c")),
            ceilings=_SYNERGY_3,
            num_classes=2,
            # Parity of three gives no gradient until all three bits are found: patience would end it too early.
            train={"epochs": 20, "patience": 20},
            in_all=False,
        ),
        _ceiling_set(
            "tasks",
            "Three tasks on table and text: multiclass, multilabel and regression",
            modalities=(_kind("tabular"), _kind("text")),
            ceilings={"tabular": 0.25, "text": 0.25, "tabular+text": 1.0},
            tasks=(
                TaskSpec(name="code", kind="multiclass", num_outputs=4),
                TaskSpec(name="tags", kind="multilabel", num_outputs=3, class_names=("text", "table", "both")),
                TaskSpec(name="amount", kind="regression", num_outputs=1),
            ),
        ),
    ]
