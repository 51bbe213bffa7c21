"""What the faults cost, fault by fault: shown when the tests have ended."""

from dataclasses import dataclass

import pytest


@dataclass
class Row:
    """What one fault cost with one store.

    Attributes:
        runs: People whose refresh it met.
        losses: Those who have to consent again.
        expected: How many of them had to be lost, since Zoom's answer was in the memory of the killed process alone.
        failed: Calls that failed until everything was settled.
    """

    runs: int = 0
    losses: int = 0
    expected: int = 0
    failed: int = 0


class Table:
    """Rows by fault and store.

    Attributes:
        notes: Sentences below it.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self.notes: list[str] = []

    def row(self, fault: str, kept: str) -> Row:
        """The row of a fault with a store; made if it is not there."""
        return self._rows.setdefault((fault, kept), Row())

    def lines(self) -> list[str]:
        """The table as text; nothing if no test wrote to it."""
        if not self._rows:
            return self.notes
        width = max(len(fault) for fault, _ in self._rows)
        head = f"{'fault':{width}}  {'store':7}  runs  losses  expected  failed calls"
        return [
            head,
            *(
                f"{fault:{width}}  {kept:7}  {row.runs:4}  {row.losses:6}  {row.expected:8}  {row.failed:12}"
                for (fault, kept), row in self._rows.items()
            ),
            *self.notes,
        ]


TABLE = pytest.StashKey[Table]()
