"""A limit of the number of threads, which simulates a process or container at its limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_new_threads() -> Iterator[None]:
    """Within the context, no thread can be started: its stack would be larger than the address space."""
    before = threading.stack_size(1 << 60)
    try:
        yield
    finally:
        threading.stack_size(before)
