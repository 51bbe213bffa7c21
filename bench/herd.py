"""G10: a herd of callers at one expired token, over several processes, with a token endpoint that answers at once or slowly."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from zoom_simulator import Simulator
from zoom_simulator.faults import Fault
from zoom_simulator.options import SimulatedUser
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc

PROCESSES, CALLS, CHANNELS = 4, 1000, 12
"""Calls of each process, over so many connections: a server takes 100 at a time on one."""

LONG, SHORT = 45.0, 2.5
"""Deadlines in seconds. Where Zoom is slow, every tenth caller has the short one."""

DELAYS = (0.0, 3.0, 20.0)
_T = TypeVar("_T")
FIRST_SECONDS = 61
"""Life of the token that the herd finds: less than what it wants is left a moment later."""


@dataclass(frozen=True)
class Outcome:
    """How a herd fared.

    Attributes:
        store: Where the records are.
        delay: Seconds that Zoom took to answer.
        refreshes: How many Zoom was asked for.
        succeeded: Calls that got the new token.
        told: Calls with a short deadline that heard REFRESH_IN_PROGRESS with a time to come back.
        failed: Everything else, by code.
        seconds: From the first call to the last answer.
    """

    store: str
    delay: float
    refreshes: int
    succeeded: int
    told: int
    failed: Counter[str]
    seconds: float


def users() -> tuple[SimulatedUser, ...]:
    """Who is refreshed: one person a herd."""
    return tuple(SimulatedUser(f"herd{number}@example.com", f"u-herd-{number}") for number in range(6))


@contextlib.contextmanager
def mongodb(folder: Path) -> Iterator[str]:
    """Run a MongoDB-compatible server and give the address of a database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    (folder / "empty.toml").touch()
    command = [str(Path(sys.executable).with_name("secantusd-py")), f"--config={folder / 'empty.toml'}"]
    command += [f"--port={port}", f"--storage-path={folder / 'data'}", "--log-level=WARNING"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.05)
            yield f"mongodb://127.0.0.1:{port}/zoomgate"
        finally:
            process.terminate()


async def run(
    simulator: Simulator, loop: asyncio.AbstractEventLoop, store: str, addresses: list[str], key: str
) -> list[Outcome]:
    """Let a herd come for every delay.

    Args:
        simulator: The simulated Zoom, in another thread.
        loop: Its event loop.
        store: Name of the store, for the table.
        addresses: Of the processes, which share the store.
        key: A caller's key.
    """
    outcomes = []
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with contextlib.AsyncExitStack() as stack:
        stubs = [
            [
                auth_service_pb2_grpc.AuthServiceStub(
                    await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
                )
                for _ in range(CHANNELS)
            ]
            for address in addresses
        ]
        herds = users()[:3] if store == "SQLite" else users()[3:]
        for user, delay in zip(herds, DELAYS, strict=True):
            outcomes.append(await _herd(simulator, loop, store, stubs, key, user, delay))
    return outcomes


async def _herd(
    simulator: Simulator,
    loop: asyncio.AbstractEventLoop,
    store: str,
    stubs: "list[list[auth_service_pb2_grpc.AuthServiceAsyncStub]]",
    key: str,
    user: SimulatedUser,
    delay: float,
) -> Outcome:
    metadata = (("authorization", f"Bearer {key}"),)
    zoom = simulator.zoom

    def prepare() -> str:
        zoom.options = replace(zoom.options, access_token_seconds=FIRST_SECONDS)
        code = zoom.issue_code(user, "x")
        return str(zoom.exchange(code, "x", "")["refresh_token"])

    def unleash() -> int:
        zoom.options = replace(zoom.options, access_token_seconds=3600)
        if delay:
            simulator.faults.add(Fault("token", "delay", times=-1, seconds=delay))
        return zoom.counters["token.refresh_token.issued"]

    def settle() -> int:
        simulator.faults.clear()
        return zoom.counters["token.refresh_token.issued"]

    refresh_token = await _on(loop, prepare)
    brought = auth_service_pb2.RequestTokenRequest(user_email=user.email, refresh_token=refresh_token)
    await stubs[0][0].RequestToken(brought, metadata=metadata, timeout=10)
    wanted = auth_service_pb2.GetTokenRequest(user_email=user.email)
    wanted.min_validity.FromSeconds(60)
    await asyncio.sleep(1.5)  # the token that is there has less than that left now
    before = await _on(loop, unleash)

    async def call(number: int, own: "list[auth_service_pb2_grpc.AuthServiceAsyncStub]") -> str:
        timeout = SHORT if delay and number % 10 == 0 else LONG
        try:
            answer = await own[number % CHANNELS].GetToken(wanted, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            name: str = error.code().name
            return "told" if timeout == SHORT and "REFRESH_IN_PROGRESS" in _reason(error) else name
        return "ok" if answer.token.generation == 2 else f"generation {answer.token.generation}"

    started = time.monotonic()
    ends = Counter(await asyncio.gather(*(call(number, own) for own in stubs for number in range(CALLS))))
    seconds = time.monotonic() - started
    refreshes = await _on(loop, settle) - before
    succeeded, told = ends.pop("ok", 0), ends.pop("told", 0)
    return Outcome(store, delay, refreshes, succeeded, told, ends, seconds)


def _reason(error: grpc.aio.AioRpcError) -> str:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return details.decode("latin-1") if isinstance(details, bytes) else str(details)


async def _on(loop: asyncio.AbstractEventLoop, work: Callable[[], _T]) -> _T:
    """Do something in the simulator's thread."""

    async def do() -> _T:
        return work()

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(do(), loop))
