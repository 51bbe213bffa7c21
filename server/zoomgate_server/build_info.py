"""The version of the service, and the commit from which it was built."""

import contextlib
import functools
import subprocess
from importlib import metadata
from pathlib import Path

UNKNOWN = "unknown"

_PACKAGE = Path(__file__).parent


@functools.cache
def version() -> str:
    """Return the version of the installed distribution."""
    return metadata.version("zoomgate-server")


@functools.cache
def commit() -> str:
    """Return the commit, with the suffix `-dirty` if files have changed or been added since, or `UNKNOWN`.

    Distributions contain the commit (`hatch_build.py`). In a checkout, git knows it.
    """
    with contextlib.suppress(FileNotFoundError):
        return (_PACKAGE / "commit.txt").read_text().strip()
    try:
        return _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
