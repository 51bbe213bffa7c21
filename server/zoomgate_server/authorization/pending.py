"""Pending authorizations, tickets and result views, and their stored form."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from zoomgate_server.encryption.envelope import Envelope, key_id_of, unreadable
from zoomgate_server.storage.record_store import Kind, Record, RecordKey

AuthorizationKind = Literal["authorization", "ticket", "view", "used", "redeemed", "succeeded", "failed"]

_SECRET_FIELDS = (
    "kind",
    "user_email",
    "zoom_email",
    "code_verifier",
    "options",
    "initiated_by",
    "owner",
    "browser_key",
    "return_to",
    "expire_at",
    "error_reason",
    "error_message",
)
"""The encrypted fields of the stored form, which have the names of the attributes."""


@dataclass(frozen=True, slots=True)
class PendingAuthorization:
    """A pending authorization, or the ticket or result view of a completed authorization, stored under a secret string.

    Attributes:
        kind: `authorization`: the user may consent. `ticket`: the user has consented, and the caller may redeem the ticket. `view`: the
            user's browser may display the result. `used` and `redeemed`: an authorization or ticket that is consumed. `succeeded` and
            `failed`: the outcome of a used authorization.
        zoom_email: The email address of the Zoom user who must consent, or empty for `user_email`.
        options: The caller's options, returned with the result, as JSON.
        initiated_by: Identity of the caller that started the authorization. Only this caller may complete it.
        owner: Identity of the member who will own the connection, or None.
        browser_key: Key that binds the state to a browser's cookie. None if the caller completes the authorization itself.
        return_to: Name of the page to which the browser is redirected afterwards, or empty.
        create_at: Creation time, in seconds since 1970 on the store's clock; 0 if it is not stored yet.
        expire_at: Expiry time, on the same clock.
        error_reason: Why the authorization failed, as the name of an error reason.
        error_message: The public message of the error.
        rev: Revision of the record when it was read; 0 if it is not stored yet.
    """

    kind: AuthorizationKind
    user_email: str
    zoom_email: str
    code_verifier: str = field(repr=False)
    options: str = field(repr=False)
    initiated_by: str
    owner: str | None
    browser_key: str | None = field(repr=False)
    return_to: str
    create_at: float = 0.0
    expire_at: float = 0.0
    error_reason: str = ""
    error_message: str = ""
    rev: int = 0

    @property
    def is_used(self) -> bool:
        """Whether the authorization or ticket was consumed."""
        return self.kind in ("used", "redeemed", "succeeded", "failed")


def subject_for(state: str) -> str:
    """Return the record subject for a secret string: a digest, so that the string cannot be read from the database."""
    return hashlib.sha256(state.encode()).hexdigest()


def encode(envelope: Envelope, subject: str, pending: PendingAuthorization) -> Record:
    """Encrypt a pending authorization."""
    key = RecordKey(envelope.app, Kind.STATE, subject)
    value = envelope.seal(
        key,
        grant="",
        generation=0,
        header={"create_at": pending.create_at},
        secret={name: getattr(pending, name) for name in _SECRET_FIELDS},
    )
    return Record(
        key=key,
        value=value,
        key_id=key_id_of(value),
        changed_at=pending.create_at,
        expire_at=pending.expire_at,
    )


def decode(envelope: Envelope, record: Record) -> PendingAuthorization:
    """Decrypt a pending authorization.

    Raises:
        RecordFault: The record cannot be decrypted; see `Envelope.open`.
    """
    opened = envelope.open(record)
    try:
        fields = {name: opened.secret[name] for name in _SECRET_FIELDS}
        return PendingAuthorization(**fields, create_at=opened.header["create_at"], rev=record.rev)
    except (KeyError, TypeError):
        raise unreadable(record.key) from None
