"""What is wrong with single rows of a table, collected so that one message names everything that must be corrected."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mmbench.errors import DataError

MAX_LISTED = 20


class Faults:
    """Rows that cannot be used, each with the reasons."""

    def __init__(self) -> None:
        self._reasons: dict[int, list[str]] = {}

    def add(self, row: int, message: str) -> None:
        """Note a fault.

        Args:
            row: Which row of the table.
            message: Where the row stands, what is wrong, and what to do.
        """
        reasons = self._reasons.setdefault(row, [])
        if message not in reasons:
            reasons.append(message)

    def __bool__(self) -> bool:
        return bool(self._reasons)

    @property
    def rows(self) -> Collection[int]:
        """The rows with a fault."""
        return self._reasons.keys()

    @property
    def messages(self) -> list[str]:
        """The reasons, in the order of the rows."""
        return [message for row in sorted(self._reasons) for message in self._reasons[row]]

    def error(self, name: str, rows: Sequence[str] = (), *, can_drop: bool = True) -> DataError:
        """Return the error that lists the faults, at most `MAX_LISTED` of them.

        Args:
            name: Of the table's file.
            rows: Faults of rows that could not be read at all, which come first.
            can_drop: Whether rows can be left out by an option.
        """
        messages = [*rows, *self.messages]
        hint = ", or leave such rows out with [drop=bad]" if can_drop else ""
        if len(messages) == 1:
            return DataError(f"{messages[0]}{hint}")
        listed = "\n".join(f"  {message}" for message in messages[:MAX_LISTED])
        more = len(messages) - MAX_LISTED
        rest = f"\n  and {more:,} more" if more > 0 else ""
        num_rows = len(rows) + len(self._reasons)
        return DataError(
            f"{name} has {len(messages):,} faults in {num_rows:,} rows; correct them{hint}:\n{listed}{rest}"
        )
