"""Options of datasets whose other options name modalities: read from words, or what is wrong with them is said."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from mmbench.errors import UsageError
from mmbench_datasets.cells import number
from mmbench_datasets.image import FULL_RANGE, PixelRange

DEFAULT_MAX_SECONDS = 600.0


def check_misspelt(dataset: str, declared: Iterable[str], reserved: Collection[str]) -> None:
    """Check that no option that would be a modality is a reserved one misspelled: "lable" would leak the label.

    Names that are words of their own, such as "text" and "speed", are modalities, however close they are to an option.

    Args:
        dataset: Its name, for the message.
        declared: The options that would be modalities.
        reserved: The other options.

    Raises:
        UsageError: one has the letters of a reserved name in another order, doubled, or with an "s" at the end.
    """
    # "item" is a word of its own, and has the letters of "time".
    by_letters = {"".join(sorted(name)): name for name in reserved if name != "time"}
    for name in declared:
        single = re.sub(r"(.)\1+", r"\1", name)
        meant = by_letters.get("".join(sorted(name))) or (single if single in reserved else "")
        if not meant and name.removesuffix("s") in ("label", "split", "group", "id"):
            meant = name.removesuffix("s")
        if meant:
            raise UsageError(f"{dataset} has no option {name!r}. Did you mean {meant!r}?")


def read_seed(known: Mapping[str, str]) -> int:
    """Return the option `seed`, 0 where it is not given.

    Raises:
        UsageError: it is no whole number.
    """
    try:
        return int(known.get("seed", "0"))
    except ValueError:
        raise UsageError(f"seed must be a whole number, got {known['seed']!r}") from None


def read_max_seconds(known: Mapping[str, str]) -> float:
    """Return the option `max_seconds`, in seconds, `DEFAULT_MAX_SECONDS` where it is not given.

    Raises:
        UsageError: it is no number above 0.
    """
    max_seconds = number(known.get("max_seconds", str(DEFAULT_MAX_SECONDS)))
    if max_seconds is None or max_seconds <= 0:
        raise UsageError(f"max_seconds must be a number above 0, got {known['max_seconds']!r}")
    return max_seconds


def read_pixel_range(known: Mapping[str, str]) -> PixelRange | None:
    """Return the option `pixel_range`: "full", or "LOW..HIGH"; None where it is not given, or "auto".

    Raises:
        UsageError: it is none of these.
    """
    value = known.get("pixel_range", "auto")
    if value in ("auto", "full"):
        return FULL_RANGE if value == "full" else None
    low, _, high = value.partition("..")
    bounds = number(low), number(high)
    if bounds[0] is None or bounds[1] is None or bounds[0] >= bounds[1]:
        raise UsageError(
            f"pixel_range must be auto, full or LOW..HIGH, such as 0..4095 for 12 bits; got {known['pixel_range']!r}"
        )
    return PixelRange(bounds[0], bounds[1])
