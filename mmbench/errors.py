"""Every error that mmbench raises on purpose; each says what was asked, what is there and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

#: Errors that a message lists one by one.
MOST_ERRORS = 20


class MmbenchError(Exception):
    """A mistake that a person can mend; the command line prints it without a traceback.

    Attributes:
        exit_code: What the process exits with when nothing handles the error.
    """

    exit_code = 2


class UsageError(MmbenchError):
    """A flag, a reference, an option or a run file that cannot be used as written."""


class EmptySelection(MmbenchError):  # noqa: N818  (what is empty is the selection, and nothing is wrong with it)
    """The selection is well formed and matches nothing that could run."""

    exit_code = 3


class PluginError(MmbenchError):
    """A plugin broke its promise: a bad descriptor, an unknown hook, a clash of names."""

    exit_code = 4


class SpecError(PluginError, ValueError):
    """A descriptor that cannot be true."""


class DataError(MmbenchError):
    """Data that cannot be used: a missing file, a duplicate id, a NaN label, an empty split."""


class DiskError(MmbenchError):
    """A folder that cannot be written as needed: the disk is full, read-only or failing."""


class OutputError(MmbenchError):
    """Standard output that cannot be written."""

    exit_code = 1


class DownloadError(MmbenchError):
    """A file that cannot be fetched: no answer, another size or hash than promised, an address that is not allowed."""

    exit_code = 1


class ContractError(PluginError):
    """Code of a plugin did something other than its descriptor or the plugin API promises."""


class Unavailable(MmbenchError):  # noqa: N818  (a state of the world, as in hook signatures, not a fault)
    """Weights, data or a package that a factory needs are not on this machine.

    Plugins raise it with a sentence that says what is missing and what to do about it.
    """

    exit_code = 1


class Diverged(MmbenchError):  # noqa: N818  (the status it stands for is called 'diverged')
    """Training reached a loss that is not finite."""


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return " Did you mean 'x'?" for the closest known names, or "" when nothing is close.

    Args:
        name: What was asked for.
        known: What is there.
        prefix: What every known name begins with and what makes none of them more alike.

    >>> did_you_mean("resnet19", ["resnet18", "vgg11"])
    " Did you mean 'resnet18'?"
    """
    lowered = {candidate.removeprefix(prefix).lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.removeprefix(prefix).lower(), lowered, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(lowered[match]) for match in close)}?" if close else ""


def error_list(headline: str, errors: Sequence[str]) -> str:
    """Return one message for several errors: the error itself, or a headline and the first `MOST_ERRORS`."""
    if len(errors) == 1:
        return errors[0]
    rest = f"\n  … and {len(errors) - MOST_ERRORS:,} more" if len(errors) > MOST_ERRORS else ""
    return f"{headline}:" + "".join(f"\n  {error}" for error in errors[:MOST_ERRORS]) + rest
