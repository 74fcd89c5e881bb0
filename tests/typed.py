"""The command line as people type it: in a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def command(folder, *arguments):
    """Return what `subprocess` is given for `mmbench ARGUMENTS` in a folder that holds its caches too."""
    caches = {"MMBENCH_CACHE": str(folder / "cache"), "MMBENCH_DATA": str(folder / "data")}
    return {
        "args": [sys.executable, "-m", "mmbench.cli", *arguments],
        "cwd": folder,
        "text": True,
        "env": {**os.environ, **caches, "COLUMNS": "200"},
    }


def mmbench(folder, *arguments):
    """Run a command to its end."""
    return subprocess.run(**command(folder, *arguments), capture_output=True, timeout=500)
