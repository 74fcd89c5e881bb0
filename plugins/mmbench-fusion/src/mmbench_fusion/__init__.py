"""Fusion methods for mmbench: the ways to join several modalities, each checked against its formula."""

from __future__ import annotations

from mmbench import FusionSpec, hookimpl

ALL_SETS = ("xor", "quarters", "redundant", "unique", "synergy", "redundant-3", "unique-3", "synergy-3")
ADDITIVE_SETS = ("quarters", "redundant", "unique", "redundant-3", "unique-3")

_ADDITIVE = "its prediction is additive over modalities, and this set's label is pure interaction"
_ADDITIVE_UP_TO_A_FACTOR = "each logit is a sum of unimodal terms over a factor common to all classes, and this set's label is pure interaction"
_UNIMODAL_VOTES = "each modality votes alone, and alone each is at chance on this set"
_INTERACTION_SETS = ("xor", "synergy", "synergy-3")

FUSIONS = (
    FusionSpec(
        name="single",
        factory="mmbench_fusion.single:Single",
        version="1",
        min_modalities=1,
        max_modalities=1,
        missing=True,
        summary="No fusion: one modality's vector passes through, which makes the unimodal baselines",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="concat",
        factory="mmbench_fusion.concat:Concat",
        version="1",
        defaults={"fused_dim": 128},
        missing=True,
        solves=ALL_SETS,
        summary="Vectors side by side, read by one hidden layer",
        paper="Ngiam et al. 2011, Multimodal Deep Learning, ICML",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="sum",
        factory="mmbench_fusion.sum:Sum",
        version="1",
        defaults={"fused_dim": 128},
        missing=True,
        solves=ADDITIVE_SETS,
        cannot_solve=dict.fromkeys(_INTERACTION_SETS, _ADDITIVE),
        summary="Projected to one width and added: the additive baseline",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="max",
        factory="mmbench_fusion.max:Max",
        version="1",
        defaults={"fused_dim": 128},
        missing=True,
        solves=ALL_SETS,
        summary="Projected to one width, the largest value kept in each place",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="gated",
        factory="mmbench_fusion.gated:Gated",
        version="1",
        defaults={"fused_dim": 128},
        missing=True,
        solves=ALL_SETS,
        summary="Gated multimodal unit: all modalities together decide how far each opens",
        paper="Arevalo et al. 2017, arXiv:1702.01992",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="tensor",
        factory="mmbench_fusion.tensor:TensorFusion",
        version="1",
        defaults={"modality_dim": 16, "max_tensor_dim": 2048, "fused_dim": 128},
        max_modalities=6,
        missing=True,
        solves=ALL_SETS,
        summary="Tensor fusion (TFN): the outer product of all modalities, formed in full",
        paper="Zadeh et al. 2017, arXiv:1707.07250",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="low-rank-tensor",
        factory="mmbench_fusion.low_rank_tensor:LowRankTensor",
        version="1",
        defaults={"modality_dim": 32, "rank": 4, "fused_dim": 128},
        max_modalities=6,
        missing=True,
        solves=ALL_SETS,
        summary="Low-rank tensor fusion (LMF): the outer product of all modalities, never formed",
        paper="Liu et al. 2018, arXiv:1806.00064",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="attention",
        factory="mmbench_fusion.attention:Attention",
        version="1",
        defaults={"attention_dim": 64, "fused_dim": 128},
        missing=True,
        solves=ADDITIVE_SETS,
        cannot_solve=dict.fromkeys(_INTERACTION_SETS, _ADDITIVE_UP_TO_A_FACTOR),
        summary="A softmax over modalities weighs their projections",
        paper="Hori et al. 2017, arXiv:1701.03126",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="cross-attention",
        factory="mmbench_fusion.cross_attention:CrossAttention",
        version="1",
        accepts="sequence",
        defaults={"model_dim": 64, "num_heads": 4, "fused_dim": 128},
        missing=True,
        solves=ALL_SETS,
        summary="The tokens of each modality look into the tokens of all the others",
        paper="Lu et al. 2019, arXiv:1908.02265",
        licence="Apache-2.0",
    ),
    FusionSpec(
        name="decision-average",
        factory="mmbench_fusion.decision_average:DecisionAverage",
        version="1",
        level="decision",
        missing=True,
        solves=ADDITIVE_SETS,
        cannot_solve=dict.fromkeys(_INTERACTION_SETS, _UNIMODAL_VOTES),
        summary="Every modality predicts alone; the probabilities are averaged",
        paper="Kittler et al. 1998, On combining classifiers, IEEE TPAMI 20(3)",
        licence="Apache-2.0",
    ),
)


@hookimpl
def mmbench_fusions() -> tuple[FusionSpec, ...]:
    """Return this package's fusions."""
    return FUSIONS
