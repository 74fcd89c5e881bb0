"""Training objectives for mmbench: what training minimises and how its gradients are used."""

from __future__ import annotations

from typing import Any

from mmbench import ObjectiveSpec, hookimpl


def _objective(name: str, code: str, **facts: Any) -> ObjectiveSpec:
    return ObjectiveSpec(name=name, factory=f"mmbench_objectives.{code}", version="1", licence="Apache-2.0", **facts)


OBJECTIVES = (
    _objective(
        "supervised",
        "supervised:Supervised",
        summary="The tasks' losses on the fused prediction",
    ),
    _objective(
        "joint",
        "joint:Joint",
        in_all=False,
        defaults={"unimodal_weight": 1.0},
        summary="Every modality must also predict alone, beside the fused prediction",
        paper="Du et al. 2021, arXiv:2106.11059",
    ),
    _objective(
        "infonce",
        "infonce:InfoNce",
        in_all=False,
        min_modalities=2,
        defaults={"alignment_weight": 0.5, "embedding_dim": 64, "temperature": 0.07},
        summary="Contrastive alignment of every pair of modalities (CLIP) beside the task",
        paper="Radford et al. 2021, arXiv:2103.00020",
    ),
    _objective(
        "ogm-ge",
        "ogm_ge:OgmGe",
        in_all=False,
        min_modalities=2,
        task_kinds=("multiclass",),
        defaults={"alpha": 0.5, "until": 1.0, "enhance": True},
        summary="Gradients of the modality that is ahead are held back, and noise is added",
        paper="Peng et al. 2022, arXiv:2203.15332",
    ),
    _objective(
        "modality-dropout",
        "modality_dropout:ModalityDropout",
        in_all=False,
        min_modalities=2,
        defaults={"probability": 0.3},
        summary="In training, samples lose whole modalities at random",
        paper="Neverova et al. 2016, arXiv:1501.00102",
    ),
    _objective(
        "uncertainty",
        "uncertainty:Uncertainty",
        in_all=False,
        summary="Several tasks, each weighted by its learned uncertainty",
        paper="Kendall et al. 2018, arXiv:1705.07115",
    ),
)


@hookimpl
def mmbench_objectives() -> tuple[ObjectiveSpec, ...]:
    """Return this package's objectives."""
    return OBJECTIVES
