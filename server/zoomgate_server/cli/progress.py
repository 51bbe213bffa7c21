"""How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from zoomgate_server.cli.output import note

LINE_SECONDS = 5.0
"""Between two lines."""


@contextlib.contextmanager
def progress(work: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show work on records; gives what is to be told how many more are done.

    Args:
        work: What is done, as `re-sealing`.
        total: How many records there are, about.
    """
    if sys.stderr.isatty():
        with _bar(work, total) as advance:
            yield advance
        return
    begun = said = time.monotonic()
    done = 0

    def count(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= LINE_SECONDS:
            said = now
            note(f"zoomgate: {work}: {done} of {total} records, {done / (now - begun):.0f} records/s")

    yield count


@contextlib.contextmanager
def _bar(work: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed elsewhere
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    speed = TextColumn("{task.fields[rate]:.0f} records/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        speed,
        TimeRemainingColumn(),
    )
    begun, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(work, total=total, rate=0.0)

        def advance(more: int) -> None:
            nonlocal done
            done += more
            shown.update(task, completed=done, rate=done / max(time.monotonic() - begun, 1e-9))

        yield advance
