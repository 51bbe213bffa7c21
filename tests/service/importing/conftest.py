"""Fixtures for tests of imports."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.importing.exports import Workspace
from support.harness import Harness, serving
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoom_simulator.testing import RunningSimulator
from zoom_simulator.testing import running as simulated
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import journal_recovery

USERS = tuple(SimulatedUser(f"p{number:03}@example.com") for number in range(80))
TOKEN = re.compile(r"sim-[ar]t-\w+")


@pytest.fixture
def zoom() -> Iterator[RunningSimulator]:
    """Run a Zoom simulator with 80 additional users."""
    with simulated(SimulatorOptions(port=0, users=(*USERS, *DEFAULT_USERS))) as running:
        yield running


@pytest.fixture
async def service(tmp_path_factory: pytest.TempPathFactory, zoom: RunningSimulator) -> AsyncIterator[Harness]:
    """Run a service that recovers its journal quickly."""
    timing = Timing(recovery=journal_recovery.Timing(poll_interval=0.01))
    environ = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    async with serving(zoom._simulator, tmp_path_factory.mktemp("data"), environ, timing=timing) as started:
        yield started


@pytest.fixture
def workspace(tmp_path: Path, service: Harness) -> Iterator[Workspace]:
    """Return an empty workspace. After the test, check that no file except the exports contains tokens in plain text."""
    yield Workspace.of(tmp_path, service)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in (".csv", ".json", ".txt"):
            assert not TOKEN.search(path.read_bytes().decode("latin-1")), path
