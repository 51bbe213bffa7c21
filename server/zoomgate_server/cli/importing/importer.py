"""Import of rows through the service: concurrent calls, retries, and an early stop when further rows would fail, too."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate import AsyncClient, errors
from zoomgate.v1.auth_service_pb2 import ImportConnectionRequest
from zoomgate.v1.auth_service_pb2 import ImportConnectionResponse as Response
from zoomgate_server.backoff import Backoff
from zoomgate_server.cli.importing.formats import Source
from zoomgate_server.cli.importing.results import Outcome, Results, ResultsFileError, RowStatus
from zoomgate_server.cli.importing.rows import InvalidRow, Row
from zoomgate_server.cli.importing.scan import Scan
from zoomgate_server.cli.importing.text import ImportFileError
from zoomgate_server.rate_limiter import RateLimiter

MAX_CONCURRENT_ROWS = 32
MAX_ATTEMPTS = 5
MAX_CONSECUTIVE_INCOMPLETE = 3
"""Number of consecutive incomplete rows after which the import stops, since further rows would fail after the same pauses."""

MAX_INITIAL_MISMATCHES = 3
"""Number of rows after which the import stops if all of them contain a different user's tokens, since all addresses may be wrong."""

_CALL_TIMEOUT = 60.0
"""The maximum duration of a call that the service allows, in seconds."""

_RETRYABLE = (
    errors.ServiceUnavailable,
    errors.RateLimited,
    errors.OutcomeUnknown,
    errors.DeadlineExceeded,
)
_FATAL = frozenset(
    {"APP_CREDENTIALS_REJECTED", "CALLER_UNAUTHENTICATED", "KEY_UNAVAILABLE", "RECORD_VERSION"}
)
"""Reasons of errors that would affect every row."""

_OUTCOMES = {
    Response.OUTCOME_STORED: (RowStatus.STORED, ""),
    Response.OUTCOME_ALREADY_STORED: (RowStatus.STORED, "stored by an earlier run"),
    Response.OUTCOME_SKIPPED_CONNECTED: (
        RowStatus.SKIPPED,
        "the user is already connected; --replace imports rows that are newer than the connection",
    ),
    Response.OUTCOME_SKIPPED_DISCONNECTED: (
        RowStatus.SKIPPED,
        "the user was disconnected in Zoomgate; --replace imports rows that are newer than the disconnection",
    ),
    Response.OUTCOME_CONSENT_REQUIRED: (
        RowStatus.REAUTH_REQUIRED,
        "Zoom rejected the refresh token; it was used after the export, revoked, or has expired, or Zoom's response to it was lost",
    ),
}
"""The status and reason of a row for each outcome of a call."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of an import, in seconds.

    Attributes:
        first_pause: The pause after a first failed attempt. It doubles with each attempt; the service can request a longer pause.
        max_pause: The maximum pause.
    """

    first_pause: float = 1.0
    max_pause: float = 30.0


class Importer:
    """An importer of rows.

    Until the service has stored a row, rows are imported one at a time. Otherwise, if the app lacks the scope to identify users or the
    address column is wrong, the refresh tokens of several users would be lost.

    Args:
        replace: Whether a newer row replaces the user's connection.

    Attributes:
        problem: Why the import stopped; empty if it did not stop, or if the user interrupted it.
        no_response: Whether the import stopped because the service, the store or Zoom does not respond.
    """

    def __init__(
        self, client: AsyncClient, limiter: RateLimiter, *, replace: bool, timing: Timing = Timing()
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._replace = replace
        self._timing = timing
        self._stopped = asyncio.Event()
        self._is_proven = False
        self._mismatches = 0
        self._consecutive_incomplete = 0
        self.problem = ""
        self.no_response = False

    def stop(self, problem: str = "", *, no_response: bool = False) -> None:
        """Stop the import after the rows in progress. Only the first call determines the reason."""
        if not self._stopped.is_set():
            self.problem, self.no_response = problem, no_response
            self._stopped.set()

    async def run(self, source: Source, scan: Scan, results: Results, advance: Callable[[int], None]) -> None:
        """Import the rows without a final result, and call `advance` with 1 for every result. Results are in the order of the rows.

        The rows in progress complete before this method ends, however it ends.

        Raises:
            ZoomgateError: The service cannot be reached, or rejected the caller at the first row.
        """
        in_progress: deque[tuple[Row | InvalidRow, asyncio.Task[Outcome]]] = deque()

        async def record_first() -> None:
            row, task = in_progress[0]
            # unlike `await task`, it does not cancel the row if the import is canceled
            await asyncio.wait([task])
            in_progress.popleft()
            results.add(row, task.result())
            advance(1)

        try:
            try:
                for row, work in _remaining_rows(source, scan, results):
                    if isinstance(work, Row):
                        await self._sleep(self._limiter.reserve())
                    if self._stopped.is_set():
                        break
                    in_progress.append((row, asyncio.create_task(self._outcome_of(work))))
                    limit = MAX_CONCURRENT_ROWS if self._is_proven else 1
                    while in_progress and (len(in_progress) >= limit or in_progress[0][1].done()):
                        await record_first()
            except ImportFileError as problem:
                self.stop(str(problem))
            while in_progress:
                await record_first()
        except ResultsFileError as problem:
            self.stop(str(problem))
        finally:
            self.stop()
            await asyncio.gather(*(task for _, task in in_progress), return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        """Sleep for this number of seconds, or until the import stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    async def _outcome_of(self, row: Row | Outcome) -> Outcome:
        """Import a row, and return its outcome. Errors are returned as outcomes."""
        if isinstance(row, Outcome):
            return row
        problem, request = "", _request(row, replace=self._replace)
        backoff = Backoff(self._timing.first_pause, self._timing.max_pause)
        for number in range(MAX_ATTEMPTS):
            while not self._stopped.is_set() and (held := self._limiter.held_seconds()):
                await self._sleep(held)
            if number and self._stopped.is_set():
                break
            try:
                response = await self._client.auth.import_connection(request, timeout=_CALL_TIMEOUT)
            except errors.ZoomgateError as error:
                # without a reason, the error comes from gRPC or a proxy and not from the service
                is_rejected_caller = isinstance(error, errors.Unauthenticated | errors.NotAllowed)
                if not self._is_proven and (is_rejected_caller or not error.reason):
                    raise
                problem = error.message
                if error.reason == "ZOOM_BAD_RESPONSE":  # which says nothing about the row
                    break
                if error.reason and not isinstance(error, _RETRYABLE):
                    return self._rejected(error)
                pause = max(backoff.next_pause(), error.retry_delay or 0.0)
                self._limiter.hold(min(pause, self._timing.max_pause))
            else:
                self._consecutive_incomplete = 0
                outcome = Outcome(*_OUTCOMES[response.outcome])
                self._is_proven = self._is_proven or outcome.status is RowStatus.STORED
                return outcome
        self._consecutive_incomplete += 1
        if self._consecutive_incomplete >= MAX_CONSECUTIVE_INCOMPLETE:
            self.stop(problem, no_response=True)
        return Outcome(RowStatus.INCOMPLETE, problem)

    def _rejected(self, error: errors.ZoomgateError) -> Outcome:
        """Return the outcome of a row after an error that a retry would not fix. Stop the import if the error would affect every row."""
        if error.reason in _FATAL:
            self.stop(error.message)
            return Outcome(RowStatus.INCOMPLETE, error.message)
        if error.reason == "IDENTITY_MISMATCH":
            self._mismatches += 1
            if not self._is_proven and self._mismatches >= MAX_INITIAL_MISMATCHES:
                self.stop(
                    f"the tokens of the first {self._mismatches} rows belong to Zoom users whose email addresses differ from"
                    " those in the rows; the import stopped before using more tokens;"
                    " check that the file contains the email addresses of the users' Zoom accounts",
                )
        elif error.reason == "ZOOM_USER_ALREADY_CONNECTED":
            self._is_proven = True  # the tokens belong to the Zoom user with the row's address
        elif not self._is_proven and not self._mismatches:
            # Zoom has not identified the user of any row so far
            self.stop(error.message)
        return Outcome(RowStatus.REJECTED, error.message)


def _remaining_rows(
    source: Source, scan: Scan, results: Results
) -> Iterator[tuple[Row | InvalidRow, Row | Outcome]]:
    """Yield the rows without a final result, each with its outcome, or again with the row if it must be imported."""
    last_row, to_retry = results.last_row, frozenset(results.to_retry)
    for row in source.read():
        if row.number <= last_row and row.number not in to_retry:
            continue
        if isinstance(row, InvalidRow):
            yield row, Outcome(RowStatus.REJECTED, row.reason)
        elif (newest := scan.newest(row)) != row.number:
            yield row, Outcome(RowStatus.SUPERSEDED, f"row {newest} of the same user is newer")
        else:
            yield row, row


def _request(row: Row, *, replace: bool) -> ImportConnectionRequest:
    return ImportConnectionRequest(
        user_email=row.user_email,
        refresh_token=row.refresh_token,
        access_token=row.access_token,
        update_time=_timestamp(row.updated_at),
        expire_time=_timestamp(row.access_expire_at),
        scope=row.scope,
        replace=replace,
    )


def _timestamp(seconds: float) -> Timestamp | None:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)) if seconds else None
