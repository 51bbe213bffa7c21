"""The effects of the protocols that decide about connections.

A protocol is a generator. It yields effects, receives their results and returns a verdict. A driver performs the effects. The driver throws
`StoreError` into the generator if the store fails, and `RecordFault` if a record cannot be decrypted. The outcome of a failed write is
unknown.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.connections.exchange_mark import ExchangeMark
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.storage.record_store import StoreError

POLL_SECONDS = 0.25
"""Time between two reads of a record or mark that a different process is expected to change."""


@dataclass(frozen=True, slots=True)
class Find:
    """Read the connection with an email address. Result: a `Snapshot`.

    Attributes:
        replaceable: Whether to return a corrupt record as a snapshot without a record. Otherwise, the driver throws `RecordUnreadable`.
    """

    user_email: str
    replaceable: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read the connection of a Zoom user. Result: a `Snapshot`. See `Find`."""

    zoom_user_id: str
    replaceable: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A connection as read from the store.

    Attributes:
        record: The connection, or None if there is no record or the record is corrupt.
        store_now: The store's time at the read.
        monotonic: The reading of the monotonic clock just before the read.
        rev: The revision that a write replaces; 0 if there is no record.
        user_email: The stored email address; set only if the record is corrupt.
        generation: The stored generation; 0 if there is no record, or a large number if the record is corrupt.
        mark: The exchange mark, if a mark was read.
    """

    record: ConnectionRecord | None
    store_now: float
    monotonic: float
    rev: int = 0
    generation: int = 0
    user_email: str = ""
    mark: ExchangeMark | None = None

    def time_at(self, monotonic: float) -> float:
        """Return the store's time at a reading of the monotonic clock."""
        return self.store_now + max(0.0, monotonic - self.monotonic)


@dataclass(frozen=True, slots=True)
class Put:
    """Write the record if the stored revision is still `record.rev`. Result: the new revision, or None on conflict.

    The driver throws `UserEmailTaken` if a different record has the email address.
    """

    record: ConnectionRecord


@dataclass(frozen=True, slots=True)
class ReadMark:
    """Read an exchange mark. Result: a `Snapshot`."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class PutMark:
    """Write an exchange mark if the stored revision is still `mark.rev`. Result: the new revision, or None on conflict."""

    mark: ExchangeMark


@dataclass(frozen=True, slots=True)
class DeleteMark:
    """Delete an exchange mark if the stored revision is still `mark.rev`. Result: whether the mark was deleted."""

    mark: ExchangeMark


@dataclass(frozen=True, slots=True)
class Now:
    """Read the monotonic clock. Result: seconds."""


@dataclass(frozen=True, slots=True)
class ExchangeCode:
    """Send an authorization code to Zoom. Result: a `TokenOutcome`."""

    code: str = field(repr=False)
    code_verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ExchangeRefreshToken:
    """Send a refresh token to Zoom. Result: a `TokenOutcome`."""

    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadZoomUser:
    """Ask Zoom for the user of an access token.

    Result: a `ZoomUser`, or None if Zoom rejected the access token: it has expired, was replaced, or its grant has ended. The driver throws
    a `ZoomgateError` if Zoom did not report the user.
    """

    access_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ZoomUser:
    """A Zoom user as reported by Zoom.

    Attributes:
        email: The email address in canonical form, or empty if it is not valid.
        reported_at: When Zoom responded, in seconds since 1970 on Zoom's clock, or None if the response contains no time.
    """

    user_id: str
    email: str
    account_id: str
    reported_at: float | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Revoke a pair with Zoom. Result: whether Zoom confirmed the revocation."""

    pair: TokenPair


@dataclass(frozen=True, slots=True)
class AppendJournal:
    """Append tokens durably to the journal, replacing the entry with the same ID. Result: not used.

    If the write fails, it is retried in the background, and until then only this process holds the tokens.
    """

    entry: Entry


@dataclass(frozen=True, slots=True)
class DeleteJournal:
    """Delete from the journal tokens that have been written to the store or are no longer needed. Result: None."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class ReleaseJournal:
    """Leave tokens in the journal for a later attempt of any process. Result: None."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait. Result: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Audit:
    """Record an event in the audit trail. Result: None."""

    event: AuditEvent


@dataclass(frozen=True, slots=True)
class DropToken:
    """Remove the token of an email address from the cache. Result: None."""

    user_email: str


StoreEffect = Find | Read | Put | ReadMark | PutMark | DeleteMark
ZoomEffect = ExchangeCode | ExchangeRefreshToken | ReadZoomUser | Revoke
JournalEffect = AppendJournal | DeleteJournal | ReleaseJournal
Effect = StoreEffect | ZoomEffect | JournalEffect | Now | Sleep | Audit | DropToken

_Verdict = TypeVar("_Verdict")
Protocol = Generator[Effect, Any, _Verdict]


def put_confirmed(record: ConnectionRecord) -> Protocol[int | None]:
    """Write a record as `Put` does, and read it if it remains unknown whether the write has succeeded.

    A conflict leaves it unknown as well, because the store's driver may have repeated a write whose confirmation was lost. It is only
    resolved for a lease, which names its holder: a different process may have written an equal tombstone.
    """
    failure: StoreError | None = None
    try:
        rev: int | None = yield Put(record)
        if rev is not None or record.lease is None:
            return rev
    except StoreError as error:
        failure = error
    snapshot: Snapshot = yield Read(record.zoom_user_id)
    stored = snapshot.record
    if stored is not None and stored == replace(record, rev=stored.rev):
        return stored.rev
    if failure is not None:
        raise failure
    return None


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """The timing of calls to Zoom that only one process may make at a time, in seconds.

    Attributes:
        lease: Time for which a lease or mark prevents other attempts.
        call: Maximum duration of one call to the token endpoint, including the connection setup. It must exceed the time limit of the
            OAuth client, `total` plus `grace` of `zoom.oauth.Timing`.
        margin: Safety margin at the end of a lease. No call to Zoom may be running during this time.
    """

    lease: float = 90.0
    call: float = 35.0
    margin: float = 5.0

    def allows_call(self, since: float, now: float) -> bool:
        """Return whether a lease that was written on the basis of a read at `since` covers a call that begins now."""
        return now - since <= self.lease - self.call - self.margin
