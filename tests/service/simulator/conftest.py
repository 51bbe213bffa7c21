"""Fixtures for tests of the simulator."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from support.zoom_app import Client, Clock
from zoom_simulator import Simulator, SimulatorOptions


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(clock: Clock) -> AsyncIterator[Client]:
    async with (
        Simulator(SimulatorOptions(port=0), wall=clock) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield Client(simulator, session)
