"""Real data through `manifest`: spoken, written and drawn digits, and stamps with missing modalities."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def exported(dataset, *arguments, cwd):
    command = [sys.executable, "-m", "mmbench.cli"]
    environment = {**os.environ, "MMBENCH_CACHE": str(cwd / "cache"), "MMBENCH_DATA": str(cwd / "data")}
    run = subprocess.run(
        [*command, "run", "-d", dataset, *arguments, "--run", "real", "--protocol", "none"],
        cwd=cwd, capture_output=True, text=True, timeout=900, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    done = subprocess.run([*command, "export", "real"], cwd=cwd, capture_output=True, text=True, timeout=60)
    return list(csv.DictReader(io.StringIO(done.stdout)))


def accuracies(rows):
    return {
        (row["encoders"], row["fusion"]): float(row["value"])
        for row in rows
        if row["metric"] == "accuracy" and row["split"] == "test" and row["condition"] == "clean"
    }


def manifest(name):
    path = DATA / name / "manifest.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.mark.slow
def test_fusion_of_three_scratch_encoders_beats_every_modality_on_digits(tmp_path):
    rows = exported(
        f"manifest:{manifest('avt_digits')}[image=image,audio=audio,text=text]",
        "-e", "image=cnn", "-e", "audio=logmel-cnn", "-e", "text=bag-of-embeddings", "-f", "concat", "--epochs", "15",
        cwd=tmp_path,
    )  # fmt: skip
    found = accuracies(rows)
    single = [value for (_, fusion), value in found.items() if fusion == "single"]
    [fused] = [value for (_, fusion), value in found.items() if fusion == "concat"]

    assert len(single) == 3
    assert fused > 0.95
    assert fused > max(single)


@pytest.mark.full
def test_stamps_with_missing_modalities_run_whole(tmp_path):
    rows = exported(
        f"manifest:{manifest('tuxstamps')}[image=image,text=text,audio=audio,sfx=sfx]",
        "-e", "image=cnn", "-e", "text=bag-of-embeddings", "-e", "audio=logmel-lstm", "-e", "sfx=logmel-lstm",
        "-f", "attention", "-f", "decision-average", "--epochs", "6", cwd=tmp_path,
    )  # fmt: skip
    found = accuracies(rows)

    assert {row["status"] for row in rows} == {"ok"}
    assert len(found) == 1 + 4 + 2
    assert found["audio:logmel-lstm+image:cnn+sfx:logmel-lstm+text:bag-of-embeddings", "attention"] > 0.25
    assert found["", "majority"] == pytest.approx(0.166, abs=0.001)
