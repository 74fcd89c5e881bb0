"""`mmbench plugins doctor` names each trouble and what would end it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mmbench import doctor
from mmbench.doctor import Trouble, examine, run_doctor
from mmbench.loading import PluginInfo
from mmbench.registry import Entry, Registry
from mmbench.spec import EncoderSpec, FusionSpec, Kind


def plugin(dist: str, status: str = "loaded", **facts: object) -> PluginInfo:
    return PluginInfo(name=dist, dist=dist, dist_version="1.0", origin=dist, status=status, **facts)  # type: ignore[arg-type]


def fusion(dist: str, name: str, requires: tuple[str, ...] = ()) -> Entry:
    spec = FusionSpec(name=name, factory="a.b:C", version="1", requires=requires)
    return Entry(spec=spec, dist=dist, dist_version="1.0", plugin=dist)


def encoder(dist: str, name: str, kind: Kind) -> Entry:
    spec = EncoderSpec(name=name, factory="a.b:C", version="1", kinds=(kind,))
    return Entry(spec=spec, dist=dist, dist_version="1.0", plugin=dist)


def installed(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], needs: dict[str, list[str]] | None = None
) -> None:
    monkeypatch.setattr(doctor, "_version", versions.get)

    def requires(dist: str) -> list[str]:
        return (needs or {}).get(dist, [])

    monkeypatch.setattr("importlib.metadata.requires", requires)


def only(registry: Registry) -> Trouble:
    (trouble,) = examine(registry)
    return trouble


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (
            "ModuleNotFoundError: No module named 'no_such_thing.core'",
            "install what it needs: pip install no-such-thing",
        ),
        (
            "ModuleNotFoundError: No module named 'mmbench_sick.parts'",
            "its installation is incomplete: pip install --force-reinstall --no-deps mmbench-sick",
        ),
        (
            "it needs plugin API 9, but this mmbench offers 1: upgrade mmbench, or install an older version of the plugin",
            "pip install --upgrade mmbench, or an older version of mmbench-sick",
        ),
        (
            "no hook is named 'mmbench_fusion'. Did you mean 'mmbench_fusions'?",
            "its author can see the fault by `mmbench check mmbench-sick --level api`; until then it is left out: "
            "pip uninstall mmbench-sick",
        ),
    ],
)
def test_a_broken_plugin_comes_with_its_traceback_and_a_cure(
    reason: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, {})

    trouble = only(Registry(plugins=[plugin("mmbench-sick", "failed", reason=reason, traceback="File x, line 3")]))

    assert (trouble.grade, trouble.problem, trouble.advice) == ("error", reason, advice)
    assert trouble.traceback == "File x, line 3"


def test_two_distributions_with_one_name_are_told_apart_by_their_full_names(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {})

    trouble = only(Registry(entries=[fusion("one", "gated"), fusion("two", "gated"), fusion("two", "concat")]))

    assert trouble == Trouble(
        grade="warning",
        subject="fusion 'gated'",
        problem="2 distributions offer it: its short name is ambiguous",
        advice="write one/gated or two/gated, or uninstall one",
    )


def test_encoders_of_different_kinds_may_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {})

    assert examine(Registry(entries=[encoder("one", "mlp", "image"), encoder("two", "mlp", "tabular")])) == []


def test_a_requirement_that_is_not_met_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"mmbench-a": ["numpy>=2", 'nothing>=1; extra == "test"', 'old>=1; python_version < "3"', "rich"]}
    installed(monkeypatch, {"numpy": "1.26.4"}, needs)

    first, second = examine(Registry(plugins=[plugin("mmbench-a")]))

    assert first.problem == "it needs numpy>=2, but numpy 1.26.4 is installed"
    assert first.advice == "pip install 'numpy>=2', or another version of mmbench-a"
    assert second.problem == "it needs rich, which is not installed"


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        ({"torch": "2.11.0+cu130", "torchaudio": "2.11.0", "torchvision": "0.26.0+cu130"}, ""),
        (
            {"torch": "2.15.0", "torchaudio": "2.11.0"},
            "torchaudio 2.11.0 was not made for torch 2.15.0: importing it may fail",
        ),
        (
            {"torch": "2.11.0", "torchvision": "0.25.0"},
            "torchvision 0.25.0 was not made for torch 2.11.0: importing it may fail",
        ),
        ({"torchaudio": "2.11.0"}, ""),
    ],
)
def test_torch_and_its_siblings_must_belong_together(
    versions: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, versions)

    assert [trouble.problem for trouble in examine(Registry())] == ([problem] if problem else [])


def test_a_part_whose_packages_are_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {})

    trouble = only(Registry(entries=[fusion("one", "fancy", requires=("no_such_package", "json"))]))

    assert trouble.problem == "it is unavailable: its code needs no_such_package"
    assert trouble.advice == "pip install no-such-package"


def test_the_exit_code_is_4_for_errors_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, {})
    noisy = Registry(plugins=[plugin("noisy", warnings=("printed at import: hello",))])
    sick = Registry(plugins=[plugin("sick", "failed", reason="SyntaxError: invalid syntax")])

    assert run_doctor(Registry()) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert run_doctor(noisy) == 0
    assert "printed at import: hello" in capsys.readouterr().out
    assert run_doctor(sick, as_json=True) == 4
    assert json.loads(capsys.readouterr().out)["troubles"][0]["problem"] == "SyntaxError: invalid syntax"


def test_the_doctor_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mmbench.registry import load_registry; from mmbench.doctor import run_doctor\n"
        "run_doctor(load_registry()); sys.exit(bool({'torch', 'pandas', 'timm', 'transformers'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
