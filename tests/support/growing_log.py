"""Files that a process writes to while a test reads them."""

import json
from pathlib import Path
from typing import Any


def whole_lines(file: Path) -> list[str]:
    """The lines of a file up to now, without one that is not whole yet."""
    return file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()


def events(file: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a service's log that are about an event; what is no JSON there is left out."""
    rows = (json.loads(line) for line in whole_lines(file) if line.startswith("{"))
    return [row for row in rows if row["event"] == name]
