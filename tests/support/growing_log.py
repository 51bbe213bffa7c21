"""Readers for log files that a process is still writing."""

import json
from pathlib import Path
from typing import Any


def whole_lines(file: Path) -> list[str]:
    """Return the complete lines of a file, ignoring an incomplete last line."""
    return file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()


def events(file: Path, name: str) -> list[dict[str, Any]]:
    """Return the entries with an event name from a service's log, ignoring lines that are not JSON."""
    rows = (json.loads(line) for line in whole_lines(file) if line.startswith("{"))
    return [row for row in rows if row["event"] == name]
