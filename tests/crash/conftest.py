"""Fixtures and result table of the crash tests."""

import pytest

from crash.cluster import Interruption, StoreKind
from crash.table import TABLE, Table
from support.mongodb import MongoServer
from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules


def pytest_configure(config: pytest.Config) -> None:
    """Create an empty table for the results of the session."""
    config.stash[TABLE] = Table()


@pytest.fixture
def table(pytestconfig: pytest.Config) -> Table:
    """Return the table to which tests add their results."""
    return pytestconfig.stash[TABLE]


@pytest.fixture(params=StoreKind)
def store_kind(request: pytest.FixtureRequest) -> StoreKind:
    """Return the kind of store; the test runs once with each kind."""
    kind: StoreKind = request.param
    return kind


@pytest.fixture
def store_uri(store_kind: StoreKind, request: pytest.FixtureRequest) -> str:
    """Return the address of a new MongoDB database, or an empty string for SQLite."""
    if store_kind is StoreKind.SQLITE:
        return ""
    server: MongoServer = request.getfixturevalue("mongodb")
    return server.new_database("directConnection=true")


@pytest.fixture(params=Interruption)
def interruption(request: pytest.FixtureRequest) -> Interruption:
    """Return the interruption; the test runs once with each."""
    result: Interruption = request.param
    return result


@pytest.fixture(
    params=(
        Rules(RefreshTokenReuse.ENDS_GRANT, revocation=Revocation.USER),
        Rules(RefreshTokenReuse.TOLERATED, concurrent_grants=True, revocation=Revocation.USER),
    ),
    ids=("one-grant-ended-by-reuse", "concurrent-grants-tolerating-reuse"),
)
def rules(request: pytest.FixtureRequest) -> Rules:
    """Return the rules of Zoom: whether it keeps a user's earlier grants, and what a used refresh token does.

    A revocation ends all grants of the user. Tests without this fixture use the default rules: a used refresh token is rejected.
    """
    result: Rules = request.param
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of results after the tests."""
    lines = config.stash[TABLE].lines()
    if lines:
        terminalreporter.section("faults of processes and stores")
        for line in lines:
            terminalreporter.write_line(line)
