"""Frozen encoders: each reads each dataset once, and every fusion, objective and seed shares the features it gave."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench.batches import SplitData
from mmbench.build import build_encoder, derive_seed, guarded_globals, read_inputs
from mmbench.cache import ArrayCache
from mmbench.columns import Column
from mmbench.data import SPLITS, Split
from mmbench.dataset_source import DatasetSource
from mmbench.errors import DataError
from mmbench.features import Features
from mmbench.model import MultimodalModel
from mmbench.parts import digest
from mmbench.profiling import Meter, Protocol
from mmbench.profiling.apart import EncoderCost, measure_encoder
from mmbench.profiling.device import Neighbours, hardware_name
from mmbench.profiling.findings import SHARED_DEVICE
from mmbench.spec import Layout

#: Bumped when features of an unchanged encoder would be stored otherwise.
FEATURES_VERSION = 3
#: Samples that one forward pass of a frozen encoder reads, by type of device: a CPU gains nothing from more.
BATCH_SIZE: Mapping[str, int] = {"cpu": 8, "cuda": 64}
_DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Standardiser(nn.Module):
    """Brings every feature to mean 0 and standard deviation 1 over the training set.

    Frozen encoders give features of any scale (unit vectors here, hundreds there), which nothing after them could
    change; a fusion that adds or multiplies modalities would see the loudest one only.

    Args:
        mean, std: (D,); a feature that does not vary is left at 0.

    Shapes: (…, D) -> (…, D).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), 1 / std, 0.0))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) * self.scale


class StoredFeatures(nn.Module):
    """Stands in a model for a frozen encoder whose features are known already.

    Args:
        feature_dim: Width of the features.
        layout: "vector" or "sequence".
        feature_dtype: As they are stored: "fp32", "fp16" or "bf16" (which travels as int16).
        after: What they go through.

    Shapes: (P, D) or (P, T, D) -> the same, float32.
    """

    def __init__(self, feature_dim: int, layout: Layout, feature_dtype: str, after: nn.Module) -> None:
        super().__init__()
        self.feature_dim, self.layout, self.feature_dtype, self.after = feature_dim, layout, feature_dtype, after

    def forward(self, values: Tensor, mask: Tensor | None) -> Features:
        """Return stored features as an encoder returns its own."""
        if self.feature_dtype == "bf16":
            values = values.view(torch.bfloat16)
        return Features(self.after(values.float()), mask)


class RunningEncoder(nn.Module):
    """A frozen encoder that runs in every step, its features standardised as stored ones are.

    Shapes: as the encoder's.
    """

    def __init__(self, encoder: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.encoder, self.after = encoder, after
        self.feature_dim = encoder.feature_dim

    def forward(self, values: Tensor, mask: Tensor | None) -> Features:
        """Encode."""
        features = self.encoder(values, mask)
        features = Features(features) if isinstance(features, Tensor) else features
        if isinstance(features.values, tuple):
            return features  # type: ignore[no-any-return]
        return replace(features, values=self.after(features.values))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Encoding:
    """How the features of train and val were computed, once for all cells that read them.

    Attributes:
        time_s: What it took.
        disturbed: Who computed on the device meanwhile, as the note of a time says it; "" for nobody.
    """

    time_s: float
    disturbed: str


class FrozenEncoder:
    """One frozen encoder on one modality of a dataset: its features and its cost, each worked out once and kept.

    The encoder itself is built only when something is not in the cache yet.

    Args:
        source: The dataset.
        modality: Name of the modality.
        payload: Of the cell that asks; nothing in it but the encoder's part, the dataset and this machine counts.
        device: Where the encoder runs.
        warnings: Told what the plugin did to global settings.
    """

    def __init__(
        self,
        source: DatasetSource,
        modality: str,
        payload: Mapping[str, Any],
        device: torch.device,
        warnings: list[str],
    ) -> None:
        self.source, self.modality, self.payload = source, modality, payload
        self.device, self.warnings = device, warnings
        self.cache = ArrayCache(Path(payload["cache_dir"]))
        self.part = payload["encoders"][modality]
        #: Whether features are computed once and kept; those of several layers are not.
        self.stored = bool(payload["feature_cache"]) and self.part["layout"] != "pyramid"
        #: Libraries compute features, so their versions are part of what was computed.
        self.key = digest(
            [
                *(FEATURES_VERSION, source.key, modality, self.part["digest"], self.part["layout"]),
                *(f"{package}={_version(package)}" for package in ("torch", *self.part["requires"])),
            ]
        )
        self._built: tuple[nn.Module, Mapping[Split, Column]] | None = None
        #: What computing the stored features of train and val took, whenever that was; None before `features`.
        self.encoding: Encoding | None = None

    def features(self) -> tuple[StoredFeatures, dict[Split, Column]]:
        """Return what takes the encoder's place in a model, and its features of every split.

        Raises:
            Unavailable: the encoder's weights are not at hand.
            DataError: its features are not finite.
        """
        arrays = self.cache.get_or_make(f"features/{self.source.key[:16]}/{self.key}", self._make_features)
        about = json.loads(arrays["about"].tobytes())
        self.encoding = Encoding(about["encode_s"], about["disturbed"])
        after = self._standardiser(arrays["mean"], arrays["std"])
        columns = {split: Column.from_arrays(arrays, f"{split}.") for split in SPLITS}
        return StoredFeatures(about["feature_dim"], self.part["layout"], self._dtype, after), columns

    def running(self) -> tuple[RunningEncoder, Mapping[Split, Column]]:
        """Return the encoder for a cell in which it runs in every step, and what it reads."""
        encoder, columns = self.build()
        after: nn.Module = nn.Identity()
        if self.part["layout"] != "pyramid":
            model, data = self._model("train")
            with tempfile.TemporaryDirectory(prefix="mmbench-encoding-") as folder:
                found = _encode(model, data, self.modality, self._dtype, Path(folder) / "train")
                after = self._standardiser(*moments(found, self._dtype))
        return RunningEncoder(encoder, after), columns

    def _standardiser(self, mean: NDArray[Any], std: NDArray[Any]) -> nn.Module:
        if not self.part["tuning_options"]["standardise"]:
            return nn.Identity()
        return Standardiser(torch.from_numpy(np.array(mean)), torch.from_numpy(np.array(std)))

    def cost(self, batch_size: int, protocol: Protocol) -> EncoderCost:
        """Return what the encoder takes by itself for a batch of the training set and for a single sample.

        Args:
            batch_size: As in training.
            protocol: How carefully to measure.
        """
        machine = [hardware_name(self.device), self.payload["threads"], self.payload["contended"]]
        key = digest([self.key, batch_size, protocol.name, *machine])

        def make() -> dict[str, NDArray[Any]]:
            model, data = self._model("train")
            cost = measure_encoder(
                model.encode,
                model.encoders[0],
                {
                    "train": data.batch(torch.arange(min(batch_size, len(data)))),
                    "single": data.single(),
                },
                Meter(self.device, protocol),
            )
            return {"cost": np.frombuffer(json.dumps(cost.to_json()).encode(), dtype=np.uint8)}

        entry = self.cache.get_or_make(f"encoder-cost/{self.source.key[:16]}/{key}", make)
        return EncoderCost.from_json(json.loads(entry["cost"].tobytes()))

    @property
    def _dtype(self) -> str:
        return str(self.part["tuning_options"]["feature_dtype"])

    def encode(self, column: Column) -> dict[str, NDArray[Any]]:
        """Run the encoder over any column that its transform made.

        Returns:
            ``values``, ``present`` and, for features of several lengths, ``offsets``: what `Column.from_arrays` takes.
        """
        model, data = self._model_of(column)
        with tempfile.TemporaryDirectory(prefix="mmbench-encoding-") as folder:
            return _encode(model, data, self.modality, self._dtype, Path(folder) / "values")

    def _make_features(self) -> dict[str, NDArray[Any]]:
        encoder, read = self.build()
        self.cache.root.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, NDArray[Any]] = {}
        neighbours, encode_s = Neighbours(self.device), 0.0
        # The files are unlinked while they are mapped; the cache copies them to their place.
        with tempfile.TemporaryDirectory(prefix=".encoding-", dir=self.cache.root) as folder:
            for split in SPLITS:
                model, data = self._model(split)
                began = time.perf_counter()
                found = _encode(model, data, self.modality, self._dtype, Path(folder) / split)
                encode_s += time.perf_counter() - began if split != "test" else 0.0
                arrays.update({f"{split}.{name}": array for name, array in found.items()})
                if (digests := read[split].digests) is not None:
                    arrays[f"{split}.digests"] = digests
                if split == "train":
                    arrays["mean"], arrays["std"] = moments(found, self._dtype)
        disturbed = SHARED_DEVICE if self.payload["contended"] else neighbours.reason()
        about = {
            "feature_dim": encoder.feature_dim,
            "ref": self.part["ref"],
            "modality": self.modality,
            "encode_s": encode_s,
            "disturbed": disturbed,
        }
        return {**arrays, "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}

    def _model(self, split: Split) -> tuple[MultimodalModel, SplitData]:
        return self._model_of(self.build()[1][split])

    def _model_of(self, column: Column) -> tuple[MultimodalModel, SplitData]:
        """The encoder alone as a model, so that its promises are checked as in any cell."""
        encoder, _ = self.build()
        model = MultimodalModel({self.modality: encoder}, {self.modality: self.part["layout"]}, _Nothing(), ())
        return model.eval(), SplitData({self.modality: column}, {}, self.device, resident_bytes=0)

    def build(self) -> tuple[nn.Module, Mapping[Split, Column]]:
        """Return the encoder itself, in evaluation mode on the device, and what its transform makes of the data."""
        if self._built is None:
            # What it draws at random depends on the encoder alone, whatever cell asks.
            seed = derive_seed("frozen", self.part["digest"], self.modality)
            encoder = build_encoder(self.source.modality(self.modality), self.part, seed, self.warnings)
            columns = read_inputs(self.source, self.modality, encoder, self.part, self.warnings)
            with guarded_globals(self.warnings):
                encoder.to(self.device)
                # The whole training set, whatever part of it a cell trains on.
                data = SplitData({self.modality: columns["train"]}, {}, self.device, resident_bytes=0)
                data.fit_encoder(self.modality, encoder)
            self._built = encoder.eval(), columns
        return self._built


class _Nothing(nn.Module):
    """A fusion for a model that only encodes."""

    fused_dim = 1


@torch.inference_mode()
def _encode(model: MultimodalModel, data: SplitData, modality: str, dtype: str, file: Path) -> dict[str, NDArray[Any]]:
    """Encode a split batch by batch into a file, so that memory does not grow with the dataset."""
    lengths: list[NDArray[np.int64]] = []
    present: list[NDArray[np.bool_]] = []
    stored, width, layout = np.dtype(np.float32), 0, "vector"
    with file.open("wb") as stream:
        for batch in data.in_order(BATCH_SIZE.get(data.device.type, 8)):
            features = model.encode(batch)[modality]
            values, layout = features.tensor, features.layout
            here = features.present
            if layout == "sequence":
                lengths.append(features.token_mask.sum(dim=1).cpu().numpy())
                values = values[features.token_mask]  # (B, T, D) -> (sum T, D): real tokens only
            else:
                values = values.masked_fill(~here.unsqueeze(1), 0.0)
            present.append(here.cpu().numpy())
            array = _to_numpy(values, dtype, model.encoders[0], modality)
            array.tofile(stream)
            stored, width = array.dtype, array.shape[1]
    joined = np.fromfile(file, dtype=stored) if not file.stat().st_size else np.memmap(file, dtype=stored, mode="r")
    flat = joined.reshape(-1, width)
    found = {"present": np.concatenate(present)}
    if layout == "vector":
        return {**found, "values": flat}
    counts = np.concatenate(lengths)
    if len(set(counts.tolist())) == 1 and counts[0]:
        return {**found, "values": flat.reshape(len(counts), int(counts[0]), width)}
    return {**found, "values": flat, "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)}


def moments(found: Mapping[str, NDArray[Any]], dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and standard deviation of every feature over all present samples or real tokens: two of (D,) float32.

    Args:
        found: ``values``, ``present`` and maybe ``offsets``, as in `Column`.
        dtype: As the values are stored: "fp32", "fp16" or "bf16" (which travels as int16).
    """
    values = found["values"]
    flat = values.reshape(-1, values.shape[-1])
    # An absent vector is stored as zeros, an absent sequence as no rows at all.
    is_vector = values.ndim == 2 and "offsets" not in found
    rows = np.flatnonzero(found["present"]) if is_vector else np.arange(len(flat))
    count, total, squares = 0, np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
    shift: NDArray[Any] | None = None
    for start in range(0, len(rows), 4096):
        chunk = torch.from_numpy(np.array(flat[rows[start : start + 4096]]))
        part = (chunk.view(torch.bfloat16) if dtype == "bf16" else chunk).double().numpy()
        shift = part.mean(axis=0) if shift is None else shift  # so that squares of large means do not cancel
        count, total, squares = count + len(part), total + (part - shift).sum(0), squares + ((part - shift) ** 2).sum(0)
    if shift is None:
        return np.zeros(flat.shape[1], np.float32), np.ones(flat.shape[1], np.float32)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    return (shift + mean).astype(np.float32), np.sqrt(variance).astype(np.float32)


def _to_numpy(values: Tensor, dtype: str, encoder: nn.Module, modality: str) -> NDArray[Any]:
    kept = values.to(_DTYPES[dtype])
    if not bool(torch.isfinite(kept).all()):
        if bool(torch.isfinite(values).all()):
            raise DataError(f"features of {modality!r} do not fit {dtype}; use feature_dtype=bf16 or fp32")
        raise DataError(f"the frozen encoder {type(encoder).__name__} of {modality!r} gives NaN or infinity")
    array: NDArray[Any] = (kept.view(torch.int16) if dtype == "bf16" else kept).cpu().numpy()
    return np.ascontiguousarray(array)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
