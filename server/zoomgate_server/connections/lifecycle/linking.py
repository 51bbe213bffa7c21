"""The protocol that stores the pair of a consent, code exchange or import in the connection of its Zoom user.

Zoom identifies the user of the pair after the record that will be overwritten has been read, and the record is written only if it has not
changed since. A pair that a later consent has invalidated is therefore never stored over the later pair, whatever the order in which
responses and writes arrive.

A pair that was exchanged is in the journal until a record contains it, or until it is known to be worthless.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from zoomgate_server.audit.event import ZOOMGATE, Actor, AuditEvent
from zoomgate_server.backoff import Backoff
from zoomgate_server.connections.exchange_mark import RETENTION_SECONDS
from zoomgate_server.connections.lifecycle import decisions, ending
from zoomgate_server.connections.lifecycle.decisions import Linked, LinkResult
from zoomgate_server.connections.lifecycle.effects import (
    POLL_SECONDS,
    AppendJournal,
    Audit,
    DeleteJournal,
    DeleteMark,
    DropToken,
    ExchangeRefreshToken,
    Find,
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
    ZoomUser,
)
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import RecordFault, ScopeMissing, ZoomgateError, ZoomUnavailable
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


def link(entry: Entry, context: LinkContext, known: Snapshot | None = None) -> Protocol[Linked | None]:
    """Identify the user of a pair, and store the pair. Return None if Zoom no longer accepts the pair, which was discarded.

    If the store fails, retry once; if the pair was exchanged, retry until the store responds.

    Args:
        known: The record of the entry's address, if it was just read.

    Raises:
        ZoomgateError: The user cannot be identified now. An exchanged pair waits in the journal, and is linked later.
        StoreError: The store failed twice; a pair that was not exchanged may have been stored.
    """
    backoff = Backoff(MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS)
    issued, has_failed = entry.tokens, False
    while True:
        try:
            result = yield from _link_once(entry, context, backoff, known, is_renewed=entry.tokens != issued)
        except (StoreError, RecordFault) as error:
            if has_failed and not entry.tokens.is_exchanged:
                yield from _audit(entry, context.actor, "STORE_UNAVAILABLE")  # the pair may have been stored
                raise
            if isinstance(error, RecordFault):
                return (yield from _defer(entry, error))
            has_failed, result = True, entry
            yield Sleep(backoff.next_pause())
        if not isinstance(result, Entry):
            return result
        entry, known = result, None
        if entry.tokens.is_exchanged:
            yield from _mark_delivered(entry)  # further attempts may take longer than the mark is valid


def _link_once(
    entry: Entry, context: LinkContext, backoff: Backoff, known: Snapshot | None, *, is_renewed: bool
) -> Protocol[Linked | Entry | None]:
    """Identify the user of a pair, and store the pair.

    Return the entry to try again with if the pair or a record has changed, or if an exchanged pair could not be written.
    """
    snapshot: Snapshot = known or (
        yield (
            Read(entry.zoom_user_id, replaceable=True)
            if entry.zoom_user_id
            else Find(entry.user_email, replaceable=True)
        )
    )
    record = snapshot.record
    if record is not None and record.was_committed(entry.entry_id):
        return (yield from _finish(entry, context, record, decisions.result_of(entry, record)))
    if snapshot.store_now - entry.marked_at > RETENTION_SECONDS:
        yield from _discard(entry, context, "EXPIRED")
        return None
    try:
        zoom_user = yield from _identify(entry.tokens)
        if zoom_user is None and is_renewed:
            raise ZoomUnavailable("Zoom rejects new access tokens", retry_after=MAX_IDENTITY_PAUSE_SECONDS)
    except ZoomgateError as error:
        return (yield from _defer(entry, error))
    if zoom_user is None:
        return (yield from _renew(entry, context, snapshot))
    if entry.zoom_user_id != zoom_user.user_id:
        entry = replace(entry, zoom_user_id=zoom_user.user_id)
        if entry.tokens.is_exchanged:
            yield AppendJournal(entry)
        # without a record of the address, the write finds out whether the Zoom user has one
        if snapshot.rev and (record is None or record.zoom_user_id != zoom_user.user_id):
            snapshot = yield Read(zoom_user.user_id, replaceable=True)
            if snapshot.record is not None:
                return entry  # the user is identified again after the record was read
    identified_at = snapshot.time_at((yield Now()))
    try:
        return (yield from _store(entry, context, snapshot, zoom_user, identified_at))
    except StoreError:
        if not entry.tokens.is_exchanged:
            raise
        yield Sleep(backoff.next_pause())
        return entry


def _store(
    entry: Entry, context: LinkContext, snapshot: Snapshot, zoom_user: ZoomUser, identified_at: float
) -> Protocol[Linked | Entry]:
    """Write the pair into the Zoom user's record. Return the entry to try again with if the record has changed."""
    record, address_lost = snapshot.record, False
    if record is not None and decisions.is_revoking(record, snapshot.store_now, context.timing):
        yield Sleep(POLL_SECONDS)
        return entry
    if record is not None and record.renamed_from:
        yield from _leave_tombstone(record)
        return entry
    while True:
        linked = decisions.link(
            entry,
            zoom_user,
            snapshot,
            identified_at=identified_at,
            seen_generation=context.seen_generation(zoom_user.user_id),
            address_lost=address_lost,
        )
        if not entry.tokens.is_exchanged and linked.result is not LinkResult.LINKED:
            yield from _audit(entry, context.actor, linked.result.value)
            return replace(linked, record=record or decisions.blank(zoom_user.user_id, snapshot))
        skips = None if entry.tokens.is_exchanged else context.skips
        if record is not None and skips is not None and skips(record):
            return Linked(record, LinkResult.SKIPPED)
        try:
            rev = yield Put(linked.record)
        except UserEmailTaken as conflict:
            address_lost = yield from _take_address(entry, conflict.subject)
            continue
        if rev is None:
            return entry
        return (yield from _finish(entry, context, replace(linked.record, rev=rev), linked.result))


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
    yield from release(entry, record.zoom_user_id)
    if entry.tokens.is_exchanged:
        yield DeleteJournal(entry)
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


def release(entry: Entry, zoom_user_id: str = "") -> Protocol[None]:
    """Note in the mark which record contains the pair, or delete the mark if no record does; and unregister the exchange.

    If the store fails, repeat this until the mark of an exchanged pair names its record: once the mark has expired, the used code or token
    would be sent again. Otherwise, a failure only delays a revocation, or makes the response to a repetition less precise.
    """
    backoff = Backoff(MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS)
    while True:
        try:
            return (yield from _release_once(entry, zoom_user_id))
        except RecordFault:
            return
        except StoreError:
            if not (zoom_user_id and entry.tokens.is_exchanged):
                return
        yield Sleep(backoff.next_pause())


def _release_once(entry: Entry, zoom_user_id: str) -> Protocol[None]:
    found: Snapshot = yield ReadMark(entry.fingerprint)
    mark = found.mark
    if mark is not None and zoom_user_id:
        yield PutMark(replace(mark, zoom_user_id=zoom_user_id))
    elif mark is not None and mark.holder == entry.entry_id and not mark.zoom_user_id:
        yield DeleteMark(mark)
    yield from _unregister(entry)


def _unregister(entry: Entry) -> Protocol[None]:
    """Remove the registration of an exchange from the record."""
    while entry.registered_with:
        snapshot: Snapshot = yield Read(entry.registered_with)
        record = snapshot.record
        if record is None or not any(attempt.epoch == entry.epoch for attempt in record.pending_attempts):
            return
        unregistered = decisions.unregister(record, entry.epoch)
        if (yield Put(decisions.settled(unregistered, entry.fingerprint, snapshot.store_now))) is not None:
            return


def _discard(entry: Entry, context: LinkContext, outcome: str) -> Protocol[None]:
    yield from _audit(entry, context.actor, outcome)
    yield from release(entry)
    yield DeleteJournal(entry)


def _audit(entry: Entry, actor: Actor, outcome: str, generation: int = 0) -> Protocol[None]:
    event = AuditEvent("connection.stored", outcome, entry.user_email, actor, details=_details(entry))
    yield Audit(event.with_tokens(generation, entry.tokens.access_token, entry.tokens.refresh_token))


def _details(entry: Entry) -> dict[str, str | int]:
    details: dict[str, str | int] = {"origin": entry.origin.value, "initiated_by": entry.initiated_by}
    return details | ({"zoom_email": entry.zoom_email} if entry.zoom_email else {})


def _identify(tokens: TokenPair) -> Protocol[ZoomUser | None]:
    """Ask Zoom for the user of a pair, or return None if Zoom rejects the access token.

    A single failure or rejection proves nothing. If Zoom rejects a pair that was not exchanged, its refresh token can be exchanged instead.
    """
    for _ in range(1, IDENTITY_ATTEMPTS):
        try:
            zoom_user: ZoomUser | None = yield ReadZoomUser(tokens.access_token)
            if zoom_user is not None or not tokens.is_exchanged:
                return zoom_user
        except ZoomgateError as error:
            is_pause_too_long = (error.retry_after or 0.0) > MAX_IDENTITY_PAUSE_SECONDS
            if is_pause_too_long or isinstance(error, ScopeMissing):
                raise
        yield Sleep(IDENTITY_PAUSE_SECONDS)
    zoom_user = yield ReadZoomUser(tokens.access_token)
    return zoom_user


def _renew(entry: Entry, context: LinkContext, snapshot: Snapshot) -> Protocol[Linked | Entry | None]:
    """Refresh a pair whose access token is rejected. Only the pair's own refresh token can prove that the pair is worthless."""
    if not entry.tokens.is_exchanged:
        return None
    yield from _mark_delivered(entry)
    outcome: TokenOutcome = yield ExchangeRefreshToken(entry.tokens.refresh_token)
    if isinstance(outcome, Issued):
        now = snapshot.time_at((yield Now()))
        tokens = TokenPair.from_response(outcome, now, previous=entry.tokens.refresh_token)
        renewed = replace(entry, tokens=tokens)
        yield AppendJournal(renewed)
        return renewed
    if not isinstance(outcome, Rejected):
        return (yield from _defer(entry, error_for(outcome)))
    record = snapshot.record
    if record is not None and decisions.is_superseded(entry, record):
        return (yield from _finish(entry, context, record, LinkResult.SUPERSEDED))
    yield from _discard(entry, context, "REJECTED")
    return None


def _defer(entry: Entry, error: ZoomgateError) -> Protocol[NoReturn]:
    """Leave an exchanged pair in the journal for a later attempt, and raise the error. Until then, the code or token is not sent again."""
    if entry.tokens.is_exchanged:
        yield from _mark_delivered(entry)
        yield ReleaseJournal(entry)
    raise error


def _mark_delivered(entry: Entry) -> Protocol[None]:
    """Note in the mark that a journal contains the pair."""
    try:
        found: Snapshot = yield ReadMark(entry.fingerprint)
        if found.mark is not None and not found.mark.delivered:
            yield PutMark(replace(found.mark, delivered=True))
    except (StoreError, RecordFault):
        return  # the mark expires, and Zoom rejects the used code or token
