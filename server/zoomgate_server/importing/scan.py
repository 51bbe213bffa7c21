"""The first look at a file: how many rows it has, and which of them give way to a newer one of the same person."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from zoomgate_server.importing.formats import Source
from zoomgate_server.importing.problems import FileProblem
from zoomgate_server.importing.rows import InvalidRow, Row

_BATCH = 1000
_CACHE_KIB = 4096
_GIVING_WAY = """
SELECT number, winner FROM (
  SELECT number, FIRST_VALUE(number) OVER (PARTITION BY user ORDER BY updated DESC, number DESC) AS winner
  FROM seen WHERE user IN (SELECT user FROM seen GROUP BY user HAVING COUNT(*) > 1)
) WHERE number <> winner ORDER BY number
"""


@dataclass(slots=True)
class Scan:
    """What a file holds.

    Attributes:
        digest: SHA-256 of the file, in hex.
        rows: How many there are, those with a flaw included.
        unspent: How many have an access token that is valid still.
        misread: How many have a time that cannot be read.
        counts: How many there are of a kind: `usable`, `superseded`, `refused`.
        flaws: The first rows that cannot be used.
    """

    digest: str
    rows: int = 0
    unspent: int = 0
    misread: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    flaws: list[InvalidRow] = field(default_factory=list)


class DuplicateIndex:
    """Which rows give way to a newer one. Kept on disk, in a file that has no name: a row takes no memory.

    Of a person there is a digest in it and no address.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("")
        self._table.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA temp_store = FILE")
        self._table.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY, user BLOB, updated REAL)")
        self._batch: list[tuple[int, bytes, float]] = []

    def add(self, row: Row) -> None:
        """Take a row into account."""
        user = hashlib.blake2b(row.user_email.encode(), digest_size=16).digest()
        self._batch.append((row.number, user, row.updated_at))
        if len(self._batch) == _BATCH:
            self._flush()

    def finish(self) -> int:
        """Compare all rows; gives how many give way."""
        self._flush()
        self._table.execute(f"CREATE TABLE giving_way AS {_GIVING_WAY}")
        (count,) = self._table.execute("SELECT COUNT(*) FROM giving_way").fetchone()
        return int(count)

    def rows(self) -> Iterator[tuple[int, int]]:
        """Give the numbers of the rows that give way, in order, each with the number of the row that it gives way to."""
        return iter(self._table.execute("SELECT number, winner FROM giving_way ORDER BY rowid"))

    def close(self) -> None:
        """Forget everything."""
        self._table.close()

    def _flush(self) -> None:
        self._table.executemany("INSERT INTO seen VALUES (?, ?, ?)", self._batch)
        self._batch.clear()


def scan(source: Source, giving_way: DuplicateIndex, now: float, shown: int) -> Scan:
    """Read a file once.

    Args:
        source: The file.
        giving_way: Told of every row.
        now: Seconds since 1970.
        shown: How many flaws to keep.

    Raises:
        FileProblem: It cannot be imported as a whole.
    """
    if not source.path.is_file():
        raise FileProblem(
            "It is a pipe or a device, and is read more than once: save it as a file with mode 0600 first"
        )
    found = Scan(_digest(source.path))
    for row in source.read():
        found.rows += 1
        if isinstance(row, InvalidRow):
            found.counts["refused"] += 1
            if len(found.flaws) < shown:
                found.flaws.append(row)
        else:
            giving_way.add(row)
            found.counts["usable"] += 1
            found.misread += row.misread
            found.unspent += bool(row.access_token) and row.access_expire_at > now
    if not found.rows:
        raise FileProblem("There is no row in the file: export it again")
    found.counts["superseded"] = giving_way.finish()
    found.counts["usable"] -= found.counts["superseded"]
    return found


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileProblem(f"The file cannot be read ({error.strerror}): name the export") from None
