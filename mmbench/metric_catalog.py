"""The metrics of each kind of task: name, direction and unit, and which one ranks the rows. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from mmbench.errors import SpecError, UsageError, did_you_mean
from mmbench.record import Direction
from mmbench.spec import TaskKind, TaskSpec


@dataclass(frozen=True)
class MetricSpec:
    """One measure of quality.

    Attributes:
        name: As it appears in results.
        direction: "max" when more is better, "min" when less is.
        unit: "1" for a share or a correlation, "nat" for a log loss, "target" for the target's own unit.
        summary: One line for the people who read the report.
    """

    name: str
    direction: Direction
    unit: str
    summary: str


_F1_MICRO = MetricSpec("f1_micro", "max", "1", "F1 over all decisions at once; accuracy when there is one class each")
_AUROC = MetricSpec("auroc", "max", "1", "area under the ROC curve, one against the rest, mean over classes")
_MAP = MetricSpec("map", "max", "1", "average precision, mean over classes")
_MACRO = (
    MetricSpec("precision_macro", "max", "1", "precision, mean over classes; 0 for a class that is never predicted"),
    MetricSpec("recall_macro", "max", "1", "recall, mean over classes"),
    MetricSpec("f1_macro", "max", "1", "F1, mean over classes"),
)

#: How many candidates a search may show; what is asked in both directions is the mean of both.
RECALL_AT = (1, 5, 10)

#: By kind of task, in the order in which tables show them; the first is the kind's usual primary metric.
#: A mean "over classes" runs over the classes (labels) that occur in the target; a metric's note says when some do not.
#: Of two classes too: `auroc` and `map` are means over both, where functions of scikit-learn take the second alone as
#: positive. A dataset does not say which of its classes is; `map` differs for it by up to .06, `auroc` only by ties.
METRICS: Mapping[TaskKind, tuple[MetricSpec, ...]] = MappingProxyType(
    {
        "multiclass": (
            MetricSpec("accuracy", "max", "1", "share of samples whose most probable class is right"),
            MetricSpec("balanced_accuracy", "max", "1", "recall, mean over classes"),
            *_MACRO,
            _F1_MICRO,
            _AUROC,
            _MAP,
            MetricSpec("log_loss", "min", "nat", "mean negative log probability of the true class"),
            MetricSpec("calibration_error", "min", "1", "expected calibration error of the top class, L1, 15 bins"),
        ),
        "multilabel": (
            _MAP,
            MetricSpec("exact_match", "max", "1", "share of samples whose labels are all right"),
            *_MACRO,
            _F1_MICRO,
            _AUROC,
            MetricSpec("log_loss", "min", "nat", "binary log loss, mean over samples and labels"),
            MetricSpec("calibration_error", "min", "1", "expected calibration error over all labels, L1, 15 bins"),
        ),
        "regression": (
            MetricSpec("mae", "min", "target", "mean absolute error, mean over outputs"),
            MetricSpec("rmse", "min", "target", "root mean squared error, mean over outputs"),
            MetricSpec("pearson", "max", "1", "Pearson correlation, mean over outputs"),
            MetricSpec("spearman", "max", "1", "Spearman rank correlation, mean over outputs"),
            MetricSpec("r2", "max", "1", "coefficient of determination, mean over outputs"),
        ),
        "retrieval": (
            *(
                MetricSpec(f"recall_at_{k}", "max", "1", f"share of samples with a partner among the best {k}")
                for k in RECALL_AT
            ),
            MetricSpec("mean_reciprocal_rank", "max", "1", "mean of 1 / rank of a sample's best partner"),
            MetricSpec("median_rank", "min", "1", "median rank of a sample's best partner"),
        ),
    }
)


def metric_specs(task: TaskSpec) -> Mapping[str, MetricSpec]:
    """Return the metrics of a task's kind by name.

    Raises:
        SpecError: the core has no loss and metrics for this kind yet.
    """
    if task.kind not in METRICS:
        raise SpecError(f"task {task.name!r} is of kind {task.kind!r}; tasks can be {', '.join(METRICS)}")
    return {spec.name: spec for spec in METRICS[task.kind]}


def primary_metric(task: TaskSpec) -> str:
    """Return the name of the metric that chooses the epoch and leads the tables.

    The usual ones: accuracy for multiclass, which everybody reports; mean average precision for multilabel, because F1
    rests on a threshold that nobody tuned; mean absolute error for regression, in the unit of the target.

    Raises:
        SpecError: the task asks for a metric that its kind does not have.
    """
    known = metric_specs(task)
    if not task.primary:
        return METRICS[task.kind][0].name
    if task.primary not in known:
        raise SpecError(
            f"task {task.name!r} wants the primary metric {task.primary!r}, which {task.kind} tasks do not have."
            f"{did_you_mean(task.primary, known)} Choose from {', '.join(known)}."
        )
    return task.primary


#: Names of the metrics of which less is better, of all kinds.
LESS_IS_BETTER: frozenset[str] = frozenset(
    spec.name for specs in METRICS.values() for spec in specs if spec.direction == "min"
)


def split_metric(selector: str) -> tuple[str, str]:
    """Split `--metric [TASK=]METRIC` into task ("" when not given) and metric.

    >>> split_metric("digit=f1_macro"), split_metric("f1_macro")
    (('digit', 'f1_macro'), ('', 'f1_macro'))
    """
    task, equals, name = selector.partition("=")
    return (task.strip(), name.strip()) if equals else ("", selector.strip())


def with_ranking_metrics(tasks: Sequence[TaskSpec], selectors: Sequence[str]) -> tuple[TaskSpec, ...]:
    """Return the tasks with the primary metrics that selectors choose for them; others keep their own.

    A selector that names the task goes before one that does not; of several, the last counts. What no task has is
    left alone: `check_metrics` refuses it.
    """
    return tuple(replace(task, primary=_chosen(task, selectors) or task.primary) for task in tasks)


def check_metrics(selectors: Sequence[str], tasks: Sequence[TaskSpec]) -> None:
    """Check the selectors of `--metric` against the tasks of the selected datasets.

    Args:
        selectors: As given to `--metric`.
        tasks: Of all selected datasets.

    Raises:
        UsageError: a metric or a task is unknown, no task that is meant has the metric, or one task is given two.
    """
    names = dict.fromkeys(spec.name for specs in METRICS.values() for spec in specs)
    for selector in selectors:
        wanted, name = split_metric(selector)
        if name not in names:
            raise UsageError(
                f"--metric {selector}: no metric is named {name!r}.{did_you_mean(name, names)} {_offered(tasks)}"
            )
        meant = [task for task in tasks if wanted in ("", task.name)]
        if not meant:
            known = dict.fromkeys(task.name for task in tasks)
            raise UsageError(
                f"--metric {selector}: no selected dataset has a task {wanted!r}; there is {', '.join(known)}."
                f"{did_you_mean(wanted, known)}"
            )
        if not any(name in metric_specs(task) for task in meant):
            raise UsageError(f"--metric {selector}: no selected task can be ranked by it. {_offered(meant)}")
    for task in tasks:
        for general in (False, True):
            chosen = dict.fromkeys(_applicable(task, selectors, general=general))
            if len(chosen) > 1:
                raise UsageError(
                    f"--metric names {' and '.join(chosen)} for the task {task.name!r}, and one metric ranks a table; "
                    f"give one, or name the tasks, such as --metric {task.name}={next(iter(chosen))}"
                )


def unaffected_task_notes(selectors: Sequence[str], tasks: Iterable[TaskSpec]) -> Iterator[str]:
    """Yield a note for each task that keeps its own metric, because its kind has none of the chosen ones."""
    general = [name for wanted, name in map(split_metric, selectors) if not wanted]
    for task in tasks:
        if general and not _chosen(task, selectors):
            yield (
                f"task {task.name!r} is ranked by {primary_metric(task)}: {task.kind} tasks do not have "
                f"{' or '.join(general)}"
            )


def _chosen(task: TaskSpec, selectors: Sequence[str]) -> str:
    applicable = [
        *_applicable(task, selectors, general=True),
        *_applicable(task, selectors, general=False),
    ]
    return applicable[-1] if applicable else ""


def _applicable(task: TaskSpec, selectors: Sequence[str], *, general: bool) -> list[str]:
    wanted = "" if general else task.name
    return [name for named, name in map(split_metric, selectors) if named == wanted and name in metric_specs(task)]


def _offered(tasks: Iterable[TaskSpec]) -> str:
    kinds = dict.fromkeys(task.kind for task in tasks)
    return " ".join(f"{kind} tasks have {', '.join(spec.name for spec in METRICS[kind])}." for kind in kinds)
