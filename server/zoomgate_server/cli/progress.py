"""Progress of long operations on standard error: a bar on a terminal, otherwise periodic lines or nothing."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from zoomgate_server.cli.output import note

LINE_SECONDS = 5.0
"""Interval between two lines, in seconds."""


@contextlib.contextmanager
def progress(
    operation: str, total: int, unit: str = "records", line_seconds: float = LINE_SECONDS
) -> Iterator[Callable[[int], None]]:
    """Show the progress of an operation, such as `re-encrypting`; yield a function to call with the number of newly processed items."""
    if sys.stderr.isatty():
        with _bar(operation, total, unit) as advance:
            yield advance
        return
    started = printed = time.monotonic()
    done = 0

    def count(more: int) -> None:
        nonlocal done, printed
        done += more
        now = time.monotonic()
        if now - printed >= line_seconds:
            printed = now
            note(f"zoomgate: {operation}: {done} of {total} {unit}, {done / (now - started):.0f} {unit}/s")

    yield count


@contextlib.contextmanager
def _bar(operation: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and used only here
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    speed = TextColumn(f"{{task.fields[rate]:.0f}} {unit}/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        speed,
        TimeRemainingColumn(),
    )
    started, done = time.monotonic(), 0
    # if standard output is the same terminal, print it above the bar
    shared = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=shared) as bar:
        task = bar.add_task(operation, total=total, rate=0.0)

        def advance(more: int) -> None:
            nonlocal done
            done += more
            bar.update(task, completed=done, rate=done / max(time.monotonic() - started, 1e-9))

        yield advance


@contextlib.contextmanager
def counter(operation: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show the progress of a transfer on a terminal; yield a function to call with the amount done and the total, or None if it is unknown.

    Args:
        unit: `bytes`, or the plural of what is counted.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and used only on a terminal
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (
        (DownloadColumn(), TransferSpeedColumn())
        if unit == "bytes"
        else (MofNCompleteColumn(), TextColumn(unit))
    )
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(operation, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
