"""What a selection means: which datasets and encoders its patterns name, and what it leaves out."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence

from mmbench.config import RunConfig
from mmbench.registry import Reference, Registry
from mmbench.spec import EncoderSpec, Modality, Role


def dataset_references(config: RunConfig, registry: Registry) -> list[tuple[str, Reference]]:
    """Return the datasets that a selection means, before `--exclude`, each with the pattern that named it or ""."""
    if config.dataset:
        return [(pattern, reference) for pattern in config.dataset for reference in registry.match("dataset", pattern)]
    everything = [entry for entry in registry.entries("dataset") if entry.spec.in_all]
    return [("", registry.resolve("dataset", entry.ref)) for entry in everything]


def encoder_references(
    config: RunConfig, registry: Registry, modality: Modality, names: Collection[str]
) -> list[Reference]:
    """Return the encoders that a selection means for one modality, before `--exclude`.

    Args:
        config: The selection.
        registry: What is installed.
        modality: Which.
        names: Of all modalities of its dataset, which go before kinds of the same name.
    """
    general, specific = [], []
    for selector in config.encoder:
        name, pattern = split_selector(selector)
        if not name:
            general += _matching(registry, pattern, modality)
        elif name == modality.name or (name == modality.kind and name not in names):
            specific += registry.match("encoder", pattern, modality.kind)
    references = specific or general
    if not references:
        references = [
            registry.resolve("encoder", entry.ref, modality.kind)
            for entry in registry.entries("encoder")
            if isinstance(entry.spec, EncoderSpec) and modality.kind in entry.spec.kinds and entry.spec.in_all
        ]
        if config.grid == "smoke":
            references = references[:1]
    return references


def _matching(registry: Registry, pattern: str, modality: Modality) -> list[Reference]:
    """Encoders that an unqualified `-e PATTERN` means for this modality: those that accept its kind."""
    found = registry.match("encoder", pattern)
    return [ref for ref in found if isinstance(ref.entry.spec, EncoderSpec) and modality.kind in ref.entry.spec.kinds]


def split_selector(selector: str) -> tuple[str, str]:
    """Split `-e [MODALITY=]ENCODER[options]` into modality ("" when not given) and reference.

    >>> split_selector("image=cnn[width=32]")
    ('image', 'cnn[width=32]')
    >>> split_selector("cnn[width=32]")
    ('', 'cnn[width=32]')
    """
    head = selector.split("[", 1)[0]
    if "=" not in head:
        return "", selector
    name, _, pattern = selector.partition("=")
    return name.strip(), pattern.strip()


def nothing_selected(registry: Registry, role: Role) -> str:
    """Say that a selection leaves nothing of a role: nothing of it is installed, or nothing was meant."""
    return registry.lacks(role) or f"the selection matches no {role}; see `mmbench list {role}s`"


def is_named(config: RunConfig, role: Role, reference: Reference) -> bool:
    """Whether a selection asks for a part by its name, and not by a pattern such as "timm*" or by asking for all."""
    selectors = {
        "dataset": config.dataset,
        "encoder": [split_selector(selector)[1] for selector in config.encoder],
        "fusion": config.fusion,
        "objective": config.objective,
    }
    entry, target = reference.entry, reference.target
    names = {
        head + rest
        for head in (entry.spec.name, entry.ref)
        for rest in ((f":{target}", f"/{target}") if target else ("",))
    }
    return any(selector.split("[", 1)[0] in names or selector in names for selector in selectors.get(role, ()))


def is_excluded(label: str, patterns: Sequence[str], modality: str = "") -> bool:
    """Whether `--exclude` names this part, as "gated", "vit*" or "image=vit*"."""
    for pattern in patterns:
        name, wanted = split_selector(pattern)
        if name in ("", modality) and (fnmatch.fnmatchcase(label, wanted) or label.split("[")[0] == wanted):
            return True
    return False
