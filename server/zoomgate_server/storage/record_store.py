"""The contract of every record store.

A store is dumb on purpose: it keeps bytes under a key and compares one revision number. Whatever has to be decided (generation,
grant, lease, candidates, expiry) is decided by the core on what it read; the core then writes with `if_rev` and reads again on
conflict. A store sees sealed bytes only, so plaintext cannot reach it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """What a record is about."""

    USER = "user"
    ACCOUNT = "account"
    STATE = "state"
    REQUEST = "request"
    WEBHOOK = "webhook"
    KEY_CHECK = "key_check"
    META = "meta"


class Column(StrEnum):
    """Clear columns that records can be counted by."""

    STATE = "state"
    KEY_ID = "key_id"


KEY_CHECK = "key_check"
"""Subject of the key check; see `key_check.verify`."""

TOMBSTONE_STATE = "DISCONNECTED"
"""Records in this state do not take part in the uniqueness of `zoom_user_id`."""


KEYED = (Kind.USER, Kind.STATE)
"""Kinds whose records have to be opened by the key ring of every process."""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Names a record.

    Attributes:
        app: OAuth origin and client id, so that two Zoom apps can share a database. At most 512 characters.
        kind: What the record is about.
        subject: Whom or what it is about, unique within app and kind. At most 512 characters.
    """

    app: str
    kind: Kind
    subject: str


@dataclass(frozen=True, slots=True)
class Record:
    """A stored record: one opaque value and the columns that stores may filter, count and clean up by.

    Times are seconds since 1970 by the store's clock.

    Attributes:
        key: Its name.
        value: Opaque bytes, at most 64 KiB: never interpreted, compared or changed by a store.
        rev: Revision, never 0. Ignored on the way in; a store never gives the same revision twice for one key, not even after a
            delete. One that was damaged reads as another number, at which the record can be replaced.
        state: State of a connection, else empty.
        key_id: Id of the key that sealed the value, else empty.
        zoom_user_id: Unique per app among records that are no tombstones; None takes no part.
        changed_at: When something visible last changed; `changes` goes by it.
        due_at: When somebody should look at the record again, or None.
        expire_at: When the record may be cleaned up, or None. Readers decide about expiry themselves: a store may still return
            an expired record and need not.
    """

    key: RecordKey
    value: bytes
    rev: int = 0
    state: str = ""
    key_id: str = ""
    zoom_user_id: str | None = None
    changed_at: float = 0.0
    due_at: float | None = None
    expire_at: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A record that changed: enough to drop it from a cache."""

    key: RecordKey
    rev: int
    state: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class Sealed:
    """By what the records of one app are sealed.

    Attributes:
        canary: The record by which a start proves its key ring, or None.
        key_ids: Ids of the keys that sealed connections and pending authorizations.
    """

    key_check: Record | None
    key_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Examined:
    """What a store looks like to somebody who changes nothing.

    Attributes:
        shown: Its path, or its address without users, hosts and options.
        users: How many records of connections there are.
        sealed: The apps that have records, and by what those are sealed.
        replicated: Whether the loss of one disk is no loss.
    """

    shown: str
    users: int
    sealed: Mapping[str, Sealed]
    replicated: bool = False


class StoreError(Exception):
    """The store failed. The outcome of a write is unknown. The text is free of secrets, addresses included."""


class StoreOpenError(Exception):
    """The store cannot be used. The text is one sentence for the operator, free of secrets."""


class StoreUnreachableError(StoreOpenError):
    """The store could not be reached just now: the same try may succeed later."""


class ZoomUserTaken(Exception):
    """A put was refused since another live record of the app has the same `zoom_user_id`.

    Args:
        subject: The subject of that record.
    """

    def __init__(self, subject: str) -> None:
        super().__init__("another record has this zoom_user_id")
        self.subject = subject


class RecordStore(Protocol):
    """Keeps records. Every method raises `StoreError` when the store fails."""

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Read one record and the store's clock, in seconds since 1970."""
        ...

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record durably if its revision is still `if_rev`; 0 means that there must be none.

        Returns:
            The new revision, or None on conflict: nothing was written then.

        Raises:
            ZoomUserTaken: Another live record of the app has this `zoom_user_id`; nothing was written.
        """
        ...

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`. False on conflict and when there is none."""
        ...

    async def page(
        self,
        app: str,
        kind: Kind,
        *,
        states: Collection[str] = (),
        due_before: float | None = None,
        expire_before: float | None = None,
        after: str = "",
        limit: int,
    ) -> Sequence[Record]:
        """Read `limit` records (1 to 1000), or fewer if there are no more, in the order of their subjects, starting behind subject `after`.

        Args:
            app: Of this app.
            kind: Of this kind.
            states: In one of these states; empty for any.
            due_before: With a `due_at` before this time; None for any.
            expire_before: With an `expire_at` before this time; None for any.
            after: Subjects that sort behind this one, by code point.
            limit: How many at most.
        """
        ...

    async def find(self, app: str, zoom_user_id: str) -> tuple[Record | None, float]:
        """Read the record of an app that has this `zoom_user_id` and is no tombstone, and the store's clock."""
        ...

    async def count(self, app: str, kind: Kind, by: Column) -> dict[str, int]:
        """Count the records of a kind by the values of a column; a value that is no text counts as the empty one."""
        ...

    async def apps(self) -> Sequence[str]:
        """Name the apps that have records, in order."""
        ...

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[Sequence[Change], float]:
        """List what has `changed_at >= since`, oldest first and every record at most once, and read the store's clock before.

        Args:
            app: Of this app.
            kind: Of this kind.
            since: A time of the store's clock.
            limit: How many, about; fewer are given only if there are no more. None for all.
        """
        ...

    async def close(self) -> None:
        """Finish what is running and let go of the store. Idempotent."""
        ...
