"""The conformance checks catch every seeded fault of an objective by name, and leave a sound one alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seeded import failures, write_package

SOUND = """
class Objective(nn.Module):
    needs_unimodal_heads = True

    def __init__(self, dims, tasks):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, step):
        unimodal = [step.task_loss(logits) for logits in step.output.unimodal_logits.values()]
        joint = step.task_loss(step.output.logits)
        return {"joint": joint * (-self.scale).exp() + self.scale, "unimodal": 0.1 * torch.stack(unimodal).mean()}
"""

#: By fault: what to replace in the sound objective, by what, and the checks that must fail.
FAULTS: dict[str, tuple[str, str, set[str]]] = {
    "not-a-mapping": ('return {"joint": joint *', "return joint; {'joint': joint *", {"objective.losses-are-finite"}),
    "not-a-scalar": (
        '"unimodal": 0.1 * torch.stack(unimodal).mean()',
        '"unimodal": torch.stack(unimodal)',
        {"objective.losses-are-finite"},
    ),
    "nan-on-a-batch-of-two": (
        '"unimodal": 0.1 * torch.stack(unimodal).mean()',
        '"unimodal": torch.stack(unimodal).mean() / (0.0 if step.batch.size < 3 else 1.0)',
        {"objective.losses-are-finite"},
    ),
    "infinite-at-the-end": (
        '"unimodal": 0.1 * torch.stack(unimodal).mean()',
        '"unimodal": torch.stack(unimodal).mean() * (float("inf") if step.progress == 1 else 1.0)',
        {"objective.losses-are-finite"},
    ),
    "detached": (
        'joint * (-self.scale).exp() + self.scale, "unimodal": 0.1 * torch.stack(unimodal).mean()',
        'joint.detach() * (-self.scale).exp() + self.scale, "unimodal": 0.1 * torch.stack(unimodal).mean().detach()',
        {"objective.gradient-reaches-the-model"},
    ),
    "gradient-removed-afterwards": (
        "    def forward(self, step):",
        "    def after_backward(self, step):\n        step.model.encoders[0].zero_grad()\n\n    def forward(self, step):",
        {"objective.gradient-reaches-the-model"},
    ),
    "watching-changes-the-model": (
        "    def forward(self, step):",
        "    def before_epoch(self, start):\n        start.model.heads[0].bias.add_(1.0) if len(start.model.heads) else None\n\n"
        "    def forward(self, step):",
        {"objective.before-epoch-leaves-no-trace"},
    ),
    "watching-divides-by-what-is-held-out": (
        "    def forward(self, step):",
        "    def before_epoch(self, start):\n        self.scale.fill_(1.0 / torch.tensor(float(len(list(start.held_out())))))\n\n"
        "    def forward(self, step):",
        {"objective.before-epoch-leaves-no-trace"},
    ),
    "weight-in-a-list": (
        "self.scale = nn.Parameter(torch.zeros(()))",
        "self.kept = [torch.zeros((), requires_grad=True)]; self.__class__.scale = property(lambda self: self.kept[0])",
        {"objective.weights-are-registered"},
    ),
    "weight-never-used": (
        "self.scale = nn.Parameter(torch.zeros(()))",
        "self.scale = nn.Parameter(torch.zeros(())); self.spare = nn.Linear(2, 2)",
        {"objective.weights-are-registered"},
    ),
    "keeps-its-graph": (
        "        joint = step.task_loss(step.output.logits)",
        "        joint = step.task_loss(step.output.logits)\n"
        "        self.before = 0.9 * getattr(self, 'before', 0.0) + 0.1 * joint\n        joint = joint + self.before",
        {"objective.gradient-reaches-the-model", "objective.weights-are-registered"},
    ),
    "draws-by-the-global-generator": (
        "joint * (-self.scale).exp()",
        "joint * torch.rand(()) * (-self.scale).exp()",
        {"objective.draws-by-the-generator"},
    ),
    "sets-the-global-seed": (
        "        joint = step.task_loss(step.output.logits)",
        "        torch.manual_seed(1)\n        joint = step.task_loss(step.output.logits)",
        {"objective.draws-by-the-generator"},
    ),
    "stops-at-a-missing-modality": (
        "        joint = step.task_loss(step.output.logits)",
        "        joint = step.task_loss(step.output.logits)\n"
        "        means = [given.tensor.masked_fill(~given.present[:, None], float('nan')).mean()"
        " for given in step.output.features.values()]\n        joint = joint + 0.01 * sum(means)",
        {"objective.missing-modality-is-finite"},
    ),
    "changes-threads": (
        "        joint = step.task_loss(step.output.logits)",
        "        torch.set_num_threads(torch.get_num_threads() + 1)\n        joint = step.task_loss(step.output.logits)",
        {"objective.leaves-settings-alone"},
    ),
}


def objective_package(folder: Path, name: str, code: str) -> Path:
    light = """
    from mmbench import ObjectiveSpec, hookimpl

    @hookimpl
    def mmbench_objectives():
        return [ObjectiveSpec(name="seeded", factory="PACKAGE.parts:Objective", version="1", summary="A seeded fault")]
    """
    return write_package(folder, name, light=light, code=code)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_of_an_objective_is_caught_by_the_right_check(fault: str, tmp_path: Path) -> None:
    old, new, expected = FAULTS[fault]
    assert old in SOUND
    package = objective_package(tmp_path, f"seeded-objective-{fault}", SOUND.replace(old, new, 1))

    caught = failures(package)

    assert {check: result.found for check, result in caught.items()}.keys() == expected
    assert all(result.found and result.expected and result.mend for result in caught.values())


def test_a_sound_objective_passes_every_check(tmp_path: Path) -> None:
    assert failures(objective_package(tmp_path, "sound-objective", SOUND), "full") == {}


def test_an_objective_that_trains_the_wrong_way_is_caught(tmp_path: Path) -> None:
    code = SOUND.replace("joint * (-self.scale).exp() + self.scale", "-joint + self.scale.square() + self.scale")

    assert set(failures(objective_package(tmp_path, "seeded-ascent", code), "full")) == {"objective.trains-the-tasks"}
