"""Works through a file: several rows at once, results in the order of the rows."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from zoomgate_server.importing.formats import Source
from zoomgate_server.importing.importer import Importer, Outcome
from zoomgate_server.importing.pace import Pace
from zoomgate_server.importing.problems import FileProblem, ResultsProblem
from zoomgate_server.importing.results import Result, Results, RowStatus
from zoomgate_server.importing.rows import InvalidRow, Row
from zoomgate_server.importing.scan import DuplicateIndex
from zoomgate_server.importing.stop import Stop, StopReason

AT_ONCE = 32
"""Rows under way."""


async def run(
    source: Source,
    importer: Importer,
    giving_way: DuplicateIndex,
    results: Results,
    pace: Pace,
    stop: Stop,
    advance: Callable[[int], None],
) -> None:
    """Bring in the rows of a file that have no result yet, or are undone.

    Args:
        source: The file.
        importer: Brings in one row.
        giving_way: Which rows give way to others.
        results: Told of every row, in their order.
        pace: How fast.
        stop: Ends it early.
        advance: Told of every row that is done.
    """
    under_way: deque[tuple[Row | InvalidRow, asyncio.Task[Outcome]]] = deque()

    async def note_first() -> None:
        row, task = under_way.popleft()
        outcome = await task
        results.add(Result(row.number, row.line, row.user_email, outcome.status, outcome.reason))
        advance(1)

    try:
        for row, known in _open_rows(source, giving_way, results):
            if known is None:
                await pace.wait()
            if stop.why is not None:
                break
            work = importer.import_row(row) if known is None and isinstance(row, Row) else _known(known)
            under_way.append((row, asyncio.create_task(work)))
            while under_way and (
                len(under_way) >= (AT_ONCE if importer.proven else 1) or under_way[0][1].done()
            ):
                await note_first()
        while under_way:
            await note_first()
    except (FileProblem, ResultsProblem) as problem:
        stop.request(StopReason.FAULT, str(problem))
    finally:
        if under_way:  # nobody will hear of them, but what Zoom answers now must be stored all the same
            await asyncio.wait([task for _, task in under_way])


def _open_rows(
    source: Source, giving_way: DuplicateIndex, results: Results
) -> Iterator[tuple[Row | InvalidRow, Outcome | None]]:
    """Give the rows that are to be done, and what became of those for which nobody has to be asked."""
    noted, undone = results.noted, frozenset(results.undone)
    losers = giving_way.rows()
    loser, winner = next(losers, (0, 0))
    for row in source.read():
        while loser and loser < row.number:
            loser, winner = next(losers, (0, 0))
        if row.number <= noted and row.number not in undone:
            continue
        if isinstance(row, InvalidRow):
            yield row, Outcome(RowStatus.REFUSED, row.reason)
        elif row.number == loser:
            yield row, Outcome(RowStatus.SUPERSEDED, f"row {winner} of the same person is newer")
        else:
            yield row, None


async def _known(outcome: Outcome | None) -> Outcome:
    if outcome is None:
        raise AssertionError("a flaw is known from the start")
    return outcome
