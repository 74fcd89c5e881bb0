"""What is checked of a plugin as a whole, how targets are named, and how results are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seeded import PYPROJECT, write_package

from mmbench.errors import UsageError
from mmbench.testing import assert_conforms, check, check_encoder, check_fusion
from mmbench.testing.command import run_check
from mmbench.testing.target import find_target

LIGHT = """
from mmbench import FusionSpec, hookimpl

@hookimpl
def mmbench_fusions():
    return [FusionSpec(name="joined", factory="PACKAGE.parts:Fusion", version="1", summary="Side by side")]
"""
CODE = """
class Fusion(nn.Module):
    def __init__(self, dims, tasks):
        super().__init__()
        self.names, self.fused_dim = sorted(dims), 8
        self.layer = nn.Linear(sum(dims.values()), 8)

    def forward(self, features):
        return self.layer(torch.cat([features[name].tensor for name in self.names], 1)).tanh()
"""


def failed(target: Path | str, level: str = "api") -> dict[str, str]:
    return {result.check: result.found for result in check(target, level) if result.status == "fail"}  # type: ignore[arg-type]


def test_a_sound_package_passes_at_every_level_but_full(tmp_path: Path) -> None:
    package = write_package(tmp_path, "sound-package", light=LIGHT, code=CODE)

    assert failed(package, "api") == {}
    assert failed(package, "smoke") == {}
    assert_conforms(package)


FAULTS: dict[str, tuple[str, str, str, str]] = {
    "imports-torch": ("light", "from mmbench import", "import torch\nfrom mmbench import", "plugin.import-is-light"),
    "imports-its-code": (
        "light",
        "@hookimpl",
        "from PACKAGE.parts import Fusion\n\n@hookimpl",
        "plugin.import-is-light",
    ),
    "seeds-at-import": (
        "light",
        "from mmbench import",
        "import random; random.seed(1)\nfrom mmbench import",
        "plugin.import-changes-nothing",
    ),
    "changes-the-folder": (
        "light",
        "from mmbench import",
        "import os; os.chdir('/')\nfrom mmbench import",
        "plugin.import-changes-nothing",
    ),
    "sets-a-variable": (
        "light",
        "from mmbench import",
        "import os; os.environ['OMP_NUM_THREADS'] = '7'\nfrom mmbench import",
        "plugin.import-changes-nothing",
    ),
    "silences-warnings": (
        "light",
        "from mmbench import",
        "import warnings; warnings.simplefilter('ignore')\nfrom mmbench import",
        "plugin.import-changes-nothing",
    ),
    "starts-a-thread": (
        "light",
        "from mmbench import",
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\nfrom mmbench import",
        "plugin.import-changes-nothing",
    ),
    "fails-at-import": ("light", "from mmbench import", "import no_such_package\nfrom mmbench import", "plugin.loads"),
    "misspelt-hook": ("light", "mmbench_fusions", "mmbench_fusion", "plugin.loads"),
    "unknown-word": ("light", 'version="1"', 'version="1", accepts="vectors"', "plugin.loads"),
    "options-that-are-not-json": ("light", 'version="1"', 'version="1", defaults={"a": {1, 2}}', "plugin.loads"),
    "no-parts": ("light", "return [", "return []; [", "plugin.offers-something"),
    "no-such-class": ("light", "parts:Fusion", "parts:Fuson", "fusion.factory-is-there"),
    "no-such-module": ("light", "parts:Fusion", "part:Fusion", "fusion.factory-is-there"),
    "no-entry-point": ("pyproject", "[project.entry-points.mmbench]", "[tool.nothing]", "plugin.has-entry-point"),
    "no-version": ("pyproject", 'version = "0.1.0"\n', "", "plugin.says-its-version"),
    "no-licence": ("pyproject", 'license = "Apache-2.0"\n', "", "plugin.says-its-licence"),
    "skip-hook-that-trips": (
        "light",
        "@hookimpl",
        '@hookimpl\ndef mmbench_skip(combo):\n    return combo["fusion"]["options"]["rank"]\n\n@hookimpl',
        "plugin.skip-hook-answers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_of_a_package_is_caught_by_the_right_check(fault: str, tmp_path: Path) -> None:
    where, old, new, expected = FAULTS[fault]
    texts = {"light": LIGHT, "pyproject": PYPROJECT}
    assert old in texts[where]
    texts[where] = texts[where].replace(old, new, 1)
    package = write_package(
        tmp_path, f"seeded-api-{fault}", light=texts["light"], code=CODE, pyproject=texts["pyproject"]
    )

    assert set(failed(package)) == {expected}


def test_seeds_and_flags_changed_by_the_factorys_module_are_caught(tmp_path: Path) -> None:
    package = write_package(tmp_path, "seeded-parts", light=LIGHT, code=CODE + "\ntorch.manual_seed(0)\n")

    found = failed(package, "smoke")

    assert list(found) == ["fusion.factory-imports-cleanly"]
    assert "torch's global seed" in found["fusion.factory-imports-cleanly"]


def test_a_fault_says_what_is_expected_what_is_found_and_what_to_do(tmp_path: Path) -> None:
    package = write_package(
        tmp_path,
        "seeded-told",
        light=LIGHT,
        code=CODE.replace("self.fused_dim = sorted(dims), 8", "self.fused_dim = sorted(dims), 9"),
    )

    (result,) = [result for result in check(package) if result.status == "fail"]

    assert result.check == "fusion.declared-width"
    assert result.subject == "seeded-told/joined"
    assert result.expected == "fused_dim 9: (2, 9)"
    assert result.found == "forward gave (2, 8) for a batch of 2 [2 modalities]"
    assert result.mend == "Set feature_dim (an encoder) or fused_dim (a fusion) to the width that forward gives."
    with pytest.raises(AssertionError, match=r"fusion\.declared-width of seeded-told/joined: fail"):
        assert_conforms(package)


def test_a_crash_names_the_plugins_own_line(tmp_path: Path) -> None:
    package = write_package(tmp_path, "seeded-crash", light=LIGHT, code=CODE.replace(", 1))", ", 2))"))

    found = failed(package, "smoke")

    assert list(found) == ["fusion.runs"]
    assert found["fusion.runs"].startswith("IndexError: Dimension out of range")
    assert "(parts.py, line 1" in found["fusion.runs"]


def test_a_local_file_is_a_target(tmp_path: Path) -> None:
    file = tmp_path / "my_joined_file.py"
    file.write_text(
        "import torch\nfrom torch import nn\n" + LIGHT.replace("PACKAGE.parts", "my_joined_file") + CODE,
        encoding="utf-8",
    )

    results = {result.check: result for result in check(file)}

    assert [name for name, result in results.items() if result.status == "fail"] == []
    assert results["plugin.import-is-light"].status == "warn"
    assert results["plugin.says-its-licence"].status == "skip"
    assert results["fusion.runs"].status == "pass"


def test_level_api_imports_no_torch(tmp_path: Path) -> None:
    package = write_package(tmp_path, "seeded-light", light=LIGHT, code=CODE)
    code = f"import sys; from mmbench.testing import check; check({str(package)!r}, 'api'); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_pytest_plugin_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, mmbench.testing.pytest_plugin; sys.exit(bool({'torch', 'pandas', 'numpy'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_target_that_nothing_answers_to_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'no-such-thing' is no part's name, no installed distribution and no path"):
        check("no-such-thing")
    with pytest.raises(
        UsageError, match=r"has no pyproject.toml; give a package's folder, or write one by `mmbench new`"
    ):
        check(tmp_path)
    with pytest.raises(UsageError, match=r"there is no plugin file .*absent.py"):
        check(tmp_path / "absent.py")


def test_an_unknown_level_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"there is no level 'ful'; levels are api, smoke, full. Did you mean 'full'\?"
    ):
        check(tmp_path, "ful")  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["fusion:mmbench-fusion/concat", "mmbench-fusion/concat", "concat[fused_dim=32]"])
def test_references_name_one_part(target: str) -> None:
    pytest.importorskip("mmbench_fusion")

    found = find_target(target)

    assert [part.ref for part in found.parts] == ["mmbench-fusion/concat"]
    assert found.parts[0].options["fused_dim"] == (32 if "[" in target else 128)


def test_role_functions_look_at_that_role_only(tmp_path: Path) -> None:
    package = write_package(tmp_path, "seeded-roles", light=LIGHT, code=CODE)

    assert {result.check.partition(".")[0] for result in check_fusion(package, "api")} == {"plugin", "fusion"}
    assert {result.check.partition(".")[0] for result in check_encoder(package, "api")} == {"plugin"}


def test_the_command_exits_4_on_a_fault_and_0_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_package(tmp_path, "seeded-good", light=LIGHT, code=CODE)
    bad = write_package(tmp_path, "seeded-bad", light=LIGHT.replace("parts:Fusion", "parts:Fuson"), code=CODE)

    assert run_check(good, "api") == 0
    assert "conforms: " in capsys.readouterr().out
    assert run_check(bad, "api") == 4
    said = capsys.readouterr().out
    assert "FAIL  fusion.factory-is-there  seeded-bad/joined" in said
    assert "Did you mean 'Fusion'?" in said
    assert "1 check failed: " in said


def test_json_holds_every_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write_package(tmp_path, "seeded-json", light=LIGHT.replace("parts:Fusion", "parts:Fuson"), code=CODE)

    assert run_check(bad, "api", as_json=True) == 4

    told = json.loads(capsys.readouterr().out)
    assert told["conforms"] is False
    assert told["level"] == "api"
    assert told["counts"]["fail"] == 1
    (fault,) = [result for result in told["results"] if result["status"] == "fail"]
    assert set(fault) == {"check", "subject", "status", "promise", "expected", "found", "mend", "time_s"}


def test_a_marked_test_runs_once_for_each_check(tmp_path: Path) -> None:
    package = write_package(tmp_path, "seeded-marked", light=LIGHT, code=CODE)
    tests = tmp_path / "test_marked.py"
    tests.write_text(
        "import pytest\n"
        f"@pytest.mark.mmbench_conformance({str(package)!r}, level='api')\n"
        "def test_it(mmbench_check):\n    mmbench_check()\n"
    )

    # Where an older install of mmbench does not name the plugin yet, name it here.
    named = [] if _plugin_is_installed() else ["-p", "mmbench.testing.pytest_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *named, str(tests)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_it[joined-fusion.factory-is-there] PASSED" in done.stdout
    assert "test_it[seeded-marked-plugin.loads] PASSED" in done.stdout


def _plugin_is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.name == "mmbench" for point in entry_points(group="pytest11"))
