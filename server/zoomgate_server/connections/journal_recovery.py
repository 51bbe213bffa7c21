"""Goes on with what processes that died left in the journal of this machine."""

import asyncio

from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

POLL_INTERVAL = 5.0
"""Pause between two looks; another process that shares the folder may have died since."""

_log = logs.get("zoomgate.journal_recovery")


class JournalRecovery:
    """Hands entries of the journal to whoever can store their tokens.

    Args:
        journal: Where they are.
        refresher: Stores those of refreshes.
        adoption: Stores those of consents and imports.
        metrics: Counts them.
    """

    def __init__(
        self, *, journal: TokenJournal, refresher: Refresher, account_linker: AccountLinker, metrics: Metrics
    ) -> None:
        self._journal = journal
        self._refresher = refresher
        self._account_linker = account_linker
        self._metrics = metrics
        self._resuming: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look now and then; runs until cancelled, and leaves to `drain` what it is about then."""
        while True:
            for entry in await self._journal.claim():
                self._resuming = asyncio.create_task(self._resume(entry), name="resume")
                await asyncio.shield(self._resuming)
            await asyncio.sleep(POLL_INTERVAL)

    async def drain(self, seconds: float) -> bool:
        """Wait until the entry under way is dealt with, for at most so many seconds: its token may be spent. False if it is not."""
        if self._resuming is None:
            return True
        await asyncio.wait({self._resuming}, timeout=seconds)
        return self._resuming.done()

    async def _resume(self, entry: Entry) -> None:
        _log.info("journal.recovery_started", entry=entry.entry_id, origin=entry.origin.value)
        try:
            await self._hand_over(entry)
        except Exception:  # noqa: BLE001 - no entry may keep those behind it from the store; this one stays, and stays ours
            _log.exception("journal.recovery_failed", entry=entry.entry_id, origin=entry.origin.value)

    async def _hand_over(self, entry: Entry) -> None:
        if entry.origin is Origin.REFRESH:
            self._refresher.resume(entry)  # which counts it when it is done
        elif await self._account_linker.resume(entry):
            self._metrics.journal_replayed()
