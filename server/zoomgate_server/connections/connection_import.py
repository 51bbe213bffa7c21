"""Import of token pairs that another system stored."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from zoomgate_server.audit.event import Actor, AuditEvent, AuditSink
from zoomgate_server.call_context import Call
from zoomgate_server.connections.account_linking import AccountLinker, already_connected, connected
from zoomgate_server.connections.lifecycle.decisions import Linked, LinkResult, is_connected
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.token_journal import Entry
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import IdentityMismatch, ReauthRequired
from zoomgate_server.zoom.token_outcome import DEFAULT_EXPIRES_IN


class ImportOutcome(StrEnum):
    """The outcome of an import; see `ImportConnectionResponse.Outcome`."""

    STORED = "STORED"
    ALREADY_STORED = "ALREADY_STORED"
    SKIPPED_CONNECTED = "SKIPPED_CONNECTED"
    SKIPPED_DISCONNECTED = "SKIPPED_DISCONNECTED"
    CONSENT_REQUIRED = "CONSENT_REQUIRED"


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
        count: Counts an outcome.
    """

    def __init__(
        self, account_linker: AccountLinker, *, audit: AuditSink, count: Callable[[str], None]
    ) -> None:
        self._account_linker = account_linker
        self._audit = audit
        self._count = count

    async def import_connection(self, call: Call, request: ImportRequest) -> ImportResult:
        """Verify a token pair with Zoom, and store it as the user's connection.

        While the access token is valid, Zoom is queried for its user, and the pair is stored unchanged. Otherwise the single-use refresh
        token is exchanged. It is never exchanged again by a repetition.

        Raises:
            ServerOverloaded: Too many exchanges are running; nothing was sent.
            IdentityMismatch: The tokens belong to a different user.
            ZoomgateError, StoreError: See `AccountLinker.link_code`.
        """
        email = request.user_email
        link = self._account_linker.request_for(
            _pair(request), email, None, call, skips=lambda record: _is_skipped(record, request)
        )
        try:
            result = _result(link.draft, await self._account_linker.run(link, call.deadline))
        except ReauthRequired:
            self._audit(
                AuditEvent("authorization.rejected", "ZOOM_REAUTH_REQUIRED", email, Actor.of_call(call))
            )
            result = ImportResult(ImportOutcome.CONSENT_REQUIRED, None)
        self._count(result.outcome)
        return result


def _result(draft: Entry, linked: Linked) -> ImportResult:
    record = linked.record
    is_own = record.user_email == draft.user_email
    match linked.result, record.state:
        case LinkResult.KNOWN, State.DISCONNECTED if not is_own:
            return ImportResult(ImportOutcome.CONSENT_REQUIRED, None)  # exchanged for a different address
        case LinkResult.KNOWN, State.REAUTH_REQUIRED if is_own:
            return ImportResult(ImportOutcome.CONSENT_REQUIRED, record)
        case LinkResult.SKIPPED, State.ACTIVE if not is_own:
            raise already_connected()
        case ((LinkResult.SKIPPED | LinkResult.SUPERSEDED), State.ACTIVE):
            return ImportResult(ImportOutcome.SKIPPED_CONNECTED, record)
        case ((LinkResult.KNOWN | LinkResult.SKIPPED | LinkResult.DISCONNECTED), State.DISCONNECTED):
            return ImportResult(ImportOutcome.SKIPPED_DISCONNECTED, record)
    try:
        record = connected(draft.user_email, linked)
    except IdentityMismatch:
        raise IdentityMismatch(
            f"The tokens belong to a Zoom user with a different email address; {_consequence(draft, record)}"
        ) from None
    is_known = linked.result is LinkResult.KNOWN
    return ImportResult(ImportOutcome.ALREADY_STORED if is_known else ImportOutcome.STORED, record)


def _consequence(draft: Entry, record: ConnectionRecord) -> str:
    """Return what became of a pair that belongs to a different Zoom user."""
    if not record.was_committed(draft.entry_id):
        return "they were not used"
    if is_connected(record):
        return "they were exchanged and stored as that user's connection"
    return "they were exchanged and are being revoked, so the user must consent again"


def _pair(request: ImportRequest) -> TokenPair:
    """Return the pair of a request. Without an access token or its expiry time, the access token counts as expired."""
    issued_at = request.updated_at or request.expire_at - DEFAULT_EXPIRES_IN
    return TokenPair(
        access_token=request.access_token,
        refresh_token=request.refresh_token,
        scope=request.scope,
        access_expire_at=request.expire_at if request.access_token else 0.0,
        obtained_at=max(issued_at, 0.0),
        is_exchanged=False,
    )


def _is_skipped(record: ConnectionRecord, request: ImportRequest) -> bool:
    """Return whether the Zoom user's connection or tombstone is retained.

    A newer pair for the present address of a renamed Zoom user replaces it in any case.
    """
    changed_at = record.update_time if record.state is State.DISCONNECTED else record.refresh_time
    is_renamed = record.user_email != request.user_email
    is_replaced = (request.replace or is_renamed) and request.updated_at > changed_at
    is_displaced = record.state is State.DISCONNECTED and record.cause is None
    return record.state is not State.REAUTH_REQUIRED and not is_displaced and not is_replaced
