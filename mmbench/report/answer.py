"""The answer in words: what is best and how sure that is, and what to be careful about."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmbench.imbalance import is_imbalanced
from mmbench.influence import FEW_POSITIVES
from mmbench.record import DONE
from mmbench.report.by_subgroup import SubgroupTable, significant_worst
from mmbench.report.decisions import choice_words
from mmbench.report.intervals import Undefined
from mmbench.report.methods import across_datasets
from mmbench.report.outcomes import PENDING, STOPPED, split_encoders
from mmbench.report.tables import Board, Report, Row, Score
from mmbench.report.text import clean, counted, named, number, p_value, seconds, signed
from mmbench.report.timing_claims import LATENCY, faster_than, timing_cautions

#: What metrics are called in a sentence, where the name alone is not it.
_METRIC_WORDS = {
    "map": "mean average precision",
    "auroc": "area under the ROC curve",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
}
MIN_SEEDS = 3
#: How many of 100 intervals at 95 % hold where a class has fewer than ten test samples, in simulations of five metrics.
COVERAGE_OF_FEW = (85, 100)
#: Skewness of a mean error from which a few samples decide it, and how many of 100 intervals hold in simulations of
#: lognormal errors and of errors with Student's distribution of three degrees of freedom.
HEAVY_SKEWNESS = 0.25
COVERAGE_OF_HEAVY_TAILS = (80, 97)
#: Where so many rows were best in their last epoch, the whole table may be undertrained.
MIN_SHARE_UNDERTRAINED = 0.25
#: Datasets whose whole answer stands at the top.
MAX_IN_FULL = 2


def answer(report: Report) -> str:
    """Return the answer: a paragraph on each dataset's first task; over more than two datasets what they share.

    A race or a sweep that came before is told here.
    """
    boards = [board for board in report.boards if board.first]
    if not boards:
        return "Nothing was planned, so there is nothing to report."
    if all(board.smoke for board in boards):
        return f"{boards[0].smoke}."
    chosen = list(filter(None, [choice_words(report.decisions)]))
    if len(boards) <= MAX_IN_FULL:
        return " ".join([*(board_answer(board) for board in boards), *chosen])
    return " ".join([_where_fusion_helps(boards), *_over_datasets(report), *chosen])


def _where_fusion_helps(boards: Sequence[Board]) -> str:
    """On how many datasets the fusion that val chooses beats the single modality that it chooses."""
    gains = [(board, fusion.gain) for board in boards if (fusion := board.chosen_fusion) is not None and fusion.gain]
    sure = [board for board, gain in gains if gain.ci_low is not None and gain.ci_low > 0]
    unsure = [board for board, gain in gains if board not in sure and gain.value > 0]
    worse = [board for board, gain in gains if gain.value <= 0]
    words = (
        f"Over {len(boards)} datasets, the fusion that is best on val beats the single modality that is best on val "
        f"on {len(sure)} by its test scores"
    )
    words += " (95 % interval of the gain above zero)" if sure else ""
    if unsure:
        words += f"; on {_names(unsure)} it is ahead by no more than chance would explain, or by one seed alone"
    if worse:
        words += f"; on {_names(worse)} it does not"
    unknown = [board for board in boards if board not in [known for known, _ in gains]]
    if unknown:
        words += f"; on {_names(unknown)} there is nothing to compare"
    return words + "."


def _over_datasets(report: Report) -> list[str]:
    """Which method has the best mean rank, and whether that means anything."""
    found = across_datasets(report)
    ranked = [method for method in found.methods if method.mean_rank is not None] if found else []
    if found is None or len(ranked) < 2:
        return []
    first, second = ranked[0], ranked[1]
    words = f"Of the methods with a result on all {len(found.datasets)} comparable datasets, {_name(first.name)} has "
    words += (
        f"the best mean rank ({number(first.mean_rank, 2)}), then {_name(second.name)} ({number(second.mean_rank, 2)})"
    )
    if isinstance(found.critical, Undefined):
        return [f"{words}; whether that is more than chance cannot be tested: {found.critical.reason}."]
    tied = sorted({place for group in found.critical.groups if 0 in group for place in group} - {0})
    if not tied:
        return [f"{words}; Nemenyi's test tells it apart from all others."]
    return [f"{words}; Nemenyi's test does not tell it apart from {_listed([found.methods[at].name for at in tied])}."]


def _names(boards: Sequence[Board]) -> str:
    return _listed([board.dataset for board in boards])


def _listed(names: Sequence[str]) -> str:
    shown = [_name(name) for name in names[:5]]
    if len(names) > 5:
        return f"{', '.join(shown)} and {len(names) - 5} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def board_answer(board: Board) -> str:
    """Return what a board says, not surer than its intervals allow."""
    chosen = board.chosen
    if board.smoke:
        return f"{board.smoke}."
    if chosen is None or chosen.score is None:
        return f"On {_name(board.dataset)} nothing can be ranked yet: {_coverage(board)}."
    ranked = [row for row in board.rows if row.rank is not None]
    lead = f"On {_name(board.dataset)}{_task(board)} ({_measure(board)}), "
    lead += f"{combo(chosen)} {'is best on val and ' if chosen_on_val(board) else ''}has {spread(chosen.score)} on test"
    lead += (
        f", rank {chosen.rank} of {len(ranked)}" if len(ranked) > 1 else "; there is no other row to compare it with"
    )
    sentences = [lead + _others(board, chosen), *_cheapest(board), *_single_modality(board)]
    if board.floor is not None:
        sentences.append(f"Predicting without looking at the sample gives {number(board.floor.mean)}")
    if board.num_done < board.num_planned:
        sentences.append(_coverage(board)[0].upper() + _coverage(board)[1:])
    return ". ".join(sentences) + "."


def chosen_on_val(board: Board) -> bool:
    """Whether rows have the scores on val that choose among them."""
    return board.chosen is not None and bool(board.chosen.val_by_seed)


def _others(board: Board, chosen: Row) -> str:
    """What tells the other ranked rows apart from the chosen one, if anything."""
    assert chosen.score is not None
    ranked = [row for row in board.rows if row.rank is not None and row is not chosen]
    if not ranked:
        return ""
    tied = indistinguishable(board)
    how = "by 95 % intervals" if chosen.differs is None else "by paired tests on the same samples"
    better = [
        row
        for row in ranked
        if row not in tied
        and row.score is not None
        and board.better(row.score.mean, chosen.score.mean) > 0
        and (chosen.differs is None or row.differs)
    ]
    words = (
        f"; {counted(len(better), 'other row')} {'is' if len(better) == 1 else 'are'} better {how}" if better else ""
    )
    if tied:
        others = len(ranked) if chosen.differs is None else board.num_tested - 1
        which = "the only other row" if others == 1 else f"{len(tied)} of the {others} other rows"
        which += " tested" if others < len(ranked) else ""
        words += f"; {which} cannot be told apart from it {how}, such as {combo(tied[0])} ({spread(tied[0].score)})"
    elif not better:
        words += (
            "; the 95 % interval of no other row overlaps its own"
            if chosen.differs is None
            else "; paired tests on the same samples find every other row worse"
        )
    return words


def indistinguishable(board: Board) -> list[Row]:
    """Ranked rows, in their order, that nothing tells apart from the one that val chooses.

    By paired tests, where they were made; else those whose interval overlaps its own, or that have none.
    """
    chosen = board.chosen
    others = [row for row in board.rows if row.rank is not None and row is not chosen]
    if chosen is not None and chosen.differs is not None:
        return [row for row in others if row.differs is False]
    return [row for row in others if chosen is not None and overlap(chosen.score, row.score)]


def overlap(one: Score | None, other: Score | None) -> bool:
    """Whether two 95 % intervals overlap; true where one is not known, for then nothing tells the two apart."""
    if one is None or other is None or None in (one.ci_low, one.ci_high, other.ci_low, other.ci_high):
        return True
    assert one.ci_low is not None and one.ci_high is not None and other.ci_low is not None and other.ci_high is not None
    return one.ci_low <= other.ci_high and other.ci_low <= one.ci_high


def spread(score: Score | None) -> str:
    """Return a score with what is known of its spread: "0.962 ± 0.011" over seeds, or the interval of one seed."""
    if score is None:
        return "–"
    if score.std is not None:
        return f"{number(score.mean)} ± {number(score.std)}"
    if score.ci_low is not None and score.ci_high is not None:
        return f"{number(score.mean)} [{number(score.ci_low)}, {number(score.ci_high)}]"
    return number(score.mean)


def combo(row: Row) -> str:
    """Return a row in words: "gated fusion of audio:logmel-cnn + image:cnn", "image:cnn alone"."""
    encoders = " + ".join(named(part) for part in split_label(row))
    words = f"{encoders} alone" if row.unimodal else f"{named(row.fusion)} fusion of {encoders}"
    return words if row.objective in ("", "supervised") else f"{words} trained by {named(row.objective)}"


def split_label(row: Row) -> list[str]:
    """Return the row's encoders as "modality:encoder"."""
    return [f"{name}:{encoder}" for name, encoder in split_encoders(row.encoders).items()]


def cautions(board: Board) -> list[str]:
    """Return what a reader of this board should know before acting on it."""
    if board.smoke:
        return []
    found: list[str] = []
    if board.seeds and len(board.seeds) < MIN_SEEDS:
        found.append(
            f"{counted(len(board.seeds), 'seed')} only: training again with other seeds may change the order; "
            f"run with --seeds {MIN_SEEDS} or more."
        )
    partial = sum(1 for row in board.rows if not row.complete and row.score is not None)
    if partial:
        found.append(
            f"{counted(partial, 'row')} {'lacks' if partial == 1 else 'lack'} seeds and "
            f"{'is' if partial == 1 else 'are'} not ranked: a mean over fewer seeds is not the same measurement."
        )
    if board.untested and board.chosen is not None and len(board.rows) > 1:
        found.append(f"not every row could be compared sample by sample: {clean(board.untested, 200)}.")
    found += [
        *_small_test(board),
        *_few_positives(board),
        *_heavy_tails(board),
        *_imbalance(board),
        *_subgroups(board),
        *_no_gain(board),
        *_no_val(board),
        *_worse_than_val(board),
        *_undertrained(board),
        *_below_floor(board),
    ]
    found += _mixture(board)
    found += [f"{counted(count, 'cell')} warned: {clean(text, 200)}" for text, count in board.warnings.items()][:5]
    if any(row.gain is not None and row.gain.num_compared < row.gain.num_planned for row in board.rows):
        found.append(
            "some gains are against an incomplete set of single-modality rows (marked †) and may be too large."
        )
    return [*found, *timing_cautions(board.rows)]


def _single_modality(board: Board) -> list[str]:
    unimodal, fusion = board.chosen_unimodal, board.chosen_fusion
    if unimodal is None:
        return []
    found = []
    on_val = " on val" if chosen_on_val(board) else ""
    if unimodal is not board.chosen:
        found.append(f"The best single modality{on_val} is {combo(unimodal)} with {spread(unimodal.score)}")
    if fusion is None or fusion.gain is None:
        return found
    gain = fusion.gain
    which = "fusion" if fusion is board.chosen else f"the best fusion{on_val}, {combo(fusion)},"
    sure = "" if gain.ci_low is None or gain.ci_high is None else f" (95 % CI {_between(gain.ci_low, gain.ci_high)})"
    if gain.value <= 0:
        found.append(f"Fusion does not beat it: {which} gains {signed(gain.value)}{sure}")
        return found
    doubt = ", which may be chance" if gain.ci_low is not None and gain.ci_low <= 0 else ""
    found.append(f"Against it, {which} gains {signed(gain.value)}{sure}{doubt}")
    return found


def _cheapest(board: Board) -> list[str]:
    """Whether a row within 1 % of the best answers faster, beyond doubt."""
    best = board.chosen
    row = None if best is None else faster_than(board, best)
    if best is None or row is None or row.score is None:
        return []
    return [
        f"The fastest within 1 % of it is {combo(row)}: {number(row.score.mean)} at {seconds(row.numbers[LATENCY])} a "
        f"sample instead of {seconds(best.numbers[LATENCY])}"
    ]


def _between(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def _small_test(board: Board) -> list[str]:
    """Whether the shown gap between the first two rows is smaller than what the test made can show."""
    ranked = [row for row in board.rows if row.rank is not None and row.score is not None]
    if len(ranked) < 2 or not board.num_test:
        return []
    first, second = ranked[0].score, ranked[1].score
    assert first is not None and second is not None
    gap = board.better(first.mean, second.mean)
    least, pairs = board.least_gap, board.num_tested * (board.num_tested - 1) // 2
    how = (
        f" and {counted(len(board.seeds), 'seed')}, over {counted(pairs, 'comparison')}," if least is not None else ","
    )
    if least is None:
        least = least_visible_gap(first.mean, board.num_test, board.metric)
    if least is None or gap <= 0 or gap >= least:
        return []
    return [
        f"the test set is small for the gap between the first two rows: with {counted(board.num_test, 'sample')}{how} "
        f"differences of less than about {number(least)} are likely to be missed or to be chance, and the gap is "
        f"{number(gap)}."
    ]


def least_visible_gap(share: float, n: int, metric: str) -> float | None:
    """Return the difference between two shares of n samples that a test at 5 % finds in 80 % of cases.

    ``(1.96 + 0.84) sqrt(2 p (1 - p) / n)``, the normal approximation for independent samples; pairing finds smaller
    ones. None for metrics that are no share of samples. A share within one sample of 0 or 1 counts as one sample off.
    """
    if metric not in ("accuracy", "exact_match", "f1_micro"):
        return None
    p = min(max(share, 1 / (n + 1)), n / (n + 1))
    return (1.959964 + 0.841621) * math.sqrt(2 * p * (1 - p) / n)


def _few_positives(board: Board) -> list[str]:
    """Whether a class is so rare that intervals of a metric over classes say less than they promise."""
    fewest = board.fewest_positives
    if fewest is None or fewest >= FEW_POSITIVES:
        return []
    what = metric_words(board.metric)
    if not fewest:
        return [f"some class has no test sample at all: {what} leaves it out, and intervals say nothing of it."]
    low, high = COVERAGE_OF_FEW
    return [
        f"the rarest class has {counted(fewest, 'test sample')}, fewer than {FEW_POSITIVES}: 95 % intervals of {what} "
        f"over so few hold in {low} to {high} of 100 (simulated)."
    ]


def _heavy_tails(board: Board) -> list[str]:
    """Whether a few samples with large errors decide a mean of errors, so that its interval may be too narrow."""
    if board.skewness is None or board.skewness < HEAVY_SKEWNESS:
        return []
    low, high = COVERAGE_OF_HEAVY_TAILS
    return [
        f"a few test samples with large errors make up much of {metric_words(board.metric)}: 95 % intervals of such "
        f"errors hold in {low} to {high} of 100 (simulated)."
    ]


def worst_subgroup(board: Board, table: SubgroupTable) -> str:
    """Say which subgroup a row serves worst, by how much, and whether a test tells it apart from the rest."""
    if table.worst is None:
        return "no subgroup has enough test samples."
    worst = table.groups[table.worst]
    score, gap = worst.score, worst.gap
    where = f"{clean(worst.column, 60)}={clean(worst.name, 60)}"
    words = f"the worst subgroup is {where} with {number(score.value)}"
    if score.low is not None and score.high is not None:
        words += f" [{number(score.low)}, {number(score.high)}]"
    words += f" on {counted(worst.num_samples, 'test sample')}"
    if worst.p_value is None or gap.low is None or gap.high is None:
        return f"{words}."
    words += f", {number(gap.value)} [{signed(gap.low)}, {signed(gap.high)}] worse than the rest"
    if worst.differs:
        return f"{words} (p {p_value(worst.p_value)} over {counted(len(table.groups), 'subgroup')}, Holm)."
    return f"{words}, which chance explains (p {p_value(worst.p_value)}, Holm)."


def _subgroups(board: Board) -> list[str]:
    """Whether the row that val chooses serves a subgroup worse than chance explains."""
    found = [
        table
        for table in board.subgroups
        if board.rows[table.place] is board.chosen and significant_worst(table) is not None
    ]
    return [f"the row that val chooses is uneven: {worst_subgroup(board, table)}" for table in found]


def _imbalance(board: Board) -> list[str]:
    if board.kind != "multiclass" or board.metric != "accuracy" or board.floor is None:
        return []
    share = board.floor.mean
    if not is_imbalanced(share, board.num_outputs):
        return []
    return [
        f"classes are imbalanced and ranked by accuracy: the most frequent one has {share:.0%} of the test samples and "
        f"alone gives accuracy {number(share)}; --metric balanced_accuracy or --metric f1_macro counts classes alike."
    ]


def _no_gain(board: Board) -> list[str]:
    fusion = board.chosen_fusion
    if fusion is None or fusion.gain is None:
        return []
    gain = fusion.gain
    if gain.value <= 0:
        return ["the fusion that val chooses is no better than the single modality that it chooses."]
    if gain.ci_low is not None and gain.ci_low <= 0:
        return ["fusion is not shown to be better than the best single modality: the interval of its gain holds 0."]
    return []


def _no_val(board: Board) -> list[str]:
    """Whether the answer had to go by test, because rows have no score on val."""
    if board.chosen is None or chosen_on_val(board) or len([row for row in board.rows if row.rank is not None]) < 2:
        return []
    return ["no row has its scores on val, so the first on test is named, which is partly the luckiest."]


def _worse_than_val(board: Board) -> list[str]:
    """Whether the chosen row is worse on test than on val by more than chance and the choice explain."""
    chosen = board.chosen
    if board.val_excess is None or chosen is None or chosen.score is None or chosen.val is None:
        return []
    return [
        f"the row that val chooses has {number(chosen.val)} on val and {number(chosen.score.mean)} on test, a larger "
        "gap than chance explains: test differs from val, or the choice of epoch fits val too well; do not expect "
        "val's number of new data."
    ]


def _undertrained(board: Board) -> list[str]:
    """Whether the row that val chooses, or many rows, were best on val in the last epoch they had, under every seed."""
    trained = [row for row in board.rows if row.score is not None and row.numbers.get("train_num_epochs") is not None]
    last = [row for row in trained if row.numbers.get("train_best_epoch") == row.numbers["train_num_epochs"]]
    is_chosen = any(row is board.chosen for row in last)
    if not is_chosen and len(last) < MIN_SHARE_UNDERTRAINED * len(trained):
        return []
    if not last:
        return []
    which = f"{len(last)} of {counted(len(trained), 'row')}" if len(trained) > 1 else "the only row"
    which += ", among them the one that val chooses," if is_chosen and len(trained) > 1 else ""
    return [
        f"{which} {'was' if len(last) == 1 else 'were'} best on val in the last epoch and may be undertrained: more "
        "epochs may raise the scores and change the order."
    ]


def _below_floor(board: Board) -> list[str]:
    """How many rows are worse than predicting without looking at the sample."""
    floor = board.floor
    if floor is None:
        return []
    below = [row for row in board.rows if row.score is not None and board.better(row.score.mean, floor.mean) < 0]
    if not below:
        return []
    worst = below[-1]
    assert worst.score is not None
    return [
        f"{counted(len(below), 'row')} {'stays' if len(below) == 1 else 'stay'} below the majority baseline "
        f"({number(floor.mean)}), such as {combo(worst)} ({number(worst.score.mean)}): nothing was learned there that "
        "helps on test."
    ]


#: What follows when cells differ in something; anything else may change scores and times.
_CONSEQUENCE = {
    "split": "their scores are over different samples and cannot be compared",
    "device": "their times cannot be compared",
    "measuring version": "their times and memory were measured in different ways and cannot be compared",
    "threads": "their times cannot be compared, and sums in another order give scores other last digits",
}


def _mixture(board: Board) -> list[str]:
    found = []
    for name, values in board.mixed.items():
        shown = ", ".join(f"{clean(value, 40)} ({counted(count, 'cell')})" for value, count in values.items())
        consequence = _CONSEQUENCE.get(name, "scores and times may differ for that reason alone")
        found.append(f"cells differ in {clean(name, 40)}: {shown}; {consequence}.")
    return found


def _coverage(board: Board) -> str:
    text = (
        f"{board.num_done} of {counted(board.num_planned, 'cell')} {'has' if board.num_done == 1 else 'have'} a result"
    )
    rest = {
        status: count
        for status, count in board.statuses.items()
        if status not in (*DONE, "incompatible", STOPPED) and count
    }
    words = [f"{count} {'not run yet' if status == PENDING else status}" for status, count in rest.items()]
    return f"{text} ({', '.join(words)})" if words else text


def _measure(board: Board) -> str:
    parts = [metric_words(board.metric)]
    if board.direction == "min":
        parts[0] += ", less is better"
    over = f"on {board.num_test:,} test samples" if board.num_test else "on test"
    return f"{parts[0]} {over}, {counted(len(board.seeds), 'seed')}"


def metric_words(metric: str) -> str:
    """Return a metric's name as a sentence uses it."""
    return _METRIC_WORDS.get(metric, named(metric).replace("_", " "))


def _task(board: Board) -> str:
    return "" if board.first else f", task {_name(board.task)}"


def _name(text: str) -> str:
    return named(text)
