"""The results file, which reports the result of each row and allows an interrupted import to resume.

The file contains one line per row in the order of the rows, so the highest row number shows the progress of the import. An incomplete row
also has a line; when a later run imports the row again, a line is added, which then applies. With the option --replace, skipped rows are
imported again, too.
"""

import contextlib
import fcntl
import os
import stat
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from zoomgate_server.cli.importing.rows import InvalidRow, Row
from zoomgate_server.cli.output import FAILURE, USAGE

_MAX_LINE = 64 * 1024


class ResultsFileError(Exception):
    """An error of a results file. The message is one sentence for the operator."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RowStatus(StrEnum):
    """The status of a processed row; see docs/importing.md."""

    STORED = "stored"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"
    REAUTH_REQUIRED = "reauth_required"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of importing a row."""

    status: RowStatus
    reason: str = ""


class Results:
    """The results file; create instances with `open`.

    Attributes:
        counts: The number of rows by status, over all runs.
        last_row: The number of the last row with a result; all previous rows also have a result.
        to_retry: The numbers of rows with a result that must be imported again.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.counts: Counter[str] = Counter()
        self.last_row = 0
        self.to_retry: set[int] = set()
        self._repeatable: dict[int, RowStatus] = {}

    @classmethod
    def open(cls, path: Path, header: dict[str, Any], *, retry_skipped: bool = False) -> "Results":
        """Create the file with mode 0600, or open the file of the same import to append to it.

        Args:
            header: The first line of the file, which identifies the import.
            retry_skipped: Whether rows that were skipped must be imported again.

        Raises:
            ResultsFileError: The file is in use, belongs to a different import, or cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                results = cls(path, stack.enter_context(os.fdopen(descriptor, "r+b", buffering=0)))
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ResultsFileError(f"{path} is a pipe or a device; set a regular file with --results")
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                results._read(_line(header))
                results.to_retry = {
                    row
                    for row, status in results._repeatable.items()
                    if retry_skipped or status is RowStatus.INCOMPLETE
                }
            except BlockingIOError:
                raise ResultsFileError(
                    f"another import is writing to {path}; wait until the other import has finished"
                ) from None
            except OSError as error:
                raise _not_writable(path, error, USAGE) from None
            stack.pop_all()  # keep the file open
        return results

    def add(self, row: Row | InvalidRow, outcome: Outcome) -> None:
        """Write the outcome of a row without buffering, so that it is not lost if this process is killed.

        Raises:
            ResultsFileError: The file cannot be written.
        """
        location = {"row": row.number, "line": row.line, "user": row.user_email}
        try:
            self._write(_line(location | asdict(outcome)))
        except OSError as error:
            raise _not_writable(self._path, error) from None
        self._count(row.number, outcome.status)
        self.to_retry.discard(row.number)
        if outcome.status is RowStatus.INCOMPLETE:
            self.to_retry.add(row.number)

    def close(self) -> None:
        """Sync the file to disk and close it.

        Raises:
            ResultsFileError: The sync failed.
        """
        with self._file:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _not_writable(self._path, error) from None

    def _read(self, header: bytes) -> None:
        """Read existing results and truncate an incomplete last line. A file that is not a results file is left unchanged."""
        not_results = f"{self._path} is not a results file; set a different file with --results"
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            first = lines.readline(_MAX_LINE)
            if first != header and not header.startswith(first):
                is_results = first.startswith(header[: header.index(b":")])
                raise ResultsFileError(
                    f"{self._path} belongs to an import of a different file or with different options; set a different results"
                    " file with --results, or delete this one to start over"
                    if is_results
                    else not_results
                )
            complete = len(header) if first == header else 0
            while complete and (line := lines.readline(_MAX_LINE)).endswith(b"\n"):
                try:
                    entry = orjson.loads(line)
                    self._count(int(entry["row"]), RowStatus(entry["status"]))
                except (ValueError, KeyError, TypeError):
                    raise ResultsFileError(not_results) from None
                complete += len(line)
        self._file.truncate(complete)
        self._file.seek(complete)
        if not complete:
            os.fchmod(self._file.fileno(), 0o600)
            self._write(header)

    def _count(self, row: int, status: RowStatus) -> None:
        if row <= self.last_row:
            self.counts[self._repeatable.pop(row)] -= 1
        self.last_row = max(self.last_row, row)
        self.counts[status] += 1
        if status in (RowStatus.INCOMPLETE, RowStatus.SKIPPED):
            self._repeatable[row] = status

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]


def _line(entry: dict[str, Any]) -> bytes:
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def _not_writable(path: Path, error: OSError, exit_code: int = FAILURE) -> ResultsFileError:
    return ResultsFileError(
        f"{path} cannot be written ({error.strerror}); fix the cause, or set a different file with --results",
        exit_code,
    )
