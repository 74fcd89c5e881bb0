"""No text of a stranger's file, plugin or server tells the terminal anything."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from mmbench.encoding import json_text, printable
from mmbench.record import Record
from mmbench.store import RunStore
from mmbench.terminal_table import Column, TerminalTable
from mmbench.views import SafeConsole

ATTACKS = {
    "color": "\x1b[31mred\x1b[0m",
    "link": "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "link ended by ST": "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "title": "\x1b]0;title\x07",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "device control": "\x1bP+q544e\x1b\\",
    "privacy message": "\x1b^secret\x1b\\",
    "screen": "\x1b[2J\x1b[H",
    "reset": "\x1bc",
    "character set": "\x1b(0",
    "eight bit": "\x9b31m",
    "eight bit string": "\x9d0;title\x9c",
    "backspace": "safe\b\b\b\bevil",
    "carriage return": "safe\revil",
    "bell": "\a",
    "nul": "a\0b",
    "direction": "\u202egnirts\u202c",
    "isolates": "\u2066x\u2069",
    "line separator": "a\u2028b",
    "unfinished": "\x1b[",
    "unfinished link": "\x1b]8;;https://evil.example",
}
FORBIDDEN = [
    chr(code) for code in [*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2069, 0x2028, 0x202C]
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_a_terminal_obeys_is_written(attack: str) -> None:
    text = f"before {ATTACKS[attack]} after"
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=False, highlight=False, emoji=False, markup=False, width=200)
    console.print(text)
    console.print(Text(text))
    rows = TerminalTable([Column(heading="name", kind="name")], title=text)
    rows.add_row(text)
    rows.add_row(Text(text))
    rows.print(console)

    for shown in (printable(text), stream.getvalue()):
        assert not [character for character in FORBIDDEN if character in shown]
        assert shown.startswith("before ")
        assert "evil.example" not in shown or attack == "unfinished link"
    data = json_text({"text": text}, indent=None)
    assert not [character for character in FORBIDDEN if character in data]
    assert json.loads(data) == {"text": text}


def test_a_console_on_a_terminal_keeps_its_own_colors_only() -> None:
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=True, color_system="standard", width=80)
    console.print(Text("\x1b[5mname\x1b]8;;https://evil.example\x07", style="red"))

    assert stream.getvalue() == "\x1b[31mname\x1b[0m\n"


@pytest.mark.parametrize("text", ["plain", "Zürich 数字 💩 ±1 …", "two\nlines\tand a tab", "हिन्दी क्‍ष", "👩‍🔬"])
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


PLUGIN = """
from mmbench import FusionSpec, hookimpl

@hookimpl
def mmbench_fusions():
    return [FusionSpec(name="evil", factory="evil:F", version="1", summary="see \\x1b]8;;https://evil.example\\x07here\\x1b]8;;\\x07")]
"""


@pytest.mark.parametrize(
    "command",
    [
        ["list", "fusions", "--plugin", "evil.py"],
        ["show", "evil", "--plugin", "evil.py"],
        ["plan", "-d", "manifest:evil.csv[label=zzz]", "-f", "single"],
        ["list", "fusions", "--plugin", "evil.py", "--json"],
    ],
    ids=" ".join,
)
def test_commands_show_names_of_plugins_and_columns_without_escapes(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "evil.py").write_text(PLUGIN)
    (tmp_path / "evil.csv").write_text("\x1b[31mtext\x1b]8;;https://evil.example\x07,label\nx,0\ny,1\n")

    done = subprocess.run(
        [sys.executable, "-c", "from mmbench.cli import main; main()", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "MMBENCH_CACHE": str(tmp_path / "cache"), "PYTHONIOENCODING": "utf-8"},
    )

    assert not [character for character in FORBIDDEN if character in done.stdout + done.stderr]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "report", "export", "export --format json", "status --json"])
def test_what_a_journal_of_others_says_tells_the_terminal_nothing(tmp_path: Path, command: str) -> None:
    evil = "\x1b[31mred\x1b]8;;https://evil.example\x07click\x1b]8;;\x07\x9b2J\u202e"
    row = {
        "cell_id": "0" * 16, "dataset": f"data {evil}", "encoders": f"a={evil}", "fusion": f"fuse {evil}", "seed": 0,
        "objective": "supervised", "role": "cell", "status": "run", "reason": "",
    }  # fmt: skip
    with RunStore.create(tmp_path / "results" / "theirs") as store:
        store.write_run({"argv": ["run", evil]})
        store.write_plan([row], {row["dataset"]: {"summary": evil}})
        store.journal.append(Record(cell_id="0" * 16, status="failed", reason=f"it broke: {evil}"))

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from mmbench.cli import main; main()",
            *command.split()[:1],
            "theirs",
            *command.split()[1:],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )

    assert done.returncode in (0, 1), done.stderr
    assert not [character for character in FORBIDDEN if character in done.stdout + done.stderr]
    assert "Traceback" not in done.stderr
