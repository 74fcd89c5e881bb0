"""What disturbed inputs cost: one modality disturbed at a time, the others as they are, the area under each curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmbench.batches import SplitData, some_of
from mmbench.columns import Column
from mmbench.diagnostics.encoded import Encoded
from mmbench.diagnostics.noise import CORRUPTIONS, SEVERITIES, Corruption, condition
from mmbench.diagnostics.subject import Findings, Subject, derived_metric, score_metric, scored
from mmbench.spec import Kind

#: Test samples that are disturbed, at most.
MAX_SAMPLES = 2000

#: (modality, corruption, severity, positions in the test split) -> those samples as the model's encoder takes them.
Disturbed = Callable[[str, Corruption, float, Sequence[int]], Column]


def noise_curves(subject: Subject, kinds: Mapping[str, Kind], disturbed: Disturbed, findings: Findings) -> None:
    """Add the score under every corruption of every modality, and the area under each curve.

    Args:
        subject: The cell.
        kinds: Of its modalities.
        disturbed: Gives the disturbed inputs.
        findings: What to add to.
    """
    test = subject.data["test"]
    positions = some_of(MAX_SAMPLES, len(test))
    with torch.inference_mode(), torch.autocast(test.device.type, torch.bfloat16, enabled=subject.autocast):
        clean = [subject.model.encode(batch) for batch in test.batches(torch.tensor(positions), subject.batch_size)]
        for name in subject.model.modalities:
            for corruption in CORRUPTIONS[kinds[name]]:
                curves = {
                    severity: _logits(subject, clean, name, disturbed(name, corruption, severity, positions))
                    for severity in SEVERITIES
                }
                _add(subject, name, corruption, curves, positions, findings)
                findings.info.setdefault("noise", {})[f"{name}.{corruption.name}"] = corruption.unit


def area(severities: Sequence[float], scores: Sequence[float]) -> float:
    """Area under a curve over severities 0 to 1 by the trapezoidal rule: the mean score under the disturbance.

    >>> area([0.0, 0.5, 1.0], [1.0, 0.5, 0.5])
    0.625
    """
    steps = np.diff(np.asarray(severities, dtype=np.float64))
    heights = np.asarray(scores, dtype=np.float64)
    return float((steps * (heights[:-1] + heights[1:]) / 2).sum())


def _logits(subject: Subject, clean: Sequence[Encoded], name: str, column: Column) -> dict[str, Tensor]:
    """Logits (P, K) by task with one modality read from another column."""
    data = SplitData({name: column}, {}, subject.data["test"].device)
    found: dict[str, list[Tensor]] = {}
    for others, batch in zip(clean, data.in_order(subject.batch_size)):
        features = {**others, **subject.model.encode(batch, only=(name,))}
        for task, logits in subject.model.fuse(features).logits.items():
            found.setdefault(task, []).append(logits)
    return {task: torch.cat(parts) for task, parts in found.items()}


def _add(
    subject: Subject,
    name: str,
    corruption: Corruption,
    curves: Mapping[float, Mapping[str, Tensor]],
    positions: Sequence[int],
    findings: Findings,
) -> None:
    rows = list(positions)
    for task in subject.tasks:
        values = {severity: subject.score(task, logits[task.name], rows) for severity, logits in curves.items()}
        findings.metrics += [
            score_metric(task, value, condition=condition(name, corruption, severity), n=len(rows))
            for severity, value in values.items()
        ]
        start = scored(task, subject.clean[task.name][rows], subject.target(task)[rows])
        known = [value.value for value in (start, *values.values()) if value.value is not None]
        under = area([0.0, *values], known) if len(known) == 1 + len(values) else None
        note = "" if under is not None else "a score on the curve is not known"
        title = f"robustness:{name}.{corruption.name}"
        findings.metrics.append(derived_metric(task, title, under, n=len(rows), note=note, signed=False))
