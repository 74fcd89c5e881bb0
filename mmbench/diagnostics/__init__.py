"""What a trained cell says about its modalities: found from the model as it stands, without training again.

Scores on changed inputs are metrics of phase "evaluate" with a condition other than "clean": "drop:audio",
"only:image", "emap", "noise:image.gaussian@0.3". What is derived from them has the phase "diagnose".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from mmbench.batches import SplitData, some_of
from mmbench.diagnostics import emap
from mmbench.diagnostics.calibration import errors
from mmbench.diagnostics.disturbed import DisturbedInputs
from mmbench.diagnostics.encoded import Encoded, Fill, absent, average, filled_with, join
from mmbench.diagnostics.robustness import noise_curves
from mmbench.diagnostics.shapley import shapley_shares
from mmbench.diagnostics.subject import Findings, Scored, Subject, derived_metric, score_metric, scored, sign
from mmbench.diagnostics.subsets import MAX_MODALITIES, Subset, condition, predict_subsets, proper_subsets
from mmbench.metric_catalog import primary_metric
from mmbench.record import Metric
from mmbench.spec import TaskSpec
from mmbench.tasks import majority_predictions, predictions

Depth: TypeAlias = Literal["none", "quick", "full"]
#: Training samples whose mean features stand in for a modality, for fusions that take no mask.
MAX_MEAN_SAMPLES = 256


def diagnose(subject: Subject, depth: Depth, disturbed: DisturbedInputs | None = None) -> Findings:
    """Diagnose a trained cell; a cell of one modality has errors, and nothing to compare.

    Args:
        subject: The cell.
        depth: "none"; "quick": missing modalities, Shapley shares, EMAP on 40 samples, calibration; "full": EMAP on
            400, and noise curves.
        disturbed: Gives the disturbed inputs of "full"; without it there are no noise curves.
    """
    findings = Findings()
    if depth == "none":
        return findings
    findings.info["depth"] = depth
    findings.info["errors"] = {
        task.name: errors(task, subject.clean[task.name], subject.target(task)) for task in subject.tasks
    }
    subject.model.eval()
    # A search with one side missing has no meaning.
    searching = any(task.kind == "retrieval" for task in subject.tasks)
    if len(subject.model.modalities) > 1 and not searching:
        _modalities(subject, depth, findings)
    if depth == "full" and disturbed is not None and not searching:
        noise_curves(subject, disturbed.kinds, disturbed, findings)
    return findings


def _modalities(subject: Subject, depth: Depth, findings: Findings) -> None:
    model, test = subject.model, subject.data["test"]
    fill, fill_note = _filling(subject)
    probe = _encode(subject, test, [0])
    num_test = len(test)
    num_pairs = emap.num_samples(probe, num_test, depth)
    positions = some_of(num_pairs, num_test)
    subsets = proper_subsets(model.modalities)
    logits, parts = predict_subsets(
        model,
        test,
        subsets,
        fill,
        keep=positions,
        batch_size=subject.batch_size,
        autocast=subject.autocast,
    )
    for task in subject.tasks:
        by_subset = {subset: subject.score(task, logits[subset][task.name]) for subset in subsets}
        findings.metrics += [
            score_metric(
                task,
                found,
                condition=condition(subset, model.modalities),
                n=num_test,
                note=fill_note,
            )
            for subset, found in by_subset.items()
        ]
        findings.metrics += _shares(subject, task, by_subset)
    projected = emap.additive_projection(
        model, {name: join(given) for name, given in parts.items()}, autocast=subject.autocast
    )
    for task in subject.tasks:
        findings.metrics += _emap(subject, task, projected[task.name], positions)


def _filling(subject: Subject) -> tuple[Fill, str]:
    if subject.takes_missing:
        return absent, ""
    train = subject.data["train"]
    positions = some_of(MAX_MEAN_SAMPLES, len(train))
    parts = [
        _encode(subject, train, positions[start : start + subject.batch_size])
        for start in range(0, len(positions), subject.batch_size)
    ]
    note = f"the fusion takes no missing modality: the mean features of {len(positions)} training samples stand in"
    return filled_with(average(parts)), note


def _encode(subject: Subject, data: SplitData, positions: Sequence[int]) -> Encoded:
    with torch.inference_mode(), torch.autocast(data.device.type, torch.bfloat16, enabled=subject.autocast):
        return subject.model.encode(data.batch(torch.tensor(positions)))


def _shares(subject: Subject, task: TaskSpec, by_subset: Mapping[Subset, Scored]) -> list[Metric]:
    """Shapley shares of the primary metric, in its unit; knowing nothing is worth the majority floor."""
    names = subject.model.modalities
    target = subject.target(task)
    metric = partial(derived_metric, task, n=len(target))
    if len(names) > MAX_MODALITIES:
        reason = f"exact shares are computed for up to {MAX_MODALITIES} modalities, and there are {len(names)}"
        return [metric(f"shapley:{name}", None, note=reason) for name in names]
    floor = scored(task, majority_predictions(task, subject.target(task, "train"), len(target)), target)
    everything = scored(task, subject.clean[task.name], target)
    found = {frozenset(subset): value for subset, value in by_subset.items()}
    found |= {frozenset(): floor, frozenset(names): everything}
    unknown = next((value.note for value in found.values() if value.value is None), None)
    if unknown is not None:
        return [metric(f"shapley:{name}", None, note=f"a subset has no score: {unknown}") for name in names]
    values = {subset: sign(task) * value.value for subset, value in found.items() if value.value is not None}
    return [metric(f"shapley:{name}", value) for name, value in shapley_shares(values, names).items()]


def _emap(subject: Subject, task: TaskSpec, projected: torch.Tensor, rows: Sequence[int]) -> list[Metric]:
    """The score of the additive projection, and what interactions add to it on the same samples."""
    target = subject.target(task)
    note = "" if len(rows) == len(target) else f"on {len(rows)} of {len(target)} test samples"
    additive = subject.score(task, projected, rows)
    full = scored(task, subject.clean[task.name][list(rows)], target[list(rows)])
    known = additive.value is not None and full.value is not None
    gap = sign(task) * (full.value - additive.value) if known else None  # type: ignore[operator]
    differences = None if gap is None else _differences(subject, task, projected, rows)
    low, high = (differences is not None and emap.gap_interval(differences)) or (None, None)
    found = derived_metric(task, "emap_gap", gap, n=len(rows), note=note or full.note)
    return [
        score_metric(task, additive, condition="emap", n=len(rows), note=note),
        dataclasses.replace(found, ci_low=low, ci_high=high),
    ]


def _differences(
    subject: Subject, task: TaskSpec, projected: torch.Tensor, rows: Sequence[int]
) -> NDArray[np.float64] | None:
    """By how much the model is better than its projection on each sample; None for a metric that is no mean of such.

    Shapes: -> (n,).
    """
    whole, target = subject.clean[task.name][list(rows)], subject.target(task)[list(rows)]
    additive = predictions(task, projected.float(), subject.scalers[task.name]).cpu().numpy()
    metric = primary_metric(task)
    if task.kind == "multiclass" and metric in ("accuracy", "f1_micro"):
        right = [(given.argmax(axis=1) == target).astype(np.float64) for given in (whole, additive)]
    elif task.kind == "multilabel" and metric == "exact_match":
        right = [((given > 0.5) == target).all(axis=1).astype(np.float64) for given in (whole, additive)]
    elif task.kind == "regression" and metric == "mae":
        right = [-np.abs(given - target).mean(axis=1) for given in (whole, additive)]
    else:
        return None
    differences: NDArray[np.float64] = right[0] - right[1]
    return differences


__all__ = ["Depth", "DisturbedInputs", "Findings", "Subject", "diagnose"]
