"""Refreshes people again and again with the old key, as a program: `python -m support.refreshing_process STORE USER…`.

It goes on until its standard input ends: however slow the machine is, it writes for as long as somebody needs it.
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
    """Say when it begins, and in the end which refresh tokens live."""
    store = await SqliteStore.open(path, time.time)
    zoom = RotatingZoom()
    process = Process("app", store, Envelope(app="app", keys=ring(OLD)), zoom)
    for user in users:
        zoom.issue(user)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for user in users:
            await process.refresh(user)
    await store.close()
    sys.stdout.write(json.dumps(sorted(zoom.living)) + "\n")


asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
