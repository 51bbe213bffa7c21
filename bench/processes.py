"""What processes use, from Linux' own figures."""

import os
import re
from pathlib import Path


def processor_seconds(process: int) -> float:
    """How long a process has run on a processor."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(process: int, name: str = "VmRSS") -> int:
    """KiB of a process: `VmRSS` for its size now, `VmHWM` for its largest so far.

    Raises:
        OSError: It has ended.
    """
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    if found is None:  # it has, and nobody has waited for it yet
        raise ProcessLookupError(process)
    return int(found.group(1))
