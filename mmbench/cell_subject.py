"""One cell, built: its dataset opened, its encoders, objective and model made from seeds of their own."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmbench.augment import make_augments
from mmbench.batches import SplitData, complete, limited
from mmbench.build import (
    build_encoder,
    build_model,
    build_objective,
    call_factory,
    derive_seed,
    guarded_globals,
    read_inputs,
)
from mmbench.cache import ArrayCache
from mmbench.columns import Column, transform_key
from mmbench.config import TrainConfig, part_root
from mmbench.data import SPLITS, Split
from mmbench.dataset_source import DatasetSource
from mmbench.device_turn import DeviceTurn, gpu_name
from mmbench.epochs import Epoch
from mmbench.errors import ContractError, Unavailable
from mmbench.frozen import FrozenEncoder
from mmbench.loading import load_plugin_file
from mmbench.model import MultimodalModel
from mmbench.record import HISTORY_FILE
from mmbench.repeated_inputs import repeated_inputs
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench.tasks import TargetScaler
from mmbench.train import Trainer
from mmbench.tuning import read_tuning


@dataclass(frozen=True)
class CellSubject:
    """One cell built and ready to be trained.

    Attributes:
        payload: `Cell.payload()`.
        source: Its dataset.
        data: What its model reads.
        frozen: Encoders that stand still, by modality.
        encoders: Every modality's encoder, or what stands in for it.
        trainer: Holds model, objective and settings.
        warnings: Filled by what is done with it.
        turn: Its place on the device.
    """

    payload: Mapping[str, Any]
    source: DatasetSource
    data: Mapping[Split, SplitData]
    frozen: Mapping[str, FrozenEncoder]
    encoders: Mapping[str, nn.Module]
    trainer: Trainer
    warnings: list[str]
    turn: DeviceTurn


def settle(payload: Mapping[str, Any]) -> None:
    """Give this process the threads and the local plugins that a payload asks for."""
    torch.set_num_threads(payload["threads"])
    for file in payload["plugin_files"]:
        load_plugin_file(Path(file))


def make_subject(
    source: DatasetSource,
    payload: Mapping[str, Any],
    folder: Path,
    like: CellSubject | None = None,
    turn: DeviceTurn | None = None,
) -> CellSubject:
    """Build a cell: its encoders, data, objective and model, each from seeds of its own.

    Args:
        source: Its dataset.
        payload: `Cell.payload()`.
        folder: Where its learning curve goes.
        like: A cell of the same combo, whose data it is to share.
        turn: Its place on the device, where that is shared by turns.

    Raises:
        ContractError: its encoders read something else than those of `like`.
    """
    info = source.info
    train = TrainConfig.model_validate(payload["train"])
    device = pick_device(payload["device"])
    warnings: list[str] = []
    frozen = {
        name: FrozenEncoder(source, name, payload, device, warnings)
        for name, part in payload["encoders"].items()
        if part["tuning"] == "frozen"
    }
    encoders, columns = _encoders(source, frozen, payload, warnings)
    warnings += [text for name in columns for text in source.index.warnings.get(name, ())]
    warnings += repeated_inputs(columns, info)
    if like is None:
        drop = payload["fusion"]["missing_policy"] == "drop"
        data: Mapping[Split, SplitData] = {
            split: split_data(
                source,
                split,
                {name: column[split] for name, column in columns.items()},
                device,
                train,
                complete_only=drop and split == "train",
            )
            for split in SPLITS
        }
    else:
        _check_same_inputs(encoders, like)
        data = like.data
    with guarded_globals(warnings):
        for name, encoder in encoders.items():
            encoder.to(device)
            if name not in frozen:
                data["train"].fit_encoder(name, encoder)
    objective = build_objective(payload, encoders, info.tasks, warnings)
    model = build_model(payload, encoders, objective, info.tasks, train.dropout, warnings)
    model.to(device)
    objective.to(device)
    turn = turn or DeviceTurn(None)
    on_epoch = partial(_after_epoch, folder / HISTORY_FILE, turn)
    trainer = make_trainer(payload, model, objective, data, info, train, on_epoch=on_epoch)
    return CellSubject(payload, source, data, frozen, encoders, trainer, warnings, turn)


def _check_same_inputs(encoders: Mapping[str, nn.Module], like: CellSubject) -> None:
    for name, encoder in encoders.items():
        if name in like.frozen:
            continue  # whose features follow from the dataset and the weights alone
        fallback = like.payload["encoders"][name]["digest"]
        if transform_key(encoder, fallback=fallback) != transform_key(like.encoders[name], fallback=fallback):
            raise ContractError(f"the encoder of {name!r} reads its inputs otherwise for another seed")


def turn_on(payload: Mapping[str, Any]) -> DeviceTurn:
    """Return a cell's place on its device: GPUs are shared by turns."""
    device = pick_device(payload["device"])
    if device.type != "cuda":
        return DeviceTurn(None)
    # Nothing is asked of the GPU before its turn, not even its name: somebody may be measuring on it.
    return DeviceTurn(gpu_name(device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES")))


def _after_epoch(path: Path, turn: DeviceTurn, epoch: Epoch) -> None:
    """Add a line to the learning curve, for those who look on while the cell trains; let others measure."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(dataclasses.asdict(epoch)) + "\n")
    turn.pause()


def dataset_info(data: Mapping[str, Any]) -> DatasetInfo:
    """Rebuild a `DatasetInfo` from JSON."""
    return DatasetInfo(
        modalities=tuple(Modality(**item) for item in data["modalities"]),
        tasks=tuple(TaskSpec(**item) for item in data["tasks"]),
        missing=tuple(data["missing"]),
        fingerprint=data["fingerprint"],
    )


def open_dataset(payload: Mapping[str, Any], info: DatasetInfo) -> DatasetSource:
    """Return the payload's dataset; its plugin is called only when the cache lacks something."""
    part = payload["dataset"]

    def open_splits() -> Mapping[str, Any]:
        root = part_root(Path(payload["data_dir"]), part["ref"])
        root.mkdir(parents=True, exist_ok=True)
        opened = call_factory(part, [], root)
        if not isinstance(opened, Mapping):
            raise ContractError(f"dataset {part['ref']} must return a mapping of splits, got {type(opened).__name__}")
        return opened

    return DatasetSource(info, part["key"], open_splits, ArrayCache(Path(payload["cache_dir"])))


def pick_device(name: str) -> torch.device:
    """Return the device that "auto", "cpu", "cuda" or "cuda:1" means here.

    Raises:
        Unavailable: a GPU was asked for and none can be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable(f"--device {name} was asked for, but torch {torch.__version__} sees no CUDA device here")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise Unavailable(f"--device {name} was asked for, but CUDA devices here have the numbers 0 to {found - 1}")
    return device


def _encoders(
    source: DatasetSource, frozen: Mapping[str, FrozenEncoder], payload: Mapping[str, Any], warnings: list[str]
) -> tuple[dict[str, nn.Module], dict[str, Mapping[Split, Column]]]:
    """Return every modality's encoder, or what stands in for it, and what it reads."""
    encoders: dict[str, nn.Module] = {}
    columns: dict[str, Mapping[Split, Column]] = {}
    for name, part in payload["encoders"].items():
        if name in frozen:
            given = frozen[name]
            encoders[name], columns[name] = given.features() if given.stored else given.running()
            continue
        seed = derive_seed("encoder", payload["cell_id"], name)
        encoder = encoders[name] = build_encoder(source.modality(name), part, seed, warnings)
        columns[name] = read_inputs(source, name, encoder, part, warnings)
    return encoders, columns


def split_data(
    source: DatasetSource,
    split: Split,
    columns: Mapping[str, Column],
    device: torch.device,
    config: TrainConfig,
    *,
    complete_only: bool = False,
) -> SplitData:
    """Return one split of a cell's data, as far as its settings want it.

    Args:
        source: The dataset.
        split: Which.
        columns: Of that split, by modality.
        device: Where batches are wanted.
        config: Its `limit` counts.
        complete_only: Whether to leave out samples that lack a modality.

    Raises:
        DataError: every sample lacks one.
    """
    subset = limited(len(source.index.sample_ids[split]), config.limit)
    if complete_only:
        subset = complete(columns, subset)
    ids, groups = source.index.sample_ids[split], source.index.groups.get(split, ())
    weights = source.index.weights if split == "train" else None
    return SplitData(
        columns, source.index.targets[split], device, subset=subset, ids=ids, groups=groups, weights=weights
    )


def make_trainer(
    payload: Mapping[str, Any],
    model: MultimodalModel,
    objective: nn.Module,
    data: Mapping[Split, SplitData],
    info: DatasetInfo,
    config: TrainConfig,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trainer:
    """Return what trains a cell: all that is random in it follows from the payload's seeds.

    An objective that asks is given the ids of the training samples, and their targets.

    Args:
        payload: Of the cell.
        model, objective: On the device.
        data: Train and val are seen.
        info: Of the dataset.
        config: Settings.
        on_epoch: As in `Trainer`.
    """
    train = data["train"]
    tell_samples = getattr(objective, "before_training", None)
    if tell_samples is not None:
        tell_samples(train.sample_ids)
    observe_targets = getattr(objective, "observe_targets", None)
    if observe_targets is not None:
        observe_targets(train.targets)
    return Trainer(
        model,
        objective,
        train,
        data["val"],
        info.tasks,
        {task.name: TargetScaler.fit(task, train.targets[task.name]) for task in info.tasks},
        config,
        # The same repeat visits samples in the same order in every cell, so that cells can be compared in pairs.
        order_seed=derive_seed("order", payload["master_seed"], payload["seed"]),
        noise_seed=derive_seed("noise", payload["cell_id"]),
        tunings={name: read_tuning(part) for name, part in payload["encoders"].items()},
        augments=make_augments(payload, {item.name: item.kind for item in info.modalities}, train),
        on_epoch=on_epoch,
        cuda_graphs=payload.get("cuda_graphs", "never"),
    )
