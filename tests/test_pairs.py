"""The command that mends a compiled pair follows from the versions at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from mmbench.pairs import companion_in, explain_pair, install_line


@pytest.mark.parametrize(
    ("companion", "torch", "version", "line"),
    [
        # As published: torchvision 0.21 to 0.28 for torch 2.6 to 2.13, torchaudio with the number of its torch.
        ("torchvision", "2.6.0", "0.22.0", "pip install 'torchvision==0.21.*'"),
        ("torchvision", "2.11.0", "0.29.1", "pip install 'torchvision==0.26.*'"),
        ("torchvision", "2.14.1", "0.26.0", "pip install 'torchvision>=0.29'"),
        ("torchvision", "2.15.0", "0.28.0", "pip install 'torchvision>=0.29'"),
        ("torchaudio", "2.8.0", "2.11.1", "pip install 'torchaudio==2.8.0'"),
        ("torchaudio", "2.11.0", "2.11.1", "pip install 'torchaudio==2.11.0'"),
        (
            "torchaudio",
            "2.12.0",
            "2.11.1",
            "pip install 'torchaudio==2.11.0'",
        ),  # the library of 2.11.1 wants torch 2.13
        ("torchaudio", "2.13.0", "2.11.0", "pip install 'torchaudio>=2.11.1'"),
        ("torchaudio", "2.14.1", "2.11.0", "pip install 'torchaudio>=2.11.1'"),
        # The right release that does not load all the same is damaged.
        ("torchaudio", "2.14.1", "2.11.1", "pip install --force-reinstall --no-deps 'torchaudio==2.11.1'"),
        (
            "torchvision",
            "2.14.1+cpu",
            "0.29.1+cpu",
            "pip install --force-reinstall --no-deps 'torchvision==0.29.1+cpu'",
        ),
        # The right release of another build.
        (
            "torchvision",
            "2.12.0+cu130",
            "0.27.0+cpu",
            "pip install --force-reinstall 'torchvision==0.27.*' (from the index that has torch as +cu130)",
        ),
    ],
)
def test_the_line_gives_the_torch_at_hand_a_companion(companion: str, torch: str, version: str, line: str) -> None:
    assert install_line(companion, torch=torch, version=version) == line


def test_torch_moves_where_no_companion_for_it_is_allowed() -> None:
    line = install_line("torchaudio", torch="2.11.0", version="2.11.1", wanted=SpecifierSet(">=2.11.1"))

    assert line.startswith("pip install --upgrade torch ")
    assert "torchaudio" in line


def test_a_requirement_that_the_line_meets_changes_nothing() -> None:
    line = install_line("torchaudio", torch="2.11.0", version="2.11.1", wanted=SpecifierSet(">=2.6"))

    assert line == "pip install 'torchaudio==2.11.0'"


def install(site: Path, name: str, version: str, requires: str = "") -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def test_what_is_installed_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("torch", "2.11.0"), ("torchaudio", "2.11.1")):
        install(tmp_path, name, version)
    install(tmp_path, "strict-plugin", "1.0", "torchaudio>=2.11.1")
    monkeypatch.syspath_prepend(tmp_path)

    free = explain_pair("torchaudio", "OSError: undefined symbol: torch_exception")
    bound = explain_pair("torchaudio", "OSError: undefined symbol: torch_exception", ["strict-plugin", "not-there"])

    assert free.subject == "torchaudio 2.11.1"
    assert free.problem == "does not load with torch 2.11.0: OSError: undefined symbol: torch_exception"
    assert free.hint == "pip install 'torchaudio==2.11.0'"
    assert bound.hint.startswith("pip install --upgrade torch ")


def test_a_module_that_a_companion_lacks_is_named() -> None:
    pair = explain_pair("torchvision", "ModuleNotFoundError: No module named 'PIL'")

    assert "install what brings the module 'PIL'" in pair.hint
    assert pair.problem == "cannot be imported: ModuleNotFoundError: No module named 'PIL'"


def test_an_error_inside_a_companion_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchaudio.py").write_text("raise OSError('undefined symbol')\n")
    (tmp_path / "library_around_it.py").write_text(
        "try:\n    import torchaudio\nexcept OSError as error:\n    raise RuntimeError('no backend') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "torchaudio", raising=False)

    with pytest.raises(RuntimeError) as caught:
        __import__("library_around_it")

    assert companion_in(caught.value) == "torchaudio"
    assert companion_in(ValueError("something else")) == ""
