"""Import of token pairs that another system stored.

While the access token is valid, Zoom is queried for its user, and the pair is stored unchanged. Otherwise the single-use refresh token is
exchanged. The commit ID of the stored pair is a keyed fingerprint of the imported refresh token, so that every process recognizes a
repeated import.
"""

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from weakref import WeakValueDictionary

from zoomgate_server.audit.event import Actor, AuditEvent, AuditSink
from zoomgate_server.call_context import Call
from zoomgate_server.connections.account_linking import VERIFICATION_TIMEOUT, AccountLinker
from zoomgate_server.connections.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository, PreviousConnection
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import IdentityMismatch, ZoomBadResponse, ZoomUnavailable
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import DEFAULT_EXPIRES_IN, Rejected, issued_or_raise


class ImportOutcome(StrEnum):
    """The outcome of an import; see `ImportConnectionResponse.Outcome`."""

    STORED = "STORED"
    ALREADY_STORED = "ALREADY_STORED"
    SKIPPED_CONNECTED = "SKIPPED_CONNECTED"
    SKIPPED_DISCONNECTED = "SKIPPED_DISCONNECTED"
    CONSENT_REQUIRED = "CONSENT_REQUIRED"


_SKIPPED = {
    State.ACTIVE: ImportOutcome.SKIPPED_CONNECTED,
    State.DISCONNECTED: ImportOutcome.SKIPPED_DISCONNECTED,
}


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A token pair to import. Times are in seconds since 1970, or 0 if unknown.

    Attributes:
        access_token: May be empty.
        expire_at: When the access token expires.
        updated_at: When the other system received the pair.
        replace: Whether to replace a connection or tombstone that last changed before `updated_at`.
    """

    user_email: str
    refresh_token: str = field(repr=False)
    access_token: str = field(repr=False)
    expire_at: float
    updated_at: float
    scope: str
    replace: bool


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The result of an import, with the user's connection, or None if the user has none."""

    outcome: ImportOutcome
    connection: ConnectionRecord | None


class ConnectionImporter:
    """Importer of token pairs.

    Args:
        secret: The key of the fingerprints; the same in all processes that use the store.
        count: Counts an outcome.

    Attributes:
        tasks: The running imports. They must not be canceled, because their refresh tokens may already have been exchanged.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        journal: TokenJournal,
        secret: bytes,
        limit: ConcurrencyLimit,
        audit: AuditSink,
        count: Callable[[str], None],
    ) -> None:
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._journal = journal
        self._secret = secret
        self._limit = limit
        self._audit = audit
        self._count = count
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.tasks = TaskSet()

    async def import_connection(self, call: Call, request: ImportRequest) -> ImportResult:
        """Verify a token pair with Zoom, and store it as the user's connection.

        Raises:
            ServerOverloaded: Too many exchanges are running; nothing was sent.
            IdentityMismatch: The tokens belong to a different user.
            ZoomgateError: See `AccountLinker.link`.
            StoreError: The store failed.
        """
        return await self.tasks.shield(self._import_once(call, request))

    async def _import_once(self, call: Call, request: ImportRequest) -> ImportResult:
        """Import a pair after all earlier imports of the same pair in this process."""
        entry_id = hmac.digest(self._secret, request.refresh_token.encode(), "sha256").hex()[:32]
        lock = self._locks.setdefault(entry_id, asyncio.Lock())
        async with lock, self._limit.slot(call.deadline):
            result = await self._import(call, request, entry_id)
        self._count(result.outcome)
        return result

    async def _import(self, call: Call, request: ImportRequest, entry_id: str) -> ImportResult:
        previous, result = await self._decide_from_record(request, entry_id)
        if result is not None:
            return result
        now = self._connections.now()
        expire_at = min(request.expire_at, now + DEFAULT_EXPIRES_IN)
        if request.access_token and expire_at - now > VERIFICATION_TIMEOUT:
            obtained_at = request.updated_at if 0 < request.updated_at < now else now
            tokens = TokenPair(
                request.access_token,
                request.refresh_token,
                "bearer",
                request.scope,
                "",
                expire_at,
                obtained_at,
            )
            try:
                return await self._link(call, request, previous, tokens, entry_id, issued_now=False)
            except ZoomBadResponse as error:
                if error.metadata.get("http_status") != "401":
                    raise
        outcome = await self._oauth.refresh(request.refresh_token)
        if isinstance(outcome, Rejected):
            self._audit(
                AuditEvent(
                    "authorization.rejected", "ZOOM_REAUTH_REQUIRED", request.user_email, Actor.of_call(call)
                )
            )
            # a different process may have imported the same pair in the meantime
            previous, result = await self._decide_from_record(request, entry_id)
            return result or ImportResult(ImportOutcome.CONSENT_REQUIRED, previous.record)
        tokens = TokenPair.from_response(issued_or_raise(outcome), now, previous=request.refresh_token)
        return await self._link(call, request, previous, tokens, entry_id, issued_now=True)

    async def _link(
        self,
        call: Call,
        request: ImportRequest,
        previous: PreviousConnection,
        tokens: TokenPair,
        entry_id: str,
        *,
        issued_now: bool,
    ) -> ImportResult:
        try:
            record = await self._account_linker.link_imported(
                tokens,
                previous,
                entry_id=entry_id,
                user_email=request.user_email,
                call=call,
                issued_now=issued_now,
            )
        except IdentityMismatch:
            consequence = (
                "they were exchanged and are being revoked, so the user must consent again"
                if issued_now
                else "they were not used"
            )
            raise IdentityMismatch(
                f"The tokens belong to a Zoom user with a different email address; {consequence}"
            ) from None
        if record is not None and record.was_committed(entry_id):
            return ImportResult(ImportOutcome.STORED, record)
        # a consent or a disconnection during this import took precedence
        current = (await self._account_linker.prepare(request.user_email)).record
        outcome = _SKIPPED.get(current.state) if current is not None else None
        return ImportResult(outcome or ImportOutcome.CONSENT_REQUIRED, current)

    async def _decide_from_record(
        self, request: ImportRequest, entry_id: str
    ) -> tuple[PreviousConnection, ImportResult | None]:
        """Return the user's connection, and the result of the import if the connection determines it."""
        previous = await self._account_linker.prepare(request.user_email)
        outcome = None if previous.record is None else _outcome_for(previous.record, request, entry_id)
        if outcome is not None:
            return previous, ImportResult(outcome, previous.record)
        if self._journal.has(entry_id):
            raise ZoomUnavailable(
                "Zoom has exchanged the refresh token but has not confirmed the user of the new tokens yet; retry in a moment",
                retry_after=5.0,
            )
        return previous, None


def _outcome_for(record: ConnectionRecord, request: ImportRequest, entry_id: str) -> ImportOutcome | None:
    """Return the outcome that the user's connection determines, or None if the pair must be imported."""
    if record.was_committed(entry_id):
        is_active = record.state is State.ACTIVE
        return ImportOutcome.ALREADY_STORED if is_active else ImportOutcome.CONSENT_REQUIRED
    changed_at = record.update_time if record.state is State.DISCONNECTED else record.refresh_time
    if request.replace and request.updated_at > changed_at:
        return None
    return _SKIPPED.get(record.state)
