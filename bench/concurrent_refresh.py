"""Benchmark G10 of docs/performance.md: concurrent requests to several processes for one user's token that must be refreshed."""

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
"""Number of processes, and of calls and channels per process. A server accepts only 100 concurrent calls per connection."""

LONG_DEADLINE, SHORT_DEADLINE = 45.0, 2.5
"""Deadlines in seconds. With a slow token endpoint, every tenth call has the short deadline."""

DELAYS = (0.0, 3.0, 20.0)
_T = TypeVar("_T")
FIRST_TOKEN_SECONDS = 61
"""Lifetime of the first token in seconds, slightly above the minimum validity that callers require."""


@dataclass(frozen=True)
class Outcome:
    """The result of one round of concurrent calls.

    Attributes:
        store: Name of the store.
        delay: Seconds until Zoom responds.
        refreshes: Refreshes that reached Zoom.
        succeeded: Calls that returned the new token.
        in_progress: Calls with a short deadline that failed with REFRESH_IN_PROGRESS and a retry delay.
        failed: All other calls, by status code.
        seconds: Time from the first call to the last response.
    """

    store: str
    delay: float
    refreshes: int
    succeeded: int
    in_progress: int
    failed: Counter[str]
    seconds: float


def users() -> tuple[SimulatedUser, ...]:
    """Return the users of the benchmark: one per round."""
    return tuple(SimulatedUser(f"refresh{number}@example.com", f"u-refresh-{number}") for number in range(6))


@contextlib.contextmanager
def mongodb(directory: Path) -> Iterator[str]:
    """Run a MongoDB-compatible server and yield the URI of a database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory.mkdir()
    (directory / "empty.toml").touch()
    command = [str(Path(sys.executable).with_name("secantusd-py")), f"--config={directory / 'empty.toml'}"]
    command += [f"--port={port}", f"--storage-path={directory / 'data'}", "--log-level=WARNING"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory
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
    """Run one round of concurrent calls for every delay.

    Args:
        simulator: The Zoom simulator, which runs in a different thread.
        loop: The event loop of the simulator.
        store: Name of the store, for the table.
        addresses: Addresses of the processes, which share the store.
        key: Key of a caller.
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
        round_users = users()[:3] if store == "SQLite" else users()[3:]
        for user, delay in zip(round_users, DELAYS, strict=True):
            outcomes.append(await _run_round(simulator, loop, store, stubs, key, user, delay))
    return outcomes


async def _run_round(
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

    def connect_user() -> str:
        zoom.options = replace(zoom.options, access_token_seconds=FIRST_TOKEN_SECONDS)
        code = zoom.issue_code(user, "x")
        return str(zoom.exchange(code, "x", "")["refresh_token"])

    def start_delay() -> int:
        zoom.options = replace(zoom.options, access_token_seconds=3600)
        if delay:
            simulator.faults.add(Fault("token", "delay", times=-1, seconds=delay))
        return zoom.counters["token.refresh_token.issued"]

    def stop_delay() -> int:
        simulator.faults.clear()
        return zoom.counters["token.refresh_token.issued"]

    refresh_token = await _run_on(loop, connect_user)
    import_request = auth_service_pb2.RequestTokenRequest(user_email=user.email, refresh_token=refresh_token)
    await stubs[0][0].RequestToken(import_request, metadata=metadata, timeout=10)
    request = auth_service_pb2.GetTokenRequest(user_email=user.email)
    request.min_validity.FromSeconds(60)
    await asyncio.sleep(1.5)  # the remaining lifetime of the first token is now below the minimum
    before = await _run_on(loop, start_delay)

    async def call(number: int, stubs_of_process: "list[auth_service_pb2_grpc.AuthServiceAsyncStub]") -> str:
        timeout = SHORT_DEADLINE if delay and number % 10 == 0 else LONG_DEADLINE
        try:
            response = await stubs_of_process[number % CHANNELS].GetToken(
                request, metadata=metadata, timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            name: str = error.code().name
            return (
                "in_progress"
                if timeout == SHORT_DEADLINE and "REFRESH_IN_PROGRESS" in _reason(error)
                else name
            )
        return "ok" if response.token.generation == 2 else f"generation {response.token.generation}"

    started = time.monotonic()
    results = Counter(await asyncio.gather(*(call(number, own) for own in stubs for number in range(CALLS))))
    seconds = time.monotonic() - started
    refreshes = await _run_on(loop, stop_delay) - before
    succeeded, in_progress = results.pop("ok", 0), results.pop("in_progress", 0)
    return Outcome(store, delay, refreshes, succeeded, in_progress, results, seconds)


def _reason(error: grpc.aio.AioRpcError) -> str:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return details.decode("latin-1") if isinstance(details, bytes) else str(details)


async def _run_on(loop: asyncio.AbstractEventLoop, function: Callable[[], _T]) -> _T:
    """Run a function in the simulator's thread, and return the result."""

    async def run_function() -> _T:
        return function()

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run_function(), loop))
