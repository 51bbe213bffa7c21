"""Tests for the system clocks."""

import subprocess
import sys

import pytest

from zoomgate_server.clock import SystemClock

CODE = "import time; from zoomgate_server.clock import SystemClock; print(SystemClock().monotonic() - time.monotonic())"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no time namespaces")
def test_monotonic_time_includes_suspends() -> None:
    """In a time namespace, as after a suspend, CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC. See time_namespaces(7)."""
    result = subprocess.run(
        ["unshare", "--map-root-user", "--time", "--boottime", "86400", "--fork", sys.executable, "-c", CODE],
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
