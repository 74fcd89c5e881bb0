"""Kill processes of `mmbench run` at random moments, with room on the disk and without, and compare what is exported.

python tests/kill_moments.py --moments 200 --folder /scratch
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

GRID = (
    "run", "-d", "xor", "-f", "concat", "-f", "sum", "--no-baselines", "--seeds", "4", "--epochs", "1",
    "--protocol", "none", "--diagnostics", "none", "-j", "2", "--run", "chaos",
)  # fmt: skip
NUM_CELLS = 8
KILLS_OF_A_RUN = 10
_PAUSE_S = (0.0, 2.0)
#: Which process is killed next. Cells cost least: what was imported for them stays.
_VICTIMS = ("cell", "cell", "server", "parent", "any")
_MOST_CALLS = 60  # of one run: a run that never completes is a fault
_CALL_LIMIT_S = 900
_ORPHAN_LIMIT_S = 30


@dataclass
class Tally:
    """What was done to the runs.

    Attributes:
        kills: Kills by the kind of process.
        num_runs: Runs that were completed in the end.
        num_calls: Commands that were given for them.
        num_full: Kills while the disk was full.
        num_refused: Commands that ended by themselves while the disk was full.
    """

    kills: Counter[str] = field(default_factory=Counter)
    num_runs: int = 0
    num_calls: int = 0
    num_full: int = 0
    num_refused: int = 0


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from mmbench.cli import main; main()", *words]


def exported(results: Path) -> list[dict[str, str]]:
    """Return the rows of a run that do not depend on when and where a cell ran."""
    done = subprocess.run(
        command("export", "chaos", "--results", str(results)), capture_output=True, text=True, check=True
    )
    rows = csv.DictReader(io.StringIO(done.stdout))
    return [row for row in rows if row["phase"] != "profile" and row["unit"] not in ("s", "samples/s", "bytes")]


def processes(parent: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the living processes of a run by kind: the parent, its server, cells, and whatever else it started."""
    found: dict[str, list[psutil.Process]] = {"parent": [parent]}
    with suppress(psutil.Error):
        for child in parent.children():
            with suppress(psutil.Error):
                is_server = "mmbench.executors.server" in " ".join(child.cmdline())
                found.setdefault("server" if is_server else "other", []).append(child)
                if is_server:
                    found.setdefault("cell", []).extend(child.children(recursive=True))
    return {kind: members for kind, members in found.items() if members}


def check_gone(members: Sequence[psutil.Process]) -> None:
    """Check that no process of a run outlives its parent."""
    _, alive = psutil.wait_procs(members, timeout=_ORPHAN_LIMIT_S)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], f"processes are left: {alive}"


@contextmanager
def full(disk: Path | None) -> Iterator[None]:
    """Leave no room on a disk."""
    if disk is None:
        yield
        return
    ballast = disk / "ballast.bin"
    try:
        with ballast.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"x" * 4096)
        yield
    finally:
        ballast.unlink()


def call(results: Path, source: random.Random, kills_left: int, tally: Tally, disk: Path | None) -> int | None:
    """Give the command once and kill its processes; return its exit code, None where it was killed.

    Args:
        disk: What is full for as long as this call lasts; None for one that has room.
    """
    tally.num_calls += 1
    with full(disk), (results / "log.txt").open("ab") if disk is None else open(os.devnull, "wb") as log:  # noqa: PTH123
        process = subprocess.Popen(
            command(*GRID, "--results", str(results), "--retry", "killed"), stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        parent = psutil.Process(process.pid)
        try:
            while kills_left > 0:
                wanted = source.choice(_VICTIMS)
                pause_s, alive = source.uniform(*_PAUSE_S), processes(parent)
                while pause_s > 0 or not (wanted == "any" or wanted in alive):
                    with suppress(subprocess.TimeoutExpired):
                        return process.wait(min(max(pause_s, 0.02), 0.2))
                    pause_s -= 0.2
                    alive = processes(parent)
                kind = wanted if wanted in alive else source.choice(sorted(alive))
                victim = source.choice(alive[kind])
                with suppress(psutil.Error):
                    victim.send_signal(signal.SIGKILL)
                    tally.kills[kind] += 1
                    tally.num_full += disk is not None
                    kills_left -= 1
                if kind == "parent":
                    process.wait()
                    check_gone([each for members in alive.values() for each in members if each.pid != process.pid])
                    return None
            return process.wait(_CALL_LIMIT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def kill_at_random(folder: Path, moments: int, seed: int = 0, disk: Path | None = None) -> Tally:
    """Kill processes of run after run; every run is completed by the same command and exports the same.

    Args:
        folder: For the results.
        moments: How many processes are killed in all.
        seed: Of the moments.
        disk: A small file system for the results, which is full in every other call; None where there is always room.
    """
    source = random.Random(seed)
    tally = Tally()
    whole = folder / "whole"
    whole.mkdir(parents=True)
    assert call(whole, source, 0, Tally(), None) == 0, (whole / "log.txt").read_text()
    expected = exported(whole)
    assert len({row["cell_id"] for row in expected if row["status"] == "ok"}) == NUM_CELLS
    while tally.kills.total() < moments:
        results = (disk or folder) / f"killed{tally.num_runs}"
        results.mkdir()
        before = tally.kills.total()
        for number in range(_MOST_CALLS):
            left = min(moments, before + KILLS_OF_A_RUN) - tally.kills.total()
            ended = call(results, source, left, tally, disk if number % 2 == 1 and left > 0 else None)
            if ended == 0:
                assert exported(results) == expected, f"another table after {tally}"
                break
            tally.num_refused += ended is not None
        else:
            raise AssertionError(f"the run was not completed by {_MOST_CALLS} calls")
        check_left_overs(results)
        tally.num_runs += 1
        if disk is not None:
            subprocess.run(["rm", "-r", str(results)], check=True)
    return tally


def check_left_overs(results: Path) -> None:
    """Check that a completed run holds no folder of an attempt that was killed, and no line that is damaged."""
    from mmbench.store import RunStore

    store = RunStore.open(results / "chaos")
    assert len(list(store.journal)) >= NUM_CELLS
    names = sorted(path.name for path in (results / "chaos" / "cells").iterdir())
    assert [name for name in names if name.startswith(".")] == []
    assert len(names) == NUM_CELLS


def main() -> None:
    """Kill with room and without, half of the moments each, and print the tallies."""
    from own_disk import mounted

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    begun = time.monotonic()
    print("with room:", kill_at_random(options.folder / "room", options.moments // 2, options.seed), flush=True)  # noqa: T201
    with mounted(options.folder / "disk", "3m") as disk:
        tally = kill_at_random(options.folder / "full", options.moments - options.moments // 2, options.seed + 1, disk)
    print("full disk:", tally, f"{time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
