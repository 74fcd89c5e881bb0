"""plugins/README.md is true: its files are written, its commands are run, its outputs are compared.

A block of python or toml whose first line is a comment with a path is that file ("…, continued" appends to it). In a
console block every line after "$ " is a command; what follows is its output, where "..." stands for any text and, alone
on a line, for any lines. `pip install` goes into a folder of the test's own.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmbench import hookspecs

README = Path(__file__).parents[1] / "plugins" / "README.md"
CLI = "import sys; sys.argv[0] = 'mmbench'; from mmbench.cli import main; main()"
FILE_LINE = re.compile(r"# (?P<path>[\w./-]+\.\w+)(?P<continued>, continued)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and the README's line where it opens."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> re.Match[str] | None:
        """Its path, where it is a file."""
        return FILE_LINE.fullmatch(self.text.partition("\n")[0]) if self.language in ("python", "toml") else None


@dataclass(frozen=True)
class Command:
    """A command, its expected output, and how many blocks precede it."""

    arguments: tuple[str, ...]
    expected: str
    line: int
    num_blocks_before: int

    def __str__(self) -> str:
        return f"{self.line}-{' '.join(self.arguments[:2])}"


def read_blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["text"], text[: found.start()].count("\n") + 1)
        for found in re.finditer(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def read_commands() -> Iterator[Command]:
    for position, block in enumerate(BLOCKS):
        if block.language != "console":
            continue
        for chunk in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = chunk.partition("\n")
            line = block.line + 1 + block.text[: block.text.index(f"$ {command}")].count("\n")
            yield Command(tuple(shlex.split(command)), expected, line, position)


BLOCKS = read_blocks()
COMMANDS = list(read_commands())


class Workplace:
    """A folder in which the README is followed from the top; files are written and packages installed on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        self._num_blocks = 0
        self._installed: set[Command] = set()

    def catch_up(self, command: Command) -> None:
        """Write the files and make the installations that come before a command."""
        while self._num_blocks < command.num_blocks_before:
            block = BLOCKS[self._num_blocks]
            self._num_blocks += 1
            if block.file:
                self._write(block.file["path"], block.text, append=bool(block.file["continued"]))
            for other in COMMANDS:
                if BLOCKS[other.num_blocks_before] is block and other.arguments[0] == "pip":
                    self.run(other)
        for other in COMMANDS:
            if other.num_blocks_before == command.num_blocks_before and other.arguments[0] == "pip":
                self.run(other)

    def run(self, command: Command) -> tuple[int, str]:
        """Run a command; give its exit code and everything that it printed."""
        program, *arguments = command.arguments
        if program == "pip":
            return self._install(command)
        programs = {"mmbench": [sys.executable, "-P", "-c", CLI], "python": [sys.executable]}
        return self._call([*programs[program], *arguments])

    def _install(self, command: Command) -> tuple[int, str]:
        assert command.arguments[:2] == ("pip", "install")
        if command in self._installed:
            return 0, ""
        self._installed.add(command)
        if importlib.util.find_spec("pip") is None:
            pytest.skip("this environment has no pip")
        quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", str(self.site)]
        isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        code, output = self._call([sys.executable, "-m", "pip", "install", *quiet, *isolation, *command.arguments[2:]])
        assert code == 0, output
        return 0, ""

    def _write(self, path: str, text: str, *, append: bool) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _, _, body = text.partition("\n")
        with target.open("a" if append else "w", encoding="utf-8") as file:
            file.write(f"\n\n{body}" if append else body)

    def _call(self, arguments: list[str]) -> tuple[int, str]:
        own = {
            "MMBENCH_CACHE": str(self.folder / "cache"),
            "MMBENCH_DATA": str(self.folder / "data"),
            "PYTHONPATH": str(self.site),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("readme"))


def _marks(command: Command) -> list[pytest.MarkDecorator]:
    trains = command.arguments[:2] == ("mmbench", "run") or command.arguments[0] == "python"
    return [pytest.mark.slow] if trains else []


@pytest.mark.parametrize("command", [pytest.param(c, marks=_marks(c), id=str(c)) for c in COMMANDS])
def test_a_command_of_the_readme_prints_what_the_readme_shows(workplace: Workplace, command: Command) -> None:
    workplace.catch_up(command)

    code, output = workplace.run(command)

    expected, expected_code = _exit_code(command.expected)
    assert code == expected_code, output
    missed = _first_line_missed(expected, output)
    assert not missed, f"README line {command.line} promises {missed!r}, but the output is\n{output}"


def _exit_code(expected: str) -> tuple[str, int]:
    found = re.search(r"^\[exit code (\d+)\]\n\Z", expected, re.MULTILINE)
    return (expected[: found.start()], int(found[1])) if found else (expected, 0)


def _stripped(text: str) -> str:
    """Drop the blanks that pad tables, and blank lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


def _first_line_missed(expected: str, output: str) -> str:
    """Return the first line of the expected output that the output does not follow; "" when it follows all."""
    lines = _stripped(expected).splitlines()
    patterns = [
        r"(?:.*\n)*?" if line == "..." else ".*?".join(map(re.escape, line.split("..."))) + r"\n" for line in lines
    ]
    text = _stripped(output)
    if not lines or re.fullmatch("".join(patterns), text):
        return ""
    missed = (line for number, line in enumerate(lines) if not re.match("".join(patterns[: number + 1]), text))
    return next(missed, "the end of the output")


def test_every_block_is_a_file_or_commands_or_the_list_of_hooks() -> None:
    others = [block for block in BLOCKS if not block.file and block.language != "console"]

    assert len(BLOCKS) > 15
    assert [block.text.partition("(")[0] for block in others] == ["def mmbench_encoders"]


def test_every_python_block_is_valid_python() -> None:
    for block in BLOCKS:
        if block.language == "python":
            compile(block.text, f"README line {block.line}", "exec")


def test_the_hooks_of_the_readme_are_those_of_hookspecs() -> None:
    source = ast.parse(Path(hookspecs.__file__).read_text(encoding="utf-8"))
    documented = ast.parse(next(block.text for block in BLOCKS if block.text.startswith("def mmbench_encoders")))

    assert _signatures(documented) == _signatures(source)
    assert len(_signatures(source)) == 7


def _signatures(module: ast.Module) -> list[str]:
    return [
        f"{function.name}({ast.unparse(function.args)}) -> {ast.unparse(function.returns or ast.Constant(None))}"
        for function in module.body
        if isinstance(function, ast.FunctionDef)
    ]
