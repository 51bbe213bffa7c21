"""Recovery of token pairs that crashed processes left in the local journal."""

import asyncio
from dataclasses import dataclass

from zoomgate_server.backoff import Backoff
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs, spans
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.telemetry.metrics import Metrics

_log = logs.get("zoomgate.journal_recovery")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of journal recovery, in seconds.

    Attributes:
        poll_interval: Time between polls for released entries, and for those of crashed processes that share the journal directory.
        first_pause: Pause before an entry that could not be stored is processed again. Each pause is twice as long as the previous one.
        max_pause: Maximum pause, unless Zoom requests a longer one.
    """

    poll_interval: float = 1.0
    first_pause: float = 1.0
    max_pause: float = 300.0


@dataclass(slots=True)
class _Deferral:
    """The time before which an entry is not claimed again, as a reading of the monotonic clock."""

    backoff: Backoff
    until: float = 0.0


class JournalRecovery:
    """Dispatcher of journal entries to the components that store the tokens. Each entry that cannot be stored backs off on its own.

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
        clock: Clock,
        limit: ConcurrencyLimit,
        metrics: Metrics,
        timing: Timing = Timing(),
    ) -> None:
        self._journal = journal
        self._refresher = refresher
        self._account_linker = account_linker
        self._clock = clock
        self._limit = limit
        self._metrics = metrics
        self._timing = timing
        self._deferrals: dict[str, _Deferral] = {}
        self.tasks = TaskSet()

    async def run(self) -> None:
        """Poll the journal until canceled. Processing of the current entry continues after cancellation."""
        while True:
            entries = await self._journal.claim(self._deferred())
            # refreshes do not wait for Zoom, and hold the only valid tokens of connected users
            for entry in sorted(entries, key=lambda entry: entry.origin is not Origin.REFRESH):
                await self.tasks.shield(self._resume(entry))
            await asyncio.sleep(self._timing.poll_interval)

    def _deferred(self) -> set[str]:
        """Return the IDs of the entries that are not due yet, and forget entries that have not been released since they were due."""
        now = self._clock.monotonic()
        self._deferrals = {
            entry_id: deferral
            for entry_id, deferral in self._deferrals.items()
            if now < deferral.until + self._timing.max_pause
        }
        return {entry_id for entry_id, deferral in self._deferrals.items() if now < deferral.until}

    async def _resume(self, entry: Entry) -> None:
        _log.info("journal.recovery_started", entry=entry.entry_id, origin=entry.origin.value)
        deferral = self._deferrals.setdefault(
            entry.entry_id, _Deferral(Backoff(self._timing.first_pause, self._timing.max_pause))
        )
        pause = deferral.backoff.next_pause()
        try:
            with spans.unit_of_work("recover"):
                await self._resume_attempt(entry)
        except (StoreError, ZoomgateError) as error:
            _log.warning(
                "journal.recovery_deferred",
                user=entry.user_email,
                entry=entry.entry_id,
                error=type(error).__name__,
            )
            pause = max(pause, getattr(error, "retry_after", None) or 0.0)
            await self._journal.release(entry.entry_id)
        except Exception:  # noqa: BLE001 - one entry must not block the others; the failed entry stays in the journal
            _log.exception("journal.recovery_failed", entry=entry.entry_id, origin=entry.origin.value)
            await self._journal.release(entry.entry_id)
        deferral.until = self._clock.monotonic() + pause

    async def _resume_attempt(self, entry: Entry) -> None:
        if entry.origin is Origin.REFRESH:
            # the refresher counts the recovered entry itself, once the tokens are stored, or releases the entry if the attempt crashes
            self._refresher.resume(entry)
            return
        self._refresher.check_circuit_breaker()
        async with self._limit.background, self._limit.slot():
            await self._account_linker.resume(entry)
        self._metrics.journal_replays.inc()
