"""The device as a measurement meets it: its name, its state before and after, and who else computes on it meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from mmbench.environment import cpu_name, usable_cpus

#: Others that keep more than this share of the processors busy disturb what is measured.
MAX_OTHERS_SHARE = 0.1
#: The kernel counts processor time in hundredths of a second: a shorter window says nothing.
MIN_WINDOW_SECONDS = 0.1


def hardware_name(device: torch.device) -> str:
    """Return what computes, as the makers call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def driver_version(device: torch.device) -> str:
    """Return the version of the GPU's driver; "" on a CPU and where NVML does not say."""
    handle, _ = nvml_handle(device)
    if handle is None:
        return ""
    import pynvml

    version = pynvml.nvmlSystemGetDriverVersion()
    return version.decode() if isinstance(version, bytes) else str(version)


def nvml_handle(device: torch.device) -> tuple[Any, str]:
    """Return NVML's handle of a device, or None and why there is none."""
    if device.type != "cuda":
        return None, f"NVML knows NVIDIA GPUs only; this ran on {device.type}"
    try:
        import pynvml
    except ImportError:
        return None, "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        # By its identity: CUDA_VISIBLE_DEVICES renumbers devices for torch, but not for NVML.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml.nvmlDeviceGetHandleByUUID(uuid), ""
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"


def device_state(device: torch.device) -> dict[str, Any]:
    """Return clocks (Hz), temperature (°C), power (W), throttle reasons and load now; null with a reason each."""
    return _gpu_state(device) if device.type == "cuda" else _cpu_state()


def device_used_bytes(device: torch.device) -> tuple[float | None, str]:
    """Return what all processes hold of a GPU's memory, or None and why nobody says."""
    handle, reason = nvml_handle(device)
    if handle is None:
        return None, reason
    import pynvml

    try:
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used), ""
    except pynvml.NVMLError as error:  # a GPU that shares the host's memory has none of its own to tell of
        return None, f"NVML: {error}"


class Neighbours:
    """Watches who else computes on a device from its making on.

    Args:
        device: Which.
        num_waiting: Others that hold the GPU without computing, as they wait for their turn.
    """

    def __init__(self, device: torch.device, num_waiting: int = 0) -> None:
        self.device, self.num_waiting = device, num_waiting
        self._began = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def reason(self) -> str:
        """Return who computed on the device since, in words; "" for nobody worth mentioning."""
        if self.device.type == "cuda":
            return self._on_gpu()
        window = time.perf_counter() - self._began
        if window < MIN_WINDOW_SECONDS:
            return ""
        others = (_busy_seconds() - self._busy - (_own_seconds() - self._own)) / window
        cpus = usable_cpus()
        if others <= MAX_OTHERS_SHARE * cpus:
            return ""
        return f"contended: others kept {others:.1f} of {cpus} CPUs busy"

    def _on_gpu(self) -> str:
        handle, _ = nvml_handle(self.device)
        if handle is None:
            return ""
        import pynvml

        try:
            count = len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except pynvml.NVMLError:
            return ""
        # Numbers of processes mean nothing across containers; that there is more than this one does.
        others = count - 1 - self.num_waiting
        return f"contended: {others} other process(es) held the GPU" if others > 0 else ""


def _busy_seconds() -> float:
    """Processor time that everybody used of the processors that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    busy = 0.0
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        if allowed is None or number in allowed:
            idle = times.idle + getattr(times, "iowait", 0.0)
            guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # part of user already
            busy += sum(times) - idle - guests
    return busy


def _own_seconds() -> float:
    ours = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in ours)


def _cpu_state() -> dict[str, Any]:
    frequency = None
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError):  # containers hide these files
        frequency = psutil.cpu_freq()
    heat = {}
    with contextlib.suppress(OSError, AttributeError):  # psutil has this on some systems only
        heat = psutil.sensors_temperatures()
    hottest = max((item.current for group in heat.values() for item in group), default=None)
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    notes = {}
    if frequency is None or not frequency.current:
        notes["clock_hz"] = "the system does not say"
    if hottest is None:
        notes["temperature_c"] = "no sensor can be read"
    notes["power_w"] = notes["throttle_reasons"] = "read by NVML, for NVIDIA GPUs only"
    return {
        "clock_hz": frequency.current * 1e6 if frequency and frequency.current else None,
        "temperature_c": hottest,
        "power_w": None,
        "throttle_reasons": None,
        "governor": governor.read_text().strip() if governor.is_file() else None,
        "load_average": list(os.getloadavg()),
        "notes": notes,
    }


def _gpu_state(device: torch.device) -> dict[str, Any]:
    handle, reason = nvml_handle(device)
    names = ("clock_hz", "memory_clock_hz", "temperature_c", "power_w", "throttle_reasons")
    found: dict[str, Any] = dict.fromkeys(names)
    if handle is None:
        return {**found, "notes": dict.fromkeys(names, reason)}
    import pynvml

    read = {
        "clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6,
        "memory_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 1e6,
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "throttle_reasons": lambda: _throttle_words(pynvml, handle),
    }
    notes = {}
    for name, ask in read.items():
        try:
            found[name] = ask()
        except pynvml.NVMLError as error:
            notes[name] = f"NVML: {error}"
    return {**found, "notes": notes}


def _throttle_words(nvml: Any, handle: Any) -> list[str]:
    """Return why the clocks are lower than they could be, as NVML's constants are named."""
    bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    prefix = "nvmlClocksThrottleReason"
    known = {
        name.removeprefix(prefix): value
        for name, value in vars(nvml).items()
        if name.startswith(prefix) and isinstance(value, int) and value and value & (value - 1) == 0
    }
    return sorted(name for name, value in known.items() if bits & value)
