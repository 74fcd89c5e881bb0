"""Flags and run files become one checked configuration."""

from __future__ import annotations

import pytest

from mmbench.config import load_config, resolve_train
from mmbench.errors import UsageError


@pytest.fixture
def run_file(tmp_path):
    def write(text: str):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("given", "expected"), [("3", (0, 1, 2)), ("0,4", (0, 4)), (2, (0, 1)), ([5, 5, 1], (5, 1)), ("7,", (7,))]
)
def test_seeds_are_a_count_or_a_list(given, expected):
    assert load_config({"seeds": given}).seeds == expected


@pytest.mark.parametrize("given", ["", "a", "0", "1,x", True, -1])
def test_seeds_that_are_neither_say_what_is_expected(given):
    with pytest.raises(UsageError, match="seeds"):
        load_config({"seeds": given})


@pytest.mark.parametrize(("given", "seconds"), [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), (5, 5.0)])
def test_durations_read_as_people_write_them(given, seconds):
    assert load_config({"timeout": given}).timeout == seconds


def test_max_failures_is_a_count_or_a_share():
    assert load_config({"max_failures": "3"}).max_failures == 3
    assert load_config({"max_failures": "10%"}).max_failures == 0.1


def test_flags_win_over_the_run_file_and_train_tables_are_merged(run_file):
    path = run_file('dataset = "xor"\nseeds = 2\n[train]\nepochs = 3\nlr = 0.1\n')

    config = load_config({"seeds": "1", "train": {"lr": 0.2}}, config_file=path)

    assert config.dataset == ("xor",)
    assert config.seeds == (0,)
    assert config.train == {"epochs": 3, "lr": 0.2}


def test_a_grid_can_be_named_in_the_project_file(tmp_path):
    (tmp_path / "mmbench.toml").write_text('[grids.mine]\ndataset = "xor"\nfusion = ["gated", "sum"]\n')

    config = load_config({"grid": "mine"}, folder=tmp_path)

    assert config.fusion == ("gated", "sum")


def test_an_unknown_grid_is_named_with_what_there_is(tmp_path):
    (tmp_path / "mmbench.toml").write_text("[grids.mine]\nseeds = 1\n")

    with pytest.raises(
        UsageError, match=r"no grid is named 'mime'; there is quick, all, smoke, race, mine\. Did you mean 'mine'\?"
    ):
        load_config({"grid": "mime"}, folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datset = 'xor'", "there is no key 'datset'.*Did you mean 'dataset'?"),
        ("[train]\nepocs = 3", "train: there is no key 'epocs'.*Did you mean 'epochs'?"),
        ("[train]\nlr = -1", "train: lr = -1: must be greater than 0"),
        ("[train]\nepochs = 'ten'", "train: epochs = 'ten'"),
        ("train = 3", "train must be a table"),
        ("seeds = ]", r"is not TOML: .*line 1, column 9"),
        ("device = 'tpu'", "device = 'tpu'"),
    ],
)
def test_a_broken_run_file_says_what_is_wrong(run_file, text, message):
    with pytest.raises(UsageError, match=message):
        load_config({}, config_file=run_file(text))


def test_a_run_file_that_is_not_utf8_says_so(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"dataset = '\xff'")

    with pytest.raises(UsageError, match="is not UTF-8"):
        load_config({}, config_file=path)


def test_a_missing_run_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no run file"):
        load_config({}, config_file=tmp_path / "none.toml")


def test_the_users_settings_win_over_the_datasets_recommendation():
    config = load_config({"train": {"epochs": 3}})

    train = resolve_train(config, {"epochs": 30, "lr": 0.5})

    assert (train.epochs, train.lr) == (3, 0.5)


def test_settings_are_never_nan():
    with pytest.raises(UsageError, match="lr"):
        load_config({"train": {"lr": float("nan")}})
