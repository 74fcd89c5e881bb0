"""What the cache keeps of a dataset as a whole: its index and its data card, each under a key with a version."""

from __future__ import annotations

#: Bumped when the index of unchanged data would hold something else.
INDEX_VERSION = 4
#: Bumped when the card of an unchanged index would say something else.
CARD_VERSION = 1


def index_key(key: str) -> str:
    """Return where the cache keeps the index of the dataset with the content key `key`."""
    return f"index/{INDEX_VERSION}/{key}"


def card_key(key: str) -> str:
    """Return where the cache keeps the data card of the dataset with the content key `key`."""
    return f"card/{INDEX_VERSION}.{CARD_VERSION}/{key}"
