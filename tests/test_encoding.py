"""Output on streams that are not UTF-8: no command fails because a stream cannot show a character."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.encoding import STAND_INS, ascii_text, json_text, use_safe_streams

ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "utf-8")


def _written(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    use_safe_streams()
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "accuracy ^ 0.5 +- 0.1 ... cafe ss 2x \\u65e5 \\udcff"),
        ("latin-1", "accuracy ^ 0.5 ± 0.1 ... café ß 2× \\u65e5 \\udcff"),
        ("cp1252", "accuracy ^ 0.5 ± 0.1 … café ß 2× \\u65e5 \\udcff"),
        ("cp437", "accuracy ^ 0.5 ± 0.1 ... café ß 2x \\u65e5 \\udcff"),
        ("utf-8", "accuracy ↑ 0.5 ± 0.1 … café ß 2× 日 \\udcff"),
    ],
)
def test_characters_that_a_stream_lacks_become_ascii(
    monkeypatch: pytest.MonkeyPatch, encoding: str, expected: str
) -> None:
    assert _written(monkeypatch, encoding, "accuracy ↑ 0.5 ± 0.1 … café ß 2× 日 \udcff") == expected


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_character_of_every_script_can_be_written(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    text = "".join(map(chr, range(1, 0x3000))).replace("\r", "") + "".join(STAND_INS) + "🙂\ud800"

    assert len(_written(monkeypatch, encoding, text)) >= len(text)


def test_stand_ins_are_ascii_and_not_empty() -> None:
    assert all(value.isascii() and value for value in STAND_INS.values())
    assert ascii_text("".join(STAND_INS)).isascii()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_parses_to_the_same_values_whatever_the_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    data = {"name": "café 日本 🙂 ↑", "number": 1.5}
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    text = json_text(data)

    assert json.loads(_written(monkeypatch, encoding, text)) == data


@pytest.mark.parametrize(("encoding", "arguments"), [("ascii", ["list", "fusions"]), ("cp437", ["plan", "--json"])])
def test_commands_end_with_their_exit_code_on_such_streams(tmp_path: Path, encoding: str, arguments: list[str]) -> None:
    lines = [f"text {number} 日 é,{'ab'[number % 2]}" for number in range(60)]
    (tmp_path / "m.csv").write_text("text,label é\n" + "\n".join(lines), encoding="utf-8")
    if "plan" in arguments:
        arguments = [
            *arguments,
            "-d",
            f"manifest:{tmp_path / 'm.csv'}[text=text,label=label é]",
            "-e",
            "embedding-lstm",
        ]
    command = [sys.executable, "-c", "from mmbench.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding, "MMBENCH_CACHE": str(tmp_path / "c")}

    done = subprocess.run(command, env=environment, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    text = done.stdout.decode(encoding)
    if "--json" in arguments:
        assert json.loads(text)["datasets"]["m"]["reference"].endswith("[text=text,label=label é]")
