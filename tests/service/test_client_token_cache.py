"""Tests for the token cache of both clients with a real service, over the network."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support.harness import MONICA, OMAR, Harness, browser, caller_key, running, service, serving
from support.tcp_proxy import tcp_proxy
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate import AsyncClient, Client, errors
from zoomgate.v1.auth_service_pb2 import GetTokenRequest, GetTokenResponse, WatchConnectionsResponse
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.watch import change_feed

TIMING = Timing(feed=change_feed.Timing(poll_interval=0.02))
CALLERS = {
    "service": service("service"),
    "unwatching": service("unwatching", methods=frozenset({"AuthService.GetToken"})),
}

PROCESS = """
import sys
from zoomgate import Client, NotConnected

address, key, user = sys.argv[1:]
with Client(address, key=key, cache_tokens=True) as client:
    client.auth.get_token(user_email=user)
    print("connected", flush=True)
    try:
        while True:
            client.auth.get_token(user_email=user)
    except NotConnected:
        print("disconnected", flush=True)
"""
"""A program that reads a user's token until the user is disconnected."""


@dataclass(frozen=True)
class Caller:
    """A client that caches tokens, with one interface for both kinds.

    Attributes:
        call: Calls a method of `Client.auth` by name.
    """

    client: Client | AsyncClient
    call: Callable[..., Awaitable[Any]]

    async def get_token(self, **arguments: Any) -> Any:
        """Return the token of a user; by default, of Monica."""
        await asyncio.sleep(0)  # a cached token is returned without suspending the task
        return (await self.call("get_token", **({"user_email": MONICA} | arguments))).token


@asynccontextmanager
async def caching(kind: str, address: str, caller: str = "service", **options: Any) -> AsyncIterator[Caller]:
    """Open a blocking or asyncio client that caches tokens."""
    options |= {"key": caller_key(caller), "cache_tokens": True}
    if kind == "asyncio":
        async with AsyncClient(address, **options) as client:
            yield Caller(client, lambda name, **fields: getattr(client.auth, name)(**fields))
    else:
        with Client(address, **options) as blocking:
            yield Caller(
                blocking, lambda name, **fields: asyncio.to_thread(getattr(blocking.auth, name), **fields)
            )


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of the client."""
    return str(request.param)


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service with a connected user."""
    async with running(tmp_path, timing=TIMING, callers=CALLERS) as started:
        await started.connect()
        yield started


@pytest.fixture
async def caller(zoomgate: Harness, kind: str) -> AsyncIterator[Caller]:
    """Return a client of the service that has cached Monica's token."""
    async with caching(kind, zoomgate.grpc_address) as opened:
        await until_cached(zoomgate, opened)
        yield opened


def returned_tokens(zoomgate: Harness) -> int:
    """Return how many tokens the service has returned, according to its audit trail."""
    return (zoomgate.data_dir / "audit.jsonl").read_text().count('"token.returned"')


async def is_cached(zoomgate: Harness, caller: Caller) -> bool:
    """Read the token, and return whether it came from the cache."""
    before = returned_tokens(zoomgate)
    await caller.get_token()
    return returned_tokens(zoomgate) == before


async def until_cached(zoomgate: Harness, caller: Caller, expected: bool = True) -> None:
    """Read the token until it comes from the cache, or from the service if `expected` is False."""
    while await is_cached(zoomgate, caller) is not expected:
        pass


async def test_valid_token_is_returned_without_a_call(zoomgate: Harness, caller: Caller) -> None:
    """A program that changes the returned message does not change the cached one."""
    before = returned_tokens(zoomgate)
    first = await caller.get_token()
    token, seconds = first.access_token, first.expires_in
    first.Clear()
    for arguments in ({}, {"user_email": MONICA.title()}, {"timeout": 5.0}):
        again = await caller.get_token(**arguments)
        assert again.access_token == token
        assert 0 < again.expires_in <= seconds
    assert returned_tokens(zoomgate) == before


async def test_requests_with_other_fields_or_metadata_are_sent(zoomgate: Harness, caller: Caller) -> None:
    before = returned_tokens(zoomgate)
    await caller.get_token(min_validity={"seconds": 120})
    await caller.get_token(metadata=(("x-request-id", "mine"),))
    assert returned_tokens(zoomgate) == before + 2


async def test_invalid_timeout_is_rejected_even_if_the_token_is_cached(caller: Caller) -> None:
    with pytest.raises(ValueError, match="timeout is -1"):
        await caller.get_token(timeout=-1)


async def test_timeout_includes_the_start_of_the_watch(kind: str) -> None:
    """The watch does not start. The first call waits for two seconds, and then has eight seconds left."""
    remaining = []

    class Unwatchable(AuthServiceServicer):
        async def WatchConnections(self, _: Any, context: Any) -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield

        async def GetToken(self, _: Any, context: Any) -> GetTokenResponse:
            remaining.append(context.time_remaining())
            return GetTokenResponse()

    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(Unwatchable(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with caching(kind, f"127.0.0.1:{port}") as caller:
        for _ in range(2):
            await caller.get_token(timeout=10.0)
    await server.stop(None)
    assert remaining[0] < 9.0 < remaining[1]  # gRPC rounds timeouts


async def test_request_message_is_served_from_the_cache(zoomgate: Harness) -> None:
    async with caching("asyncio", zoomgate.grpc_address) as caller:
        await until_cached(zoomgate, caller)
        assert isinstance(caller.client, AsyncClient)
        before = returned_tokens(zoomgate)
        await caller.client.auth.get_token(GetTokenRequest(user_email=MONICA))
        assert returned_tokens(zoomgate) == before


async def test_new_token_of_another_client_replaces_the_cached_one(zoomgate: Harness, caller: Caller) -> None:
    async with AsyncClient(zoomgate.grpc_address, key=caller_key("service")) as other:
        generation = (await other.auth.refresh_token(user_email=MONICA)).token.generation
    while (await caller.get_token()).generation != generation:
        pass
    await until_cached(zoomgate, caller)


async def test_refresh_and_disconnection_by_the_same_client_apply_immediately(
    zoomgate: Harness, caller: Caller
) -> None:
    """The change feed is stopped, so the watch reports neither."""

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    with zoomgate.store.intercept("changes", never):
        generation = (await caller.call("refresh_token", user_email=MONICA)).token.generation
        assert (await caller.get_token()).generation == generation
        await caller.call("delete_connection", user_email=MONICA.upper())
        with pytest.raises(errors.NotConnected):
            await caller.get_token()


async def test_disconnection_by_a_different_process_is_seen(zoomgate: Harness) -> None:
    """The program reads tokens from one replica. A client in a different process disconnects the user at another replica."""
    arguments = ("-c", PROCESS, zoomgate.grpc_address, caller_key("service"), MONICA)
    program = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    assert await program.stdout.readline() == b"connected\n"
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, callers=CALLERS) as replica,
        AsyncClient(replica.grpc_address, key=caller_key("service")) as other,
    ):
        await other.auth.delete_connection(user_email=MONICA)
        assert await program.stdout.readline() == b"disconnected\n"
    assert await program.wait() == 0


async def test_disconnection_is_seen_with_the_next_heartbeat(tmp_path: Path, kind: str) -> None:
    """Heartbeats arrive about once per second. A second watch of the reader receives the disconnection and the next heartbeats."""
    async with running(tmp_path, callers=CALLERS) as zoomgate:
        await zoomgate.connect()
        async with (
            caching(kind, zoomgate.grpc_address) as reader,
            AsyncClient(zoomgate.grpc_address, key=caller_key("service")) as other,
            aclosing(other.watch(heartbeat=True)) as events,
        ):
            await until_cached(zoomgate, reader)
            await other.auth.delete_connection(user_email=MONICA)
            async for event in events:
                if event.connection.state == Connection.STATE_DISCONNECTED:
                    break
            for _ in range(2):
                assert (await anext(events)).type == WatchConnectionsResponse.TYPE_SYNCED
            with pytest.raises(errors.NotConnected):
                await reader.get_token()


async def test_calls_are_sent_while_no_heartbeats_arrive(zoomgate: Harness, kind: str) -> None:
    """The network discards everything without closing the connection, so the call is sent and times out."""
    host, port = zoomgate.grpc_address.split(":")
    async with (
        tcp_proxy((host, int(port))) as proxy,
        caching(kind, f"127.0.0.1:{proxy.port}") as caller,
    ):
        await until_cached(zoomgate, caller)
        proxy.silence()

        async def read_until_failure() -> None:
            while True:
                await caller.get_token(timeout=0.2)

        with pytest.raises(errors.DeadlineExceeded):
            await read_until_failure()


async def test_calls_are_sent_while_the_service_cannot_read_changes(
    zoomgate: Harness, caller: Caller
) -> None:
    async def fail(*_: Any) -> Any:
        raise StoreError("injected")

    with zoomgate.store.intercept("changes", fail):
        await until_cached(zoomgate, caller, expected=False)
    await until_cached(zoomgate, caller)


async def test_cache_continues_after_a_restart_of_the_service(tmp_path: Path, kind: str) -> None:
    """A disconnection while the service was down is seen."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, AsyncExitStack() as stack:
        async with serving(zoom, tmp_path, callers=CALLERS, timing=TIMING) as first:
            for user in (MONICA, OMAR):
                await first.connect(user)
            address = first.grpc_address
            options = [("grpc.max_reconnect_backoff_ms", 200)]
            caller = await stack.enter_async_context(caching(kind, address, options=options))
            await until_cached(first, caller)
        async with (
            serving(zoom, tmp_path, callers=CALLERS) as elsewhere,
            AsyncClient(elsewhere.grpc_address, key=caller_key("service")) as other,
        ):
            await other.auth.delete_connection(user_email=OMAR)
        async with serving(zoom, tmp_path, {"ZOOMGATE_LISTEN": address}, CALLERS, timing=TIMING) as second:
            await until_cached(second, caller)
            with pytest.raises(errors.NotConnected):
                await caller.get_token(user_email=OMAR)


async def test_caller_that_may_not_watch_is_rejected_by_the_first_call(zoomgate: Harness, kind: str) -> None:
    async with caching(kind, zoomgate.grpc_address, "unwatching") as caller:
        with pytest.raises(
            errors.NotAllowed, match=r"cache_tokens requires AuthService\.WatchConnections"
        ) as raised:
            await caller.get_token()
        assert raised.value.reason == "CALLER_NOT_ALLOWED"
    async with AsyncClient(zoomgate.grpc_address, key=caller_key("unwatching")) as without_cache:
        assert (await without_cache.auth.get_token(user_email=MONICA)).token.access_token


async def test_closing_the_client_ends_its_watch(zoomgate: Harness, kind: str) -> None:
    async def watches() -> str:
        async with browser() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
            lines = (await page.text()).splitlines()
        return next(line for line in lines if line.startswith("zoomgate_watches "))

    async with caching(kind, zoomgate.grpc_address) as caller:
        await caller.get_token()
        assert await watches() == "zoomgate_watches 1.0"
    while await watches() != "zoomgate_watches 0.0":
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await caller.get_token()


async def test_unreachable_service_raises_its_own_error(kind: str) -> None:
    async with caching(kind, "127.0.0.1:1") as caller:
        with pytest.raises(errors.ServiceUnavailable):
            await caller.get_token()


async def test_blocking_cache_is_thread_safe(zoomgate: Harness) -> None:
    """Several threads read while the token is replaced, until each has received the new token."""
    with Client(zoomgate.grpc_address, key=caller_key("service"), cache_tokens=True) as client:

        def read_until_new(generation: int) -> int:
            while (new := client.auth.get_token(user_email=MONICA).token.generation) == generation:
                pass
            return new

        async with AsyncClient(zoomgate.grpc_address, key=caller_key("service")) as other:
            first = (await other.auth.get_token(user_email=MONICA)).token.generation
            threads = [asyncio.create_task(asyncio.to_thread(read_until_new, first)) for _ in range(4)]
            second = (await other.auth.refresh_token(user_email=MONICA)).token.generation
            assert await asyncio.gather(*threads) == [second] * 4
