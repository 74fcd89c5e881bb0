"""Five seeds of a combo trained in one vectorised pass against the same five trained one after another.

Processor time of training and validation on one core, both in the same run and in turn; the figure is the median over
rounds of the ratio one after another / together, so that 1.5 means a third less.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from mmbench.cell_subject import dataset_info, make_subject, open_dataset
from mmbench.config import cache_dir, data_dir, load_config
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry
from mmbench.together import TrainerOfSeveral

NUM_SEEDS, NUM_ROUNDS = 5, 3
COMBOS = {
    "xor, mlp + mlp, concat": {"dataset": ["xor"], "fusion": ["concat"]},
    "xor, mlp + mlp, low-rank-tensor": {"dataset": ["xor"], "fusion": ["low-rank-tensor"]},
    "digits, mlp + bag-of-embeddings, gated": {
        "dataset": ["digits"],
        "modality": ["image", "text"],
        "encoder": ["image=mlp", "text=bag-of-embeddings"],
        "fusion": ["gated"],
    },
    "digits, cnn alone": {
        "dataset": ["digits"], "modality": ["image"], "encoder": ["image=cnn"], "fusion": ["single"], "baselines": False,
    },
}  # fmt: skip


def subjects(folder, combo):
    flags = {"baselines": False, "seeds": NUM_SEEDS, "protocol": "none", "train": {"epochs": 3, "patience": 0}, **combo}
    config = load_config(flags, folder=folder)
    runtime = local_runtime(config, cache=cache_dir(config), data=data_dir(), jobs=1) | {"device": "cpu"}
    payloads = [cell.payload() for cell in make_plan(config, load_registry(), runtime=runtime).cells()]
    assert len(payloads) == NUM_SEEDS
    source = open_dataset(payloads[0], dataset_info(payloads[0]["dataset"]["info"]))
    made = []
    for payload in payloads:
        made.append(make_subject(source, payload, folder, made[0] if made else None))
    return [subject.trainer for subject in made]


@pytest.mark.full
@pytest.mark.parametrize("combo", COMBOS)
def test_five_seeds_together_against_one_after_another(benchmark, tmp_path, combo):
    if not benchmark.enabled:
        pytest.skip("a measurement; pytest tests/bench -m full --benchmark-enable")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ways = {
        "apart": lambda trainers: [trainer.run() for trainer in trainers],
        "together": lambda trainers: TrainerOfSeveral(trainers).run(),
    }
    ratios = []
    try:
        for number in range(NUM_ROUNDS + 1):
            taken = {}
            for way in list(ways)[:: 1 if number % 2 else -1]:
                trainers = subjects(tmp_path, COMBOS[combo])
                began = time.process_time()
                ways[way](trainers)
                taken[way] = time.process_time() - began
            if number:  # the first round is warm-up
                ratios.append(taken["apart"] / taken["together"])
    finally:
        torch.set_num_threads(before)
    ratio = statistics.median(ratios)
    benchmark.extra_info.update(ratio=round(ratio, 2), ratios=[round(one, 2) for one in ratios], seeds=NUM_SEEDS)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{combo}: one after another / together = {ratio:.2f}, rounds {[round(one, 2) for one in ratios]}")  # noqa: T201
    assert ratio > 0.9
