"""What a GPU draws, by NVML's counter."""

from __future__ import annotations

import torch

from mmbench.profiling.device import nvml_handle


class EnergyCounter:
    """NVML's count of what a GPU has drawn since its driver was loaded.

    Attributes:
        reason: Why there is none; "" where there is.
    """

    def __init__(self, device: torch.device) -> None:
        self._handle, self.reason = nvml_handle(device)
        if self._handle is None:
            return
        import pynvml

        try:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except pynvml.NVMLError as error:
            self._handle, self.reason = None, f"NVML: {error}"

    def joules(self) -> float | None:
        """Return the count now, or None."""
        if self._handle is None:
            return None
        import pynvml

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
