"""One call of `mmbench show`: everything known of a part, and for a dataset its data card, also as Croissant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.config import cache_dir, data_dir, load_config
from mmbench.errors import MmbenchError, UsageError
from mmbench.parts import DatasetPart, make_dataset_part
from mmbench.registry import Registry
from mmbench.run_cards import card_of
from mmbench.selection import dataset_references
from mmbench.spec import DatasetSpec, EncoderSpec
from mmbench.views import console, entry_json, find_entries, print_cards, print_entries

if TYPE_CHECKING:
    from mmbench.data_card import DataCard


def show_json(registry: Registry, name: str, *, as_croissant: bool) -> Any:
    """Return the parts of a name, or the data card of a dataset's reference, as plain JSON.

    Raises:
        UsageError: there is none of that name, or it has no card and Croissant was asked for.
    """
    from mmbench.croissant import croissant

    entries, part = _find(registry, name)
    if entries and not as_croissant:
        return [entry_json(entry) for entry in entries]
    card = _card(registry, part) if part is not None else None
    if card is None or part is None:
        raise UsageError(f"{name!r} is no dataset that can be read here, so there is no data card of it")
    if not as_croissant:
        return card.to_json()
    return croissant(card, target=part.reference.target, options=part.reference.options)


def print_part(registry: Registry, name: str) -> None:
    """Print everything known of a name: descriptors, and the data card of a dataset.

    Raises:
        UsageError: there is none of that name.
        DataError: the dataset cannot be used.
    """
    entries, part = _find(registry, name)
    print_entries(entries)
    if part is None:
        return
    try:
        card = _card(registry, part)
    except MmbenchError as error:
        if not entries:
            raise
        console().print(f"no data card: {error}")
        return
    print_cards(console(), [card] if card else [])


def _find(registry: Registry, name: str) -> tuple[list[Any], DatasetPart | None]:
    """Return the entries of a name, and the dataset that it means as a reference."""
    try:
        entries = find_entries(registry, name)
    except UsageError:
        if not any(letter in name for letter in ":[/.") and not Path(name).exists():
            raise
        return [], _part(registry, name)
    datasets = [entry for entry in entries if isinstance(entry.spec, DatasetSpec) and entry.spec.target != "required"]
    if not datasets:
        return entries, None
    try:
        return entries, _part(registry, name)
    except MmbenchError:
        return entries, None


def _part(registry: Registry, name: str) -> DatasetPart:
    config = load_config({"dataset": [name]})
    found = dataset_references(config, registry)
    if len(found) != 1:
        raise UsageError(f"{name!r} means {len(found)} datasets; name one")
    return make_dataset_part(config, registry, found[0][1])


def _card(registry: Registry, part: DatasetPart) -> DataCard | None:
    card = card_of(part, cache_dir=cache_dir(), data_dir=data_dir())
    if card is None:
        return None
    encoders = [
        (modality.name, entry.spec.name, entry.spec.defaults)
        for modality in part.info.modalities
        for entry in registry.entries("encoder")
        if isinstance(entry.spec, EncoderSpec) and entry.spec.in_all and modality.kind in entry.spec.kinds
    ]
    return card.with_readings(encoders)
