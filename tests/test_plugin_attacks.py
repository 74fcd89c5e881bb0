"""Whatever a plugin does when it is read or asked, it costs itself only; and a local file is in no other cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mmbench import isolation, loading, plugin_process
from mmbench.config import RunConfig
from mmbench.errors import PluginError, Unavailable
from mmbench.part_code import call_function
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry
from mmbench.store import RunStore

pytestmark = pytest.mark.skipif(not plugin_process.CAN_FORK, reason="plugins are read in this process here")

SOUND = """
from mmbench import DatasetInfo, DatasetSpec, EncoderInfo, EncoderSpec, FusionSpec, Modality, TaskSpec, hookimpl

@hookimpl
def mmbench_fusions():
    return [FusionSpec(name="subject", factory="subject:Fusion", version="1", defaults={"width": 8, "names": ["a"]})]
"""


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "IMPORT_LIMIT_S", 1.0)
    monkeypatch.setattr(isolation, "WAITING_FACTOR", 2.0)
    monkeypatch.setattr(plugin_process, "WAITING_FACTOR", -7.0)  # 3 s for what nothing in the child ends
    monkeypatch.setattr(plugin_process, "SKIP_LIMIT_S", 1.0)


def write(folder: Path, source: str, name: str = "subject.py") -> Path:
    path = folder / name
    path.write_text(SOUND + textwrap.dedent(source))
    return path


def reason_of(path: Path) -> str:
    with pytest.raises(PluginError) as caught:
        load_registry([path])
    return str(caught.value)


ENDINGS = {
    "os._exit": ("import os; os._exit(0)", "import ended the process: exit code 0"),
    "os._exit with a code": ("import os; os._exit(3)", "import ended the process: exit code 3"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "import ended the process: SIGSEGV"),
    "kill -9": ("import os; os.kill(os.getpid(), 9)", "import ended the process: SIGKILL"),
    "abort": ("import os; os.abort()", "import ended the process: SIGABRT"),
    "a loop that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "i",  # its process ends by its limit, or the interrupt arrives outside of the `try`
    ),
    "a loop with signals blocked": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass",
        "import ",
    ),
    "sleep with signals blocked": (
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(600)",
        "import took more than 3 s",
    ),
    "a timer taken away": (
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\nsignal.setitimer(signal.ITIMER_PROF, 0)\ntime.sleep(600)",
        "import took more than 3 s",
    ),
    "the pipes closed": ("import os\nos.closerange(3, 64)", "import ended the process: exit code 0"),
    "words of its own on the pipe": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'{}\\n')\n    except OSError: pass",
        "its descriptors cannot be read",
    ),
    "endless words on the pipe": (
        "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x' * 65536)\n    except OSError: pass",
        "import ",
    ),
    "json that lies": (
        "import json\njson.dumps = lambda *args, **options: '{\"info\": 3}'",
        "its descriptors cannot be read",
    ),
    "json that gives a class": (
        "import json\njson.dumps = lambda *args, **options: '[]'",
        "import gave what cannot be read",
    ),
    "exit in a hook": (
        "@hookimpl\ndef mmbench_encoders():\n    import os; os._exit(0)",
        "import ended the process: exit code 0",
    ),
}


@pytest.mark.parametrize("attack", ENDINGS)
def test_a_plugin_that_ends_or_holds_its_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    source, reason = ENDINGS[attack]
    monkeypatch.setattr(plugin_process, "_LARGEST_ANSWER", 1 << 20)
    begun = time.monotonic()

    said = reason_of(write(tmp_path, source))

    assert said.startswith(f"plugin file {tmp_path / 'subject.py'}: {reason}")
    assert time.monotonic() - begun < 30


CHANGES = {
    "torch": "import sys, types\nsys.modules['torch'] = types.ModuleType('torch')",
    "json": "import json\njson.loads = json.dumps = lambda *args, **options: 1 / 0\njson.JSONEncoder = None",
    "the run's store": "import mmbench.store\nmmbench.store.RunStore.finish = None",
    "the registry": "import mmbench.registry\nmmbench.registry.Registry.resolve = None",
    "builtins": "import builtins\nbuiltins.sorted = lambda *args, **options: []",
    "file descriptors": "import os\nos.close(0); os.close(1); os.close(2)",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))",
    "umask": "import os\nos.umask(0o777)",
    "time zone": "import os, time\nos.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "working folder": "import os\nos.chdir('/')",
    "threads that never end": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
    "an atexit that sleeps": "import atexit, time\natexit.register(time.sleep, 600)",
    "a process left behind": "import subprocess\nsubprocess.Popen(['sleep', '600'])",
    "signals": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "a trace function": "import sys\nsys.settrace(lambda *args: 1 / 0)",
    "recursion": "import sys\nsys.setrecursionlimit(120)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_plugin_changes_in_its_process_reaches_no_other(tmp_path: Path, change: str) -> None:
    """Each in a process of its own: a change that got through would harm the other tests."""
    path = write(tmp_path, CHANGES[change])
    script = f"""
import json, os, resource, subprocess, sys, time
before = (os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0o22), time.tzname, sys.getrecursionlimit())
from mmbench.registry import load_registry
try:
    load_registry([{str(path)!r}])
except Exception as error:
    print(type(error).__name__, error)
after = (os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0o22), time.tzname, sys.getrecursionlimit())
assert before == after, (before, after)
assert "subject" not in sys.modules and "torch" not in sys.modules
assert json.loads(json.dumps({{"a": 1}})) == {{"a": 1}} and sorted([2, 1]) == [1, 2]
assert load_registry().resolve("fusion", "concat").entry.dist == "mmbench-fusion"
print("sound")
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("sound\n")


def test_descriptors_come_back_as_they_were(tmp_path: Path) -> None:
    source = """
    @hookimpl
    def mmbench_datasets():
        return [DatasetSpec(name="data", factory="subject:open", version="2", modalities=(Modality(name="a", kind="tabular",
            facts={"width": 3}),), tasks=(TaskSpec(name="t", kind="multiclass", num_outputs=2, class_names=("x", "y")),))]
    """
    path = write(tmp_path, source)

    registry = load_registry([path])

    fusion = registry.resolve("fusion", "file/subject").entry.spec
    assert (dict(fusion.defaults), fusion.version) == ({"width": 8, "names": ["a"]}, "1")
    dataset: Any = registry.resolve("dataset", "file/data").entry.spec
    assert dataset.modalities[0].facts["width"] == 3
    assert dataset.tasks[0].class_names == ("x", "y")
    assert "subject" not in sys.modules


ASKED = """
@hookimpl
def mmbench_datasets():
    return [DatasetSpec(name="data", factory="subject:open", version="1", describe="subject:describe")]

def describe(**options):
    BODY
"""


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("raise __import__('mmbench').Unavailable('no file; fetch it')", Unavailable, "no file; fetch it"),
        ("1 / 0", Unavailable, "subject:describe failed: ZeroDivisionError: division by zero"),
        ("raise SystemExit", Unavailable, "subject:describe failed: it tried to end the process"),
        ("__import__('os')._exit(0)", PluginError, "subject:describe ended the process: exit code 0"),
        ("return 3", PluginError, "subject:describe must return DatasetInfo, EncoderInfo, AssetSpec, got int"),
        ("__import__('ctypes').string_at(0)", PluginError, "subject:describe ended the process: SIGSEGV"),
    ],
)
def test_a_function_that_planning_asks_costs_its_own_plugin_only(
    tmp_path: Path, body: str, kind: type[Exception], words: str
) -> None:
    entry = load_registry([write(tmp_path, ASKED.replace("BODY", body))]).resolve("dataset", "file/data").entry

    with pytest.raises(kind) as caught:
        call_function(entry, entry.spec.describe)  # type: ignore[union-attr]

    assert str(caught.value).startswith(words)


def test_what_a_function_of_a_plugin_returns_is_checked_here_too(tmp_path: Path) -> None:
    body = (
        "info = DatasetInfo(modalities=(Modality(name='a', kind='tabular'),), "
        "tasks=(TaskSpec(name='t', kind='multiclass', num_outputs=2),))\n"
        "    object.__setattr__(info, 'fingerprint', ['no text'])\n    return info"
    )
    entry = load_registry([write(tmp_path, ASKED.replace("BODY", body))]).resolve("dataset", "file/data").entry

    with pytest.raises(PluginError, match="gave what cannot be used"):
        call_function(entry, entry.spec.describe)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True: pass", "mmbench_skip took more than 1 s"),
        ("__import__('time').sleep(600)", "mmbench_skip took more than 1 s"),
        ("__import__('os')._exit(0)", "mmbench_skip ended the process: exit code 0"),
        ("raise SystemExit", "it tried to end the process"),
    ],
)
def test_mmbench_skip_is_timed_and_a_dead_process_stays_dead(tmp_path: Path, body: str, words: str) -> None:
    registry = load_registry([write(tmp_path, f"@hookimpl\ndef mmbench_skip(combo):\n    {body}\n")])
    begun = time.monotonic()

    answers = [registry.skip_reasons({"dataset": "xor"}) for _ in range(3)]

    assert all(len(answer) == 1 and words in answer[0] for answer in answers), answers
    assert time.monotonic() - begun < 20


def test_the_process_of_a_plugin_ends_with_what_asked_it(tmp_path: Path) -> None:
    path = write(tmp_path, "@hookimpl\ndef mmbench_skip(combo):\n    return str(__import__('os').getpid())\n")
    script = (
        "import os; from mmbench.registry import load_registry; "
        f"print(load_registry([{str(path)!r}]).skip_reasons({{}})[0], flush=True); os.kill(os.getpid(), 9)"
    )

    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout)

    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_local_file_is_imported_only_into_cells_that_use_it(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    other = write(tmp_path, "", "other.py")
    other.write_text(other.read_text().replace('"subject"', '"other"'))
    config = RunConfig(dataset=["xor"], fusion=["concat", "file/subject"], seeds=1, plugin=[str(path), str(other)])
    registry = load_registry([path, other])
    runtime = local_runtime(config, cache=tmp_path / "cache", data=tmp_path / "data", jobs=1)

    cells = [cell for cell in make_plan(config, registry, runtime=runtime).cells() if cell.status == "run"]

    files = {cell.row()["fusion"]: cell.payload()["plugin_files"] for cell in cells}
    assert files.pop("subject") == [str(path)]
    assert len(files) >= 1
    assert set(map(tuple, files.values())) == {()}


FORGING = """
import json, os
from pathlib import Path
from mmbench import blocks

class Fusion:
    def __init__(self, dims, tasks, **options):
        here = next(path for path in Path(os.environ["FORGE"]).glob("cells/.*") if path.is_dir())
        outcome = {"status": "ok", "reason": "", "metrics": [], "info": {"warnings": 7}}
        (here / "outcome.json").write_text(json.dumps(outcome))
        os._exit(0)
"""


@pytest.mark.slow
def test_an_outcome_without_the_nonce_of_its_job_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, FORGING)
    command = (
        "from mmbench.cli import main; import sys; sys.argv[1:] = ["
        "'run', '-d', 'xor', '-f', 'subject', '-f', 'concat', '--no-baselines', '--seeds', '1', '--epochs', '1', '--protocol', 'none', "
        f"'--diagnostics', 'none', '--run', 'forged', '--plugin', {str(path)!r}]; main()"
    )
    environment = {
        **os.environ,
        "FORGE": str(tmp_path / "results" / "forged"),
        "MMBENCH_CACHE": str(tmp_path / "cache"),
    }

    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )

    lines = (tmp_path / "results" / "forged" / "journal.jsonl").read_text().splitlines()
    statuses = sorted(json.loads(line)["status"] for line in lines)
    assert (done.returncode, statuses) == (1, ["failed", "ok"]), done.stderr
    assert (tmp_path / "results" / "forged" / "report" / "report.html").exists()


SABOTAGE = """
import json, os, zlib
from pathlib import Path

class Fusion:
    def __init__(self, dims, tasks, **options):
        run = Path(os.environ["FORGE"])
        own = next(path for path in run.glob("cells/.*") if path.is_dir()).name.split(".")[1]
        lines = (run / "journal.jsonl").read_bytes().splitlines()
        for line in lines:
            data = json.loads(line)
            data.pop("crc32")
            for metric in data["metrics"]:
                metric["value"] = 0.0
            text = json.dumps(data).encode()
            forged = text[:-1] + b',"crc32":%d}\\n' % zlib.crc32(text)
            with (run / "journal.jsonl").open("ab") as stream:
                stream.write(forged)
        os._exit(3)
"""


@pytest.mark.slow
def test_a_cell_cannot_append_other_results_to_the_journal(tmp_path: Path) -> None:
    path = write(tmp_path, SABOTAGE)
    command = (
        "from mmbench.cli import main; import sys; sys.argv[1:] = ["
        "'run', '-d', 'xor', '-f', 'concat', '-f', 'subject', '--no-baselines', '--seeds', '1', '--epochs', '1', "
        "'--protocol', 'none', '--diagnostics', 'none', '-j', '1', '--run', 'sabotaged', "
        f"'--plugin', {str(path)!r}]; main()"
    )
    run_folder = tmp_path / "results" / "sabotaged"
    environment = {**os.environ, "FORGE": str(run_folder), "MMBENCH_CACHE": str(tmp_path / "cache")}

    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )

    records = RunStore.open(run_folder).records()
    scores = {record.status: [item.value for item in record.metrics] for record in records.values()}
    assert sorted(scores) == ["failed", "ok"], done.stderr
    assert any(scores["ok"])
    assert "wrote" in done.stdout
    assert "journal.jsonl.foreign and count as no results" in done.stdout
