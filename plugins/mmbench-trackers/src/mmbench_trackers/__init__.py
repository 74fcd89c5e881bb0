"""Trackers for mmbench: runs and learning curves in TensorBoard, MLflow and Weights & Biases; a webhook for the end."""

from __future__ import annotations

from mmbench import TrackerSpec, hookimpl

TRACKERS = (
    TrackerSpec(
        name="tensorboard",
        factory="mmbench_trackers.tensorboard:TensorBoardTracker",
        version="1",
        requires=("tensorboard",),
        licence="Apache-2.0",
        summary="Learning curves while cells train, and test scores, as TensorBoard's event files",
    ),
    TrackerSpec(
        name="mlflow",
        factory="mmbench_trackers.mlflow:MlflowTracker",
        version="1",
        defaults={"uri": ""},
        requires=("mlflow",),
        licence="Apache-2.0",
        summary="An MLflow run for each cell: parts, curves and test scores; a local file store by default",
    ),
    TrackerSpec(
        name="wandb",
        factory="mmbench_trackers.wandb:WandbTracker",
        version="1",
        defaults={"project": "mmbench", "entity": "", "mode": "offline"},
        requires=("wandb",),
        licence="Apache-2.0",
        summary="A Weights & Biases run for each cell, grouped by run; offline by default",
    ),
    TrackerSpec(
        name="webhook",
        factory="mmbench_trackers.webhook:WebhookTracker",
        version="1",
        defaults={"url": "", "timeout": 5.0, "where": False},
        summary="One JSON message to an address (MMBENCH_WEBHOOK_URL by default) when the run ends or is stopped",
    ),
)


@hookimpl
def mmbench_trackers() -> list[TrackerSpec]:
    """Return the trackers."""
    return list(TRACKERS)
