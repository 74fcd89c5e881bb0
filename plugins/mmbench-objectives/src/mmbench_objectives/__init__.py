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
        vectorises=True,
        task_kinds=("multiclass", "multilabel", "regression", "retrieval"),
        summary="The tasks' losses on the fused prediction",
    ),
    _objective(
        "joint",
        "joint:Joint",
        vectorises=True,
        in_all=False,
        defaults={"unimodal_weight": 1.0},
        summary="Every modality must also predict alone, beside the fused prediction",
        paper="Du et al. 2021, arXiv:2106.11059",
    ),
    _objective(
        "infonce",
        "infonce:InfoNce",
        vectorises=True,
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
        "supcon",
        "supcon:SupervisedContrastive",
        vectorises=True,
        in_all=False,
        task_kinds=("multiclass",),
        defaults={"contrastive_weight": 0.5, "embedding_dim": 64, "temperature": 0.1},
        summary="Features of one class are drawn together over all modalities",
        paper="Khosla et al. 2020, arXiv:2004.11362",
    ),
    _objective(
        "deep-cca",
        "cca:DeepCca",
        vectorises=True,
        in_all=False,
        min_modalities=2,
        defaults={"correlation_weight": 0.1, "embedding_dim": 8, "ridge": 1e-3},
        summary="Pairs of modalities are trained to correlate, beside the task",
        paper="Andrew et al. 2013, Deep canonical correlation analysis, ICML",
    ),
    _objective(
        "reconstruction",
        "reconstruction:Reconstruction",
        vectorises=True,
        in_all=False,
        defaults={"reconstruction_weight": 0.5, "code_dim": 64},
        summary="Every modality's features must be told from a shared code, whichever modality made it",
        paper="Ngiam et al. 2011, Multimodal Deep Learning, ICML",
    ),
    _objective(
        "mvae",
        "mvae:Mvae",
        in_all=False,
        defaults={"elbo_weight": 0.1, "kl_weight": 0.1, "latent_dim": 32},
        summary="A latent variable behind all features, told by a product of experts (evidence lower bound)",
        paper="Wu & Goodman 2018, arXiv:1802.05335",
    ),
    _objective(
        "mfm",
        "mfm:Mfm",
        in_all=False,
        defaults={"factor_weight": 0.1, "prior_weight": 1.0, "factor_dim": 32},
        summary="Features are made from one factor that tells the label and one of each modality's own",
        paper="Tsai et al. 2019, arXiv:1806.06176",
    ),
    _objective(
        "gradient-blending",
        "gradient_blending:GradientBlending",
        in_all=False,
        min_modalities=2,
        defaults={"every": 2, "held_out_share": 0.2},
        summary="Fused and unimodal losses, weighted by how much they generalise and how little they overfit",
        paper="Wang et al. 2020, arXiv:1905.12681",
    ),
    _objective(
        "agm",
        "agm:Agm",
        in_all=False,
        min_modalities=2,
        max_modalities=4,
        task_kinds=("multiclass",),
        defaults={"alpha": 1.0},
        summary="Each encoder's gradients follow its modality's share of the prediction",
        paper="Li et al. 2023, arXiv:2308.07686",
    ),
    _objective(
        "pmr",
        "pmr:Pmr",
        in_all=False,
        min_modalities=2,
        task_kinds=("multiclass",),
        defaults={"alpha": 1.0, "mu": 0.1, "momentum": 0.5, "until": 0.5},
        summary="The modality that lags is pulled to its classes' prototypes, the one ahead is held open",
        paper="Fan et al. 2023, arXiv:2211.07089",
    ),
    _objective(
        "mixup",
        "mixup:Mixup",
        in_all=False,
        levels=("feature",),
        defaults={"alpha": 0.2},
        summary="Mixtures of two samples' fused features must give the mixture of their labels",
        paper="Zhang et al. 2018, arXiv:1710.09412; Verma et al. 2019, arXiv:1806.05236",
    ),
    _objective(
        "adversarial",
        "adversarial:Adversarial",
        in_all=False,
        defaults={"adversarial_weight": 1.0, "epsilon": 0.1, "num_steps": 1},
        summary="Predictions must hold where features are pushed the worst way (FGSM, PGD)",
        paper="Goodfellow et al. 2015, arXiv:1412.6572; Madry et al. 2018, arXiv:1706.06083",
    ),
    _objective(
        "distillation",
        "distillation:Distillation",
        in_all=False,
        defaults={"teacher": "", "distillation_weight": 0.5, "temperature": 2.0},
        must_give=("teacher",),
        summary="Learn from what a trained cell said of the training samples (run it with --keep-train)",
        paper="Hinton et al. 2015, arXiv:1503.02531",
    ),
    _objective(
        "mutual-distillation",
        "mutual_distillation:MutualDistillation",
        vectorises=True,
        in_all=False,
        min_modalities=2,
        defaults={"distillation_weight": 1.0, "temperature": 2.0},
        summary="The fused prediction and each modality's own learn from each other",
        paper="Zhang et al. 2018, arXiv:1706.00384",
    ),
    _objective(
        "uncertainty",
        "uncertainty:Uncertainty",
        vectorises=True,
        in_all=False,
        summary="Several tasks, each weighted by its learned uncertainty",
        paper="Kendall et al. 2018, arXiv:1705.07115",
    ),
    _objective(
        "independent",
        "independent:Independent",
        in_all=False,
        levels=("decision",),
        defaults={"held_out_share": 0.0},
        summary="Every modality learns alone; the decision rule joins models that never saw each other",
        paper="Baltrusaitis et al. 2017, arXiv:1705.09406",
    ),
    _objective(
        "stacked",
        "independent:Independent",
        in_all=False,
        levels=("decision",),
        defaults={"held_out_share": 0.2},
        summary="Every modality learns alone; the decision rule learns from samples held out from them",
        paper="Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1",
    ),
)


@hookimpl
def mmbench_objectives() -> tuple[ObjectiveSpec, ...]:
    """Return this package's objectives."""
    return OBJECTIVES
