"""Which parts fit together: pure functions over descriptors that give every reason, not the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmbench.spec import DatasetInfo, EncoderSpec, FusionSpec, Layout, MissingPolicy, ObjectiveSpec

LAYOUT_WORDS: Mapping[Layout, str] = {
    "vector": "one vector (B, D)",
    "sequence": "token sequences (B, T, D)",
    "pyramid": "features of several layers",
}
#: Policies that need something else to fill a modality from.
FROM_OTHERS: tuple[MissingPolicy, ...] = ("interpolate", "impute")


def choose_layout(encoder: EncoderSpec, fusion: FusionSpec) -> Layout | None:
    """Return the layout to ask of an encoder for a fusion, or None when they do not fit.

    A sequence may become a vector by masked mean; a vector never poses as a sequence of one token.
    """
    if fusion.accepts in encoder.layouts:
        return fusion.accepts
    if fusion.accepts == "vector" and "sequence" in encoder.layouts:
        return "sequence"
    return None


def incompatibilities(
    info: DatasetInfo,
    num_modalities: int,
    missing: Sequence[str],
    fusion: FusionSpec,
    objective: ObjectiveSpec,
    policy: MissingPolicy = "mask",
) -> list[str]:
    """Return all reasons why a fusion and an objective cannot serve a dataset, apart from layouts.

    Args:
        info: The dataset.
        num_modalities: How many of its modalities are joined.
        missing: Those of them that some samples lack.
        fusion, objective: What is to serve.
        policy: What the fusion is given for missing modalities.
    """
    reasons = []
    for spec in (fusion, objective):
        if num_modalities < spec.min_modalities:
            reasons.append(f"{spec.name} needs at least {spec.min_modalities} modalities, got {num_modalities}")
        if spec.max_modalities is not None and num_modalities > spec.max_modalities:
            reasons.append(f"{spec.name} takes at most {spec.max_modalities} modalities, got {num_modalities}")
        unserved = [task for task in info.tasks if task.kind not in spec.task_kinds]
        reasons += [f"{spec.name} does not serve {task.kind} tasks such as {task.name!r}" for task in unserved]
    if missing and not fusion.missing and policy == "mask":
        reasons.append(
            f"{fusion.name} does not take missing modalities, and some samples lack {', '.join(missing)}; "
            f"fill them, as by {fusion.name}[missing=mean]"
        )
    if policy != "mask" and fusion.accepts == "pyramid":
        reasons.append(f"missing={policy} fills vectors and token sequences, but {fusion.name} needs several layers")
    if policy in FROM_OTHERS and num_modalities < 2:
        reasons.append(f"missing={policy} fills a modality from the others, and there is only one")
    if fusion.level not in objective.levels:
        reasons.append(f"{objective.name} does not work with {fusion.level}-level fusion such as {fusion.name}")
    return reasons


def layout_reason(encoder: EncoderSpec, fusion: FusionSpec, modality: str) -> str:
    """Return the sentence for a pair that `choose_layout` refuses."""
    gives = " or ".join(LAYOUT_WORDS[layout] for layout in encoder.layouts)
    return f"{fusion.name} needs {LAYOUT_WORDS[fusion.accepts]}, but {encoder.name} gives {gives} for {modality!r}"


def frozen_reason(encoder: str, modality: str) -> str:
    """Return the sentence for a frozen encoder whose inputs are to be changed at random in training."""
    return (
        f"{encoder} of {modality!r} is frozen, so its features are computed once for all epochs, and augment would "
        "have nothing to change; use tuning=finetune or adapter, or leave augment out"
    )


def reasons_apart(
    encoders: Mapping[str, EncoderSpec],
    tunings: Mapping[str, str],
    augmented: Sequence[str],
    missing: Sequence[str],
    fusion: FusionSpec,
    objective: ObjectiveSpec,
    policy: MissingPolicy,
    precision: str,
) -> list[str]:
    """Return all reasons why the seeds of a combo cannot be trained in one vectorised pass.

    Args:
        encoders: By modality.
        tunings: How each is trained; "stored" for a frozen one whose features are computed once, other than as bf16.
        augmented: Modalities whose inputs are changed at random in training.
        missing: Modalities that some samples lack.
        fusion, objective: What else the combo is made of.
        policy: What the fusion is given for missing modalities.
        precision: Of training.
    """
    reasons = []
    for name, encoder in encoders.items():
        match tunings[name]:
            case "stored":
                continue
            case "scratch":
                reasons += [] if encoder.vectorises else [f"{encoder.name} does not vectorise"]
            case "frozen":
                reasons.append(f"{encoder.name} is frozen, and its features are not stored as fp32 or fp16")
            case tuning:
                reasons.append(f"{encoder.name} is trained by tuning={tuning}, not from scratch")
    reasons += [f"{spec.name} does not vectorise" for spec in (fusion, objective) if not spec.vectorises]
    reasons += [f"augment changes {name!r} at random" for name in augmented]
    if policy != "mask":
        reasons.append(f"missing={policy} does not vectorise")
    if missing:
        reasons.append(f"some samples lack {', '.join(missing)}, so batches of several seeds differ in shape")
    if precision != "fp32":
        reasons.append(f"precision {precision} would round otherwise")
    return list(dict.fromkeys(reasons))
