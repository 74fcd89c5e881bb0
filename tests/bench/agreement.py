"""Do two runs of protocol `standard` agree within the intervals that they state? In at least nine of ten trials.

    python tests/bench/agreement.py [TRIALS]

Each trial measures one model twice, each time in as many processes as `mmbench profile --protocol standard` takes, one
run after the other. Two figures agree when they differ by no more than their half widths joined in squares. Shown beside it: how far
single processes lie apart, which no number of iterations in one of them can tell.

Exit code: 0 they agree, 1 they do not.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections import Counter

from mmbench.profile_plan import ROUNDS
from mmbench.samples import process_interval

FIGURES = ("throughput_samples_per_s", "latency_p50_s", "step_time_s")


def measure() -> None:
    """Measure a small convolutional network and print its figures."""
    import torch
    from torch import nn
    from torch.nn import functional

    from mmbench.executors.child import keep_freed_memory
    from mmbench.model import Batch, Input, MultimodalModel
    from mmbench.profiling import PROTOCOLS, profile
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

    keep_freed_memory()  # as the process of a cell does
    torch.set_num_threads(1)
    torch.manual_seed(0)
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
    print(json.dumps({item.name: item.value for item in found if item.name in FIGURES}))  # noqa: T201


def one_process() -> dict[str, float]:
    """Return the figures that a new process measures."""
    done = subprocess.run([sys.executable, __file__, "--measure"], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(trials: int) -> int:
    agreed: Counter[str] = Counter()
    gaps, widths, apart = ({name: [] for name in FIGURES} for _ in range(3))
    for _ in range(trials):
        runs = [[one_process() for _ in range(ROUNDS["standard"])] for _ in range(2)]
        for name in FIGURES:
            measured = [[found[name] for found in run] for run in runs]
            one, other = (statistics.fmean(values) for values in measured)
            bounds = [process_interval(values) for values in measured]
            gap, joined = abs(one - other), math.hypot(*(high - low for low, high in bounds)) / 2
            agreed[name] += gap <= joined
            gaps[name].append(gap / one)
            widths[name].append(joined / one)
            apart[name] += [statistics.stdev(values) / one for values in measured]
    for name in FIGURES:
        gap, width, spread = (f"{statistics.median(of[name]):.1%}" for of in (gaps, widths, apart))
        print(  # noqa: T201
            f"{name}: {agreed[name]} of {trials} agree; median gap {gap}, median joined half width {width}, "
            f"standard deviation between processes {spread}"
        )
    return 0 if all(agreed[name] >= 0.9 * trials for name in FIGURES) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure()
    else:
        sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 10))
