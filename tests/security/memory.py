"""How much memory something takes at most."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@contextmanager
def peak_of(megabytes: int) -> Iterator[None]:
    """Fail if what happens inside needs more memory than this: as Linux counts it for the whole process, libraries in C included.

    Both ends of every connection are in this process, so the limit covers what the test itself holds, too. Elsewhere nothing is checked.
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
    """Fail if Python allocates more than this at a time for what happens inside."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= megabytes * 1_000_000


def _peak() -> int:
    """The most memory that was resident since the last reset, in KiB."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])
