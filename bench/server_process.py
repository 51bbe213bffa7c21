"""Processes of the service under load, pinned to a core."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator

SERVER_CORE, LOAD_CORE = 0, 1


def pin_prefix(core: int) -> list[str]:
    """Return a command prefix that pins a command to a core, if there are several cores and taskset is installed."""
    return ["taskset", "-c", str(core)] if (os.cpu_count() or 1) > 1 and shutil.which("taskset") else []


@contextlib.contextmanager
def server(
    command: list[str], environ: dict[str, str] | None = None, *, every_core: bool = False
) -> Iterator[tuple[str, str, int]]:
    """Start a server, and yield its gRPC address, its HTTP address and its process ID once it is ready."""
    process = subprocess.Popen(
        [*([] if every_core else pin_prefix(SERVER_CORE)), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | (environ or {}),
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            match = re.search(r"ready grpc=(\S+)(?: http=(\S+))?", line)
            if match:
                yield match.group(1), match.group(2) or "", process.pid
                return
        raise RuntimeError(f"{command} did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
