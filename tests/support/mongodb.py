"""A MongoDB-compatible server for tests: a SecantusDB process, or the server at ZOOMGATE_TEST_MONGODB_URI."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pymongo import MongoClient

from support.toolchain import unavailable

SERVER = Path(sys.executable).with_name("secantusd-py")
START_SECONDS = 30.0


class MongoServer:
    """A server that is already running.

    Args:
        uri: Address of the server without a database name: `mongodb://HOST:PORT/`, optionally with a query.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._databases: list[str] = []

    def new_database(self, options: str = "") -> str:
        """Return the address of an unused database, with additional options as `name=value`, separated by `&`."""
        before, _, query = self.uri.partition("?")
        all_options = "&".join(filter(None, (query, options)))
        self._databases.append(f"zoomgate-test-{uuid4().hex}")
        return f"{before.rstrip('/')}/{self._databases[-1]}{f'?{all_options}' if all_options else ''}"

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the address. Skips a test that needs direct connections if the server has several, a user or options."""
        parts = urlsplit(self.uri)
        if parts.scheme != "mongodb" or set("@,") & set(parts.netloc) or parts.query:
            pytest.skip("the test needs a server at mongodb://HOST:PORT/, without authentication and TLS")
        return parts.hostname or "", parts.port or 27017

    def drop_databases(self) -> None:
        """Delete the databases of the tests so far."""
        with MongoClient[dict[str, Any]](self.uri) as client:
            while self._databases:
                client.drop_database(self._databases.pop())


class OwnServer(MongoServer):
    """A server process on an unused port.

    Args:
        folder: Directory for data and log.
        options: Additional command line options.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        super().__init__(f"mongodb://127.0.0.1:{port}/")
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        if not SERVER.exists():
            unavailable("the MongoDB-compatible server is not installed: pip install --group test")
        # without this file, the server reads a configuration file from the home directory
        (self._folder / "empty.toml").touch()
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(SERVER),
                    f"--config={self._folder / 'empty.toml'}",
                    f"--port={self.address[1]}",
                    f"--storage-path={self._folder / 'data'}",
                    "--log-level=WARNING",
                    "--cache-size=256M",
                    *self._options,
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(self.address, timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.close()
        log_text = (self._folder / "server.log").read_text(encoding="utf-8", errors="replace")
        unavailable(f"the MongoDB-compatible server did not start: {log_text[-2000:]}")

    def kill(self) -> None:
        """Kill the server. Its data remains."""
        self._stop(signal.SIGKILL)

    def close(self) -> None:
        """Stop the server."""
        self._stop(signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def failing_commands(server: MongoServer, mode: Any, commands: list[str], **data: Any) -> Iterator[None]:
    """Make commands fail, using MongoDB's fail points (`configureFailPoint`)."""
    fail_point = {"configureFailPoint": "failCommand", "mode": mode}
    with MongoClient(server.uri) as client:
        client.admin.command(fail_point | {"data": {"failCommands": commands} | data})
        try:
            yield
        finally:
            client.admin.command(fail_point | {"mode": "off"})


URI_VARIABLE = "ZOOMGATE_TEST_MONGODB_URI"
URI = pytest.StashKey[str]()
"""The value of `URI_VARIABLE`, which is removed from the environment, since commands would report it as an unknown setting."""


@pytest.fixture(scope="session")
def mongodb_server(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MongoServer]:
    """Return a server that all tests share."""
    uri = pytestconfig.stash[URI]
    if uri:
        yield MongoServer(uri)
        return
    server = OwnServer(tmp_path_factory.mktemp("mongodb"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def mongodb(mongodb_server: MongoServer) -> Iterator[MongoServer]:
    """Return the shared server. Each test uses separate databases, which are deleted afterwards."""
    yield mongodb_server
    mongodb_server.drop_databases()


@pytest.fixture
def mongodb_uri(mongodb: MongoServer) -> str:
    """Return the address of an unused database."""
    return mongodb.new_database()
