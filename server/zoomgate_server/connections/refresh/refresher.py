"""Execution of the refresh protocol: one attempt per Zoom user at a time, shared by its callers and independent of them.

Callers wait for an attempt until their own deadline. An attempt continues when its callers are canceled or time out, and while the server
is shutting down, because dropping a Zoom response would lose the user's authorization.
"""

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

from zoomgate_server.audit.event import ZOOMGATE, AuditEvent, AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.lifecycle import decisions, effects
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import protocol as refresh_protocol
from zoomgate_server.connections.refresh.circuit_breaker import CircuitBreaker
from zoomgate_server.connections.refresh.user_backoff import UserBackoff
from zoomgate_server.connections.token_journal import Entry
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    NotConnected,
    ReauthRequired,
    RecordFault,
    RefreshInProgress,
    ServerOverloaded,
    ZoomgateError,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs, spans
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    BadResponse,
    NotSent,
    Throttled,
    TokenOutcome,
    UnexplainedRejection,
    Unknown,
    error_for,
)

_Outcome = Literal[
    "refreshed",
    "not_needed",
    "reauth_required",
    "not_connected",
    "lease_held",
    "rate_limited",
    "store_unavailable",
    "superseded",
    "zoom_rate_limited",
    "app_credentials_rejected",
    "bad_response",
    "refused",
    "zoom_unavailable",
    "record_error",
    "alternate_pair_kept",
    "circuit_breaker_open",
    "user_backoff",
]
OUTCOMES = get_args(_Outcome)
"""All outcomes of attempts, as used in metrics and the log."""

_Verdict = refresh_protocol.Verdict | StoreError | RecordFault
_log = logs.get("zoomgate.refresh")


@dataclass(eq=False)
class _InFlightRefresh:
    """A running attempt.

    Attributes:
        user_email: The email address of the record as last read, for the log and the audit trail. Empty before the first read.
        attempt_id: The ID of the attempt, which changes when the attempt is repeated because another process holds the lease.
        result: The result for waiting callers. If the store fails after Zoom's response, callers receive StoreError immediately, while the
            attempt keeps retrying.
        waiting: Number of callers that wait for the attempt.
        queued: Whether the attempt waits for its first slot.
        resumed: Whether the attempt stores the tokens of a crashed process.
        pending_since: Reading of the monotonic clock when a refresh token was first sent, or when a resumed attempt started; None before.
        called_zoom: Whether a refresh token was sent, with any outcome.
    """

    zoom_user_id: str
    attempt_id: str
    user_email: str = ""
    result: asyncio.Future[ConnectionRecord] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    waiting: int = 0
    queued: bool = True
    resumed: bool = False
    pending_since: float | None = None
    called_zoom: bool = False
    issued: TokenPair | None = None

    def succeed(self, record: ConnectionRecord) -> None:
        if not self.result.done():
            self.result.set_result(record)

    def fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # marks the exception as retrieved, since all callers may have been canceled


class Refresher:
    """Executor of token refreshes, with at most one attempt per Zoom user at a time."""

    def __init__(
        self,
        *,
        driver: EffectDriver,
        clock: Clock,
        metrics: Metrics,
        audit: AuditSink,
        limit: ConcurrencyLimit,
        config: refresh_protocol.Config,
    ) -> None:
        self._driver = driver
        self._breaker = CircuitBreaker(clock, self._report_circuit_breaker)
        self._backoff = UserBackoff(clock, config.timing)
        self._clock = clock
        self._metrics = metrics
        self._audit = audit
        self._limit = limit
        self._config = config
        self._in_flight: dict[str, _InFlightRefresh] = {}
        self._attempts: set[_InFlightRefresh] = set()
        self._tasks = TaskSet()

    async def refresh(
        self, zoom_user_id: str, *, seen_generation: int, deadline: float, forced: bool = False
    ) -> ConnectionRecord:
        """Return a record with a newer token than `seen_generation`, refreshing the token if needed.

        The record may have a different email address than before the call.

        Args:
            seen_generation: The generation to replace.
            deadline: Reading of the monotonic clock until which the caller waits.
            forced: Whether to refresh a token that is still valid. Within `forced_interval` of the previous refresh, the current record
                is returned instead.

        Raises:
            NotConnected: The user has no connection.
            ReauthRequired: The user has to consent again.
            RefreshInProgress: The deadline passed or another process holds the lease; a running attempt continues.
            ServerOverloaded: The limit on refreshes of this user's token is reached, or too many refreshes are running.
            StoreError: The store failed. Tokens that Zoom has issued are retained and stored once the store is available again.
            ZoomUnavailable: Zoom could not be reached; the stored token is unchanged.
            ZoomRateLimited: Zoom is rate limiting token requests.
            ZoomBadResponse: Zoom's response is invalid.
            TokenRequestRefused: Zoom refused the request for an unknown reason.
            AppCredentialsRejected: Zoom rejected the app's credentials.
        """
        while True:
            joined = self._in_flight.get(zoom_user_id)
            if joined is None:
                self._check_recent_failures(zoom_user_id)
            in_flight = joined or self._start(zoom_user_id, seen_generation, forced=forced)
            in_flight.waiting += 1
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    record = await asyncio.shield(in_flight.result)
            except TimeoutError:
                raise (self._limit.overloaded() if in_flight.queued else _in_progress(1.0)) from None
            finally:
                in_flight.waiting -= 1
            # an attempt that another caller started may replace an older token only, so its result is checked
            if joined is None or record.generation > seen_generation:
                return record

    def resume(self, entry: Entry) -> None:
        """Store tokens from the journal of a crashed process in the background, retrying until the store responds."""
        _log.info("refresh.resumed", user=entry.user_email, attempt=entry.entry_id)
        in_flight = _InFlightRefresh(
            entry.zoom_user_id,
            entry.entry_id,
            user_email=entry.user_email,
            resumed=True,
            pending_since=self._clock.monotonic(),
            issued=entry.tokens,
        )
        self._start_task(self._resume(entry, in_flight), in_flight)

    def check_circuit_breaker(self) -> None:
        """Raise the error for the outcome that opened the circuit breaker, if its pause is not over."""
        opened = self._breaker.open_for()
        if opened is not None:
            raise _failure(opened[0], retry_after=opened[1])[1]

    def is_leased(self, record: ConnectionRecord, now: float) -> bool:
        """Return whether any process is refreshing the token of a record, read at the store's time `now`."""
        return decisions.active_lease(record, now, self._config.timing) is not None

    @property
    def running(self) -> int:
        """The number of running attempts."""
        return len(self._tasks)

    async def report_pending_age(self) -> None:
        """Report the age of the oldest attempt without an outcome every second, until canceled."""
        while True:
            now = self._clock.monotonic()
            sent = [
                in_flight.pending_since for in_flight in self._attempts if in_flight.pending_since is not None
            ]
            self._metrics.oldest_pending_attempt_seconds.set(now - min(sent, default=now))
            await asyncio.sleep(self._config.timing.age_report_interval)

    async def drain(self, seconds: float) -> bool:
        """Wait at most `seconds` until all running attempts have finished. Return whether all of them finished."""
        return await self._tasks.drain(seconds)

    def _start(self, zoom_user_id: str, seen_generation: int, *, forced: bool) -> _InFlightRefresh:
        """Start an attempt that is independent of the caller."""
        in_flight = _InFlightRefresh(zoom_user_id, secrets.token_hex(16))
        request = refresh_protocol.RefreshRequest(
            zoom_user_id=zoom_user_id,
            seen_generation=seen_generation,
            attempt_id=in_flight.attempt_id,
            forced=forced,
            config=self._config,
        )
        self._in_flight[zoom_user_id] = in_flight
        self._start_task(self._run_until_settled(request, in_flight), in_flight)
        return in_flight

    def _start_task(self, coroutine: Coroutine[Any, Any, None], in_flight: _InFlightRefresh) -> None:
        self._attempts.add(in_flight)
        task = self._tasks.spawn(coroutine)
        task.add_done_callback(lambda _: self._attempts.discard(in_flight))

    async def _run_until_settled(
        self, request: refresh_protocol.RefreshRequest, in_flight: _InFlightRefresh
    ) -> None:
        """Repeat the protocol while another process holds the lease and callers wait.

        An attempt without callers does not start. Between two attempts, the slot is free for others.
        """
        try:
            with spans.unit_of_work("refresh"):
                while True:
                    async with self._limit.slot():
                        in_flight.queued = False
                        if not in_flight.waiting:
                            return
                        verdict = await self._run_attempt(refresh_protocol.refresh(request), in_flight)
                    if not isinstance(verdict, refresh_protocol.LeaseHeld) or not in_flight.waiting:
                        break
                    await asyncio.sleep(min(verdict.retry_after, self._config.timing.lease_poll_interval))
                    in_flight.attempt_id = secrets.token_hex(16)
                    request = replace(request, attempt_id=in_flight.attempt_id)
                self._conclude(verdict, in_flight)
        finally:
            del self._in_flight[request.zoom_user_id]

    async def _resume(self, entry: Entry, in_flight: _InFlightRefresh) -> None:
        with spans.unit_of_work("refresh"):
            verdict = await self._run_attempt(refresh_protocol.commit(entry, self._config), in_flight)
            self._conclude(verdict, in_flight)

    async def _run_attempt(
        self, protocol: effects.Protocol[refresh_protocol.Verdict], in_flight: _InFlightRefresh
    ) -> _Verdict:
        """Run the protocol once."""
        started = self._clock.monotonic()
        try:
            verdict: _Verdict = await self._driver.run(
                protocol, in_flight.attempt_id, partial(self._perform, in_flight)
            )
        except (StoreError, RecordFault) as error:
            verdict = error
        except BaseException as error:
            _log.exception("refresh.crashed", user=in_flight.user_email, attempt=in_flight.attempt_id)
            in_flight.fail(
                error if isinstance(error, Exception) else RuntimeError("the refresh was canceled")
            )
            raise
        if in_flight.called_zoom:
            self._metrics.refresh_seconds.observe(self._clock.monotonic() - started)
        if isinstance(verdict, refresh_protocol.NotRefreshable):
            await self._driver.perform(effects.DropToken(in_flight.user_email))
        return verdict

    async def _perform(self, in_flight: _InFlightRefresh, effect: effects.Effect) -> Any:
        """Perform an effect, and note in the attempt what has happened."""
        match effect:
            case effects.Read():
                snapshot: effects.Snapshot = await self._driver.perform(effect)
                if snapshot.record is not None and snapshot.record.user_email:
                    in_flight.user_email = snapshot.record.user_email
                return snapshot
            case effects.ExchangeRefreshToken():
                # a repetition is sent in any case, since only Zoom's response can show whether the first request used the token
                if not in_flight.called_zoom and (failure := self._breaker.admit()) is not None:
                    return failure
                in_flight.called_zoom = True
                if in_flight.pending_since is None:
                    in_flight.pending_since = self._clock.monotonic()
                outcome: TokenOutcome = await self._driver.perform(effect)
                self._breaker.record(in_flight.zoom_user_id, outcome)
                return outcome
            case effects.AppendJournal(entry):
                in_flight.issued = entry.tokens
        try:
            return await self._driver.perform(effect)
        except (StoreError, RecordFault) as error:
            if in_flight.called_zoom and isinstance(effect, effects.Put):
                _log.warning(
                    "refresh.store_failed",
                    user=in_flight.user_email,
                    attempt=in_flight.attempt_id,
                    problem=str(error),
                )
                in_flight.fail(StoreError("the store did not accept the new tokens"))
            raise

    def _check_recent_failures(self, zoom_user_id: str) -> None:
        """Raise the error of the latest failure while the circuit breaker is open or the user backs off."""
        for label, failure in (
            ("circuit_breaker_open", self._breaker.open_for()),
            ("user_backoff", self._backoff.remaining(zoom_user_id)),
        ):
            if failure is not None:
                self._metrics.refreshes.labels(label).inc()
                raise _failure(failure[0], retry_after=failure[1])[1]

    def _report_circuit_breaker(self, is_open: bool) -> None:
        self._metrics.token_endpoint_circuit_breaker_open.set(is_open)
        if is_open:
            _log.error("refresh.circuit_breaker_opened")
        else:
            _log.info("refresh.circuit_breaker_closed")

    def _conclude(self, verdict: _Verdict, in_flight: _InFlightRefresh) -> None:
        """Set the result for waiting callers, and record the result in metrics, log and audit trail."""
        outcome, result = _interpret(verdict)
        self._metrics.refreshes.labels(outcome).inc()
        span = spans.current_span.get()
        span.set("zoomgate.refresh.outcome", outcome)
        if isinstance(result, Exception):
            span.fail(outcome)
        if outcome == "alternate_pair_kept":
            self._metrics.alternate_pairs_kept.inc()
        if in_flight.resumed:
            self._metrics.journal_replays.inc()
        _log.info(
            "refresh.finished", user=in_flight.user_email, attempt=in_flight.attempt_id, outcome=outcome
        )
        if isinstance(verdict, refresh_protocol.TokenAvailable | refresh_protocol.NotRefreshable):
            self._backoff.reset(in_flight.zoom_user_id)
        elif isinstance(verdict, refresh_protocol.Failed) and in_flight.called_zoom:
            self._backoff.record_failure(in_flight.zoom_user_id, verdict.outcome)
        if (
            in_flight.called_zoom
            and isinstance(result, ReauthRequired)
            and result.metadata["cause"] == Cause.OUTCOME_LOST
        ):
            self._metrics.refresh_outcomes_lost.inc()
        if in_flight.called_zoom or in_flight.resumed:
            self._audit_outcome(verdict, in_flight)
        if isinstance(result, ConnectionRecord):
            in_flight.succeed(result)
        else:
            in_flight.fail(result)

    def _audit_outcome(self, verdict: _Verdict, in_flight: _InFlightRefresh) -> None:
        """Record the outcome of an exchanged refresh token and the issued tokens in the audit trail."""
        tokens, details = in_flight.issued, {"attempt": in_flight.attempt_id}
        match verdict:
            case refresh_protocol.TokenAvailable(record, refreshed=True):
                action, outcome = "connection.refreshed", "ok"
                # if another attempt stored its tokens first or has refreshed since, the record's generation belongs to those tokens
                generation = record.generation if record.commit_id == in_flight.attempt_id else 0
            case refresh_protocol.Superseded():
                action, outcome, generation = "connection.refreshed", "SUPERSEDED", 0
            case refresh_protocol.NotRefreshable(ConnectionRecord(state=State.REAUTH_REQUIRED) as record):
                action, generation, tokens = "connection.reauth_required", record.generation, record.tokens
                outcome = (record.cause or Cause.REJECTED).value
            case _:
                return
        event = AuditEvent(action, outcome, in_flight.user_email, ZOOMGATE, generation, details=details)
        if tokens is not None:
            event = event.with_tokens(generation, tokens.access_token, tokens.refresh_token)
        self._audit(event)


def _in_progress(retry_after: float) -> RefreshInProgress:
    return RefreshInProgress(
        "The user's token is being refreshed; retry in a moment", retry_after=max(1.0, retry_after)
    )


def reauth_required(record: ConnectionRecord) -> ReauthRequired:
    """Return the error for a user who has to consent again."""
    return ReauthRequired(
        "Zoom no longer accepts this user's authorization; call BeginAuthorization and have the user consent again",
        metadata={"cause": (record.cause or Cause.REJECTED).value},
    )


def _interpret(verdict: _Verdict) -> tuple[_Outcome, ConnectionRecord | Exception]:
    """Return the metric label of a verdict, and the record or error for waiting callers."""
    match verdict:
        case refresh_protocol.TokenAvailable(record, refreshed, alternate_pair_kept):
            if alternate_pair_kept:
                return "alternate_pair_kept", record
            return ("refreshed" if refreshed else "not_needed"), record
        case refresh_protocol.NotRefreshable(record):
            if record is not None and record.state is State.REAUTH_REQUIRED:
                return "reauth_required", reauth_required(record)
            return "not_connected", NotConnected()
        case refresh_protocol.LeaseHeld(retry_after):
            return "lease_held", _in_progress(retry_after)
        case refresh_protocol.RateLimited(retry_after):
            return "rate_limited", ServerOverloaded(
                "The limit on token refreshes per user and hour is reached; retry later",
                metadata={"limit": "refreshes_per_hour"},
                retry_after=retry_after,
            )
        case StoreError():
            return "store_unavailable", verdict
        case RecordFault():
            return "record_error", verdict
        case refresh_protocol.Superseded(record):
            if record is None or record.state is State.DISCONNECTED:
                return "superseded", NotConnected()
            return "superseded", record if record.state is State.ACTIVE else reauth_required(record)
        case refresh_protocol.Failed(outcome):
            return _failure(outcome)


def _failure(outcome: TokenOutcome, *, retry_after: float | None = None) -> tuple[_Outcome, ZoomgateError]:
    """Return the metric label and the error for an outcome without tokens; `retry_after` overrides the outcome's value."""
    if isinstance(outcome, Unknown):
        # the attempt has retried, and a later one can retry again
        outcome = NotSent(outcome.detail)
    labels: dict[type[TokenOutcome], _Outcome] = {
        Throttled: "zoom_rate_limited",
        AppRejected: "app_credentials_rejected",
        BadResponse: "bad_response",
        UnexplainedRejection: "refused",
    }
    return labels.get(type(outcome), "zoom_unavailable"), error_for(outcome, retry_after=retry_after)
