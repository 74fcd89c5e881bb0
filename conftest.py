"""Test configuration shared by the core and the plugin packages."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ordinary", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("thorough", settings.get_profile("ordinary"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Device locks hold for the whole machine: measuring tests of one worker would wait for those of the others.
    locks = Path(os.environ.get("MMBENCH_LOCKS") or tempfile.gettempdir()) / f"mmbench-locks-{os.getppid()}-{worker}"
    locks.mkdir(parents=True, exist_ok=True)
    os.environ["MMBENCH_LOCKS"] = str(locks)
    # Read when torch is imported. Workers already use every core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
