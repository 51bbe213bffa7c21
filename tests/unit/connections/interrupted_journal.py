"""A process that is interrupted while it writes to a journal: `python -m unit.connections.interrupted_journal FOLDER ACTION EVENT NUMBER`.

The process is interrupted at the NUMBERth audit event EVENT of the interpreter (https://docs.python.org/3/library/audit_events.html).
With the action `kill`, it is killed. With `poll`, another process polls the journal at this moment.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from unit.connections.test_token_journal import INTERRUPTED, journal


def interrupt_at(event: str, number: int, action: Callable[[], object]) -> None:
    """Call a function at an audit event."""
    numbers = count(1)

    def on_event(name: str, _arguments: tuple[Any, ...]) -> None:
        if name == event and next(numbers) == number:
            action()

    sys.addaudithook(on_event)


async def main(folder: Path, action: str, event: str, number: int) -> None:
    """Append the entries: the first one alone, and the others together. None of the writes may fail."""
    actions: dict[str, Callable[[], object]] = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "poll": lambda: asyncio.run(journal(folder).claim()),
    }
    opened = journal(folder)
    assert await opened.prepare()
    interrupt_at(event, number, actions[action])
    assert await opened.append(INTERRUPTED[0])
    assert all(await asyncio.gather(*map(opened.append, INTERRUPTED[1:])))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
