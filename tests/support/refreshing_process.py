"""Program that refreshes users' tokens continuously and encrypts them with the old key: `python -m support.refreshing_process STORE USER…`.

The program runs until its standard input is closed, so that the test determines the duration, regardless of the speed of the machine.
"""

import asyncio
import json
import select
import sys
import time
from pathlib import Path

from support.process import OLD, Process, RotatingZoom, ring
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.sqlite import SqliteStore


async def main(path: Path, users: list[str]) -> None:
    """Print `ready` at the start, and the valid refresh tokens at the end."""
    store = await SqliteStore.open(path, time.time)
    zoom = RotatingZoom()
    process = Process(store, Envelope(app="app", keys=ring(OLD)), zoom)
    for user in users:
        zoom.issue(user)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for user in users:
            await process.refresh(user)
    await store.close()
    sys.stdout.write(json.dumps(sorted(zoom.valid_tokens)) + "\n")


asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
