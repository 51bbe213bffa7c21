"""Fixtures that every folder uses."""

import io
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from support.harness import Harness, running
from support.mongodb import mongodb, mongodb_uri  # noqa: F401 - fixtures
from zoomgate_server.encryption import key_file
from zoomgate_server.telemetry import logs

hypothesis.settings.register_profile("same every time", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same every time")

SECRETS = re.compile(r"sim-[ar]t-\w+|zgk_\w+|zoomgate-dev-secret|hunter2@|=hunter2|zak=\w|ticket=\w|code=\w")
"""What tokens, keys, client secrets, codes and tickets of the tests look like."""


@pytest.fixture(scope="session", autouse=True)
def log() -> Iterator[io.StringIO]:
    """Every log line of the tests so far; none may hold a secret."""
    lines = io.StringIO()
    logs.configure("debug", "json", lines)
    with pytest.MonkeyPatch.context() as patch:
        # commands that tests run in this process would else send its lines elsewhere from then on
        patch.setattr(logs, "configure", lambda *_: None)
        yield lines
    found = SECRETS.search(lines.getvalue())
    assert found is None, (
        f"a secret was logged: {lines.getvalue()[max(0, found.start() - 300) : found.end()]}"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--regenerate`, which writes the expected files of tests/contract/golden anew; look at the difference before you commit it."""
    parser.addoption(
        "--regenerate", action="store_true", help="write the expected files of tests/contract/golden anew"
    )


@pytest.fixture(params=["sqlite", "mongodb"])
def store_environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Settings that lead all services of a test to one store, of either kind."""
    if request.param == "sqlite":
        return {}
    key_file.create(tmp_path / "keys.json")
    return {
        "ZOOMGATE_STORE": request.getfixturevalue("mongodb_uri"),
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
    }


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """A running service with the callers of `harness.CALLERS`."""
    async with running(tmp_path / "data") as harness:
        yield harness
