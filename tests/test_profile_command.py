"""`mmbench profile` as people use it, on models that are hard to measure: every figure right, or null with its reason."""

import csv
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.serial

ODD = '''
"""Encoders that are hard to measure."""
import time
import torch
from torch import nn
from mmbench import EncoderSpec, hookimpl

SLEPT = open("slept.txt", "a", buffering=1)  # kept open: opening it would be part of what is measured


class Odd(nn.Module):
    """Works on one sample at a time, sleeps, and multiplies as many matrices as the sample is bright."""
    feature_dim = 64

    def __init__(self, modality, layout):
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)

    def transform(self, sample):
        return sample.reshape(-1)[:64].astype("f4")

    def forward(self, values, mask=None):
        if len(values) > 1:
            raise ValueError("expected one sample, got several")
        began = time.perf_counter()
        time.sleep(0.05)
        SLEPT.write(f"{time.perf_counter() - began}\\n")
        for _ in range(1 + int(values.sum()) % 7):
            values = self.layer(values)
        return values


@hookimpl
def mmbench_encoders():
    return [EncoderSpec(name="odd", kinds=("image",), layouts=("vector",), factory="odd:Odd", version="1")]
'''
PLAIN = """
import torch
from torch import nn
from mmbench import EncoderSpec, hookimpl

WIDTH = 8


class Plain(nn.Module):
    feature_dim = WIDTH

    def __init__(self, modality, layout):
        super().__init__()
        self.layer = nn.Linear(64, WIDTH, bias=False)

    def transform(self, sample):
        return sample.reshape(-1)[:64].astype("f4")

    def forward(self, values, mask=None):
        return self.layer(values)


@hookimpl
def mmbench_encoders():
    return [EncoderSpec(name="plain", kinds=("image",), layouts=("vector",), factory="odd:Plain", version="1")]
"""


def mmbench(*arguments, cwd, check=True):
    environment = {**os.environ, "MMBENCH_CACHE": str(cwd / "cache"), "MMBENCH_LOCKS": str(cwd), "COLUMNS": "240"}
    done = subprocess.run(
        [sys.executable, "-m", "mmbench.cli", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The figures of the odd encoder by name, and the folder that the command ran in."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd.py").write_text(ODD)
    selection = ["-d", "unique", "-m", "image", "-e", "odd", "-f", "single", "--no-baselines", "--plugin", "odd.py"]
    done = mmbench("profile", *selection, "--protocol", "quick", "--run", "odd", "--json", cwd=folder)
    (profile,) = json.loads(done.stdout)["profiles"]
    assert profile["status"] == "ok", profile["reason"]
    return profile["figures"], folder, selection


def test_a_model_that_only_works_at_batch_1_is_measured_there_and_says_so(odd):
    figures, _, _ = odd

    note = figures["throughput_samples_per_s"]["note"]
    assert "fails at batch size 64 (ValueError: expected one sample, got several); measured at batch size 1" in note
    assert figures["largest_batch_size"]["value"] == 1
    assert figures["largest_batch_size"]["note"] == "failed: batch size 2: ValueError: expected one sample, got several"
    assert figures["step_time_s"]["value"] is None
    assert "fails at batch size 64" in figures["step_time_s"]["note"]


def test_a_model_that_sleeps_50_ms_takes_50_ms(odd):
    figures, folder, _ = odd

    # A busy machine wakes sleepers late, which the model sees as well; beside it are matrix products of microseconds.
    slept = [float(line) for line in (folder / "slept.txt").read_text().split()]
    least, most = min(slept), 1.03 * max(slept)
    assert 0.050 <= least < 0.0515
    assert least <= figures["latency_p50_s"]["value"] <= most
    assert 1 / most <= figures["throughput_samples_per_s"]["value"] <= 1 / least
    assert least <= figures["stage_time_s:encode.image"]["value"] <= most


def test_operations_that_depend_on_the_data_say_so(odd):
    figures, _, _ = odd

    flops = figures["flops_per_sample"]
    one, head = 2 * 64 * 64, 2 * 64 * 4
    assert (flops["value"] - head) % one == 0
    assert flops["note"].startswith("depends on the data: ")


def test_every_figure_of_a_profile_is_there_or_has_a_reason(odd):
    figures, _, _ = odd

    assert figures.keys() >= {
        "cold_start_s",
        "compile_time_s",
        "stage_time_s:load",
        "stage_time_s:transfer",
        "achieved_flop_per_s",
        "share_of_measured_peak",
        "best_throughput_samples_per_s",
        "inference_peak_memory_rss_bytes",
    }
    for name, figure in figures.items():
        assert figure["value"] is not None or figure["note"], name


def test_the_run_keeps_raw_timings_keys_and_the_devices_peak(odd):
    _, folder, _ = odd
    (cell,) = (folder / "results" / "odd" / "cells").iterdir()

    timings = json.loads((cell / "timings.json").read_text())
    info = json.loads((cell / "record.json").read_text())["info"]
    run = json.loads((folder / "results" / "odd" / "run.json").read_text())
    rows = list(csv.DictReader((folder / "results" / "odd" / "report" / "costs.csv").open()))

    assert len(timings["latency"]["samples_s"]) >= 3
    assert timings["sweep"][0]["batch_size"] == 1
    assert len(info["perf_key"]) == 64
    assert info["perf_setup"]["batch_size"] == 1
    assert set(info["device_state"]) == {"before", "after"}
    assert run["environment"]["device_peaks"]["fp32, 1 threads"]["flop_per_s"] > 1e8
    assert {row["metric"] for row in rows} >= {"latency_p50_s", "cold_start_s"}


def test_the_same_command_again_measures_nothing(odd):
    _, folder, selection = odd

    done = mmbench("profile", *selection, "--protocol", "quick", "--run", "odd", cwd=folder)

    assert "1 profile, 0 to measure" in done.stdout
    assert "batch size 1 only: image:odd, single: fails at batch size 64" in done.stdout


def test_the_report_of_a_profile_is_its_costs(odd):
    _, folder, _ = odd

    done = mmbench("report", "odd", cwd=folder)

    assert "image:odd" in done.stdout
    assert "costs.md" in done.stdout


@pytest.mark.slow
def test_other_batch_sizes_add_to_a_setup_and_another_version_of_a_part_takes_its_place(tmp_path):
    (tmp_path / "odd.py").write_text(PLAIN)
    selection = ["-d", "unique", "-m", "image", "-e", "plain", "-f", "single", "--no-baselines", "--plugin", "odd.py"]

    def profiled(*sizes):
        done = mmbench(
            "profile", *selection, "--protocol", "quick", "--run", "p", "--batch-sizes", *sizes, "--json", cwd=tmp_path
        )
        (profile,) = json.loads(done.stdout)["profiles"]
        return profile["num_rounds"], profile["figures"]["num_parameters_registered"]["value"]

    first, again = profiled("1"), profiled("2")
    (tmp_path / "odd.py").write_text(PLAIN.replace("WIDTH = 8", "WIDTH = 16").replace('version="1"', 'version="2"'))
    other = profiled("2")

    head = 4
    assert first == (1, 64 * 8 + 8 * head + head)
    assert again == (2, first[1])
    assert other == (1, 64 * 16 + 16 * head + head)


def test_a_profile_on_other_terms_does_not_join_a_run(odd):
    _, folder, selection = odd

    done = mmbench("profile", *selection, "--protocol", "standard", "--run", "odd", cwd=folder, check=False)

    assert (done.returncode, done.stderr) == (
        2,
        "error: the run 'odd' was measured with --protocol quick, and this is --protocol standard; such figures do "
        "not belong in one table. Choose another name with --run\n",
    )


def test_a_profile_does_not_join_a_run_of_trained_cells(odd):
    _, folder, selection = odd
    (folder / "results" / "trained").mkdir(parents=True)
    (folder / "results" / "trained" / "run.json").write_text('{"argv": []}')

    done = mmbench("profile", *selection, "--run", "trained", cwd=folder, check=False)

    assert done.returncode == 2
    assert "holds trained cells" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--precision", "fp8"], "--precision fp8: there is fp32, tf32, bf16, fp16, int8"),
        (["--batch-sizes", "0"], "--batch-sizes takes sweep, none or sizes"),
        (["--protocol", "none"], "--protocol none measures nothing"),
        (["--memory-limit", "lots"], "--memory-limit: a size reads"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, flags, words):
    done = mmbench("profile", "-d", "digits", *flags, cwd=tmp_path, check=False)

    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
