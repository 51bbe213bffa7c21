"""Pending authorizations and tickets in a record store: found by a secret string, used once."""

from collections.abc import Callable
from dataclasses import replace

from zoomgate_server.authorization import pending as pending_authorization
from zoomgate_server.authorization.pending import PendingAuthorization
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, RecordKey, RecordStore, StoreError


class AuthorizationRepository:
    """Keeps states and tickets of one Zoom app. The store sees their digests only.

    Every method raises `StoreError` when the store fails.

    Args:
        app: OAuth origin and client id.
        store: Where the records are.
        vault: Opens and seals them.
    """

    def __init__(self, *, app: str, store: RecordStore, envelope: Envelope) -> None:
        self._app = app
        self._store = store
        self._envelope = envelope

    async def create(self, state: str, build: Callable[[float], PendingAuthorization]) -> float:
        """Keep what `build` makes of the store's clock, under a new secret string, and give that clock."""
        key = self._key(state)
        _, now = await self._store.get(key)
        rev = await self._store.put(pending_authorization.encode(self._envelope, key.subject, build(now)), 0)
        if rev is None:
            raise StoreError("a random state was taken already")
        return now

    async def find(self, state: str) -> PendingAuthorization | None:
        """Give what is kept under a secret string, or None if there is nothing or it has expired."""
        record, now = await self._store.get(self._key(state))
        if record is None:
            return None
        pending = pending_authorization.decode(self._envelope, record)
        return pending if now < pending.expire_at else None

    async def consume(self, state: str, pending: PendingAuthorization) -> bool:
        """Use it up. True for exactly one of all who try; until it expires, what is found then says that it was used."""
        key = self._key(state)
        used = replace(pending, kind="used", code_verifier="", options=b"{}", browser_key=None)
        record = pending_authorization.encode(self._envelope, key.subject, used)
        return await self._store.put(record, pending.rev) is not None

    def _key(self, state: str) -> RecordKey:
        return RecordKey(self._app, Kind.STATE, pending_authorization.subject_for(state))
