"""The refresh protocol, as a generator of effects.

`refresh()` performs no I/O. The generator yields effects, receives their results and returns a `Verdict`; the driver throws store
failures into the generator as `StoreError`. The driver therefore controls time, order and failures: `refresher.py` performs the effects
in production, and the model tests run the protocol with arbitrary sequences of effects and failures.

A Zoom refresh token can be used only once, so if the response is lost, the authorization can be lost as well. The protocol
therefore guarantees:

* A refresh token is exchanged only after a lease for the user has been written, which confirms that the store accepts writes.
* Issued tokens are appended to the journal on the local disk before they are written to the store. After a crash, the process that finds
  the journal entry stores the tokens with `commit()`.
* Issued tokens are checked against the generation and grant, never against the lease, because a late attempt may hold the only valid
  token. The tokens are stored as the next generation or as an alternate pair. If a newer consent or a disconnection has replaced the
  grant, the tokens are stored without being used, and are revoked after a disconnection.
* The first refresh of an imported pair shows whether its refresh token belongs to the connection's Zoom user. The issued tokens are
  therefore linked like those of a consent.
* A rejection is not conclusive, because another attempt may have used the token first. A rejection is accepted only if the generation,
  grant and lease epoch are unchanged, every refresh token in the record was rejected, and no other attempt has an unknown outcome.
* Outages, rate limiting and rejected app credentials never change a user's state.
"""

from dataclasses import dataclass, replace

from zoomgate_server.audit.event import ZOOMGATE
from zoomgate_server.backoff import Backoff
from zoomgate_server.connections import refresh_schedule
from zoomgate_server.connections.exchange_mark import RETENTION_SECONDS
from zoomgate_server.connections.lifecycle import decisions, linking
from zoomgate_server.connections.lifecycle.effects import (
    AppendJournal,
    DeleteJournal,
    ExchangeRefreshToken,
    LeaseTiming,
    Now,
    Protocol,
    Put,
    Read,
    Sleep,
    Snapshot,
    put_confirmed,
)
from zoomgate_server.connections.lifecycle.linking import LinkContext
from zoomgate_server.connections.lifecycle.token_request import send
from zoomgate_server.connections.record import (
    Cause,
    ConnectionRecord,
    LastError,
    Lease,
    PendingAttempt,
    State,
    digest_of,
)
from zoomgate_server.connections.token_journal import Entry, Origin
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import RecordFault, ZoomgateError
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    BadResponse,
    Issued,
    NotSent,
    Rejected,
    Throttled,
    TokenOutcome,
    UnexplainedRejection,
    Unknown,
)

IN_DOUBT_PAUSE_SECONDS = 10.0
"""Pause after a rejection that cannot be accepted yet. Until then, no process sends the same token again."""

MAX_ALTERNATE_PAIRS = 3
RATE_LIMIT_WINDOW_SECONDS = 3600.0

_RATE_LIMIT = ("SERVER_OVERLOADED", "The limit on token refreshes per user and hour was reached")
"""The reason and the message of `last_error` if no further refresh is allowed."""

_CAUSES = {"4711": Cause.SCOPE, **dict.fromkeys(("4735", "4737", "4738", "4741"), Cause.REVOKED)}
"""Why the user has to consent again, by Zoom's code for a rejection."""


@dataclass(frozen=True, slots=True)
class Timing(LeaseTiming):
    """The timing of refreshes, in seconds.

    Attributes:
        grace: Time for which an attempt with an unknown outcome prevents a rejection from being accepted.
        lease_poll_interval: Maximum pause between two checks of a lease that another process holds.
        first_backoff: Pause of a user after a failed refresh. The pause doubles with each failure.
        longest_backoff: Maximum pause of a user after failed refreshes, unless Zoom requests a longer one.
        age_report_interval: Time between two reports of the age of the oldest attempt.
    """

    grace: float = 180.0
    lease_poll_interval: float = 0.25
    first_backoff: float = 1.0
    longest_backoff: float = 300.0
    age_report_interval: float = 1.0


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of refreshes.

    Attributes:
        forced_interval: Minimum seconds between two forced refreshes of one user.
        max_refreshes: Maximum number of refreshes per user and hour.
    """

    forced_interval: float
    max_refreshes: int
    timing: Timing = Timing()


Failure = NotSent | Unknown | Throttled | AppRejected | UnexplainedRejection | BadResponse


@dataclass(frozen=True, slots=True)
class TokenAvailable:
    """The verdict that the record contains the token to use.

    Attributes:
        record: The record as stored.
        refreshed: True if this attempt obtained the tokens; False if another attempt did.
        alternate_pair_kept: True if the tokens are stored as an alternate pair because another attempt stored its tokens first.
    """

    record: ConnectionRecord
    refreshed: bool
    alternate_pair_kept: bool = False


@dataclass(frozen=True, slots=True)
class NotRefreshable:
    """The verdict that there is nothing to refresh: the user has no connection, is disconnected or has to consent again."""

    record: ConnectionRecord | None


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """The verdict that another attempt holds the lease or has an unknown outcome. Retry in `retry_after` seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The verdict that Zoom issued no token, for the reason in `outcome`. The user's state is unchanged."""

    outcome: Failure


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The verdict that the user has reached the limit on refreshes per hour. Retry in `retry_after` seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Superseded:
    """The verdict that a newer consent or a disconnection replaced the grant during the call to Zoom.

    Attributes:
        record: The record as read afterwards, or None.
    """

    record: ConnectionRecord | None


Verdict = TokenAvailable | NotRefreshable | LeaseHeld | Failed | RateLimited | Superseded


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """A request for a newer token than the caller has seen.

    Attributes:
        seen_generation: The generation to replace. If the record already has a newer generation, no refresh is needed.
        attempt_id: Unique ID of the attempt, which identifies the holder of the lease and the attempt's own commit.
        forced: Whether to refresh a token that is still valid; limited to one forced refresh per `forced_interval`.
    """

    zoom_user_id: str
    seen_generation: int
    attempt_id: str
    forced: bool
    config: Config


def refresh(request: RefreshRequest) -> Protocol[Verdict]:
    """Refresh one Zoom user's token with the guarantees listed in the module's docstring.

    A `StoreError` means that the store failed before a refresh token was exchanged, or while a rejection was being recorded.
    """
    acquired = yield from _acquire(request)
    if not isinstance(acquired, _AcquiredLease):
        return acquired
    lease, timing = acquired, request.config.timing
    candidates = _candidates(lease.record)
    response_lost = False
    rejection = Rejected("")  # there is at least one candidate
    for candidate in candidates:
        response = yield from send(ExchangeRefreshToken(candidate), lease.snapshot.monotonic, timing)
        outcome, sent_at = response.outcome, response.sent_at
        response_lost = response_lost or response.is_lost
        if isinstance(outcome, Issued):
            tokens = TokenPair.from_response(outcome, lease.snapshot.time_at(sent_at), previous=candidate)
            return (yield from _store(request, lease, tokens, candidate))
        if not isinstance(outcome, Rejected):
            failure = outcome or NotSent("the lease would expire during the call")
            yield from _release(request, lease, failure, sent_at, response_lost=response_lost)
            is_repeatable = outcome is None and not response_lost
            return LeaseHeld(retry_after=1.0) if is_repeatable else Failed(failure)
        rejection = outcome
    return (yield from _handle_rejection(request, lease, candidates, rejection, response_lost=response_lost))


@dataclass(frozen=True, slots=True)
class _AcquiredLease:
    """The record with the lease as written, and the snapshot on which the write was based."""

    record: ConnectionRecord
    snapshot: Snapshot


def _candidates(record: ConnectionRecord) -> tuple[str, ...]:
    """Return the refresh tokens to try: the current one first, then those of alternate pairs, newest first."""
    return tuple(dict.fromkeys(pair.refresh_token for pair in record.pairs if pair.refresh_token))


def _acquire(request: RefreshRequest) -> Protocol[_AcquiredLease | Verdict]:
    """Write and return the lease, or return the verdict if no token is to be exchanged."""
    while True:
        snapshot: Snapshot = yield Read(request.zoom_user_id)
        record, now = snapshot.record, snapshot.store_now
        if record is None:
            return NotRefreshable(None)
        verdict = _not_refreshable(request, record, now)
        if isinstance(verdict, RateLimited):
            yield from _record_rate_limit(record, now)
        if verdict is not None:
            return verdict
        expire_at = now + request.config.timing.lease
        leased = replace(
            decisions.register(record, now),
            lease=Lease(holder=request.attempt_id, epoch=record.epoch + 1, expire_at=expire_at),
        )
        # a lease whose write was not confirmed would block the user until it expires
        rev = yield from put_confirmed(leased)
        if rev is not None:
            return _AcquiredLease(replace(leased, rev=rev), snapshot)


def _not_refreshable(request: RefreshRequest, record: ConnectionRecord, now: float) -> Verdict | None:
    """Return the verdict if this attempt must not exchange a token, or None if the exchange is allowed."""
    if record.state is not State.ACTIVE or not _candidates(record):
        return NotRefreshable(record)
    if record.generation > request.seen_generation:
        return TokenAvailable(record, refreshed=False)
    config = request.config
    # Refresh times are estimated from a clock reading taken before the store was read, so they may be ahead of the store's clock
    # by the duration of the read. A time in the future is treated as the current time.
    refreshes = [
        min(time, now)
        for time in record.recent_refresh_times
        if now - RATE_LIMIT_WINDOW_SECONDS < time <= now + config.timing.lease
    ]
    # After a store rollback the caller has not seen the record's token, so the limit on forced refreshes does not apply.
    rolled_back = record.generation < request.seen_generation
    if request.forced and not rolled_back and refreshes and now - refreshes[-1] < config.forced_interval:
        return TokenAvailable(record, refreshed=False)
    lease = decisions.active_lease(record, now, config.timing)
    if lease is not None:
        return LeaseHeld(retry_after=min(lease.expire_at - now, 2.0))
    if len(refreshes) >= config.max_refreshes:
        return RateLimited(retry_after=RATE_LIMIT_WINDOW_SECONDS - (now - refreshes[0]))
    return None


def _record_rate_limit(record: ConnectionRecord, now: float) -> Protocol[None]:
    """Record once in the connection that the limit was reached. Store failures are ignored."""
    error = LastError(*_RATE_LIMIT, now)
    if record.last_error is not None and record.last_error.reason == error.reason:
        return
    try:
        yield Put(replace(record, last_error=error, update_time=now))
    except StoreError:
        return


def _in_doubt(record: ConnectionRecord, epoch: int, now: float, timing: Timing) -> tuple[PendingAttempt, ...]:
    """Return the attempts of other epochs that may still deliver tokens, except those started in the far future of a wrong clock."""
    return tuple(
        attempt
        for attempt in record.pending_attempts
        if attempt.epoch != epoch and abs(now - attempt.started_at) < timing.grace
    )


def _without_attempt(
    record: ConnectionRecord, epoch: int, timing: Timing, *, response_lost: bool = False
) -> ConnectionRecord:
    """Return the record without the lease and the pending attempt of an epoch.

    If Zoom's response was lost, the attempt stays in the record, with its start time moved back by the grace period. The attempt then no
    longer prevents a rejection from being accepted, but still explains a later rejection.
    """
    is_held = record.lease is not None and record.lease.epoch == epoch
    pending = tuple(
        attempt if attempt.epoch != epoch else replace(attempt, started_at=attempt.started_at - timing.grace)
        for attempt in record.pending_attempts
        if attempt.epoch != epoch or response_lost
    )
    return replace(record, lease=None if is_held else record.lease, pending_attempts=pending)


_FAILURES: dict[type[TokenOutcome], tuple[str, str]] = {
    Throttled: ("ZOOM_RATE_LIMITED", "Zoom is rate limiting token requests"),
    AppRejected: ("APP_CREDENTIALS_REJECTED", "Zoom rejected the app's own credentials"),
    BadResponse: ("ZOOM_BAD_RESPONSE", "Zoom's response to the token refresh is invalid"),
    UnexplainedRejection: ("TOKEN_REQUEST_REFUSED", "Zoom refused the token refresh"),
    Rejected: ("ZOOM_REAUTH_REQUIRED", "Zoom rejected the refresh token"),
    NotSent: ("ZOOM_UNAVAILABLE", "Zoom could not be reached"),
    Unknown: ("ZOOM_UNAVAILABLE", "Zoom's response was lost"),
}
"""The reason and the message of `last_error`, by outcome."""


def _release(
    request: RefreshRequest,
    lease: _AcquiredLease,
    outcome: Failure,
    now: float,
    *,
    response_lost: bool,
) -> Protocol[None]:
    """Release the lease and record the failure. Store failures are ignored, since the lease expires by itself."""
    error = LastError(*_FAILURES[type(outcome)], lease.snapshot.time_at(now))
    record: ConnectionRecord | None = lease.record
    for _ in range(3):
        if record is None:
            return
        released = _without_attempt(
            record, lease.record.epoch, request.config.timing, response_lost=response_lost
        )
        if (record.grant, record.generation) == (lease.record.grant, lease.record.generation):
            released = replace(released, last_error=error, update_time=error.time)
        try:
            if released == record or (yield Put(released)) is not None:
                return
            snapshot: Snapshot = yield Read(record.zoom_user_id)
        except (StoreError, RecordFault):
            return
        record = snapshot.record


def _store(
    request: RefreshRequest, lease: _AcquiredLease, tokens: TokenPair, exchanged: str
) -> Protocol[Verdict]:
    """Store the tokens that Zoom issued for an exchanged refresh token.

    The tokens of the first refresh of an imported pair are linked. If they belong to a different user, a repetition finds the new state.
    """
    record = lease.record
    is_verified = all(pair.is_exchanged for pair in record.pairs)
    entry = Entry(
        entry_id=request.attempt_id,
        origin=Origin.REFRESH if is_verified else Origin.IMPORT,
        user_email=record.user_email,
        tokens=tokens,
        grant=record.grant,
        generation=record.generation,
        zoom_user_id=record.zoom_user_id if is_verified else "",
        zoom_email=record.zoom_email,
        registered_with=record.zoom_user_id,
        epoch=record.epoch,
        fingerprint=digest_of(exchanged),
        marked_at=lease.snapshot.store_now,
        owner=record.owner,
        initiated_by=record.initiated_by,
    )
    yield AppendJournal(entry)
    if is_verified:
        current = replace(lease.snapshot, record=record)
        return (yield from commit(entry, request.config, current, request.seen_generation))
    context = LinkContext(ZOOMGATE, lambda _: request.seen_generation, timing=request.config.timing)
    try:
        linked = yield from linking.link(entry, context)
    except ZoomgateError:
        linked = None
    if linked is None or linked.record.zoom_user_id != request.zoom_user_id:
        return LeaseHeld(retry_after=1.0)
    is_connected = decisions.is_connected(linked.record)
    return TokenAvailable(linked.record, refreshed=True) if is_connected else Superseded(linked.record)


def commit(
    entry: Entry, config: Config, current: Snapshot | None = None, seen_generation: int = 0
) -> Protocol[Verdict]:
    """Store issued tokens, retrying until the store accepts the write: no other copy of the tokens exists.

    Args:
        current: The record as last written; None to read the record first.
        seen_generation: The latest generation that the caller has seen. After a store rollback, the record's generation may be lower.
    """
    backoff = Backoff(linking.MIN_RETRY_PAUSE_SECONDS, linking.MAX_RETRY_PAUSE_SECONDS)
    while True:
        try:
            snapshot: Snapshot = current or (yield Read(entry.zoom_user_id))
            current = None  # every retry reads the record again
            verdict = yield from _commit_once(entry, snapshot, seen_generation, config)
            if verdict is not None:
                yield DeleteJournal(entry)
                return verdict
        except (StoreError, RecordFault):
            yield Sleep(backoff.next_pause())


def _commit_once(
    entry: Entry, snapshot: Snapshot, seen_generation: int, config: Config
) -> Protocol[Verdict | None]:
    """Write the tokens to the record, as its next generation, as an alternate pair or as a late pair. Return None on conflict."""
    record = snapshot.record
    now = snapshot.time_at((yield Now()))
    if record is None:
        if now - entry.tokens.obtained_at > RETENTION_SECONDS:
            return Superseded(record)
        # tombstones are retained, so a missing record means that the store is empty or was restored
        raise StoreError("the connection is missing")
    is_current = record.grant == entry.grant and record.state is not State.DISCONNECTED
    if record.was_committed(entry.entry_id):
        return TokenAvailable(record, refreshed=True) if is_current else Superseded(record)
    if not is_current:
        rev = yield Put(decisions.late_pair(record, entry, now))
        return None if rev is None else Superseded(record)
    generation_changed = record.generation != entry.generation
    if generation_changed:
        # another attempt refreshed the same grant in the meantime; either pair may be the valid one, so both are stored
        alternate_pairs = (entry.tokens, *record.alternate_pairs)[:MAX_ALTERNATE_PAIRS]
        released = _without_attempt(record, entry.epoch, config.timing)
        updated = replace(
            released,
            state=State.ACTIVE,
            cause=None,
            last_error=None,
            alternate_pairs=alternate_pairs,
            previous_commit_ids=decisions.with_commit_id(entry.entry_id, record),
            update_time=now,
        )
    else:
        updated = _next_generation(entry, record, seen_generation, now, config)
    rev = yield Put(updated)
    return (
        None
        if rev is None
        else TokenAvailable(replace(updated, rev=rev), refreshed=True, alternate_pair_kept=generation_changed)
    )


def _next_generation(
    entry: Entry, record: ConnectionRecord, seen_generation: int, now: float, config: Config
) -> ConnectionRecord:
    """Return the record with the issued tokens as its next generation, updated now."""
    tokens = entry.tokens
    recent = tuple(time for time in record.recent_refresh_times if now - RATE_LIMIT_WINDOW_SECONDS < time)
    return replace(
        record,
        state=State.ACTIVE,
        cause=None,
        last_error=None,
        generation=max(record.generation, seen_generation) + 1,
        tokens=tokens,
        alternate_pairs=(),
        lease=None,
        pending_attempts=_in_doubt(record, entry.epoch, now, config.timing),
        commit_id=entry.entry_id,
        previous_commit_ids=decisions.with_commit_id(record.commit_id, record),
        used_token_digests=(
            *(digest_of(pair.refresh_token) for pair in record.pairs),
            *record.used_token_digests,
        )[: decisions.MAX_TOKEN_DIGESTS],
        recent_refresh_times=(*recent, now)[-max(config.max_refreshes, 1) :],
        refresh_time=tokens.obtained_at,
        update_time=now,
        access_expire_at=tokens.access_expire_at,
        due_at=refresh_schedule.due_at(record.zoom_user_id, tokens, now),
    )


def _handle_rejection(
    request: RefreshRequest,
    lease: _AcquiredLease,
    candidates: tuple[str, ...],
    rejection: Rejected,
    *,
    response_lost: bool,
) -> Protocol[Verdict]:
    """Decide whether the rejection of every candidate can be accepted, and record the result."""
    epoch, timing = lease.record.epoch, request.config.timing
    while True:
        snapshot: Snapshot = yield Read(request.zoom_user_id)
        record, now = snapshot.record, snapshot.store_now
        if record is None:
            return NotRefreshable(None)
        updated = _without_attempt(record, epoch, timing, response_lost=response_lost)
        unchanged = (
            record.generation == lease.record.generation
            and record.grant == lease.record.grant
            and record.epoch == epoch
        )
        in_doubt = _in_doubt(record, epoch, now, timing)
        verdict: Verdict
        if record.state is not State.ACTIVE:
            if updated == record:
                return NotRefreshable(record)
            verdict = NotRefreshable(record)  # the attempt would delay the revocation of a tombstone's pairs
        elif not unchanged and record.generation > request.seen_generation:
            verdict = TokenAvailable(record, refreshed=False)
        elif not unchanged:
            verdict = LeaseHeld(retry_after=1.0)
        elif any(candidate not in candidates for candidate in _candidates(record)):
            verdict = LeaseHeld(retry_after=2.0)
        elif in_doubt:
            graced_until = max(attempt.started_at for attempt in in_doubt) + timing.grace
            until = min(now + IN_DOUBT_PAUSE_SECONDS, graced_until)
            updated = replace(updated, lease=Lease(request.attempt_id, epoch, until))
            verdict = LeaseHeld(retry_after=until - now)
        else:
            is_lost = bool(updated.pending_attempts)
            updated = replace(
                updated,
                state=State.REAUTH_REQUIRED,
                cause=Cause.OUTCOME_LOST if is_lost else _CAUSES.get(rejection.code, Cause.REJECTED),
                last_error=LastError(*_FAILURES[Rejected], now),
                update_time=now,
                pending_attempts=(),
            )
            verdict = NotRefreshable(updated)
        if (yield Put(updated)) is not None:
            return verdict
