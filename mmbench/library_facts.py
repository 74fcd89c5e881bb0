"""What the numerical libraries of a process are: CUDA, cuDNN, BLAS and the CPU instructions that they use."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any


def library_facts() -> dict[str, Any]:
    """Return facts about torch and numpy as plain JSON; imports both, so it runs where cells do.

    What cannot be found out is left out.
    """
    facts: dict[str, Any] = {}
    with suppress(Exception):  # a broken installation is reported elsewhere
        facts |= _of_torch()
    with suppress(Exception):
        facts |= _of_numpy()
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _of_torch() -> dict[str, Any]:
    import torch

    build = torch.__config__.show()
    blas, mkl = re.search(r"BLAS_INFO=([\w-]+)", build), re.search(r"Math Kernel Library Version ([\w.-]+)", build)
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {
        "torch_commit": torch.version.git_version,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "cudnn": _cudnn_words(cudnn),
        "torch_blas": " ".join(found[1] for found in (blas, mkl) if found),
        "onednn": torch.backends.mkldnn.is_available(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _cudnn_words(version: int | None) -> str | None:
    """Return cuDNN's number as it is written, from 9 on with two more digits: 91002 is 9.10.2, 8905 is 8.9.5."""
    if version is None:
        return None
    major = 10_000 if version >= 90_000 else 1_000
    return f"{version // major}.{version % major // 100}.{version % 100}"


def _of_numpy() -> dict[str, Any]:
    import numpy as np

    found: Any = np.show_config(mode="dicts")
    blas = found["Build Dependencies"]["blas"]
    return {"numpy_blas": f"{blas['name']} {blas['version']}"}


def main() -> None:
    """Print the facts as JSON."""
    print(json.dumps(library_facts()))  # noqa: T201


if __name__ == "__main__":
    main()
