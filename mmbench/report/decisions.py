"""What a race or a sweep decided, in words, and what that means for ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmbench.report.outcomes import split_encoders
from mmbench.report.text import clean, counted, named


def decision_lines(decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for every rung of a race, and one for each dataset that was swept."""
    yield from (_rung(decision) for decision in decisions if decision.get("kind") == "rung")
    swept = [decision for decision in decisions if decision.get("kind") == "sweep"]
    for dataset in dict.fromkeys(str(decision["dataset"]) for decision in swept):
        here = [decision for decision in swept if decision["dataset"] == dataset]
        what = f"{counted(len(here), 'combo')} tuned on val, {_trials(here)} each"
        yield f"{named(dataset)}: {what} ({here[0]['method']})"


def choice_words(decisions: Sequence[Mapping[str, Any]]) -> str:
    """Return what a reader of scores must know of how the rows were chosen or tuned; "" where neither was."""
    return " ".join(filter(None, [_race_words(decisions), _sweep_words(decisions)]))


def tuned_words(tuned: Mapping[str, Any]) -> str:
    """Return what was chosen for a row, in short: "lr=0.003, gated.fused_dim=64"; "" for one that was not tuned."""
    values = tuned.get("values")
    if not isinstance(values, Mapping):
        return ""
    shown = (
        f"{_short(str(name))}={value:g}" if isinstance(value, float) else f"{_short(str(name))}={value}"
        for name, value in values.items()
    )
    return clean(", ".join(shown), 200)


def _short(name: str) -> str:
    return name.partition(".")[2] or name


def _trials(decisions: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({int(decision["num_trials"]) for decision in decisions})
    return counted(counts[0], "trial") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} trials"


def _sweep_words(decisions: Sequence[Mapping[str, Any]]) -> str:
    swept = [decision for decision in decisions if decision.get("kind") == "sweep"]
    if not swept:
        return ""
    names = dict.fromkeys(name for decision in swept for trial in decision["trials"] for name in trial["values"])
    methods = ", ".join(dict.fromkeys(str(decision["method"]) for decision in swept))
    words = (
        f"Hyperparameters were tuned on validation scores ({methods} over {', '.join(names)}): "
        f"{counted(len(swept), 'combo')}, {_trials(swept)} each, so that no method had more than another. Trials never "
        "saw test; the rows here were trained anew with the chosen values."
    )
    if not any(len(split_encoders(str(decision["encoders"]))) == 1 for decision in swept):
        words += " Nothing of the unimodal baselines was tuned, so gains over them are in favour of fusion."
    return clean(words, 1000)


def _rung(decision: Mapping[str, Any]) -> str:
    rung, num_rungs = decision.get("rung", 0), decision.get("num_rungs", 0)
    on, entered = decision.get("num_kept", 0), decision.get("num_entered", 0)
    epochs = counted(int(decision.get("epochs", 0)), "epoch")
    next_ = "the full training" if rung == num_rungs else "the next"
    dataset = named(str(decision.get("dataset")))
    return f"{dataset}: {on} of {entered} combos go on from rung {rung} of {num_rungs} ({epochs}) to {next_}"


def _race_words(decisions: Sequence[Mapping[str, Any]]) -> str:
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
