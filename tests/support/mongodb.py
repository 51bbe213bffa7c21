"""A MongoDB-compatible server for the tests: SecantusDB in a process of its own, or whatever ZOOMGATE_TEST_MONGODB_URI names."""

import os
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
    """A server that is there already.

    Args:
        uri: Its address without a database: `mongodb://HOST:PORT/` and what follows a `?`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def new_database(self, options: str = "") -> str:
        """The address of a database that nobody uses, with more options: `name=value`, separated by `&`."""
        before, _, query = self.uri.partition("?")
        given = "&".join(filter(None, (query, options)))
        return f"{before.rstrip('/')}/zoomgate-test-{uuid4().hex}{f'?{given}' if given else ''}"

    @property
    def address(self) -> tuple[str, int]:
        """Its first host and port."""
        host, _, port = urlsplit(self.uri).netloc.rpartition("@")[2].partition(",")[0].partition(":")
        return host, int(port or 27017)

    def close(self) -> None:
        """Delete the databases of the tests."""
        with MongoClient(self.uri) as client:
            for name in client.list_database_names():
                if name.startswith("zoomgate-test-"):
                    client.drop_database(name)


class OwnServer(MongoServer):
    """A server of our own, on a free port.

    Args:
        folder: Where it keeps its data.
        options: More options of its command line.
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
        """Start it and wait until it listens."""
        if not SERVER.exists():
            unavailable("the MongoDB-compatible server is not installed: pip install --group test")
        (self._folder / "empty.toml").touch()  # else it looks for a configuration in the home folder
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
        """Kill it at once; its data stays."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def failing(server: MongoServer, mode: Any, commands: list[str], **data: Any) -> Iterator[None]:
    """Make commands fail, by MongoDB's own switch for tests."""
    point = {"configureFailPoint": "failCommand", "mode": mode}
    with MongoClient(server.uri) as client:
        client.admin.command(point | {"data": {"failCommands": commands} | data})
        try:
            yield
        finally:
            client.admin.command(point | {"mode": "off"})


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """One server for all tests; each takes a database of its own."""
    uri = os.environ.get("ZOOMGATE_TEST_MONGODB_URI")
    server = MongoServer(uri) if uri else OwnServer(tmp_path_factory.mktemp("mongodb"))
    if isinstance(server, OwnServer):
        server.start()
    yield server
    server.close()


@pytest.fixture
def mongodb_uri(mongodb: MongoServer) -> str:
    """The address of a database that nobody uses."""
    return mongodb.new_database()
