"""Every table that a command prints, at the widths of terminals: names whole, no line too long."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comparison_cases import make_run
from rich.cells import cell_len

from mmbench.component_card import card_of
from mmbench.ensemble_session import print_ensembles
from mmbench.registry import load_registry
from mmbench.report import ensemble
from mmbench.report.costs import SHOWN, Cost, Figure, print_costs
from mmbench.terminal_table import PIPE_WIDTH, Column, TerminalTable, wrap
from mmbench.views import SafeConsole

WIDTHS = (60, 80, 100, 120)
ENCODERS = "audio:conv1d+front_camera:timm:mobilenetv3_small_075+text:bag-of-embeddings"
FUSIONS = ("concat", "cross-attention[heads=8]", "low-rank-tensor[rank=4,fused_dim=128]")
ROLES = ("encoder", "fusion", "dataset", "objective", "tracker", "executor")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


LONG = "bag-of-embeddings[vocabulary_size=65536,max_ngram=4,feature_dim=256,dropout=0.25,max_length=2048]"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for name, more in (("first", 0), ("second", 2)):
        wrong = {fusion: range(4 * place + more) for place, fusion in enumerate(FUSIONS)}
        val = {fusion: 0.9 - place / 10 for place, fusion in enumerate(FUSIONS)}
        make_run(folder / "results" / name, FUSIONS, (0, 1), encoders=ENCODERS, wrong=wrong, val=val)
    return folder


class Terminal:
    """A terminal of a given width that keeps what is printed on it, without styles."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.console = SafeConsole(
            file=io.StringIO(), force_terminal=True, width=width, highlight=False, emoji=False, markup=False
        )

    def lines(self) -> list[str]:
        return _STYLE.sub("", self.console.file.getvalue()).splitlines()  # type: ignore[attr-defined]


def command_lines(
    arguments: list[str], width: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Return what a command prints on a terminal of this width, without styles."""
    from mmbench.cli import main

    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "argv", ["mmbench", *arguments])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    printed = capsys.readouterr()
    assert not code, printed.err
    return _STYLE.sub("", printed.out).splitlines()


def squeezed(text: str) -> str:
    return "".join(text.split())


def assert_fits_with_names(lines: list[str], width: int, names: list[tuple[str, ...]]) -> None:
    """Each row's names stand one after the other, in columns or joined by commas; no line is longer than `width`."""
    assert [line for line in lines if cell_len(line) > width] == []
    whole = squeezed("".join(lines))
    for name in names:
        alone, joined = ("".join(map(squeezed, name)), ",".join(map(squeezed, name)))
        assert alone in whole or joined in whole, name


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", [["report", "first"], ["compare", "first", "second"]], ids=" ".join)
def test_every_row_of_a_result_table_shows_its_name_whole(command, width, home, monkeypatch, capsys):
    lines = command_lines(command, width, home, monkeypatch, capsys)

    assert_fits_with_names(lines, width, [(ENCODERS, fusion) for fusion in FUSIONS])


@pytest.mark.parametrize("width", WIDTHS)
def test_scores_and_their_intervals_are_shown_at_every_width(width, home, monkeypatch, capsys):
    lines = command_lines(["report", "first"], width, home, monkeypatch, capsys)

    rows = [line for line in lines if re.search(r"[01]\.\d{3} to [01]\.\d{3}", line)]
    assert len(rows) == len(FUSIONS)


@pytest.mark.parametrize("width", WIDTHS)
def test_ensembles_and_profiles_show_their_names_whole(width):
    tested = ensemble.Tested(score=0.9, change=0.0125, low=-0.01, high=0.03, p_value=0.2, test="McNemar")
    seeds = [
        ensemble.SeedEnsemble(
            encoders=ENCODERS, fusion=fusion, objective="supervised", seeds=(0, 1), single=0.88, tested=tested
        )
        for fusion in FUSIONS
    ]
    joined = ensemble.Ensembles(
        dataset="digits", task="digit", metric="accuracy", direction="max", best_score=0.9, seeds=tuple(seeds)
    )
    figures = {metric: Figure(value=1234.5, low=None, high=None, unit="", note="") for _, metric, _ in SHOWN}
    costs = [
        Cost(
            dataset="digits", encoders=ENCODERS, fusion=fusion, objective="supervised", variant="clean", num_rounds=1,
            status="ok", reason="", contended=0, measuring=("1",), figures=figures,
        )
        for fusion in FUSIONS
    ]  # fmt: skip
    ensembles, profiles = Terminal(width), Terminal(width)

    print_ensembles(joined, ensembles.console)
    print_costs(costs, profiles.console)

    assert_fits_with_names(ensembles.lines(), width, [(f"{ENCODERS}{fusion}supervised",) for fusion in FUSIONS])
    assert_fits_with_names(profiles.lines(), width, [(ENCODERS, fusion) for fusion in FUSIONS])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_list_has_one_line_for_each_component(width, home, monkeypatch, capsys):
    lines = command_lines(["list"], width, home, monkeypatch, capsys)

    registry = load_registry()
    names = [entry.spec.name for role in ROLES for entry in registry.entries(role)]
    assert [line for line in lines if cell_len(line) > width] == []
    listed = [line.split()[0].split("[")[0].split(":")[0] for line in lines if line[:1].isalnum()]
    assert [name for name in listed if name != "name" and not name.isdecimal()] == names


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["plan", "-d", "xor", "-f", "concat", "-f", "cross-attention"], [("xor", "a:mlp+b:mlp", "concat")]),
        (["status", "first"], [("ok",)]),
        (["plugins"], [("mmbench-vision",), ("mmbench-datasets",)]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_no_line_of_another_table_is_longer_than_the_terminal(command, names, width, home, monkeypatch, capsys):
    lines = command_lines(command, width, home, monkeypatch, capsys)

    assert_fits_with_names(lines, width, names)


def test_columns_make_room_by_priority_and_rows_take_two_lines_below_100():
    made = TerminalTable(
        [
            Column(heading="#", kind="lead"),
            Column(heading="name", kind="name"),
            Column(heading="score"),
            Column(heading="cost", priority=1),
        ]
    )
    made.add_row("1", "a" * 80, "0.500", "10 ms")
    wide, dropped, narrow, tiny = Terminal(100), Terminal(100), Terminal(95), Terminal(40)
    for terminal in (wide, narrow, tiny):
        made.print(terminal.console)
    made.add_row("2", "b" * 86, "0.400", "9 ms")
    made.print(dropped.console)

    assert wide.lines()[2] == f"1  {'a' * 80}  0.500  10 ms"
    assert dropped.lines()[3] == f"2  {'b' * 86}  0.400"
    assert narrow.lines()[3:] == [f"1  {'a' * 80}", "   0.500  10 ms"]
    assert tiny.lines()[3:] == [f"1  {'a' * 37}", f"   {'a' * 37}", f"   {'a' * 6}", "   0.500  10 ms"]


def test_a_pipe_gets_one_line_for_each_row_however_long():
    out = SafeConsole(file=io.StringIO(), force_terminal=False, width=PIPE_WIDTH)
    made = TerminalTable([Column(heading="name", kind="name"), Column(heading="score")])
    made.add_row(LONG * 5, "0.5")

    made.print(out)

    assert out.file.getvalue().splitlines()[2] == f"{LONG * 5}    0.5"  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [1, 7, 20, 59])
def test_a_wrapped_name_keeps_every_sign(width):
    lines = wrap(f"audio:{LONG} + image:cnn", width)

    assert squeezed("".join(lines)) == squeezed(f"audio:{LONG} + image:cnn")
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_a_stream_without_unicode_gets_the_same_rows_and_no_traceback(encoding, home):
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", "report", "first"],
        cwd=home,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80", "FORCE_COLOR": "1"},
    )

    text = done.stdout.decode(encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert squeezed(ENCODERS) in squeezed(_STYLE.sub("", text))


def test_no_color_leaves_no_color(home, monkeypatch, capsys):
    from mmbench.cli import main

    monkeypatch.chdir(home)
    for name, value in (("COLUMNS", "80"), ("FORCE_COLOR", "1"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["mmbench", "report", "first"])
    with pytest.raises(SystemExit):
        main()

    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", capsys.readouterr().out)


def test_colors_are_those_that_light_and_dark_terminals_show(home, monkeypatch, capsys):
    """Yellow, cyan and green vanish on white, blue on black: text is in the terminal's own color, red or magenta."""
    from mmbench.cli import main

    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    codes = set()
    for command in (["report", "first"], ["compare", "first", "second"], ["plugins"], ["show", "digits"], ["status"]):
        monkeypatch.setattr(sys, "argv", ["mmbench", *command])
        with pytest.raises(SystemExit):
            main()
        codes |= set(re.findall(r"\x1b\[([0-9;]*)m", capsys.readouterr().out))

    assert "35" in codes
    assert codes <= {"0", "1", "2", "31", "35", "1;31", "1;35"}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_component_is_described_by_words_for_each_option_and_an_example(width, home, monkeypatch, capsys):
    lines = command_lines(["show", "tensor"], width, home, monkeypatch, capsys)

    text = " ".join(" ".join(lines).split())
    assert [line for line in lines if cell_len(line) > width] == []
    for option, words in (
        ("max_tensor_dim=2048", "Most entries of the tensor"),
        ("fused_dim=128", "Width of the result"),
    ):
        assert squeezed(option + words) in squeezed(text)
    assert "'tensor[modality_dim=16]'" in text
    assert "a vector of each of 2 to 6 modalities" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_dataset_is_described_by_its_modalities_tasks_and_the_sizes_of_its_splits(width, home, monkeypatch, capsys):
    lines = command_lines(["show", "xor"], width, home, monkeypatch, capsys)

    text = " ".join(" ".join(lines).split())
    assert [line for line in lines if cell_len(line) > width] == []
    assert "a (tabular), b (tabular)" in text
    assert "multiclass, 2 classes" in text
    assert re.search(r"samples: train [\d,]+, val [\d,]+, test [\d,]+", text)
    assert "{'" not in text


def test_options_of_most_components_have_words():
    entries = [entry for role in ROLES for entry in load_registry().entries(role)]
    described = [
        bool(re.search(r"\S  +\S", text))
        for entry in entries
        for heading, text in card_of(entry)
        if heading == "options" and ": how pretrained" not in text
    ]

    assert len(described) > 250
    assert sum(described) / len(described) > 0.9
