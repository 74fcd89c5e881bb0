"""From a run's plan and journal to its report: scores over seeds, gains, ranks, and what is missing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbench.combo import MAJORITY
from mmbench.data_card import DataCard
from mmbench.metric_catalog import LESS_IS_BETTER, METRICS
from mmbench.record import DONE, FAILURES, Direction, Metric, Record
from mmbench.redaction import short_paths
from mmbench.report.outcomes import PENDING, STOPPED, Outcome, outcomes, split_encoders
from mmbench.report.portrait import Precision
from mmbench.report.tables import Board, Gain, Problem, Report, Row, Score, num_to_run, val_order
from mmbench.report.text import counted
from mmbench.report.timing_claims import Timing, timing_of
from mmbench.run_cards import read_cards
from mmbench.store import RunStore

_NO_FAILURES = (*DONE, "incompatible", PENDING, STOPPED)
_KEPT_INFO = ("split_hash", "device", "versions", "precision", "threads", "warnings")


def build_report(folder: Path) -> Report:
    """Build the report of a run from its folder.

    Raises:
        UsageError: there is no run, or its plan is damaged.
    """
    store = RunStore.open(folder)
    records = store.records(_slim)
    return assemble(
        store.name,
        outcomes(store.planned(), records),
        store.datasets(),
        store.read_run(),
        choosing=outcomes(store.planned(), records, choosing=True),
        decisions=store.decisions(),
        cards=read_cards(store.folder),
    )


def assemble(
    run: str,
    found: Iterable[Outcome],
    datasets: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
    *,
    choosing: Iterable[Outcome] = (),
    decisions: Sequence[Mapping[str, Any]] = (),
    cards: Sequence[DataCard] = (),
) -> Report:
    """Build a report from outcomes.

    Args:
        run: Name of the run.
        found: Every planned cell.
        datasets: `Plan.datasets_json()`.
        provenance: ``run.json``.
        choosing: Every cell that only helped to choose others; of these, failures alone are shown.
        decisions: ``decisions.json``.
        cards: What was read of each dataset.
    """
    by_dataset: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in found:
        by_dataset[outcome.dataset].append(outcome)
    boards: list[Board] = []
    for dataset, cells in by_dataset.items():
        about = datasets.get(dataset, {})
        for position, task in enumerate(_tasks(about, cells)):
            board = _board(dataset, about, task, cells, first=position == 0)
            boards.append(unranked(board, smoke) if (smoke := _smoke_words(about, provenance or {})) else board)
    everything = [outcome for cells in by_dataset.values() for outcome in cells]
    return Report(
        run=run,
        boards=tuple(boards),
        statuses=_counted(everything),
        failures=_problems(item for item in [*everything, *choosing] if item.status not in _NO_FAILURES),
        impossible=_problems(item for item in everything if item.status == "incompatible"),
        provenance=dict(provenance or {}),
        cards=tuple(cards),
        decisions=tuple(decisions),
    )


def _smoke_words(about: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Say that a dataset's cells only tested whether everything runs; "" where they were trained in full."""
    train = about.get("train") or {}
    config = provenance.get("config") or {}
    limit, epochs = train.get("limit"), train.get("epochs")
    if config.get("grid") != "smoke" or not limit:
        return ""
    return (
        f"Smoke test, no ranking: at most {limit} samples of each split, {counted(int(epochs or 0), 'epoch')}. The "
        "numbers say only that everything runs; `mmbench run --grid quick` gives a true comparison"
    )


def unranked(board: Board, why: str) -> Board:
    """Return a board without ranks and gains, its rows by name."""
    rows = sorted(board.rows, key=lambda row: (not row.unimodal, row.encoders, row.fusion, row.objective))
    return replace(board, rows=tuple(replace(row, rank=None, gain=None) for row in rows), smoke=why)


def _tasks(about: Mapping[str, Any], cells: Sequence[Outcome]) -> list[Mapping[str, Any]]:
    """The dataset's tasks by its plan; without one, those that the results speak of."""
    if about.get("tasks"):
        return list(about["tasks"])
    names = dict.fromkeys(metric.task for cell in cells for metric in cell.metrics if metric.split == "test")
    return [{"name": name} for name in names]


def _board(
    dataset: str, about: Mapping[str, Any], task: Mapping[str, Any], cells: Sequence[Outcome], *, first: bool
) -> Board:
    name = task["name"]
    usual = METRICS.get(task.get("kind", ""), ())
    metric = task.get("primary") or (usual[0].name if usual else "")
    sample = _sample_metric(cells, name, metric)
    if sample is not None:
        metric = sample.name
    direction: Direction = sample.direction if sample is not None else "min" if metric in LESS_IS_BETTER else "max"
    groups: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for cell in cells:
        groups[cell.encoders, cell.fusion, cell.objective].append(cell)
    floor_cells = groups.pop(("", MAJORITY, ""), [])
    runnable = {
        key: members for key, members in groups.items() if any(cell.status != "incompatible" for cell in members)
    }
    seeds = tuple(sorted({cell.seed for members in runnable.values() for cell in members}))
    rows = [_row(*key, members, seeds, name, metric) for key, members in runnable.items()]
    rows = _with_gains(rows, direction)
    statuses = _counted(cells)
    ways = {item.name: item.direction for cell in cells for item in cell.metrics if _is_score(item, "test", name, "")}
    return Board(
        dataset=dataset,
        summary=str(about.get("summary", "")),
        reference=str(about.get("reference", "")),
        task=name,
        kind=str(task.get("kind", "")),
        num_outputs=int(task.get("num_outputs", 0)),
        class_names=tuple(task.get("class_names", ())),
        metric=metric,
        direction=direction,
        unit=sample.unit if sample is not None else "1",
        first=first,
        num_test=sample.n if sample is not None else None,
        seeds=seeds,
        rows=tuple(ranked_rows(rows, direction)),
        floor=_score(floor_cells, name, metric),
        ceilings=dict(about.get("ceilings", {})) if first else {},
        num_done=sum(statuses.get(status, 0) for status in DONE),
        num_planned=num_to_run(statuses),
        statuses=statuses,
        other_metrics=frozenset(key for key in ways if key != metric),
        less_is_better=frozenset(key for key, way in ways.items() if way == "min"),
        mixed=_mixed(cells),
        warnings=dict(
            Counter(short_paths(text) for cell in cells if cell.record for text in cell.record.info.get("warnings", ()))
        ),
    )


def _mixed(cells: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Facts that differ between the cells with a result, each with how many cells have which value."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        if cell.done and cell.record is not None:
            info = cell.record.info
            versions = info.get("versions")
            facts = {"split": info.get("split_hash"), **(versions if isinstance(versions, Mapping) else {})}
            if cell.fusion != MAJORITY:
                facts |= {name: info.get(name) for name in ("device", "precision", "threads")}
                if "perf_setup" in info:
                    facts["measuring version"] = info["perf_setup"].get("measuring_version", "unknown")
            for name, value in facts.items():
                if value is not None:
                    found[name][str(value)] += 1
    return {name: dict(counts) for name, counts in found.items() if len(counts) > 1}


def _row(
    encoders: str, fusion: str, objective: str, cells: Sequence[Outcome], seeds: tuple[int, ...], task: str, metric: str
) -> Row:
    done = [cell for cell in cells if cell.done]
    failed = next((cell for cell in cells if not cell.done), None)
    numbers, timings = _numbers(done, task, metric)
    val_by_seed = {
        cell.seed: item.value
        for cell in sorted(done, key=lambda cell: cell.seed)
        for item in cell.metrics
        if _is_score(item, "val", task, metric) and item.value is not None
    }
    return Row(
        encoders=encoders,
        fusion=fusion,
        objective=objective,
        modalities=tuple(split_encoders(encoders)),
        seeds=seeds,
        done=tuple(sorted(cell.seed for cell in done)),
        cell_ids={cell.seed: cell.cell_id for cell in sorted(cells, key=lambda cell: cell.seed)},
        statuses=_counted(cells),
        reason=short_paths(failed.reason) if failed else "",
        score=_score(done, task, metric),
        val=_mean(val_by_seed.values()),
        val_by_seed=val_by_seed,
        numbers=numbers,
        conditions=_conditions(done, task, metric),
        diagnostics=_diagnostics(done, task),
        emap_precision=_emap_precision(done, task),
        timings=timings,
        tuned=next((cell.tuned for cell in cells if cell.tuned), {}),
    )


def _is_score(item: Metric, split: str, task: str, metric: str) -> bool:
    """Whether a number is the clean score of a task in a metric, or in any where `metric` is ""."""
    return (
        item.task == task
        and item.name == (metric or item.name)
        and item.split == split
        and item.phase == "evaluate"
        and item.condition == "clean"
    )


def _sample_metric(cells: Sequence[Outcome], task: str, metric: str) -> Metric | None:
    """Any result of the task in this metric; in its first one when the metric is not known."""
    for cell in cells:
        for item in cell.metrics:
            if _is_score(item, "test", task, metric):
                return item
    return None


def _score(cells: Sequence[Outcome], task: str, metric: str) -> Score | None:
    found = {
        cell.seed: item
        for cell in sorted(cells, key=lambda cell: cell.seed)
        for item in cell.metrics
        if _is_score(item, "test", task, metric) and item.value is not None
    }
    if not found:
        return None
    by_seed = {seed: float(item.value) for seed, item in found.items() if item.value is not None}
    values = list(by_seed.values())
    mean, std, half = mean_std_half(values)
    low, high, over = None, None, ""
    if half is not None:
        low, high, over = mean - half, mean + half, "seeds"
    elif len(found) == 1:
        (only,) = found.values()
        low, high = only.ci_low, only.ci_high
        over = "samples" if low is not None and high is not None else ""
    return Score(by_seed=by_seed, mean=mean, std=std, ci_low=low, ci_high=high, ci_over=over)


def mean_std_half(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return mean, sample standard deviation, and half the width of Student's 95 % interval of the mean.

    The last two are None for fewer than two values.

    >>> mean_std_half([1.0, 2.0, 3.0])
    (2.0, 1.0, 2.48...)
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.special import stdtrit

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, std, float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))


def _numbers(done: Sequence[Outcome], task: str, primary: str) -> tuple[dict[str, float | None], dict[str, Timing]]:
    """Means over seeds of what a row costs and of its other metrics on test; how its times were measured."""
    found: dict[str, list[Metric]] = defaultdict(list)
    for cell in done:
        for item in cell.metrics:
            on_test = _is_score(item, "test", task, "") and item.name != primary
            if on_test or item.phase == "profile":
                found[item.name].append(item)
            elif item.phase == "train":
                found["train_" + item.name.removeprefix("train_")].append(item)
    timings = {name: timing_of(items) for name, items in found.items()}
    return (
        {name: _mean(item.value for item in items) for name, items in found.items()},
        {name: timing for name, timing in timings.items() if timing is not None},
    )


def _conditions(done: Sequence[Outcome], task: str, metric: str) -> dict[str, float | None]:
    """Means over seeds of the metric on test inputs that something was done to."""
    values: dict[str, list[float | None]] = defaultdict(list)
    for cell in done:
        for item in cell.metrics:
            on_test = item.phase == "evaluate" and item.split == "test" and item.task == task
            if on_test and item.condition != "clean" and item.name == metric:
                values[item.condition].append(item.value)
    return {condition: _mean(given) for condition, given in values.items()}


def _diagnostics(done: Sequence[Outcome], task: str) -> dict[str, float | None]:
    """Means over seeds of what cells derived from their scores on such inputs."""
    values: dict[str, list[float | None]] = defaultdict(list)
    for cell in done:
        for item in cell.metrics:
            if item.phase == "diagnose" and item.task == task:
                values[item.name].append(item.value)
    return {name: _mean(given) for name, given in values.items()}


def _emap_precision(done: Sequence[Outcome], task: str) -> Precision | None:
    """The interval of one seed over its samples is that of the mean: seeds are diagnosed on the same samples."""
    found = [
        item
        for cell in done
        for item in cell.metrics
        if item.phase == "diagnose" and item.task == task and item.name == "emap_gap" and item.value is not None
    ]
    if not found:
        return None
    sizes = [item.n for item in found if item.n is not None]
    known = all(item.ci_low is not None and item.ci_high is not None for item in found)
    return Precision(
        n=min(sizes) if sizes else None,
        low=_mean(item.ci_low for item in found) if known else None,
        high=_mean(item.ci_high for item in found) if known else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _with_gains(rows: Sequence[Row], direction: Direction) -> list[Row]:
    """Add each fusion's gain on test over the unimodal row that is best on val, on the fusion's own seeds."""
    unimodal = [row for row in rows if row.unimodal]
    sign = -1.0 if direction == "min" else 1.0
    best_of: dict[tuple[int, ...], tuple[Row, int] | None] = {}

    def best_over(seeds: tuple[int, ...]) -> tuple[Row, int] | None:
        """The unimodal row that is best on val over exactly these seeds, and how many rows have them all on test."""
        if seeds not in best_of:
            known = [row for row in unimodal if row.score is not None and set(seeds) <= set(row.score.by_seed)]
            # Without val there is only test to go by; `Board.best_on_val` does the same.
            validated = [row for row in known if set(seeds) <= set(row.val_by_seed)]

            def on_val(row: Row) -> tuple[float | str, ...]:
                assert row.score is not None
                scores = row.val_by_seed if validated else row.score.by_seed
                return val_order(row, math.fsum(scores[seed] for seed in seeds) / len(seeds), direction)

            best_of[seeds] = (min(validated or known, key=on_val), len(known)) if known else None
        return best_of[seeds]

    found = []
    for row in rows:
        best = best_over(tuple(row.score.by_seed)) if row.score is not None and len(row.modalities) > 1 else None
        if best is None or row.score is None:
            found.append(row)
            continue
        rival, num_compared = best
        assert rival.score is not None
        differences = [sign * (value - rival.score.by_seed[seed]) for seed, value in row.score.by_seed.items()]
        mean, _, half = mean_std_half(differences)
        gain = Gain(
            value=mean,
            ci_low=None if half is None else mean - half,
            ci_high=None if half is None else mean + half,
            over=rival.encoders,
            over_objective=rival.objective,
            num_compared=num_compared,
            num_planned=len(unimodal),
        )
        found.append(replace(row, gain=gain))
    return found


def ranked_rows(rows: Iterable[Row], direction: Direction) -> Iterator[Row]:
    """Yield complete rows by their mean, then rows that lack seeds, unranked, then rows without a result."""
    sign = 1.0 if direction == "min" else -1.0

    def place(row: Row) -> tuple[Any, ...]:
        mean = math.inf if row.score is None else sign * row.score.mean
        # Of equal means the smaller model comes first: that does not depend on the weather of the machine.
        size = row.numbers.get("num_parameters_trainable")
        kept = 0 if row.complete else 1 if row.score is not None else 2
        return (kept, mean, math.inf if size is None else size, row.encoders, row.fusion, row.objective)

    rank, previous = 0, math.nan
    for position, row in enumerate(sorted(rows, key=place), start=1):
        if not row.complete or row.score is None:
            yield row
            continue
        if row.score.mean != previous:
            rank, previous = position, row.score.mean
        yield replace(row, rank=rank)


def _problems(cells: Iterable[Outcome]) -> tuple[Problem, ...]:
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for cell in cells:
        groups[cell.status, short_paths(cell.reason)].append(cell)
    order = (*FAILURES, "unavailable", "incompatible")
    found = [
        Problem(
            status=status,
            reason=reason,
            dataset=members[0].dataset if len({cell.dataset for cell in members}) == 1 else "",
            count=len(members),
            examples=tuple(_in_words(cell) for cell in members[:3]),
        )
        for (status, reason), members in groups.items()
    ]
    places: dict[str, int] = {status: place for place, status in enumerate(order)}
    return tuple(sorted(found, key=lambda item: (places.get(item.status, len(order)), -item.count)))


def _in_words(cell: Outcome) -> str:
    parts = (cell.encoders, cell.fusion, cell.objective if cell.objective != "supervised" else "", f"seed {cell.seed}")
    return ", ".join(part for part in parts if part)


def _counted(cells: Iterable[Outcome]) -> dict[str, int]:
    return dict(Counter(cell.status for cell in cells))


def _slim(record: Record) -> Record:
    """Leave out what no report shows."""
    kept = tuple(item for item in record.metrics if item.split != "val" or item.condition == "clean")
    return replace(record, metrics=kept, info={key: record.info[key] for key in _KEPT_INFO if key in record.info})
