"""How busy this machine is: its processors and memory, and its GPUs where NVML tells of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU; what NVML does not tell of it is None.

    Attributes:
        name: As NVML calls it, with its number.
        percent: Of the last moment, how much a kernel ran.
        used_bytes, total_bytes: Its memory, whoever uses it.
    """

    name: str
    percent: float | None
    used_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """How busy a machine was since the look before.

    Attributes:
        cpu_percent: Of all processors that this process may use, 0 to 100.
        num_cpus: How many those are.
        used_bytes, total_bytes: Host memory.
        gpus: None where there are none, or where nvidia-ml-py is not installed.
    """

    cpu_percent: float
    num_cpus: int
    used_bytes: int
    total_bytes: int
    gpus: tuple[Gpu, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Utilisation:
        """Rebuild it; raises TypeError, KeyError or AttributeError when that cannot be done."""
        return cls(**{**data, "gpus": tuple(Gpu(**gpu) for gpu in data["gpus"])})


class Meter:
    """Measures; the first reading of the processors is of the time since the meter was made."""

    def __init__(self) -> None:
        # Where a process cannot be bound to processors, all are its own.
        self._processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        psutil.cpu_percent(percpu=True)
        self._nvml, self._handles = _open_nvml()

    def read(self) -> Utilisation:
        """Return how busy the machine was since the last reading."""
        each = psutil.cpu_percent(percpu=True)
        mine = [each[number] for number in self._processors if number < len(each)] or each
        memory = psutil.virtual_memory()
        return Utilisation(
            cpu_percent=sum(mine) / len(mine) if mine else 0.0,
            num_cpus=len(mine),
            used_bytes=memory.total - memory.available,
            total_bytes=memory.total,
            gpus=tuple(self._gpu(number, handle) for number, handle in enumerate(self._handles)),
        )

    def _gpu(self, number: int, handle: Any) -> Gpu:
        nvml = self._nvml
        assert nvml is not None
        name, percent, used, total = "GPU", None, None, None
        with suppress(nvml.NVMLError):
            told = nvml.nvmlDeviceGetName(handle)
            name = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
        with suppress(nvml.NVMLError):  # a slice of a GPU (MIG) has none
            percent = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            used, total = int(memory.used), int(memory.total)
        return Gpu(name=f"{name} {number}", percent=percent, used_bytes=used, total_bytes=total)


def _open_nvml() -> tuple[ModuleType | None, list[Any]]:
    try:
        import pynvml
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver, or none that answers
        return None, []
