"""Pending authorizations and tickets in a record store, identified by single-use secret strings."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from zoomgate_server.authorization import pending as pending_authorization
from zoomgate_server.authorization.limits import STATE_SECONDS
from zoomgate_server.authorization.pending import AuthorizationKind, PendingAuthorization
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import CONNECTION_PENDING, InvalidState, StoreUnavailable, ZoomgateError
from zoomgate_server.storage.record_store import Kind, RecordKey, RecordStore, StoreError


class AuthorizationRepository:
    """A repository of the pending authorizations and tickets of a Zoom app. The store contains only digests of the secret strings.

    Every method raises `StoreError` when the store fails.

    Args:
        reason_of: Returns the name of an error's reason.
    """

    def __init__(
        self, *, store: RecordStore, envelope: Envelope, reason_of: Callable[[ZoomgateError], str]
    ) -> None:
        self._store = store
        self._envelope = envelope
        self._reason_of = reason_of

    async def create(self, state: str, pending: PendingAuthorization) -> float:
        """Store an entry under a new secret string for `STATE_SECONDS`, and return its expiry time."""
        key = self._key(state)
        _, now = await self._store.get(key)
        created = replace(pending, create_at=now, expire_at=now + STATE_SECONDS)
        rev = await self._store.put(pending_authorization.encode(self._envelope, key.subject, created), 0)
        if rev is None:
            raise StoreError("a random state is already in use")
        return created.expire_at

    async def find(self, state: str) -> PendingAuthorization | None:
        """Return the entry of a secret string, or None if the entry does not exist or has expired."""
        record, now = await self._store.get(self._key(state))
        if record is None:
            return None
        pending = pending_authorization.decode(self._envelope, record)
        return pending if now < pending.expire_at else None

    async def get(self, state: str, kind: AuthorizationKind) -> PendingAuthorization:
        """Return the entry of a secret string, or raise InvalidState if there is no unexpired entry of this kind."""
        pending = await self.find(state)
        if pending is None or pending.kind != kind:
            raise invalid_state()
        return pending

    @contextlib.asynccontextmanager
    async def consuming(
        self, state: str, pending: PendingAuthorization, *, cause: str = ""
    ) -> AsyncIterator[None]:
        """Mark an authorization as used, and afterwards store the outcome of the context. See `consume` and `store_outcome`."""
        used = await self.consume(state, pending, cause=cause)
        try:
            yield
        except ZoomgateError as error:
            await self.store_outcome(state, used, error)
            raise
        except StoreError:
            await self.store_outcome(state, used, StoreUnavailable())
            raise
        await self.store_outcome(state, used)

    async def store_outcome(
        self, state: str, used: PendingAuthorization, error: ZoomgateError | None = None
    ) -> None:
        """Store the outcome of a used authorization: its error, or success.

        Nothing is stored if the connection is created automatically later, or if the store fails.
        """
        if error is None:
            outcome = replace(used, kind="succeeded")
        elif error.metadata.items() >= CONNECTION_PENDING.items():
            return
        else:
            outcome = replace(
                used, kind="failed", error_reason=self._reason_of(error), error_message=error.message
            )
        record = pending_authorization.encode(self._envelope, self._key(state).subject, outcome)
        with contextlib.suppress(StoreError):
            await self._store.put(record, used.rev)

    async def consume(
        self, state: str, pending: PendingAuthorization, *, cause: str = ""
    ) -> PendingAuthorization:
        """Mark an entry as used, and return it. The used entry is retained until it expires.

        Raises:
            InvalidState: The entry is used already. The error has this `cause`.
        """
        key = self._key(state)
        kind: AuthorizationKind = "redeemed" if pending.kind == "ticket" else "used"
        used = replace(pending, kind=kind, code_verifier="", options="{}", browser_key=None)
        record = pending_authorization.encode(self._envelope, key.subject, used)
        rev = await self._store.put(record, pending.rev)
        if rev is None:
            raise invalid_state(cause)
        return replace(used, rev=rev)

    def _key(self, state: str) -> RecordKey:
        return RecordKey(self._envelope.app, Kind.STATE, pending_authorization.subject_for(state))


def invalid_state(cause: str = "") -> InvalidState:
    """Return the error for a state, ticket or view that cannot be used."""
    return InvalidState(
        "This authorization is unknown, already used, expired, or belongs to a different caller; start a new authorization",
        metadata={"cause": cause} if cause else {},
    )
