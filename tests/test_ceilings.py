"""Sets with known ceilings test the benchmark: no modality alone passes its ceiling, the right fusions reach theirs."""

from __future__ import annotations

import csv
import io
import math
import os
import subprocess
import sys

import pytest

from mmbench.registry import load_registry

NUM_TEST = 400


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ceilings")
    environment = {**os.environ, "MMBENCH_CACHE": str(folder / "cache"), "MMBENCH_DATA": str(folder / "data")}

    def go(name, *arguments):
        command = [sys.executable, "-m", "mmbench.cli"]
        run = subprocess.run(
            [*command, "run", "-d", name, *arguments, "--run", name, "--protocol", "none"],
            cwd=folder, capture_output=True, text=True, timeout=1500, env=environment,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        done = subprocess.run([*command, "export", name], cwd=folder, capture_output=True, text=True, timeout=60)
        return [
            (row["encoders"], row["fusion"], float(row["value"]))
            for row in csv.DictReader(io.StringIO(done.stdout))
            if row["metric"] == "accuracy" and row["split"] == "test" and row["condition"] == "clean"
        ]

    return go


def ceilings(name):
    return load_registry().resolve("dataset", name).entry.spec.ceilings


def sampling_error(ceiling):
    """Three standard deviations of the accuracy of a predictor at the ceiling."""
    return 3 * math.sqrt(ceiling * (1 - ceiling) / NUM_TEST)


def fusions_that(name, solve):
    specs = [entry.spec for entry in load_registry().entries("fusion") if entry.spec.in_all]
    return {spec.name for spec in specs if name in (spec.solves if solve else spec.cannot_solve)}


@pytest.mark.slow
def test_no_modality_tells_xor_and_the_fusions_that_can_do(runs):
    found = runs("xor", "--seeds", "2")
    known = ceilings("xor")

    for encoders, fusion, value in found:
        if fusion == "single":
            assert value <= known[encoders.split(":")[0]] + sampling_error(0.5), encoders
        elif fusion in fusions_that("xor", solve=True):
            assert value >= 0.95 * known["a+b"], fusion
        elif fusion in fusions_that("xor", solve=False):
            # The sign of g(a) + h(b) can be right in three of the four corners, and in no more.
            assert value <= 0.75 + sampling_error(0.75), fusion
    assert {"concat", "tensor"} <= fusions_that("xor", solve=True)
    assert "decision-average" in fusions_that("xor", solve=False)


@pytest.mark.full
def test_fusions_reach_the_joint_ceiling_of_quarters_with_every_pair_of_encoders(runs):
    wanted = ("concat", "tensor", "low-rank-tensor", "gated", "attention")
    found = runs("quarters", *(flag for name in wanted for flag in ("-f", name)))
    known = ceilings("quarters")
    joint = [(encoders, fusion, value) for encoders, fusion, value in found if fusion in wanted]

    assert len(joint) == 9 * len(wanted)
    for encoders, fusion, value in joint:
        assert value >= 0.95 * known["audio+image"], (encoders, fusion)
    for encoders, fusion, value in found:
        if fusion == "single":
            assert value <= known[encoders.split(":")[0]] + sampling_error(0.5), encoders


@pytest.mark.slow
def test_one_pair_of_encoders_reaches_the_joint_ceiling_of_quarters(runs):
    found = runs("quarters", "-e", "image=mlp", "-e", "audio=logmel-lstm", "-f", "gated", "-f", "low-rank-tensor")

    assert min(value for _, fusion, value in found if fusion in ("gated", "low-rank-tensor")) >= 0.95


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("redundant-missing", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("redundant", "unique", "synergy", "tasks")),
    ],
)
def test_no_cell_passes_the_ceiling_of_what_it_sees(runs, name):
    known = ceilings(name)
    best = {}
    for encoders, fusion, value in runs(name, "-f", "concat", "-f", "low-rank-tensor"):
        if fusion != "majority":
            subset = "+".join(sorted(part.split(":")[0] for part in encoders.split("+")))
            best[subset] = max(best.get(subset, 0), value)

    for subset, value in best.items():
        assert value <= known[subset] + sampling_error(known[subset]) + 1e-9, subset
    joint = "+".join(sorted({part for subset in known for part in subset.split("+")}))
    assert best[joint] >= 0.9 * known[joint]


@pytest.mark.full
def test_motion_is_seen_by_encoders_of_time_and_not_by_the_mean_over_frames(runs):
    timed = ("cnn3d", "convlstm", "frames/cnn[pool=lstm]")
    flags = [flag for name in (*timed, "frames/cnn") for flag in ("-e", f"video={name}")]
    found = runs("moving", *flags, "-f", "concat", "--diagnostics", "none")
    joint = {encoders.split("video:")[1]: value for encoders, fusion, value in found if fusion == "concat"}

    assert set(joint) == {*timed, "frames/cnn"}
    for name in timed:
        assert joint[name] >= 0.95, name
    # The table tells one of two bits; the mean over frames is the same whichever way they are played.
    assert joint["frames/cnn"] <= 0.5 + sampling_error(0.5)
    for encoders, fusion, value in found:
        if fusion == "single":
            assert value <= 0.5 + sampling_error(0.5), encoders
