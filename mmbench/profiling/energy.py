"""What a GPU draws, by NVML's counter."""

from __future__ import annotations

from typing import Any

import torch


class EnergyCounter:
    """NVML's count of what a GPU has drawn since its driver was loaded.

    Attributes:
        reason: Why there is none; "" where there is.
    """

    def __init__(self, device: torch.device) -> None:
        self._handle: Any = None
        self.reason = ""
        if device.type != "cuda":
            self.reason = f"only NVML counts energy, for NVIDIA GPUs; this ran on {device.type}"
            return
        try:
            import pynvml
        except ImportError:
            self.reason = "the package nvidia-ml-py is not installed"
            return
        try:
            pynvml.nvmlInit()
            # By its identity: CUDA_VISIBLE_DEVICES renumbers devices for torch, but not for NVML.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except pynvml.NVMLError as error:
            self._handle, self.reason = None, f"NVML: {error}"

    def joules(self) -> float | None:
        """Return the count now, or None."""
        if self._handle is None:
            return None
        import pynvml

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
