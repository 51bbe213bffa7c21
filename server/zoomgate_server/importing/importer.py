"""Brings rows into the store, one person each.

A row whose access token is valid costs Zoom one question, whose it is, and nothing is spent. Else its refresh token is spent, which works
once: what Zoom issues for it is in the journal before anything else happens. The id under which it is stored is made from the refresh
token, so that a row which is done, but of which nobody was told, is recognised and never spent twice.
"""

import asyncio
import hmac
from dataclasses import dataclass, replace

from zoomgate_server.connections.account_linking import VERIFICATION_TIMEOUT, AccountLinker, token_pair
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository, Replaceable
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
    store_unavailable,
)
from zoomgate_server.importing.pace import Pace
from zoomgate_server.importing.results import RowStatus
from zoomgate_server.importing.rows import Row
from zoomgate_server.importing.stop import Stop, StopReason
from zoomgate_server.zoom.oauth import DEFAULT_EXPIRES_IN, OAuthClient
from zoomgate_server.zoom.token_outcome import Issued, Rejected, Unknown, issued_by

INITIATED_BY = "import"
"""As whose the consents of imported connections count."""

TRIES = 5
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 30.0
"""Pauses after a try that Zoom did not answer: each twice as long as the one before, or as long as Zoom asks, up to the most."""

ENOUGH_UNDONE = 3
"""So many rows after one another for which all tries were in vain: the import stops, since every other row would wait as long."""

ENOUGH_STRANGERS = 3
"""So many rows with somebody else's tokens, before the first with its own: the import stops, since the addresses may all be wrong."""

STORE_SECONDS = 60.0
"""How long a pair may wait for a store that fails; what Zoom issued is in the journal then."""

_PASSING = (ZoomUnavailable, ZoomRateLimited, ZoomOutcomeUnknown, StoreUnavailable)
_STOPPING = (AppCredentialsRejected, KeyUnavailable, RecordVersionUnsupported)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row."""

    status: RowStatus
    reason: str = ""


class Importer:
    """Brings rows into the store.

    Args:
        connections: Where connections are.
        adoption: Stores pairs as connections.
        oauth: Spends refresh tokens.
        journal: What it holds is on the way into the store already.
        secret: Makes the ids of rows; the same for all processes of one store.
        pace: Waits as long as Zoom asks.
        stop: Told when no other row should be begun.
        replace: Whether a row that is newer than the person's connection replaces it.

    Attributes:
        proven: Whether the tokens of some row turned out to be that person's. Before, rows are better brought one by one: an app that may
            not ask whose tokens are, or the wrong column of addresses, would spend the tokens of several people for nothing.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        journal: TokenJournal,
        secret: bytes,
        pace: Pace,
        stop: Stop,
        replace: bool,
    ) -> None:
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._journal = journal
        self._secret = secret
        self._pace = pace
        self._stop = stop
        self._replace = replace
        self._recovering = asyncio.Lock()
        self._silences = 0
        self._strangers = 0
        self.proven = False

    async def recover(self) -> None:
        """Go on with what an import or a consent that was killed left in the journal. Refreshes are left to the service."""
        async with self._recovering:
            for entry in await self._journal.claim():
                if entry.origin is Origin.REFRESH:
                    await self._journal.release(entry.entry_id)
                else:
                    await self._account_linker.resume(entry)

    async def import_row(self, row: Row) -> Outcome:
        """Bring one row in. Whatever happens ends in an outcome; what every other row would meet, too, is told to `Stop`."""
        lost, problem = False, ""
        for number in range(TRIES):
            await self._pace.patience()
            if number and self._stop.why is not None:
                break
            try:
                outcome = await self._try(row, lost=lost)
            except _PASSING as error:
                lost = lost or isinstance(error, ZoomOutcomeUnknown)
                problem = error.message
                pause = max(FIRST_PAUSE_SECONDS * 2**number, error.retry_after or 0.0)
                self._pace.hold(min(pause, MOST_PAUSE_SECONDS))
            except _STOPPING as error:
                self._stop.request(StopReason.FAULT, error.message)
                return Outcome(RowStatus.UNDONE, error.message)
            except ZoomgateError as error:
                if not self.proven and not self._strangers:  # nobody's tokens were any use yet
                    self._stop.request(StopReason.FAULT, error.message)
                return Outcome(RowStatus.REFUSED, error.message)
            else:
                self._silences = 0
                return outcome
        self._silences += 1
        if self._silences >= ENOUGH_UNDONE:
            self._stop.request(StopReason.SILENCE, problem)
        return Outcome(RowStatus.UNDONE, problem)

    async def _try(self, row: Row, *, lost: bool) -> Outcome:
        """Try once.

        Args:
            row: The row.
            lost: Whether its refresh token was sent, and the answer never came.

        Raises:
            ZoomgateError: It did not work.
        """
        entry_id = hmac.digest(self._secret, row.refresh_token.encode(), "sha256").hex()[:32]
        kept = self._journal.has(entry_id)
        if kept:
            await self.recover()
        replaced = await self._account_linker.prepare(row.user_email)
        settled = self._settled(row, replaced.record, entry_id)
        if settled is not None:
            return settled
        if kept and self._journal.has(entry_id):
            raise ZoomUnavailable(
                "its tokens are in the journal, and Zoom does not say just now whose they are",
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
        return await self._spend(row, replaced, entry_id, lost=lost)

    def _settled(self, row: Row, record: ConnectionRecord | None, entry_id: str) -> Outcome | None:
        """Say what became of a row for which nothing has to be done."""
        if record is None:
            return None
        if record.was_committed(entry_id):
            if record.state is State.REAUTH_REQUIRED:
                return Outcome(
                    RowStatus.CONSENT,
                    "it was stored by an earlier run, and Zoom has refused its tokens since",
                )
            return Outcome(RowStatus.STORED, "by an earlier run")
        if record.state is State.REAUTH_REQUIRED:
            return None
        is_newer = row.updated_at > (
            record.update_time if record.state is State.DISCONNECTED else record.refresh_time
        )
        if is_newer and self._replace:
            return None
        what = "was disconnected here" if record.state is State.DISCONNECTED else "is connected already"
        hint = ", and the row is newer: --replace takes it" if is_newer else ""
        return Outcome(RowStatus.SKIPPED, f"the person {what}{hint}")

    async def _spend(self, row: Row, replaced: Replaceable, entry_id: str, *, lost: bool) -> Outcome:
        """Spend the refresh token of a row, and store what Zoom issues for it."""
        started = self._connections.now()
        outcome = await self._oauth.refresh(row.refresh_token)
        if isinstance(outcome, Rejected):
            return await self._refused(row, entry_id, outcome, lost=lost)
        if isinstance(outcome, Unknown):
            raise ZoomOutcomeUnknown(
                "Zoom's answer for its refresh token was lost or could not be understood"
            )
        issued: Issued = issued_by(outcome)
        tokens = token_pair(replace(issued, refresh_token=issued.refresh_token or row.refresh_token), started)
        return await self._store(row, replaced, tokens, entry_id, issued_now=True)

    async def _refused(self, row: Row, entry_id: str, refused: Rejected, *, lost: bool) -> Outcome:
        """Say what a refusal means: somebody else may have brought this very row in meanwhile."""
        record = (await self._account_linker.prepare(row.user_email)).record
        if record is not None and record.was_committed(entry_id):
            return Outcome(RowStatus.STORED, "by another run")
        if self._journal.has(entry_id):
            raise ZoomUnavailable("its tokens are in the journal of another process", retry_after=2.0)
        why = (
            "Zoom's answer for its refresh token was lost, and Zoom takes it no more"
            if lost
            else f"Zoom refuses its refresh token ({refused.code}): it was used since the export, or has ended"
        )
        return Outcome(RowStatus.CONSENT, why)

    async def _store(
        self, row: Row, replaced: Replaceable, tokens: TokenPair, entry_id: str, *, issued_now: bool
    ) -> Outcome:
        try:
            record = await self._adopted(row, replaced, tokens, entry_id, issued_now=issued_now)
        except IdentityMismatch:
            self._met_stranger()
            rest = (
                "were spent, and Zoom was asked to revoke them: the person has to consent"
                if issued_now
                else "were left alone"
            )
            return Outcome(
                RowStatus.REFUSED, f"its tokens are of a Zoom user with another e-mail address, and {rest}"
            )
        self.proven = True
        if record is None:
            return Outcome(RowStatus.SKIPPED, "the person consented or was disconnected here meanwhile")
        return Outcome(RowStatus.STORED, "its refresh token was spent" if issued_now else "")

    async def _adopted(
        self, row: Row, replaced: Replaceable, tokens: TokenPair, entry_id: str, *, issued_now: bool
    ) -> ConnectionRecord | None:
        """Store a pair. One that is neither in the store nor in the journal, as with a full disk, is tried until it is in one of them.

        Raises:
            ZoomgateError: As `adopt_row`; StoreUnavailable if it is in the journal, or was not spent.
        """
        while True:
            try:
                async with asyncio.timeout(STORE_SECONDS):
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
                raise store_unavailable() from None

    def _met_stranger(self) -> None:
        """Note that tokens are of somebody else; when so are those of the first rows, it is the addresses that are wrong."""
        self._strangers += 1
        if not self.proven and self._strangers >= ENOUGH_STRANGERS:
            self._stop.request(
                StopReason.FAULT,
                f"the tokens of the first {self._strangers} rows are of Zoom users with other addresses, so the import stopped before it"
                " spends more: see whether the addresses in the file are those of the people's Zoom accounts",
            )
