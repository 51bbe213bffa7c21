"""Recovery of token pairs that crashed processes left in the local journal."""

import asyncio
from dataclasses import dataclass

from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.telemetry.metrics import Metrics

_log = logs.get("zoomgate.journal_recovery")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of journal recovery, in seconds.

    Attributes:
        poll_interval: Time between polls for entries of crashed processes that share the journal directory.
    """

    poll_interval: float = 5.0


class JournalRecovery:
    """Dispatcher of journal entries to the components that store the tokens.

    Attributes:
        tasks: The processing of the current entry. It must not be canceled, because the entry's refresh token may already have been
            exchanged and the new tokens would be lost.
    """

    def __init__(
        self,
        *,
        journal: TokenJournal,
        refresher: Refresher,
        account_linker: AccountLinker,
        metrics: Metrics,
        timing: Timing = Timing(),
    ) -> None:
        self._journal = journal
        self._refresher = refresher
        self._account_linker = account_linker
        self._metrics = metrics
        self._timing = timing
        self.tasks = TaskSet()

    async def run(self) -> None:
        """Poll the journal until canceled. Processing of the current entry continues after cancellation."""
        while True:
            for entry in await self._journal.claim():
                await self.tasks.shield(self._resume(entry))
            await asyncio.sleep(self._timing.poll_interval)

    async def _resume(self, entry: Entry) -> None:
        _log.info("journal.recovery_started", entry=entry.entry_id, origin=entry.origin.value)
        try:
            if entry.origin is Origin.REFRESH:
                # the refresher counts the recovered entry itself, once the tokens are stored
                self._refresher.resume(entry)
            elif await self._account_linker.resume(entry):
                self._metrics.journal_replays.inc()
        except Exception:  # noqa: BLE001 - one entry must not block the others; the failed entry stays in the journal
            _log.exception("journal.recovery_failed", entry=entry.entry_id, origin=entry.origin.value)
