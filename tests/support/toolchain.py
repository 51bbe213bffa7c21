"""External tools that some tests need: required in CI; elsewhere a missing tool skips the test."""

import os
import shutil

import pytest

IN_CI = os.environ.get("CI") == "true"


def require(tool: str, hint: str) -> str:
    """Return the path of a tool; if it is missing, skip the test, or fail it in CI."""
    path = shutil.which(tool)
    if path is None:
        unavailable(f"{tool} is not installed: {hint}")
    return str(path)


def unavailable(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)
