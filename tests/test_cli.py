"""The command line as people use it: real processes, real runs, mistakes on purpose."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

COLUMNS = "run,cell_id,dataset,encoders,fusion,objective,seed,status,reason,phase,split,condition,task,metric,value,unit,direction"
HOSTILE = '''
"""Fusions that misbehave, one way each."""
import torch
from torch import nn
from mmbench import FusionSpec, hookimpl, Unavailable


class Plain(nn.Module):
    def __init__(self, dims, tasks):
        super().__init__()
        self.fused_dim = sum(dims.values())

    def forward(self, features):
        return torch.cat([features[name].tensor for name in sorted(features)], dim=-1)


class Raises(Plain):
    def __init__(self, dims, tasks):
        raise ValueError("no such luck")


class NotAModule:
    def __init__(self, dims, tasks):
        pass


class Exits(Plain):
    def forward(self, features):
        raise SystemExit(3)


class Leaves(Plain):
    def forward(self, features):
        import os

        os._exit(7)


class Kills(Plain):
    def forward(self, features):
        import os, signal

        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Plain):
    def forward(self, features):
        import signal, time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)


class Eats(Plain):
    def forward(self, features):
        hoard = []
        while True:
            hoard.append(bytearray(64 * 2**20))


class Prints(Plain):
    done = False

    def forward(self, features):
        if not Prints.done:
            Prints.done = True
            for _ in range(100):
                print("x" * 2**20)
        return super().forward(features)


class NaNs(Plain):
    def forward(self, features):
        return super().forward(features) * float("nan")


class Shapes(Plain):
    def forward(self, features):
        return super().forward(features)[:, :3]


class Meddles(Plain):
    def __init__(self, dims, tasks):
        import os, random

        super().__init__(dims, tasks)
        os.chdir("/")
        torch.manual_seed(0)
        random.seed(0)
        torch.set_default_dtype(torch.float64)


class Absent(Plain):
    def __init__(self, dims, tasks):
        raise Unavailable("weights.bin is not here; run `fetch weights`")


@hookimpl
def mmbench_fusions():
    kinds = (Raises, NotAModule, Exits, Leaves, Kills, Hangs, Eats, Prints, NaNs, Shapes, Meddles, Absent)
    return [
        FusionSpec(name=f"evil-{kind.__name__.lower()}", factory=f"hostile:{kind.__name__}", version="1") for kind in kinds
    ]
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def mmbench(*arguments, cwd, timeout=300, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mmbench.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
    )


def exported(name, cwd):
    done = mmbench("export", name, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def quality(rows):
    """What must not depend on when and where a cell ran."""
    return [row for row in rows if row["phase"] != "profile" and row["unit"] not in ("s", "samples/s", "bytes")]


@pytest.fixture(scope="module")
def finished(home):
    done = mmbench("run", "-d", "xor", "-f", "concat", "-f", "decision-average", "--run", "first", cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_run_ends_with_its_table_and_says_where_it_is(finished):
    assert "concat" in finished.stdout
    assert "report: results/first/report/report.html" in finished.stdout


def test_the_same_command_again_ends_at_once_and_imports_no_torch(finished, home):
    script = (
        "import sys, runpy; sys.argv = ['mmbench', 'run', '-d', 'xor', '-f', 'concat', '-f', 'decision-average', '--run', 'first']\n"
        "try:\n    runpy.run_module('mmbench.cli', run_name='__main__')\n"
        "except SystemExit as end:\n    print('exit', end.code)\n"
        "print('heavy', sorted({'torch', 'pandas', 'timm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, timeout=60)

    assert "nothing left to do" in done.stdout
    assert "exit 0" in done.stdout
    assert "heavy []" in done.stdout


def is_clean_test(row):
    return row["split"] == "test" and row["condition"] == "clean"


def test_the_export_has_the_columns_that_others_program_against(finished, home):
    done = mmbench("export", "first", "--format", "csv", cwd=home)

    assert done.stdout.splitlines()[0] == COLUMNS
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    [accuracy] = [
        row for row in rows if row["fusion"] == "concat" and row["metric"] == "accuracy" and is_clean_test(row)
    ]
    assert (accuracy["run"], accuracy["dataset"], accuracy["encoders"]) == ("first", "xor", "a:mlp+b:mlp")
    assert (accuracy["objective"], accuracy["seed"], accuracy["status"]) == ("supervised", "0", "ok")
    assert (accuracy["phase"], accuracy["condition"], accuracy["direction"]) == ("evaluate", "clean", "max")
    assert float(accuracy["value"]) >= 0.95


def test_baselines_and_the_floor_are_planned_by_themselves(finished, home):
    fusions = Counter(
        row["fusion"] for row in exported("first", home) if row["metric"] == "accuracy" and is_clean_test(row)
    )

    assert fusions == {"majority": 1, "single": 2, "concat": 1, "decision-average": 1}


def test_status_counts_every_planned_cell(finished, home):
    done = mmbench("status", "first", "--json", cwd=home)

    assert json.loads(done.stdout)["counts"] == {"ok": 5}


def test_a_grown_selection_adds_to_the_run_and_other_settings_do_not_mix(finished, home):
    grown = mmbench("run", "-d", "xor", "-f", "sum", "--run", "first", cwd=home)
    mixed = mmbench("run", "-d", "xor", "-f", "sum", "--epochs", "3", "--run", "first", cwd=home)
    drawn = mmbench("run", "-d", "xor", "-f", "sum", "--master-seed", "1", "--run", "first", cwd=home)

    assert grown.returncode == 0
    assert json.loads(mmbench("status", "first", "--json", cwd=home).stdout)["counts"] == {"ok": 6}
    assert mixed.returncode == 2
    assert "epochs was" in mixed.stderr
    assert "Choose another name with --run" in mixed.stderr
    assert drawn.returncode == 2
    assert "draws its seeds from --master-seed 0" in " ".join(drawn.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "-d", "xr"], 2, "Did you mean 'xor'?"),
        (["run", "-d", "xor", "-f", "cross-attention", "--no-baselines"], 3, "no cell of the selection can run"),
        (["run", "--plugin", "none.py", "-d", "xor"], 2, "none.py"),
        (["lst"], 2, "Did you mean 'list'?"),
    ],
)
def test_a_mistake_gets_one_message_an_exit_code_and_no_traceback(arguments, code, message, home):
    done = mmbench(*arguments, cwd=home)

    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [["--help"], ["list"], ["plan", "-d", "xor"], ["plugins"], ["env"], ["show", "mlp"]]
)
def test_light_commands_import_nothing_heavy(command, home):
    script = (
        f"import sys, runpy; sys.argv = ['mmbench', *{command!r}]\n"
        "try:\n    runpy.run_module('mmbench.cli', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('heavy', sorted({'torch', 'pandas', 'timm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, timeout=60)

    assert done.stdout.endswith("heavy []\n"), done.stdout + done.stderr


def test_a_list_needs_neither_the_configuration_nor_the_engine_of_tables(home):
    script = (
        "import sys; sys.argv = ['mmbench', 'list']\n"
        "from mmbench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('loaded', sorted({'pydantic', 'mmbench.config', 'scipy', 'jinja2', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, timeout=60)

    assert done.stdout.endswith("loaded []\n"), done.stdout + done.stderr


def test_a_list_in_a_pipe_has_one_line_for_each_part(home):
    found = json.loads(mmbench("list", "encoders", "--json", cwd=home).stdout)["encoders"]
    done = mmbench("list", "encoders", cwd=home)

    lines = done.stdout.rstrip().split("\n")
    assert lines[0] == f"{len(found)} encoders"
    assert lines[1].split() == ["name", "takes", "gives", "summary", "from"]
    assert set(lines[2]) == {"─"}
    assert [line.split()[0].split("[")[0].split(":")[0] for line in lines[3:]] == [
        part["ref"].split("/")[1] for part in found
    ]
    # The columns stand under one another.
    assert len({line.index(part["summary"]) for line, part in zip(lines[3:], found, strict=True)}) == 1


@pytest.mark.parametrize("command", [["list"], ["plugins"], ["plan", "-d", "xor"], ["env"], ["show", "mlp"]])
def test_every_command_speaks_json(command, home):
    done = mmbench(*command, "--json", cwd=home)

    json.loads(done.stdout)


def test_the_plan_gives_counts_and_reasons(home):
    done = mmbench("plan", "-d", "xor", "-f", "cross-attention", "-f", "concat", cwd=home)

    assert re.match(r"5 cells: 1 to run \(about .* at a time\), 3 baselines, 1 incompatible", done.stdout)
    assert "cross-attention needs token sequences (B, T, D), but mlp gives one vector (B, D) for 'a'" in done.stdout


def test_a_closed_pipe_gives_no_traceback(home):
    done = subprocess.run(
        f"{sys.executable} -m mmbench.cli plan -d xor --rows 0 | head -1",
        shell=True, cwd=home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.fixture(scope="module")
def hostile(home):
    (home / "hostile.py").write_text(HOSTILE)
    return mmbench(
        "run", "-d", "xor", "--plugin", "hostile.py", "-f", "evil-*", "-f", "concat", "--run", "hostile",
        "--timeout", "25s", "--memory", "2", "--protocol", "none", cwd=home, timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_every_hostile_plugin_costs_its_own_cells_only(hostile, home):
    status = {row["fusion"].removeprefix("evil-"): (row["status"], row["reason"]) for row in exported("hostile", home)}

    assert hostile.returncode == 1
    assert {name: found for name, (found, _) in status.items()} == {
        "majority": "ok",
        "single": "ok",
        "concat": "ok",
        "raises": "failed",
        "notamodule": "failed",
        "exits": "failed",
        "leaves": "failed",
        "kills": "killed",
        "hangs": "timeout",
        "eats": "oom_host",
        "prints": "ok",
        "nans": "diverged",
        "shapes": "failed",
        "meddles": "ok",
        "absent": "unavailable",
    }
    assert status["raises"][1] == "ValueError: no such luck"
    assert "must return an nn.Module, got NotAModule" in status["notamodule"][1]
    assert "weights.bin is not here; run `fetch weights`" in status["absent"][1]
    assert "(64, 3)" in status["shapes"][1]


@pytest.mark.slow
def test_a_hostile_plugin_changes_no_other_result(hostile, finished, home):
    def concat(name):
        rows = [row for row in quality(exported(name, home)) if row["fusion"] == "concat"]
        return [{**row, "run": ""} for row in rows]

    assert concat("hostile") == concat("first")


@pytest.mark.slow
def test_what_a_plugin_prints_is_kept_within_bounds(hostile, home):
    sizes = [path.stat().st_size for path in (home / "results/hostile/cells").glob("*/log.txt")]

    assert max(sizes) > 100_000
    assert sum(sizes) < 4 * 2**20


@pytest.mark.slow
def test_global_settings_that_a_plugin_changes_are_put_back_and_told(hostile, home):
    journal = [json.loads(line) for line in (home / "results/hostile/journal.jsonl").read_text().splitlines()]
    warnings = [record["info"]["warnings"] for record in journal if record["info"].get("warnings")]

    assert len(warnings) == 1
    assert any("working directory" in warning for warning in warnings[0])
    assert any("default dtype" in warning for warning in warnings[0])


BACKGROUND = ("-d", "xor", "-f", "concat", "-f", "gated", "-f", "sum", "--protocol", "none")


def run_in_background(name, cwd, *more):
    """Start a run; with --seeds 20 it lasts for minutes, so that whatever is done to it comes before its end."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmbench.cli", "run", *BACKGROUND, "--run", name, *more],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for_journal(path, lines):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {lines} lines")


@pytest.fixture(scope="module")
def whole(home):
    run_in_background("whole", home).communicate(timeout=200)
    return [{**row, "run": ""} for row in quality(exported("whole", home))]


@pytest.mark.parametrize("lines", [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.full)])
def test_a_killed_run_continues_to_the_same_table(lines, home, whole):
    name = f"killed{lines}"
    process = run_in_background(name, home)
    wait_for_journal(home / f"results/{name}/journal.jsonl", lines)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = run_in_background(name, home)
    again.communicate(timeout=200)

    assert again.returncode == 0
    assert [{**row, "run": ""} for row in quality(exported(name, home))] == whole


def test_ctrl_c_leaves_a_whole_journal_and_exits_130(home):
    process = run_in_background("interrupted", home, "--seeds", "20")
    wait_for_journal(home / "results/interrupted/journal.jsonl", 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    counts = json.loads(mmbench("status", "interrupted", "--json", cwd=home).stdout)["counts"]

    assert process.returncode == 130
    assert sum(counts.values()) == 101
    assert counts.get("pending", 0) + counts.get("interrupted", 0) > 0


def test_two_writers_of_one_run_are_refused(home):
    process = run_in_background("busy", home, "--seeds", "20")
    wait_for_journal(home / "results/busy/journal.jsonl", 1)
    second = mmbench("run", "-d", "xor", "--run", "busy", cwd=home)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert second.returncode == 2
    assert str(process.pid) in second.stderr
