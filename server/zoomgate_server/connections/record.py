"""Connections as stored, and their codec."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from zoomgate_server.connections import token_pair
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.envelope import Envelope, key_id_of, unreadable
from zoomgate_server.storage.record_store import TOMBSTONE_STATE, Kind, Record, RecordKey


class State(StrEnum):
    """Whether Zoomgate can act for the user."""

    ACTIVE = "ACTIVE"
    REAUTH_REQUIRED = "REAUTH_REQUIRED"
    DISCONNECTED = TOMBSTONE_STATE


class Cause(StrEnum):
    """Why a new consent is required, or why the user was disconnected."""

    REJECTED = "REJECTED"
    OUTCOME_LOST = "OUTCOME_LOST"
    REVOKED = "REVOKED"
    SCOPE = "SCOPE"
    APP_DEAUTHORIZED = "APP_DEAUTHORIZED"
    USER_DELETED = "USER_DELETED"
    USER_DEACTIVATED = "USER_DEACTIVATED"
    USER_DISASSOCIATED = "USER_DISASSOCIATED"


_REVOCATION_CAUSES = frozenset(
    {Cause.APP_DEAUTHORIZED, Cause.USER_DELETED, Cause.USER_DEACTIVATED, Cause.USER_DISASSOCIATED}
)
"""Stored as REVOKED, with the specific cause in a field of its own. A release that does not know the specific cause reads REVOKED."""


@dataclass(frozen=True, slots=True)
class LastError:
    """The latest refresh failure.

    Attributes:
        reason: An `ErrorReason` name without its prefix.
        message: One sentence, at most 200 characters.
        time: Seconds since 1970.
    """

    reason: str
    message: str
    time: float


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one process to refresh the tokens, until a time of the store's clock."""

    holder: str
    epoch: int
    until: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A refresh that was started at a time of the store's clock and whose outcome is not known yet."""

    epoch: int
    at: float


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """A connection.

    Times are in seconds since 1970 by the store's clock.

    Attributes:
        user_email: The user's email address in canonical form.
        rev: The revision that was read. 0 for a new connection.
        read_update_time: The stored `update_time` when the connection was read; a different `update_time` on write is a visible change.
            None for a new connection.
        state: Whether the connection can be used.
        cause: Why it cannot be used, or None.
        grant: ID of the consent that the tokens come from.
        generation: Number of token pairs stored so far.
        epoch: Lease epoch: number of refresh attempts so far.
        lease: The current lease, or None.
        pending: Refresh attempts whose outcome is not known yet.
        commit_id: ID of the attempt that stored the current pair, by which that attempt recognizes its own write.
        previous_commit_ids: Commit IDs of earlier pairs of this grant, latest first. Only a few are retained.
        recent_refreshes: Times of the refreshes of the last hour.
        create_time: When the user first connected.
        consent_time: When the user last consented, or when tokens were last imported.
        update_time: When anything visible last changed.
        refresh_time: When the current pair was issued.
        access_expire_at: When the access token of the current pair expires. None without a pair.
        last_error: The latest refresh failure. None after a success.
        tokens: The current pair, or None.
        alternate_pairs: Other pairs that may be the valid one, latest first.
        owner: Identity of the member that the connection belongs to, or None.
        zoom_user_id: Zoom's user ID.
        zoom_account_id: Zoom's account ID of the user.
        initiated_by: Identity of the caller that started the authorization.
        revoking: The pair of a disconnected user, until Zoom has confirmed its revocation.
        revoke_until: When to stop trying to revoke that pair.
        due_at: When the record needs attention next: an active connection for a proactive refresh, a tombstone for the revocation of its
            pair. None if it needs none.
        expire_at: When the record may be deleted.
    """

    user_email: str
    state: State
    grant: str
    generation: int
    create_time: float
    consent_time: float
    update_time: float
    refresh_time: float
    rev: int = 0
    read_update_time: float | None = field(default=None, compare=False)
    cause: Cause | None = None
    epoch: int = 0
    lease: Lease | None = None
    pending: tuple[Attempt, ...] = ()
    commit_id: str = ""
    previous_commit_ids: tuple[str, ...] = ()
    recent_refreshes: tuple[float, ...] = ()
    access_expire_at: float | None = None
    last_error: LastError | None = None
    tokens: TokenPair | None = field(default=None, repr=False)
    alternate_pairs: tuple[TokenPair, ...] = field(default=(), repr=False)
    owner: str | None = None
    zoom_user_id: str | None = None
    zoom_account_id: str | None = None
    initiated_by: str = ""
    revoking: TokenPair | None = field(default=None, repr=False)
    revoke_until: float | None = None
    due_at: float | None = None
    expire_at: float | None = None

    def was_committed(self, commit_id: str) -> bool:
        """Return whether an attempt stored the current pair or one of the previous pairs of this grant."""
        return commit_id in (self.commit_id, *self.previous_commit_ids)


def encode(envelope: Envelope, connection: ConnectionRecord) -> Record:
    """Seal a connection. The sealed part contains everything that decides who may use the connection, including the state."""
    key = RecordKey(envelope.app, Kind.USER, connection.user_email)
    value = envelope.seal(
        key,
        grant=connection.grant,
        generation=connection.generation,
        header={
            "lease_epoch": connection.epoch,
            "lease": None if connection.lease is None else _lease_to_fields(connection.lease),
            "pending_attempts": [_attempt_to_fields(attempt) for attempt in connection.pending],
            "commit_id": connection.commit_id,
            "previous_commit_ids": connection.previous_commit_ids,
            "recent_refresh_times": connection.recent_refreshes,
            "create_time": connection.create_time,
            "consent_time": connection.consent_time,
            "update_time": connection.update_time,
            "refresh_time": connection.refresh_time,
            "access_expire_at": connection.access_expire_at,
            **_cause_to_fields(connection.cause),
            "last_error": None if connection.last_error is None else _error_to_fields(connection.last_error),
            "revoke_until": connection.revoke_until,
        },
        secret={
            "state": connection.state,
            "tokens": _pair_to_fields(connection.tokens),
            "alternate_pairs": [token_pair.to_fields(pair) for pair in connection.alternate_pairs],
            "owner": connection.owner,
            "zoom_user_id": connection.zoom_user_id,
            "zoom_account_id": connection.zoom_account_id,
            "initiated_by": connection.initiated_by,
            "pair_to_revoke": _pair_to_fields(connection.revoking),
        },
    )
    return Record(
        key=key,
        value=value,
        rev=connection.rev,
        state=connection.state.value,
        key_id=key_id_of(value),
        zoom_user_id=connection.zoom_user_id,
        changed_at=connection.update_time,
        due_at=connection.due_at,
        expire_at=connection.expire_at,
    )


def decode(envelope: Envelope, record: Record) -> ConnectionRecord:
    """Open a connection.

    Raises:
        RecordUnreadable: The value is corrupt, or the record's columns disagree with the sealed part.
        RecordVersionUnsupported, KeyUnavailable: As for `Envelope.open`.
    """
    opened = envelope.open(record)
    header, secret = opened.header, opened.secret
    try:
        connection = ConnectionRecord(
            user_email=record.key.subject,
            rev=record.rev,
            read_update_time=header["update_time"],
            state=State(secret["state"]),
            grant=opened.grant,
            generation=opened.generation,
            cause=_cause_from_fields(header),
            epoch=header["lease_epoch"],
            lease=None if header["lease"] is None else _lease_from_fields(header["lease"]),
            pending=tuple(map(_attempt_from_fields, header["pending_attempts"])),
            commit_id=header["commit_id"],
            previous_commit_ids=tuple(header["previous_commit_ids"]),
            recent_refreshes=tuple(header["recent_refresh_times"]),
            create_time=header["create_time"],
            consent_time=header["consent_time"],
            update_time=header["update_time"],
            refresh_time=header["refresh_time"],
            access_expire_at=header["access_expire_at"],
            last_error=None if header["last_error"] is None else _error_from_fields(header["last_error"]),
            tokens=_pair_from_fields(secret["tokens"]),
            alternate_pairs=tuple(map(token_pair.from_fields, secret["alternate_pairs"])),
            owner=secret["owner"],
            zoom_user_id=secret["zoom_user_id"],
            zoom_account_id=secret["zoom_account_id"],
            initiated_by=secret["initiated_by"],
            revoking=_pair_from_fields(secret["pair_to_revoke"]),
            revoke_until=header["revoke_until"],
            due_at=record.due_at,
            expire_at=record.expire_at,
        )
    except (KeyError, TypeError, ValueError):
        raise unreadable(record.key) from None
    if (connection.state.value, connection.zoom_user_id) != (record.state, record.zoom_user_id):
        raise unreadable(record.key)
    return connection


def _lease_to_fields(lease: Lease) -> dict[str, Any]:
    return {"holder": lease.holder, "epoch": lease.epoch, "expire_at": lease.until}


def _lease_from_fields(fields: Mapping[str, Any]) -> Lease:
    return Lease(holder=fields["holder"], epoch=fields["epoch"], until=fields["expire_at"])


def _attempt_to_fields(attempt: Attempt) -> dict[str, Any]:
    return {"epoch": attempt.epoch, "started_at": attempt.at}


def _attempt_from_fields(fields: Mapping[str, Any]) -> Attempt:
    return Attempt(epoch=fields["epoch"], at=fields["started_at"])


def _cause_to_fields(cause: Cause | None) -> dict[str, Any]:
    specific = cause in _REVOCATION_CAUSES
    return {"cause": Cause.REVOKED if specific else cause, "revocation_cause": cause if specific else None}


def _cause_from_fields(fields: Mapping[str, Any]) -> Cause | None:
    """Read the cause. A specific cause that a later release added reads as REVOKED."""
    if fields["revocation_cause"] in _REVOCATION_CAUSES:
        return Cause(fields["revocation_cause"])
    return None if fields["cause"] is None else Cause(fields["cause"])


def _error_to_fields(error: LastError) -> dict[str, Any]:
    return {"reason": error.reason, "message": error.message, "time": error.time}


def _error_from_fields(fields: Mapping[str, Any]) -> LastError:
    return LastError(reason=fields["reason"], message=fields["message"], time=fields["time"])


def _pair_to_fields(pair: TokenPair | None) -> dict[str, Any] | None:
    return None if pair is None else token_pair.to_fields(pair)


def _pair_from_fields(fields: Mapping[str, Any] | None) -> TokenPair | None:
    return None if fields is None else token_pair.from_fields(fields)
