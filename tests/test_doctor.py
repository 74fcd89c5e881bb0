"""`mmbench plugins doctor` names each trouble and what would end it."""

from __future__ import annotations

from importlib import metadata

import pytest

from mmbench.doctor import Finding, examine, findings_json, print_findings
from mmbench.loading import PluginInfo
from mmbench.registry import Entry, Registry
from mmbench.spec import DatasetSpec, EncoderSpec, FusionSpec, Kind, Modality, TaskSpec


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed but what a test says."""
    installed(monkeypatch, {})


def installed(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], needs: dict[str, list[str]] | None = None
) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda dist: (needs or {}).get(dist))


def plugin(dist: str, status: str = "loaded", **facts: object) -> PluginInfo:
    return PluginInfo(name="x", dist=dist, dist_version="1.0", origin=dist, status=status, **facts)  # type: ignore[arg-type]


def fusion(dist: str, name: str, factory: str = "json:loads", requires: tuple[str, ...] = ()) -> Entry:
    spec = FusionSpec(name=name, factory=factory, version="1", requires=requires)
    return Entry(spec=spec, dist=dist, dist_version="1.0", plugin=dist)


def encoder(dist: str, name: str, kind: Kind) -> Entry:
    spec = EncoderSpec(name=name, factory="json:loads", version="1", kinds=(kind,))
    return Entry(spec=spec, dist=dist, dist_version="1.0", plugin=dist)


def findings(registry: Registry) -> list[Finding]:
    """Return what is wrong beside roles that a registry of a test leaves empty."""
    return [finding for finding in examine(registry) if "plugin is installed" not in finding.problem]


def only(registry: Registry) -> Finding:
    (finding,) = findings(registry)
    return finding


def test_a_role_without_components_is_a_warning_with_the_package_that_brings_it() -> None:
    task = TaskSpec(name="y", kind="multiclass", num_outputs=2)
    modalities = (Modality(name="front", kind="image"), Modality(name="age", kind="tabular"))
    pairs = DatasetSpec(name="pairs", factory="json:loads", version="1", modalities=modalities, tasks=(task,))
    dataset = Entry(spec=pairs, dist="one", dist_version="1", plugin="one")

    alone = examine(Registry(entries=[fusion("one", "mine")]))
    with_data = examine(Registry(entries=[fusion("one", "mine"), dataset, encoder("one", "cnn", "image")]))

    assert [(item.severity, item.subject, item.problem, item.mend) for item in alone] == [
        ("warning", "datasets", "no dataset plugin is installed", "pip install mmbench-datasets, or 'mmbench[base]'"),
        (
            "warning",
            "objectives",
            "no objective plugin is installed",
            "pip install mmbench-objectives, or 'mmbench[base]'",
        ),
        (
            "warning",
            "encoders",
            "no encoder plugin is installed",
            "pip install mmbench-tabular, mmbench-vision, … or 'mmbench[all]'",
        ),
    ]
    assert [(item.problem, item.mend) for item in with_data] == [
        ("no objective plugin is installed", "pip install mmbench-objectives, or 'mmbench[base]'"),
        ("no encoder of tabular is installed", "pip install mmbench-tabular"),
    ]


@pytest.mark.parametrize(
    ("reason", "mend"),
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
            "it is left out; mend it (`mmbench check mmbench-sick --level api`), or pip uninstall mmbench-sick",
        ),
    ],
)
def test_a_broken_plugin_comes_with_its_traceback_and_a_cure(reason: str, mend: str) -> None:
    found = only(Registry(plugins=[plugin("mmbench-sick", "failed", reason=reason, traceback="File x, line 3")]))

    assert (found.severity, found.problem, found.mend) == ("error", reason, mend)
    assert found.traceback == "File x, line 3"


def test_two_distributions_with_one_name_are_told_apart_by_their_full_names() -> None:
    found = only(Registry(entries=[fusion("one", "gated"), fusion("two", "gated"), fusion("two", "concat")]))

    assert (found.severity, found.subject) == ("warning", "fusion 'gated'")
    assert found.mend == "write one/gated or two/gated"


def test_encoders_of_different_kinds_may_share_a_name() -> None:
    assert findings(Registry(entries=[encoder("one", "mlp", "image"), encoder("two", "mlp", "tabular")])) == []


def test_a_requirement_that_is_not_met_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "mmbench-a": ["numpy>=2", "six", 'nothing>=1; extra == "test"', 'old>=1; python_version < "3"', "absent>1"]
    }
    installed(monkeypatch, {"numpy": "1.26.4", "six": "1.16"}, needs)

    first, second = findings(Registry(plugins=[plugin("mmbench-a")]))

    assert (first.problem, first.mend) == ("needs numpy>=2, but numpy 1.26.4 is installed", "pip install 'numpy>=2'")
    assert (second.problem, second.mend) == ("needs absent>1, which is not installed", "pip install 'absent>1'")


def test_what_an_extra_stands_for_is_required_too(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "mmbench-a": ["mmbench[base]>=0.1"],
        "mmbench": [
            'mmbench-datasets>=0.1; extra == "base"',
            'mmbench[base]; extra == "all"',
            'six; extra == "all"',
            "pip",
        ],
    }
    installed(monkeypatch, {"mmbench": "0.1.0", "pip": "26"}, needs)

    found = findings(Registry(plugins=[plugin("mmbench-a")]))

    assert [(item.subject, item.mend) for item in found] == [("mmbench-a", "pip install 'mmbench-datasets>=0.1'")]


def test_a_part_whose_packages_are_missing_says_which() -> None:
    found = only(Registry(entries=[fusion("one", "fancy", requires=("no_such_package", "json"))]))

    assert found.problem == "needs no_such_package, which cannot be imported here"


def test_a_part_whose_code_is_not_there_is_an_error() -> None:
    found = only(Registry(entries=[fusion("one", "gone", factory="json:no_such_thing")]))

    assert found.severity == "error"
    assert "'json' has no 'no_such_thing'" in found.problem


def test_what_a_plugin_did_at_import_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(Registry(plugins=[plugin("noisy", warnings=("printed at import: hello",))]))

    print_findings(found)

    assert findings_json(found)[0]["severity"] == "warning"
    assert capsys.readouterr().out.endswith("0 errors, 1 warning\n")
