"""Scores of made-up rows on made-up samples, whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from mmbench.report.evidence import Scored, with_scores
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
