"""Server processes that share a store and a Zoom simulator. By default, the simulator accepts each refresh token once."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio

from support.growing_log import events, whole_lines
from support.harness import RpcError, caller_key, metadata
from support.zoom_events import ENVIRON
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.options import SimulatedUser
from zoom_simulator.rules import Rules
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.meetings_service_pb2 import CreateMeetingRequest
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceStub
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.mongodb import MongoStore
from zoomgate_server.storage.sqlite import SqliteStore

TIMEOUT_SECONDS = 40.0
"""Maximum duration of a wait for a condition, a response or the exit of a process."""

TESTS = Path(__file__).parents[1]
OK = ("OK", "")
REFRESH_IN_PROGRESS = ("UNAVAILABLE", "REFRESH_IN_PROGRESS")
STORE_UNAVAILABLE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
UNAVAILABLE = ("UNAVAILABLE", "")
DEADLINE_EXCEEDED = ("DEADLINE_EXCEEDED", "")
NOT_CONNECTED = ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")
REAUTH = ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")

CALLERS = f"""
[[callers]]
name = "service"
role = "service"
key_sha256 = "{digest(caller_key("service"))}"
users = ["*"]
access_tokens = true
refresh_tokens = true
"""

CallStatus = tuple[str, str]
"""The status code of a call, and the error reason or an empty string."""


class StoreKind(StrEnum):
    """The kind of store that the processes share.

    Attributes:
        SQLITE: All processes share one data directory, which contains the database file and the token journal.
        MONGODB: All processes share a database; each process has its own data directory.
    """

    SQLITE = "SQLite"
    MONGODB = "MongoDB"


class Interruption(StrEnum):
    """What happens to the process whose operations are paused.

    Attributes:
        PAUSE: The operations continue after the test has acted through a different process.
        STOP: As `PAUSE`, but the whole process is stopped in the meantime, for longer than a lease.
        KILL: The process is killed after the test has acted through a different process, and another one is started.
    """

    PAUSE = "pause"
    STOP = "SIGSTOP"
    KILL = "SIGKILL"


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "timed out waiting for a condition"
        await asyncio.sleep(0.02)


def simulated_users(names: Iterable[str]) -> tuple[SimulatedUser, ...]:
    """Return users of the Zoom simulator, with email addresses at example.com."""
    return tuple(SimulatedUser(f"{name}@example.com") for name in names)


async def until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until an asynchronous condition holds."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, "timed out waiting for a condition"
        await asyncio.sleep(0.05)


@dataclass
class Server:
    """A service in its own process, with worker processes if it was started with several workers.

    Attributes:
        process: The service process, or the supervisor of the workers.
        directory: The directory of the log, and of the plan and the trace of `launcher.py`.
        grpc: HOST:PORT.
        http: HOST:PORT.
    """

    process: subprocess.Popen[str]
    directory: Path
    grpc: str
    http: str
    _channels: AsyncExitStack = field(default_factory=AsyncExitStack)
    _stub: Any = None

    async def call(self, method: str, request: Any, seconds: float = TIMEOUT_SECONDS) -> CallStatus:
        """Call an RPC of the AuthService, and return the status of the call."""
        if self._stub is None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await self._channels.enter_async_context(
                grpc.aio.insecure_channel(self.grpc, options=options)
            )
            self._stub = AuthServiceStub(channel)
        return await _call_status(getattr(self._stub, method), request, seconds)

    async def call_on_new_connection(
        self, method: str, request: Any, seconds: float = TIMEOUT_SECONDS
    ) -> CallStatus:
        """Call an RPC of the AuthService over a new TCP connection, for which the kernel chooses a worker; return the status."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.grpc, options=options) as channel:
            return await _call_status(getattr(AuthServiceStub(channel), method), request, seconds)

    async def token(self, user: str, seconds: float = TIMEOUT_SECONDS) -> CallStatus:
        """Request a user's access token, and return the status of the call."""
        return await self.call("GetToken", auth.GetTokenRequest(user_email=user), seconds)

    async def create_meeting(self, user: str) -> CallStatus:
        """Create a meeting, for which the service sends the user's access token to Zoom; return the status of the call."""
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            request = CreateMeetingRequest(user_email=user)
            return await _call_status(MeetingsServiceStub(channel).CreateMeeting, request, TIMEOUT_SECONDS)

    async def tokens(self, users: Iterable[str], seconds: float = TIMEOUT_SECONDS) -> dict[str, CallStatus]:
        """Request the access tokens of several users concurrently, and return the status of each call by user."""
        emails = list(users)
        return dict(
            zip(emails, await asyncio.gather(*(self.token(user, seconds) for user in emails)), strict=True)
        )

    def plan(self, points: dict[str, str]) -> None:
        """Replace the plan, which lists, for each user, the point at which the user's operations pause."""
        write_plan(self.directory, points)

    def trace(self) -> list[tuple[int, str, str]]:
        """Return the process ID, the user and the point of every trace entry."""
        rows = (line.split() for line in whole_lines(self.directory / "trace"))
        return [(int(pid), user, point) for pid, user, point in rows]

    async def reached(self, points: dict[str, str]) -> None:
        """Wait until, for every user in `points`, an operation has reached the user's point."""
        expected = set(points.items())
        await until(lambda: expected <= {(user, point) for _, user, point in self.trace()})

    def log(self, event: str) -> list[dict[str, Any]]:
        """Return the log entries with the event name `event`."""
        return events(self.directory / "log", event)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait until the process exits, and return its exit code."""
        return await asyncio.to_thread(self.process.wait, TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Stop the process, even if it is paused or does not respond."""
        if self.process.poll() is None:
            self.plan({})
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        try:
            await self.wait()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            await self._channels.aclose()
            assert self.process.stdout is not None
            self.process.stdout.close()


async def _call_status(method: Any, request: Any, seconds: float) -> CallStatus:
    try:
        await method(request, metadata=metadata(), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return RpcError.of(error).short
    return OK


def write_plan(directory: Path, points: dict[str, str]) -> None:
    """Replace the plan in a directory atomically."""
    new = directory / "plan.new"
    new.write_text(json.dumps(points))
    new.rename(directory / "plan.json")


class Cluster:
    """Server processes that share a store and a Zoom simulator. Create instances with `cluster`.

    Attributes:
        connections: Reads and writes the store directly, without a server.
    """

    def __init__(
        self,
        store_kind: StoreKind,
        directory: Path,
        zoom: Simulator,
        connections: ConnectionRepository,
        store_uri: str,
    ) -> None:
        self.store_kind = store_kind
        self.zoom = zoom
        self.connections = connections
        self._directory = directory
        self._uri = store_uri
        self._servers: list[Server] = []

    # -- processes ---------------------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        plan: dict[str, str] | None = None,
        *,
        store_uri: str = "",
        workers: int = 1,
        listen: str = "127.0.0.1:0",
        environ: dict[str, str] | None = None,
        release: Path | None = None,
    ) -> Server:
        """Start a service and wait until it is ready.

        Args:
            name: Name of the data directory if the store is MongoDB; services started with the same name use the same directory.
            plan: The point at which each user's operations pause, by email address.
            store_uri: Address to use for the MongoDB database instead of its own, such as the address of a proxy.
            release: Interpreter of an environment with a release, which is started instead of this code and ignores the plan.
        """
        directory = self._directory / f"{name}-{len(self._servers)}"
        directory.mkdir()
        write_plan(directory, plan or {})
        (directory / "trace").touch()
        settings = self._environ(name, store_uri) | {
            "ZOOMGATE_LISTEN": listen,
            "ZOOMGATE_WORKERS": str(workers),
            **(environ or {}),
        }
        command = [str(release), "-I", "-m", "zoomgate_server", "serve"]
        if release is None:
            command = [sys.executable, "-m", "crash.launcher", str(directory), "serve"]
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=settings,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        server = Server(process, directory, "", "")
        self._servers.append(server)
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        ready = re.fullmatch(r"zoomgate: ready grpc=(\S+:[1-9]\d*) http=(\S+:[1-9]\d*)\n", line)
        assert ready is not None, line + (directory / "log").read_text()
        server.grpc, server.http = ready[1], ready[2]
        return server

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the settings of a service."""
        return subprocess.run(
            [sys.executable, "-m", "zoomgate_server", *arguments],
            cwd=self._directory,
            env=self._environ(name),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def _environ(self, name: str, store_uri: str = "") -> dict[str, str]:
        """Return the environment variables of a service; see `start`."""
        data = self._directory / (name if self.store_kind is StoreKind.MONGODB else "data")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZOOMGATE_")}
        settings = inherited | {
            "PYTHONPATH": str(TESTS),
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_DATA_DIR": str(data),
            "ZOOMGATE_KEYS": str(self._directory / "keys.json"),
            "ZOOMGATE_CALLERS": str(self._directory / "callers.toml"),
            "ZOOMGATE_CLIENT_ID": self.zoom.options.client_id,
            "ZOOMGATE_CLIENT_SECRET": self.zoom.options.client_secret,
            "ZOOMGATE_ZOOM_API_URL": self.zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": self.zoom.oauth_url,
            **ENVIRON,
        }
        if self.store_kind is StoreKind.MONGODB:
            settings["ZOOMGATE_STORE"] = store_uri or self._uri
        return settings

    async def close(self) -> None:
        """Stop all processes, and check that no log contains a token."""
        await asyncio.gather(*(server.close() for server in self._servers))
        for server in self._servers:
            assert not re.search("sim-[ar]t-", (server.directory / "log").read_text())

    # -- users -------------------------------------------------------------------------------------------

    def code(self, user: str, redirect_uri: str) -> str:
        """Let a user consent in the Zoom simulator, and return the authorization code."""
        return self.zoom.zoom.issue_code(self.zoom.zoom.users[user], redirect_uri)

    def grant(self, user: str, *, expired: bool = True) -> TokenPair:
        """Let a user consent in the Zoom simulator, and return the issued token pair.

        Args:
            expired: Whether Zoom treats the access token as expired. The expiry time in the returned pair is always in the past.
        """
        redirect_uri = "http://127.0.0.1/back"
        issued = self.zoom.zoom.exchange(self.code(user, redirect_uri), redirect_uri, "")
        if expired:
            self.zoom.zoom.expire(user)
        past = time.time() - 3600
        return TokenPair(issued["access_token"], issued["refresh_token"], issued["scope"], past, past)

    async def connect(self, users: Iterable[str], *, expired: bool = True) -> None:
        """Store active connections with an expiry time in the past; with `expired=False`, Zoom still accepts their access tokens."""
        for user in users:
            tokens = self.grant(user, expired=expired)
            past = tokens.obtained_at
            record = ConnectionRecord(
                zoom_user_id=self.zoom.zoom.users[user].user_id,
                user_email=user,
                state=State.ACTIVE,
                grant=uuid4().hex,
                generation=1,
                create_time=past,
                consent_time=past,
                update_time=past,
                refresh_time=past,
                access_expire_at=past,
                tokens=tokens,
                initiated_by="test",
            )
            assert await self.connections.write(record)

    async def record(self, user: str) -> ConnectionRecord | None:
        """Return the stored record of a user."""
        record, _ = await self.connections.find(user)
        return record

    async def state(self, user: str) -> str:
        """Return the state of a user's connection, followed by the cause if there is one, or "none" if no record exists."""
        record = await self.record(user)
        if record is None:
            return "none"
        return record.state.value + (f" {record.cause.value}" if record.cause else "")

    def audit_events(self) -> list[dict[str, Any]]:
        """Return the entries of the audit trails in all data directories."""
        files = self._directory.glob("*/audit.jsonl")
        return [json.loads(line) for file in files for line in whole_lines(file)]

    def journal_entries(self) -> list[Path]:
        """Return the paths of the token journal's entry files in all data directories."""
        return list(self._directory.glob("*/journal/*.entry"))

    async def lost(self, users: Iterable[str]) -> set[str]:
        """Return the users whose valid refresh token is not in the store. These users must consent again."""
        lost = set()
        for user in users:
            record = await self.record(user)
            pairs = () if record is None else filter(None, (record.tokens, *record.alternate_pairs))
            if self.zoom.zoom.grants[user].refresh_token not in {pair.refresh_token for pair in pairs}:
                lost.add(user)
        return lost

    async def is_erased(self, users: Iterable[str]) -> bool:
        """Return whether the store contains no token of the users."""
        records = [await self.record(user) for user in users]
        return not any(
            (*record.pairs, *record.superseded_pairs, *record.pairs_to_revoke)
            for record in records
            if record is not None
        )

    def refreshes(self, user: str) -> int:
        """Return how many times Zoom has refreshed a user's token pair."""
        return self.zoom.zoom.grants[user].generation - 1

    @property
    def rejections(self) -> int:
        """The number of refresh tokens that Zoom rejected."""
        return self.zoom.zoom.counters["token.refresh_token.refused"]


@asynccontextmanager
async def cluster(
    store_kind: StoreKind,
    directory: Path,
    names: Iterable[str],
    store_uri: str = "",
    rules: Rules = Rules(),
) -> AsyncIterator[Cluster]:
    """Run the Zoom simulator with the named users, create an empty store, and yield a cluster without servers."""
    async with AsyncExitStack() as stack:
        zoom = await stack.enter_async_context(
            Simulator(SimulatorOptions(port=0, users=simulated_users(names), rules=rules))
        )
        (directory / "data").mkdir(mode=0o700)
        key_file.create(directory / "keys.json")
        (directory / "callers.toml").write_text(CALLERS, encoding="utf-8")
        (directory / "callers.toml").chmod(0o600)
        store = (
            await MongoStore.open(store_uri)
            if store_kind is StoreKind.MONGODB
            else await SqliteStore.open(directory / "data" / "zoomgate.db", time.time)
        )
        stack.push_async_callback(store.close)
        app = f"loopback|{zoom.options.client_id}"
        envelope = Envelope(app=app, keys=key_file.load(directory / "keys.json"))
        await key_check.verify(store, envelope)
        connections = ConnectionRepository(
            app=app, store=store, envelope=envelope, clock=SystemClock(), on_read=lambda: None
        )
        running = Cluster(store_kind, directory, zoom, connections, store_uri)
        stack.push_async_callback(running.close)
        yield running
