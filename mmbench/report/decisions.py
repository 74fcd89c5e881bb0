"""What a race decided, in words, and where ranks hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmbench.report.text import clean, counted, named


def decision_words(decision: Mapping[str, Any]) -> str:
    """Return one decision in a line."""
    rung, num_rungs = decision.get("rung", 0), decision.get("num_rungs", 0)
    on, entered = decision.get("num_kept", 0), decision.get("num_entered", 0)
    epochs = counted(int(decision.get("epochs", 0)), "epoch")
    next_ = "the full training" if rung == num_rungs else "the next"
    dataset = named(str(decision.get("dataset")))
    return f"{dataset}: {on} of {entered} combos go on from rung {rung} of {num_rungs} ({epochs}) to {next_}"


def race_words(decisions: Sequence[Mapping[str, Any]]) -> str:
    """Return what a reader of ranks must know of the race that led to them, or "" where there was none."""
    by_dataset: dict[str, list[Mapping[str, Any]]] = {}
    for decision in decisions:
        if decision.get("kind") == "rung":
            by_dataset.setdefault(str(decision["dataset"]), []).append(decision)
    if not by_dataset:
        return ""
    heats = [_heat(dataset, found) for dataset, found in by_dataset.items()]
    seed = next(iter(by_dataset.values()))[0].get("seed")
    return (
        f"A race chose what was trained in full: successive halving on validation scores of seed {seed} "
        f"(Jamieson and Talwalkar 2016), {'; '.join(heats)}. Ranks, groups and gains hold for these finalists and the "
        "baselines only; stopped combos are listed without a score, with the rung they reached."
    )


def _heat(dataset: str, decisions: Sequence[Mapping[str, Any]]) -> str:
    first, last = decisions[0], decisions[-1]
    lengths = ", ".join(str(decision["epochs"]) for decision in decisions)
    steps = " to ".join(str(count) for count in [first["num_entered"], *(item["num_kept"] for item in decisions)])
    done = "" if last["rung"] == last["num_rungs"] else f", {last['num_rungs'] - last['rung']} more to come"
    rungs = "a rung" if len(decisions) == 1 else "rungs"
    epochs = "epoch" if lengths == "1" else "epochs"
    return clean(f"on {named(dataset)} from {steps} combos by {rungs} of {lengths} {epochs}{done}", 400)
