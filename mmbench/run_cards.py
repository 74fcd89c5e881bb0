"""The data cards of a plan and of a run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmbench.cache import ArrayCache
from mmbench.data_card import NO_CARD, DataCard, cached_card
from mmbench.data_versions import index_key
from mmbench.durable import write_atomically
from mmbench.encoding import parse_json
from mmbench.errors import DataError, MmbenchError
from mmbench.redaction import short_paths
from mmbench.selection import encoder_references
from mmbench.store import DATA_CARDS_FILE

if TYPE_CHECKING:
    from mmbench.parts import DatasetPart
    from mmbench.plan import Plan


def plan_cards(plan: Plan, *, cached_only: bool = False) -> dict[str, DataCard]:
    """Return the data cards of a plan by the label of the dataset.

    People's own data are read for it, headers of files alone; other datasets have a card once a cell read them.

    Args:
        plan: The selection.
        cached_only: Open nothing.

    Raises:
        DataError: data that the plan names cannot be used.
    """
    found = {}
    cache_dir, data_dir = Path(plan.runtime["cache_dir"]), Path(plan.runtime["data_dir"])
    for part in plan.datasets:
        from_cache = cached_only or not part.reference.target
        card = card_of(part, cache_dir=cache_dir, data_dir=data_dir, cached_only=from_cache)
        if card is None:
            continue
        if not cached_only:
            _check(card, plan)
        found[part.label] = card.with_readings(_encoders(plan, part))
    return found


def card_of(part: DatasetPart, *, cache_dir: Path, data_dir: Path, cached_only: bool = False) -> DataCard | None:
    """Return the card of a chosen dataset, or None where it cannot be had; only the first time is it made.

    Args:
        part: The dataset.
        cache_dir, data_dir: Where arrays and downloaded data lie.
        cached_only: Open nothing: there is a card only where a cell, or an earlier card, read the data.

    Raises:
        DataError: the data cannot be used.
    """
    found = cached_card(part, ArrayCache(cache_dir))
    if found is not None or (cached_only and not (cache_dir / index_key(part.key)).is_dir()):
        return found
    from mmbench.card_making import read_card  # with NumPy, which commands without a new card do without

    return read_card(part, cache_dir=cache_dir, data_dir=data_dir, cached_only=cached_only)


def write_cards(folder: Path, cards: Mapping[str, DataCard]) -> None:
    """Write the data cards of a run beside those of datasets that an earlier plan had.

    Raises:
        OSError: they cannot be written.
    """
    known = {card.name: card for card in read_cards(folder)}
    shortened = [replace(card, notes=tuple(map(short_paths, card.notes))) for card in {**known, **cards}.values()]
    data = [card.to_json() for card in shortened]
    write_atomically(folder / DATA_CARDS_FILE, [json.dumps(data, indent=1), "\n"])


def read_cards(folder: Path) -> tuple[DataCard, ...]:
    """Return the data cards of a run; those that are damaged or not there are left out."""
    try:
        data = parse_json((folder / DATA_CARDS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    try:
        return tuple(DataCard.from_json(item) for item in data)
    except NO_CARD:
        return ()


def _check(card: DataCard, plan: Plan) -> None:
    """Raise where a modality that the plan reads cannot be used."""
    for modality in card.modalities:
        if modality.fault and (not plan.config.modality or modality.name in plan.config.modality):
            raise DataError(f"{card.name}: {modality.fault}")


def _encoders(plan: Plan, part: DatasetPart) -> Iterable[tuple[str, str, Mapping[str, object]]]:
    """Yield modality, name and options of each encoder that the plan selects for a dataset."""
    names = {modality.name for modality in part.info.modalities}
    for modality in part.info.modalities:
        try:
            references = encoder_references(plan.config, plan.registry, modality, names)
        except MmbenchError:
            continue
        for reference in references:
            yield modality.name, reference.entry.spec.name, reference.options
