"""Two runs compared: the right pairs, tests that others agree with, limits that a build fails on, and no false alarm."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from comparison_cases import NUM_TEST, make_run, times

from mmbench.compare_session import compare
from mmbench.errors import UsageError
from mmbench.report.comparison import compare_runs
from mmbench.report.gate import crossed, parse_condition
from mmbench.report.pytest_benchmark import pytest_benchmark_json, stats_of
from mmbench.report.timings import compare_times


def row_of(made, metric, fusion="concat"):
    return next(row for row in made.rows if (row.metric, row.fusion) == (metric, fusion))


def test_costs_of_different_measuring_code_are_not_compared(tmp_path):
    first = make_run(tmp_path / "a", measuring=1)
    second = make_run(tmp_path / "b", measuring=2, scale=2.0, wrong=range(9))

    made = compare_runs(first, second)

    assert {row.phase for row in made.rows} == {"evaluate"}
    assert "measurement: version of the measuring code was 1 and is 2; costs are not compared" in made.differing


# Scores


def test_scores_are_paired_by_sample_as_mcnemar_asks(tmp_path):
    # Both miss 5 samples; of the others, only the first misses 12 and only the second misses 2.
    first = make_run(tmp_path / "a", wrong=range(17))
    second = make_run(tmp_path / "b", wrong=[0, 1, 2, 3, 4, 50, 51])

    row = row_of(compare_runs(first, second), "accuracy")

    assert (row.first, row.second) == (0.83, 0.93)
    assert row.change == pytest.approx(0.10)
    expected = scipy.stats.binomtest(2, 14).pvalue
    assert row.p_value == pytest.approx(min(1.0, 3 * expected))  # Holm: the smallest of three tests
    assert row.test == "exact McNemar"
    assert row.low < 0.10 < row.high


def test_several_seeds_are_one_row_with_an_interval_over_both(tmp_path):
    first = make_run(tmp_path / "a", seeds=(0, 1, 2), wrong=range(40))
    second = make_run(tmp_path / "b", seeds=(0, 1, 2), wrong=range(10))

    row = row_of(compare_runs(first, second), "accuracy")

    assert row.seeds == (0, 1, 2)
    assert row.change == pytest.approx(0.30)
    assert row.low > 0.15
    assert row.significant
    assert row.test == "paired t test over seeds and samples"


def test_equal_runs_differ_in_nothing(tmp_path):
    first, second = make_run(tmp_path / "a", wrong=range(9)), make_run(tmp_path / "b", wrong=range(9))

    made = compare_runs(first, second)

    assert all(row.change == 0 and not row.significant for row in made.rows)
    assert made.differing == made.only_first == made.only_second == ()


def test_recall_is_compared_sample_by_sample(tmp_path):
    # The vectors of two modalities, 5 numbers each, side by side.
    task = {"name": "digit", "kind": "retrieval", "num_outputs": 5}
    datasets = {"digits": {"tasks": [task]}}
    first = make_run(tmp_path / "a", datasets=datasets, metric="recall_at_1", wrong=range(40))
    second = make_run(tmp_path / "b", datasets=datasets, metric="recall_at_1")

    row = row_of(compare_runs(first, second), "recall_at_1")

    # The partners of a sample are one observation with it.
    assert row.test == "paired t test over 10 groups of samples"
    assert row.p_value is not None


def test_the_same_test_samples_in_another_order_are_pairs(tmp_path):
    turn = np.roll(np.arange(NUM_TEST), 10)  # by 10, so that the classes stay where they are
    names = [f"s{n}" for n in range(NUM_TEST)]
    first = make_run(tmp_path / "a", wrong=range(17))
    second = make_run(tmp_path / "b", wrong=range(10, 27), ids=[names[n] for n in turn])

    row = row_of(compare_runs(first, second), "accuracy")

    assert (row.change, row.p_value) == (0.0, 1.0)  # each sample is right in both or wrong in both
    assert -row.low == row.high == pytest.approx(0.0198, abs=2e-4)  # one more of 100 either way


def test_other_test_samples_are_no_pair(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", wrong=range(30), ids=[f"other{n}" for n in range(NUM_TEST)])

    row = row_of(compare_runs(first, second), "accuracy")

    assert row.p_value is None
    assert not row.significant
    assert row.test == "the runs were tested on different samples"


# Costs


def test_costs_are_tested_on_blocks_of_raw_samples(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", scale=1.25)

    made = compare_runs(first, second)

    throughput, latency = row_of(made, "throughput_samples_per_s"), row_of(made, "latency_p50_s")
    assert throughput.relative == pytest.approx(-0.20, abs=1e-9)
    assert latency.relative == pytest.approx(0.25, abs=1e-9)
    blocks = [np.median(np.array_split(times(scale), 10), axis=1) for scale in (1.0, 1.25)]
    expected = scipy.stats.mannwhitneyu(*blocks).pvalue
    # Holm over accuracy (p = 1), throughput and latency, which rest on the same times here.
    assert throughput.p_value == latency.p_value == pytest.approx(3 * expected)
    assert throughput.low < -0.20 < throughput.high < 0
    assert 0 < latency.low < 0.25 < latency.high


def test_a_few_stalls_of_the_machine_leave_the_change_inside_its_interval(tmp_path):
    """A mean and a median disagree about stalls: the change was -73 % with an interval from +7 % to +59 %."""
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", scale=0.8, stalls=(3, 0.5))

    row = row_of(compare_runs(first, second), "throughput_samples_per_s")

    assert row.low <= row.relative <= row.high
    assert row.relative == pytest.approx(0.25, abs=0.05)  # 1 / 0.8
    assert row.second / row.first - 1 == pytest.approx(row.relative)
    blocks = np.median(np.array_split(times(), 10), axis=1)
    assert row.first == pytest.approx(64 / np.median(blocks))


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_the_ratio_of_times_lies_in_its_interval(processes):
    rng = np.random.default_rng(processes)
    for trial in range(40):
        count = 3 + trial % 28
        one, other = ([rng.lognormal(0, 1.5, count) for _ in range(processes)] for _ in range(2))

        found = compare_times(one, other)

        assert found.low <= found.value <= found.high

    equal = compare_times([[0.1] * 9] * processes, [[0.3] * 9] * processes)
    assert (equal.low, equal.value, equal.high) == pytest.approx((3.0, 3.0, 3.0))


def test_two_measurements_of_the_same_thing_are_seldom_found_different():
    alarms = naive = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        # Iterations share moods of the machine: taken as independent they would "differ" in most trials.
        one, other = (np.repeat(rng.normal(1.0, 0.05, 10), 20) + rng.normal(0, 0.005, 200) for _ in range(2))
        alarms += compare_times([one], [other]).p_value < 0.05
        naive += scipy.stats.mannwhitneyu(one, other).pvalue < 0.05

    assert naive > 80
    assert alarms <= 20  # 5 % of 200 are 10, with a standard deviation of 3


def test_the_luck_of_a_process_is_no_difference():
    """Each process runs up to some percent faster or slower than another throughout; all run the same code."""
    alarms = by_blocks = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        one, other = ([luck + rng.normal(0, 0.005, 200) for luck in rng.normal(1.0, 0.03, 5)] for _ in range(2))
        alarms += compare_times(one, other).p_value < 0.05
        by_blocks += compare_times([one[0]], [other[0]]).p_value < 0.05

    assert by_blocks > 150
    assert alarms <= 20


def test_processes_are_compared_as_welch_does():
    one, other = [[1.0], [1.1], [1.05]], [[1.3], [1.2], [1.25], [1.22]]

    found = compare_times(one, other)

    welch = scipy.stats.ttest_ind(np.log([1.3, 1.2, 1.25, 1.22]), np.log([1.0, 1.1, 1.05]), equal_var=False)
    assert found.p_value == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(welch.confidence_interval())))
    assert found.test == "Welch over processes"


def test_rounds_are_pooled():
    one, other = [times(seed=n) for n in range(9)], [times(1.02, seed=n + 9) for n in range(9)]

    found = compare_times(one, other)

    assert found.value == pytest.approx(1.02, abs=0.01)
    assert found.p_value < 0.001
    assert compare_times([[1.0, 1.0]], other) is None


def test_other_batch_sizes_are_not_compared_by_their_times(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", batch_size=16)

    made = compare_runs(first, second)

    row = row_of(made, "throughput_samples_per_s")
    assert row.p_value is None
    assert row.test == "measured at different batch sizes: 16, 64"
    assert "measurement: batch_size was 64 and is 16" in made.differing


def test_a_contended_measurement_says_so_in_its_test(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", note="contended: others kept 1.0 of 2 CPUs busy")

    assert row_of(compare_runs(first, second), "throughput_samples_per_s").test.endswith(
        "others computed on the device"
    )


def test_counts_that_differ_differ(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", scale=1.001)

    made = compare_runs(first, second)

    assert row_of(made, "flops_per_sample").significant
    assert row_of(made, "flops_per_sample").test == "counted exactly"
    assert row_of(made, "peak_rss_bytes").test == "its raw samples are not kept"
    assert not row_of(made, "peak_rss_bytes").significant


def test_runs_without_raw_timings_are_compared_without_a_test(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", scale=2.0, timings=False)

    row = row_of(compare_runs(first, second), "latency_p50_s")

    assert row.relative == pytest.approx(1.0)
    assert (row.p_value, row.test) == (None, "too few raw samples")


# Pairs


def test_what_only_one_run_has_is_listed(tmp_path):
    first = make_run(tmp_path / "a", fusions=("concat", "gated"), seeds=(0, 1))
    second = make_run(tmp_path / "b", fusions=("concat", "tensor"), seeds=(0,))

    made = compare_runs(first, second)

    assert made.only_first == ("digits, image:cnn, concat, seed 1", "digits, image:cnn, gated, seed 0, 1")
    assert made.only_second == ("digits, image:cnn, tensor, seed 0",)
    assert {row.fusion for row in made.rows} == {"concat"}
    assert row_of(made, "accuracy").seeds == (0,)


def test_nothing_in_common_is_an_error(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", fusions=("gated",))

    with pytest.raises(UsageError, match="a and b have no combo with a result in common"):
        compare_runs(first, second)


def test_other_data_are_refused_unless_forced(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", identity={"ref": "a/digits", "version": "2"})

    with pytest.raises(UsageError, match=r"stand on different data: data: digits was .*version=1.*version=2.*--force"):
        compare_runs(first, second)
    made = compare_runs(first, second, force=True)

    assert any(words.startswith("data: digits was a/digits") for words in made.differing)


def test_other_hardware_is_told(tmp_path):
    made = compare_runs(make_run(tmp_path / "a"), make_run(tmp_path / "b", cpu="y"))

    assert made.differing == ("hardware: cpu was x and is y",)


# Limits


@pytest.mark.parametrize(
    ("text", "metric", "below", "limit", "relative"),
    [
        ("throughput<-5%", "throughput", True, -0.05, True),
        (" accuracy < -0.01 ", "accuracy", True, -0.01, False),
        ("latency_p50>10%", "latency_p50", False, 0.10, True),
        ("stage_time_s:encode.image>+2e1%", "stage_time_s:encode.image", False, 0.2, True),
    ],
)
def test_a_condition_is_read(text, metric, below, limit, relative):
    found = parse_condition(text)

    assert (found.metric, found.below, found.limit, found.relative) == (metric, below, pytest.approx(limit), relative)


@pytest.mark.parametrize("text", ["", "throughput", "throughput<", "throughput<<5", "<5%", "a=5", "a<5%%"])
def test_a_condition_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="write METRIC<CHANGE or METRIC>CHANGE"):
        parse_condition(text)


def test_a_limit_is_crossed_by_a_significant_change_beyond_it_only(tmp_path):
    made = compare_runs(make_run(tmp_path / "a", wrong=range(5)), make_run(tmp_path / "b", wrong=range(7), scale=1.25))

    def lines(text, **options):
        return crossed(made, [parse_condition(text)], **options)

    assert len(lines("throughput<-5%")) == 1
    assert lines("throughput<-25%") == []
    assert len(lines("latency_p50>10%")) == 1
    assert lines("latency_p50<10%") == []
    # Two samples of a hundred are chance.
    assert lines("accuracy<-0.01") == []
    assert lines("accuracy<-0.01", include_chance=True) == [
        "accuracy<-0.01: digits, image:cnn, concat: accuracy 0.95 -> 0.93 (-0.02)"
    ]


def test_a_limit_on_what_the_runs_do_not_have_is_an_error(tmp_path):
    made = compare_runs(make_run(tmp_path / "a"), make_run(tmp_path / "b"))

    with pytest.raises(
        UsageError, match=r"both runs have no 'acuracy'; they share .*accuracy.* Did you mean 'accuracy'"
    ):
        crossed(made, [parse_condition("acuracy<0")])


def test_the_command_ends_with_5_when_a_limit_is_crossed(tmp_path, capsys):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", scale=1.25)

    assert compare(first, second, fail_if=["throughput<-5%"]) == 5
    shown = capsys.readouterr().out
    assert compare(first, second, fail_if=["throughput<-50%"], as_json=True) == 0

    assert "crossed: throughput<-5%: digits, image:cnn, concat" in shown
    data = json.loads(capsys.readouterr().out)
    assert data["crossed"] == []
    assert {row["metric"] for row in data["rows"]} >= {"accuracy", "throughput_samples_per_s"}


def test_a_hostile_name_is_text(tmp_path, capsys):
    name = "[red]x[/red]\x1b[31m"
    compare(make_run(tmp_path / "a", fusions=(name,)), make_run(tmp_path / "b", fusions=(name,)))

    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "\x1b" not in shown


# pytest-benchmark


def test_statistics_are_pytest_benchmarks_own():
    from pytest_benchmark.stats import Stats

    for samples in (times(count=101), times(count=200), [1.0, 2.0, 3.0, 10.0], [0.5, 0.7]):
        theirs = Stats()
        for sample in samples:
            theirs.update(sample)
        ours = stats_of(samples)

        for name in ("min", "max", "mean", "stddev", "rounds", "median", "iqr", "q1", "q3", "ops", "total"):
            assert ours[name] == pytest.approx(getattr(theirs, name)), name
        for name in ("iqr_outliers", "stddev_outliers", "outliers", "ld15iqr", "hd15iqr"):
            assert ours[name] == getattr(theirs, name), name


def test_pytest_benchmark_compares_two_exported_runs(tmp_path):
    for name, scale in (("a", 1.0), ("b", 1.25)):
        data = pytest_benchmark_json(make_run(tmp_path / name, scale=scale))
        (tmp_path / f"{name}.json").write_text(json.dumps(data))

    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "a.json", "b.json", "--csv=out.csv", "--sort=name"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "inference[digits, image:cnn, concat, seed 0] (b" in done.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    medians = sorted(float(row["median"]) for row in rows)
    expected = [np.median(times(scale)) for scale in (1.0, 1.0, 1.25, 1.25)]  # inference and latency of each run
    assert medians == pytest.approx(expected, rel=1e-6)
