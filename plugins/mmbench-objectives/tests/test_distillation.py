"""Distillation from a trained cell: its formula, what it is told, what it is good for, and the commands."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmbench_objectives.distillation import divergence
from objective_cases import AMOUNT, LABEL, SIZE, make, make_step
from safetensors.numpy import save_file

from mmbench import TaskSpec, Unavailable
from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig, load_config
from mmbench.errors import DataError, UsageError
from mmbench.model import MultimodalModel
from mmbench.plan import make_plan
from mmbench.profile_plan import ProfileOptions, profile_cells
from mmbench.profile_subject import SubjectFactory
from mmbench.registry import load_registry
from mmbench.train import Trainer
from mmbench.variant import variants

TAGS = TaskSpec(name="tags", kind="multilabel", num_outputs=2)
IDS = tuple(f"s{row}" for row in range(SIZE))


def keep(folder: Path, ids=IDS, split: str = "train", **said: np.ndarray) -> Path:
    """Write what a cell keeps: predictions by task, and targets, here the same."""
    folder.mkdir(exist_ok=True)
    arrays = {f"{split}.sample_ids": np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8)}
    for task, values in said.items():
        arrays[f"{split}.{task}.prediction"] = values.astype(np.float32)
        arrays[f"{split}.{task}.target"] = values.argmax(1) if task == "label" else values.astype(np.float32)
    save_file(arrays, folder / "predictions.safetensors")
    return folder


def probabilities(seed: int, num_outputs: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).random((SIZE, num_outputs)).astype(np.float32) + 0.1
    return drawn / drawn.sum(1, keepdims=True)


def test_it_computes_its_formula_for_every_kind_of_task(tmp_path):
    rng = np.random.default_rng(3)
    label, amount, tags = probabilities(0, 3), rng.normal(5, 2, (SIZE, 1)), rng.uniform(0.1, 0.9, (SIZE, 2))
    teacher = keep(tmp_path / "t", label=label, amount=amount, tags=tags)
    tasks = (LABEL, AMOUNT, TAGS)
    objective = make("distillation", tasks, teacher=str(teacher), distillation_weight=0.25, temperature=3.0)
    objective.before_training(IDS[::-1])
    step = make_step(objective, (LABEL, AMOUNT))
    logits = {**step.output.logits, "tags": torch.from_numpy(rng.normal(size=(SIZE, 2)).astype(np.float32))}
    step = replace(step, output=replace(step.output, logits=logits), batch=replace(step.batch, rows=torch.arange(SIZE)))
    step = replace(step, task_loss=lambda given: torch.tensor(2.0))

    losses = objective(step)

    total = dict.fromkeys(logits, 0.0)
    standard = (amount - amount.mean()) / amount.std()
    for i in range(SIZE):
        j = SIZE - 1 - i  # the ids were told the other way round
        soft = [p ** (1 / 3) for p in label[j]]
        said = [math.exp(float(z) / 3) for z in logits["label"][i].detach()]
        for p, q in zip(soft, said):
            p, q = p / sum(soft), q / sum(said)
            total["label"] += 9 * p * math.log(p / q) / SIZE
        total["amount"] += (float(logits["amount"][i, 0]) - standard[j, 0]) ** 2 / SIZE
        for k in range(2):
            p = 1 / (1 + math.exp(-math.log(tags[j, k] / (1 - tags[j, k])) / 3))
            q = 1 / (1 + math.exp(-float(logits["tags"][i, k]) / 3))
            total["tags"] += 9 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / SIZE
    assert sorted(losses) == ["distillation", "task"]
    assert float(losses["task"]) == pytest.approx(0.75 * 2.0)
    assert float(losses["distillation"]) == pytest.approx(0.25 * sum(total.values()) / 3, rel=1e-4)


def test_a_certain_teacher_gives_finite_losses_and_gradients():
    logits = torch.randn(4, 3, requires_grad=True)

    loss = divergence(torch.eye(3)[[0, 1, 2, 0]], logits, "multiclass", 2.0).mean()
    loss.backward()

    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "ids, said, words",
    [
        pytest.param(
            IDS, {"other": probabilities(0, 3)}, "kept no predictions of its training samples", id="other task"
        ),
        pytest.param(
            IDS, {"label": probabilities(0, 4)}, r"\(N, 3\) are needed, its file holds shape \(8, 4\)", id="shape"
        ),
        pytest.param(IDS, {"label": np.full((SIZE, 3), np.nan)}, "finite predictions", id="not finite"),
        pytest.param(IDS[1:], {"label": probabilities(0, 3)}, "cannot teach", id="torn"),
    ],
)
def test_a_teacher_that_cannot_teach_says_why(tmp_path, ids, said, words):
    with pytest.raises(Unavailable, match=words):
        make("distillation", teacher=str(keep(tmp_path / "t", ids, **said)))


def test_a_teacher_that_only_saw_other_samples_is_refused_and_val_is_not_read(tmp_path):
    teacher = keep(tmp_path / "t", label=probabilities(0, 3))
    only_val = keep(tmp_path / "v", split="val", label=probabilities(0, 3))

    with pytest.raises(DataError, match=r"did not train on 1 of 8 samples, such as 'elsewhere'"):
        make("distillation", teacher=str(teacher)).before_training((*IDS[1:], "elsewhere"))
    with pytest.raises(Unavailable, match="--keep-train"):
        make("distillation", teacher=str(only_val))
    with pytest.raises(UsageError, match=r"'distillation_weight' must be from 0\.0 to 1\.0"):
        make("distillation", teacher=str(teacher), distillation_weight=2.0)


def accuracy(objective_of, seed: int) -> float:
    """Accuracy on clean samples after training on 160 whose labels are wrong in four cases of ten."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(4, 16)).astype(np.float32)
    label = np.tile(np.arange(4), 290)
    values = (centres[label] + 1.2 * rng.normal(size=(len(label), 16))).astype(np.float32)
    wrong = np.where(rng.random(len(label)) < 0.4, (label + rng.integers(1, 4, len(label))) % 4, label)
    scores = -((values[:, None] - centres) ** 2).sum(2) / (2 * 1.2**2)
    best = np.exp(scores - scores.max(1, keepdims=True))

    def part(rows, labels):
        column = Column(values[rows], None, np.ones(len(values[rows]), bool))
        return SplitData({"image": column}, {"label": labels[rows]}, torch.device("cpu"))

    torch.manual_seed(seed)
    task = TaskSpec(name="label", kind="multiclass", num_outputs=4)
    model = MultimodalModel({"image": Plain()}, {"image": "vector"}, Only(), [task])
    config = TrainConfig(epochs=60, batch_size=32, patience=0, select="loss")
    objective = objective_of(task, best[:160] / best[:160].sum(1, keepdims=True))
    trainer = Trainer(
        model, objective, part(slice(0, 160), wrong), part(slice(160, 260), wrong), [task], {"label": None}, config,
        order_seed=seed, noise_seed=seed,
    )  # fmt: skip
    for epoch in range(config.epochs):  # the last epoch counts: val has wrong labels, too
        trainer.epoch(epoch)
    model.eval()
    with torch.no_grad():
        said = model(part(slice(260, None), label).batch(torch.arange(900))).logits["label"]
    return float((said.argmax(1).numpy() == label[260:]).mean())


class Plain(torch.nn.Module):
    feature_dim = 32

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))

    def forward(self, values, mask=None):
        return self.net(values)


class Only(torch.nn.Module):
    fused_dim = 32

    def forward(self, features):
        return features["image"].tensor


def test_a_teacher_that_knows_better_than_the_labels_is_learnt_from(tmp_path):
    """Hinton et al. 2015: soft targets carry what hard labels do not."""
    ids = tuple(f"s{row}" for row in range(160))

    def taught(task, best):
        module = make(
            "distillation", (task,), teacher=str(keep(tmp_path / "t", ids, label=best)), distillation_weight=0.9
        )
        module.before_training(ids)
        return module

    alone = [accuracy(lambda task, best: make("supervised", (task,)), seed) for seed in range(3)]
    distilled = [accuracy(taught, seed) for seed in range(3)]

    assert np.mean(distilled) > np.mean(alone) + 0.1


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "mmbench.cli", "run", "-d", "xor", "-e", "mlp", "--epochs", "2", "--limit", "60",
        "--protocol", "none", "--diagnostics", "none", "--no-baselines", "--cache", "cache", *words,
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_one_cell_teaches_another_from_the_command_line(tmp_path):
    first = run(tmp_path, "-f", "tensor", "--run", "teacher", "--keep-train")
    (teacher,) = (tmp_path / "results" / "teacher" / "cells").iterdir()
    place = teacher.relative_to(tmp_path)

    second = run(tmp_path, "-f", "concat", "-o", f"distillation[teacher={place}]", "--run", "student")
    without = run(tmp_path, "-f", "concat", "-o", "distillation", "--run", "without")
    student = next((tmp_path / "results" / "student" / "cells").iterdir())

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert json.loads((student / "record.json").read_text())["status"] == "ok"
    assert without.returncode == 1
    assert "mmbench-objectives/distillation must be given teacher: write distillation[teacher=…]" in without.stderr


def test_what_a_cell_costs_that_learns_from_another_can_be_measured(tmp_path):
    """`mmbench profile` builds a cell without training it: its objective is told of the samples all the same."""
    flags = {"dataset": ["xor"], "encoder": ["mlp"], "fusion": ["tensor"], "baselines": False, "train": {"limit": 60}}
    runtime = {"threads": 1, "device": "cpu", "data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}

    def payloads(**more):
        plan = make_plan(load_config({**flags, **more}, folder=tmp_path), load_registry(), runtime=runtime)
        variant = variants(["fp32"], ["none"], ["contiguous"])
        return [cell.payload() for cell in profile_cells(plan, ProfileOptions(variants=variant))]

    ids = SubjectFactory(payloads()[0], []).build().data.sample_ids
    teacher = keep(tmp_path / "t", ids, label=np.full((60, 2), 0.5))
    (payload,) = payloads(objective=[f"distillation[teacher={teacher}]"])
    subject = SubjectFactory(payload, []).build()

    assert len(ids) == 60
    assert torch.isfinite(subject.trainer.step(subject.batch(8)))
