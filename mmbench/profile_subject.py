"""A cell's model, batches and training step as they are before any training, for whoever measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.batches import SplitData
from mmbench.build import build_encoder, build_model, build_objective, derive_seed, guarded_globals, read_inputs
from mmbench.cell_subject import dataset_info, make_trainer, open_dataset, pick_device, split_data
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.dataset_source import DatasetSource
from mmbench.loading import load_plugin_file
from mmbench.model import Batch, MultimodalModel
from mmbench.profiling.footprint import Build, Runs
from mmbench.profiling.variants import Prepared, arranged, prepare, settings
from mmbench.train import Trainer
from mmbench.variant import Variant


@dataclass(frozen=True)
class Subject:
    """A model that can be run and trained.

    Attributes:
        model: On the device, untrained or with its pretrained weights.
        trainer: Of that model.
        data: The training split on the device.
        columns: The same on disk, by modality.
        build_s: What building the model and moving it to the device took, data left out.
    """

    model: MultimodalModel
    trainer: Trainer
    data: SplitData
    columns: Mapping[str, Column]
    build_s: float

    def batch(self, size: int, *, first: int = 0) -> Batch:
        """Return `size` samples from position `first` on; where there are fewer, they come again."""
        return self.data.batch((torch.arange(size) + first) % len(self.data))

    def single(self) -> Batch:
        """Return one sample that has every modality, where there is one."""
        return self.data.single()

    @property
    def batch_size(self) -> int:
        """The training batch size, or all samples where there are fewer."""
        return min(self.trainer.config.batch_size, len(self.data))


class SubjectFactory:
    """Opens a cell's data once and builds its model as often as asked.

    Args:
        payload: `ProfileCell.payload()`.
        warnings: Told what plugins did to global settings.
    """

    def __init__(self, payload: Mapping[str, Any], warnings: list[str]) -> None:
        torch.set_num_threads(payload["threads"])
        for file in payload["plugin_files"]:
            load_plugin_file(Path(file))
        self.payload, self.warnings = payload, warnings
        self.source: DatasetSource = open_dataset(payload, dataset_info(payload["dataset"]["info"]))
        self.device = pick_device(payload["device"])
        self.variant = Variant.from_json(payload["profile"]["variant"])
        precision = "bf16" if self.variant.precision == "bf16" else "fp32"
        self.train = TrainConfig.model_validate({**payload["train"], "precision": precision})
        self._data: SplitData | None = None

    def build(self) -> Subject:
        """Build the model as `mmbench run` does before it trains, every encoder in full."""
        payload, tasks = self.payload, self.source.info.tasks
        encoders: dict[str, nn.Module] = {}
        columns: dict[str, Column] = {}
        spent = 0.0
        for name, part in payload["encoders"].items():
            began = perf_counter()
            seed = derive_seed("encoder", payload["cell_id"], name)
            encoder = encoders[name] = build_encoder(self.source.modality(name), part, seed, self.warnings)
            spent += perf_counter() - began
            columns[name] = read_inputs(self.source, name, encoder, part, self.warnings)["train"]
        data = self._split(columns)
        began = perf_counter()
        for encoder in encoders.values():
            encoder.to(self.device)
        spent += perf_counter() - began
        with guarded_globals(self.warnings):
            for name, encoder in encoders.items():
                data.fit_encoder(name, encoder)
        began = perf_counter()
        objective = build_objective(payload, encoders, tasks, self.warnings).to(self.device)
        model = build_model(payload, encoders, objective, tasks, self.train.dropout, self.warnings).to(self.device)
        spent += perf_counter() - began
        trainer = make_trainer(payload, model, objective, {"train": data, "val": data}, self.source.info, self.train)
        return Subject(model, trainer, data, columns, spent)

    def _split(self, columns: Mapping[str, Column]) -> SplitData:
        if self._data is None:
            drop = self.payload["fusion"]["missing_policy"] == "drop"
            self._data = split_data(self.source, "train", columns, self.device, self.train, complete_only=drop)
        return self._data


def inference(prepared: Prepared, device: torch.device) -> Callable[[Batch], Any]:
    """Return one forward pass as it is measured."""

    def infer(batch: Batch) -> Any:
        enabled = prepared.autocast is not None
        with torch.inference_mode(), torch.autocast(device.type, prepared.autocast, enabled=enabled):
            return prepared.model(batch)

    return infer


def host_batches(subject: Subject, size: int) -> Callable[[], Batch]:
    """Return what gathers random batches in host memory, as training does before it moves them to a device."""
    targets = {name: values.cpu().numpy() for name, values in subject.data.targets.items()}
    if subject.data.device.type == "cpu":
        data = subject.data
    else:
        data = SplitData(dict(subject.columns), targets, torch.device("cpu"), subset=subject.data.subset)
    rng = np.random.default_rng(0)

    def gather() -> Batch:
        return data.batch(torch.from_numpy(rng.integers(0, len(data), size)))

    return gather


def moved(batch: Batch, device: torch.device) -> list[Tensor]:
    """Copy a batch to the device."""
    tensors = [*batch.targets.values()]
    for given in batch.inputs.values():
        tensors += [tensor for tensor in (given.values, given.mask, given.rows) if tensor is not None]
    return [tensor.to(device) for tensor in tensors]


def footprint_build(payload: Mapping[str, Any]) -> Build:
    """Return what `mmbench.profiling.footprint` builds again and again: one training batch, inference and a step."""
    factory = SubjectFactory(payload, [])
    device, variant = factory.device, factory.variant
    size = payload["profile"]["measured_batch_size"]

    def build() -> Runs:
        # In this process nothing is switched back: it ends with its measurement.
        settings(variant, device).__enter__()
        subject = factory.build()
        prepared = prepare(subject.model, variant, device)
        infer, batch = inference(prepared, device), arranged(subject.batch(size), variant)

        def run() -> None:
            prepared.model.eval()
            infer(batch)

        def step() -> None:
            prepared.model.train()
            subject.trainer.step(batch)

        return Runs(run, None if prepared.untrainable or not payload["profile"]["trains"] else step)

    return build
