"""What a check is, what it finds, and the list that every check enters by its decorator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mmbench.spec import Role

Level: TypeAlias = Literal["api", "smoke", "full"]
Status: TypeAlias = Literal["pass", "fail", "warn", "skip"]
Owner: TypeAlias = Role | Literal["plugin"]
LEVELS: tuple[Level, ...] = get_args(Level)
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check said of one part.

    Attributes:
        check: Its name, "fusion.every-parameter-trains".
        subject: What was checked: "mmbench-fusion/gated", or a plugin's name.
        status: Only "fail" is a fault; "warn" is worth knowing, "skip" says in `found` why nothing was checked.
        promise: What every such part promises, in one sentence.
        expected, found: What should be, and what is; empty when the check passed without a remark.
        mend: What to do about it.
        time_s: How long it took.
    """

    check: str
    subject: str
    status: Status
    promise: str
    expected: str = ""
    found: str = ""
    mend: str = ""
    time_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.check} of {self.subject}: {self.status}", f"  promise   {self.promise}"]
        lines += [
            f"  {name:<9} {text}"
            for name, text in (("expected", self.expected), ("found", self.found), ("mend", self.mend))
            if text
        ]
        return "\n".join(lines)


class Finding(Exception):  # noqa: N818  (a result that ends a check early, not always a fault)
    """Ends a check with something to say.

    Args:
        found: What is there.
        expected: What should be there; the check's promise when left out.
        mend: What to do; the check's own advice when left out.
    """

    status: Status

    def __init__(self, found: str, *, expected: str = "", mend: str = "") -> None:
        super().__init__(found)
        self.found, self.expected, self.mend = found, expected, mend


class Fault(Finding):
    """The promise is broken."""

    status = "fail"


class Remark(Finding):
    """Nothing is broken, but its author should know."""

    status = "warn"


class NotChecked(Finding):
    """The check does not apply, or cannot be done here."""

    status = "skip"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise and the function that tests it.

    Attributes:
        owner: What it is checked of.
        slug: The second half of its name.
        level: The lowest level that includes it.
        promise: One sentence.
        mend: What to do when it is broken.
        needs: Slugs of checks whose failure would only be found again by this one.
        run: Takes the subject; returns nothing, or raises a `Finding`.
    """

    owner: Owner
    slug: str
    level: Level
    promise: str
    mend: str
    needs: tuple[str, ...]
    run: Callable[[Any], None]

    @property
    def name(self) -> str:
        """As it is reported."""
        return f"{self.owner}.{self.slug}"


#: Every check, in the order in which they run.
CHECKS: list[Check] = []


def check(
    slug: str,
    *owners: Owner,
    promise: str,
    mend: str,
    level: Level = "smoke",
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Enter a function into the list of checks, once for each owner."""

    def enter(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS.extend(
            Check(owner=owner, slug=slug, level=level, promise=promise, mend=mend, needs=needs, run=function)
            for owner in owners
        )
        return function

    return enter


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; "" where it has none.

    >>> first_line(AssertionError())
    ''
    """
    return str(error).strip().partition("\n")[0]


def covers(level: Level, needed: Level) -> bool:
    """Whether a level includes what is done from `needed` on.

    >>> covers("smoke", "api"), covers("smoke", "full")
    (True, False)
    """
    return LEVELS.index(level) >= LEVELS.index(needed)
