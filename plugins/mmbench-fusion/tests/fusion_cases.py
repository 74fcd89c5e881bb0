"""What the tests of fusions share: random features with gaps, and fusions with no parameter left at a special value."""

from __future__ import annotations

from importlib import import_module

import torch
from mmbench_fusion import FUSIONS
from torch import nn

from mmbench import Features, FusionSpec, TaskSpec

BY_NAME = {spec.name: spec for spec in FUSIONS}
PYRAMID = [spec.name for spec in FUSIONS if spec.accepts == "pyramid"]
JOINING = [spec.name for spec in FUSIONS if spec.name != "single" and spec.name not in PYRAMID]
FEATURE_LEVEL = [name for name in JOINING if BY_NAME[name].level == "feature"]
DECISION_LEVEL = [name for name in JOINING if BY_NAME[name].level == "decision"]
SEQUENCE = [name for name in FEATURE_LEVEL if BY_NAME[name].accepts == "sequence"]

DIMS = {"text": 6, "audio": 5, "image": 7}
LENGTHS = {"text": 4, "audio": 3, "image": 5}
TASKS = (
    TaskSpec(name="class", kind="multiclass", num_outputs=4),
    TaskSpec(name="tags", kind="multilabel", num_outputs=3),
    TaskSpec(name="amount", kind="regression", num_outputs=2),
)
SMALL = {
    "fused_dim": 8,
    "width": 9,
    "modality_dim": 3,
    "model_dim": 8,
    "hidden_dim": 4,
    "attention_dim": 5,
    "num_heads": 2,
    "rank": 2,
    "num_latents": 3,
    "num_bottlenecks": 2,
}


def build(spec: FusionSpec, dims=DIMS, tasks=TASKS, *, seed: int = 0, small: bool = True, **options) -> nn.Module:
    """A fusion with its defaults, narrowed for speed where `small`."""
    narrowed = {key: SMALL[key] for key in spec.defaults if small and key in SMALL}
    module, _, attribute = spec.factory.partition(":")
    torch.manual_seed(seed)
    return getattr(import_module(module), attribute)(dims, tasks, **{**spec.defaults, **narrowed, **options})


def shake(module: nn.Module) -> nn.Module:
    """Move every parameter off its starting value, so that no bias is zero and no gain one; double precision, eval."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double().eval()


def random_features(accepts: str, size: int = 6, *, seed: int = 1, gaps: bool = True, dims=DIMS) -> dict[str, Features]:
    """Features in which, with gaps, samples 1 and 2 lack a modality, sample 3 has only one, and tokens are padded.

    What stands at gaps is 1000, so that a formula that reads it is found out.
    """
    generator = torch.Generator().manual_seed(seed)
    names = sorted(dims)
    features = {}
    for place, name in enumerate(names):
        absent = torch.zeros(size, dtype=torch.bool)
        if gaps:
            absent[1 + place % 2 :: size] = True
            if place:
                absent[3 % size] = size > 3
        if accepts == "vector":
            values = torch.randn(size, dims[name], generator=generator, dtype=torch.float64)
            features[name] = Features(values.masked_fill(absent[:, None], 1e3), ~absent if gaps else None)
        else:
            length = LENGTHS[name]
            values = torch.randn(size, length, dims[name], generator=generator, dtype=torch.float64)
            real = torch.arange(length) < torch.randint(1, length + 1, (size, 1), generator=generator)
            real = real & ~absent[:, None] if gaps else torch.ones_like(real)
            features[name] = Features(values.masked_fill(~real[..., None], 1e3), real if gaps else None)
    return features


def random_votes(task: TaskSpec, size: int = 6, *, seed: int = 2, gaps: bool = True) -> dict[str, Features]:
    """Unimodal logits of one task, with the gaps of `random_features`."""
    features = random_features("vector", size, seed=seed, gaps=gaps, dims=dict.fromkeys(DIMS, task.num_outputs))
    return {
        name: Features(given.tensor.masked_fill(given.tensor == 1e3, 50.0), given.mask)
        for name, given in features.items()
    }


def run(module: nn.Module, spec: FusionSpec, features) -> torch.Tensor:
    """Forward of a feature-level fusion, or of a decision-level one for its first task."""
    given = module(TASKS[0].name, features) if spec.level == "decision" else module(features)
    return given.tensor if isinstance(given, Features) else given


def inputs(spec: FusionSpec, size: int = 6, **options) -> dict[str, Features]:
    """What this fusion takes: features of its layout, or votes of the first task."""
    if spec.level == "decision":
        return random_votes(TASKS[0], size, **options)
    return random_features(spec.accepts, size, **options)
