"""One cell as a careful person would write it without mmbench: a plain script, started once for every cell.

    python tests/bench/naive_cell.py CELL.json    ->  {"metrics": {task: {name: value}}, …} on standard output

It opens the dataset, transforms every sample once, and trains with a `DataLoader`, one loop, early stopping on val and
the best epoch's weights, then looks at test. The classes of encoders, fusion and model are mmbench's, so that both
sides train the same networks; data, batches, loop, schedule, choice of the epoch and metrics are written out here.
Nothing is done twice that could be done once in one process, and nothing is kept for the next process. It reports the
metrics that mmbench reports, by scikit-learn, without intervals and calibration.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    """Samples of one split, each modality as the encoder's transform gives it."""

    def __init__(self, samples, transforms, tasks):
        self.items = []
        for sample in samples:
            inputs = {}
            for name, transform in transforms.items():
                value = sample.inputs.get(name)
                inputs[name] = None if value is None else torch.from_numpy(np.asarray(transform(value)))
            self.items.append((inputs, {task["name"]: target_of(task, sample) for task in tasks}))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


def target_of(task, sample):
    value = sample.targets[task["name"]]
    if task["kind"] == "multiclass":
        return torch.tensor(value)
    return torch.tensor(value, dtype=torch.float32).reshape(-1)


def make_collate(train, names):
    """Return the function that joins samples to a batch: padded where lengths differ, rows where some lack a modality."""
    from mmbench.model import Batch, Input

    shapes = {name: {item[0][name].shape for item in train.items if item[0][name] is not None} for name in names}
    example = {name: next(item[0][name] for item in train.items if item[0][name] is not None) for name in names}

    def collate(items):
        inputs = {}
        for name in names:
            rows = [row for row, (given, _) in enumerate(items) if given[name] is not None]
            values = [items[row][0][name] for row in rows] or [example[name][:0]]
            mask = None
            if len(shapes[name]) > 1:
                lengths = torch.tensor([len(value) for value in values])
                values = nn.utils.rnn.pad_sequence(values, batch_first=True)
                mask = torch.arange(values.shape[1])[None] < lengths[:, None]
            else:
                values = torch.stack(values)
            everybody = len(rows) == len(items)
            inputs[name] = Input(values, mask, None if everybody else torch.tensor(rows))
        targets = {name: torch.stack([target[name] for _, target in items]) for name in items[0][1]}
        return Batch(len(items), inputs, targets)

    return collate


def build(cell, modalities, tasks):
    """Return the network: mmbench's classes, called as its plugins document them."""
    from mmbench.model import MultimodalModel

    encoders = {}
    for name, part in cell["encoders"].items():
        encoders[name] = load(part["factory"])(modalities[name], part["layout"], **part["options"])
    fusion = cell["fusion"]
    dims = {name: encoder.feature_dim for name, encoder in encoders.items()}
    return MultimodalModel(
        encoders,
        {name: part["layout"] for name, part in cell["encoders"].items()},
        load(fusion["factory"])(dims, tasks, **fusion["options"]),
        tasks,
        level=fusion["level"],
        accepts=fusion["accepts"],
    )


def load(path):
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


class Targets:
    """Loss and scores of all tasks; regression targets are standardised by those of train."""

    def __init__(self, tasks, train):
        self.tasks, self.scale = tasks, {}
        for task in tasks:
            if task["kind"] == "regression":
                values = torch.stack([item[1][task["name"]] for item in train.items])
                self.scale[task["name"]] = values.mean(dim=0), values.std(dim=0, correction=0)

    def loss(self, logits, targets):
        total = 0.0
        for task in self.tasks:
            name = task["name"]
            if task["kind"] == "multiclass":
                value = F.cross_entropy(logits[name], targets[name])
            elif task["kind"] == "multilabel":
                value = F.binary_cross_entropy_with_logits(logits[name], targets[name])
            else:
                mean, std = self.scale[name]
                value = F.mse_loss(logits[name], (targets[name] - mean) / std)
            total = total + task["weight"] * value
        return total

    def scores(self, logits, targets):
        """What is reported of test: what mmbench reports, by scikit-learn and without intervals."""
        found = {}
        for task in self.tasks:
            given, target = logits[task["name"]], targets[task["name"]].numpy()
            if task["kind"] == "multiclass":
                found[task["name"]] = of_classes(given.softmax(dim=1).numpy(), target)
            elif task["kind"] == "multilabel":
                found[task["name"]] = of_labels(given.sigmoid().numpy(), target)
            else:
                mean, std = self.scale[task["name"]]
                found[task["name"]] = of_values((given * std + mean).numpy(), target)
        return found


def of_classes(probabilities, target):
    from sklearn import metrics

    chosen, truth = probabilities.argmax(axis=1), np.eye(probabilities.shape[1])[target]
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        target, chosen, average="macro", zero_division=0.0
    )
    return {
        "accuracy": float((chosen == target).mean()),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(target, chosen)),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "auroc": float(metrics.roc_auc_score(truth, probabilities, average="macro")),
        "map": float(metrics.average_precision_score(truth, probabilities, average="macro")),
        "log_loss": float(-np.log(probabilities[np.arange(len(target)), target].clip(1e-7)).mean()),
    }


def of_labels(probabilities, target):
    from sklearn import metrics

    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        target, probabilities > 0.5, average="macro", zero_division=0.0
    )
    return {
        "map": float(metrics.average_precision_score(target, probabilities, average="macro")),
        "exact_match": float(((probabilities > 0.5) == target).all(axis=1).mean()),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "auroc": float(metrics.roc_auc_score(target, probabilities, average="macro")),
    }


def of_values(values, target):
    from scipy.stats import spearmanr

    errors = values - target
    return {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt(np.square(errors).mean())),
        "pearson": float(np.corrcoef(values.ravel(), target.ravel())[0, 1]),
        "spearman": float(spearmanr(values.ravel(), target.ravel()).statistic),
        "r2": float(1 - np.square(errors).sum() / np.square(target - target.mean()).sum()),
    }


def accuracy(logits, target):
    return float((logits.argmax(dim=1) == target).float().mean())


@torch.no_grad()
def predict(model, loader):
    model.eval()
    logits, targets = [], []
    for batch in loader:
        logits.append(model(batch).logits)
        targets.append(batch.targets)
    return tuple({name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in (logits, targets))


def main(cell):
    from mmbench.spec import Modality, TaskSpec

    began = time.perf_counter()
    torch.manual_seed(cell["seed"])
    settings, dataset = cell["train"], cell["dataset"]
    modalities = {item["name"]: Modality(**item) for item in dataset["info"]["modalities"]}
    tasks = dataset["info"]["tasks"]
    model = build(cell, modalities, tuple(TaskSpec(**task) for task in tasks))
    transforms = {name: encoder.transform for name, encoder in zip(model.modalities, model.encoders)}

    splits = load(dataset["factory"])(Path(cell["root"]), **dataset["options"])
    data = {split: Samples(splits[split], transforms, tasks) for split in ("train", "val", "test")}
    collate = make_collate(data["train"], model.modalities)
    size = settings["batch_size"]
    # The samples lie in memory: worker processes would cost more than they do.
    train = DataLoader(data["train"], size, shuffle=True, collate_fn=collate)
    val, test = (DataLoader(data[split], 256, collate_fn=collate) for split in ("val", "test"))
    goal = Targets(tasks, data["train"])
    everything = collate([data["train"][position] for position in range(min(len(data["train"]), 1024))])
    for name, encoder in zip(model.modalities, model.encoders):
        if hasattr(encoder, "fit"):
            encoder.fit(everything.inputs[name].values, everything.inputs[name].mask)

    parameters = [item for item in model.parameters() if item.requires_grad]
    groups = [
        {"params": [item for item in parameters if item.dim() >= 2], "weight_decay": settings["weight_decay"]},
        {"params": [item for item in parameters if item.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings["lr"])
    num_steps = len(train) * settings["epochs"]

    def factor(step):
        progress, warmup = step / num_steps, settings["warmup"]
        if progress < warmup:
            return max(progress / warmup, 0.02)
        return 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    prepared = time.perf_counter()
    best, last_gain, best_state, trained_s = (-math.inf, -math.inf), 0, None, 0.0
    for epoch in range(settings["epochs"]):
        epoch_began = time.perf_counter()
        model.train()
        for batch in train:
            output = model(batch)
            loss = goal.loss(output.logits, batch.targets) + sum(output.losses.values())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings["clip_norm"])
            optimiser.step()
            schedule.step()
        trained_s += time.perf_counter() - epoch_began
        logits, targets = predict(model, val)
        val_loss = float(goal.loss(logits, targets))
        first = tasks[0]["name"]
        score = -val_loss if len(tasks) > 1 else accuracy(logits[first], targets[first])
        if score > best[0]:
            last_gain = epoch
        if (score, -val_loss) > best:
            best, best_state = (score, -val_loss), copy.deepcopy(model.state_dict())
        if epoch - last_gain >= settings["patience"]:
            break
    model.load_state_dict(best_state)
    metrics = goal.scores(*predict(model, test))
    times = {"prepare": prepared - began, "train": trained_s, "all": time.perf_counter() - began}
    print(json.dumps({"metrics": metrics, "epochs": epoch + 1, "times_s": times}))  # noqa: T201  (its result)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
