"""Functions of cells for the tests of the Ray executor."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from mmbench.record import Metric


def _result(value: float, **info: Any) -> dict[str, Any]:
    return {"metrics": [Metric(phase="evaluate", split="test", name="accuracy", value=value).to_json()], "info": info}


def leaves_files(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "small.txt").write_text("small")
    (folder / "empty.bin").touch()
    (folder / "large.bin").write_bytes(bytes(range(256)) * (payload["large_bytes"] // 256))
    (folder / "link").symlink_to("/etc/hostname")
    return _result(payload["n"] ** 2, devices=os.environ.get("CUDA_VISIBLE_DEVICES"), cwd=str(Path.cwd()))


def says_that_it_began(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Leave a file named after this process where the test looks, and take so long, or until there is a file."""
    (Path(payload["began"]) / str(os.getpid())).touch()
    end = time.monotonic() + payload["sleep_s"]
    while time.monotonic() < end and not ("go" in payload and Path(payload["go"]).exists()):
        time.sleep(0.02)
    return _result(1, devices=os.environ.get("CUDA_VISIBLE_DEVICES"))


def raises(payload: dict[str, Any], folder: Path) -> None:
    sys.stdout.write("before it raised\n")
    raise ValueError("5 heads do not divide 96")
