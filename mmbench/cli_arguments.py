"""Aliases of options and values, and hints for options, commands and lists that mmbench does not have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmbench.errors import UsageError, did_you_mean

#: Aliases of options, in commands that have the option.
OPTION_ALIASES: Mapping[str, str] = {
    "--datasets": "--dataset",
    "--data": "--dataset",
    "--encoders": "--encoder",
    "--fusions": "--fusion",
    "--objectives": "--objective",
    "--loss": "--objective",
    "--modalities": "--modality",
    "--num-epochs": "--epochs",
    "--max-epochs": "--epochs",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--learning-rate": "--lr",
    "--workers": "--jobs",
    "--num-workers": "--jobs",
    "--name": "--run",
    "--run-name": "--run",
    "--results-dir": "--results",
    "--exclude-fusion": "--exclude",
    "--plugins": "--plugin",
    "--retries": "--retry",
    "--trackers": "--tracker",
}
#: Training settings that have no option of their own: `--optimizer sgd` is `--set optimiser=sgd`.
SETTINGS: Mapping[str, str] = {
    "--optimizer": "optimiser",
    "--optimiser": "optimiser",
    "--weight-decay": "weight_decay",
    "--momentum": "momentum",
    "--dropout": "dropout",
    "--schedule": "schedule",
    "--scheduler": "schedule",
    "--warmup": "warmup",
    "--patience": "patience",
    "--early-stopping": "patience",
    "--class-weights": "class_weights",
    "--clip-norm": "clip_norm",
    "--grad-clip": "clip_norm",
    "--l1": "l1",
    "--sampler": "sampler",
}
_WITH_SETTINGS = ("plan", "prepare", "run", "profile")
#: Options of a command that share their name with a training setting.
_NOT_SETTINGS = {("prepare", "--patience")}
#: Aliases of values, by option.
_VALUES: Mapping[tuple[str, str], str] = {
    ("--device", "gpu"): "cuda",
    ("--device", "GPU"): "cuda",
    ("--device", "CPU"): "cpu",
    ("--device", "CUDA"): "cuda",
    ("--precision", "float32"): "fp32",
    ("--precision", "bfloat16"): "bf16",
}
#: Hints for options that mmbench does not have.
_NO_OPTION: Mapping[str, str] = {
    "--seed": "`--seeds 3` trains with three seeds (0, 1, 2); `--seeds 3,` with seed 3 alone",
    "--folds": "there is one split; say how it is made with -d 'photos/data.csv[split=70/15/15]'",
    "--kfold": "there is one split; say how it is made with -d 'photos/data.csv[split=70/15/15]'",
    "--label": "name the column with the dataset, such as -d 'photos/data.csv[label=species]'",
    "--target": "name the column with the dataset, such as -d 'photos/data.csv[label=species]'",
    "--split": "name the column with the dataset, such as -d 'photos/data.csv[split=part]'",
    "--pretrained": "name a pretrained encoder, such as -e image=timm/resnet18; `mmbench list encoders` lists them",
    "--frozen": "say it with the encoder, such as -e 'image=timm/resnet18[tuning=frozen]'",
    "--finetune": "say it with the encoder, such as -e 'image=timm/resnet18[tuning=finetune]'",
    "--gpu": "write --device cuda",
    "--gpus": "write --device cuda; -j N trains N cells at a time on it",
    "--cuda": "write --device cuda",
    "--cpu": "write --device cpu",
    "--resume": "the same command with the same --run continues a run",
    "--continue": "the same command with the same --run continues a run",
    "--force": "choose another name with --run, or `--retry ok` to train finished cells again",
    "--overwrite": "choose another name with --run, or `--retry ok` to train finished cells again",
    "--debug": "`--isolate none` runs cells in this process, where breakpoint() works",
    "--pdb": "`--isolate none` runs cells in this process, where breakpoint() works",
    "--quiet": "redirect the output, such as > run.log; in a pipe mmbench prints one line for each finished cell",
    "--verbose": "the log of each cell is in results/RUN/cells/ID/log.txt",
    "--model": "name encoders with -e and fusions with -f",
    "--models": "name encoders with -e and fusions with -f",
    "--all": "write --grid all",
    "--quick": "write --grid quick",
    "--smoke": "write --grid smoke",
    "--test": "the test split is always scored; nothing is chosen on it",
    "--out": "-o FILE of `mmbench export` writes a file; --results DIR is where runs are kept",
    "--output-dir": "--results DIR is where runs are kept, and --run NAME names one",
}
#: Hints for commands that mmbench does not have.
_NO_COMMAND: Mapping[str, str] = {
    "train": "`mmbench run` trains and evaluates",
    "fit": "`mmbench run` trains and evaluates",
    "benchmark": "`mmbench run` trains and evaluates",
    "bench": "`mmbench run` trains and evaluates",
    "evaluate": "`mmbench run` trains and evaluates",
    "eval": "`mmbench run` trains and evaluates",
    "test": "`mmbench run` trains and evaluates; `mmbench check` tests a plugin",
    "leaderboard": "`mmbench report RUN` shows the leaderboard of a run",
    "results": "`mmbench runs` lists the runs, and `mmbench report RUN` shows one",
    "ls": "`mmbench list` lists components, and `mmbench runs` lists runs",
    "info": "`mmbench show NAME` describes a component or a dataset, and `mmbench env` this machine",
    "describe": "`mmbench show NAME` describes a component or a dataset",
    "rm": "`mmbench clean --runs NAME` removes a run",
    "delete": "`mmbench clean --runs NAME` removes a run",
    "remove": "`mmbench clean --runs NAME` removes a run",
    "open": "`mmbench view RUN` opens the report of a run",
    "serve": "`mmbench view RUN --port 8000` serves the report of a run on this machine",
    "download": "`mmbench prepare` fetches weights and data",
    "fetch": "`mmbench prepare` fetches weights and data",
    "install": "install a plugin with pip; `mmbench prepare` fetches weights and data",
    "init": "`mmbench new fusion NAME` begins a plugin; a run needs no project",
    "create": "`mmbench new fusion NAME` begins a plugin",
    "predict": "predictions of test are kept with each cell; `mmbench ensemble RUN` joins them",
    "datasets": "`mmbench list datasets` lists them",
    "encoders": "`mmbench list encoders` lists them",
    "fusions": "`mmbench list fusions` lists them",
    "models": "`mmbench list encoders` and `mmbench list fusions` list them",
    "cite": "`mmbench show NAME` names a component's paper",
    "resume": "`mmbench run --run NAME` continues a run",
    "continue": "`mmbench run --run NAME` continues a run",
    "tune": "a [sweep] table in a run file tunes: mmbench run -c sweep.toml",
    "sweep": "a [sweep] table in a run file tunes: mmbench run -c sweep.toml",
    "doctor": "`mmbench plugins doctor` says what an installation lacks",
    "version": "`mmbench --version` prints it",
}
#: Hints for lists that `mmbench list` does not have.
_NO_LIST: Mapping[str, str] = {
    "models": "encoders and fusions make a model: `mmbench list encoders`, `mmbench list fusions`",
    "metrics": "`mmbench show DATASET` names the metrics of its task",
    "runs": "`mmbench runs` lists them",
    "plugins": "`mmbench plugins` lists them",
    "grids": "there is --grid quick, all, smoke and race, and those of mmbench.toml",
    "losses": "`mmbench list objectives` lists what training minimizes",
}
_OPTIONS_AFTER_COLONS = re.compile(r"^(?P<head>[^\[\]]*?)(?P<options>(?::[A-Za-z_][\w.-]*=[^:\[\]]*)+)$")


def resolve_aliases(argv: Sequence[str]) -> list[str]:
    """Return the arguments with aliases of options and values replaced by their names.

    Raises:
        UsageError: the option of a training setting has no value.

    >>> resolve_aliases(["run", "-d", "xor", "--optimizer", "sgd", "--batch=8", "--device", "gpu"])
    ['run', '-d', 'xor', '--set', 'optimiser=sgd', '--batch-size=8', '--device', 'cuda']
    """
    if argv[:1] == ["help"]:
        return [*argv[1:2], "--help"]
    command = next((word for word in argv if not word.startswith("-")), "")
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            return [*found, word, *words]
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            found.append(word)
            continue
        if option in SETTINGS and command in _WITH_SETTINGS and (command, option) not in _NOT_SETTINGS:
            setting = value if equals else next(words, "")
            if not setting:
                raise UsageError(f"{option} needs a value, such as --set {SETTINGS[option]}=VALUE")
            found += ["--set", f"{SETTINGS[option]}={setting}"]
            continue
        option = OPTION_ALIASES.get(option, option)
        if equals:
            found.append(f"{option}={_VALUES.get((option, value), value)}")
            continue
        found.append(option)
        if any(name == option for name, _ in _VALUES):
            found += [_VALUES.get((option, value), value) for value in itertools.islice(words, 1)]
    return found


def option_hint(option: str, known: Sequence[str]) -> str:
    """Return the end of an error message about an unknown option: a hint, or a similar name.

    >>> option_hint("--epoch", ["--epochs", "--lr"])
    ". Did you mean '--epochs'?"
    """
    name = option.partition("=")[0]
    if name in _NO_OPTION:
        return f": {_NO_OPTION[name]}"
    return f".{did_you_mean(name, known, prefix='--')}"


def command_hint(command: str, known: Sequence[str]) -> str:
    """Return the end of an error message about an unknown command: a hint, or a similar name.

    >>> command_hint("train", ["run"]), command_hint("raport", ["run", "report"])
    (': `mmbench run` trains and evaluates', ". Did you mean 'report'?")
    """
    if command.lower() in _NO_COMMAND:
        return f": {_NO_COMMAND[command.lower()]}"
    return f".{did_you_mean(command, known)}"


def list_name(word: str, roles: Sequence[str]) -> str:
    """Return the name of a list in any spelling: "encoder" and "Encoders" are "encoders".

    Raises:
        UsageError: there is no such list.
    """
    name = word.lower()
    for role in roles:
        if name in (role, role.removesuffix("s")):
            return role
    other = _NO_LIST.get(name) or _NO_LIST.get(f"{name}s")
    end = f": {other}" if other else f"; there are {', '.join(roles)}.{did_you_mean(name, roles)}"
    raise UsageError(f"there is no list of {word!r}{end}")


def split_list(values: Sequence[str]) -> list[str]:
    """Return references of which several may be joined by commas, each on its own.

    A comma inside of brackets or quotes joins nothing, nor does one in the path of a file that is there.

    >>> split_list(["concat,gated", "low-rank-tensor[rank=4,fused_dim=8],sum"])
    ['concat', 'gated', 'low-rank-tensor[rank=4,fused_dim=8]', 'sum']
    """
    return [piece for value in values for piece in _pieces(value)]


def with_brackets(reference: str) -> str:
    """Return a reference whose options follow colons, which no shell expands, with its options in brackets.

    >>> with_brackets("image=cnn:width=32:dropout=0.1"), with_brackets("data.csv:label=species")
    ('image=cnn[width=32,dropout=0.1]', 'data.csv[label=species]')
    >>> with_brackets("timm:resnet18"), with_brackets("cnn[width=32]")
    ('timm:resnet18', 'cnn[width=32]')
    """
    found = _OPTIONS_AFTER_COLONS.match(reference)
    if found is None or not found["head"]:
        return reference
    return f"{found['head']}[{found['options'][1:].replace(':', ',')}]"


def _pieces(value: str) -> Iterator[str]:
    if "," not in value or Path(value.partition("[")[0]).exists():
        yield value
        return
    depth, quote, start = 0, "", 0
    for at, sign in enumerate(value):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and depth:
            quote = sign
        elif sign == "[":
            depth += 1
        elif sign == "]":
            depth -= 1
        elif sign == "," and depth <= 0:
            yield value[start:at].strip()
            start = at + 1
    yield value[start:].strip()
