"""Fixtures for a service with an SQLite or MongoDB store, and for direct access to that store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from resilience.place import Place
from support.harness import Harness, running
from zoomgate_server.encryption import key_file


@pytest.fixture(params=["sqlite", "mongodb"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """The store of the service, for each store type."""
    key_file.create(tmp_path / "keys.json")
    environ = {"ZOOMGATE_KEYS": str(tmp_path / "keys.json"), "ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    if request.param == "mongodb":
        environ["ZOOMGATE_STORE"] = request.getfixturevalue("mongodb_uri")
    created = Place(tmp_path / "data", environ)
    yield created
    await created.close()


@pytest.fixture
async def zoomgate(place: Place) -> AsyncIterator[Harness]:
    """A running service."""
    async with running(place.folder, environ=place.environ) as harness:
        yield harness
