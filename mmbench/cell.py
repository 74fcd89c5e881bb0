"""One cell from seed to numbers: open data, build, train, choose on val, touch test once, profile, write down."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmbench.batches import SplitData
from mmbench.build import guarded_globals
from mmbench.cell_subject import (
    CellSubject,
    dataset_info,
    make_subject,
    open_dataset,
    settle,
    split_data,
    turn_on,
)
from mmbench.columns import Transform, transform_key
from mmbench.config import TrainConfig
from mmbench.data import SPLITS, Split
from mmbench.dataset_source import DatasetSource
from mmbench.diagnostics import DisturbedInputs, Findings, Subject, diagnose
from mmbench.diagnostics.attribution import FILE_NAME as ATTRIBUTION_FILE
from mmbench.diagnostics.attribution import attribute
from mmbench.epochs import Trained
from mmbench.evaluate import metrics
from mmbench.frozen import FrozenEncoder
from mmbench.kept_predictions import kept_arrays, save_predictions
from mmbench.model import MultimodalModel
from mmbench.parts import perf_key
from mmbench.profiling import PROTOCOLS, profile
from mmbench.profiling.apart import add_encoders
from mmbench.profiling.device import Neighbours, driver_version, hardware_name
from mmbench.profiling.findings import SHARED_DEVICE, mark_contended
from mmbench.profiling.memory import cell_memory, peak_reserved_bytes
from mmbench.profiling.variants import convolves_in_tf32
from mmbench.profiling.watch import TrainingWatch
from mmbench.record import TIMINGS_FILE, Direction, Metric
from mmbench.tasks import TargetScaler, majority_predictions, predictions
from mmbench.train import Trainer, evaluation_batch_size, predict
from mmbench.variant import MEASURING_VERSION, Variant

#: Splits that a cell is scored on, by whether it only helps to choose others.
SCORED: Mapping[bool, tuple[Split, ...]] = {False: ("val", "test"), True: ("val",)}


def run_cell(payload: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train and evaluate one cell.

    Args:
        payload: `Cell.payload()`.
        folder: Where predictions and raw timings go.

    Returns:
        ``{"metrics": [...], "info": {...}}``, plain JSON.
    """
    began = time.perf_counter()
    settle(payload)
    source = open_dataset(payload, dataset_info(payload["dataset"]["info"]))
    if payload["fusion"] is None:
        return _run_majority(source, TrainConfig.model_validate(payload["train"]), payload, folder, began)
    with turn_on(payload) as turn:
        made = make_subject(source, payload, folder, turn=turn)
        ready = time.perf_counter()
        made.trainer.watch = _watch(made)
        neighbours = Neighbours(made.trainer.device)
        with guarded_globals(made.warnings):
            trained = made.trainer.run()
        disturbed = SHARED_DEVICE if payload["contended"] else neighbours.reason()
        if "not_together" in payload:
            made.warnings.append(f"its seeds could not be trained together: {payload['not_together']}")
        about_training = mark_contended(training_metrics(trained), disturbed)
        about_training = _with_encoding(about_training, made.frozen)
        train_s = time.perf_counter() - ready
        return judge(made, trained, about_training, folder, prepare_s=ready - began, train_s=train_s)


def judge(
    made: CellSubject,
    trained: Trained,
    about_training: Sequence[Metric],
    folder: Path,
    *,
    prepare_s: float,
    train_s: float,
    num_beside: int = 0,
) -> dict[str, Any]:
    """Evaluate, profile and diagnose a trained cell, and write its files; return what `run_cell` returns.

    Args:
        made: The cell.
        trained: How its training went.
        about_training: What that says of itself.
        folder: Where its files go.
        prepare_s, train_s: What came before took so long.
        num_beside: Other cells that this process holds meanwhile.
    """
    payload, source, data, frozen, warnings = made.payload, made.source, made.data, made.frozen, made.warnings
    trainer, tasks = made.trainer, made.source.info.tasks
    model, train, scalers, device = trainer.model, trainer.config, trainer.scalers, trainer.device

    def predict_split(split: Split) -> dict[str, np.ndarray]:
        logits = predict(model, data[split], train)
        return {task.name: predictions(task, logits[task.name], scalers[task.name]).cpu().numpy() for task in tasks}

    began = time.perf_counter()
    reserved = peak_reserved_bytes(device)
    with guarded_globals(warnings):
        found, kept = _evaluate(source, data, predict_split, SCORED[payload["identity"].get("val_only", False)])
        if payload.get("keep_train"):
            kept.update(_kept("train", data["train"], predict_split("train")))
        evaluated = time.perf_counter()
        profiled, raw = _profile(made)
        profiled = _without_shared_memory(profiled, num_beside)
        profiled_at = time.perf_counter()
        diagnosed = _diagnose(model, data, kept, scalers, train, payload, (source, made.encoders, frozen), warnings)
    save_predictions(kept, folder, tasks)
    if raw:
        (folder / TIMINGS_FILE).write_text(json.dumps(raw))
    if diagnosed.attribution is not None:
        (folder / ATTRIBUTION_FILE).write_text(json.dumps(diagnosed.attribution), encoding="utf-8")
    found += [*about_training, *profiled, *diagnosed.metrics]
    return {
        "metrics": [metric.to_json() for metric in found],
        "info": {
            **_facts(source, data, payload, train, device),
            **perf_facts(
                payload,
                train,
                Variant(precision=train.precision),
                min(train.batch_size, len(data["train"])),
                device,
                captured=trainer.captured.num_replayed > 0,
                tf32_convolutions=convolves_in_tf32(train.precision, device),
                watched=raw.get("watched", ()),
            ),
            **_device_facts(trainer, reserved),
            "layouts": dict(model.layouts),
            "pooled": [
                name for name, layout in model.layouts.items() if layout == "sequence" and model.accepts == "vector"
            ],
            "feature_dims": dict(model.dims),
            "stored_features": [name for name, encoder in frozen.items() if encoder.stored],
            "selected_by": trained.selected_by,
            "history": [dataclasses.asdict(epoch) for epoch in trained.history],
            **({"diagnostics": diagnosed.info} if diagnosed.info else {}),
            "warnings": list(dict.fromkeys(warnings)),
            "times_s": {
                "prepare": round(prepare_s, 4),
                "train_and_evaluate": round(train_s + evaluated - began, 4),
                "profile": round(profiled_at - evaluated, 4),
                "diagnose": round(time.perf_counter() - profiled_at, 4),
            },
        },
    }


def _device_facts(trainer: Trainer, reserved: int) -> dict[str, Any]:
    """Return what a record says of a GPU beside its name: what was captured, and the memory that a cell takes there."""
    if trainer.device.type != "cuda":
        return {}
    return {"cuda_graphs": trainer.captured.facts(), "device_memory": cell_memory(trainer.device, reserved)}


def _evaluate(
    source: DatasetSource,
    data: Mapping[Split, SplitData],
    predict_split: Callable[[Split], Mapping[str, np.ndarray]],
    splits: Sequence[Split] = SCORED[False],
) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Return every metric of the splits, and what is kept of them: predictions, targets, sample ids."""
    found: list[Metric] = []
    kept: dict[str, np.ndarray] = {}
    for split in splits:
        predicted = predict_split(split)
        for task in source.info.tasks:
            target = data[split].targets[task.name].cpu().numpy()
            found += metrics(
                task, predicted[task.name], target, split=split, confidence=split == "test", groups=data[split].groups
            )
        kept.update(_kept(split, data[split], predicted))
    return found, kept


def _kept(split: Split, data: SplitData, predicted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays kept of one split: predictions and targets by task, the ids and groups of the samples."""
    targets = {name: data.targets[name].cpu().numpy() for name in predicted}
    return kept_arrays(split, predicted, targets, data.sample_ids, data.groups)


def _run_majority(
    source: DatasetSource, train: TrainConfig, payload: Mapping[str, Any], folder: Path, began: float
) -> dict[str, Any]:
    """The floor: predict what training says of the labels alone."""
    device = torch.device("cpu")
    data = {split: split_data(source, split, {}, device, train) for split in SPLITS}
    known = {name: target.numpy() for name, target in data["train"].targets.items()}

    def predict_split(split: Split) -> dict[str, np.ndarray]:
        return {task.name: majority_predictions(task, known[task.name], len(data[split])) for task in source.info.tasks}

    found, kept = _evaluate(source, data, predict_split)
    save_predictions(kept, folder, source.info.tasks)
    facts = _facts(source, data, payload, train, device)
    times = {"prepare": round(time.perf_counter() - began, 4)}
    return {"metrics": [metric.to_json() for metric in found], "info": {**facts, "times_s": times}}


def training_metrics(trained: Trained, *, shared: str = "") -> list[Metric]:
    """Return what training says of itself; with what it `shared` its time with, it has no speed of its own."""

    def speed(name: str, value: float, unit: str, direction: Direction) -> Metric:
        return Metric(
            phase="train", name=name, value=None if shared else value, unit=unit, direction=direction, note=shared
        )

    return [
        speed("train_time_s", trained.train_time_s, "s", "min"),
        speed("throughput_samples_per_s", trained.samples_per_s, "samples/s", "max"),
        Metric(phase="train", name="num_epochs", value=float(len(trained.history))),
        Metric(phase="train", name="best_epoch", value=float(trained.best_epoch + 1)),
        Metric(phase="train", name="num_steps", value=float(trained.num_steps)),
    ]


def _with_encoding(metrics: Sequence[Metric], frozen: Mapping[str, FrozenEncoder]) -> list[Metric]:
    """Add to the training time what the stored features of frozen encoders took: without them nothing is trained."""
    known = {name: encoder.encoding for name, encoder in frozen.items() if encoder.encoding is not None}
    if not known:
        return list(metrics)
    spent = sum(encoding.time_s for encoding in known.values())
    note = f"of which {spent:.3g} s for the features of {', '.join(known)}, computed once for all cells that read them"
    disturbed = next((encoding.disturbed for encoding in known.values() if encoding.disturbed), "")
    return [
        dataclasses.replace(marked, value=marked.value + spent, note="; ".join(filter(None, [marked.note, note])))
        if item.name == "train_time_s" and (marked := mark_contended([item], disturbed)[0]).value is not None
        else item
        for item in metrics
    ]


def _facts(
    source: DatasetSource,
    data: Mapping[Split, SplitData],
    payload: Mapping[str, Any],
    train: TrainConfig,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "identity": payload["identity"],
        **({"tuned": payload["tuned"]} if "tuned" in payload else {}),
        "split_hash": source.index.split_hash,
        "num_samples": {split: len(data[split]) for split in SPLITS},
        "resident": all(item.resident for item in data.values()),
        "device": _device_name(device),
        "precision": train.precision,
        "threads": payload["threads"],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def _device_name(device: torch.device) -> str:
    """Return what computes, as tables show it: a CPU by its architecture alone."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def perf_facts(
    payload: Mapping[str, Any],
    train: TrainConfig,
    variant: Variant,
    batch_size: int,
    device: torch.device,
    *,
    captured: bool = False,
    tf32_convolutions: bool = False,
    watched: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what decides a cost beside the combo, and the key of both.

    Args:
        payload: Of the cell.
        train: Its settings.
        variant: How the model is run.
        batch_size: Of training.
        device: Where.
        captured: Whether training replayed graphs.
        tf32_convolutions: Whether convolutions were done in TF32 although the precision is fp32.
        watched: What was measured while the cell trained, and not afterwards.
    """
    setup = {
        "device": hardware_name(device),
        "driver": driver_version(device),
        "torch": torch.__version__,
        "threads": payload["threads"],
        "batch_size": batch_size,
        "optimiser": train.optimiser,
        "protocol": payload["protocol"],
        "measuring_version": MEASURING_VERSION,
        **variant.to_json(),
        **({"cuda_graphs": True} if captured else {}),
        **({"tf32_convolutions": True} if tf32_convolutions else {}),
        **({"watched": list(watched)} if watched else {}),
    }
    return {"perf_key": perf_key(payload["identity"], setup), "perf_setup": setup}


def _diagnose(
    model: MultimodalModel,
    data: Mapping[Split, SplitData],
    kept: Mapping[str, np.ndarray],
    scalers: Mapping[str, TargetScaler | None],
    train: TrainConfig,
    payload: Mapping[str, Any],
    made_from: tuple[DatasetSource, Mapping[str, nn.Module], Mapping[str, FrozenEncoder]],
    warnings: list[str],
) -> Findings:
    """What the model says about its modalities; a diagnosis that fails never costs the cell its result."""
    if payload["identity"].get("val_only", False):
        return Findings()
    subject = Subject(
        model=model,
        data=data,
        tasks=model.tasks,
        scalers=scalers,
        clean={task.name: kept[f"test.{task.name}.prediction"] for task in model.tasks},
        takes_missing=payload["fusion"].get("missing", False),
        batch_size=evaluation_batch_size(train),
        autocast=train.precision == "bf16",
    )
    source, encoders, frozen = made_from
    stored = {name: encoder for name, encoder in frozen.items() if encoder.stored}

    def transform_of(name: str) -> tuple[Transform, str]:
        encoder = frozen[name].build()[0] if name in frozen else encoders[name]
        return encoder.transform, transform_key(encoder, fallback=payload["encoders"][name]["digest"])  # type: ignore[return-value]

    disturbed = DisturbedInputs(
        source, data["test"], transform_of, {name: item.encode for name, item in stored.items()}
    )
    depth, found = payload.get("diagnostics", "none"), Findings()
    try:
        found = diagnose(subject, depth, disturbed)
    except Exception as error:  # a plugin's module may raise anything at inputs that training never showed it
        warnings.append(f"there are no diagnostics: {type(error).__name__}: {error}")
    try:
        found.attribution = attribute(subject, disturbed) if depth == "full" else None
    except Exception as error:  # as above
        warnings.append(f"no predictions are explained: {type(error).__name__}: {error}")
    return found


def _watch(made: CellSubject) -> TrainingWatch | None:
    """Return what takes the times of a cell's training while it goes on, where its protocol has that."""
    protocol, trainer = made.payload["protocol"], made.trainer
    if protocol == "none" or not PROTOCOLS[protocol].watches or trainer.device.type != "cpu":
        return None
    config = trainer.config
    return TrainingWatch(
        trainer.model,
        batch_size=min(config.batch_size, len(trainer.stepped_on)),
        pass_size=min(evaluation_batch_size(config), len(made.data["val"])),
        protocol=PROTOCOLS[protocol],
    )


def _profile(made: CellSubject) -> tuple[list[Metric], dict[str, Any]]:
    """Measure a trained cell, alone on its device where that is shared by turns."""
    if made.payload["protocol"] == "none":
        return [], {}
    with made.turn.alone() as alone:
        contended = made.payload["contended"] if alone is None else not alone
        return _profile_now(made, contended, made.turn.num_others() if alone else 0)


def _without_shared_memory(metrics: Sequence[Metric], num_beside: int) -> list[Metric]:
    """Take out what torch counts for the whole process, where that holds other models too."""
    reason = f"the models of {num_beside} other seeds, trained together with this one, were on the device meanwhile"
    return [
        dataclasses.replace(item, value=None, note=reason)
        if num_beside and item.value is not None and "_peak_memory_" in item.name
        else item
        for item in metrics
    ]


def _profile_now(made: CellSubject, contended: bool, num_waiting: int) -> tuple[list[Metric], dict[str, Any]]:
    trainer, data, frozen = made.trainer, made.data["train"], made.frozen
    size, protocol = min(trainer.config.batch_size, len(data)), PROTOCOLS[made.payload["protocol"]]
    watch = trainer.watch
    neighbours = Neighbours(data.device, num_waiting) if watch is None else watch.neighbours
    found, raw = profile(
        trainer.model,
        {"train": data.batch(torch.arange(size)), "single": data.single()},
        trainer.step,
        data.device,
        protocol,
        contended=contended,
        autocast=torch.bfloat16 if trainer.config.precision == "bf16" else None,
        watch=watch,
    )
    found = mark_contended(found, neighbours.reason())
    stored = {name: encoder for name, encoder in frozen.items() if encoder.stored}
    if stored:
        # Performance is never that of cached features.
        costs = {name: encoder.cost(size, protocol) for name, encoder in stored.items()}
        found, raw["frozen"] = add_encoders(found, costs), {name: cost.to_json() for name, cost in costs.items()}
    return found, raw
