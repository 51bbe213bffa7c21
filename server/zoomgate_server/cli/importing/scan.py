"""First pass over an import file: a summary, and the rows superseded by newer rows of the same user."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from zoomgate_server.cli.importing.formats import Source
from zoomgate_server.cli.importing.rows import InvalidRow, Row
from zoomgate_server.cli.importing.text import ImportFileError, reading

MAX_LISTED = 10
"""Maximum number of invalid rows that a summary lists."""

_SCHEMA = """
PRAGMA cache_size = -4096;
PRAGMA journal_mode = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE seen (number INTEGER PRIMARY KEY, user BLOB, updated REAL);
"""
_SUPERSEDED = """
CREATE TABLE superseded AS SELECT number, newest FROM (
  SELECT number, FIRST_VALUE(number) OVER (PARTITION BY user ORDER BY updated DESC, number DESC) AS newest
  FROM seen WHERE user IN (SELECT user FROM seen GROUP BY user HAVING COUNT(*) > 1)
) WHERE number <> newest ORDER BY number
"""


@dataclass(slots=True)
class Scan:
    """A summary of a file, and an index of its superseded rows.

    The index is stored in an unnamed temporary file, so memory use does not grow with the number of rows. The file contains digests of the
    addresses instead of the addresses.

    Attributes:
        digest: The SHA-256 of the file, in hex.
        rows: The number of rows, including invalid ones.
        invalid_times: The number of rows with a time that cannot be parsed.
        invalid_rows: The first invalid rows.
    """

    index: sqlite3.Connection
    digest: str
    rows: int = 0
    rejected: int = 0
    superseded: int = 0
    valid_access_tokens: int = 0
    invalid_times: int = 0
    invalid_rows: list[InvalidRow] = field(default_factory=list)

    @property
    def usable(self) -> int:
        """The number of rows to import."""
        return self.rows - self.rejected - self.superseded

    def superseded_rows(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of superseded rows in ascending order, each with the number of the user's newest row."""
        return iter(self.index.execute("SELECT number, newest FROM superseded ORDER BY rowid"))

    def add(self, rows: Iterable[Row | InvalidRow], now: float) -> None:
        """Summarize and index the rows."""
        self.index.executemany("INSERT INTO seen VALUES (?, ?, ?)", self._index_entries(rows, now))
        self.index.execute(_SUPERSEDED)
        (self.superseded,) = self.index.execute("SELECT COUNT(*) FROM superseded").fetchone()

    def _index_entries(
        self, rows: Iterable[Row | InvalidRow], now: float
    ) -> Iterator[tuple[int, bytes, float]]:
        for row in rows:
            self.rows += 1
            if isinstance(row, InvalidRow):
                self.rejected += 1
                if len(self.invalid_rows) < MAX_LISTED:
                    self.invalid_rows.append(row)
                continue
            self.invalid_times += row.has_invalid_time
            self.valid_access_tokens += bool(row.access_token) and row.access_expire_at > now
            yield (
                row.number,
                hashlib.blake2b(row.user_email.encode(), digest_size=16).digest(),
                row.updated_at,
            )


@contextlib.contextmanager
def scanned(source: Source, now: float) -> Iterator[Scan]:
    """Read a file, and yield its summary; delete the index afterwards.

    Raises:
        ImportFileError: The file cannot be imported.
    """
    if not source.path.is_file():
        raise ImportFileError(
            "the file is a pipe or a device, which cannot be read twice; save it as a regular file with mode 0600"
        )
    with reading(), source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.closing(sqlite3.connect("")) as index:
        index.executescript(_SCHEMA)
        scan = Scan(index, digest)
        scan.add(source.read(), now)
        if not scan.rows:
            raise ImportFileError("the file contains no rows; export it again")
        yield scan
