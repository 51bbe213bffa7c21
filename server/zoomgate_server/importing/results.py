"""What became of each row: a file to read afterwards, and to go on with after an interruption.

It has a line a row, in the order of the rows, so that its end says how far the import came. A row that is left undone has one, too, and
gets another one once it is done.
"""

import contextlib
import fcntl
import os
import stat
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from zoomgate_server.importing.problems import ResultsProblem

_LONGEST = 64 * 1024
_ROW = b'{"row":'


class RowStatus(StrEnum):
    """What became of a row.

    Attributes:
        STORED: The person is connected.
        SKIPPED: The person is connected already, or was disconnected here.
        SUPERSEDED: Another row of the same person is newer.
        REFUSED: The row is damaged, or its tokens are not the person's.
        CONSENT: Zoom refuses its refresh token: the person has to consent.
        UNDONE: Zoom or the store did not say; the next run tries again.
    """

    STORED = "stored"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"
    REFUSED = "refused"
    CONSENT = "consent"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row, without anything secret.

    Attributes:
        row: Which one, from 1.
        line: Where it begins.
        user: Its address, or empty if that is none.
        verdict: What became of it.
        reason: Why, or empty.
    """

    row: int
    line: int
    user: str
    status: RowStatus
    reason: str = ""


class Results:
    """The file of results. Use `open`.

    Attributes:
        counts: How many rows came to what, over all runs.
        noted: The last row that has a line; all before it have one as well.
        undone: Rows that were left undone.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.counts: Counter[str] = Counter()
        self.noted = 0
        self.undone: set[int] = set()

    @classmethod
    def open(cls, path: Path, about: dict[str, Any]) -> "Results":
        """Make the file with mode 0600, or go on with one of the same import.

        Args:
            path: Where.
            about: What says which import it is.

        Raises:
            ResultsProblem: It is in use, of another import, or cannot be written.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _not_writable(path, error) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ResultsProblem(f"{path} is a pipe or a device: name a file with --results")
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(os.fdopen(descriptor, "r+b", buffering=0))
            results = cls(path, file)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                results._read(about)
            except BlockingIOError:
                raise ResultsProblem(
                    f"Another import writes {path} just now: wait until it has ended"
                ) from None
            except OSError as error:
                raise _not_writable(path, error) from None
            stack.pop_all()  # it stays open
        return results

    def add(self, result: Result) -> None:
        """Write a line. It is the system's then: killing this process does not take it back.

        Raises:
            ResultsProblem: It cannot be written any more.
        """
        self._write(
            {
                "row": result.row,
                "line": result.line,
                "user": result.user,
                "verdict": result.status,
                "reason": result.reason,
            }
        )
        self._count(result.row, result.status)

    def close(self) -> None:
        """Bring everything to the disk.

        Raises:
            ResultsProblem: That failed.
        """
        with self._file:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _not_writable(self._path, error) from None

    def _read(self, about: dict[str, Any]) -> None:
        """Find out how far it came, and cut off a line that was not written to its end. What is no file of results stays as it is."""
        whole = 0
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            while line := lines.readline(_LONGEST):
                if not line.endswith(b"\n"):
                    expected = _ROW if whole else _line(about)
                    if not expected.startswith(line[: len(expected)]):
                        raise self._foreign()
                    break
                try:
                    entry = orjson.loads(line)
                    if whole:
                        self._count(int(entry["row"]), RowStatus(entry["verdict"]))
                    elif entry != about:
                        raise self._of_another_import() if entry.keys() == about.keys() else self._foreign()
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise self._foreign() from None
                whole += len(line)
        if whole == 0:
            os.fchmod(self._file.fileno(), 0o600)
        self._file.truncate(whole)
        self._file.seek(whole)
        if whole == 0:
            self._write(about)

    def _of_another_import(self) -> ResultsProblem:
        return ResultsProblem(
            f"{self._path} has the results of another file or of other options: name another place with --results, or delete it to"
            " begin anew"
        )

    def _foreign(self) -> ResultsProblem:
        return ResultsProblem(
            f"{self._path} has something else in it than results: name another place with --results"
        )

    def _count(self, row: int, verdict: RowStatus) -> None:
        if row <= self.noted:
            self.counts[RowStatus.UNDONE] -= 1
            self.undone.discard(row)
        self.noted = max(self.noted, row)
        self.counts[verdict] += 1
        if verdict is RowStatus.UNDONE:
            self.undone.add(row)

    def _write(self, entry: dict[str, Any]) -> None:
        rest = memoryview(_line(entry))
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise _not_writable(self._path, error) from None


def _line(entry: dict[str, Any]) -> bytes:
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def _not_writable(path: Path, error: OSError) -> ResultsProblem:
    return ResultsProblem(
        f"{path} cannot be written ({error.strerror}): see to that, or name another place with --results"
    )
