"""What every test of this folder uses, and the table of what they found."""

import pytest

from crash.cluster import Kept
from crash.table import TABLE, Table
from service.importing.conftest import workspace, zoom  # noqa: F401 - fixtures of test_import
from support.mongodb import MongoServer


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty table."""
    config.stash[TABLE] = Table()


@pytest.fixture
def table(pytestconfig: pytest.Config) -> Table:
    """Where a test writes down what it found."""
    return pytestconfig.stash[TABLE]


@pytest.fixture(params=Kept)
def kept(request: pytest.FixtureRequest) -> Kept:
    """Where the connections are."""
    chosen: Kept = request.param
    return chosen


@pytest.fixture
def store_uri(kept: Kept, request: pytest.FixtureRequest) -> str:
    """The address of a database that nobody uses, if one is needed."""
    if kept is Kept.SQLITE:
        return ""
    server: MongoServer = request.getfixturevalue("mongodb")
    return server.new_database("directConnection=true")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the table."""
    lines = config.stash[TABLE].lines()
    if lines:
        terminalreporter.section("faults of processes and their store")
        for line in lines:
            terminalreporter.write_line(line)
