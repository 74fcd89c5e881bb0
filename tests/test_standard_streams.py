"""Output that cannot be written ends no run, leaves no traceback and is reported in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.store import RunStore

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="bash closes and redirects descriptors, which runs on Linux and macOS"
)
FULL = "error: standard output cannot be written: No space left on device; make room, or send it elsewhere\n"
RUN = (
    "run -d xor -f concat --no-baselines --seeds 1 --epochs 1 --protocol none --diagnostics none --run streams "
    "--executor inline"
)


def mmbench(arguments: str, redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from mmbench.cli import main; main()"
    line = f"{sys.executable} -c '{code}' {arguments} {redirection}"
    environment = {**os.environ, "MMBENCH_CACHE": str(folder / "cache")}
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    with RunStore.create(tmp_path / "results" / "kept") as store:
        store.write_run({"argv": ["run"]})
        store.write_plan([])
    return tmp_path


@pytest.mark.parametrize(
    ("command", "redirection", "code", "said"),
    [
        ("export kept", ">&-", 0, ""),
        ("plan -d xor -f sum --json", ">&- 2>&- <&-", 0, ""),
        ("list fusions", "> /dev/full", 1, FULL),
        ("list fusions --json", "> /dev/full", 1, FULL),
        ("export kept", "> /dev/full", 1, FULL),
        ("show nothing", "2> /dev/full", 2, ""),
    ],
)
def test_commands_that_print_end_in_a_sentence_or_in_nothing(
    run_folder: Path, command: str, redirection: str, code: int, said: str
) -> None:
    done = mmbench(command, redirection, run_folder)

    assert (done.returncode, done.stderr) == (code, said)


def test_a_pipe_that_nobody_reads_ends_a_command_without_a_word(run_folder: Path) -> None:
    done = mmbench("list", "| true", run_folder)

    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [("> /dev/full", 1, FULL), ("> /dev/full 2> /dev/full", 1, ""), ("| true", 0, ""), (">&- 2>&- <&-", 0, "")],
)
def test_a_run_goes_on_whatever_becomes_of_its_output(tmp_path: Path, redirection: str, code: int, said: str) -> None:
    done = mmbench(RUN, redirection, tmp_path)

    assert (done.returncode, done.stderr) == (code, said)
    store = RunStore.open(tmp_path / "results" / "streams")
    assert [state.status for state in store.states().values()] == ["ok"]
    assert store.journal.num_damaged == 0
    assert (store.folder / "report" / "report.html").is_file()
