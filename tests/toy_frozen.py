"""A plugin with encoders whose weights lie in a file, for tests of tuning: `mmbench run --plugin tests/toy_frozen.py`."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmbench import DatasetSpec, EncoderInfo, EncoderSpec, Features, Modality, TaskSpec, Unavailable, hookimpl
from mmbench.data import Sample

NUM_FEATURES = 6
#: Appended to, one line a pass, by every forward of a pretrained encoder: who encodes, and how many samples.
TRACE = "MMBENCH_TEST_TRACE"


def describe(target: str, *, tuning: str, **options: object) -> EncoderInfo:
    """Say which weights a file holds."""
    path = Path(target)
    if not path.is_file():
        raise Unavailable(f"there are no weights at {target}; write them with torch.save")
    return EncoderInfo(fingerprint=hashlib.sha256(path.read_bytes()).hexdigest())


@dataclasses.dataclass(frozen=True)
class Doubled:
    """Rows twice their size."""

    version = "1"

    def __call__(self, sample: np.ndarray) -> np.ndarray:
        return np.asarray(sample * 2, dtype=np.float32)


class Pretrained(nn.Module):
    """Two blocks over a row or over each step of a sequence, batch-normalised, dropped out."""

    def __init__(self, modality: Modality, layout: str, *, target: str, tuning: str, width: int) -> None:
        super().__init__()
        self.layout, self.feature_dim, self.transform = layout, width, Doubled()
        self.stem = nn.Linear(NUM_FEATURES, width)
        self.blocks = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.5)
        if tuning != "scratch":
            if not Path(target).is_file():
                raise Unavailable(f"there are no weights at {target}")
            self.load_state_dict(torch.load(target, weights_only=True))

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None) -> Features:
        trace = __import__("os").environ.get(TRACE)
        if trace:
            with Path(trace).open("a") as stream:
                stream.write(f"{len(values)} {'train' if self.training else 'eval'}\n")
        if self.layout == "sequence" and values.dim() == 2:
            values = values.unsqueeze(1)  # a row is a sequence of one step
        hidden = self.blocks(torch.relu(self.stem(values)))
        hidden = self.dropout(self.norm(hidden.flatten(0, -2)).view(hidden.shape))
        if self.layout == "vector":
            return Features(hidden.mean(dim=1) if hidden.dim() == 3 else hidden)
        return Features(hidden, mask)


def splits(root: Path) -> dict[str, list[Sample]]:
    """Rows and sequences of 1 to 4 steps; the label needs both; one in four lacks its sequence."""
    rng = np.random.default_rng(0)

    def split(name: str, count: int) -> list[Sample]:
        samples = []
        for number in range(count):
            row = rng.normal(size=NUM_FEATURES).astype(np.float32)
            steps = rng.normal(size=(1 + number % 4, NUM_FEATURES)).astype(np.float32)
            label = int(row[0] + steps[:, 1].mean() > 0)
            inputs = {"row": row, "steps": None if number % 4 == 3 else steps}
            samples.append(Sample(f"{name}-{number}", inputs, {"label": label}))
        return samples

    return {"train": split("train", 96), "val": split("val", 40), "test": split("test", 60)}


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `stored`, for rows and for sequences."""
    return [
        EncoderSpec(
            name="stored",
            kinds=("tabular", "sequence"),
            layouts=("vector", "sequence"),
            tunings=("frozen", "finetune", "adapter", "scratch"),
            target="required",
            describe="toy_frozen:describe",
            factory="toy_frozen:Pretrained",
            defaults={"width": 8},
            version="1",
        )
    ]


@hookimpl
def mmbench_datasets() -> list[DatasetSpec]:
    """Offer `rows-and-steps`."""
    return [
        DatasetSpec(
            name="rows-and-steps",
            factory="toy_frozen:splits",
            version="1",
            modalities=(
                Modality(name="row", kind="tabular", facts={"num_features": NUM_FEATURES}),
                Modality(name="steps", kind="sequence", facts={"num_features": NUM_FEATURES}),
            ),
            tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
            missing=("steps",),
            train={"epochs": 3, "batch_size": 32, "lr": 0.01},
            in_all=False,
        )
    ]
