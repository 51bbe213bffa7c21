"""Tools beside Python that some tests need: required in CI, elsewhere their absence skips the test and says so."""

import os
import shutil

import pytest

IN_CI = os.environ.get("CI") == "true"


def require(tool: str, hint: str) -> str:
    """Give the path of a tool, or skip the test; in CI fail instead."""
    found = shutil.which(tool)
    if found is None:
        unavailable(f"{tool} is not installed: {hint}")
    return str(found)


def unavailable(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)
