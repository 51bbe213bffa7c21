"""Import of single rows into the store.

If the access token of a row is still valid, Zoom is queried once for the user of the token, and the token pair is stored unchanged.
Otherwise the single-use refresh token is exchanged, and the new token pair is first written to the journal. A token pair is stored
with a commit ID, which is derived from the row's refresh token. Therefore an imported row is recognized even if the result was not written,
and no refresh token is used twice.
"""

import asyncio
import hmac
from dataclasses import dataclass

from zoomgate_server.backoff import Backoff
from zoomgate_server.connections.account_linking import VERIFICATION_TIMEOUT, AccountLinker
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository, PreviousConnection
from zoomgate_server.connections.token_journal import Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    IdentityMismatch,
    KeyUnavailable,
    RecordVersionUnsupported,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.importing.results import Outcome, RowStatus
from zoomgate_server.importing.rows import Row
from zoomgate_server.importing.stop import StopSignal
from zoomgate_server.rate_limiter import RateLimiter
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.oauth import DEFAULT_EXPIRES_IN, OAuthClient
from zoomgate_server.zoom.token_outcome import Rejected, Unknown, issued_or_raise

INITIATED_BY = "import"
"""The recorded initiator of imported connections."""

MAX_ATTEMPTS = 5
MAX_CONSECUTIVE_INCOMPLETE = 3
"""Number of consecutive incomplete rows after which the import stops, since further rows would fail after the same pauses."""

MAX_INITIAL_MISMATCHES = 3
"""Number of rows after which the import stops if all of them contain a different user's tokens, since all addresses may be wrong."""

_RETRYABLE = (StoreError, ZoomUnavailable, ZoomRateLimited, ZoomOutcomeUnknown)
_FATAL = (AppCredentialsRejected, KeyUnavailable, RecordVersionUnsupported)


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of an import, in seconds.

    Attributes:
        first_pause: The pause after a first failed attempt. It doubles with each attempt; Zoom can request a longer pause.
        max_pause: The maximum pause.
        store_timeout: The maximum time to store a token pair. Without a journal entry, storing a newly issued pair is retried without a
            limit.
        revocation_timeout: The maximum time to wait, at the end of the import, until tokens that belong to a different user than their
            row are revoked.
    """

    first_pause: float = 1.0
    max_pause: float = 30.0
    store_timeout: float = 60.0
    revocation_timeout: float = 10.0


class Importer:
    """An importer of rows into the store.

    Args:
        secret: The key for deriving commit IDs; the same in all processes that use the store.
        replace: Whether a newer row replaces the user's connection.

    Attributes:
        proven: Whether the tokens of a row have been verified to belong to its user. Until then, rows should be imported one at a time:
            otherwise, if the app lacks the scope to identify users or the address column is wrong, the refresh tokens of several users
            would be lost.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        journal: TokenJournal,
        secret: bytes,
        limiter: RateLimiter,
        stop: StopSignal,
        replace: bool,
        timing: Timing = Timing(),
    ) -> None:
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._journal = journal
        self._secret = secret
        self._limiter = limiter
        self._stop = stop
        self._replace = replace
        self._timing = timing
        self._recovering = asyncio.Lock()
        self._consecutive_incomplete = 0
        self._mismatches = 0
        self.proven = False

    async def recover(self) -> None:
        """Store token pairs that an interrupted import or consent left in the journal. Entries of refreshes are left to the service."""
        async with self._recovering:
            for entry in await self._journal.claim():
                if entry.origin is Origin.REFRESH:
                    await self._journal.release(entry.entry_id)
                    continue
                try:
                    await self._account_linker.resume(entry)
                except (StoreError, ZoomgateError):
                    await self._journal.release(entry.entry_id)

    async def import_row(self, row: Row) -> Outcome:
        """Import one row. Errors are returned as outcomes; an error that would affect every row also stops the import."""
        response_lost, problem = False, ""
        backoff = Backoff(self._timing.first_pause, self._timing.max_pause)
        for number in range(MAX_ATTEMPTS):
            while not self._stop.requested.is_set() and (remaining := self._limiter.held_seconds()):
                await self._stop.sleep(remaining)
            if number and self._stop.requested.is_set():
                break
            try:
                outcome = await self._attempt(row, response_lost=response_lost)
            except _RETRYABLE as error:
                response_lost = response_lost or isinstance(error, ZoomOutcomeUnknown)
                problem = StoreUnavailable.message if isinstance(error, StoreError) else str(error)
                pause = backoff.next_pause()
                if isinstance(error, ZoomgateError):
                    pause = max(pause, error.retry_after or 0.0)
                self._limiter.hold(min(pause, self._timing.max_pause))
            except _FATAL as error:
                self._stop.request(error.message)
                return Outcome(RowStatus.INCOMPLETE, error.message)
            except ZoomgateError as error:
                # Zoom has not identified the user of any row so far
                if not self.proven and not self._mismatches:
                    self._stop.request(error.message)
                return Outcome(RowStatus.REJECTED, error.message)
            else:
                self._consecutive_incomplete = 0
                return outcome
        self._consecutive_incomplete += 1
        if self._consecutive_incomplete >= MAX_CONSECUTIVE_INCOMPLETE:
            self._stop.request(problem, no_response=True)
        return Outcome(RowStatus.INCOMPLETE, problem)

    async def _attempt(self, row: Row, *, response_lost: bool) -> Outcome:
        """Try once to import a row; `response_lost` means that an earlier attempt sent the refresh token and received no response."""
        entry_id = hmac.digest(self._secret, row.refresh_token.encode(), "sha256").hex()[:32]
        is_journaled = self._journal.has(entry_id)
        if is_journaled:
            await self.recover()
        replaced = await self._account_linker.prepare(row.user_email)
        decided = self._decide_from_record(row, replaced.record, entry_id)
        if decided is not None:
            return decided
        if is_journaled and self._journal.has(entry_id):
            raise ZoomUnavailable(
                "the tokens are in the journal, but Zoom cannot currently confirm which user they belong to",
                retry_after=2.0,
            )
        now = self._connections.now()
        until = min(row.access_expire_at, now + DEFAULT_EXPIRES_IN)
        if row.access_token and until - now > VERIFICATION_TIMEOUT:
            obtained = row.updated_at if 0 < row.updated_at < now else now
            tokens = TokenPair(row.access_token, row.refresh_token, "bearer", row.scope, "", until, obtained)
            try:
                return await self._store(row, replaced, tokens, entry_id, issued_now=False)
            except ZoomBadResponse as error:
                if error.metadata.get("http_status") != "401":
                    raise
        return await self._exchange(row, replaced, entry_id, response_lost=response_lost)

    def _decide_from_record(self, row: Row, record: ConnectionRecord | None, entry_id: str) -> Outcome | None:
        """Return the outcome of a row according to the user's current record, or None if the row must be imported."""
        if record is None:
            return None
        if record.was_committed(entry_id):
            if record.state is State.REAUTH_REQUIRED:
                return Outcome(
                    RowStatus.REAUTH_REQUIRED,
                    "an earlier run stored the tokens, but Zoom has since rejected them",
                )
            return Outcome(RowStatus.STORED, "stored by an earlier run")
        if record.state is State.REAUTH_REQUIRED:
            return None
        if record.state is State.DISCONNECTED:
            changed_at, state = record.update_time, "was disconnected in Zoomgate"
        else:
            changed_at, state = record.refresh_time, "is already connected"
        is_newer = row.updated_at > changed_at
        if is_newer and self._replace:
            return None
        hint = ", but the row is newer; use --replace to import it" if is_newer else ""
        return Outcome(RowStatus.SKIPPED, f"the user {state}{hint}")

    async def _exchange(
        self, row: Row, replaced: PreviousConnection, entry_id: str, *, response_lost: bool
    ) -> Outcome:
        started = self._connections.now()
        outcome = await self._oauth.refresh(row.refresh_token)
        if isinstance(outcome, Rejected):
            return await self._rejected(row, entry_id, outcome, response_lost=response_lost)
        if isinstance(outcome, Unknown):
            raise ZoomOutcomeUnknown("Zoom's response to the refresh token was lost or invalid")
        tokens = TokenPair.from_response(issued_or_raise(outcome), started, previous=row.refresh_token)
        return await self._store(row, replaced, tokens, entry_id, issued_now=True)

    async def _rejected(
        self, row: Row, entry_id: str, rejection: Rejected, *, response_lost: bool
    ) -> Outcome:
        """Return the outcome of a rejected refresh token; another process may have imported the same row in the meantime."""
        record = (await self._account_linker.prepare(row.user_email)).record
        if record is not None and record.was_committed(entry_id):
            return Outcome(RowStatus.STORED, "stored by a concurrent run")
        if self._journal.has(entry_id):
            raise ZoomUnavailable("the tokens are in the journal of a different process", retry_after=2.0)
        reason = (
            "Zoom's response to the refresh token was lost, and Zoom no longer accepts the token"
            if response_lost
            else f"Zoom rejected the refresh token ({rejection.code}); it was used after the export, revoked, or has expired"
        )
        return Outcome(RowStatus.REAUTH_REQUIRED, reason)

    async def _store(
        self, row: Row, replaced: PreviousConnection, tokens: TokenPair, entry_id: str, *, issued_now: bool
    ) -> Outcome:
        try:
            record = await self._link(row, replaced, tokens, entry_id, issued_now=issued_now)
        except IdentityMismatch:
            self._mismatches += 1
            if not self.proven and self._mismatches >= MAX_INITIAL_MISMATCHES:
                self._stop.request(
                    f"the tokens of the first {self._mismatches} rows belong to Zoom users whose email addresses differ from"
                    " those in the rows; the import stopped before using more tokens;"
                    " check that the file contains the email addresses of the users' Zoom accounts",
                )
            consequence = (
                "the tokens were exchanged and are being revoked, so the user must consent again"
                if issued_now
                else "the tokens were not used"
            )
            return Outcome(
                RowStatus.REJECTED,
                f"the tokens belong to a Zoom user with a different email address; {consequence}",
            )
        self.proven = True
        if record is None:
            return Outcome(
                RowStatus.SKIPPED, "the user consented or was disconnected in Zoomgate during the import"
            )
        return Outcome(RowStatus.STORED, "the refresh token was exchanged" if issued_now else "")

    async def _link(
        self, row: Row, replaced: PreviousConnection, tokens: TokenPair, entry_id: str, *, issued_now: bool
    ) -> ConnectionRecord | None:
        """Link a token pair to the user. For a newly issued pair, retry until the pair is in the store or in the journal.

        The pair is in neither if, for example, the store fails while the disk is full.
        """
        while True:
            try:
                async with asyncio.timeout(self._timing.store_timeout):
                    return await self._account_linker.link_imported(
                        tokens,
                        replaced,
                        entry_id=entry_id,
                        user_email=row.user_email,
                        initiated_by=INITIATED_BY,
                        issued_now=issued_now,
                    )
            except TimeoutError:
                if issued_now and not self._journal.has(entry_id):
                    continue
                await self._journal.release(entry_id)
                raise StoreError("the store did not accept the tokens in time") from None
