"""Processor time and memory of processes on Linux."""

import os
import re
from pathlib import Path


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(process: int, name: str = "VmRSS") -> int:
    """Return the memory of a process in KiB: `VmRSS` for the current size, `VmHWM` for the peak.

    Raises:
        OSError: The process has exited.
    """
    match = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    if match is None:  # the process has exited and is a zombie
        raise ProcessLookupError(process)
    return int(match.group(1))
