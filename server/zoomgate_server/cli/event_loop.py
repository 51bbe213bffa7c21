"""How a process runs that has much to do at a time."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

COLLECT_AFTER = (10_000, 20, 20)
"""How seldom the garbage collector looks for cycles. Python's own figures suit small programs: with ten thousand watches it took half of
the time, since each look goes through much that lives, and next to nothing here is garbage that needs one."""

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run something to its end on the quickest event loop that there is."""
    gc.set_threshold(*COLLECT_AFTER)
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
