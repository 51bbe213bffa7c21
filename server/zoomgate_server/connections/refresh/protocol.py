"""The refresh protocol as a generator over effects.

`refresh()` performs no I/O. It yields effects, receives their results, and ends with a `Verdict`; a store that fails is thrown into it
as `StoreError`. So whoever drives it decides about time, order and failure: `driver.py` with the real world, tests with any history
they like.

What the protocol keeps (Zoom's refresh tokens work once: whoever loses the answer loses the user):

* A refresh token is spent only after a write that proves that the store takes writes: the lease.
* What Zoom answered goes into the journal, on this machine's disk, before the store is asked to take it: whoever finds the journal of
  a process that died goes on with `resume()`.
* A success is fenced by generation and grant, never by the lease: who comes late may hold the only living token. It is stored as the
  next generation, or kept as a spare beside it, or given up because a newer consent or a disconnect replaced the whole grant.
* A refusal is a weak signal: it may only mean that somebody else was first. It is believed only if generation, grant and epoch are
  still ours, every candidate in the record was refused, and no other attempt is in doubt.
* Outages, throttling and faults of our own credentials change no user's state.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import cast

from zoomgate_server.connections.record import Attempt, Cause, ConnectionRecord, LastError, Lease, State
from zoomgate_server.connections.refresh import schedule
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    BadResponse,
    Issued,
    NotSent,
    Rejected,
    Throttled,
    TokenOutcome,
    Unknown,
)

LEASE_SECONDS = 90.0
"""How long an attempt keeps others from starting one."""

CALL_SECONDS = 35.0
"""What one call to the token endpoint may take, connection included."""

MARGIN_SECONDS = 5.0
"""Kept free at the end of a lease."""

GRACE_SECONDS = 180.0
"""How long an attempt without a known outcome keeps a refusal from being believed."""

DOUBT_SECONDS = 10.0
"""Pause after a refusal that is not believed yet: until then nobody spends the same token again, in no process."""

UNKNOWN_RETRIES = 2
"""How often the same token is tried again after an answer was lost. It costs nothing: if the answer is really gone, the new token is
gone with it and the old one is all there is."""

UNKNOWN_PAUSE_SECONDS = 2.0
"""Pause before such a repetition, so that the first request is not still being processed."""

MAX_ALTERNATE_PAIRS = 3
MAX_PENDING = 16
"""How many attempts without a known outcome a record remembers. Leases are 90 seconds apart, so an older one is past any doubt."""

MAX_PREVIOUS_COMMIT_IDS = 8
RATE_LIMIT_WINDOW_SECONDS = 3600.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
"""Pauses between tries to write what Zoom answered while the store fails: each twice as long as the one before."""

_RATE_LIMIT_REASON = "SERVER_OVERLOADED"
_SCOPE_CODES = frozenset({"4711"})
_REVOKED_CODES = frozenset({"4735", "4737", "4738", "4741"})


@dataclass(frozen=True, slots=True)
class Read:
    """Read the user's record. Answer: `Snapshot`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A record as it was read, the store's clock then, and the monotonic clock just before."""

    record: ConnectionRecord | None
    store_now: float
    monotonic: float

    def time_at(self, monotonic: float) -> float:
        """Tell the store's time at a moment of the monotonic clock."""
        return self.store_now + max(0.0, monotonic - self.monotonic)


@dataclass(frozen=True, slots=True)
class Put:
    """Write the record if its revision is still `record.rev`. Answer: the new revision, or None on conflict."""

    record: ConnectionRecord


@dataclass(frozen=True, slots=True)
class Now:
    """Read the monotonic clock. Answer: seconds."""


@dataclass(frozen=True, slots=True)
class ExchangeRefreshToken:
    """Send a refresh token to Zoom. Answer: a `TokenOutcome`."""

    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """Tokens that Zoom issued for a record, and all that is needed to store them there.

    Attributes:
        user_email: Whose they are.
        attempt_id: The attempt that got them.
        grant: The grant of the record whose token was spent.
        generation: Its generation.
        epoch: The attempt's epoch.
        tokens: What Zoom issued.
        seen_generation: The next generation is above this one too: in a store that was set back somebody may have seen a later one.
    """

    user_email: str
    attempt_id: str
    grant: str
    generation: int
    epoch: int
    tokens: TokenPair
    seen_generation: int = 0


@dataclass(frozen=True, slots=True)
class AppendJournal:
    """Put tokens into the journal, durably. Answer: None; a journal that fails leaves the tokens to this process alone."""

    issued: IssuedTokens


@dataclass(frozen=True, slots=True)
class DeleteJournal:
    """Take tokens out of the journal: the store has them, or nobody needs them any more. Answer: None."""

    issued: IssuedTokens


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait. Answer: None."""

    seconds: float


Effect = Read | Put | Now | ExchangeRefreshToken | AppendJournal | DeleteJournal | Sleep
Answer = Snapshot | int | float | TokenOutcome | None


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The record has a token for the asker.

    Attributes:
        record: As it is stored.
        refreshed: This attempt got tokens, rather than somebody else.
        spared: They are kept beside those of somebody else who was faster.
    """

    record: ConnectionRecord
    refreshed: bool
    alternate_pair_kept: bool = False


@dataclass(frozen=True, slots=True)
class NotRefreshable:
    """There is nothing to refresh: no record, disconnected, or consent is needed."""

    record: ConnectionRecord | None


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """Another holder has the lease, or the outcome of an attempt is in doubt. Ask again in `retry_after` seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Zoom gave no new token and the user's state is as before; `outcome` says why."""

    outcome: NotSent | Unknown | Throttled | AppRejected | BadResponse


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The user's refreshes of the last hour reached the limit."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store failed before anything was spent."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer consent or a disconnect replaced the grant while Zoom answered; `tokens` belong to nobody now."""

    tokens: TokenPair
    record: ConnectionRecord | None


Verdict = Refreshed | NotRefreshable | LeaseHeld | Failed | RateLimited | StoreFailed | Superseded


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """What somebody wants, and who they are.

    Attributes:
        user_email: Whose token.
        seen_generation: The generation that was not good enough; a newer one ends the attempt.
        attempt_id: Unique per attempt: names the lease's holder and recognises its own commit.
        forced: Refresh even though the token is valid still: limited to one per `forced_interval`.
        forced_interval: Seconds.
        max_refreshes: Refreshes of one user in an hour.
    """

    user_email: str
    seen_generation: int
    attempt_id: str
    forced: bool
    forced_interval: float
    max_refreshes: int


Protocol = Generator[Effect, Answer, Verdict]


def refresh(request: RefreshRequest) -> Protocol:
    """Refresh one user's token. See the module's description for what is kept.

    Yields:
        Effects. `Put` may be answered by throwing `StoreError`, then its outcome is unknown; so may `Read`.

    Returns:
        The verdict.
    """
    acquired = yield from _acquire(request)
    if not isinstance(acquired, _Held):
        return acquired
    held = acquired
    candidates = _candidates(held.record)
    lost_answer = False
    refused: Rejected | None = None
    for candidate in candidates:
        outcome: TokenOutcome = Unknown("not tried")
        for attempt in range(1 + UNKNOWN_RETRIES):
            if attempt:
                yield Sleep(UNKNOWN_PAUSE_SECONDS)
            now = yield from _now()
            if now - held.read.monotonic > LEASE_SECONDS - CALL_SECONDS - MARGIN_SECONDS:
                error = _last_error(Unknown("no time left in the lease"), held.time_at(now))
                yield from _release(held, error, lost_answer=lost_answer)
                return LeaseHeld(retry_after=1.0)
            outcome = yield from _exchange(candidate)
            if not isinstance(outcome, Unknown):
                break
            lost_answer = True
        if isinstance(outcome, Issued):
            won = _issued_tokens(request, held, candidate, outcome, now)
            yield AppendJournal(won)
            return (yield from _commit(won, replace(held.read, record=held.record), request.max_refreshes))
        if not isinstance(outcome, Rejected):
            yield from _release(held, _last_error(outcome, held.time_at(now)), lost_answer=lost_answer)
            return Failed(outcome)
        refused = outcome
    return (yield from _reject(request, held, candidates, refused, lost_answer=lost_answer))


def resume(issued: IssuedTokens, max_refreshes: int) -> Protocol:
    """Store tokens that the journal of a process that died holds.

    Returns:
        `Usable` or `Superseded`: it goes on until the store has answered.
    """
    return (yield from _commit(issued, None, max_refreshes))


def _read() -> Generator[Effect, Answer, Snapshot]:
    return cast("Snapshot", (yield Read()))


def _put(record: ConnectionRecord) -> Generator[Effect, Answer, int | None]:
    return cast("int | None", (yield Put(record)))


def _now() -> Generator[Effect, Answer, float]:
    return cast("float", (yield Now()))


def _exchange(refresh_token: str) -> Generator[Effect, Answer, TokenOutcome]:
    return cast("TokenOutcome", (yield ExchangeRefreshToken(refresh_token)))


@dataclass(frozen=True, slots=True)
class _Held:
    """The lease as it was written, and the reading that it was written on."""

    record: ConnectionRecord
    read: Snapshot

    def time_at(self, monotonic: float) -> float:
        """Tell the store's time at a moment of the monotonic clock."""
        return self.read.time_at(monotonic)


def _candidates(record: ConnectionRecord) -> tuple[str, ...]:
    """The refresh tokens to try: the record's own first, then spares, newest first."""
    pairs = (record.tokens, *record.alternate_pairs) if record.tokens is not None else record.alternate_pairs
    return tuple(dict.fromkeys(pair.refresh_token for pair in pairs if pair.refresh_token))


def _acquire(want: RefreshRequest) -> Generator[Effect, Answer, _Held | Verdict]:
    """Write the lease, or find out why there is nothing to do."""
    before: Snapshot | None = None
    while True:
        try:
            snapshot = yield from _read()
        except StoreError:
            return StoreFailed()
        record, now = snapshot.record, snapshot.store_now
        if record is None:
            return NotRefreshable(None)
        if before is not None and record.lease is not None and record.lease.holder == want.attempt_id:
            return _Held(record, before)  # the store wrote it, and took its own repetition for a conflict
        before = snapshot
        refusal = _not_refreshable(want, record, now)
        if isinstance(refusal, RateLimited):
            yield from _record_rate_limit(record, now)
        if refusal is not None:
            return refusal
        leased = replace(
            record,
            epoch=record.epoch + 1,
            lease=Lease(holder=want.attempt_id, epoch=record.epoch + 1, until=now + LEASE_SECONDS),
            pending=(*record.pending, Attempt(epoch=record.epoch + 1, at=now))[-MAX_PENDING:],
        )
        try:
            rev = yield from _put(leased)
        except StoreError:
            return StoreFailed()  # it may have been written: the lease then ends by itself
        if rev is not None:
            return _Held(replace(leased, rev=rev), snapshot)


def _not_refreshable(want: RefreshRequest, record: ConnectionRecord, now: float) -> Verdict | None:
    """Say why this attempt must not spend a token, or None if it may."""
    if record.state is not State.ACTIVE or not _candidates(record):
        return NotRefreshable(record)
    if record.generation > want.seen_generation:
        return Refreshed(record, refreshed=False)
    # a time is reckoned from before its reading, and so ahead by as long as the store took: it counts as now
    refreshes = [
        min(time, now)
        for time in record.recent_refreshes
        if now - RATE_LIMIT_WINDOW_SECONDS < time <= now + LEASE_SECONDS
    ]
    behind = (
        record.generation < want.seen_generation
    )  # the store was set back: its token is none that was seen
    if want.forced and not behind and refreshes and now - refreshes[-1] < want.forced_interval:
        return Refreshed(record, refreshed=False)
    lease = record.lease
    if lease is not None and now < lease.until <= now + 2 * LEASE_SECONDS:
        return LeaseHeld(retry_after=min(lease.until - now, 2.0))
    if len(refreshes) >= want.max_refreshes:
        return RateLimited(retry_after=RATE_LIMIT_WINDOW_SECONDS - (now - refreshes[0]))
    return None


def _record_rate_limit(record: ConnectionRecord, now: float) -> Generator[Effect, Answer, None]:
    """Let the record say that the limit was reached. Best effort, and once: who goes on asking causes no more writes."""
    if record.last_error is not None and record.last_error.reason == _RATE_LIMIT_REASON:
        return
    error = LastError(
        reason=_RATE_LIMIT_REASON, message="The token was refreshed as often as an hour allows", time=now
    )
    try:
        yield from _put(replace(record, last_error=error, update_time=now))
    except StoreError:
        return


def _in_doubt(record: ConnectionRecord, epoch: int, now: float) -> tuple[Attempt, ...]:
    """Give the attempts beside that of an epoch that may still bring tokens. One of the future is of a clock that was wrong."""
    return tuple(
        attempt
        for attempt in record.pending
        if attempt.epoch != epoch and abs(now - attempt.at) < GRACE_SECONDS
    )


def _without_attempt(record: ConnectionRecord, epoch: int, *, lost_answer: bool = False) -> ConnectionRecord:
    """The record after the attempt of an epoch has ended: its lease is gone, and so is its mark.

    If an answer of Zoom's was lost, the mark stays as one that is past its time: it delays no verdict, and says why a refusal comes.
    """
    lease = record.lease
    pending = tuple(attempt for attempt in record.pending if attempt.epoch != epoch)
    if lost_answer:
        marks = (mark for mark in record.pending if mark.epoch == epoch)
        pending = (*(replace(mark, at=mark.at - GRACE_SECONDS) for mark in marks), *pending)
    return replace(
        record, lease=None if lease is not None and lease.epoch == epoch else lease, pending=pending
    )


def _last_error(
    outcome: NotSent | Unknown | Throttled | AppRejected | BadResponse | Rejected, now: float
) -> LastError:
    """Describe a failed refresh for the people who look at the connection."""
    match outcome:
        case Throttled():
            reason, message = "ZOOM_RATE_LIMITED", "Zoom asked for fewer refreshes"
        case AppRejected():
            reason, message = "APP_CREDENTIALS_REJECTED", "Zoom refused the app's own credentials"
        case BadResponse():
            reason, message = "ZOOM_BAD_RESPONSE", "Zoom's answer to the refresh could not be understood"
        case Rejected():
            reason, message = "ZOOM_REAUTH_REQUIRED", "Zoom refused the refresh token"
        case _:
            reason, message = "ZOOM_UNAVAILABLE", "Zoom could not be reached or its answer was lost"
    return LastError(reason=reason, message=message, time=now)


def _release(held: _Held, error: LastError, *, lost_answer: bool) -> Generator[Effect, Answer, None]:
    """Give the lease back and note the error. Best effort: a lease also ends by itself."""
    record: ConnectionRecord | None = held.record
    for _ in range(3):
        if record is None or record.grant != held.record.grant or record.generation != held.record.generation:
            return
        try:
            released = _without_attempt(record, held.record.epoch, lost_answer=lost_answer)
            rev = yield from _put(replace(released, last_error=error, update_time=error.time))
            if rev is not None:
                return
            snapshot = yield from _read()
        except (StoreError, RecordFault):
            return
        record = snapshot.record


def _issued_tokens(
    want: RefreshRequest, held: _Held, spent: str, issued: Issued, asked_at: float
) -> IssuedTokens:
    """What Zoom issued, ready to be stored."""
    obtained_at = held.time_at(asked_at)
    tokens = TokenPair(
        access_token=issued.access_token,
        refresh_token=issued.refresh_token or spent,
        token_type=issued.token_type,
        scope=issued.scope,
        api_url=issued.api_url,
        access_expire_at=obtained_at + issued.expires_in,
        obtained_at=obtained_at,
    )
    return IssuedTokens(
        user_email=want.user_email,
        attempt_id=want.attempt_id,
        grant=held.record.grant,
        generation=held.record.generation,
        epoch=held.record.epoch,
        tokens=tokens,
        seen_generation=want.seen_generation,
    )


def _commit(
    won: IssuedTokens, known: Snapshot | None, max_refreshes: int
) -> Generator[Effect, Answer, Verdict]:
    """Store what Zoom issued. Goes on until the store has taken it or the grant is gone: the tokens exist nowhere else.

    Args:
        won: The tokens.
        known: The record as it is known to be; None to read it first.
        max_refreshes: How many times of refreshes the record remembers.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            snapshot = known or (yield from _read())
            known = None  # whatever happens next, only what is in the store then decides
            verdict = yield from _commit_once(won, snapshot, max_refreshes)
            if verdict is not None:
                yield DeleteJournal(won)
                return verdict
        except (StoreError, RecordFault):
            yield Sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _commit_once(
    won: IssuedTokens, snapshot: Snapshot, max_refreshes: int
) -> Generator[Effect, Answer, Verdict | None]:
    """Write the tokens where the record says that they belong. None if somebody else wrote meanwhile."""
    record = snapshot.record
    if record is None or record.grant != won.grant or record.state is State.DISCONNECTED:
        return Superseded(won.tokens, record)
    if record.was_committed(won.attempt_id):
        return Refreshed(record, refreshed=True)
    now = snapshot.time_at((yield from _now()))
    overtaken = record.generation != won.generation
    if overtaken:  # the same grant moved on without us: either token may be the living one, so both are kept
        alternate_pairs = (won.tokens, *record.alternate_pairs)[:MAX_ALTERNATE_PAIRS]
        settled = _without_attempt(record, won.epoch)
        written = replace(
            settled,
            state=State.ACTIVE,
            cause=None,
            last_error=None,
            alternate_pairs=alternate_pairs,
            previous_commit_ids=_commit_ids(won.attempt_id, record),
            update_time=now,
        )
    else:
        written = _next_generation(won, record, now, max_refreshes)
    rev = yield from _put(written)
    return (
        None
        if rev is None
        else Refreshed(replace(written, rev=rev), refreshed=True, alternate_pair_kept=overtaken)
    )


def _next_generation(
    won: IssuedTokens, record: ConnectionRecord, now: float, max_refreshes: int
) -> ConnectionRecord:
    """The record with new tokens as its next generation, written now."""
    tokens = won.tokens
    recent = tuple(time for time in record.recent_refreshes if now - RATE_LIMIT_WINDOW_SECONDS < time)
    return replace(
        record,
        state=State.ACTIVE,
        cause=None,
        last_error=None,
        generation=max(record.generation, won.seen_generation) + 1,
        tokens=tokens,
        alternate_pairs=(),
        lease=None,
        pending=_in_doubt(record, won.epoch, now),
        commit_id=won.attempt_id,
        previous_commit_ids=_commit_ids(record.commit_id, record),
        recent_refreshes=(*recent, now)[-max(max_refreshes, 1) :],
        refresh_time=tokens.obtained_at,
        update_time=now,
        access_expire_at=tokens.access_expire_at,
        due_at=schedule.due_at(record.user_email, tokens, now),
    )


def _commit_ids(commit_id: str, record: ConnectionRecord) -> tuple[str, ...]:
    """The commits that a record remembers beside its latest: an entry of the journal may tell of one again much later."""
    return (commit_id, *record.previous_commit_ids)[:MAX_PREVIOUS_COMMIT_IDS]


def _reject(
    want: RefreshRequest, held: _Held, tried: tuple[str, ...], refused: Rejected | None, *, lost_answer: bool
) -> Generator[Effect, Answer, Verdict]:
    """Every candidate was refused: decide what that means, and write it down."""
    epoch = held.record.epoch
    while True:
        try:
            snapshot = yield from _read()
            record, now = snapshot.record, snapshot.store_now
            if record is None or record.state is not State.ACTIVE:
                return NotRefreshable(record)
            cleared = _without_attempt(record, epoch, lost_answer=lost_answer)
            ours = (
                record.generation == held.record.generation
                and record.grant == held.record.grant
                and record.epoch == epoch
            )
            doubts = _in_doubt(record, epoch, now)
            verdict: Verdict
            if not ours:
                written, verdict = cleared, _after_stale_verdict(want, record)
            elif any(candidate not in tried for candidate in _candidates(record)):
                written, verdict = cleared, LeaseHeld(retry_after=2.0)
            elif doubts:
                until = min(now + DOUBT_SECONDS, max(attempt.at for attempt in doubts) + GRACE_SECONDS)
                written = replace(cleared, lease=Lease(holder=want.attempt_id, epoch=epoch, until=until))
                verdict = LeaseHeld(retry_after=until - now)
            else:
                error = None if refused is None else _last_error(refused, now)
                cause = _cause(refused, lost_answer=bool(cleared.pending))
                written = replace(
                    cleared,
                    state=State.REAUTH_REQUIRED,
                    cause=cause,
                    last_error=error,
                    update_time=now,
                    pending=(),
                )
                verdict = NotRefreshable(written)
            rev = yield from _put(written)
        except StoreError:
            return StoreFailed()
        if rev is not None:
            return verdict


def _after_stale_verdict(want: RefreshRequest, record: ConnectionRecord) -> Refreshed | LeaseHeld:
    """The record moved on while we were refused: its newer token serves the asker, if there is one."""
    if record.generation > want.seen_generation:
        return Refreshed(record, refreshed=False)
    return LeaseHeld(retry_after=1.0)


def _cause(refused: Rejected | None, *, lost_answer: bool) -> Cause:
    """Say why the person has to consent again."""
    if lost_answer:
        return Cause.OUTCOME_LOST
    if refused is not None and refused.code in _SCOPE_CODES:
        return Cause.SCOPE
    if refused is not None and refused.code in _REVOKED_CODES:
        return Cause.REVOKED
    return Cause.REJECTED
