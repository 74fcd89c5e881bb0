"""Shares of train, val and test, as in [split=70/15/15] or [split=80/20]."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmbench.errors import UsageError

_SHARES = re.compile(r"\s*\d+(\.\d*)?(\s*/\s*\d+(\.\d*)?)+\s*")
#: Of train, where val has no share of its own.
VAL_OF_TRAIN = 0.15


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much of the rows val and test have; the rest is train.

    Attributes:
        val, test: Between 0 and 1.
        text: As people write them.
    """

    val: float = 0.15
    test: float = 0.15
    text: str = "70/15/15"


def parse_shares(text: str) -> Shares | None:
    """Return the shares that an option gives, or None where it is no list of numbers with slashes.

    Three numbers are train, val and test, two are train and test, of whose train 15 % is val. They are percentages or
    parts of any sum.

    >>> parse_shares("6/2/2"), parse_shares("fold")
    (Shares(val=0.2, test=0.2, text='6/2/2'), None)
    >>> round(parse_shares("80/20").val, 4)
    0.12

    Raises:
        UsageError: there are more than three numbers, or one is zero.
    """
    if not _SHARES.fullmatch(text):
        return None
    parts = [float(part) for part in text.split("/")]
    if len(parts) > 3 or min(parts) <= 0:
        raise UsageError(
            f"split={text}: write the shares of train, val and test, each above 0, such as [split=70/15/15], or those "
            "of train and test, such as [split=80/20]"
        )
    total = sum(parts)
    test = parts[-1] / total
    val = parts[1] / total if len(parts) == 3 else VAL_OF_TRAIN * (1 - test)
    return Shares(val=val, test=test, text="/".join(part.strip() for part in text.split("/")))
