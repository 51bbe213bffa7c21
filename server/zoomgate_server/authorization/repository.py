"""Pending authorizations and tickets in a record store, identified by single-use secret strings."""

from collections.abc import Callable
from dataclasses import replace

from zoomgate_server.authorization import pending as pending_authorization
from zoomgate_server.authorization.pending import PendingAuthorization
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, RecordKey, RecordStore, StoreError


class AuthorizationRepository:
    """A repository of the pending authorizations and tickets of a Zoom app. The store contains only digests of the secret strings.

    Every method raises `StoreError` when the store fails.

    Args:
        app: OAuth origin and client ID.
    """

    def __init__(self, *, app: str, store: RecordStore, envelope: Envelope) -> None:
        self._app = app
        self._store = store
        self._envelope = envelope

    async def create(self, state: str, build: Callable[[float], PendingAuthorization]) -> float:
        """Store the result of `build` under a new secret string. Return the store's current time, which is also passed to `build`."""
        key = self._key(state)
        _, now = await self._store.get(key)
        rev = await self._store.put(pending_authorization.encode(self._envelope, key.subject, build(now)), 0)
        if rev is None:
            raise StoreError("a random state is already in use")
        return now

    async def find(self, state: str) -> PendingAuthorization | None:
        """Return the entry of a secret string, or None if the entry does not exist or has expired."""
        record, now = await self._store.get(self._key(state))
        if record is None:
            return None
        pending = pending_authorization.decode(self._envelope, record)
        return pending if now < pending.expire_at else None

    async def consume(self, state: str, pending: PendingAuthorization) -> bool:
        """Mark an entry as used, and return True only for the first caller. The used entry is retained until it expires."""
        key = self._key(state)
        used = replace(pending, kind="used", code_verifier="", options=b"{}", browser_key=None)
        record = pending_authorization.encode(self._envelope, key.subject, used)
        return await self._store.put(record, pending.rev) is not None

    def _key(self, state: str) -> RecordKey:
        return RecordKey(self._app, Kind.STATE, pending_authorization.subject_for(state))
