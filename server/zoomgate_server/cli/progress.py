"""How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from zoomgate_server.cli.output import note

LINE_SECONDS = 5.0
"""Between two lines."""


@contextlib.contextmanager
def progress(work: str, total: int, things: str = "records") -> Iterator[Callable[[int], None]]:
    """Show work on records; gives what is to be told how many more are done.

    Args:
        work: What is done, as `re-sealing`.
        total: How many records there are, about.
        things: What they are, if they are no records.
    """
    if sys.stderr.isatty():
        with _bar(work, total, things) as advance:
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
            note(f"zoomgate: {work}: {done} of {total} {things}, {done / (now - begun):.0f} {things}/s")

    yield count


@contextlib.contextmanager
def _bar(work: str, total: int, things: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed elsewhere
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    speed = TextColumn(f"{{task.fields[rate]:.0f}} {things}/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        speed,
        TimeRemainingColumn(),
    )
    begun, done = time.monotonic(), 0
    # what is printed meanwhile goes above the bar on a terminal, and stays out of it where standard output leads elsewhere
    shared = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=shared) as shown:
        task = shown.add_task(work, total=total, rate=0.0)

        def advance(more: int) -> None:
            nonlocal done
            done += more
            shown.update(task, completed=done, rate=done / max(time.monotonic() - begun, 1e-9))

        yield advance
