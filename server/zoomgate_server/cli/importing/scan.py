"""First pass over an import file: a summary, and an index of the newest row of each user."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
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
CREATE TABLE rows (user BLOB, updated REAL, number INTEGER, PRIMARY KEY (user, updated, number)) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Scan:
    """A summary of a file, and an index of its rows.

    The index is stored in an unnamed temporary file, so memory use does not grow with the number of rows. The file contains digests of the
    addresses instead of the addresses.

    Attributes:
        digest: The SHA-256 of the file, in hex.
        rows: The number of rows, including invalid ones.
        superseded: The number of valid rows that are older than another row of the same user.
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

    def newest(self, row: Row) -> int:
        """Return the number of the newest row of a row's user. Of rows with the same time, the last one is the newest."""
        query = "SELECT number FROM rows WHERE user = ? ORDER BY updated DESC, number DESC LIMIT 1"
        (number,) = self.index.execute(query, (_digest(row),)).fetchone()
        return int(number)


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
        index.executemany("INSERT INTO rows VALUES (?, ?, ?)", _index_entries(source, scan, now))
        if not scan.rows:
            raise ImportFileError("the file contains no rows; export it again")
        (scan.superseded,) = index.execute("SELECT COUNT(*) - COUNT(DISTINCT user) FROM rows").fetchone()
        yield scan


def _index_entries(source: Source, scan: Scan, now: float) -> Iterator[tuple[bytes, float, int]]:
    """Yield the index entries of valid rows, and count all rows."""
    for row in source.read():
        scan.rows += 1
        if isinstance(row, Row):
            scan.invalid_times += row.has_invalid_time
            scan.valid_access_tokens += bool(row.access_token) and row.access_expire_at > now
            yield _digest(row), row.updated_at, row.number
        else:
            scan.rejected += 1
            if len(scan.invalid_rows) < MAX_LISTED:
                scan.invalid_rows.append(row)


def _digest(row: Row) -> bytes:
    return hashlib.blake2b(row.user_email.encode(), digest_size=16).digest()
