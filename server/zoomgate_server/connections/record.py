"""Connection records and their stored form."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.envelope import Envelope, key_id_of, unreadable
from zoomgate_server.storage.record_store import Kind, Record, RecordKey


class State(StrEnum):
    """State of a connection."""

    ACTIVE = "ACTIVE"
    REAUTH_REQUIRED = "REAUTH_REQUIRED"
    DISCONNECTED = "DISCONNECTED"


class Cause(StrEnum):
    """Cause of a required consent or of a disconnection."""

    REJECTED = "REJECTED"
    OUTCOME_LOST = "OUTCOME_LOST"
    REVOKED = "REVOKED"
    SCOPE = "SCOPE"
    APP_DEAUTHORIZED = "APP_DEAUTHORIZED"
    USER_DELETED = "USER_DELETED"
    USER_DEACTIVATED = "USER_DEACTIVATED"
    USER_DISASSOCIATED = "USER_DISASSOCIATED"


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
    """The exclusive right of one process to refresh or revoke the tokens, with an expiry time on the store's clock."""

    holder: str
    epoch: int
    expire_at: float


@dataclass(frozen=True, slots=True)
class PendingAttempt:
    """A refresh or an exchange for the user with an unknown outcome, and its start time on the store's clock."""

    epoch: int
    started_at: float


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """The connection of a Zoom user.

    Zoom keeps one grant per user and app, so a Zoom user has one record. The email address is the name by which callers refer to the
    record. Times are in seconds since 1970 on the store's clock.

    Attributes:
        zoom_user_id: The Zoom user, or for the tombstone of an address that a renamed Zoom user no longer has, the address.
        user_email: The user's email address in canonical form; empty if a different Zoom user has taken over the address, or if no caller
            has connected this Zoom user.
        rev: The revision that was read. 0 for a new connection.
        read_update_time: The stored `update_time` when the connection was read. A different `update_time` on write is a visible change.
            None for a new connection.
        cause: The cause of the state, or None for an active connection.
        grant: ID of the consent that the tokens come from.
        generation: Number of token pairs stored so far.
        epoch: Number of leases and exchanges so far.
        lease: The running refresh of a connection, or the running revocation of a tombstone.
        pending_attempts: Refreshes and exchanges with an unknown outcome.
        commit_id: ID of the attempt that stored the current pair. With this ID, an attempt detects that its unconfirmed write succeeded.
        previous_commit_ids: Commit IDs of earlier pairs, newest first. Only a few are retained.
        used_token_digests: Digests of exchanged refresh tokens of the connection, and the fingerprints of exchanged codes and supplied
            tokens, newest first. Only a few are retained.
        recent_refresh_times: Times of the refreshes of the last hour.
        create_time: When the user connected; after a disconnection, when the user connected again.
        consent_time: When Zoom last identified the user of a consent, or of imported tokens.
        zoom_consent_time: The same time on Zoom's clock, or None if Zoom did not report it.
        update_time: When a visible field last changed. For a tombstone, when the connection ended.
        refresh_time: When the current pair was issued.
        access_expire_at: When the access token of the current pair expires. None without a pair.
        last_error: The latest refresh failure. None after a success.
        alternate_pairs: Other pairs of the grant that may be the valid one, newest first.
        superseded_pairs: Pairs of earlier grants, newest first. They are never used, and are revoked after a disconnection.
        owner: Identity of the member that owns the connection, or None.
        zoom_email: The Zoom user's email address if the caller named a different one than `user_email`, or empty.
        address_time: When the exchange of the consent that named `user_email` began.
        renamed_from: The previous email address, until its tombstone is stored. Empty otherwise.
        initiated_by: Identity of the caller that started the authorization.
        pairs_to_revoke: The pairs of a disconnected user, until Zoom has confirmed their revocation.
        revoke_until: When to stop trying to revoke `pairs_to_revoke`.
        due_at: When the next background operation is due: for an active connection, a proactive refresh; for a tombstone, the revocation of
            `pairs_to_revoke`. None if no operation is needed.
        expire_at: When the record may be deleted.
    """

    zoom_user_id: str
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
    zoom_consent_time: float | None = None
    cause: Cause | None = None
    epoch: int = 0
    lease: Lease | None = None
    pending_attempts: tuple[PendingAttempt, ...] = ()
    commit_id: str = ""
    previous_commit_ids: tuple[str, ...] = ()
    used_token_digests: tuple[str, ...] = ()
    recent_refresh_times: tuple[float, ...] = ()
    access_expire_at: float | None = None
    last_error: LastError | None = None
    tokens: TokenPair | None = field(default=None, repr=False)
    alternate_pairs: tuple[TokenPair, ...] = field(default=(), repr=False)
    superseded_pairs: tuple[TokenPair, ...] = field(default=(), repr=False)
    owner: str | None = None
    zoom_email: str = ""
    address_time: float = 0.0
    renamed_from: str = ""
    zoom_account_id: str | None = None
    initiated_by: str = ""
    pairs_to_revoke: tuple[TokenPair, ...] = field(default=(), repr=False)
    revoke_until: float | None = None
    due_at: float | None = None
    expire_at: float | None = None

    @property
    def pairs(self) -> tuple[TokenPair, ...]:
        """The pairs of the grant, any of which may be the valid one, the current pair first."""
        return self.alternate_pairs if self.tokens is None else (self.tokens, *self.alternate_pairs)

    @property
    def all_pairs(self) -> tuple[TokenPair, ...]:
        """The pairs of the grant, of earlier grants, and those to revoke."""
        return (*self.pairs, *self.superseded_pairs, *self.pairs_to_revoke)

    def has_held(self, refresh_token: str) -> bool:
        """Return whether a refresh token belongs to one of the record's pairs, or did before it was exchanged."""
        is_held = any(pair.refresh_token == refresh_token for pair in self.all_pairs)
        return is_held or digest_of(refresh_token) in self.used_token_digests

    def was_committed(self, commit_id: str) -> bool:
        """Return whether the attempt with this ID stored the current pair or a previous pair."""
        return commit_id in (self.commit_id, *self.previous_commit_ids)


def digest_of(refresh_token: str) -> str:
    """Return the digest of a refresh token, by which a connection recognizes a token that it has exchanged."""
    return hashlib.sha256(refresh_token.encode()).hexdigest()[:32]


_HEADER = (
    "epoch",
    "lease",
    "pending_attempts",
    "commit_id",
    "previous_commit_ids",
    "recent_refresh_times",
    "create_time",
    "consent_time",
    "zoom_consent_time",
    "update_time",
    "refresh_time",
    "address_time",
    "access_expire_at",
    "cause",
    "last_error",
    "revoke_until",
)
"""The fields that are stored in clear text."""

_SECRET = (
    "state",
    "tokens",
    "alternate_pairs",
    "superseded_pairs",
    "used_token_digests",
    "owner",
    "user_email",
    "zoom_email",
    "renamed_from",
    "zoom_account_id",
    "initiated_by",
    "pairs_to_revoke",
)
"""The encrypted fields: the tokens, and all fields that determine who may use the connection, including the state."""


def _optional(read: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda fields: None if fields is None else read(**fields)


def _each(read: Callable[..., Any]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda stored: tuple([read(**fields) for fields in stored])


_READERS: dict[str, Callable[[Any], Any]] = {
    "state": State,
    "cause": lambda cause: None if cause is None else Cause(cause),
    "lease": _optional(Lease),
    "last_error": _optional(LastError),
    "tokens": _optional(TokenPair),
    "pending_attempts": _each(PendingAttempt),
    "previous_commit_ids": tuple,
    "recent_refresh_times": tuple,
    "used_token_digests": tuple,
    "alternate_pairs": _each(TokenPair),
    "superseded_pairs": _each(TokenPair),
    "pairs_to_revoke": _each(TokenPair),
}
"""Functions that read a field from its stored form. Other fields are stored as they are."""


def encode(envelope: Envelope, connection: ConnectionRecord) -> Record:
    """Encrypt a connection."""
    key = RecordKey(envelope.app, Kind.USER, connection.zoom_user_id)
    value = envelope.seal(
        key,
        grant=connection.grant,
        generation=connection.generation,
        header={name: getattr(connection, name) for name in _HEADER},
        secret={name: getattr(connection, name) for name in _SECRET},
    )
    return Record(
        key=key,
        value=value,
        rev=connection.rev,
        state=connection.state.value,
        key_id=key_id_of(value),
        user_email=connection.user_email or None,
        changed_at=connection.update_time,
        due_at=connection.due_at,
        expire_at=connection.expire_at,
    )


def decode(envelope: Envelope, record: Record) -> ConnectionRecord:
    """Decrypt a connection.

    Raises:
        RecordUnreadable: The value is corrupt, or the record's columns differ from the encrypted fields.
        RecordVersionUnsupported, KeyUnavailable: See `Envelope.open`.
    """
    opened = envelope.open(record)
    try:
        fields = {name: opened.header[name] for name in _HEADER}
        fields |= {name: opened.secret[name] for name in _SECRET}
        for name, read in _READERS.items():
            fields[name] = read(fields[name])
        connection = ConnectionRecord(
            zoom_user_id=record.key.subject,
            rev=record.rev,
            read_update_time=fields["update_time"],
            grant=opened.grant,
            generation=opened.generation,
            due_at=record.due_at,
            expire_at=record.expire_at,
            **fields,
        )
    except (KeyError, TypeError, ValueError):
        raise unreadable(record.key) from None
    if (connection.state.value, connection.user_email or None) != (record.state, record.user_email):
        raise unreadable(record.key)
    return connection
