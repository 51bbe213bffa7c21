"""Server processes over one store and one simulated Zoom that rotates strictly, and what is known of everybody's tokens from outside."""

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
from support.harness import Refusal, key_of, metadata
from support.zoom_events import ENVIRON
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.options import SimulatedUser
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

SECONDS = 40.0
"""Bound of everything that is waited for."""

TESTS = Path(__file__).parents[1]
OK = ("OK", "")
REFRESHING = ("UNAVAILABLE", "REFRESH_IN_PROGRESS")
STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
GONE = ("UNAVAILABLE", "")
LATE = ("DEADLINE_EXCEEDED", "")
NOT_CONNECTED = ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")
REAUTH = ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")

CALLERS = f"""
[[callers]]
name = "service"
role = "service"
key_sha256 = "{digest(key_of("service"))}"
users = ["*"]
access_tokens = true
refresh_tokens = true
"""

Answer = tuple[str, str]
"""Code and reason of a call."""


class Kept(StrEnum):
    """What the processes share.

    Attributes:
        SQLITE: The data folder: file of the store and journal.
        MONGODB: A database alone; each process has a data folder of its own.
    """

    SQLITE = "SQLite"
    MONGODB = "MongoDB"


async def until(what: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.02)


def people(names: Iterable[str]) -> tuple[SimulatedUser, ...]:
    """People with an account at the simulated Zoom."""
    return tuple(SimulatedUser(f"{name}@example.com") for name in names)


async def until_async(what: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds that takes a look at the store."""
    end = time.monotonic() + SECONDS
    while not await what():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.05)


@dataclass
class Server:
    """A service in a process of its own, or in several.

    Attributes:
        process: The one that was started.
        folder: What it passes and where it waits (`launcher.py`), and its log.
        grpc: HOST:PORT.
        http: HOST:PORT.
    """

    process: subprocess.Popen[str]
    folder: Path
    grpc: str
    http: str
    _channels: AsyncExitStack = field(default_factory=AsyncExitStack)
    _stub: Any = None

    async def call(self, method: str, request: Any, seconds: float = SECONDS) -> Answer:
        """Call an RPC of the AuthService and tell how it ended."""
        if self._stub is None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await self._channels.enter_async_context(
                grpc.aio.insecure_channel(self.grpc, options=options)
            )
            self._stub = AuthServiceStub(channel)
        return await _answer(getattr(self._stub, method), request, seconds)

    async def call_apart(self, method: str, request: Any, seconds: float = SECONDS) -> Answer:
        """Call over a connection of its own, so that the kernel chooses the worker."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.grpc, options=options) as channel:
            return await _answer(getattr(AuthServiceStub(channel), method), request, seconds)

    async def token(self, user: str, seconds: float = SECONDS) -> Answer:
        """Ask for somebody's access token."""
        return await self.call("GetToken", auth.GetTokenRequest(user_email=user), seconds)

    async def create_meeting(self, user: str) -> Answer:
        """Use somebody's token at Zoom."""
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            request = CreateMeetingRequest(user_email=user)
            return await _answer(MeetingsServiceStub(channel).CreateMeeting, request, SECONDS)

    async def tokens(self, users: Iterable[str], seconds: float = SECONDS) -> dict[str, Answer]:
        """Ask for several at once."""
        named = list(users)
        return dict(
            zip(named, await asyncio.gather(*(self.token(user, seconds) for user in named)), strict=True)
        )

    def plan(self, points: dict[str, str]) -> None:
        """Say whose tokens wait where from now on."""
        plan_in(self.folder, points)

    def trace(self) -> list[tuple[int, str, str]]:
        """Process id, user and point of everything that was passed."""
        rows = (line.split() for line in whole_lines(self.folder / "trace"))
        return [(int(pid), user, point) for pid, user, point in rows]

    async def reached(self, points: dict[str, str]) -> None:
        """Wait until everybody of a plan is where it says."""
        wanted = set(points.items())
        await until(lambda: wanted <= {(user, point) for _, user, point in self.trace()})

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event up to now."""
        return events(self.folder / "log", event)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end, and give its exit code."""
        return await asyncio.to_thread(self.process.wait, SECONDS)

    async def close(self) -> None:
        """End it however it is."""
        if self.process.poll() is None:
            self.plan({})
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        try:
            await self.ended()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            await self._channels.aclose()
            assert self.process.stdout is not None
            self.process.stdout.close()


async def _answer(method: Any, request: Any, seconds: float) -> Answer:
    try:
        await method(request, metadata=metadata(), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error).short
    return OK


def plan_in(folder: Path, points: dict[str, str]) -> None:
    """Write a plan, at once for who reads it meanwhile."""
    new = folder / "plan.new"
    new.write_text(json.dumps(points))
    new.rename(folder / "plan.json")


class Cluster:
    """Processes over one store and one simulated Zoom. Use `cluster`.

    Attributes:
        zoom: The simulated Zoom.
        connections: What the store holds, read and written from outside.
    """

    def __init__(
        self, kept: Kept, folder: Path, zoom: Simulator, connections: ConnectionRepository, store_uri: str
    ) -> None:
        self.kept = kept
        self.zoom = zoom
        self.connections = connections
        self._folder = folder
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
    ) -> Server:
        """Start a service; one of an earlier name finds what that left in its data folder.

        Args:
            name: Of its data folder, unless all share one.
            plan: Where whose tokens wait.
            store_uri: Reaches the MongoDB database another way.
            workers: How many processes.
            listen: Its gRPC address.
            environ: More settings.
        """
        folder = self._folder / f"{name}-{len(self._servers)}"
        folder.mkdir()
        plan_in(folder, plan or {})
        (folder / "trace").touch()
        data = self._folder / (name if self.kept is Kept.MONGODB else "data")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ZOOMGATE_")}
        settings = kept | {
            "PYTHONPATH": str(TESTS),
            "ZOOMGATE_LISTEN": listen,
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_DATA_DIR": str(data),
            "ZOOMGATE_KEYS": str(self._folder / "keys.json"),
            "ZOOMGATE_CALLERS": str(self._folder / "callers.toml"),
            "ZOOMGATE_CLIENT_ID": self.zoom.options.client_id,
            "ZOOMGATE_CLIENT_SECRET": self.zoom.options.client_secret,
            "ZOOMGATE_ZOOM_API_URL": self.zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": self.zoom.oauth_url,
            "ZOOMGATE_WORKERS": str(workers),
            **ENVIRON,
            **(environ or {}),
        }
        if self.kept is Kept.MONGODB:
            settings["ZOOMGATE_STORE"] = store_uri or self._uri
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "crash.launcher", str(folder), "serve"],
                cwd=self._folder,
                env=settings,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        server = Server(process, folder, "", "")
        self._servers.append(server)
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        ready = re.fullmatch(r"zoomgate: ready grpc=(\S+:[1-9]\d*) http=(\S+:[1-9]\d*)\n", line)
        assert ready is not None, line + (folder / "log").read_text()
        server.grpc, server.http = ready[1], ready[2]
        return server

    async def close(self) -> None:
        """End all processes; none has logged a token."""
        await asyncio.gather(*(server.close() for server in self._servers))
        for server in self._servers:
            assert not re.search("sim-[ar]t-", (server.folder / "log").read_text())

    # -- people ------------------------------------------------------------------------------------------

    def code(self, user: str, back: str) -> str:
        """Let a person consent at Zoom, which sends the browser back to an address with this code."""
        return self.zoom.zoom.issue_code(self.zoom.zoom.users[user], back)

    def grant(self, user: str, *, expired: bool = True) -> TokenPair:
        """Let a person consent at Zoom; the pair's access token is expired, unless told otherwise, and its refresh token lives."""
        back = "http://127.0.0.1/back"
        issued = self.zoom.zoom.exchange(self.code(user, back), back, "")
        if expired:
            self.zoom.zoom.expire(user)
        past = time.time() - 3600
        return TokenPair(
            issued["access_token"], issued["refresh_token"], "bearer", issued["scope"], "", past, past
        )

    async def connect(self, users: Iterable[str], *, expired: bool = True) -> None:
        """Give people a connection whose access token is expired; without `expired` only the record says so, and Zoom takes it."""
        for user in users:
            tokens = self.grant(user, expired=expired)
            past = tokens.obtained_at
            record = ConnectionRecord(
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
                zoom_user_id=self.zoom.zoom.users[user].user_id,
                initiated_by="test",
            )
            assert await self.connections.write(record)

    async def record(self, user: str) -> ConnectionRecord | None:
        """What the store holds about a person."""
        record, _ = await self.connections.read(user)
        return record

    async def shown(self, user: str) -> str:
        """The state of a connection, and the cause of one that needs a new consent."""
        record = await self.record(user)
        if record is None:
            return "none"
        return record.state.value + (f" {record.cause.value}" if record.cause else "")

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit trails of all data folders."""
        files = self._folder.glob("*/audit.jsonl")
        return [json.loads(line) for file in files for line in whole_lines(file)]

    def journals(self) -> list[Path]:
        """What is in the journals of all data folders."""
        return list(self._folder.glob("*/journal/*.entry"))

    async def lost(self, users: Iterable[str]) -> set[str]:
        """Those whose living refresh token the store does not hold: Zoom takes nothing from us for them any more."""
        found = set()
        for user in users:
            record = await self.record(user)
            pairs = () if record is None else filter(None, (record.tokens, *record.alternate_pairs))
            if self.zoom.zoom.grants[user].refresh_token not in {pair.refresh_token for pair in pairs}:
                found.add(user)
        return found

    def answers(self, user: str) -> int:
        """How many refreshes of somebody Zoom answered with tokens."""
        return self.zoom.zoom.grants[user].generation - 1

    @property
    def refusals(self) -> int:
        """How many refresh tokens Zoom refused."""
        return self.zoom.zoom.counters["token.refresh_token.refused"]


@asynccontextmanager
async def cluster(
    kept: Kept, folder: Path, names: Iterable[str], store_uri: str = ""
) -> AsyncIterator[Cluster]:
    """Run a simulated Zoom for people with some names, and prepare a store that is empty yet."""
    async with AsyncExitStack() as stack:
        zoom = await stack.enter_async_context(Simulator(SimulatorOptions(port=0, users=people(names))))
        (folder / "data").mkdir(mode=0o700)
        key_file.create(folder / "keys.json")
        (folder / "callers.toml").write_text(CALLERS, encoding="utf-8")
        (folder / "callers.toml").chmod(0o600)
        store = (
            await MongoStore.open(store_uri)
            if kept is Kept.MONGODB
            else await SqliteStore.open(folder / "data" / "zoomgate.db", time.time)
        )
        stack.push_async_callback(store.close)
        app = f"loopback|{zoom.options.client_id}"
        envelope = Envelope(app=app, keys=key_file.load(folder / "keys.json"))
        await key_check.verify(store, envelope)
        connections = ConnectionRepository(
            app=app, store=store, envelope=envelope, clock=SystemClock(), on_read=lambda: None
        )
        running = Cluster(kept, folder, zoom, connections, store_uri)
        stack.push_async_callback(running.close)
        yield running
