"""What is stored about a connection, and how it becomes a record and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.envelope import Envelope, key_id_of, unreadable
from zoomgate_server.storage.record_store import TOMBSTONE_STATE, Kind, Record, RecordKey


class State(StrEnum):
    """Whether Zoomgate can act for the person."""

    ACTIVE = "ACTIVE"
    REAUTH_REQUIRED = "REAUTH_REQUIRED"
    DISCONNECTED = TOMBSTONE_STATE


class Cause(StrEnum):
    """Why consent is needed again, or why the connection ended."""

    REJECTED = "REJECTED"
    OUTCOME_LOST = "OUTCOME_LOST"
    REVOKED = "REVOKED"
    SCOPE = "SCOPE"
    APP_DEAUTHORIZED = "APP_DEAUTHORIZED"
    USER_DELETED = "USER_DELETED"
    USER_DEACTIVATED = "USER_DEACTIVATED"
    USER_DISASSOCIATED = "USER_DISASSOCIATED"


_KINDS_OF_REVOKED = frozenset(
    {Cause.APP_DEAUTHORIZED, Cause.USER_DELETED, Cause.USER_DEACTIVATED, Cause.USER_DISASSOCIATED}
)
"""Stored as REVOKED, with a field beside it that says which: releases that know none of them can read the record."""


@dataclass(frozen=True, slots=True)
class LastError:
    """The latest failure of a refresh.

    Attributes:
        reason: A name of the error vocabulary, without its prefix.
        message: One sentence, at most 200 characters.
        time: Seconds since 1970.
    """

    reason: str
    message: str
    time: float


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may refresh, and until when by the store's clock."""

    holder: str
    epoch: int
    until: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A refresh that was begun at a time of the store's clock and whose outcome is not known yet."""

    epoch: int
    at: float


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """A connection.

    Times are seconds since 1970 by the store's clock.

    Attributes:
        user_email: Whose it is, in canonical form.
        rev: Revision it was read at; 0 for one that is not stored yet.
        read_update_time: `update_time` as it was read: another one now is a visible change. None for one that is not stored yet.
        state: Whether it can be used.
        cause: Why not, or None.
        grant: The consent that it comes from.
        generation: Counts stored token pairs.
        epoch: Counts attempts to refresh.
        lease: Who may refresh now, or None.
        pending: Attempts without a known outcome.
        commit_id: The attempt that stored the current pair, so that it recognises its own write.
        earlier_commits: Attempts before it whose pairs this grant had, newest first; a few.
        recent_refreshes: When the refreshes of the last hour were.
        create_time: When the person first connected.
        consent_time: When they last consented, or when a pair was last brought in.
        update_time: When anything visible last changed.
        refresh_time: When the current pair was issued.
        access_expire_at: When its access token expires, or None without a pair.
        last_error: The latest failure, or None after a success.
        tokens: The current pair, or None.
        spares: Pairs beside it that may be the living one, newest first.
        owner: Identity of the member it belongs to, or None.
        zoom_user_id: Zoom's id of the person.
        zoom_account_id: Zoom's id of the person's account.
        begun_by: Identity of the caller who began the consent.
        revoking: The pair of an ended connection, until Zoom has confirmed that it is revoked.
        revoke_until: When to give that up.
        due_at: When somebody should look at the record again: at a connection that works so that its grant does not die of idleness, at
            an ended one to revoke its pair. None of one that an earlier release stored.
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
        """Tell whether its current pair, or one that this grant had lately, was stored by an attempt."""
        return commit_id in (self.commit_id, *self.previous_commit_ids)


def encode(envelope: Envelope, connection: ConnectionRecord) -> Record:
    """Seal a connection. Everything that decides who may use it, the state included, is in the sealed part."""
    key = RecordKey(envelope.app, Kind.USER, connection.user_email)
    cause = connection.cause
    kind_of_revoked = {"kind_of_revoked": cause} if cause in _KINDS_OF_REVOKED else {}
    value = envelope.seal(
        key,
        grant=connection.grant,
        generation=connection.generation,
        header={
            "epoch": connection.epoch,
            "lease": None if connection.lease is None else asdict(connection.lease),
            "pending": [[attempt.epoch, attempt.at] for attempt in connection.pending],
            "commit_id": connection.commit_id,
            "earlier_commits": connection.previous_commit_ids,
            "recent_refreshes": connection.recent_refreshes,
            "create_time": connection.create_time,
            "consent_time": connection.consent_time,
            "update_time": connection.update_time,
            "refresh_time": connection.refresh_time,
            "access_expire_at": connection.access_expire_at,
            "cause": Cause.REVOKED if kind_of_revoked else cause,
            **kind_of_revoked,
            "last_error": None if connection.last_error is None else asdict(connection.last_error),
            "revoke_until": connection.revoke_until,
        },
        secret={
            "state": connection.state,
            "tokens": _from_pair(connection.tokens),
            "spares": [_from_pair(pair) for pair in connection.alternate_pairs],
            "owner": connection.owner,
            "zoom_user_id": connection.zoom_user_id,
            "zoom_account_id": connection.zoom_account_id,
            "begun_by": connection.initiated_by,
            "revoking": _from_pair(connection.revoking),
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
        RecordUnreadable: It is damaged, or its clear columns disagree with what was sealed.
        RecordVersionUnsupported, KeyUnavailable: As `Vault.open`.
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
            cause=_cause(header),
            epoch=header["epoch"],
            lease=None if header["lease"] is None else Lease(**header["lease"]),
            pending=tuple(Attempt(epoch, at) for epoch, at in header["pending"]),
            commit_id=header["commit_id"],
            previous_commit_ids=tuple(header.get("earlier_commits", ())),  # records of 0.1.0 have none
            recent_refreshes=tuple(header["recent_refreshes"]),
            create_time=header["create_time"],
            consent_time=header.get("consent_time", header["create_time"]),  # records of 0.1.0 have none
            update_time=header["update_time"],
            refresh_time=header["refresh_time"],
            access_expire_at=header["access_expire_at"],
            last_error=None if header["last_error"] is None else LastError(**header["last_error"]),
            tokens=_to_pair(secret["tokens"]),
            alternate_pairs=tuple(TokenPair(**pair) for pair in secret["spares"]),
            owner=secret["owner"],
            zoom_user_id=secret["zoom_user_id"],
            zoom_account_id=secret["zoom_account_id"],
            initiated_by=secret["begun_by"],
            revoking=_to_pair(secret["revoking"]),
            revoke_until=header["revoke_until"],
            due_at=record.due_at,
            expire_at=record.expire_at,
        )
    except (KeyError, TypeError, ValueError):
        raise unreadable(record.key) from None
    if (connection.state.value, connection.zoom_user_id) != (record.state, record.zoom_user_id):
        raise unreadable(record.key)
    return connection


def _cause(header: Mapping[str, Any]) -> Cause | None:
    """Read the cause; a kind of REVOKED that a later release added is REVOKED."""
    kind = header.get("kind_of_revoked")
    if kind in _KINDS_OF_REVOKED:
        return Cause(kind)
    return None if header["cause"] is None else Cause(header["cause"])


def _from_pair(pair: TokenPair | None) -> dict[str, Any] | None:
    return None if pair is None else asdict(pair)


def _to_pair(fields: dict[str, Any] | None) -> TokenPair | None:
    return None if fields is None else TokenPair(**fields)
