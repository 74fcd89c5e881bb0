"""From `mmbench new` to a report: wheels into a fresh environment, then check, list, plan, run and report."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST_PARTY = ("datasets", "fusion", "objectives", "tabular", "text", "sequence", "vision")
KINDS = ("plugin", "encoder", "fusion", "objective", "dataset")

#: By kind: what to select, and what then names the new part in a plan.
SELECTIONS: dict[str, tuple[str, str]] = {
    "plugin": ("-d new-plugin -f new-plugin -o new-plugin -e table=mlp -e words=bag-of-embeddings", "new-plugin"),
    "encoder": ("-d unique -e sequence=new-encoder -e image=mlp -f concat", "new-encoder"),
    "fusion": ("-d xor -e a=mlp -e b=mlp -f new-fusion", "new-fusion"),
    "objective": ("-d xor -e a=mlp -e b=mlp -f concat -o new-objective", "new-objective"),
    "dataset": ("-d new-dataset -e table=mlp -e words=bag-of-embeddings -f concat", "new-dataset"),
}


class FreshEnvironment:
    """A virtual environment that has the libraries of this one, but mmbench and plugins from wheels only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
        self.bin = folder / "venv" / "bin"
        self.python = self.bin / "python"
        purelib = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
        libraries = {*site.getsitepackages(), sysconfig.get_path("purelib")}
        # Entries of a .pth file go behind the environment's own, and the .pth files in them (editable installs) are
        # not followed: what is installed here wins, and the checkout stays out of sight.
        (Path(purelib) / "libraries.pth").write_text("\n".join(sorted(libraries)))
        self.purelib = purelib

    def install(self, *sources: Path) -> None:
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
        run([*build, "-w", str(self.wheels), *map(str, sources)])
        wheels = [str(wheel) for wheel in self.wheels.glob("*.whl")]
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "--python",
                str(self.python),
                "install",
                "-q",
                "--no-deps",
                "--no-index",
                "--ignore-installed",  # the same versions may stand among this environment's libraries
                *wheels,
            ]
        )

    def mmbench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run([str(self.bin / "mmbench"), *arguments], cwd=self.folder, folder=self.folder)


def run(command: list[str], cwd: Path | None = None, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if folder is not None:
        environment |= {"MMBENCH_CACHE": str(folder / "cache"), "MMBENCH_DATA": str(folder / "data")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=550)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheels, is not installed")
    environment = FreshEnvironment(tmp_path_factory.mktemp("fresh"))
    environment.install(ROOT, *(ROOT / "plugins" / f"mmbench-{name}" for name in FIRST_PARTY))
    where = run([str(environment.python), "-c", "import mmbench; print(mmbench.__file__)"], cwd=environment.folder)
    assert where.stdout.startswith(environment.purelib)
    return environment


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_goes_from_wheel_to_report(kind: str, fresh: FreshEnvironment) -> None:
    name = f"new-{kind}"
    fresh.mmbench("new", kind, name)
    fresh.install(fresh.folder / f"mmbench-{name}")
    selection, shown = SELECTIONS[kind]

    checked = fresh.mmbench("check", f"mmbench-{name}", "--json")
    listed = json.loads(fresh.mmbench("list", "--json").stdout)
    planned = fresh.mmbench("plan", *selection.split(), "--no-baselines", "--json")
    fresh.mmbench("run", *selection.split(), "--no-baselines", "--run", name, "--epochs", "2", "--protocol", "none")
    reported = fresh.mmbench("report", name)

    assert json.loads(checked.stdout)["conforms"] is True
    assert f"mmbench-{name}/{name}" in json.dumps(listed)
    assert shown in planned.stdout
    assert shown in reported.stdout
    lines = (fresh.folder / "results" / name / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["ok"]
