"""The interface of all record stores.

A store is deliberately simple: it stores bytes under a key and compares one revision number. All decisions, such as which
tokens are current or whether a record has expired, are made by the service, based on the records it has read. The service then writes
with `if_rev`. After a conflict, the service reads the record again. A store receives encrypted bytes only, so no plaintext can reach the
database.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import Any, Protocol


class Kind(StrEnum):
    """The kind of a record, in the order in which stores are copied: without a key check, a copy is incomplete."""

    USER = "user"
    ACCOUNT = "account"
    STATE = "state"
    EXCHANGE = "exchange"
    REQUEST = "request"
    WEBHOOK = "webhook"
    META = "meta"
    KEY_CHECK = "key_check"


class Order(StrEnum):
    """Columns by which records can be read in order. Each has an index, so that a page reads only the records that it returns.

    The indexes of `EMAIL`, `CHANGED` and `DUE` begin with the state. Without a state in the query, `CHANGED` and `DUE` read all records.
    With one, `SUBJECT` and `EXPIRE` also read the records in other states.
    """

    SUBJECT = "subject"
    EMAIL = "user_email"
    CHANGED = "changed_at"
    DUE = "due_at"
    EXPIRE = "expire_at"


KEY_CHECK = "key_check"
"""Subject of the key check record. See `key_check.verify`."""

KEY_REQUIRED_KINDS = (Kind.USER, Kind.STATE)
"""Kinds whose records every process must be able to decrypt with its key ring."""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """The identity of a record.

    Attributes:
        app: OAuth origin and client ID, so that two Zoom apps can share a database. At most 512 characters.
        subject: Identifier of the record within its app and kind, such as the Zoom user ID of a connection. At most 512 characters.
    """

    app: str
    kind: Kind
    subject: str


@dataclass(frozen=True, slots=True)
class Record:
    """A stored record: one opaque value, and the columns by which a store may filter, count and expire records.

    Times are seconds since 1970 on the store's clock.

    Attributes:
        value: Opaque bytes, at most 64 KiB. A store never interprets, compares or changes them.
        rev: The revision, never 0 in a stored record. Writes ignore this field. A store never assigns the same revision to a key twice,
            not even after a delete. If a stored revision is corrupt, `rev` is a placeholder with which the record can be
            overwritten.
        state: State of a connection, otherwise empty.
        key_id: ID of the key that encrypted the value, otherwise empty.
        user_email: The email address of a connection. Unique per app. None for a record without an address.
        changed_at: When a visible property last changed. `RecordStore.changes` selects records by this time.
        due_at: When the record is next due for processing, or None.
        expire_at: When the record may be deleted, or None. A store may return expired records. Readers must check the expiry
            themselves.
    """

    key: RecordKey
    value: bytes
    rev: int = 0
    state: str = ""
    key_id: str = ""
    user_email: str | None = None
    changed_at: float = 0.0
    due_at: float | None = None
    expire_at: float | None = None

    @classmethod
    def from_columns(cls, key: RecordKey, rev: int, columns: Mapping[str, Any]) -> "Record":
        """Build a record from the columns of a database.

        A column of an unexpected type is treated as empty. If the encryption authenticates it, decryption then fails.
        """
        valid: dict[str, Any] = {"value": b""}
        for name, types in COLUMN_TYPES.items():
            if isinstance(value := columns.get(name), types):
                valid[name] = value
        return cls(key, rev=rev, **valid)

    def columns(self) -> dict[str, Any]:
        """Return the columns in the order of `COLUMN_TYPES`."""
        return {name: getattr(self, name) for name in COLUMN_TYPES}


COLUMN_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "value": bytes,
    "state": str,
    "key_id": str,
    "user_email": str,
    "changed_at": (float, int),
    "due_at": (float, int),
    "expire_at": (float, int),
}
"""Types of the columns of a record, other than its key and its revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The records of a page. Records without a value in the column of the order are left out.

    Attributes:
        order: The order of the records. Those with the same time are ordered by subject.
        states: The record is in one of these states; empty for every record.
        after: The record's subject, or its email address if ordered by it, is greater, compared by code point. If ordered by a time, this
            applies only to records whose time is `since`.
        since: The record's time is not earlier. Ignored unless ordered by a time.
        before: The record's time is earlier. Ignored unless ordered by a time.
        limit: Maximum number of records, 1 to 1000.
    """

    order: Order = Order.SUBJECT
    states: Collection[str] = ()
    after: str = ""
    since: float = -inf
    before: float = inf
    limit: int

    def following(self, record: Record) -> "Query":
        """Return the query for the records that follow a record."""
        match self.order:
            case Order.SUBJECT:
                return replace(self, after=record.key.subject)
            case Order.EMAIL:
                return replace(self, after=record.user_email or "")
        return replace(self, since=getattr(record, self.order), after=record.key.subject)


@dataclass(frozen=True, slots=True)
class Change:
    """A changed record, with the information that is needed to invalidate a cache entry."""

    key: RecordKey
    rev: int
    state: str
    changed_at: float
    user_email: str | None


@dataclass(frozen=True, slots=True)
class EncryptionState:
    """How the records of one app are encrypted.

    Attributes:
        key_check: The key check record, or None.
        key_ids: IDs of the keys that encrypted connections and pending authorizations.
    """

    key_check: Record | None
    key_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoreInspection:
    """The result of a read-only inspection of a store.

    Attributes:
        location: The path, or the URI without credentials, hosts, or options.
    """

    location: str
    encryption: Mapping[str, EncryptionState]


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The result of a check of a complete store.

    Attributes:
        connections: The number of connection records.
        problems: Problems that do not prevent the start, each with its remedy.
    """

    connections: int
    problems: tuple[str, ...]


class StoreError(Exception):
    """The store failed. The outcome of a write is unknown. The message contains no secrets or addresses."""


class StoreOpenError(Exception):
    """The store cannot be used. The message is one sentence for the operator, without secrets."""


class StoreUnreachableError(StoreOpenError):
    """The store is currently unreachable. A retry may succeed."""


class UserEmailTaken(Exception):
    """A write was rejected because a different record of the app has the same `user_email`.

    Args:
        subject: The subject of the other record.
    """

    def __init__(self, subject: str) -> None:
        super().__init__("a different record has this user_email")
        self.subject = subject


class RecordStore(Protocol):
    """Interface of a record store. Every method raises `StoreError` if the store fails."""

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Return one record, and the store's current time in seconds since 1970."""
        ...

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record durably if its revision is still `if_rev`.

        Args:
            if_rev: The expected revision. 0 means that the record must not exist.

        Returns:
            The new revision, or None on conflict. After a conflict, nothing was written.

        Raises:
            UserEmailTaken: A different record of the app has this `user_email`. Nothing was written.
        """
        ...

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`. Return False on conflict, or if there is no record."""
        ...

    async def page(self, app: str, kind: Kind, query: Query) -> Sequence[Record]:
        """Return a page of records in the order of the query. A page is shorter than `query.limit` only if there are no more records."""
        ...

    async def find(self, app: str, user_email: str) -> tuple[Record | None, float]:
        """Return the record with an email address, and the store's current time."""
        ...

    async def count(self, app: str, kind: Kind) -> dict[str, int]:
        """Count the records of a kind by key ID. A key ID that is not text is treated as empty."""
        ...

    async def count_in_state(
        self, app: str, kind: Kind, state: str, *, after: str, limit: int
    ) -> tuple[int, str | None]:
        """Count records in a state that have an email address, in the order of the addresses.

        Args:
            after: The record's email address is greater.
            limit: Maximum number of records to count.

        Returns:
            The number of records, and the address after which the count continues, or None if there are no more records.
        """
        ...

    async def key_ids(self, app: str, kind: Kind) -> Collection[str]:
        """Return the key IDs of the records of a kind. A key ID that is not text is treated as empty."""
        ...

    async def apps(self) -> Sequence[str]:
        """List the apps that have records, sorted."""
        ...

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[Sequence[Change], float]:
        """Return the records with `changed_at >= since`, oldest first and each at most once, and the store's time before the read.

        Args:
            since: Seconds since 1970 on the store's clock.
            limit: Approximate maximum number of records. Fewer are returned only if there are no more. None means no limit.
        """
        ...

    async def close(self) -> None:
        """Wait for running operations and close the store. Idempotent."""
        ...
