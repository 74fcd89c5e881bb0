"""What cannot be imported is found before the first cell, whatever its import does to the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbench.executors.inline import InlineExecutor
from mmbench.executors.local import LocalExecutor
from mmbench.preflight import Broken, Report, check_components
from mmbench.reasons import Reasons
from mmbench.record import Record
from mmbench.registry import Entry
from mmbench.spec import FusionSpec

FUSION = "class Fusion:\n    pass\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules, first on the path of this process and of its children."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def executor(site: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(preload=()) as made:
        yield made


def entry(site: Path, name: str, source: str, requires: tuple[str, ...] = ()) -> Entry:
    """Write a module with a fusion, and return it as a plugin offers it."""
    (site / f"{name}.py").write_text(source + FUSION)
    spec = FusionSpec(name=name.replace("_", "-"), factory=f"{name}:Fusion", version="1", requires=requires)
    return Entry(spec=spec, dist="one", dist_version="1.0", plugin="one")


def only(report: Report) -> Broken:
    (broken,) = report.broken
    return broken


def test_code_that_can_be_imported_is_not_mentioned(site: Path, executor: LocalExecutor) -> None:
    assert check_components([entry(site, "fine", ""), entry(site, "too", "")], executor) == Report()


@pytest.mark.parametrize(
    "words",
    [
        "libx.so: failed to map segment from shared object",
        "[Errno 12] Cannot allocate memory",
        "[Errno 24] Too many open files",
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_a_package(site: Path, executor: LocalExecutor, words: str) -> None:
    broken = only(check_components([entry(site, "lacks", f"raise ImportError({words!r})\n")], executor))

    assert words in broken.problem
    assert broken.hint.startswith("make room, or raise the limits of memory")


def test_nothing_is_started_for_nothing(site: Path) -> None:
    assert check_components([], object()) == Report()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            "import no_such_module_at_all\n",
            "needs the package 'no_such_module_at_all': pip install no_such_module_at_all",
        ),
        ("raise RuntimeError('this GPU is too old')\n", "RuntimeError: this GPU is too old"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("import os\nos._exit(0)\n", "exit code 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV (Segmentation fault) ended the process"),
        ("while True:\n    pass\n", "it took longer than 2 s to import"),
        ("import os\nif os.fork():\n    raise ValueError('I am two')\n", "ValueError: I am two"),
    ],
)
def test_an_import_that_fails_costs_its_own_component_only(
    site: Path, executor: LocalExecutor, source: str, problem: str
) -> None:
    entries = [entry(site, "before", ""), entry(site, "sick", source), entry(site, "after", "")]

    broken = only(check_components(entries, executor, limit_s=2))

    assert broken.refs == ("one/sick",)
    assert broken.subject == "fusion one/sick"
    assert problem in broken.problem


def test_an_import_may_print_without_end(site: Path, executor: LocalExecutor) -> None:
    loud = entry(site, "loud", "for _ in range(40):\n    print('x' * 2**20)\n")

    assert check_components([loud], executor) == Report()


def test_a_missing_attribute_is_told_to_the_author(site: Path, executor: LocalExecutor) -> None:
    (site / "empty.py").write_text("")
    spec = FusionSpec(name="gone", factory="empty:Fusion", version="1")

    broken = only(check_components([Entry(spec=spec, dist="one", dist_version="1", plugin="one")], executor))

    assert "'empty' has no 'Fusion'" in broken.problem
    assert broken.hint == "reinstall one, or tell its author"


def test_what_an_import_does_to_the_process_is_not_the_fault_of_the_next(site: Path, executor: LocalExecutor) -> None:
    vandal = entry(
        site, "vandal", "import os, sys\nsys.modules['colorsys'] = None\nos.chdir('/')\nos.closerange(3, 40)\n"
    )
    honest = entry(site, "honest", "import colorsys\n")

    assert check_components([vandal, honest], executor) == Report()


def test_a_component_whose_package_is_not_installed_is_left_to_planning(site: Path, executor: LocalExecutor) -> None:
    lacking = entry(site, "lacking", "import no_such_package\n", requires=("no_such_package",))

    assert check_components([lacking], executor) == Report()


def test_a_package_that_cannot_be_imported_is_told_once_for_all_that_need_it(
    site: Path, executor: LocalExecutor
) -> None:
    (site / "broken_library.py").write_text("raise ImportError('libfoo.so.3: cannot open shared object file')\n")
    entries = [entry(site, f"needs_it_{number}", "", requires=("broken_library",)) for number in range(3)]
    entries.append(entry(site, "does_not", ""))

    broken = only(check_components(entries, executor))

    assert broken.subject == "broken_library"
    assert broken.refs == ("one/needs-it-0", "one/needs-it-1", "one/needs-it-2")
    assert "libfoo.so.3" in broken.reason


def test_the_same_error_of_several_components_is_one(site: Path, executor: LocalExecutor) -> None:
    (site / "shared_base.py").write_text("raise RuntimeError('the licence has run out')\n")
    entries = [entry(site, f"on_it_{number}", "import shared_base\n") for number in range(3)]

    broken = only(check_components(entries, executor))

    assert broken.subject == "fusion one/on-it-0 and 2 other components"
    assert len(broken.refs) == 3


def test_inline_imports_in_this_process(site: Path) -> None:
    broken = only(check_components([entry(site, "sick_inline", "raise ValueError('no')\n")], InlineExecutor()))

    assert "ValueError: no" in broken.problem


STUB_ERROR = "libtorchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace"


@pytest.fixture(scope="module")
def mismatched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a torchaudio that does not load, of a release that is too old for the torch at hand."""
    site = tmp_path_factory.mktemp("mismatched")
    (site / "torchaudio").mkdir()
    (site / "torchaudio" / "__init__.py").write_text(f"raise OSError({STUB_ERROR!r})\n")
    info = site / "torchaudio-2.8.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.8.0\n")
    return site


def mmbench(*arguments: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(site)} if site else {}
    return subprocess.run(
        [sys.executable, "-m", "mmbench.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "300", **path},
        stdin=subprocess.DEVNULL,
    )


def hint() -> str:
    """Return the beginning of the line that mends the pair, by the torch that is installed."""
    import torch

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split("."))
    if release >= (2, 13):
        return "pip install 'torchaudio>=2.11.1'"
    # Of the torch before, the packages that are installed here leave out some releases.
    return "pip install "


def test_a_mismatched_pair_is_told_once_and_everything_else_is_trained(mismatched: Path, tmp_path: Path) -> None:
    pytest.importorskip("mmbench_audio", reason="mmbench-audio is not installed")

    done = mmbench(
        "run", "-d", "quarters", "-e", "image=cnn", "-e", "audio=logmel-*", "-f", "concat", "--epochs", "1", "--limit", "32",
        "--protocol", "none", "--diagnostics", "none", "--run", "r", cwd=tmp_path, site=mismatched,
    )  # fmt: skip

    said, _, report = done.stdout.partition("run r:")
    (count,) = [int(line.split("(")[1].split()[0]) for line in said.split("\n") if line.startswith("unavailable (")]
    assert "torchaudio 2.8.0 does not load with torch" in said
    assert said.count("undefined symbol") == 1
    assert hint() in said
    assert "failed" not in done.stdout
    plan = [json.loads(line) for line in mmbench_plan(tmp_path)]
    statuses = {row["cell_id"]: row["status"] for row in plan}
    assert sum(status == "unavailable" for status in statuses.values()) == count > 0
    assert all(hint() in row["reason"] for row in plan if row["status"] == "unavailable")
    # What needs no torchaudio has its result: the majority, and the image alone.
    records = {
        path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("results/r/cells/*/record.json")
    }
    assert {cell_id for cell_id, status in statuses.items() if status == "run"} == set(records)
    assert [record["status"] for record in records.values()] == ["ok", "ok"]
    assert done.returncode == 1  # a broken installation is no choice
    libraries = json.loads((tmp_path / "results" / "r" / "run.json").read_text())["environment"]["libraries"]
    assert "cpu_capability" in libraries
    assert f"{count} unavailable" in report


def mmbench_plan(folder: Path) -> list[str]:
    """Return the lines of plan.json that are cells."""
    cells = json.loads((folder / "results" / "r" / "plan.json").read_text())["cells"]
    return [json.dumps(cell) for cell in cells]


def test_doctor_says_the_same_of_a_mismatched_pair(mismatched: Path, tmp_path: Path) -> None:
    pytest.importorskip("mmbench_audio", reason="mmbench-audio is not installed")

    done = mmbench("plugins", "doctor", "--json", cwd=tmp_path, site=mismatched)

    findings = [item for item in json.loads(done.stdout) if item["subject"] == "torchaudio 2.8.0"]
    (finding,) = [item for item in findings if STUB_ERROR in item["problem"]]
    assert finding["problem"].startswith("does not load with torch")
    assert finding["mend"].startswith(hint())
    assert done.returncode == 4


def test_a_gpu_that_is_not_here_is_told_before_the_first_cell(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    done = mmbench(
        "run", "-d", "xor", "-f", "concat", "-e", "mlp", "--epochs", "1", "--limit", "32", "--device", "cuda", "--run", "r",
        "--no-baselines", "--protocol", "none", "--diagnostics", "none", cwd=tmp_path,
    )  # fmt: skip

    assert done.stdout.count("--device cuda was asked for, but torch") == 2  # before the cells, and in the report
    assert "unavailable (1 cell)" in done.stdout
    assert done.returncode == 1
    assert not list(tmp_path.glob("results/r/cells/*"))


def record(number: int, reason: str, status: str = "failed") -> Record:
    return Record(cell_id=f"{number:016x}", status=status, reason=reason)  # type: ignore[arg-type]


def test_a_reason_is_shown_once_and_then_with_its_count(tmp_path: Path) -> None:
    reasons = Reasons()

    lines = [reasons.add(record(number, f"CUDA error {number}"), f"cell {number}") for number in range(100)]

    assert {number: line for number, line in enumerate(lines) if line} == {
        0: "failed: cell 0: CUDA error 0",
        9: "failed (10 cells so far): CUDA error 0",
        99: "failed (100 cells so far): CUDA error 0",
    }


def test_the_end_names_the_three_commonest_reasons_and_what_to_do(tmp_path: Path) -> None:
    reasons = Reasons()
    for number, (reason, status, count) in enumerate(
        [("a", "failed", 1), ("b", "timeout", 3), ("c", "oom_gpu", 2), ("d", "failed", 4), ("e", "failed", 1)]
    ):
        for _ in range(count):
            reasons.add(record(number, reason, status), "label")
    assert reasons.add(Record(cell_id="f" * 16, status="ok"), "label") == ""
    trace = tmp_path / "cells" / f"{3:016x}" / "traceback.txt"
    trace.parent.mkdir(parents=True)
    trace.write_text("here")

    assert list(reasons.summary(tmp_path)) == [
        ("failed (4 cells): d", f"see {trace}, mend it, and add --retry failed to the same command"),
        ("timeout (3 cells): b", "allow a longer --timeout, and add --retry timeout"),
        ("oom_gpu (2 cells): c", "take a smaller --batch-size or fewer cells at a time (-j), and add --retry oom_gpu"),
        ("2 other reasons (2 cells)", f"mmbench status {tmp_path.name} lists all"),
    ]
