"""The version of the service, and the commit from which it was built."""

import functools
import subprocess
from importlib import metadata
from pathlib import Path

UNKNOWN = "unknown"

_PACKAGE = Path(__file__).parent


def version() -> str:
    """Return the version of the installed distribution."""
    return metadata.version("zoomgate-server")


@functools.cache
def commit() -> str:
    """Return the commit, with the suffix `-dirty` if files have changed since, or `UNKNOWN`.

    Distributions contain the commit (`hatch_build.py`). In a checkout, git knows it.
    """
    try:
        return (_PACKAGE / "commit.txt").read_text().strip()
    except FileNotFoundError:
        describe = [
            "git",
            "-C",
            str(_PACKAGE),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
