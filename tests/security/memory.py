"""Context managers that limit the memory that a test uses."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@contextmanager
def peak_of(megabytes: int) -> Iterator[None]:
    """Fail if the process uses more than `megabytes` of memory within the context.

    Client and server run in this process, so the limit includes the memory of the test itself and of C libraries.
    The memory is measured only on Linux; on other systems, nothing is checked.
    """
    if not _RESET.exists():
        yield
        return
    gc.collect()
    _RESET.write_text("5")
    before = _peak()
    yield
    assert _peak() - before <= megabytes * 1024


@contextmanager
def allocations_of(megabytes: int) -> Iterator[None]:
    """Fail if Python's allocations exceed `megabytes` at any time within the context."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= megabytes * 1_000_000


def _peak() -> int:
    """Return the peak resident memory since the last reset, in KiB."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])
