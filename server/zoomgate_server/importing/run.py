"""Concurrent import of all rows of a file, with results in the order of the rows."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from zoomgate_server.importing.errors import ImportFileError, ResultsFileError
from zoomgate_server.importing.formats import Source
from zoomgate_server.importing.importer import Importer
from zoomgate_server.importing.results import Outcome, Results, RowStatus
from zoomgate_server.importing.rows import InvalidRow, Row
from zoomgate_server.importing.scan import DuplicateIndex
from zoomgate_server.importing.stop import StopSignal
from zoomgate_server.rate_limiter import RateLimiter

MAX_CONCURRENT_ROWS = 32


async def run(
    source: Source,
    importer: Importer,
    duplicates: DuplicateIndex,
    results: Results,
    limiter: RateLimiter,
    stop: StopSignal,
    advance: Callable[[int], None],
) -> None:
    """Import the rows of a file that have no result or are incomplete, and call `advance` with 1 for every completed row."""
    in_progress: deque[tuple[Row | InvalidRow, asyncio.Task[Outcome]]] = deque()

    async def record_first() -> None:
        row, task = in_progress.popleft()
        results.add(row, await task)
        advance(1)

    try:
        for row, work in _remaining_rows(source, duplicates, results):
            if isinstance(work, Row):
                await stop.sleep(limiter.reserve())
            if stop.requested.is_set():
                break
            outcome = importer.import_row(work) if isinstance(work, Row) else _completed(work)
            in_progress.append((row, asyncio.create_task(outcome)))
            while in_progress and (
                len(in_progress) >= (MAX_CONCURRENT_ROWS if importer.proven else 1)
                or in_progress[0][1].done()
            ):
                await record_first()
        while in_progress:
            await record_first()
    except (ImportFileError, ResultsFileError) as problem:
        stop.request(str(problem))
    finally:
        if in_progress:  # tokens issued by Zoom must be stored even if the results are not written
            await asyncio.wait([task for _, task in in_progress])


def _remaining_rows(
    source: Source, duplicates: DuplicateIndex, results: Results
) -> Iterator[tuple[Row | InvalidRow, Row | Outcome]]:
    """Yield the rows without a final result, each with its outcome, or again with the row if it must be imported."""
    last_row, incomplete = results.last_row, frozenset(results.incomplete)
    superseded_rows = duplicates.rows()
    superseded, newest = next(superseded_rows, (0, 0))
    for row in source.read():
        while superseded and superseded < row.number:
            superseded, newest = next(superseded_rows, (0, 0))
        if row.number <= last_row and row.number not in incomplete:
            continue
        if isinstance(row, InvalidRow):
            yield row, Outcome(RowStatus.REJECTED, row.reason)
        elif row.number == superseded:
            yield row, Outcome(RowStatus.SUPERSEDED, f"row {newest} of the same user is newer")
        else:
            yield row, row


async def _completed(outcome: Outcome) -> Outcome:
    return outcome
