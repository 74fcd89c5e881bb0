"""Commands in the documentation reach mmbench as they are written, in bash and in zsh, and its parser takes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mmbench.cli import app
from mmbench.cli_arguments import resolve_aliases

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^ *```(?:console|bash|sh)?\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)
#: Signs of an example that a shell would expand to what the reader has.
_PLACEHOLDERS = ("$",)
_END = "end-of-command"


def commands(guide: Path) -> Iterator[str]:
    """Yield each command of mmbench in a guide's console blocks, continued lines joined; none with placeholders."""
    for block in _BLOCK.finditer(guide.read_text(encoding="utf-8")):
        for line in block["text"].replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith("mmbench ") and not any(sign in line for sign in _PLACEHOLDERS):
                yield line


GUIDES = [
    guide
    for guide in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "plugins").glob("*/README.md")))
    if any(commands(guide))
]


def arguments_in(shell: str, lines: list[str], folder: Path) -> list[list[str]]:
    """Return the arguments that `mmbench` gets when a shell runs these lines."""
    script = "\n".join([f"mmbench() {{ printf '%s\\0' \"$@\" {_END}; }}", *lines])
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    if shell == "zsh":
        script = "setopt interactivecomments\n" + script
    done = subprocess.run(
        [shell, *options, "-c", script], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    typed = done.stdout.split(f"{_END}\0")[:-1]
    return [line.split("\0")[:-1] for line in typed]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_examples_mean_the_same_in_bash_and_zsh_and_are_understood(guide: Path, tmp_path: Path) -> None:
    lines = list(commands(guide))

    found = {shell: arguments_in(shell, lines, tmp_path) for shell in ("bash", "zsh") if shutil.which(shell)}

    assert found["bash"] == found.get("zsh", found["bash"])
    assert len(found["bash"]) == len(lines)
    for line, arguments in zip(lines, found["bash"]):
        assert understood(arguments), line


def test_commands_are_found_in_the_readme_and_in_the_guides_of_most_plugins() -> None:
    assert ROOT / "README.md" in GUIDES
    assert len(GUIDES) >= 10


def understood(arguments: list[str]) -> bool:
    """Whether the command line takes these arguments: command, options and their values."""
    group: Any = typer.main.get_command(app)
    name, *rest = resolve_aliases(arguments)
    command = group.commands[name]
    with group.make_context("mmbench", [name], resilient_parsing=True) as parent:
        while rest and rest[0] in getattr(command, "commands", {}):
            command, *rest = command.commands[rest[0]], *rest[1:]
        with command.make_context(name, list(rest), parent=parent):
            return True


def test_an_unquoted_bracket_would_be_found(tmp_path: Path) -> None:
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed; with it, the package zsh of most systems, this runs")
    with pytest.raises(AssertionError, match="no matches found"):
        arguments_in("zsh", ["mmbench run -d digits -e image=cnn[width=32]"], tmp_path)


def test_an_option_that_is_not_there_would_be_found() -> None:
    with pytest.raises(Exception, match="--epoch"):
        understood(["run", "-d", "xor", "--epoch", "3"])


def test_examples_in_the_help_are_quoted_where_a_shell_would_expand_them() -> None:
    group: Any = typer.main.get_command(app)
    texts = [
        parameter.help.replace("\\[", "[")
        for command in group.commands.values()
        for parameter in command.params
        if getattr(parameter, "help", None)
    ]

    examples = [word for text in texts for word in re.findall(r"\S*\w\[\w+=\S*", text)]
    assert len(examples) >= 8
    assert [word for word in examples if not word.startswith("'")] == []
