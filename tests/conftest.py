"""Fixtures for all tests."""

import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from support.captured_logs import STREAM, LogStream
from support.harness import Harness, running
from support.mongodb import URI, URI_VARIABLE, mongodb, mongodb_server, mongodb_uri  # noqa: F401 - fixtures
from zoomgate_server.encryption import key_file
from zoomgate_server.telemetry import logs

TESTS = Path(__file__).parent
SLOW_FOLDERS = frozenset({"crash", "e2e"})
SLOW_FIXTURES = frozenset({"mongodb", "faulty_server", "guarded", "wheel"})
LIVE_FIXTURES = frozenset({"mongodb", "mongodb_uri"})
SLOW_PARAMETERS = ("mongodb", "mongodb-motor", "mongodb-pymongo")
LIVE_PARAMETERS = (*SLOW_PARAMETERS, "MongoDB")

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")

SECRETS = re.compile(r"sim-[ar]t-\w+|zgk_\w+|zoomgate-dev-secret|hunter2@|=hunter2|zak=\w|ticket=\w|code=\w")
"""Pattern that matches the secrets used in the tests: tokens, keys, client secrets, codes and tickets."""


@pytest.fixture(scope="session", autouse=True)
def log() -> Iterator[LogStream]:
    """Return all log lines written by the tests so far. After the last test, check that no line contains a secret."""
    logs.configure("debug", "json", STREAM)  # commands that tests run in this process cannot change this
    yield STREAM
    text = STREAM.getvalue()
    match = SECRETS.search(text)
    assert match is None, f"a secret was logged: {text[max(0, match.start() - 300) : match.end()]}"


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Check that a test does not change how this process handles signals, since the processes of later tests inherit what is ignored."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    after = {number: signal.getsignal(number) for number in numbers}
    assert after == before


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the tests. After `--regenerate`, review the diff before committing."""
    parser.addoption(
        "--regenerate", action="store_true", help="rewrite the expected files of tests/contract/golden"
    )
    parser.addoption(
        "--live",
        action="store_true",
        help=f"run only the tests that use the MongoDB server at {URI_VARIABLE}",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the address of a MongoDB server for the fixtures, and remove it from the environment of the processes that run tests.

    The tests may have been started with signals ignored, as by `nohup` or in the background. The processes of tests must not inherit this.
    """
    config.stash[URI] = os.environ.get(URI_VARIABLE, "")
    if config.getoption("live") and not config.stash[URI]:
        raise pytest.UsageError(
            f"set {URI_VARIABLE} to a MongoDB server for tests, such as mongodb://HOST/; its user must be able to create and drop databases"
        )
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ.pop(URI_VARIABLE, None)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow all tests in a slow folder, with a slow fixture, or with a slow parameter. `make test` runs the others."""
    if config.getoption("live"):
        items[:] = [item for item in items if _uses_mongodb(item)]
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if (
            item.path.relative_to(TESTS).parts[0] in SLOW_FOLDERS
            or SLOW_FIXTURES & set(item.fixturenames)
            or any(value in SLOW_PARAMETERS for value in parameters)
        ):
            item.add_marker(pytest.mark.slow)


def _uses_mongodb(item: pytest.Item) -> bool:
    """Return whether a test uses the server at `URI_VARIABLE`. Tests of server faults start their own server."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return bool(LIVE_FIXTURES & set(item.fixturenames)) or any(
        value in LIVE_PARAMETERS for value in parameters
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory, with settings for a data directory in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    return tmp_path


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """Return a running service with the callers of `harness.CALLERS`."""
    async with running(tmp_path / "data") as harness:
        yield harness
