"""Two runs side by side: the same combos, paired by test sample in quality and by raw timings in cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import UsageError
from mmbench.profile_plan import setup_of
from mmbench.record import CHOOSING, DONE, Metric, Record
from mmbench.report.evidence import paired
from mmbench.report.packed_scores import SampleScores
from mmbench.report.score_reader import ScoredTask, ScoreReader
from mmbench.report.statistics import holm
from mmbench.report.timings import SOURCES, Ratio, compare_times, load_timings, samples_of

if TYPE_CHECKING:
    from mmbench.store import RunStore

ALPHA = 0.05
#: Figures of a profile that are counted, not measured: any difference is one.
EXACT = ("num_parameters_registered", "num_parameters_trainable", "num_parameters_with_gradient", "flops_per_sample")
#: Facts of a measurement that make two of them measurements of different things.
_SETUP = ("device", "driver", "torch", "threads", "precision", "batch_size", "protocol")
_VERSION = "measuring_version"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number of one combo in both runs.

    Attributes:
        dataset, encoders, fusion, objective, variant: The combo.
        metric: Its name.
        task: For a score, or "".
        phase: "evaluate" or "profile".
        direction: "max" when more is better, "min" when less is, "" when neither.
        seeds: Seeds (or rounds) that both runs have.
        first, second: Mean over those seeds of a score. Of a time or a rate whose raw samples are kept, what they give
            (`mmbench.report.timings.Ratio`), so that change, interval and test are of the same thing; of any other cost
            the median over seeds.
        change: Second minus first.
        relative: Change over first; None where first is zero.
        low, high: 95 % interval, of `change` for a score, of `relative` for a cost, which lies inside; None where
            nothing gives one.
        p_value: Adjusted over all rows by Holm's method; None where nothing tests it.
        test: What tests it, or why nothing does.
    """

    dataset: str
    encoders: str
    fusion: str
    objective: str
    variant: str
    metric: str
    task: str
    phase: str
    direction: str
    seeds: tuple[int, ...]
    first: float
    second: float
    change: float
    relative: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    test: str = ""

    @property
    def significant(self) -> bool:
        """Whether chance is an unlikely explanation; counts differ when they differ."""
        if self.metric in EXACT:
            return self.change != 0
        return self.p_value is not None and self.p_value < ALPHA


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs compared.

    Attributes:
        first, second: Their names.
        rows: One for each number that both have.
        only_first, only_second: Combos with a result in one run alone, in words.
        differing: What differs between the runs beside their results, in words.
    """

    first: str
    second: str
    rows: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    differing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        rows = [{**asdict(row), "significant": row.significant} for row in self.rows]
        return {**asdict(self), "rows": rows}


@dataclass(frozen=True)
class _Cell:
    """One result, with what its plan says of it."""

    row: Mapping[str, Any]
    record: Record


def compare_runs(first: RunStore, second: RunStore, *, force: bool = False) -> Comparison:
    """Compare what two runs have in common.

    Args:
        first: The one to compare with.
        second: The one that may have changed.
        force: Compare scores on different versions of the data too.

    Raises:
        UsageError: the runs have no combo in common, or used different data and `force` is not given.
    """
    one, other = _cells(first), _cells(second)
    shared = [setup for setup in one if setup in other and one[setup].keys() & other[setup].keys()]
    if not shared:
        raise UsageError(f"{first.name} and {second.name} have no combo with a result in common; see `mmbench status`")
    differing = [*_environments(first, second)]
    for setup in shared:
        for seed in sorted(one[setup].keys() & other[setup].keys()):
            differing += _differing(setup, one[setup][seed].record, other[setup][seed].record)
    data = [words for words in dict.fromkeys(differing) if words.startswith("data: ")]
    if data and not force:
        raise UsageError(
            f"{first.name} and {second.name} stand on different data: {'; '.join(data)}. Their scores do not belong "
            "side by side; --force compares them all the same"
        )
    rows: list[Difference] = []
    datasets = {**first.datasets(), **second.datasets()}
    readers = ScoreReader(first.folder), ScoreReader(second.folder)
    for setup in shared:
        seeds = sorted(one[setup].keys() & other[setup].keys())
        pairs = [(one[setup][seed], other[setup][seed]) for seed in seeds]
        tasks = {task["name"]: task for task in datasets.get(setup[0], {}).get("tasks", [])}
        rows += _scores(setup, seeds, pairs, readers, tasks)
        rows += _costs(setup, seeds, pairs, (first, second))
    return Comparison(
        first=first.name,
        second=second.name,
        rows=tuple(_adjusted(rows)),
        only_first=tuple(_unmatched(one, other)),
        only_second=tuple(_unmatched(other, one)),
        differing=tuple(dict.fromkeys(differing)),
    )


def _cells(store: RunStore) -> dict[tuple[str, ...], dict[int, _Cell]]:
    """Every result by combo and seed."""
    records = store.records()
    found: dict[tuple[str, ...], dict[int, _Cell]] = {}
    for row in store.planned():
        record = records.get(row["cell_id"])
        if record is not None and record.status in DONE and row.get("role") not in CHOOSING:
            found.setdefault(setup_of(row), {})[int(row["seed"])] = _Cell(row, record)
    return found


def _unmatched(
    ours: Mapping[tuple[str, ...], Mapping[int, _Cell]], theirs: Mapping[tuple[str, ...], Mapping[int, _Cell]]
) -> Iterator[str]:
    for setup, cells in ours.items():
        seeds = sorted(cells.keys() - theirs.get(setup, {}).keys())
        if seeds:
            yield f"{words_of(setup)}, seed {', '.join(map(str, seeds))}"


def words_of(setup: Sequence[str]) -> str:
    """Return a combo in words."""
    dataset, encoders, fusion, objective, variant = setup
    shown = [dataset, encoders.replace("+", " + "), fusion]
    shown += [objective] if objective not in ("", "supervised") else []
    shown += [variant] if variant != "clean" else []
    return ", ".join(shown)


def _environments(first: RunStore, second: RunStore) -> Iterator[str]:
    one, other = (store.read_run().get("environment", {}) for store in (first, second))
    for name in ("cpu", "num_cpus", "gpus"):
        before, after = one.get("hardware", {}).get(name), other.get("hardware", {}).get(name)
        if before != after:
            yield f"hardware: {name} was {before} and is {after}"
    for name in sorted({*one.get("packages", {}), *other.get("packages", {})}):
        before, after = one.get("packages", {}).get(name), other.get("packages", {}).get(name)
        if before != after:
            yield f"version: {name} was {before} and is {after}"
    before, after = ((run.get("git") or {}).get("commit") for run in (one, other))
    if before != after:
        yield f"source: commit was {before} and is {after}"


def _differing(setup: Sequence[str], first: Record, second: Record) -> Iterator[str]:
    """What one combo's two results do not share, in words that begin with its kind."""
    one, other = first.info.get("identity", {}), second.info.get("identity", {})
    if one.get("dataset") != other.get("dataset"):
        yield f"data: {setup[0]} was {_brief(one.get('dataset'))} and is {_brief(other.get('dataset'))}"
    elif first.info.get("split_hash") != second.info.get("split_hash"):
        yield f"data: {setup[0]} has other splits"
    for role in ("fusion", "objective"):
        if one.get(role) != other.get(role):
            yield f"part: {role} was {_brief(one.get(role))} and is {_brief(other.get(role))}"
    before, after = one.get("encoders") or {}, other.get("encoders") or {}
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"part: encoder of {name} was {_brief(before.get(name))} and is {_brief(after.get(name))}"
    before, after = one.get("train") or {}, other.get("train") or {}
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"training: {name} was {before.get(name)} and is {after.get(name)}"
    before, after = first.info.get("perf_setup", {}), second.info.get("perf_setup", {})
    for name in _SETUP:
        if before.get(name) != after.get(name):
            yield f"measurement: {name} was {before.get(name)} and is {after.get(name)}"
    if before.get(_VERSION) != after.get(_VERSION):
        versions = [str(side.get(_VERSION, "unknown")) for side in (before, after)]
        yield f"measurement: version of the measuring code was {' and is '.join(versions)}; costs are not compared"


def _brief(identity: Any) -> str:
    if not isinstance(identity, Mapping):
        return "absent"
    kept = {key: value for key, value in identity.items() if key != "ref" and value not in ("", None, {}, [])}
    return f"{identity.get('ref', '?')} ({', '.join(f'{key}={value}' for key, value in kept.items())})"


def _value(cell: _Cell, wanted: Metric) -> float | None:
    for item in cell.record.metrics:
        same = (item.phase, item.name, item.split, item.task) == (wanted.phase, wanted.name, wanted.split, wanted.task)
        if same and item.condition == wanted.condition:
            return item.value
    return None


def _scores(
    setup: tuple[str, ...],
    seeds: Sequence[int],
    pairs: Sequence[tuple[_Cell, _Cell]],
    readers: tuple[ScoreReader, ScoreReader],
    tasks: Mapping[str, Mapping[str, Any]],
) -> Iterator[Difference]:
    wanted: dict[str, list[tuple[Metric, Difference]]] = {}
    for item in pairs[0][0].record.metrics:
        if item.phase != "evaluate" or item.split != "test" or item.condition != "clean":
            continue
        values = [[_value(cell, item) for cell in pair] for pair in pairs]
        known = [(before, after) for before, after in values if before is not None and after is not None]
        if len(known) < len(pairs):
            continue
        before, after = (sum(column) / len(known) for column in zip(*known))
        wanted.setdefault(item.task, []).append((item, _difference(setup, seeds, item, before, after)))
    for name, rows in wanted.items():
        kind, num_outputs = tasks.get(name, {}).get("kind", ""), int(tasks.get(name, {}).get("num_outputs", 0))
        for item, row in rows:
            scores = _sample_scores(pairs, readers, ScoredTask(name, kind, num_outputs, item.name))
            yield replace(row, **({"test": scores} if isinstance(scores, str) else asdict(paired(*scores))))


def _sample_scores(
    pairs: Sequence[tuple[_Cell, _Cell]], readers: tuple[ScoreReader, ScoreReader], task: ScoredTask
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64] | None] | str:
    """Scores of the same test samples under each seed, (S, N) in each run, with the numbers of the samples' groups,
    (N,), if they have any; or in words why there are none.
    """
    by_run: tuple[list[Any], list[Any]] = [], []
    first: SampleScores | None = None
    for pair in pairs:
        for at, (reader, cell) in enumerate(zip(readers, pair)):
            found = reader.read(cell.row["cell_id"], task)
            if isinstance(found, str):
                return found.format(cell=cell.row["cell_id"])
            first = first or found
            if found.samples != first.samples:
                return "the runs were tested on different samples"
            by_run[at].append(found.scores)
    return np.stack(by_run[0]), np.stack(by_run[1]), first.groups if first is not None else None


def _costs(
    setup: tuple[str, ...],
    seeds: Sequence[int],
    pairs: Sequence[tuple[_Cell, _Cell]],
    stores: tuple[RunStore, RunStore],
) -> Iterator[Difference]:
    if any(len({cell.record.info.get("perf_setup", {}).get(_VERSION) for cell in pair}) > 1 for pair in pairs):
        return  # `differing` says so
    timings = [
        [load_timings(store.cell_folder(cell.row["cell_id"])) for store, cell in zip(stores, pair)] for pair in pairs
    ]
    for item in pairs[0][0].record.metrics:
        if item.phase != "profile" or item.condition.partition("batch:")[1]:
            continue
        values = [[_value(cell, item) for cell in pair] for pair in pairs]
        known = [(before, after) for before, after in values if before is not None and after is not None]
        if not known:
            continue
        before, after = (float(np.median(column)) for column in zip(*known))
        row = _difference(setup, seeds, item, before, after)
        source = SOURCES.get(item.name)
        if source is None:
            yield replace(row, test="counted exactly" if item.name in EXACT else "its raw samples are not kept")
            continue
        ratio = _ratio(timings, source)
        if isinstance(ratio, str):
            yield replace(row, test=ratio)
            continue
        batch_size = max(samples_of(pair[0], source)[1] for pair in timings)
        # A throughput is the reciprocal of a time.
        rate = item.direction == "max"
        before, after = (batch_size / time if rate else time for time in (ratio.first, ratio.second))
        bounds = (1 / ratio.high, 1 / ratio.low) if rate else (ratio.low, ratio.high)
        test = ratio.test
        if any("contended: " in _note(cell, item) for pair in pairs for cell in pair):
            test += "; others computed on the device"
        row = _difference(setup, seeds, item, before, after)
        relative = after / before - 1
        low, high = min(bounds[0] - 1, relative), max(bounds[1] - 1, relative)  # equal, but for rounding
        yield replace(row, relative=relative, low=low, high=high, p_value=ratio.p_value, test=test)


def _ratio(timings: Sequence[Sequence[Mapping[str, Any]]], source: str) -> Ratio | str:
    one, other = ([samples_of(pair[side], source) for pair in timings] for side in (0, 1))
    sizes = {size for _, size in (*one, *other) if size}
    if len(sizes) > 1:
        return f"measured at different batch sizes: {', '.join(map(str, sorted(sizes)))}"
    found = compare_times([times for times, _ in one if len(times)], [times for times, _ in other if len(times)])
    return "too few raw samples" if found is None else found


def _note(cell: _Cell, wanted: Metric) -> str:
    matching = (item.note for item in cell.record.metrics if (item.phase, item.name) == (wanted.phase, wanted.name))
    return next(matching, "")


def _difference(setup: tuple[str, ...], seeds: Sequence[int], item: Metric, before: float, after: float) -> Difference:
    dataset, encoders, fusion, objective, variant = setup
    return Difference(
        dataset=dataset,
        encoders=encoders,
        fusion=fusion,
        objective=objective,
        variant=variant,
        metric=item.name,
        task=item.task,
        phase=item.phase,
        direction=item.direction,
        seeds=tuple(seeds),
        first=before,
        second=after,
        change=after - before,
        relative=(after - before) / abs(before) if before else None,
    )


def _adjusted(rows: Sequence[Difference]) -> Iterable[Difference]:
    """Holm's method over every row that something tests."""
    p_values = holm([math.nan if row.p_value is None else row.p_value for row in rows])
    for row, p_value in zip(rows, p_values):
        yield row if row.p_value is None else replace(row, p_value=float(p_value))
