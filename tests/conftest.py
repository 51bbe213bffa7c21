"""Fixtures for all tests."""

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

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")

SECRETS = re.compile(r"sim-[ar]t-\w+|zgk_\w+|zoomgate-dev-secret|hunter2@|=hunter2|zak=\w|ticket=\w|code=\w")
"""Pattern that matches the secrets used in the tests: tokens, keys, client secrets, codes and tickets."""


@pytest.fixture(scope="session", autouse=True)
def log() -> Iterator[io.StringIO]:
    """Return all log lines written by the tests so far. After the last test, check that no line contains a secret."""
    lines = io.StringIO()
    logs.configure("debug", "json", lines)
    with pytest.MonkeyPatch.context() as patch:
        # commands that tests run in this process would otherwise redirect the log
        patch.setattr(logs, "configure", lambda *_: None)
        yield lines
    match = SECRETS.search(lines.getvalue())
    assert match is None, (
        f"a secret was logged: {lines.getvalue()[max(0, match.start() - 300) : match.end()]}"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--regenerate`, which rewrites the expected files of tests/contract/golden. Review the diff before committing."""
    parser.addoption(
        "--regenerate", action="store_true", help="rewrite the expected files of tests/contract/golden"
    )


@pytest.fixture(params=["sqlite", "mongodb"])
def store_environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Return the settings for the store that all services in a test share. Each test runs with SQLite and with MongoDB."""
    if request.param == "sqlite":
        return {}
    key_file.create(tmp_path / "keys.json")
    return {
        "ZOOMGATE_STORE": request.getfixturevalue("mongodb_uri"),
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
    }


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """Return a running service with the callers of `harness.CALLERS`."""
    async with running(tmp_path / "data") as harness:
        yield harness
