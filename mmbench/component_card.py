"""The description of a component that `mmbench show` prints: inputs, outputs, options, an example command."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbench.registry import Entry
from mmbench.report.text import clean
from mmbench.spec import DatasetSpec, EncoderSpec, FusionSpec, ObjectiveSpec, role_of

#: Options of the same meaning in all components that do not describe theirs.
COMMON_OPTIONS: Mapping[str, str] = {
    "attention_dim": "width of queries and keys",
    "depth": "number of blocks",
    "dropout": "share of units dropped in training",
    "embedding_dim": "width of the embeddings",
    "feature_dim": "width of the features that it gives",
    "fused_dim": "width of the fused vector",
    "grid": "patches along each side of an image",
    "hidden_dim": "width of the hidden layer",
    "hop_ms": "milliseconds between windows",
    "level": "whether loudness is kept",
    "max_length": "longest sequence; what is longer is cut",
    "max_ngram": "longest n-gram of characters",
    "max_seconds": "longest recording in seconds; what is longer is cut",
    "max_side": "longest side in pixels; larger images are shrunk to it",
    "modality_dim": "width of each modality's projection",
    "model_dim": "width inside the network",
    "num_bottlenecks": "number of bottleneck tokens",
    "num_coefficients": "number of cepstral coefficients",
    "num_filters": "number of filters",
    "num_frames": "frames that are read of each video",
    "num_heads": "number of attention heads",
    "num_latents": "number of latent tokens",
    "num_layers": "number of layers",
    "num_mels": "number of mel bands",
    "num_spans": "number of spans that a sequence is averaged over",
    "pooling": "how tokens become a vector",
    "rank": "rank of the factorization",
    "rate": "sampling rate in Hz",
    "seed": "seed by which the data are drawn",
    "size": "side in pixels that images get; 0 is the model's own",
    "stages": "layers of a pyramid",
    "temperature": "divides the logits",
    "token_dim": "width of a token",
    "vocabulary_size": "number of entries in the vocabulary",
    "width": "channels or units of a layer",
    "window_ms": "length of a window in milliseconds",
}
#: Options that mmbench itself reads, for encoders that can be trained in several ways.
_TUNING_OPTIONS = "tuning, lr_factor, freeze_epochs, gradual, lora_rank, lora_alpha"
_ARGUMENT = re.compile(r"^\s+(?P<names>\w+(?:, \w+)*): (?P<words>.+)$")


def card_of(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield (heading, text) for each fact about a component; options come as ("options", "NAME=DEFAULT  words")."""
    spec = entry.spec
    yield from _facts(spec)
    words = {**COMMON_OPTIONS, **documented_options(spec.factory, tuple(spec.defaults))}
    widths = [len(f"{name}={_shown(value)}") for name, value in spec.defaults.items()]
    for name, value in spec.defaults.items():
        setting = f"{name}={_shown(value)}"
        yield "options", f"{setting:<{max(widths)}}  {words.get(name, '')}".rstrip()
    if isinstance(spec, EncoderSpec) and spec.tunings != ("scratch",):
        yield "options", f"{_TUNING_OPTIONS}: how pretrained weights are trained"
    yield "example", example(entry)
    yield "in --grid all", "yes" if spec.in_all else "no"
    if spec.requires:
        yield "needs", f"packages {', '.join(spec.requires)}"
    if isinstance(spec, EncoderSpec) and (spec.weights or spec.prepare):
        yield "weights", "`mmbench prepare` fetches them"
    if isinstance(spec, DatasetSpec) and (spec.files or spec.prepare):
        yield "files", "`mmbench prepare` fetches what may be fetched, and says what must be got by hand"
    if spec.paper:
        yield "paper", spec.paper
    if spec.licence:
        yield "license", spec.licence
    yield "code", spec.factory
    yield "version", f"{spec.version}, of {entry.dist} {entry.dist_version}"


def example(entry: Entry) -> str:
    """Return a command that uses a component, as every shell takes it."""
    spec = entry.spec
    target = "" if getattr(spec, "target", "none") != "required" else ":TARGET"
    option = next((f"[{name}={_shown(value)}]" for name, value in spec.defaults.items() if value not in ("", None)), "")
    name = f"{spec.name}{target}{option if role_of(spec) != 'dataset' else ''}"
    if isinstance(spec, DatasetSpec):
        return f"mmbench run -d {spec.name}{target} -f concat"
    if isinstance(spec, EncoderSpec):
        return f"mmbench run -d DATASET -e '{spec.kinds[0]}={name}'"
    if isinstance(spec, FusionSpec):
        return f"mmbench run -d DATASET -f '{name}'"
    if isinstance(spec, ObjectiveSpec):
        return f"mmbench run -d DATASET -o '{name}'"
    return f"mmbench run -d DATASET --{role_of(spec)} '{name}'"


def documented_options(factory: str, names: tuple[str, ...]) -> dict[str, str]:
    """Return the descriptions of options in the docstrings of a factory and its `__init__`, without importing it.

    Args:
        factory: ``"package.module:attribute"``.
        names: Of the options.
    """
    found: dict[str, str] = {}
    for text in _docstrings(factory):
        for line in text.splitlines():
            argument = _ARGUMENT.match(line)
            if argument:
                first = argument["words"].partition(". ")[0].rstrip(".")
                found |= dict.fromkeys(set(argument["names"].split(", ")) & set(names), first)
    return found


def _docstrings(factory: str) -> Iterator[str]:
    module, _, attribute = factory.partition(":")
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            return
        file = Path(spec.origin)
        if rest:
            file = file.parent.joinpath(*rest)
            file = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__init__.py"
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError, SyntaxError):
        return
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            inner = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            yield from (text for item in (node, *inner) if (text := ast.get_docstring(item, clean=False)))


def _facts(spec: Any) -> Iterator[tuple[str, str]]:
    if isinstance(spec, EncoderSpec):
        yield "takes", ", ".join(spec.kinds)
        yield "gives", ", ".join(spec.layouts)
        yield "tuning", ", ".join(spec.tunings)
    elif isinstance(spec, FusionSpec):
        most = " or more" if spec.max_modalities is None else f" to {spec.max_modalities}"
        number = f"{spec.min_modalities}{'' if spec.max_modalities == spec.min_modalities else most}"
        yield "takes", f"a {spec.accepts} of each of {number} modalities"
        yield "level", spec.level
        yield "tasks", ", ".join(spec.task_kinds)
        yield "missing modalities", "masked" if spec.missing else "must be imputed, as by [missing=zero]"
        for name, reason in spec.cannot_solve.items():
            yield "cannot solve", f"{name}: {reason}"
    elif isinstance(spec, DatasetSpec):
        shown = ", ".join(f"{item.name} ({item.kind})" for item in spec.modalities)
        yield "modalities", shown or "depend on its files and options"
        for task in spec.tasks:
            outputs = f", {task.num_outputs} {'classes' if task.kind == 'multiclass' else 'outputs'}"
            yield "task", f"{task.name}: {task.kind}{outputs if task.num_outputs > 1 else ''}"
        for subset, value in spec.ceilings.items():
            yield "ceiling", f"{value:.3f} from {subset.replace('+', ' + ')}"
        if spec.train:
            yield "trained with", ", ".join(f"{name}={_shown(value)}" for name, value in spec.train.items())
    elif isinstance(spec, ObjectiveSpec):
        yield "works with", f"fusions at the level of {' and '.join(f'{level}s' for level in spec.levels)}"
        yield "tasks", ", ".join(spec.task_kinds)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else clean(str(value), 60)
