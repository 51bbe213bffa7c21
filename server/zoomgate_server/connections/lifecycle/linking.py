"""The protocol that stores the pair of a consent, code exchange or import in the connection of its Zoom user.

Zoom identifies the user of the pair after the record that will be overwritten has been read, and the record is written only if it has not
changed since. A pair that a later consent has invalidated is therefore never stored over the later pair, whatever the order in which
responses and writes arrive.

A pair that was exchanged is in the journal until a record contains it, or until it is known to be worthless.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from zoomgate_server.audit.event import ZOOMGATE, Actor, AuditEvent
from zoomgate_server.backoff import Backoff
from zoomgate_server.connections.exchange_mark import RETENTION_SECONDS
from zoomgate_server.connections.lifecycle import decisions, ending
from zoomgate_server.connections.lifecycle.decisions import LinkResult
from zoomgate_server.connections.lifecycle.effects import (
    POLL_SECONDS,
    AccessTokenRejected,
    AppendJournal,
    Audit,
    DeleteJournal,
    DeleteMark,
    DropToken,
    ExchangeRefreshToken,
    Find,
    Identity,
    LeaseTiming,
    Now,
    Protocol,
    Put,
    PutMark,
    Read,
    ReadMark,
    ReadZoomUser,
    ReleaseJournal,
    Sleep,
    Snapshot,
    Unidentified,
    ZoomUser,
)
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import RecordFault, ScopeMissing, ZoomgateError
from zoomgate_server.storage.record_store import StoreError, UserEmailTaken
from zoomgate_server.zoom.token_outcome import Issued, Rejected, TokenOutcome, error_for

VERIFICATION_SECONDS = 15.0
"""Timeout for asking Zoom for the user of an access token. An imported token that expires sooner is refreshed first."""

IDENTITY_ATTEMPTS = 3
IDENTITY_PAUSE_SECONDS = 1.0
MAX_IDENTITY_PAUSE_SECONDS = 5.0
"""Maximum pause that Zoom may request before an attempt. After a longer one, the pair is linked later."""

MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = 0.05, 2.0
"""Minimum and maximum pause between attempts to access a failing store (exponential backoff)."""


@dataclass(frozen=True, slots=True)
class Linked:
    """The verdict that a record contains the pair, has contained the pair, or contains the pair of a later consent of the Zoom user."""

    record: ConnectionRecord
    result: LinkResult


@dataclass(frozen=True, slots=True)
class Worthless:
    """The verdict that Zoom no longer accepts the pair, which was discarded."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The verdict that the user of the pair cannot be identified now.

    Attributes:
        error: The error that prevents the identification.
        in_journal: Whether the pair waits in the journal, and is linked later. A pair that was not exchanged does not.
    """

    error: ZoomgateError
    in_journal: bool = True


@dataclass(frozen=True, slots=True)
class Skipped:
    """The verdict that an imported pair was not stored because of the user's record."""

    record: ConnectionRecord


Verdict = Linked | Worthless | Waiting | Skipped


@dataclass(frozen=True, slots=True)
class LinkContext:
    """What linking needs to know besides the entry.

    Attributes:
        actor: The actor of audit events.
        seen_generation: Returns the latest generation of a Zoom user's connection that this process has seen, or 0.
        skips: For an import, whether a pair that was not exchanged must not replace a record.
    """

    actor: Actor
    seen_generation: Callable[[str], int]
    skips: Callable[[ConnectionRecord], bool] | None = None
    timing: LeaseTiming = LeaseTiming()


def resume(entry: Entry, seen_generation: Callable[[str], int]) -> Protocol[Verdict]:
    """Link a pair from the journal of a crashed process, or one that was deferred."""
    return (yield from link(entry, LinkContext(ZOOMGATE, seen_generation)))


def link(entry: Entry, context: LinkContext) -> Protocol[Verdict]:
    """Identify the user of a pair, and store the pair.

    If the store fails, retry once; if the pair was exchanged, retry until the store responds.
    """
    backoff = Backoff(MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS)
    is_retry = is_second_failure = False
    while True:
        if is_retry and entry.tokens.is_exchanged:
            yield from mark_delivered(entry)  # further attempts may take longer than the mark is valid
        is_retry = True
        try:
            identified = yield from _identify_entry(entry, context)
            if not isinstance(identified, _Identified):
                verdict: Verdict | Entry = identified
            else:
                entry = identified.entry
                verdict = yield from _store(identified, context)
        except StoreError:
            if not entry.tokens.is_exchanged and is_second_failure:
                yield from _audit(entry, context.actor, "STORE_UNAVAILABLE")  # the pair may have been stored
                raise
            is_second_failure = True
            yield Sleep(backoff.next_pause())
            continue
        except RecordFault as error:
            return (yield from _defer(entry, error))
        if not isinstance(verdict, Entry):
            return verdict
        entry = verdict


@dataclass(frozen=True, slots=True)
class _Identified:
    """An entry whose Zoom user is known, the Zoom user, and the Zoom user's record, which was read before.

    Attributes:
        at: When Zoom identified the user, in seconds since 1970 on the store's clock.
    """

    entry: Entry
    zoom_user: ZoomUser
    snapshot: Snapshot
    at: float


def _identify_entry(entry: Entry, context: LinkContext) -> Protocol[_Identified | Verdict | Entry]:
    """Identify the user of an entry. Return the entry to try again with, or a verdict if the pair is not to be stored."""
    snapshot: Snapshot = yield (
        Read(entry.zoom_user_id, replaceable=True)
        if entry.zoom_user_id
        else Find(entry.user_email, replaceable=True)
    )
    if snapshot.record is not None and snapshot.record.was_committed(entry.entry_id):
        return (
            yield from _finish(entry, context, snapshot.record, decisions.result_of(entry, snapshot.record))
        )
    if snapshot.store_now - entry.marked_at > RETENTION_SECONDS:
        return (yield from _discard(entry, context, "EXPIRED"))
    identity = yield from _identify(entry.tokens)
    if isinstance(identity, AccessTokenRejected):
        return (yield from _renew(entry, context, snapshot))
    if isinstance(identity, Unidentified):
        return (yield from _defer(entry, identity.error))
    if entry.zoom_user_id != identity.user_id:
        entry = replace(entry, zoom_user_id=identity.user_id)
        if entry.tokens.is_exchanged:
            yield AppendJournal(entry)
        if snapshot.record is None or snapshot.record.zoom_user_id != identity.user_id:
            snapshot = yield Read(identity.user_id, replaceable=True)
            if snapshot.record is not None:
                return entry  # the user is identified again after the record was read
    return _Identified(entry, identity, snapshot, snapshot.time_at((yield Now())))


def _store(identified: _Identified, context: LinkContext) -> Protocol[Verdict | Entry]:
    """Write the pair into the Zoom user's record. Return the entry to try again with if the record has changed."""
    entry, snapshot = identified.entry, identified.snapshot
    record, address_lost = snapshot.record, False
    if record is not None and decisions.is_revoking(record, snapshot.store_now, context.timing):
        yield Sleep(POLL_SECONDS)
        return entry
    if record is not None and record.renamed_from:
        yield from _leave_tombstone(record)
        return entry
    while True:
        decision = decisions.link(
            entry,
            identified.zoom_user,
            snapshot,
            identified_at=identified.at,
            seen_generation=context.seen_generation(identified.zoom_user.user_id),
            address_lost=address_lost,
        )
        if not entry.tokens.is_exchanged and decision.result is not LinkResult.LINKED:
            yield from _audit(entry, context.actor, decision.result.value)
            unchanged = record or decisions.blank(identified.zoom_user.user_id, snapshot)
            return Linked(unchanged, decision.result)
        skips = None if entry.tokens.is_exchanged else context.skips
        if record is not None and skips is not None and skips(record):
            return Skipped(record)
        try:
            rev = yield Put(decision.record)
        except UserEmailTaken as conflict:
            address_lost = yield from _take_address(entry, conflict.subject)
            continue
        if rev is None:
            return entry
        linked = replace(decision.record, rev=rev)
        return (yield from _finish(entry, context, linked, decision.result))


def _take_address(entry: Entry, holder_id: str) -> Protocol[bool]:
    """Take the entry's address from a different record. Return whether the record keeps the address because of a later consent."""
    snapshot: Snapshot = yield Read(holder_id, replaceable=True)
    holder = snapshot.record or decisions.blank(holder_id, snapshot)
    if snapshot.rev == 0 or (snapshot.record is not None and holder.user_email != entry.user_email):
        return False
    # without `zoom_email`, Zoom itself reports to whom the address belongs
    if (entry.zoom_email or holder.zoom_email) and holder.address_time > entry.marked_at:
        return True
    unlinked = decisions.without_address(holder, snapshot.store_now)
    if snapshot.record is None or decisions.is_connected(holder):
        generation = 0 if snapshot.record is None else holder.generation
        event = AuditEvent("connection.unlinked", "ok", entry.user_email, ZOOMGATE, generation)
        yield from ending.write_tombstone(unlinked, event)
    else:
        yield Put(unlinked)
    return False


def _finish(
    entry: Entry, context: LinkContext, record: ConnectionRecord, result: LinkResult
) -> Protocol[Linked]:
    """Complete a link whose record is stored. After a crash, this is repeated."""
    yield DropToken(record.user_email)
    if record.renamed_from:
        yield from _leave_tombstone(record)
    generation = record.generation if record.commit_id == entry.entry_id else 0
    yield from _audit(entry, context.actor, result.value, generation)
    if record.user_email != entry.user_email and generation:
        event = AuditEvent("connection.relinked", "ok", record.user_email, ZOOMGATE, details=_details(entry))
        yield Audit(event.with_tokens(generation, entry.tokens.access_token, entry.tokens.refresh_token))
    yield from settle(entry, record.zoom_user_id)
    return Linked(record, result)


def _leave_tombstone(record: ConnectionRecord) -> Protocol[None]:
    """Store the tombstone of a renamed Zoom user's previous address, unless the address is in use again. Then clear `renamed_from`."""
    while True:
        snapshot: Snapshot = yield Read(record.renamed_from, replaceable=True)
        if snapshot.record is not None and snapshot.record.user_email == record.renamed_from:
            break
        tombstone = decisions.address_tombstone(record, snapshot.store_now)
        try:
            if (yield Put(replace(tombstone, rev=snapshot.rev))) is not None:
                break
        except UserEmailTaken:
            break
    yield DropToken(record.renamed_from)
    yield Audit(AuditEvent("connection.unlinked", "ok", record.renamed_from, ZOOMGATE, record.generation))
    current: ConnectionRecord | None = record
    while current is not None and current.renamed_from == record.renamed_from:
        if (yield Put(replace(current, renamed_from=""))) is not None:
            return
        snapshot = yield Read(record.zoom_user_id)
        current = snapshot.record


def settle(entry: Entry, zoom_user_id: str) -> Protocol[None]:
    """Note in the mark which record contains the pair, settle the exchange in its own record, and then delete the journal entry.

    If the store fails, a repetition with the same code or token gets a less precise response, or a revocation is delayed.
    """
    try:
        yield from settle_mark(entry.fingerprint, zoom_user_id)
        yield from unregister(entry.registered_with, entry.epoch, entry.fingerprint)
    except (StoreError, RecordFault):
        pass
    yield DeleteJournal(entry)


def settle_mark(fingerprint: str, zoom_user_id: str) -> Protocol[None]:
    """Note in a mark which record contains the pair, so that a repetition finds it. Delete the mark if no record does."""
    found: Snapshot = yield ReadMark(fingerprint)
    if found.mark is not None and zoom_user_id:
        yield PutMark(replace(found.mark, zoom_user_id=zoom_user_id))
    elif found.mark is not None:
        yield DeleteMark(found.mark)


def unregister(zoom_user_id: str, epoch: int, fingerprint: str = "") -> Protocol[None]:
    """Remove the registration of an exchange from a record.

    Args:
        fingerprint: The exchanged token, if a pair was issued.
    """
    while zoom_user_id:
        snapshot: Snapshot = yield Read(zoom_user_id)
        record = snapshot.record
        if record is None or not any(attempt.epoch == epoch for attempt in record.pending_attempts):
            return
        unregistered = decisions.unregister(record, epoch)
        if (yield Put(decisions.settled(unregistered, fingerprint, snapshot.store_now))) is not None:
            return


def _discard(entry: Entry, context: LinkContext, outcome: str) -> Protocol[Worthless]:
    yield from _audit(entry, context.actor, outcome)
    yield from settle(entry, "")
    return Worthless()


def _audit(entry: Entry, actor: Actor, outcome: str, generation: int = 0) -> Protocol[None]:
    event = AuditEvent("connection.stored", outcome, entry.user_email, actor, details=_details(entry))
    yield Audit(event.with_tokens(generation, entry.tokens.access_token, entry.tokens.refresh_token))


def _details(entry: Entry) -> dict[str, str | int]:
    details: dict[str, str | int] = {"origin": entry.origin.value, "initiated_by": entry.initiated_by}
    return details | ({"zoom_email": entry.zoom_email} if entry.zoom_email else {})


def _identify(tokens: TokenPair) -> Protocol[Identity]:
    """Ask Zoom for the user of a pair. A failed request does not prove that the pair is worthless."""
    identity: Identity = yield ReadZoomUser(tokens.access_token)
    for _ in range(1, IDENTITY_ATTEMPTS):
        if not _is_transient(identity, tokens):
            break
        yield Sleep(IDENTITY_PAUSE_SECONDS)
        identity = yield ReadZoomUser(tokens.access_token)
    return identity


def _is_transient(identity: Identity, tokens: TokenPair) -> bool:
    """Return whether it is worth asking again in a moment."""
    match identity:
        case Unidentified(error):
            return (
                not isinstance(error, ScopeMissing)
                and (error.retry_after or 0.0) <= MAX_IDENTITY_PAUSE_SECONDS
            )
        case AccessTokenRejected():
            return tokens.is_exchanged  # otherwise, the refresh token is exchanged
    return False


def _renew(entry: Entry, context: LinkContext, snapshot: Snapshot) -> Protocol[Verdict | Entry]:
    """Refresh a pair whose access token is rejected. Only the pair's own refresh token can prove that the pair is worthless."""
    if not entry.tokens.is_exchanged:
        return Worthless()
    yield from mark_delivered(entry)
    outcome: TokenOutcome = yield ExchangeRefreshToken(entry.tokens.refresh_token)
    if isinstance(outcome, Issued):
        now = snapshot.time_at((yield Now()))
        tokens = TokenPair.from_response(outcome, now, previous=entry.tokens.refresh_token)
        renewed = replace(entry, tokens=tokens)
        yield AppendJournal(renewed)
        return renewed
    if isinstance(outcome, Rejected):
        record = snapshot.record
        if record is not None and decisions.is_superseded(entry, record):
            return (yield from _finish(entry, context, record, LinkResult.SUPERSEDED))
        return (yield from _discard(entry, context, "REJECTED"))
    return (yield from _defer(entry, error_for(outcome)))


def _defer(entry: Entry, error: ZoomgateError) -> Protocol[Waiting]:
    """Leave a pair in the journal for a later attempt. Until then, nobody sends the code or token again."""
    if entry.tokens.is_exchanged:
        yield from mark_delivered(entry)
        yield ReleaseJournal(entry)
    return Waiting(error, in_journal=entry.tokens.is_exchanged)


def mark_delivered(entry: Entry) -> Protocol[None]:
    """Note in the mark that a journal contains the pair."""
    try:
        found: Snapshot = yield ReadMark(entry.fingerprint)
        if found.mark is not None and not found.mark.delivered:
            yield PutMark(replace(found.mark, delivered=True))
    except (StoreError, RecordFault):
        return  # the mark expires, and Zoom rejects the used code or token
