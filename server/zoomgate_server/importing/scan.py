"""First pass over an import file: the number of rows, and the rows superseded by newer rows of the same user."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from zoomgate_server.importing.errors import ImportFileError
from zoomgate_server.importing.formats import Source
from zoomgate_server.importing.rows import InvalidRow, Row
from zoomgate_server.importing.text import reading

_BATCH = 1000
_CACHE_KIB = 4096
_SUPERSEDED = """
SELECT number, newest FROM (
  SELECT number, FIRST_VALUE(number) OVER (PARTITION BY user ORDER BY updated DESC, number DESC) AS newest
  FROM seen WHERE user IN (SELECT user FROM seen GROUP BY user HAVING COUNT(*) > 1)
) WHERE number <> newest ORDER BY number
"""


@dataclass(slots=True)
class Scan:
    """A summary of a file.

    Attributes:
        digest: The SHA-256 of the file, in hex.
        rows: The number of rows, including invalid ones.
        invalid_times: The number of rows with a time that cannot be parsed.
        counts: The number of rows by category: `usable`, `superseded`, `rejected`.
        invalid_rows: The first invalid rows.
    """

    digest: str
    rows: int = 0
    valid_access_tokens: int = 0
    invalid_times: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    invalid_rows: list[InvalidRow] = field(default_factory=list)


class DuplicateIndex:
    """An index of rows that are superseded by newer rows of the same user.

    The index is stored in an unnamed temporary file, so memory use does not grow with the number of rows. The file contains digests of the
    addresses instead of the addresses.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("")
        self._table.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA temp_store = FILE")
        self._table.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY, user BLOB, updated REAL)")
        self._batch: list[tuple[int, bytes, float]] = []

    def add(self, row: Row) -> None:
        """Add a row to the index."""
        user = hashlib.blake2b(row.user_email.encode(), digest_size=16).digest()
        self._batch.append((row.number, user, row.updated_at))
        if len(self._batch) == _BATCH:
            self._flush()

    def finish(self) -> int:
        """Find the superseded rows and return their number."""
        self._flush()
        self._table.execute(f"CREATE TABLE superseded AS {_SUPERSEDED}")
        (count,) = self._table.execute("SELECT COUNT(*) FROM superseded").fetchone()
        return int(count)

    def rows(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of superseded rows in ascending order, each with the number of the user's newest row."""
        return iter(self._table.execute("SELECT number, newest FROM superseded ORDER BY rowid"))

    def close(self) -> None:
        """Delete the index."""
        self._table.close()

    def _flush(self) -> None:
        self._table.executemany("INSERT INTO seen VALUES (?, ?, ?)", self._batch)
        self._batch.clear()


def scan(source: Source, duplicates: DuplicateIndex, now: float, max_invalid_rows: int) -> Scan:
    """Read a file, add every valid row to the index, and return a summary.

    Raises:
        ImportFileError: The file cannot be imported.
    """
    if not source.path.is_file():
        raise ImportFileError(
            "the file is a pipe or a device, which cannot be read twice; save it as a regular file with mode 0600"
        )
    with reading(), source.path.open("rb") as file:
        summary = Scan(hashlib.file_digest(file, "sha256").hexdigest())
    for row in source.read():
        summary.rows += 1
        if isinstance(row, InvalidRow):
            summary.counts["rejected"] += 1
            if len(summary.invalid_rows) < max_invalid_rows:
                summary.invalid_rows.append(row)
        else:
            duplicates.add(row)
            summary.counts["usable"] += 1
            summary.invalid_times += row.has_invalid_time
            summary.valid_access_tokens += bool(row.access_token) and row.access_expire_at > now
    if not summary.rows:
        raise ImportFileError("the file contains no rows; export it again")
    summary.counts["superseded"] = duplicates.finish()
    summary.counts["usable"] -= summary.counts["superseded"]
    return summary
