"""Seed each fault of `faults.py` in a copy of the sources and run the tests that cover it, until one fails.

    python tests/mutation/sample.py [--tree CHECKOUT] [--only NUMBER ...] [--jobs 2] [--markers "not full"]

Prints a Markdown table; exits with 1 where a fault is caught by no test. Another checkout than this one (`--tree`) has
to hold the lines; faults whose line it lacks are named as absent.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults import FAULTS, Fault

HERE = Path(__file__).resolve().parents[2]
LIMIT_S = 600


def copied(tree: Path, folder: Path) -> None:
    """Copy a checkout without what git ignores."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (tree / name).is_file() and not name.startswith("results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, folder / name)


def tested(folder: Path, tests: Sequence[str], markers: str) -> tuple[int, str]:
    """Run tests of a checkout in a fork until one fails; return pytest's exit code and the test that failed."""
    log = folder / "pytest.log"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _pytest(folder, log, ["-m", markers, *tests])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log.read_text(errors="replace"), flags=re.MULTILINE)
    return os.waitstatus_to_exitcode(status), failed[0] if failed else ""


def _pytest(folder: Path, log: Path, arguments: Sequence[str]) -> int:
    import pytest

    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sources = [str(folder), *map(str, sorted(folder.glob("plugins/*/src")))]
    # Before what is installed: processes that tests start import from here too.
    sys.path[:0] = sources
    os.environ.update(
        PYTHONPATH=os.pathsep.join(sources),
        PYTHONDONTWRITEBYTECODE="1",
        MMBENCH_CACHE=str(folder / ".cache"),
        MMBENCH_LOCKS=str(folder),
    )
    code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--timeout", str(LIMIT_S), *arguments]))
    sys.stdout.flush()
    return code


def preload() -> None:
    """Import what tests import beside mmbench, once for all forks."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a thread of OpenMP does not survive a fork
    for name in ("torch", "torchmetrics", "scipy.stats", "sklearn.metrics", "pandas", "hypothesis", "pytest"):
        importlib.import_module(name)
    loaded = [name for name in sys.modules if name.partition(".")[0].startswith("mmbench")]
    assert not loaded, f"{loaded} would be tested without the fault"


def outcome(fault: Fault, tree: Path, markers: str) -> str:
    """Return the test that catches a fault, or "", or why that cannot be said in parentheses."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copied(tree, folder)
        file = folder / fault.file
        text = file.read_text() if file.exists() else ""
        if text.count(fault.line) != 1:
            return f"(absent: the line stands there {text.count(fault.line)} times)"
        file.write_text(text.replace(fault.line, fault.becomes))
        # Slow tests only where the ordinary ones have found nothing.
        for chosen in (f"({markers}) and not slow", f"({markers}) and slow"):
            code, failed = tested(folder, fault.tests, chosen)
            if code == 1:
                file.write_text(text)
                if not failed or tested(folder, [failed], "slow or not slow")[0] != 0:
                    return f"(unclear: {failed or 'no test'} fails without the fault too)"
                return failed
            if code not in (0, 5):  # 5: no test was selected
                return f"(unclear: pytest ended with {code})"
    return ""


def _outcome(arguments: tuple[Fault, Path, str]) -> str:
    return outcome(*arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=HERE)
    parser.add_argument("--only", type=int, nargs="*", default=[])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--markers", default="not full")
    options = parser.parse_args()
    chosen = [(number, fault) for number, fault in enumerate(FAULTS, 1) if not options.only or number in options.only]
    print("| | file | line | becomes | caught by |\n|--:|---|---|---|---|")
    num_missed = 0
    preload()
    arguments = [(fault, options.tree.resolve(), options.markers) for _, fault in chosen]
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        found = pool.imap(_outcome, arguments)
        for (number, fault), caught in zip(chosen, found):
            cells = [f"`{' '.join(part.split())}`".replace("|", "\\|") for part in (fault.line, fault.becomes)]
            shown = caught.split("::")[-1] if caught and not caught.startswith("(") else caught or "**nothing**"
            num_missed += not caught or caught.startswith("(")
            print(f"| {number} | {Path(fault.file).name} | {cells[0]} | {cells[1]} | {shown} |", flush=True)
    return int(num_missed > 0)


if __name__ == "__main__":
    sys.exit(main())
