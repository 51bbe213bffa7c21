"""Fixtures for tests of imports."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.importing.exports import Workspace
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoom_simulator.testing import RunningSimulator
from zoom_simulator.testing import running as simulated

USERS = tuple(SimulatedUser(f"p{number:03}@example.com") for number in range(80))
TOKEN = re.compile(r"sim-[ar]t-\w+")


@pytest.fixture
def zoom() -> Iterator[RunningSimulator]:
    """Run a Zoom simulator with 80 additional users."""
    with simulated(SimulatorOptions(port=0, users=(*USERS, *DEFAULT_USERS))) as running:
        yield running


@pytest.fixture
def workspace(tmp_path: Path, zoom: RunningSimulator) -> Iterator[Workspace]:
    """Return an empty workspace. After the test, check that no file except the exports contains tokens in plain text."""
    yield Workspace.of(tmp_path, zoom)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in (".csv", ".json", ".txt") and path.name != "trace":
            assert not TOKEN.search(path.read_bytes().decode("latin-1")), path
