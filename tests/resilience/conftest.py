"""Fixtures for a service with an SQLite or MongoDB store, and for direct access to that store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from resilience.place import Place
from support.harness import Harness, running
from zoomgate_server.app.timing import Timing
from zoomgate_server.encryption import key_file


@pytest.fixture(params=["sqlite", "mongodb"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Yield access to the store of the service. The test runs once with each type of store."""
    key_file.create(tmp_path / "keys.json")
    environ = {"ZOOMGATE_KEYS": str(tmp_path / "keys.json"), "ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    if request.param == "mongodb":
        environ["ZOOMGATE_STORE"] = request.getfixturevalue("mongodb_uri")
    created = Place(tmp_path / "data", environ)
    yield created
    await created.close()


@pytest.fixture
def timing(request: pytest.FixtureRequest) -> Timing:
    """Return the timing of the service, which tests can set with a parameter."""
    return getattr(request, "param", Timing())


@pytest.fixture
async def zoomgate(place: Place, timing: Timing) -> AsyncIterator[Harness]:
    """Run a service that uses the store, and yield the service."""
    async with running(place.folder, environ=place.environ, timing=timing) as harness:
        yield harness
