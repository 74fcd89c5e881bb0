"""Simulate what reports claim, on made-up rows whose truth is known.

``python results/scripts/simulate_statistics.py TRIALS > results/statistics.md``; 300 trials take two minutes of one
processor. "Before" is what reports did until the
headline was chosen on val: the best row on test, comparisons with it alone under Student's t over the seeds'
differences, intervals over seeds alone for metrics that are no mean over samples, samples instead of groups.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.special

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from simulated import board_of, latent_scores, metric_coverages

from mmbench.report.intervals import mean_interval
from mmbench.report.pairwise import compare_pairs, mcnemar_pairs
from mmbench.report.statistics import holm

SEEDS = (1, 2, 3, 5)
STD_OVER_SEEDS = 0.01


def main(trials: int) -> None:
    error = 100 * (0.05 * 0.95 / trials) ** 0.5
    print("# What reports claim, simulated\n")
    print(
        f"{trials} trials of each setting, four times as many for groups of samples; the standard error of a share of"
    )
    print(f"5 % is {error:.1f} points. Intervals should hold in 0.95, false claims stay below 0.05. Made by")
    print("[simulate_statistics.py](scripts/simulate_statistics.py), which says what *before* was.")
    for title, words, heads, rows in (
        (
            "Headline and gain among equal fusions",
            "The accuracy of every row is 0.80, with a standard deviation of 0.01 over seeds.",
            ("fusions", "seeds", "test samples"),
            headlines(trials),
        ),
        (
            "Boards of equal rows with a false difference",
            "The same rows. *Unequal* spread: over seeds a fourth of the rows vary by 0.03, the others by 0.005.",
            ("rows", "spread over seeds", "seeds", "test samples"),
            differences(trials),
        ),
        (
            "A row 5 points ahead told apart, 20 rows",
            "*Samples alike* is the correlation of two rows' answers on one sample: rows of one benchmark mostly err "
            "on the same samples. *Known variances* is what a test of all pairs finds that knows every variance.",
            ("seeds", "test samples", "spread over seeds", "samples alike"),
            power(trials),
        ),
        ("Intervals that hold, by metric", "", ("metric", "seeds", "test samples"), metrics(trials)),
        (
            "Intervals that hold less often: rare classes and heavy tails",
            "Reports say so, and how often, where a class has fewer than ten test samples or few samples decide a mean "
            "error.",
            ("metric", "seeds", "test samples"),
            hard_metrics(trials),
        ),
        ("Intervals over groups of samples that hold", "", ("groups", "samples each", "seeds"), groups(trials)),
    ):
        print(f"\n## {title}\n")
        if words:
            print(f"{words}\n")
        lines = list(rows)
        measures = list(lines[0][1])
        print("|", " | ".join([*heads, *measures]), "|")
        print("|", " | ".join("---:" for _ in [*heads, *measures]), "|")
        for setting, found in lines:
            shown = ["–" if np.isnan(value) else f"{value:.2f}" for value in found.values()]
            print("|", " | ".join([*map(str, setting), *shown]), "|", flush=True)


def headlines(trials: int) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    for rows, num_test in ((30, 300), (30, 1000), (150, 300)):
        for seeds in SEEDS:
            rng = np.random.default_rng([rows, num_test, seeds])
            found = np.zeros(6)
            for _ in range(trials):
                luck = rng.normal(size=(rows + 1, seeds))
                std = STD_OVER_SEEDS if seeds > 1 else 0.0
                val, test = (
                    latent_scores(rng, [0.8] * (rows + 1), seeds, num, std, luck=luck) for num in (300, num_test)
                )
                best = 1 + int(test[1:].mean(axis=(1, 2)).argmax())
                before = mean_interval(test[best], shape="share")
                gain_before = mean_interval(test[best] - test[0])
                board = board_of(val, test, 1)
                chosen = board.chosen_fusion
                score, gain = chosen.score, chosen.gain
                found += [
                    before.low <= 0.8 <= before.high,
                    score.ci_low <= 0.8 <= score.ci_high,
                    gain_before.low <= 0 <= gain_before.high,
                    gain.ci_low <= 0 <= gain.ci_high,
                    gain_before.low > 0,
                    gain.ci_low > 0,
                ]
            names = [
                f"{what}, {when}" for what in ("score holds", "gain holds", "beats") for when in ("before", "after")
            ]
            yield (rows, seeds, num_test), dict(zip(names, found / trials))


def differences(trials: int) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    settings = [(rows, num, "equal") for rows, num in ((20, 300), (20, 1000), (60, 300), (150, 300))]
    for rows, num_test, spread in [*settings, (20, 300, "unequal"), (60, 300, "unequal")]:
        stds = np.where(np.arange(rows) % 4 == 0, 0.03, 0.005) if spread == "unequal" else np.full(rows, STD_OVER_SEEDS)
        for seeds in SEEDS if spread == "equal" else SEEDS[1:]:
            rng = np.random.default_rng([rows, num_test, seeds, len(spread)])
            found = np.zeros(2)
            for _ in range(trials):
                luck = rng.normal(size=(rows, seeds)) * stds[:, None]
                scores = latent_scores(rng, [0.8] * rows, seeds, num_test, float(seeds > 1), luck=luck)
                found += [against_best(scores).any(), compare_pairs(scores).differs.any()]
            yield (rows, spread, seeds, num_test), dict(zip(("before", "after"), found / trials))


def power(trials: int) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    level = 0.05 / (20 * 19 / 2)
    for std, difficulty in ((0.002, 4.0), (0.005, 4.0), (0.005, 2.0), (0.01, 2.0), (0.01, 0.0)):
        for seeds in SEEDS:
            rng = np.random.default_rng([seeds, 2])
            found, differences, alike = np.zeros(2), [], []
            for _ in range(trials):
                scores = latent_scores(
                    rng, [0.85] + [0.8] * 19, seeds, 1000, std if seeds > 1 else 0.0, difficulty=difficulty
                )
                found += [against_best(scores).sum() / 19, compare_pairs(scores).differs[0, 1:].mean()]
                means = scores.mean(axis=(1, 2))
                differences.append(means[0] - means[1:])
                alike.append(np.corrcoef(scores[1, 0], scores[2, 0])[0, 1])
            error = float(np.std(differences, axis=0, ddof=1).mean())
            known = float(scipy.special.ndtr(np.mean(differences) / error + scipy.special.ndtri(level / 2)))
            yield (
                (seeds, 1000, std if seeds > 1 else "–", f"{np.mean(alike):.2f}"),
                {**dict(zip(("before", "after"), found / trials)), "known variances": known},
            )


def against_best(scores: np.ndarray) -> np.ndarray:
    """Rows told apart from the best on test, as reports did: Holm over the comparisons with it alone.

    Shapes: (M, S, N) -> (M - 1,).
    """
    means = scores.mean(axis=(1, 2))
    best = int(means.argmax())
    if scores.shape[1] == 1:
        p_values = np.delete(mcnemar_pairs(scores[:, 0])[best], best)
    else:
        by_seed = np.delete(scores[best].mean(axis=1) - scores.mean(axis=2), best, axis=0)
        error = by_seed.std(axis=1, ddof=1) / np.sqrt(by_seed.shape[1])
        ratio = np.abs(by_seed.mean(axis=1)) / np.maximum(error, 1e-12)
        p_values = 2 * scipy.special.stdtr(by_seed.shape[1] - 1, -ratio)
    return holm(p_values) < 0.05


def metrics(trials: int) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    for kind, metric, words in (
        ("labels15", "map", "mAP, 8 labels, 15 % positive"),
        ("labels15", "auroc", "AUROC, 8 labels, 15 % positive"),
        ("classes2", "balanced_accuracy", "balanced accuracy, 20 % positive"),
        ("classes4", "f1_macro", "macro F1, 4 classes"),
        ("normal", "mae", "MAE, normal errors"),
        ("lognormal", "mae", "MAE, lognormal errors"),
        ("lognormal", "rmse", "RMSE, lognormal errors"),
        ("normal", "pearson", "Pearson"),
        ("normal", "r2", "R²"),
    ):
        for num in (30, 100, 300, 1000):
            for seeds in SEEDS if num in (100, 300) else (1, 3):
                held, before = metric_coverages(kind, metric, num, seeds, trials)
                yield (words, seeds, num), {"over seeds alone (before)": before, "after": held}


def hard_metrics(trials: int) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    for kind, metric, words in (
        ("classes2-rare", "balanced_accuracy", "balanced accuracy, 5 % positive"),
        ("classes2-rare", "f1_macro", "macro F1, 5 % positive"),
        ("classes2-rare", "precision_macro", "macro precision, 5 % positive"),
        ("labels5", "map", "mAP, 8 labels, 5 % positive"),
        ("labels5", "auroc", "AUROC, 8 labels, 5 % positive"),
        ("student3", "mae", "MAE, Student's errors with 3 degrees of freedom"),
        ("student3", "rmse", "RMSE, Student's errors with 3 degrees of freedom"),
    ):
        for num in (30, 100, 300) if kind != "student3" else (30, 100, 300, 1000):
            for seeds in (1, 3):
                held, before = metric_coverages(kind, metric, num, seeds, trials)
                yield (words, seeds, num), {"over seeds alone (before)": before, "after": held}


def groups(trials: int) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    for count, size in ((10, 30), (30, 10), (100, 3)):
        clusters = np.repeat(np.arange(count), size)
        for seeds in (1, 5):
            rng = np.random.default_rng([count, seeds, 3])
            found = np.zeros(2)
            for _ in range(4 * trials):
                scores = latent_scores(
                    rng, [0.8], seeds, count * size, difficulty=0.5, clusters=clusters, cluster_std=0.8
                )[0]
                for at, given in enumerate((None, clusters)):
                    interval = mean_interval(scores, shape="share", clusters=given)
                    found[at] += interval.low <= 0.8 <= interval.high
            yield (count, size, seeds), dict(zip(("over samples (before)", "after"), found / (4 * trials)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
