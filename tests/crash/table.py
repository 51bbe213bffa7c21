"""Table of lost tokens and failed calls for each fault. The table is printed after the tests."""

from dataclasses import dataclass

import pytest


@dataclass
class Row:
    """The test results for one fault with one kind of store.

    Attributes:
        runs: Number of users whose operations the fault interrupted.
        losses: Number of users who must consent again.
        expected: Number of losses that cannot be avoided, because Zoom's response was only in the memory of the killed process.
        failed: Number of calls that failed while the connections were recovering.
    """

    runs: int = 0
    losses: int = 0
    expected: int = 0
    failed: int = 0


class Table:
    """A table with a row for each fault and kind of store.

    Attributes:
        notes: Sentences printed below the table.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self.notes: list[str] = []

    def row(self, fault: str, store: str) -> Row:
        """Return the row of a fault with a kind of store, creating it if needed."""
        return self._rows.setdefault((fault, store), Row())

    def lines(self) -> list[str]:
        """Return the lines of the table; without rows, return only the notes."""
        if not self._rows:
            return self.notes
        width = max(len(fault) for fault, _ in self._rows)
        head = f"{'fault':{width}}  {'store':7}  runs  losses  expected  failed calls"
        return [
            head,
            *(
                f"{fault:{width}}  {store:7}  {row.runs:4}  {row.losses:6}  {row.expected:8}  {row.failed:12}"
                for (fault, store), row in self._rows.items()
            ),
            *self.notes,
        ]


TABLE = pytest.StashKey[Table]()
