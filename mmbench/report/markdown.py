"""The report as GitHub Markdown: the answer, a complete leaderboard per dataset and task, failures, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmbench.data_card import DataCard, card_lines
from mmbench.redaction import short_paths
from mmbench.report.answer import answer, board_answer, cautions, combo, metric_words, spread
from mmbench.report.decisions import tuned_words
from mmbench.report.intervals import Undefined
from mmbench.report.markdown_classes import class_lines
from mmbench.report.markdown_modalities import modality_lines
from mmbench.report.markdown_subgroups import subgroup_lines
from mmbench.report.methods import Across, across_datasets
from mmbench.report.provenance import provenance
from mmbench.report.tables import Board, Gain, Problem, Report, Row, Score
from mmbench.report.text import amount, counted, markdown, named, number, seconds, signed, table_lines
from mmbench.report.timing_claims import footnotes, mark


def render_markdown(report: Report) -> str:
    """Return the whole report; every name in it is escaped."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {markdown(named(report.run))}"
    yield ""
    yield markdown(answer(report), 100_000)
    yield ""
    yield f"{report.num_done} of {counted(report.num_planned, 'cell')} done: {_statuses(report.statuses)}."
    if len(report.boards) > 1:
        yield ""
        yield from overview_lines(report.boards)
    yield from _across(report)
    for board in report.boards:
        yield from _board(board, answered_here=len(report.boards) > 1)
    yield from _problems("Without a result", report.failures)
    yield from _problems("Not possible", report.impossible)
    yield from _data(report.cards)
    yield from _provenance(report.provenance)


def _board(board: Board, *, answered_here: bool) -> Iterator[str]:
    name = markdown(named(board.dataset))
    yield ""
    yield f"## {name}" if board.first else f"## {name}: {markdown(named(board.task))}"
    yield ""
    if board.summary:
        yield markdown(board.summary)
        yield ""
    if answered_here:
        yield markdown(board_answer(board), 100_000)
        yield ""
    for caution in cautions(board):
        yield f"- **Careful:** {markdown(caution)}"
    yield ""
    yield (
        f"{board.num_done} of {counted(board.num_planned, 'cell')} done: {_statuses(board.statuses)}. "
        "± is the standard deviation over seeds. Intervals are at 95 %, over seeds and test samples where predictions "
        "were kept. Rows are ranked by test; the row that is best on val is marked ►, and its interval allows for the "
        "luck of seeds that val and test share. Rows of one group cannot be told apart from its first (paired tests on "
        "the same samples, Holm over all pairs); ‡ marks one that ranks below a row of a worse group. Gain is against "
        "the single modality that is best on val, on the same seeds."
    )
    yield ""
    swept = any(row.tuned for row in board.rows)
    heads = [*_heads(board), *(["tuned on val"] if swept else [])]
    yield from table_lines(
        heads,
        [
            [*_cells(row, chosen=row is board.chosen), *([markdown(tuned_words(row.tuned))] if swept else [])]
            for row in board.rows
        ],
    )
    yield ""
    for line in footnotes(board):
        yield f"- {markdown(line, 1000)}"
    if board.floor is not None:
        yield f"- Majority floor: {number(board.floor.mean)} (what one would say without looking at the sample)"
    for modalities, value in board.ceilings.items():
        yield (
            f"- Ceiling of {markdown(named(modalities))}: {number(float(value))} (best possible on average, by "
            "construction; luck may pass it on one test set)"
        )
    if board.classes is not None:
        yield from class_lines(board, board.classes)
    if board.subgroups:
        yield from subgroup_lines(board)
    if board.modalities is not None:
        yield from modality_lines(board, board.modalities)


def _across(report: Report) -> Iterator[str]:
    found = across_datasets(report)
    if found is None:
        return
    yield ""
    yield "## Across datasets"
    yield ""
    yield (
        "Each method by its row that is best on val; 0 is the majority floor, 1 the dataset's best row. Ranks and win "
        "rates are among the methods with a result on every dataset. IQM is the interquartile mean over all runs."
    )
    yield ""
    yield from table_lines(
        ["method", "mean rank", "win rate", "IQM", "95 % CI", *(markdown(name, 40) for name in found.datasets)],
        [
            [
                markdown(named(method.name)),
                number(method.mean_rank, 2),
                number(method.win_rate, 2),
                number(method.iqm),
                "–" if method.iqm_low is None else f"{number(method.iqm_low)} to {number(method.iqm_high)}",
                *(number(score) for score in method.scores),
            ]
            for method in found.methods
        ],
    )
    yield ""
    yield markdown(critical_words(found), 2000)


def critical_words(found: Across) -> str:
    """Say what the tests over datasets found, or why there are none."""
    critical = found.critical
    if isinstance(critical, Undefined):
        return f"No critical-difference diagram: {critical.reason}."
    words = (
        f"Friedman's test over {critical.num_datasets} datasets (Iman and Davenport's form): p = "
        f"{number(critical.friedman.f_p_value)}. Mean ranks that differ by less than "
        f"{number(critical.critical_difference, 2)} are not told apart (Nemenyi, 5 %)"
    )
    bars = [", ".join(found.methods[place].name for place in group) for group in critical.groups]
    return f"{words}: {'; '.join(bars)}." if bars else f"{words}."


def overview_lines(boards: Sequence[Board]) -> Iterator[str]:
    """Yield a table with a line for every dataset and task: what val chooses there, and how sure that is."""
    yield "| dataset | best on val | its test score | floor | gain over one modality | told apart from | cells |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for board in boards:
        yield f"| {' | '.join(_overview(board))} |"


def _overview(board: Board) -> list[str]:
    """A dataset and task in one line."""
    chosen, fusion = board.chosen, board.chosen_fusion
    name = board.dataset if board.first else f"{board.dataset}: {board.task}"
    return [
        markdown(named(name)),
        markdown(combo(chosen), 240) if chosen else "–",
        f"{metric_words(board.metric)} {spread(chosen.score)}" if chosen else "–",
        number(board.floor.mean if board.floor else None),
        signed(fusion.gain.value) if fusion and fusion.gain else "–",
        told_apart(board),
        f"{board.num_done}/{board.num_planned}",
    ]


def _heads(board: Board) -> list[str]:
    title = metric_words(board.metric) + (" ↓" if board.direction == "min" else " ↑")
    return [
        "#", "group", "encoders", "fusion", "objective", f"test {title}", "95 % CI", "val", "gain", "seeds",
        "inference /s", "latency p50", "parameters", "training",
    ]  # fmt: skip


def told_apart(board: Board) -> str:
    """From how many of the other tested rows paired tests tell the chosen row apart, or a dash."""
    tested = [row for row in board.rows if row.differs is not None and row is not board.chosen]
    if not tested:
        return "–"
    return f"{sum(row.differs is True for row in tested)} of {counted(len(tested), 'row')}"


def group_cell(row: Row) -> str:
    """The group; ‡ where a row above it stands in a worse one."""
    return "" if row.group is None else f"{row.group} ‡" if row.out_of_order else str(row.group)


def _cells(row: Row, *, chosen: bool) -> list[str]:
    numbers = row.numbers
    star = {name: mark(row, name).replace("*", "\\*") for name in numbers}
    return [
        ("" if row.rank is None else str(row.rank)) + (" ►" if chosen else ""),
        group_cell(row),
        markdown(named(row.encoders, 240).replace("+", " + "), 260),
        markdown(named(row.fusion)),
        markdown(named(row.objective)),
        spread_cell(row),
        interval(row.score),
        number(row.val),
        gain_cell(row.gain),
        seeds_cell(row),
        amount(numbers.get("throughput_samples_per_s")) + star.get("throughput_samples_per_s", ""),
        seconds(numbers.get("latency_p50_s")) + star.get("latency_p50_s", ""),
        parameters_cell(row),
        seconds(numbers.get("train_time_s")) + star.get("train_time_s", ""),
    ]


def parameters_cell(row: Row) -> str:
    """Trainable parameters, beside all of them where some stand still."""
    trainable, registered = (row.numbers.get(f"num_parameters_{which}") for which in ("trainable", "registered"))
    if trainable is None or registered is None or registered == trainable:
        return amount(trainable)
    return f"{amount(trainable)} of {amount(registered)}"


def spread_cell(row: Row) -> str:
    """Mean and spread; a row without a score says its status instead, one that lost a race the rung it reached."""
    if row.stopped:
        return row.reason.partition(" (")[0]
    if row.score is None:
        return ", ".join(f"{count} {status}" for status, count in row.statuses.items())
    return number(row.score.mean) if row.score.std is None else spread(row.score)


def interval(score: Score | None) -> str:
    """The 95 % interval, or a dash."""
    if score is None or score.ci_low is None or score.ci_high is None:
        return "–"
    return f"{number(score.ci_low)} to {number(score.ci_high)}"


def gain_cell(gain: Gain | None) -> str:
    """The gain over the single modality that is best on val; † where some of those rows lack seeds."""
    if gain is None:
        return ""
    mark = " †" if gain.num_compared < gain.num_planned else ""
    return f"{signed(gain.value)}{mark}"


def seeds_cell(row: Row) -> str:
    """How many of the board's seeds the row has; nothing for one that was not to run."""
    if row.stopped:
        return ""
    return f"{len(row.score.by_seed) if row.score else 0}/{len(row.seeds)}{'' if row.complete else ' incomplete'}"


def _problems(title: str, problems: Sequence[Problem]) -> Iterator[str]:
    if not problems:
        return
    yield ""
    yield f"## {title}"
    yield ""
    yield "| cells | status | dataset | reason | such as |"
    yield "| ---: | --- | --- | --- | --- |"
    for item in problems[:200]:
        dataset = markdown(named(item.dataset)) if item.dataset else "several"
        reason, example = markdown(item.reason), markdown(item.examples[0], 240)
        yield f"| {item.count} | {item.status} | {dataset} | {reason} | {example} |"
    if len(problems) > 200:
        yield ""
        yield f"… {len(problems) - 200} more reasons; the export has every cell's."


def _data(cards: Sequence[DataCard]) -> Iterator[str]:
    if not cards:
        return
    yield ""
    yield "## Data"
    for card in cards:
        first, *rest = map(short_paths, card_lines(card))
        yield ""
        yield markdown(first, 1000)
        yield ""
        for line in rest:
            yield f"- {markdown(line.strip(), 1000)}"


def _provenance(about: Mapping[str, Any]) -> Iterator[str]:
    lines = provenance(about)
    if not lines:
        return
    yield ""
    yield "## Provenance"
    yield ""
    for name, value in lines:
        yield f"- {markdown(name)}: {markdown(value, 2000)}"


def _statuses(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in statuses.items()) or "none"
