"""Do two runs of protocol `standard` agree within the intervals that they state? In at least nine of ten trials.

    python tests/bench/agreement.py [TRIALS]

Each trial measures one model in two processes of their own. Two figures agree when they differ by no more than their
half widths joined in squares. A busy machine changes even the processor time that a process takes (shared caches, paired
cores), from minute to minute: there the figures are shown and not judged.

Exit code: 0 they agree, 1 they do not, 2 the machine is too busy to say.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
import quiet  # noqa: E402  (a neighbour of the tests, which this script is none of)

FIGURES = ("throughput_samples_per_s", "latency_p50_s", "step_time_s")


def measure(clock: str) -> None:
    """Measure a small convolutional network and print value, low and high by figure."""
    import time

    import torch
    from torch import nn
    from torch.nn import functional

    from mmbench.model import Batch, Input, MultimodalModel
    from mmbench.profiling import PROTOCOLS, profile
    from mmbench.profiling import meter as meter_module
    from mmbench.spec import TaskSpec

    class Convolutions(nn.Module):
        feature_dim = 64

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
                nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 64),
            )  # fmt: skip

        def forward(self, values, mask):
            return self.layers(values)

    class Only(nn.Module):
        fused_dim = 64

        def forward(self, features):
            return features["image"].tensor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if clock == "process":
        meter_module.perf_counter = time.process_time
    task = TaskSpec(name="label", kind="multiclass", num_outputs=10)
    model = MultimodalModel({"image": Convolutions()}, {"image": "vector"}, Only(), [task])
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step(batch):
        functional.cross_entropy(model(batch).logits["label"], batch.targets["label"]).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def batch_of(size):
        inputs = {"image": Input(torch.randn(size, 1, 28, 28))}
        return Batch(size, inputs, {"label": torch.zeros(size, dtype=torch.int64)})

    batches = {"train": batch_of(64), "single": batch_of(1)}
    found, _ = profile(model, batches, step, torch.device("cpu"), PROTOCOLS["standard"], contended=False)
    print(json.dumps({item.name: (item.value, item.ci_low, item.ci_high) for item in found if item.name in FIGURES}))  # noqa: T201


def main(trials: int) -> int:
    words, _ = quiet.clock()
    clock = "wall" if words == "wall time" else "process"
    agreed: Counter[str] = Counter()
    widths: dict[str, list[float]] = {name: [] for name in FIGURES}
    gaps: dict[str, list[float]] = {name: [] for name in FIGURES}
    for _ in range(trials):
        pair = []
        for _ in range(2):
            command = [sys.executable, __file__, "--measure", clock]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            pair.append(json.loads(done.stdout.splitlines()[-1]))
        for name in FIGURES:
            (one, low, high), (other, other_low, other_high) = pair[0][name], pair[1][name]
            joined = math.hypot(high - low, other_high - other_low) / 2
            agreed[name] += abs(one - other) <= joined
            widths[name].append(joined / one)
            gaps[name].append(abs(one - other) / one)
    for name in FIGURES:
        gap, width = sorted(gaps[name])[trials // 2], sorted(widths[name])[trials // 2]
        line = f"{name}: {agreed[name]} of {trials} agree; median gap {gap:.1%}, median joined half width {width:.1%}"
        print(f"{line}; {words}")  # noqa: T201
    if clock != "wall" or quiet.clock()[0] != "wall time":
        print("others compute on this machine: not judged")  # noqa: T201
        return 2
    return 0 if all(agreed[name] >= 0.9 * trials for name in FIGURES) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 10))
