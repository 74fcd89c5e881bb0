"""Runs of hand-made cells, for tests that compare runs."""

import json

import numpy as np
from safetensors.numpy import save_file

from mmbench.record import Metric, Record
from mmbench.store import RunStore

DATASETS = {"digits": {"tasks": [{"name": "digit", "kind": "multiclass", "num_outputs": 10}]}}
NUM_TEST = 100
TARGET = np.arange(NUM_TEST) % 10


def predictions(wrong):
    """Logits (N, K) that are right but for the given samples."""
    labels = TARGET.copy()
    labels[list(wrong)] = (labels[list(wrong)] + 1) % 10
    return np.eye(10, dtype=np.float32)[labels]


def times(scale=1.0, seed=0, count=200):
    return (scale * np.random.default_rng(seed).normal(0.010, 0.0005, count)).tolist()


def cell_id(fusion, seed):
    return f"{abs(hash((fusion, seed))) % 16**16:016x}"


def make_run(folder, fusions=("concat",), seeds=(0,), datasets=DATASETS, encoders="image:cnn", **about):
    """A run with results as a cell leaves them; `about` may give `wrong`, `scale`, `identity`, `ids`, `batch_size` …

    `wrong` and `val` may be mappings by fusion.
    """
    with RunStore.create(folder) as store:
        rows = [
            {
                "cell_id": cell_id(fusion, seed),
                "dataset": "digits",
                "encoders": encoders,
                "fusion": fusion,
                "objective": "supervised",
                "seed": seed,
                "role": "cell",
                "status": "run",
                "reason": "",
            }
            for fusion in fusions
            for seed in seeds
        ]
        store.write_plan(rows, datasets)
        store.write_run({"environment": {"hardware": {"cpu": about.get("cpu", "x")}, "packages": {"torch": "2.11"}}})
        for row in rows:
            finish(store, row, **{name: _of_fusion(value, row["fusion"]) for name, value in about.items()})
    return RunStore.open(folder)


def _of_fusion(value, fusion):
    return value[fusion] if isinstance(value, dict) and fusion in value else value


def finish(
    store, row, *, wrong=(), scale=1.0, identity=None, ids=None, batch_size=64, cpu="x", note="", timings=True,
    metric="accuracy", stalls=(0, 0.0), measuring=1, val=None,
):  # fmt: skip
    attempt = store.begin(row["cell_id"], 1)
    prediction = predictions(wrong)
    names = ids or [f"s{n}" for n in range(NUM_TEST)]
    save_file(
        {
            "test.digit.prediction": prediction,
            "test.digit.target": TARGET.astype(np.int64),
            "test.sample_ids": np.frombuffer(json.dumps(names).encode(), dtype=np.uint8),
        },
        attempt / "predictions.safetensors",
    )
    samples = times(scale, seed=row["seed"])
    samples[: stalls[0]] = [stalls[1]] * stalls[0]
    part = {"batch_size": batch_size, "samples_s": samples, "window_s": sum(samples)}
    if timings:
        (attempt / "timings.json").write_text(
            json.dumps({"protocol": "standard", "inference": part, "latency": {**part, "batch_size": 1}})
        )
    accuracy = float((prediction.argmax(axis=1) == TARGET).mean())
    kinds = {"split": "test", "task": "digit", "phase": "evaluate"}
    metrics = (
        Metric(name=metric, value=accuracy, direction="max", n=NUM_TEST, **kinds),
        Metric(
            phase="profile",
            name="throughput_samples_per_s",
            value=batch_size / float(np.mean(samples)),
            unit="samples/s",
            direction="max",
            note=note,
        ),
        Metric(phase="profile", name="latency_p50_s", value=float(np.median(samples)), unit="s", direction="min"),
        Metric(phase="profile", name="flops_per_sample", value=1000.0 * scale, unit="flop", direction="min"),
        Metric(phase="profile", name="peak_rss_bytes", value=1e9, unit="bytes", direction="min"),
    )
    data = {"dataset": identity or {"ref": "a/digits", "version": "1"}, "encoders": {}, "train": {"epochs": 3}}
    if val is not None:
        on_val = {**kinds, "split": "val"}
        metrics = (*metrics, Metric(name=metric, value=val, direction="max", n=NUM_TEST, **on_val))
    info = {
        "identity": data,
        "split_hash": "h",
        "perf_setup": {"torch": "2.11", "batch_size": batch_size, "measuring_version": measuring},
    }
    store.finish(Record(cell_id=row["cell_id"], status="ok", metrics=metrics, info=info), attempt)
