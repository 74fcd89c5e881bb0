"""The report's tables of subgroups as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from mmbench.report.answer import combo, metric_words, worst_subgroup
from mmbench.report.by_subgroup import MIN_SAMPLES, SubgroupScore, SubgroupTable
from mmbench.report.markdown_classes import estimate_words
from mmbench.report.tables import Board
from mmbench.report.text import MAX_NAME, markdown, named, p_value, signed, table_lines


def subgroup_lines(board: Board) -> Iterator[str]:
    """Yield the section: the score of each subgroup, and its gap to the rest."""
    yield ""
    yield "### Subgroups"
    yield ""
    yield (
        f"{metric_words(board.metric).capitalize()} on the test samples of each subgroup, under the row that is best "
        "on val and under that of each single modality: mean over seeds, with the 95 % interval over "
        f"{board.subgroups[0].over}. The gap is by how much the column's other samples do better; p is adjusted over "
        f"the row's subgroups (Holm). Subgroups of fewer than {MIN_SAMPLES} samples are not tested."
    )
    for table in board.subgroups:
        yield ""
        yield f"{markdown(combo(board.rows[table.place]), 240)}: {markdown(worst_subgroup(board, table), 400)}"
        yield ""
        yield from table_lines(
            ["subgroup", "samples", metric_words(board.metric), "gap to the rest", "p"],
            [_cells(group, table) for group in table.groups],
        )


def _cells(group: SubgroupScore, table: SubgroupTable) -> list[str]:
    name = markdown(f"{named(group.column, MAX_NAME)}={named(group.name, MAX_NAME)}", 2 * MAX_NAME + 20)
    worst = table.worst is not None and group is table.groups[table.worst]
    gap = group.gap
    words = signed(gap.value)
    if gap.low is not None and gap.high is not None:
        words += f" [{signed(gap.low)}, {signed(gap.high)}]"
    tested = "–" if group.p_value is None else p_value(group.p_value)
    return [f"**{name}**" if worst else name, str(group.num_samples), estimate_words(group.score), words, tested]
