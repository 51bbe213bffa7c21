"""Tests for the system clocks of the server and the Python client."""

import subprocess
import sys

import pytest

from zoomgate_server.clock import SystemClock

SERVER = "from zoomgate_server.clock import SystemClock; clock = SystemClock().monotonic"
CLIENT = "from zoomgate._token_cache import monotonic as clock"


@pytest.mark.parametrize("imported", [SERVER, CLIENT], ids=["server", "client"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no time namespaces")
def test_monotonic_time_includes_suspends(imported: str) -> None:
    """In a time namespace, as after a suspend, CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC. See time_namespaces(7)."""
    code = f"import time; {imported}; print(clock() - time.monotonic())"
    result = subprocess.run(
        ["unshare", "--map-root-user", "--time", "--boottime", "86400", "--fork", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.stderr.startswith("unshare: "):
        pytest.skip(result.stderr)
    assert round(float(result.stdout)) == 86400


def test_monotonic_time_never_decreases() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)
