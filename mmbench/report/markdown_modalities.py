"""The report's section on modalities as GitHub Markdown, and the same in one line for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from mmbench.report.answer import combo, metric_words
from mmbench.report.portrait import Curve, Errors, Modalities, Portrait
from mmbench.report.tables import Board
from mmbench.report.text import MAX_NAME, clean, counted, markdown, named, number, signed, table_lines

#: Curves of so many rows stand in Markdown; the page has all of them.
MAX_CURVES = 60


def modality_lines(board: Board, found: Modalities) -> Iterator[str]:
    """Yield the section: portraits of the best fusions, what noise costs, and how sure the best row is."""
    yield ""
    yield "### Modalities"
    if found.portraits:
        yield ""
        yield (
            f"Shapley shares divide what the row's {metric_words(board.metric)} is above the majority floor among its "
            "modalities. The EMAP gap is what interactions between modalities add to the best additive approximation "
            "of the same model (Hessel and Lee 2020), on as many test samples as stand beside it, with its 95 % "
            "interval over them. The other columns are scores with modalities taken away."
        )
        yield ""
        yield from _portraits(board, found)
    if found.curves:
        yield ""
        yield from _curves(board, found)
    if found.errors is not None:
        yield ""
        yield from _errors(board, found.errors)


def modality_line(board: Board, found: Modalities) -> str:
    """Say in one line what the best diagnosed fusion makes of its modalities, or "" where nobody looked."""
    portrait = next((item for item in found.portraits if item.shares or item.subsets), None)
    if portrait is None:
        return ""
    parts = []
    shares = [f"{clean(name, 40)} {signed(value)}" for name, value in portrait.shares.items() if value is not None]
    if shares:
        parts.append(f"Shapley shares {', '.join(shares)}")
    if portrait.emap_gap is not None:
        parts.append(f"interactions add {gap_words(portrait)} (EMAP{_size(portrait)})")
    gone = [(name, value) for name, value in portrait.subsets.items() if name.startswith("drop:")]
    parts += [f"without {clean(name[5:], 40)} {number(value)}" for name, value in gone[:5] if value is not None]
    if portrait.solved is not None:
        parts.append(f"{_count(portrait.solved.only_fusion)} of {portrait.solved.n} test samples right by fusion only")
    return f"modalities of {combo(board.rows[portrait.place])}: {'; '.join(parts)}" if parts else ""


def gap_words(portrait: Portrait) -> str:
    """The EMAP gap with its 95 % interval, where that is known."""
    precision = portrait.emap_precision
    if precision is None or precision.low is None or precision.high is None:
        return signed(portrait.emap_gap)
    return f"{signed(portrait.emap_gap)} [{signed(precision.low)}, {signed(precision.high)}]"


def _size(portrait: Portrait) -> str:
    return f" on {size} samples" if (size := _n(portrait)) else ""


def _n(portrait: Portrait) -> str:
    precision = portrait.emap_precision
    return "" if precision is None or precision.n is None else str(precision.n)


def _portraits(board: Board, found: Modalities) -> Iterator[str]:
    modalities = dict.fromkeys(name for portrait in found.portraits for name in portrait.shares)
    conditions = dict.fromkeys(name for portrait in found.portraits for name in portrait.subsets)
    # Single modalities and all but one: with more of them the page has every subset.
    shown = [name for name in conditions if "+" not in name]
    heads = ["encoders", "fusion", "test", "gain", "EMAP gap", "EMAP samples"]
    heads += [f"share of {markdown(name, MAX_NAME)}" for name in modalities]
    heads += [markdown(name, MAX_NAME) for name in shown]
    heads += ["right only by fusion", "lost by fusion"]

    def line(portrait: Portrait) -> list[str]:
        row, solved = board.rows[portrait.place], portrait.solved
        return [
            markdown(named(row.encoders, 240).replace("+", " + "), 260),
            markdown(row.fusion if row.objective == "supervised" else f"{row.fusion}, {row.objective}", 2 * MAX_NAME),
            number(row.score.mean if row.score else None),
            signed(row.gain.value) if row.gain else "",
            gap_words(portrait),
            _n(portrait),
            *(signed(portrait.shares.get(name)) for name in modalities),
            *(number(portrait.subsets.get(name)) for name in shown),
            _count(solved.only_fusion) if solved else "–",
            _count(solved.only_single) if solved else "–",
        ]

    yield from table_lines(heads, [line(portrait) for portrait in found.portraits])


def _curves(board: Board, found: Modalities) -> Iterator[str]:
    yield (
        f"{metric_words(board.metric).capitalize()} under disturbed inputs, one modality at a time. Relative "
        "robustness is the area under the curve; effective robustness how much more of its clean score a row keeps "
        "than the late fusion of the same encoders (MultiBench, Liang et al. 2021)."
    )
    yield ""
    severities = sorted({severity for curve in found.curves for severity in curve.severities})

    def line(curve: Curve) -> list[str]:
        at = dict(zip(curve.severities, curve.scores))
        return [
            markdown(combo(board.rows[curve.place]), 240),
            markdown(curve.disturbance, 2 * MAX_NAME),
            *(number(at.get(severity)) for severity in severities),
            number(curve.relative),
            signed(curve.effective),
        ]

    heads = ["method", "disturbance", *(f"{severity:g}" for severity in severities), "relative", "effective"]
    yield from table_lines(heads, [line(curve) for curve in found.curves[:MAX_CURVES]])
    if len(found.curves) > MAX_CURVES:
        yield ""
        yield f"… {counted(len(found.curves) - MAX_CURVES, 'more curve')}; the page has them all."
    if found.units:
        yield ""
        for name, unit in found.units.items():
            yield f"- {markdown(name, 2 * MAX_NAME)}: {markdown(unit)}"


def _errors(board: Board, errors: Errors) -> Iterator[str]:
    """How sure the best row is, and what it takes for what."""
    total = sum(count for count, _, _ in errors.bins)
    error = sum(count * abs(mean - share) for count, mean, share in errors.bins) / max(total, 1)
    sure = sum(count * mean for count, mean, _ in errors.bins) / max(total, 1)
    right = sum(count * share for count, _, share in errors.bins) / max(total, 1)
    words = f"The best row, {markdown(combo(board.rows[errors.place]), 240)}, "
    if board.kind == "multilabel":
        words += f"gives labels a mean probability of {number(sure)}, and {number(right)} of them apply"
    else:
        words += f"is {number(sure)} sure in the mean and right in {number(right)}"
    yield f"{words} (expected calibration error {number(error)})."
    mixed = sorted(
        (
            (count, true, said)
            for true, line in enumerate(errors.confusion)
            for said, count in enumerate(line)
            if true != said and count
        ),
        reverse=True,
    )[:5]
    if mixed:
        pairs = [f"{_class(board, true)} for {_class(board, said)} ({count})" for count, true, said in mixed]
        yield f"It most often mistakes {', '.join(pairs)}."


def _class(board: Board, number: int) -> str:
    return markdown(board.class_names[number], MAX_NAME) if board.class_names else f"class {number}"


def _count(value: float) -> str:
    """A mean number of samples: whole where it is."""
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
