"""The decisions about a connection's record. Every function returns the record to write, based on the record that was read."""

from dataclasses import dataclass, replace
from enum import StrEnum

from zoomgate_server.connections import refresh_schedule
from zoomgate_server.connections.lifecycle.effects import LeaseTiming, Snapshot, ZoomUser
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

TOMBSTONE_SECONDS = 30 * 24 * 3600.0
"""Time to retain a tombstone, so that late writers detect the disconnection."""

REVOCATION_RETENTION_SECONDS = 24 * 3600.0
"""Maximum time to retain the encrypted tokens of a disconnected user while Zoom does not confirm their revocation. If an exchange with an
unknown outcome delays the revocation beyond this time, it is attempted once."""

UNRESOLVED_SECONDS = 24 * 3600.0
"""Time for which an exchange with an unknown outcome delays the revocation of the user's earlier pairs. Zoom might apply the revocation
to the new grant as well."""

NEAR_CONSENT_SECONDS = 120.0
"""An event of Zoom within this time of a consent does not reveal which of the two happened first. The time covers the timeout of a call and
the difference between the clocks."""

ZOOM_TIME_PRECISION_SECONDS = 2.0
"""Precision of the time of a consent that Zoom reported: a full second, and a second for the difference between the clocks of Zoom's
servers. A later event happened after the consent."""

MAX_SUPERSEDED_PAIRS = 8
MAX_PAIRS_TO_REVOKE = 16
MAX_PENDING_ATTEMPTS = 16
MAX_COMMIT_IDS = 8
MAX_TOKEN_DIGESTS = 32

GRANT_HAS_ENDED = frozenset({Cause.APP_DEAUTHORIZED, Cause.USER_DELETED})
"""Causes after which there is nothing to revoke: removing the app ends the grant, and a deleted user has no grant."""

EVENT_CAUSES = GRANT_HAS_ENDED | {Cause.USER_DEACTIVATED, Cause.USER_DISASSOCIATED}
"""Causes of a disconnection by an event of Zoom. A deactivated user can be reactivated, and a disassociated user has moved to a different
Zoom account, so that Zoom may still accept the grant."""


class LinkResult(StrEnum):
    """What became of a pair, as written to the audit trail.

    The last two are not audited: a record holds or has held the pair of the code or token already, or an imported pair must not replace the
    user's record.
    """

    LINKED = "ok"
    IDENTITY_MISMATCH = "IDENTITY_MISMATCH"
    ZOOM_USER_ALREADY_CONNECTED = "ZOOM_USER_ALREADY_CONNECTED"
    DISCONNECTED = "DISCONNECTED"
    SUPERSEDED = "SUPERSEDED"
    KNOWN = "KNOWN"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class Linked:
    """What became of a pair, and the record that contains the pair or decides about it."""

    record: ConnectionRecord
    result: LinkResult


def is_connected(record: ConnectionRecord | None) -> bool:
    """Return whether a record is a connection, as opposed to a tombstone or no record."""
    return record is not None and record.state is not State.DISCONNECTED


def link(
    entry: Entry,
    zoom_user: ZoomUser,
    snapshot: Snapshot,
    *,
    identified_at: float,
    seen_generation: int,
    address_lost: bool,
) -> Linked:
    """Decide where the pair of a consent, code exchange or import belongs. The snapshot is of the Zoom user's record.

    The pair was verified after the record was read. If Zoom ends earlier grants at a consent, the verified pair is therefore newer than the
    pairs of the record; otherwise both are valid. In both cases it becomes the next grant.

    Args:
        identified_at: When Zoom identified the user. Earlier events of Zoom do not concern the pair.
        seen_generation: The latest generation of the connection that this process has seen.
        address_lost: Whether a later consent of a different Zoom user has taken the address.
    """
    record, now = snapshot.record, snapshot.store_now
    zoom_email = entry.zoom_email
    if is_connected(record) and record is not None and record.user_email == entry.user_email:
        # the Zoom address that an earlier authorization named still applies
        zoom_email = zoom_email or record.zoom_email
    is_requested = not address_lost and zoom_user.email == (zoom_email or entry.user_email)
    if (record is not None and _ended_since(record, entry)) or not (is_requested or is_connected(record)):
        return Linked(
            _revocable(entry, zoom_user, snapshot),
            LinkResult.DISCONNECTED if is_requested else LinkResult.IDENTITY_MISMATCH,
        )
    address, result, renamed_from = entry.user_email, LinkResult.LINKED, ""
    if record is None:  # the address of a corrupt record ends as well
        renamed_from = "" if snapshot.user_email == address else snapshot.user_email
    elif is_connected(record):
        if not is_requested:
            address, result = record.user_email, LinkResult.IDENTITY_MISMATCH
        elif record.user_email != address and not record.zoom_email and record.user_email != zoom_user.email:
            renamed_from = record.user_email
        elif record.user_email != address:
            address, result = record.user_email, LinkResult.ZOOM_USER_ALREADY_CONNECTED
    keeps_name = result is not LinkResult.LINKED and record is not None
    is_refresh, is_ownerless_import = entry.grant != "", entry.origin is Origin.IMPORT and entry.owner is None
    keeps_owner = is_connected(record) and (is_refresh or is_ownerless_import)
    previous = record or blank(zoom_user.user_id, snapshot)
    address_time = entry.marked_at
    if is_connected(record) and previous.user_email == address:  # an earlier consent may be stored later
        address_time = max(previous.address_time, address_time)
    if entry.registered_with == previous.zoom_user_id:
        previous = unregister(previous, entry.epoch)
    tokens = entry.tokens
    linked = replace(
        previous,
        user_email=address,
        state=State.ACTIVE,
        cause=None,
        last_error=None,
        grant=entry.entry_id,
        generation=max(snapshot.generation, seen_generation) + 1,
        lease=None,
        commit_id=entry.entry_id,
        previous_commit_ids=with_commit_id(previous.commit_id, previous),
        create_time=previous.create_time if is_connected(record) else now,
        consent_time=identified_at,
        zoom_consent_time=zoom_user.reported_at,
        update_time=now,
        refresh_time=tokens.obtained_at,
        access_expire_at=tokens.access_expire_at,
        tokens=tokens,
        alternate_pairs=(),
        used_token_digests=(entry.fingerprint, *previous.used_token_digests)[:MAX_TOKEN_DIGESTS],
        superseded_pairs=_distinct(previous.all_pairs, MAX_SUPERSEDED_PAIRS),
        pairs_to_revoke=(),
        revoke_until=None,
        owner=previous.owner if keeps_name or keeps_owner else entry.owner,
        zoom_email=previous.zoom_email if keeps_name else zoom_email,
        address_time=previous.address_time if keeps_name else address_time,
        renamed_from=renamed_from or previous.renamed_from,
        zoom_account_id=zoom_user.account_id,
        initiated_by=previous.initiated_by if keeps_name else entry.initiated_by,
        due_at=refresh_schedule.due_at(zoom_user.user_id, tokens, now),
        expire_at=None,
    )
    return Linked(linked, result)


def result_of(entry: Entry, record: ConnectionRecord) -> LinkResult:
    """Return what became of the pair of an entry, from the record in which the pair was stored earlier."""
    if record.user_email != entry.user_email:
        requested, stored = (one.zoom_email or one.user_email for one in (entry, record))
        is_requested = requested == stored
        return LinkResult.ZOOM_USER_ALREADY_CONNECTED if is_requested else LinkResult.IDENTITY_MISMATCH
    is_linked = is_connected(record) or record.grant == entry.entry_id
    return LinkResult.LINKED if is_linked else LinkResult.DISCONNECTED


def is_superseded(entry: Entry, record: ConnectionRecord) -> bool:
    """Return whether a rejected pair was replaced by a later consent of its Zoom user, so that the user remains connected."""
    return (
        record.state is State.ACTIVE
        and record.zoom_user_id == entry.zoom_user_id
        and record.consent_time >= entry.marked_at
    )


def with_commit_id(commit_id: str, record: ConnectionRecord) -> tuple[str, ...]:
    """Return the previous commit IDs of a record with another one.

    By these IDs, a journal entry is recognized even if it is replayed long after its commit.
    """
    return (commit_id, *record.previous_commit_ids)[:MAX_COMMIT_IDS]


def late_pair(record: ConnectionRecord, entry: Entry, now: float) -> ConnectionRecord:
    """Return the record with a refreshed pair whose grant has ended or was superseded in the meantime.

    No caller receives the pair. After a disconnection it is revoked; otherwise, it is retained until the next disconnection.
    """
    committed = replace(
        unregister(record, entry.epoch), previous_commit_ids=with_commit_id(entry.entry_id, record)
    )
    if is_connected(record):
        return replace(
            committed,
            superseded_pairs=_distinct((entry.tokens, *record.superseded_pairs), MAX_SUPERSEDED_PAIRS),
        )
    return _with_pairs_to_revoke(committed, (entry.tokens, *record.pairs_to_revoke), now)


def register(record: ConnectionRecord, now: float) -> ConnectionRecord:
    """Return the record with a pending attempt for an exchange on behalf of its user. It delays the revocation of the user's pairs."""
    pending = (*record.pending_attempts, PendingAttempt(epoch=record.epoch + 1, started_at=now))
    return replace(record, epoch=record.epoch + 1, pending_attempts=pending[-MAX_PENDING_ATTEMPTS:])


def unregister(record: ConnectionRecord, epoch: int) -> ConnectionRecord:
    """Return the record without the pending attempt of an exchange."""
    pending = tuple(attempt for attempt in record.pending_attempts if attempt.epoch != epoch)
    return replace(record, pending_attempts=pending)


def settled(record: ConnectionRecord, fingerprint: str, now: float) -> ConnectionRecord:
    """Return the record after the pair that was issued for a token is stored or discarded.

    If the record contains the token, only the access token of the imported pair was verified, and the refresh token belongs to a different
    user. A consent is required then.
    """
    tokens = record.tokens
    if tokens is None or tokens.is_exchanged or digest_of(tokens.refresh_token) != fingerprint:
        return record
    error = LastError("ZOOM_REAUTH_REQUIRED", "The refresh token belongs to a different Zoom user", now)
    return replace(
        record,
        state=State.REAUTH_REQUIRED,
        cause=Cause.REJECTED,
        last_error=error,
        lease=None,
        update_time=now,
    )


def around_consent(record: ConnectionRecord) -> tuple[float, float]:
    """Return the earliest and latest time of an event of Zoom that may have happened before or after the latest consent."""
    if record.zoom_consent_time is None:
        return record.consent_time - NEAR_CONSENT_SECONDS, record.consent_time + NEAR_CONSENT_SECONDS
    latest = record.zoom_consent_time + ZOOM_TIME_PRECISION_SECONDS
    return record.zoom_consent_time - NEAR_CONSENT_SECONDS, latest


def end(record: ConnectionRecord, cause: Cause, now: float) -> ConnectionRecord:
    """Return the tombstone of a connection.

    All pairs are retained until they are revoked, since any of them may be valid. An event does not apply to exchanges under way, for which
    the revocation waits.
    """
    pairs = () if cause in GRANT_HAS_ENDED else record.all_pairs
    tombstone = replace(
        record,
        state=State.DISCONNECTED,
        cause=cause,
        generation=record.generation + 1,
        tokens=None,
        alternate_pairs=(),
        superseded_pairs=(),
        pairs_to_revoke=(),
        revoke_until=None,
        lease=None,
        pending_attempts=record.pending_attempts if cause in EVENT_CAUSES else (),
        last_error=None,
        update_time=now,
        access_expire_at=None,
        due_at=None,
        expire_at=now + TOMBSTONE_SECONDS,
    )
    return _with_pairs_to_revoke(tombstone, pairs, now)


def without_address(record: ConnectionRecord, now: float) -> ConnectionRecord:
    """Return the record of a Zoom user whose address a different Zoom user has taken.

    A connection ends without a cause: unlike a disconnection, this does not apply to a consent that the Zoom user gives elsewhere.
    """
    ended = replace(end(record, Cause.REVOKED, now), cause=None) if is_connected(record) else record
    return replace(ended, user_email="")


def address_tombstone(record: ConnectionRecord, now: float) -> ConnectionRecord:
    """Return the tombstone of the address that a renamed Zoom user no longer has. It contains no tokens."""
    return ConnectionRecord(
        zoom_user_id=record.renamed_from,
        user_email=record.renamed_from,
        state=State.DISCONNECTED,
        cause=Cause.REVOKED,
        grant=record.grant,
        generation=record.generation,
        create_time=record.create_time,
        consent_time=record.consent_time,
        update_time=now,
        refresh_time=record.refresh_time,
        owner=record.owner,
        initiated_by=record.initiated_by,
        expire_at=now + TOMBSTONE_SECONDS,
    )


def active_lease(record: ConnectionRecord, now: float, timing: LeaseTiming) -> Lease | None:
    """Return the lease that a process holds. A lease that expires much later than any new lease came from a wrong clock."""
    lease = record.lease
    return lease if lease is not None and now < lease.expire_at <= now + 2 * timing.lease else None


def is_revoking(record: ConnectionRecord, now: float, timing: LeaseTiming) -> bool:
    """Return whether a process is revoking the pairs of a tombstone. Zoom might apply the revocation to a new grant as well."""
    return not is_connected(record) and active_lease(record, now, timing) is not None


def is_revocation_due(record: ConnectionRecord, now: float, timing: LeaseTiming) -> bool:
    """Return whether pairs of a tombstone can be revoked now.

    No other process may hold the lease, and no recent exchange may have an unknown outcome.
    """
    return (
        record.state is State.DISCONNECTED
        and bool(record.pairs_to_revoke)
        and active_lease(record, now, timing) is None
        and all(now - attempt.started_at >= UNRESOLVED_SECONDS for attempt in record.pending_attempts)
    )


def without_pairs(record: ConnectionRecord, revoked: tuple[TokenPair, ...]) -> ConnectionRecord:
    """Return a tombstone without the lease and without revoked pairs."""
    remaining = tuple(pair for pair in record.pairs_to_revoke if pair not in revoked)
    return replace(
        record,
        lease=None,
        pairs_to_revoke=remaining,
        revoke_until=record.revoke_until if remaining else None,
        due_at=record.due_at if remaining else None,
    )


def _ended_since(record: ConnectionRecord, entry: Entry) -> bool:
    """Return whether a caller or the retention disconnected the user after the exchange of an entry had begun."""
    return (
        record.state is State.DISCONNECTED
        and record.cause is not None
        and record.cause not in EVENT_CAUSES
        and entry.marked_at <= record.update_time
    )


def _revocable(entry: Entry, zoom_user: ZoomUser, snapshot: Snapshot) -> ConnectionRecord:
    """Return the record of a Zoom user without a connection, with the pair of an entry to be revoked."""
    record = snapshot.record or blank(zoom_user.user_id, snapshot)
    committed = replace(
        record,
        grant=record.grant or entry.entry_id,
        previous_commit_ids=with_commit_id(entry.entry_id, record),
    )
    return _with_pairs_to_revoke(committed, (entry.tokens, *record.pairs_to_revoke), snapshot.store_now)


def _with_pairs_to_revoke(
    tombstone: ConnectionRecord, pairs: tuple[TokenPair, ...], now: float
) -> ConnectionRecord:
    if not pairs:
        return tombstone
    return replace(
        tombstone,
        pairs_to_revoke=_distinct(pairs, MAX_PAIRS_TO_REVOKE),
        revoke_until=now + REVOCATION_RETENTION_SECONDS,
        due_at=now,
        expire_at=now + TOMBSTONE_SECONDS,
    )


def blank(zoom_user_id: str, snapshot: Snapshot) -> ConnectionRecord:
    """Return an empty record for a Zoom user without a record, or with a corrupt one."""
    now = snapshot.store_now
    return ConnectionRecord(
        zoom_user_id=zoom_user_id,
        user_email="",
        state=State.DISCONNECTED,
        grant="",
        generation=snapshot.generation,
        create_time=now,
        consent_time=now,
        update_time=now,
        refresh_time=now,
        rev=snapshot.rev,
    )


def _distinct(pairs: tuple[TokenPair, ...], limit: int) -> tuple[TokenPair, ...]:
    return tuple(dict.fromkeys(pairs))[:limit]
