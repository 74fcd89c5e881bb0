"""Scores of made-up rows on made-up samples, whose truth is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri, stdtrit

from mmbench.influence import influence_of
from mmbench.report.evidence import Scored, with_scores
from mmbench.report.intervals import Interval, mean_interval
from mmbench.report.tables import Board, Gain, Row, Score

Floats = NDArray[np.float64]


def latent_scores(
    rng: np.random.Generator,
    accuracies: Sequence[float],
    num_seeds: int,
    num_samples: int,
    std_over_seeds: float = 0.0,
    *,
    difficulty: float = 2.0,
    luck: Floats | None = None,
    clusters: NDArray[np.int64] | None = None,
    cluster_std: float = 0.0,
) -> Floats:
    """Return right (1) and wrong (0) answers of a probit model, (M, S, N).

    A sample is as difficult for all rows, a seed of one row is lucky on all samples, a cluster is easier for one row.

    Args:
        rng: Draws them.
        accuracies: Of the rows, in expectation over seeds and samples (nearly so for a large spread over seeds).
        num_seeds, num_samples: S and N.
        std_over_seeds: Standard deviation of a row's accuracy over seeds.
        difficulty: Standard deviation of the samples' difficulty, in units of what is left to chance.
        luck: (M, S) standard normal numbers, where two splits share their seeds.
        clusters: (N,) the number of the group of each sample.
        cluster_std: Standard deviation of a row's luck with a group.
    """
    middle = ndtri(np.asarray(accuracies, dtype=np.float64))
    scale = np.sqrt(1 + difficulty**2 + cluster_std**2)
    density = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    luck = rng.normal(size=(len(middle), num_seeds)) if luck is None else luck
    latent = scale * (middle[:, None] + std_over_seeds / density[:, None] * luck)  # (M, S)
    latent = latent[..., None] + difficulty * rng.normal(size=num_samples)
    if clusters is not None:
        latent = latent + cluster_std * rng.normal(size=(len(middle), 1, int(clusters.max()) + 1))[..., clusters]
    return np.asarray(latent + rng.normal(size=(len(middle), num_seeds, num_samples)) > 0, dtype=np.float64)


def board_of(val: Floats, test: Floats, num_unimodal: int, clusters: NDArray[np.int64] | None = None) -> Board:
    """Return a report's board of rows with these scores per sample, (M, S, N); the first rows have one modality."""
    seeds = tuple(range(val.shape[1]))
    val_means, means = val.mean(axis=2), test.mean(axis=2)
    single = max(range(num_unimodal), key=lambda at: val_means[at].mean(), default=None)
    rows = []
    for at in range(len(val)):
        unimodal = at < num_unimodal
        rows.append(
            Row(
                encoders=f"image:e{at}" if unimodal else f"image:e{at}+text:e{at}",
                fusion="single" if unimodal else "concat",
                objective="supervised",
                modalities=("image",) if unimodal else ("image", "text"),
                seeds=seeds,
                done=seeds,
                cell_ids={seed: f"{at}-{seed}" for seed in seeds},
                statuses={"ok": len(seeds)},
                score=Score(
                    by_seed=dict(enumerate(means[at].tolist())), mean=float(means[at].mean()), std=None,
                    ci_low=None, ci_high=None, ci_over="",
                ),
                val=float(val_means[at].mean()),
                val_by_seed=dict(enumerate(val_means[at].tolist())),
                gain=None
                if unimodal or single is None
                else Gain(
                    value=float(means[at].mean() - means[single].mean()), ci_low=None, ci_high=None,
                    over=f"image:e{single}", over_objective="supervised", num_compared=num_unimodal,
                    num_planned=num_unimodal,
                ),
            )
        )  # fmt: skip
    order = sorted(range(len(rows)), key=lambda at: -means[at].mean())
    ranked = [Row(**{**vars(rows[at]), "rank": rank}) for rank, at in enumerate(order, start=1)]
    board = Board(
        dataset="made", summary="", task="t", kind="multiclass", num_outputs=2, class_names=(), metric="accuracy",
        direction="max", unit="1", first=True, num_test=test.shape[2], seeds=seeds, rows=tuple(ranked), floor=None,
        ceilings={}, num_done=len(rows), num_planned=len(rows), statuses={"ok": len(rows)},
    )  # fmt: skip
    return with_scores(board, Scored(tuple(range(len(rows))), test[order], clusters))


def model_predictions(
    kind: str, rng: np.random.Generator, num: int, seeds: int
) -> tuple[str, list[Floats], NDArray[Any]]:
    """Return the kind of task, predictions of models that differ by seed on the same samples, and the target."""
    if kind.startswith("labels"):
        threshold = -ndtri(int(kind.removeprefix("labels")) / 100) * math.sqrt(2)
        seen = rng.normal(size=(num, 8))
        target = (seen + rng.normal(size=(num, 8)) > threshold).astype(int)
        preds = [expit(1.5 * (seen + 0.6 * rng.normal(size=(num, 8)) - threshold)) for _ in range(seeds)]
        return "multilabel", preds, target
    if kind.startswith("classes"):
        shares = {"classes4": [0.25] * 4, "classes2": [0.8, 0.2], "classes2-rare": [0.95, 0.05]}[kind]
        target, seen = rng.choice(len(shares), num, p=shares), rng.normal(size=(num, len(shares)))
        preds = []
        for _ in range(seeds):
            logits = 1.5 * np.eye(len(shares))[target] + 0.8 * seen + 0.6 * rng.normal(size=seen.shape) + np.log(shares)
            preds.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
        return "multiclass", preds, target
    target, seen = rng.normal(size=(num, 1)), rng.normal(size=(num, 1))
    if kind == "student3":
        seen = rng.standard_t(3, size=(num, 1))
        return (
            "regression",
            [target + 0.8 * seen + 0.6 * rng.standard_t(3, size=(num, 1)) for _ in range(seeds)],
            target,
        )
    if kind == "lognormal":
        return (
            "regression",
            [target + np.exp(0.8 * seen + 0.6 * rng.normal(size=(num, 1))) for _ in range(seeds)],
            target,
        )
    return "regression", [target + 0.7 * seen + 0.5 * rng.normal(size=(num, 1)) for _ in range(seeds)], target


def metric_coverage(kind: str, metric: str, num: int, seeds: int, trials: int) -> float:
    """Return how often the interval of a metric holds what it is on endless samples."""
    return metric_coverages(kind, metric, num, seeds, trials)[0]


@functools.cache
def endless_metric(kind: str, metric: str) -> float:
    """Return the metric of a model on so many samples that nothing is left to chance."""
    found = []
    for start in range(2):
        task, (preds,), target = model_predictions(kind, np.random.default_rng(start), 100_000, 1)
        influence = influence_of(task, metric, preds, target)
        assert influence is not None
        found.append(influence.value)
    return float(np.mean(found))


def metric_coverages(kind: str, metric: str, num: int, seeds: int, trials: int) -> tuple[float, float]:
    """Return how often the interval holds, and how often Student's over the seeds alone does (NaN for one seed).

    Of test sets that hold every class.
    """
    rng = np.random.default_rng([num, seeds, len(metric)])
    truth, held, by_seeds = endless_metric(kind, metric), 0, 0
    done = 0
    while done < trials:
        task, several, target = model_predictions(kind, rng, num, seeds)
        if kind.startswith("classes") and len(np.unique(target)) < several[0].shape[1]:
            continue
        done += 1
        known = [item for item in (influence_of(task, metric, each, target) for each in several) if item is not None]
        interval = mean_interval(
            np.stack([item.value + item.each for item in known]),
            shape=known[0].shape,
            bias=float(np.mean([item.bias for item in known])),
            least_variance=float(np.mean([item.least_variance for item in known])),
        )
        assert isinstance(interval, Interval)
        held += interval.low <= truth <= interval.high
        values = [item.value for item in known]
        half = float(stdtrit(seeds - 1, 0.975)) * np.std(values, ddof=1) / math.sqrt(seeds) if seeds > 1 else math.nan
        by_seeds += abs(np.mean(values) - truth) <= half
    return held / trials, by_seeds / trials if seeds > 1 else math.nan
