"""Forty faults, one line each, for `sample.py`: where, what becomes of it, and the tests that run through it."""

from __future__ import annotations

from dataclasses import dataclass

#: Plugin packages: their sources and their tests.
_FUSION, _FUSION_TESTS = "plugins/mmbench-fusion/src/mmbench_fusion", "plugins/mmbench-fusion/tests"
_OBJECTIVES, _OBJECTIVE_TESTS = (
    "plugins/mmbench-objectives/src/mmbench_objectives",
    "plugins/mmbench-objectives/tests",
)


@dataclass(frozen=True)
class Fault:
    """A plausible mistake.

    Attributes:
        file: In which file.
        line: What stands there, once.
        becomes: What stands there instead.
        tests: Files or tests that run through the line.
    """

    file: str
    line: str
    becomes: str
    tests: tuple[str, ...]


def _fault(file: str, line: str, becomes: str, *tests: str) -> Fault:
    return Fault(file, line, becomes, tests)


FAULTS = (
    # Metrics and their intervals
    _fault(
        "mmbench/tallies.py",
        "tp / np.maximum(support, 1), support)",
        "tp / np.maximum(predicted, 1), support)",
        "tests/test_evaluate.py",
    ),
    _fault(
        "mmbench/tallies.py",
        "-np.log1p(-inside)).mean(axis=1)",
        "-np.log1p(-inside)).sum(axis=1)",
        "tests/test_evaluate.py",
    ),
    _fault(
        "mmbench/tallies.py",
        "chosen = truth.astype(bool), values > 0.5",
        "chosen = truth.astype(bool), values >= 0.4",
        "tests/test_evaluate.py",
    ),
    _fault(
        "mmbench/resampling.py",
        "centre = (share + z2 / (2 * n))",
        "centre = (share + z2 / n)",
        "tests/test_evaluate.py",
    ),
    _fault(
        "mmbench/resampling.py",
        "np.nanpercentile(resampled, (2.5, 97.5))",
        "np.nanpercentile(resampled, (5.0, 95.0))",
        "tests/test_evaluate.py",
    ),
    _fault(
        "mmbench/retrieval.py",
        "above + 1 + level / (partners + 1)",
        "above + level / (partners + 1)",
        "tests/test_retrieval.py",
    ),
    _fault(
        "mmbench/retrieval.py",
        "slice(start, start + _CHUNK)",
        "slice(start, start + _CHUNK - 1)",
        "tests/test_retrieval.py",
    ),
    # Training
    _fault("mmbench/optimiser.py", "max(progress / config.warmup, 0.02)", "max(progress, 0.02)", "tests/test_train.py"),
    _fault(
        "mmbench/optimiser.py", "config.weight_decay if decayed else 0.0", "config.weight_decay", "tests/test_train.py"
    ),
    _fault(
        "mmbench/epochs.py",
        "number - self._last_gain >= self.patience",
        "number - self._last_gain > self.patience",
        "tests/test_train.py",
    ),
    _fault("mmbench/epochs.py", "-epoch.val_loss)", "epoch.val_loss)", "tests/test_train.py"),
    _fault(
        "mmbench/train.py",
        "split_order(order, size, min_size=min(2, size))",
        "split_order(order, size, min_size=1)",
        "tests/test_train.py",
    ),
    _fault("mmbench/train.py", "        choice.restore()\n", "        pass\n", "tests/test_train.py"),
    _fault("mmbench/capture.py", "self._restore(after)", "self._restore(start)", "tests/test_capture.py"),
    _fault(
        "mmbench/hostwork.py",
        "elif not at_once:",
        "elif at_once:",
        "tests/test_hostwork.py::test_copies_between_host_and_device_are_told_apart",
    ),
    _fault("mmbench/augment.py", "MAX_ANGLE = math.radians(15.0)", "MAX_ANGLE = 15.0", "tests/test_augment.py"),
    # Data
    _fault(
        "mmbench/batches.py",
        "len(chunk) >= min(min_size, len(order))",
        "len(chunk) >= min_size",
        "tests/test_batches.py",
        "tests/test_train.py",
    ),
    _fault(
        "mmbench/batches.py",
        "torch.arange(longest)[None, :] <",
        "torch.arange(longest)[None, :] <=",
        "tests/test_batches.py",
    ),
    _fault(
        "mmbench/batches.py",
        "rows = rows[held.present[rows]]",
        "rows = rows[:]",
        "tests/test_batches.py",
        "tests/test_build.py",
    ),
    _fault(
        "mmbench/missing.py",
        "values.masked_fill(~present[:, self.owner], 0.0), present",
        "values, present",
        "tests/test_missing.py",
    ),
    _fault("mmbench/missing.py", "[-start % stride :: stride]", "[::stride]", "tests/test_missing.py"),
    # The journal and the store
    _fault(
        "mmbench/journal.py",
        'self.num_killed += status == "killed"',
        'self.num_killed += status == "failed"',
        "tests/test_store.py",
        "tests/test_runner.py",
    ),
    _fault("mmbench/journal.py", 'elif line.endswith(b"\\n"):', "else:", "tests/test_store.py"),
    _fault("mmbench/durable.py", 'line = b"\\n" + line', "line = line", "tests/test_store.py"),
    _fault(
        "mmbench/durable.py",
        "os.ftruncate(self._stream.fileno(), before.st_size)",
        "os.ftruncate(self._stream.fileno(), before.st_size + 1)",
        "tests/test_store.py",
        "tests/test_full_disk.py",
    ),
    _fault("mmbench/tail.py", "self._offset += len(line)", "self._offset += len(line) + 1", "tests/test_tail.py"),
    _fault(
        "mmbench/cache.py",
        "sorted(found, key=lambda entry: (entry.used_at, entry.key))",
        "sorted(found, key=lambda entry: entry.key)",
        "tests/test_cache.py",
    ),
    # Plans, races, admission
    _fault("mmbench/plan.py", "floor=first)", "floor=True)", "tests/test_plan.py", "tests/test_anytime.py"),
    _fault(
        "mmbench/race.py",
        "math.ceil(num_combos / config.eta)",
        "math.floor(num_combos / config.eta)",
        "tests/test_race.py",
    ),
    _fault(
        "mmbench/race.py",
        "key=lambda pair: pair[1].order or (), reverse=True",
        "key=lambda pair: pair[1].order or ()",
        "tests/test_race.py",
    ),
    _fault(
        "mmbench/admission.py",
        "MARGINS.get(depth, MARGINS[1]) * self._caution",
        "MARGINS.get(depth, MARGINS[1])",
        "tests/test_admission.py",
    ),
    _fault(
        "mmbench/admission.py",
        'self._most[kind[:depth]] = max(self._most.get(kind[:depth], 0.0), float(memory["peak_bytes"]))',
        'self._most[kind[:depth]] = float(memory["peak_bytes"])',
        "tests/test_admission.py",
    ),
    # Statistics of reports
    _fault(
        "mmbench/report/statistics.py",
        "np.maximum.accumulate(np.minimum(known[order] * factors, 1.0))",
        "np.minimum(known[order] * factors, 1.0)",
        "tests/test_statistics.py",
    ),
    _fault(
        "mmbench/report/statistics.py",
        "factors = np.arange(len(known), 0, -1)",
        "factors = np.full(len(known), len(known))",
        "tests/test_statistics.py",
    ),
    # Plugins
    _fault(
        f"{_FUSION}/gated.py",
        ".masked_fill(~present.unsqueeze(2), 0.0).sum(dim=1)",
        ".sum(dim=1)",
        f"{_FUSION_TESTS}/test_fusion_contract.py",
        f"{_FUSION_TESTS}/test_fusion_formulas.py",
    ),
    _fault(
        f"{_FUSION}/concat.py",
        "self.norm(self.linear(joined)).relu()",
        "self.norm(self.linear(joined))",
        f"{_FUSION_TESTS}/test_fusion_formulas.py",
    ),
    _fault(
        f"{_FUSION}/deep_sets.py",
        "elements.sum(dim=1)",
        "elements.mean(dim=1)",
        f"{_FUSION_TESTS}/test_fusion_formulas.py",
    ),
    _fault(
        f"{_OBJECTIVES}/modality_dropout.py",
        "torch.where(kept.any(dim=1, keepdim=True), kept, present)",
        "kept",
        f"{_OBJECTIVE_TESTS}/test_perturbing_formulas.py",
        f"{_OBJECTIVE_TESTS}/test_objective_formulas.py",
    ),
    _fault(
        f"{_OBJECTIVES}/infonce.py",
        "features[one].present & features[other].present",
        "features[one].present | features[other].present",
        f"{_OBJECTIVE_TESTS}/test_alignment_formulas.py",
        f"{_OBJECTIVE_TESTS}/test_objective_formulas.py",
    ),
    _fault(
        "plugins/mmbench-executors/src/mmbench_executors/packing.py",
        "or len(packs[-1]) >= size",
        "or len(packs[-1]) > size",
        "plugins/mmbench-executors/tests/test_packing.py",
    ),
)
