"""Batches as index gathers: data held on the device when they fit, read ahead by a thread when they do not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench.columns import Column
from mmbench.errors import DataError
from mmbench.model import Batch, Input

#: Share of free memory that one cell's data may take before they are streamed instead.
RESIDENT_SHARE = 0.25


@dataclass(frozen=True)
class _Held:
    """One modality of one split, ready to be gathered from.

    Attributes:
        values: (N, …) or padded (N, T, …), on the device; or the flat array on disk when it is streamed.
        lengths: (N,) on the CPU; None when all samples have one shape.
        offsets: (N + 1,) into a flat array on disk; None otherwise.
        present: (N,) on the CPU; None when every sample has the modality.
    """

    values: Tensor | NDArray[Any]
    lengths: NDArray[np.int64] | None
    offsets: NDArray[np.int64] | None
    present: NDArray[np.bool_] | None


class SplitData:
    """One split of a dataset after the encoders' transforms.

    Args:
        columns: By modality; may be empty where there are targets.
        targets: By task: (N,) int64 or (N, K) float32, float64 of a regression; may be empty where there are columns.
        device: Where batches are wanted.
        resident_bytes: Columns larger than this stay on disk and are streamed.
        subset: Positions of the samples to keep; None keeps all.
        ids, groups: Of the samples, before any are left out; empty where nobody asks for them, or there are no groups.
        weights: (N,) of the samples' losses, before any are left out; None where all are 1.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        targets: Mapping[str, NDArray[Any]],
        device: torch.device,
        *,
        resident_bytes: int | None = None,
        subset: NDArray[np.int64] | None = None,
        ids: Sequence[str] = (),
        groups: Sequence[str] = (),
        weights: NDArray[Any] | None = None,
    ) -> None:
        self.device = device
        chosen = weights if weights is None or subset is None else weights[subset]
        self.weights = None if chosen is None else torch.from_numpy(np.array(chosen, dtype=np.float32)).to(device)
        self.subset = subset
        self._ids = ids
        self._groups = groups
        budget = free_bytes(device) * RESIDENT_SHARE if resident_bytes is None else resident_bytes
        self._held = {}
        for name, column in columns.items():
            self._held[name] = _hold(column, device, budget)
            if isinstance(self._held[name].values, Tensor):
                budget -= self._held[name].values.nbytes
        self.targets = {
            name: torch.from_numpy(np.array(values if subset is None else values[subset])).to(device)
            for name, values in targets.items()
        }
        sized: Mapping[str, NDArray[Any] | Column] = targets or columns
        self._num_samples = len(next(iter(sized.values())))

    def __len__(self) -> int:
        return self._num_samples if self.subset is None else len(self.subset)

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids of the samples, in their order."""
        return tuple(self._ids if self.subset is None else (self._ids[position] for position in self.subset))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the samples' groups, in their order; empty where there are none."""
        chosen = range(len(self._groups)) if self.subset is None or not self._groups else self.subset
        return tuple(self._groups[position] for position in chosen)

    @property
    def resident(self) -> bool:
        """Whether every modality lies on the device."""
        return all(isinstance(held.values, Tensor) for held in self._held.values())

    def batch(self, index: Tensor) -> Batch:
        """Gather samples.

        Args:
            index: (B,) int64 on the CPU, positions within this split.
        """
        # Nothing in here waits for the device: what is copied to it leaves the host without looking back.
        rows = index.numpy() if self.subset is None else self.subset[index.numpy()]
        on_device = index.to(self.device, non_blocking=True)
        source = on_device if self.subset is None else self._sent(torch.from_numpy(rows))
        inputs = {name: self._gather(held, rows, source) for name, held in self._held.items()}
        targets = {name: values.index_select(0, on_device) for name, values in self.targets.items()}
        return Batch(size=len(index), inputs=inputs, targets=targets, rows=on_device)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield batches of the samples at these positions, (N,), cut by `split_order`."""
        return self.gathered(split_order(order, batch_size))

    def gathered(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield a batch for the positions in each chunk; streamed ones are read ahead."""
        if self.resident:
            return map(self.batch, chunks)
        return _ahead(map(self.batch, chunks))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in the split's own order."""
        return self.batches(torch.arange(len(self)), batch_size)

    def present(self, modality: str) -> NDArray[np.bool_]:
        """Return which samples have a modality: (N,)."""
        here = self._held[modality].present
        if here is None:
            return np.ones(len(self), dtype=np.bool_)
        return np.array(here if self.subset is None else here[self.subset])

    def single(self) -> Batch:
        """Return the first sample that has every modality, or the first of all where none has."""
        complete = np.logical_and.reduce([self.present(name) for name in self._held])
        return self.batch(torch.tensor([complete.argmax()]))

    def fit_encoder(self, modality: str, encoder: nn.Module) -> None:
        """Let an encoder that has constants to `fit` see samples of its modality."""
        fit = getattr(encoder, "fit", None)
        if callable(fit):
            fit(*self.fit_inputs(modality))

    def fit_inputs(self, modality: str, max_samples: int = 1024) -> tuple[Tensor, Tensor | None]:
        """Return evenly spread present samples of one modality, for an encoder's `fit`."""
        held = self._held[modality]
        rows = np.arange(self._num_samples) if self.subset is None else self.subset
        if held.present is not None:
            rows = rows[held.present[rows]]
        if len(rows) > max_samples:
            rows = rows[np.linspace(0, len(rows) - 1, max_samples).astype(np.int64)]
        given = self._gather(held, rows, self._sent(torch.from_numpy(rows)))
        return given.values, given.mask

    def _sent(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def _gather(self, held: _Held, rows: NDArray[np.int64], on_device: Tensor) -> Input:
        positions = None
        if held.present is not None and not held.present[rows].all():
            here = np.flatnonzero(held.present[rows])
            rows = rows[here]
            positions = self._sent(torch.from_numpy(here))
            on_device = self._sent(torch.from_numpy(rows))
        if held.lengths is None:
            if isinstance(held.values, Tensor):
                return Input(held.values.index_select(0, on_device), None, positions)
            return Input(self._sent(torch.from_numpy(held.values[rows])), None, positions)
        lengths = held.lengths[rows]
        longest = max(int(lengths.max(initial=0)), 1)
        if isinstance(held.values, Tensor):
            values = held.values.narrow(1, 0, longest).index_select(0, on_device)
        else:
            assert held.offsets is not None
            values = self._sent(_padded(held.values, held.offsets, rows, longest))
        mask = torch.arange(longest)[None, :] < torch.from_numpy(lengths)[:, None]
        return Input(values, self._sent(mask), positions)


def split_order(order: Tensor, batch_size: int, *, min_size: int = 1) -> list[Tensor]:
    """Cut positions (N,) into batches; a last one smaller than `min_size` is left out, unless it is all there is.

    >>> [len(chunk) for chunk in split_order(torch.arange(5), 2, min_size=2)]
    [2, 2]
    """
    return [chunk for chunk in order.split(batch_size) if len(chunk) >= min(min_size, len(order))]


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def some_of(count: int, total: int) -> list[int]:
    """Return ascending positions of a fixed random choice: evenly spread ones would meet only one class of a cycle."""
    if count >= total:
        return list(range(total))
    chosen: list[int] = np.sort(np.random.default_rng(0).permutation(total)[:count]).tolist()
    return chosen


def limited(num_samples: int, limit: int) -> NDArray[np.int64] | None:
    """Return the positions of a fixed random subset, or None for everything."""
    if not limit or limit >= num_samples:
        return None
    return np.array(some_of(limit, num_samples), dtype=np.int64)


def complete(columns: Mapping[str, Column], subset: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the positions, of a subset or of all, whose samples have every modality.

    Raises:
        DataError: there is none.
    """
    here = np.logical_and.reduce([column.present for column in columns.values()])
    found = np.flatnonzero(here) if subset is None else subset[here[subset]]
    if not len(found):
        raise DataError(
            f"missing=drop leaves no training sample: none has all of {', '.join(columns)}; choose another policy"
        )
    return found.astype(np.int64)


def _hold(column: Column, device: torch.device, budget: float) -> _Held:
    present = None if column.present.all() else np.array(column.present)
    if column.offsets is None:
        fits = column.values.nbytes <= budget
        values = torch.from_numpy(np.array(column.values)).to(device) if fits else column.values
        return _Held(values, None, None, present)
    offsets = np.array(column.offsets)
    lengths = np.diff(offsets)
    longest = max(int(lengths.max(initial=0)), 1)
    padded_bytes = len(column) * longest * column.values[:1].nbytes
    if padded_bytes > budget:
        return _Held(column.values, lengths, offsets, present)
    values = _padded(column.values, offsets, np.arange(len(column)), longest).to(device)
    return _Held(values, lengths, offsets, present)


def _padded(flat: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[np.int64], longest: int) -> Tensor:
    """Lay samples of a flat array out with zeros behind them: (sum T, …) -> (B, longest, …)."""
    out = np.zeros((len(rows), longest, *flat.shape[1:]), dtype=flat.dtype)
    for position, row in enumerate(rows):
        begin, end = offsets[row], offsets[row + 1]
        out[position, : end - begin] = flat[begin:end]
    return torch.from_numpy(out)


def _ahead(batches: Iterator[Batch], depth: int = 2) -> Iterator[Batch]:
    """Make batches in a thread, a few ahead of the one in use."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # raised again where the batches are used
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
