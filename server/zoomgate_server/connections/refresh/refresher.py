"""Runs the refresh protocol: one attempt per user at a time, owned by the service and not by who asked for it.

Callers wait for an attempt as long as their own deadline allows. When they leave, when they are cancelled, when the server drains:
the attempt goes on, since an answer of Zoom that nobody takes would lose the user.
"""

import asyncio
import contextvars
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import protocol as refresh_protocol
from zoomgate_server.connections.refresh.circuit_breaker import CircuitBreaker
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    ReauthRequired,
    RecordFault,
    RefreshInProgress,
    ServerOverloaded,
    ZoomBadResponse,
    ZoomgateError,
    ZoomRateLimited,
    ZoomUnavailable,
    not_connected,
    store_unavailable,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import AppRejected, BadResponse, NotSent, Throttled, TokenOutcome

POLL_INTERVAL = 0.25
"""Longest pause between two looks whether somebody else's lease has ended."""

AGE_SECONDS = 1.0
"""Pause between two looks at how old the oldest attempt is."""

_log = logs.get("zoomgate.refresh")


class _InFlightRefresh:
    """One running attempt.

    `result` is what callers wait for. It is settled when the attempt ends, or before that when Zoom has answered and the store does
    not take the answer: callers then hear of the store at once, while the attempt keeps trying.

    `resumed` tells that it stores what a process which died had won. `waiting` is how many callers wait for it. `sent_at` is the
    reading of the monotonic clock when a refresh token was first sent, None before that; `spent` tells whether Zoom has been heard, and
    `won` is what it issued.
    """

    def __init__(self, result: "asyncio.Future[ConnectionRecord]") -> None:
        self.result = result
        self.waiting = 0
        self.resumed = False
        self.sent_at: float | None = None
        self.spent = False
        self.won: TokenPair | None = None

    @classmethod
    def begin(cls) -> "_InFlightRefresh":
        """An attempt whose result is open."""
        return cls(asyncio.get_running_loop().create_future())

    def succeed(self, record: ConnectionRecord) -> None:
        if not self.result.done():
            self.result.set_result(record)

    def fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # nobody may be waiting any more, and that is no mistake


class Refresher:
    """Refreshes users' tokens.

    Args:
        connections: Where the records are.
        spend: Sends a refresh token to Zoom and never raises.
        discard: Ends a token pair that no record keeps.
        journal: Keeps what Zoom answered until the store has it.
        clock: Time.
        metrics: Counts outcomes.
        audit: Hears of refresh tokens that were spent.
        forced_interval: Seconds between two forced refreshes of one user.
        max_refreshes: Refreshes of one user in an hour.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        spend: Callable[[str], Awaitable[TokenOutcome]],
        discard: Callable[[TokenPair], None],
        journal: TokenJournal,
        clock: Clock,
        metrics: Metrics,
        audit: AuditSink,
        forced_interval: float,
        max_refreshes: int,
    ) -> None:
        self._connections = connections
        self._spend = spend
        self._discard = discard
        self._journal = journal
        self._breaker = CircuitBreaker(clock, self._report_circuit_breaker)
        self._clock = clock
        self._metrics = metrics
        self._audit = audit
        self._forced_interval = forced_interval
        self._max_refreshes = max_refreshes
        self._flights: dict[str, _InFlightRefresh] = {}
        self._tasks: dict[asyncio.Task[None], _InFlightRefresh] = {}
        self._draining = False

    async def refresh(
        self, user_email: str, *, seen_generation: int, deadline: float, forced: bool = False
    ) -> ConnectionRecord:
        """Give a record whose token is better than the one of `seen_generation`.

        Args:
            user_email: Whose token.
            seen_generation: The generation that is not good enough.
            deadline: Reading of the monotonic clock until which the caller waits.
            forced: Refresh although the token is valid still. Within `forced_interval` of the refresh before, the record of that
                one is given instead.

        Raises:
            NotConnected: There is no connection.
            ReauthRequired: The person has to consent again.
            RefreshInProgress: The deadline came first, or somebody else holds the lease; the attempt goes on.
            ServerOverloaded: The user's limit of refreshes is reached.
            StoreUnavailable: The store failed; a token that Zoom answered is kept and written as soon as the store is back.
            ZoomUnavailable: Zoom could not be reached; the stored token is as it was.
            ZoomRateLimited: Zoom asked for fewer refreshes.
            ZoomBadResponse: Zoom's answer could not be understood.
            AppCredentialsRejected: Zoom refused our own credentials.
        """
        while True:
            joined = self._flights.get(user_email)
            if joined is None:
                self._check_breaker()
            flight = joined or self._start(user_email, seen_generation, forced=forced)
            flight.waiting += 1
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    record = await asyncio.shield(flight.result)
            except TimeoutError:
                raise _in_progress(1.0) from None
            finally:
                flight.waiting -= 1
            if joined is None or record.generation > seen_generation:
                return record  # else the attempt that was joined had been begun for an older token

    def resume(self, entry: Entry) -> None:
        """Store tokens that a process which died left in the journal; it goes on in the background until the store has answered."""
        won = refresh_protocol.IssuedTokens(
            user_email=entry.user_email,
            attempt_id=entry.entry_id,
            grant=entry.grant,
            generation=entry.generation,
            epoch=entry.epoch,
            tokens=entry.tokens,
        )
        _log.info("refresh.resumed", user=won.user_email, attempt=won.attempt_id)
        flight = _InFlightRefresh.begin()
        flight.resumed, flight.sent_at, flight.won = True, self._clock.monotonic(), won.tokens
        self._start_task(self._resume(won, flight), flight)

    @property
    def running(self) -> int:
        """How many attempts are running."""
        return sum(not task.done() for task in self._tasks)

    async def watch(self) -> None:
        """Tell the metrics every second how old the oldest attempt is whose outcome is open; runs until cancelled."""
        while True:
            now = self._clock.monotonic()
            sent = [flight.sent_at for flight in self._tasks.values() if flight.sent_at is not None]
            self._metrics.pending_age(now - min(sent, default=now))
            await asyncio.sleep(AGE_SECONDS)

    async def drain(self, seconds: float) -> bool:
        """Wait until every running attempt has ended, for at most so many seconds. False if some did not.

        None asks Zoom a second time from now on, as after a lost answer: that could take longer than anybody waits here.
        """
        self._draining = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        return not self.running  # one that has just ended may be in the set still

    def _start(self, user_email: str, seen_generation: int, *, forced: bool) -> _InFlightRefresh:
        """Begin an attempt that belongs to nobody's call: its context is empty, and the set keeps it alive."""
        flight = _InFlightRefresh.begin()
        want = refresh_protocol.RefreshRequest(
            user_email=user_email,
            seen_generation=seen_generation,
            attempt_id=secrets.token_hex(16),
            forced=forced,
            forced_interval=self._forced_interval,
            max_refreshes=self._max_refreshes,
        )
        self._flights[user_email] = flight
        self._start_task(self._run_until_settled(want, flight), flight)
        return flight

    def _start_task(self, work: Coroutine[Any, Any, None], flight: _InFlightRefresh) -> None:
        task = asyncio.get_running_loop().create_task(work, name="refresh", context=contextvars.Context())
        self._tasks[task] = flight
        task.add_done_callback(self._tasks.pop)

    async def _run_until_settled(
        self, want: refresh_protocol.RefreshRequest, flight: _InFlightRefresh
    ) -> None:
        """Try until there is a verdict that helps, or nobody waits any more: one of many callers looks whether a lease has ended."""
        try:
            while True:
                verdict = await self._attempt(
                    refresh_protocol.refresh(want), want.user_email, want.attempt_id, flight
                )
                if verdict is None:
                    return
                if not isinstance(verdict, refresh_protocol.LeaseHeld) or not flight.waiting:
                    break
                await asyncio.sleep(min(verdict.retry_after, POLL_INTERVAL))
                want = replace(want, attempt_id=secrets.token_hex(16))
            self._conclude(want.user_email, want.attempt_id, verdict, flight)
        finally:
            if self._flights.get(want.user_email) is flight:
                del self._flights[want.user_email]

    async def _resume(self, won: refresh_protocol.IssuedTokens, flight: _InFlightRefresh) -> None:
        protocol = refresh_protocol.resume(won, self._max_refreshes)
        verdict = await self._attempt(protocol, won.user_email, won.attempt_id, flight)
        if verdict is not None:
            self._conclude(won.user_email, won.attempt_id, verdict, flight)

    async def _attempt(
        self, protocol: refresh_protocol.Protocol, user_email: str, attempt_id: str, flight: _InFlightRefresh
    ) -> refresh_protocol.Verdict | None:
        """Run the protocol once; None if it could not go on, which the waiters know then."""
        started = self._clock.monotonic()
        try:
            verdict = await self._run(protocol, user_email, attempt_id, flight)
        except RecordFault as error:
            self._metrics.refreshes("record_error")
            flight.fail(error)
            return None
        except BaseException as error:
            _log.exception("refresh.crashed", user=user_email, attempt=attempt_id)
            flight.fail(error if isinstance(error, Exception) else RuntimeError("the refresh was torn down"))
            raise
        if flight.spent:
            self._metrics.refresh_seconds(self._clock.monotonic() - started)
        return verdict

    async def _run(
        self, protocol: refresh_protocol.Protocol, user_email: str, attempt_id: str, flight: _InFlightRefresh
    ) -> refresh_protocol.Verdict:
        """Perform the effects that the core asks for, one after another."""
        answer: refresh_protocol.Answer = None
        failure: Exception | None = None
        while True:
            try:
                effect = protocol.send(answer) if failure is None else protocol.throw(failure)
            except StopIteration as end:
                verdict: refresh_protocol.Verdict = end.value
                return verdict
            answer, failure = None, None
            try:
                answer = await self._perform(user_email, effect, flight)
            except (StoreError, RecordFault) as error:
                failure = error
                if flight.spent and isinstance(effect, refresh_protocol.Put):
                    _log.warning("refresh.store_failed", user=user_email, attempt=attempt_id)
                    flight.fail(store_unavailable())

    async def _perform(
        self, user_email: str, effect: refresh_protocol.Effect, flight: _InFlightRefresh
    ) -> refresh_protocol.Answer:
        match effect:
            case refresh_protocol.Read():
                before = self._clock.monotonic()
                record, store_now = await self._connections.read(user_email)
                return refresh_protocol.Snapshot(record, store_now, before)
            case refresh_protocol.Put(record):
                return await self._connections.write(record)
            case refresh_protocol.Now():
                return self._clock.monotonic()
            case refresh_protocol.ExchangeRefreshToken() if self._draining and flight.spent:
                return NotSent("the service ends")
            case refresh_protocol.ExchangeRefreshToken(refresh_token):
                if flight.sent_at is None:
                    flight.sent_at = self._clock.monotonic()
                outcome = await self._spend(refresh_token)
                flight.spent = True
                self._breaker.record(outcome)
                return outcome
            case refresh_protocol.AppendJournal(won):
                flight.won = won.tokens
                await self._journal.append(_entry(won))
                return None
            case refresh_protocol.DeleteJournal(won):
                await self._journal.delete(won.attempt_id)
                return None
            case refresh_protocol.Sleep(seconds):
                await asyncio.sleep(seconds)
                return None

    def _check_breaker(self) -> None:
        """Raise what Zoom would say again, while the breaker is open."""
        closed = self._breaker.open_for()
        if closed is not None:
            outcome, seconds = closed
            self._metrics.refreshes("circuit_breaker_open")
            raise _failure(outcome, retry_after=seconds)[1]

    def _report_circuit_breaker(self, is_open: bool) -> None:
        self._metrics.circuit_breaker_open(is_open)
        if is_open:
            _log.error("refresh.circuit_breaker_opened")
        else:
            _log.info("refresh.circuit_breaker_closed")

    def _conclude(
        self, user_email: str, attempt_id: str, verdict: refresh_protocol.Verdict, flight: _InFlightRefresh
    ) -> None:
        """Tell the waiters, count, and log one line."""
        outcome, result = _interpret(verdict)
        self._metrics.refreshes(outcome)
        if outcome == "alternate_pair_kept":
            self._metrics.alternate_pair_kept()
        if flight.resumed:
            self._metrics.journal_replayed()
        _log.info("refresh.finished", user=user_email, attempt=attempt_id, outcome=outcome)
        if isinstance(verdict, refresh_protocol.Superseded) and (
            verdict.record is None or verdict.record.state is State.DISCONNECTED
        ):
            self._discard(verdict.tokens)
        if (
            flight.spent
            and isinstance(result, ReauthRequired)
            and result.metadata["cause"] == Cause.OUTCOME_LOST
        ):
            self._metrics.outcome_lost()
        if flight.spent or flight.resumed:
            self._audit_outcome(user_email, attempt_id, verdict, flight.won)
        if isinstance(result, ConnectionRecord):
            flight.succeed(result)
        else:
            flight.fail(result)

    def _audit_outcome(
        self, user_email: str, attempt_id: str, verdict: refresh_protocol.Verdict, won: TokenPair | None
    ) -> None:
        """Tell the audit trail what became of a refresh token that was spent, and of what Zoom issued for it."""
        tokens = won
        match verdict:
            case refresh_protocol.Refreshed(record, refreshed=True):
                action, outcome = "connection.refreshed", "ok"
                # else somebody was faster, or went on from there since: the record speaks of later tokens
                generation = record.generation if record.commit_id == attempt_id else 0
            case refresh_protocol.Superseded():
                action, outcome, generation = "connection.refreshed", "SUPERSEDED", 0
            case refresh_protocol.NotRefreshable(ConnectionRecord(state=State.REAUTH_REQUIRED) as record):
                action, generation, tokens = "connection.reauth_required", record.generation, record.tokens
                outcome = record.cause.value if record.cause is not None else Cause.REJECTED.value
            case _:
                return
        event = AuditEvent.unattended(
            action, outcome, user_email, principal="zoomgate", details={"attempt": attempt_id}
        )
        self._audit(
            event.with_tokens(generation, tokens.access_token, tokens.refresh_token)
            if tokens is not None
            else event._replace(generation=generation)
        )


def _entry(won: refresh_protocol.IssuedTokens) -> Entry:
    """The form in which the journal keeps what a refresh won."""
    return Entry(
        entry_id=won.attempt_id,
        origin=Origin.REFRESH,
        user_email=won.user_email,
        grant=won.grant,
        generation=won.generation,
        tokens=won.tokens,
        epoch=won.epoch,
    )


def _in_progress(retry_after: float) -> RefreshInProgress:
    return RefreshInProgress(
        "The user's token is being refreshed: call again in a moment", retry_after=max(1.0, retry_after)
    )


def reauth_required(record: ConnectionRecord) -> ReauthRequired:
    """The error for a user who has to consent again."""
    cause = record.cause.value if record.cause is not None else "REJECTED"
    return ReauthRequired(
        "Zoom no longer accepts this user's authorization: call BeginAuthorization and let the person consent again",
        metadata={"cause": cause},
    )


def _interpret(verdict: refresh_protocol.Verdict) -> tuple[str, ConnectionRecord | Exception]:
    """Turn a verdict into a metric label and what waiters get."""
    match verdict:
        case refresh_protocol.Refreshed(record, refreshed, spared):
            if spared:
                return "alternate_pair_kept", record
            return ("refreshed" if refreshed else "not_needed"), record
        case refresh_protocol.NotRefreshable(record):
            if record is not None and record.state is State.REAUTH_REQUIRED:
                return "reauth_required", reauth_required(record)
            return "not_connected", not_connected()
        case refresh_protocol.LeaseHeld(retry_after):
            return "lease_held", _in_progress(retry_after)
        case refresh_protocol.RateLimited(retry_after):
            return "rate_limited", ServerOverloaded(
                "This user's token was refreshed too often in the last hour",
                metadata={"limit": "refreshes_per_hour"},
                retry_after=retry_after,
            )
        case refresh_protocol.StoreFailed():
            return "store_unavailable", store_unavailable()
        case refresh_protocol.Superseded(_, record):
            if record is not None and record.state is State.ACTIVE:
                return "superseded", record
            return "superseded", not_connected()
        case refresh_protocol.Failed(outcome):
            return _failure(outcome)


def _failure(outcome: TokenOutcome, *, retry_after: float | None = None) -> tuple[str, ZoomgateError]:
    """Give the metric label and the error of an attempt that got no tokens; `retry_after` is better known than by the outcome."""
    match outcome:
        case Throttled(patience):
            return "zoom_rate_limited", ZoomRateLimited(
                "Zoom asks for fewer token refreshes",
                metadata={"http_status": "429"},
                retry_after=retry_after or patience,
            )
        case AppRejected(code):
            return "app_credentials_rejected", AppCredentialsRejected(
                "Zoom refuses this service's own client id or secret: an operator has to check them",
                metadata={"zoom_code": code},
            )
        case BadResponse():
            return "bad_response", ZoomBadResponse(
                "Zoom's answer to the token refresh could not be understood"
            )
        case _:
            return "zoom_unavailable", ZoomUnavailable(
                "Zoom's token endpoint could not be reached: call again in a moment",
                retry_after=retry_after or 2.0,
            )
