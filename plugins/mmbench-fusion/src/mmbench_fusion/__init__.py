"""Fusion methods for mmbench: the ways to join several modalities, each checked against its formula."""

from __future__ import annotations

from typing import Any

from mmbench import FusionSpec, hookimpl

ADDITIVE_SETS = ("quarters", "redundant", "redundant-3", "unique", "unique-3")
INTERACTION_SETS = ("xor", "synergy", "synergy-3")
ALL_SETS = ADDITIVE_SETS + INTERACTION_SETS
REDUNDANT_SETS = ("redundant", "redundant-3")

_ADDITIVE = "its logits are sums of unimodal terms, and the label of this set is pure interaction"
_SCALED_ADDITIVE = (
    "its logits are sums of unimodal terms over one common factor, and the label of this set is pure interaction"
)
_UNIMODAL_VOTES = "each modality votes alone, and on this set each alone is at chance"

_KITTLER = "Kittler et al. 1998, On combining classifiers, IEEE TPAMI 20(3)"


def _fusion(name: str, code: str, *, version: str = "1", vectorises: bool = True, **facts: Any) -> FusionSpec:
    """A fusion of this package: all of them honour masks, and most of them vectorise."""
    return FusionSpec(
        name=name,
        factory=f"mmbench_fusion.{code}",
        version=version,
        licence="Apache-2.0",
        missing=True,
        vectorises=vectorises,
        **facts,
    )


def _decision(name: str, code: str, *, solves: tuple[str, ...], **facts: Any) -> FusionSpec:
    cannot_solve = dict.fromkeys(INTERACTION_SETS, _UNIMODAL_VOTES)
    return _fusion(name, code, level="decision", solves=solves, cannot_solve=cannot_solve, **facts)


_FIRST_SET = (
    _fusion(
        "single",
        "single:Single",
        min_modalities=1,
        max_modalities=1,
        summary="No fusion: one modality's vector passes through, which makes the unimodal baselines",
    ),
    _fusion(
        "dual-encoder",
        "dual_encoder:DualEncoder",
        task_kinds=("retrieval",),
        in_all=False,
        summary="One space for all modalities, as CLIP has it: what retrieval compares",
        paper="Radford et al. 2021, arXiv:2103.00020",
    ),
    _fusion(
        "concat",
        "concat:Concat",
        defaults={"fused_dim": 128},
        solves=ALL_SETS,
        summary="Vectors side by side, read by one hidden layer",
        paper="Ngiam et al. 2011, Multimodal Deep Learning, ICML",
    ),
    _fusion(
        "sum",
        "sum:Sum",
        defaults={"fused_dim": 128},
        solves=ADDITIVE_SETS,
        cannot_solve=dict.fromkeys(INTERACTION_SETS, _ADDITIVE),
        summary="Projected to one width and added: the additive baseline",
    ),
    _fusion(
        "max",
        "max:Max",
        defaults={"fused_dim": 128},
        solves=ALL_SETS,
        summary="Projected to one width; in each place the largest value stays",
    ),
    _fusion(
        "gated",
        "gated:Gated",
        defaults={"fused_dim": 128},
        solves=ALL_SETS,
        summary="Gated multimodal unit: all modalities together decide how far each opens",
        paper="Arevalo et al. 2017, arXiv:1702.01992",
    ),
    _fusion(
        "tensor",
        "tensor:TensorFusion",
        defaults={"modality_dim": 16, "max_tensor_dim": 2048, "fused_dim": 128},
        max_modalities=6,
        solves=ALL_SETS,
        summary="Tensor fusion (TFN): the outer product of all modalities, formed in full",
        paper="Zadeh et al. 2017, arXiv:1707.07250",
    ),
    _fusion(
        "low-rank-tensor",
        "low_rank_tensor:LowRankTensor",
        defaults={"modality_dim": 32, "rank": 4, "fused_dim": 128},
        max_modalities=6,
        solves=ALL_SETS,
        summary="Low-rank tensor fusion (LMF): the outer product of all modalities, never formed",
        paper="Liu et al. 2018, arXiv:1806.00064",
    ),
    _fusion(
        "attention",
        "attention:Attention",
        defaults={"attention_dim": 64, "fused_dim": 128},
        solves=ADDITIVE_SETS,
        cannot_solve=dict.fromkeys(INTERACTION_SETS, _SCALED_ADDITIVE),
        summary="A softmax over modalities weighs their projections",
        paper="Hori et al. 2017, arXiv:1701.03126",
    ),
    _fusion(
        "cross-attention",
        "cross_attention:CrossAttention",
        vectorises=False,  # torch.func.vmap has no rule for attention on a CPU
        accepts="sequence",
        defaults={"model_dim": 64, "num_heads": 4, "fused_dim": 128},
        solves=ALL_SETS,
        summary="The tokens of each modality look into the tokens of all the others",
        paper="Lu et al. 2019, arXiv:1908.02265",
    ),
    _decision(
        "decision-average",
        "decision_average:DecisionAverage",
        solves=REDUNDANT_SETS,
        summary="Every modality predicts alone; the probabilities are averaged",
        paper=_KITTLER,
    ),
)

_ZOO = (
    _fusion(
        "mean",
        "mean:Mean",
        in_all=False,
        defaults={"fused_dim": 128},
        solves=ADDITIVE_SETS,
        cannot_solve=dict.fromkeys(INTERACTION_SETS, _ADDITIVE),
        summary="Projected to one width and averaged over what is there",
    ),
    _fusion(
        "product",
        "product:Product",
        in_all=False,
        defaults={"fused_dim": 128},
        max_modalities=6,
        solves=ALL_SETS,
        summary="Projected to one width and multiplied place by place",
        paper="Kim et al. 2017, arXiv:1610.04325",
    ),
    _fusion(
        "film",
        "film:Film",
        in_all=False,
        defaults={"fused_dim": 128},
        solves=ALL_SETS,
        summary="Each modality is scaled and shifted by what the others say",
        paper="Perez et al. 2018, arXiv:1709.07871",
    ),
    _fusion(
        "multiplicative",
        "multiplicative:Multiplicative",
        in_all=False,
        defaults={"form": "matrix", "modality_dim": 32, "fused_dim": 128},
        max_modalities=6,
        solves=ALL_SETS,
        summary="Multiplicative interactions: one modality generates the weights that read another",
        paper="Jayakumar et al. 2020, Multiplicative interactions and where to find them, ICLR",
    ),
    _fusion(
        "mutan",
        "mutan:Mutan",
        in_all=False,
        defaults={"modality_dim": 64, "rank": 4, "fused_dim": 128},
        max_modalities=6,
        solves=ALL_SETS,
        summary="Tucker decomposition of the bilinear form between modalities",
        paper="Ben-Younes et al. 2017, arXiv:1705.06676",
    ),
    _fusion(
        "mcb",
        "mcb:CompactBilinear",
        in_all=False,
        defaults={"modality_dim": 32, "fused_dim": 1024},
        max_modalities=6,
        solves=ALL_SETS,
        summary="Compact bilinear pooling: the outer product, hashed by count sketches",
        paper="Fukui et al. 2016, arXiv:1606.01847",
    ),
    _fusion(
        "deep-sets",
        "deep_sets:DeepSets",
        in_all=False,
        defaults={"model_dim": 64, "fused_dim": 128},
        solves=ALL_SETS,
        summary="Modalities as a set: one shared network reads each, the sum is read again",
        paper="Zaheer et al. 2017, arXiv:1703.06114",
    ),
    _fusion(
        "late-transformer",
        "late_transformer:LateTransformer",
        vectorises=False,  # torch.func.vmap has no rule for attention on a CPU
        in_all=False,
        defaults={"model_dim": 64, "num_heads": 4, "num_layers": 2, "dropout": 0.0},
        solves=ALL_SETS,
        summary="One token per modality and a summary token, read by a transformer",
        paper="Liang et al. 2021, arXiv:2107.07502",
    ),
    _fusion(
        "product-of-experts",
        "product_of_experts:ProductOfExperts",
        in_all=False,
        defaults={"model_dim": 64, "fused_dim": 128},
        solves=(*ADDITIVE_SETS, "xor", "synergy"),
        summary="Each modality believes in a Gaussian; their product is the joint belief",
        paper="Wu and Goodman 2018, arXiv:1802.05335",
    ),
    _fusion(
        "mag",
        "mag:AdaptationGate",
        in_all=False,
        defaults={"main": "", "beta": 1.0},
        solves=(*ADDITIVE_SETS, "xor", "synergy"),
        cannot_solve={"synergy-3": "its shifts are terms of the main modality with one other, never of all three"},
        summary="Multimodal adaptation gate: one main modality, moved by the others",
        paper="Rahman et al. 2020, arXiv:1908.05787",
    ),
    _fusion(
        "mixture-of-experts",
        "mixture_of_experts:MixtureOfExperts",
        in_all=False,
        defaults={"model_dim": 64, "fused_dim": 128},
        solves=ADDITIVE_SETS,
        summary="One expert per modality, and a gate that has heard all of them",
        paper="Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79",
    ),
    _fusion(
        "similarity-attention",
        "similarity_attention:SimilarityAttention",
        version="2",
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 64, "fused_dim": 128},
        solves=ALL_SETS,
        summary="Pairs of tokens that resemble one another decide which tokens count",
        paper="Lu et al. 2016, arXiv:1606.00061",
    ),
    _fusion(
        "bilstm",
        "bilstm:BiLstm",
        vectorises=False,  # torch.func.vmap has no rule for recurrent networks
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 64, "hidden_dim": 64, "fused_dim": 128},
        solves=ALL_SETS,
        summary="Bidirectional LSTM over the joined tokens of all modalities",
        paper="Graves and Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042",
    ),
    _fusion(
        "attention-lstm",
        "attention_lstm:AttentionLstm",
        vectorises=False,  # torch.func.vmap has no rule for recurrent networks
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 64, "hidden_dim": 128, "attention_dim": 64, "fused_dim": 128},
        solves=ALL_SETS,
        summary="LSTM over the joined tokens, pooled by attention over its states",
        paper="Yang et al. 2016, NAACL, N16-1174",
    ),
    _fusion(
        "nl-gate",
        "nl_gate:NonLocalGate",
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 64, "fused_dim": 128},
        solves=ALL_SETS,
        summary="Non-local gate: tokens take up what resembles them in the other modalities",
        paper="Wang et al. 2020, arXiv:1905.12681",
    ),
    _fusion(
        "mult",
        "mult:Mult",
        vectorises=False,  # torch.func.vmap has no rule for attention on a CPU
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 32, "num_heads": 4, "num_layers": 2, "dropout": 0.0, "fused_dim": 128},
        max_modalities=6,
        solves=ALL_SETS,
        summary="MulT: a crossmodal transformer for every ordered pair of modalities",
        paper="Tsai et al. 2019, arXiv:1906.00295",
    ),
    _fusion(
        "bottleneck",
        "bottleneck:Bottleneck",
        vectorises=False,  # torch.func.vmap has no rule for attention on a CPU
        in_all=False,
        accepts="sequence",
        defaults={
            "model_dim": 64,
            "num_heads": 4,
            "num_layers": 2,
            "num_bottlenecks": 4,
            "dropout": 0.0,
            "fused_dim": 128,
        },
        solves=ALL_SETS,
        summary="Attention bottlenecks (MBT): modalities exchange what fits through a few shared tokens",
        paper="Nagrani et al. 2021, arXiv:2107.00135",
    ),
    _fusion(
        "perceiver",
        "perceiver:Perceiver",
        vectorises=False,  # torch.func.vmap has no rule for attention on a CPU
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 64, "num_heads": 4, "num_latents": 8, "num_rounds": 2, "dropout": 0.0},
        # The parity of three (synergy-3) it reaches from about every second start only, however small the rate.
        solves=(*ADDITIVE_SETS, "xor", "synergy"),
        summary="A few latent vectors look into the joined tokens of all modalities, again and again",
        paper="Jaegle et al. 2021, arXiv:2103.03206",
    ),
    _decision(
        "decision-weighted",
        "decision_weighted:DecisionWeighted",
        in_all=False,
        solves=REDUNDANT_SETS,
        summary="Every modality predicts alone; learned weights say whose probabilities count how much",
        paper="Stone 1961, doi:10.1214/aoms/1177704873",
    ),
    _decision(
        "decision-product",
        "decision_product:DecisionProduct",
        in_all=False,
        solves=ADDITIVE_SETS,
        summary="Every modality predicts alone; the probabilities are multiplied",
        paper=_KITTLER,
    ),
    _decision(
        "majority-vote",
        "majority_vote:MajorityVote",
        in_all=False,
        solves=REDUNDANT_SETS,
        summary="Every modality names one class, and the most named one wins",
        paper=_KITTLER,
    ),
)

_LEVELS = (
    _fusion(
        "pyramid",
        "pyramid:Pyramid",
        in_all=False,
        accepts="pyramid",
        defaults={"fused_dim": 128},
        solves=ALL_SETS,
        summary="The encoders' layers joined level by level, from early to late",
        paper="Perez-Rua et al. 2019, arXiv:1903.06496",
    ),
    _fusion(
        "mmtm",
        "mmtm:Mmtm",
        in_all=False,
        accepts="pyramid",
        defaults={"model_dim": 64, "squeeze_dim": 32, "fused_dim": 128},
        solves=ALL_SETS,
        summary="MMTM: squeeze and excitation across modalities at each level",
        paper="Joze et al. 2020, arXiv:1911.08670",
    ),
)

_EARLY = (
    _fusion(
        "early-concat",
        "early_concat:EarlyConcat",
        in_all=False,
        defaults={"depth": 3, "width": 256, "dropout": 0.0, "fused_dim": 128},
        solves=ALL_SETS,
        summary="Thin features side by side, read by one deep trunk",
        paper="Barnum et al. 2020, arXiv:2011.07191",
    ),
    _fusion(
        "early-transformer",
        "early_transformer:EarlyTransformer",
        vectorises=False,  # torch.func.vmap has no rule for attention on a CPU
        in_all=False,
        accepts="sequence",
        defaults={"model_dim": 64, "num_heads": 4, "num_layers": 2, "dropout": 0.0, "fused_dim": 128},
        # The parity of three (synergy-3) it reaches from about every fourth start only.
        solves=(*ADDITIVE_SETS, "xor", "synergy"),
        summary="The tokens of all modalities in one row, read by one transformer from the first layer on",
        paper="Li et al. 2019, arXiv:1908.03557; Kim et al. 2021, arXiv:2102.03334",
    ),
)

_STACKED = (
    _decision(
        "stacking",
        "stacking:Stacking",
        in_all=False,
        solves=ADDITIVE_SETS,
        summary="Every modality predicts alone; a linear model learns what to make of the predictions",
        paper="Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1",
    ),
)

FUSIONS = _FIRST_SET + _ZOO + _LEVELS + _EARLY + _STACKED


@hookimpl
def mmbench_fusions() -> tuple[FusionSpec, ...]:
    """Return this package's fusions."""
    return FUSIONS
