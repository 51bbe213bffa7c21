"""Tests for invalid and excessive traffic at the gRPC port. Other clients must not be affected."""

import asyncio
import resource
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from security import http2
from security.http2 import Connection
from security.memory import peak_of
from support.harness import MONICA, Harness, RpcError, metadata
from support.raw_upstream import OK, Endless, RawUpstream, http_response, serving_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate_server.app.timing import Timing
from zoomgate_server.rpc.middleware import authentication
from zoomgate_server.rpc.server import MAX_METADATA_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

Service = tuple[Harness, RawUpstream]
METHOD = "/zoomgate.v1.AuthService/GetConnection"
HEADERS = http2.request_headers(METHOD, metadata())
BLOCK = http2.header_block(HEADERS)
START = http2.PREFACE + http2.settings()
OPEN_CALL = START + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, BLOCK)
BLOCK_WITH_TIMEOUT = http2.header_block(http2.request_headers(METHOD, metadata(), timeout="1S"))
END_ALL = http2.END_HEADERS | http2.END_STREAM
CHECK = auth.CheckTokenRequest()
CHECK.facts.expires_in = 3600
CHECK.facts.update_time.seconds = 1_700_000_000


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """Raise the limit on open files, because this process holds both ends of many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Yield a service and its upstream. Tests share them and must not affect each other's connections."""
    async with serving_upstream(tmp_path_factory.mktemp("data")) as both:
        yield both


async def assert_serving(zoomgate: Harness) -> None:
    """Check that the service accepts connections, responds to calls, and is healthy."""
    async with asyncio.timeout(20), grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        response = await AuthServiceStub(channel).CheckToken(CHECK, metadata=metadata(), timeout=20)
        assert response.expired
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert health.status == health_pb2.HealthCheckResponse.SERVING


INVALID_TRAFFIC = {
    "garbage": bytes(range(256)) * 4,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an upgrade from HTTP/1.1": b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 512,
    "frames without the preface": http2.settings() * 3,
    "an invalid preface": http2.PREFACE[:-4] + b"XX\r\n",
    "a PING before SETTINGS": http2.PREFACE + http2.frame(http2.PING, payload=b"12345678"),
    "SETTINGS of five bytes": http2.PREFACE + http2.frame(http2.SETTINGS, payload=b"12345"),
    "a PING of one byte": START + http2.frame(http2.PING, payload=b"1"),
    "headers with invalid indexes": START + http2.frame(http2.HEADERS, END_ALL, 1, b"\xff" * 64),
    "an endless integer in headers": START + http2.frame(http2.HEADERS, END_ALL, 1, b"\x7f" + b"\xff" * 32),
    "a header of two gigabytes": START + http2.frame(http2.HEADERS, END_ALL, 1, b"\x00\x7f\xff\xff\xff\x7f"),
    "a frame of 16 MiB": START + http2.frame(http2.DATA, 0, 1, b"x" * 100, length=2**24 - 1),
    "headers of 16 MiB": START + http2.frame(http2.HEADERS, 4, 1, b"x" * 100, length=2**24 - 1),
    "a CONTINUATION without HEADERS": START + http2.frame(http2.CONTINUATION, 4, 1, BLOCK),
    "headers interrupted by another frame": START
    + http2.frame(http2.HEADERS, 1, 1, BLOCK[:10])
    + http2.frame(http2.PING, payload=b"12345678"),
    "a WINDOW_UPDATE of zero": START + http2.frame(8, payload=b"\0\0\0\0"),
    "a flood of PINGs": START + http2.frame(http2.PING, payload=b"12345678") * 3000,
}
"""Invalid traffic after which the server closes the connection."""

INVALID_MESSAGES = {
    "a message above the limit": http2.message(b"abc", length=2**32 - 1),
    "two messages in a unary call": http2.message(b"") * 2,
    "a message with an invalid compressed flag": http2.message(b"abc", compressed=1),
    "an unknown flag": http2.message(b"abc", compressed=7),
}
"""Invalid messages after which the server ends the call. After an unknown flag, gRPC may leave the call open."""


@pytest.mark.parametrize("name", INVALID_TRAFFIC)
async def test_invalid_http2_closes_only_its_connection(service: Service, name: str) -> None:
    """Calls over other connections are not affected."""
    zoomgate, _ = service
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as raw_connection:
        await raw_connection.send(INVALID_TRAFFIC[name])
        await raw_connection.until_closed()
    await assert_serving(zoomgate)


@pytest.mark.parametrize("name", INVALID_MESSAGES)
async def test_invalid_message_ends_its_call(service: Service, name: str) -> None:
    """A call with an invalid message fails no later than its deadline."""
    zoomgate, raw = service
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as raw_connection:
        opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, BLOCK_WITH_TIMEOUT)
        await raw_connection.send(
            START, opened, http2.frame(http2.DATA, http2.END_STREAM, 1, INVALID_MESSAGES[name])
        )
        assert await raw_connection.until_stream_ends() is not None
    assert raw.requests == []
    await assert_serving(zoomgate)


async def idle(_: Connection) -> None:
    """Send nothing."""


async def idle_http2(raw_connection: Connection) -> None:
    """Open an HTTP/2 connection without using it."""
    await raw_connection.send(START)
    await raw_connection.read_some()


async def no_message(raw_connection: Connection) -> None:
    """Finish a call without a request message."""
    await raw_connection.send(START, http2.frame(http2.HEADERS, END_ALL, 1, BLOCK))
    await raw_connection.read_some()


async def truncated_message(raw_connection: Connection) -> None:
    """Send a request that is shorter than its length prefix."""
    await raw_connection.send(
        OPEN_CALL, http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"abc", length=1000))
    )
    await raw_connection.read_some()


async def invalid_streams(raw_connection: Connection) -> None:
    """Use streams that only a server may open, invalid streams, and streams in the wrong order."""
    for stream in (2, 0, 5, 3):
        await raw_connection.send(
            http2.frame(http2.HEADERS, END_ALL, stream, BLOCK),
            http2.frame(http2.DATA, 1, stream + 10, b"x"),
            http2.frame(5, 4, stream, b"\0\0\0\2" + BLOCK),
            http2.frame(200, 0, stream, b"x" * 100),
        )


async def settings_flood(raw_connection: Connection) -> None:
    """Send many SETTINGS frames."""
    await raw_connection.send(
        START, *[http2.settings((http2.INITIAL_WINDOW_SIZE, size)) for size in range(3000)]
    )
    await raw_connection.read_some()


async def reset_flood(raw_connection: Connection) -> None:
    """Start and immediately cancel a large number of calls."""
    await raw_connection.send(START)
    for stream in range(1, 6001, 2):
        await raw_connection.send(
            http2.frame(http2.HEADERS, END_ALL, stream, BLOCK),
            http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08"),
        )
    await raw_connection.read_some()


async def request_flood(raw_connection: Connection) -> None:
    """Start more calls than the server's stream limit."""
    await raw_connection.send(START)
    message = http2.message(auth.GetConnectionRequest(user_email=MONICA).SerializeToString())
    for stream in range(1, 4001, 2):
        await raw_connection.send(
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream, BLOCK),
            http2.frame(http2.DATA, http2.END_STREAM, stream, message),
        )
    await raw_connection.read_some()


async def endless_headers(raw_connection: Connection) -> None:
    """Send 320 MB of headers."""
    part = http2.frame(http2.CONTINUATION, 0, 1, http2.header_block([("x", "y" * 16_000)]))
    await raw_connection.send(START, http2.frame(http2.HEADERS, http2.END_STREAM, 1, BLOCK), *[part] * 20_000)


async def header_table_growth(raw_connection: Connection) -> None:
    """Send headers that would add megabytes to the server's header table."""
    await raw_connection.send(START)
    for stream in range(1, 1001, 2):
        field = b"\x40" + http2.header_block([(f"x-{stream}", "y" * 7_000)])[1:]
        block = BLOCK + field
        await raw_connection.send(
            http2.frame(http2.HEADERS, END_ALL, stream, block),
            http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08"),
        )


ATTACKS: dict[str, tuple[Callable[[Connection], Coroutine[Any, Any, None]], int, int]] = {
    "idle TCP connections": (idle, 300, 64),
    "idle HTTP/2 connections": (idle_http2, 100, 64),
    "calls without a message": (no_message, 10, 64),
    "truncated messages": (truncated_message, 10, 64),
    "streams out of order": (invalid_streams, 1, 64),
    "a flood of SETTINGS": (settings_flood, 1, 64),
    "a flood of resets": (reset_flood, 1, 64),
    "a flood of requests": (request_flood, 1, 64),
    "endless headers": (endless_headers, 1, 160),
    "header table growth": (header_table_growth, 1, 64),
}
"""For each attack: the function, the number of concurrent connections, and the maximum additional memory in megabytes."""


@pytest.mark.parametrize("name", ATTACKS)
async def test_other_clients_are_served_during_an_attack(service: Service, name: str) -> None:
    """During an attack, other calls succeed, and memory stays within its limit."""
    zoomgate, raw = service
    attack, connections, megabytes = ATTACKS[name]
    ready = asyncio.Barrier(connections + 1)

    async def attack_once() -> None:
        async with http2.connection(zoomgate.grpc_address) as raw_connection:
            await attack(raw_connection)
            await ready.wait()
            await done.wait()

    done = asyncio.Event()
    with peak_of(megabytes):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(attack_once())
            await assert_serving(zoomgate)
            await ready.wait()
            await assert_serving(zoomgate)
            done.set()
    await assert_serving(zoomgate)
    assert raw.requests == []


async def test_compressed_message_is_not_inflated_beyond_the_limit(service: Service) -> None:
    """A request of 50 KB that decompresses to 50 MB fails without being decompressed."""
    zoomgate, _ = service
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join([*(packer.compress(b"\0" * 1_000_000) for _ in range(50)), packer.flush()])
    assert len(bomb) < 60_000
    body = http2.message(bomb, compressed=1)
    compressed = [*HEADERS, ("grpc-encoding", "gzip")]
    parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    with peak_of(20):
        async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as raw_connection:
            await raw_connection.send(
                START,
                http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(compressed)),
                *(http2.frame(http2.DATA, 0, 1, part) for part in parts),
                http2.frame(http2.DATA, http2.END_STREAM, 1),
            )
            assert await raw_connection.until_stream_ends() is not None
    await assert_serving(zoomgate)


@pytest.mark.parametrize(
    "extra",
    [
        [(f"x-{number}", "y") for number in range(2000)],
        [("x-long", "y" * MAX_METADATA_BYTES)],
        [("authorization", "Bearer " + "y" * 100_000)],
    ],
    ids=["2000 entries", "an entry of 16 KiB", "a credential of 100 KB"],
)
async def test_too_much_metadata_is_rejected(service: Service, extra: list[tuple[str, str]]) -> None:
    """Calls with metadata above the limit fail with RESOURCE_EXHAUSTED before the metadata is read."""
    zoomgate, _ = service
    async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await AuthServiceStub(channel).CheckToken(CHECK, metadata=(*metadata(), *extra), timeout=20)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await assert_serving(zoomgate)


async def test_metadata_up_to_the_limit_is_always_accepted(service: Service) -> None:
    """Below its hard limit, gRPC rejects calls at random, unless the soft limit is equal."""
    zoomgate, _ = service
    entries = (*metadata(), ("x-long", "y" * (MAX_METADATA_BYTES - 1024)))
    async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        stub = AuthServiceStub(channel)
        calls = [stub.CheckToken(CHECK, metadata=entries, timeout=20) for _ in range(50)]
        assert all(response.expired for response in await asyncio.gather(*calls))


@pytest.mark.slow
async def test_client_that_pings_every_ten_seconds_is_not_disconnected(service: Service) -> None:
    """Ten seconds is the shortest interval of Go and Java clients. On a quiet stream, no event is sent for a minute."""
    zoomgate, _ = service
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(zoomgate.grpc_address, options=options) as channel:
        call = AuthServiceStub(channel).WatchConnections(
            auth.WatchConnectionsRequest(), metadata=metadata("admin")
        )
        async with asyncio.timeout(90):
            events = [await call.read() for _ in range(3)]
        kinds = auth.WatchConnectionsResponse
        assert [event.type for event in events] == [kinds.TYPE_INITIAL, kinds.TYPE_SYNCED, kinds.TYPE_SYNCED]
        call.cancel()


@pytest.mark.parametrize(
    "path",
    [
        "/zoomgate.v1.AuthService/Unknown",
        "/zoomgate.v1.AuthService/getToken",
        "/zoomgate.v1.AuthService/",
        "/zoomgate.v1.AuthService/GetToken/",
        "/zoomgate.v2.AuthService/GetToken",
        "//AuthService/GetToken",
        "/",
        "/../zoomgate.v1.AuthService/GetToken",
        "/grpc.channelz.v1.Channelz/GetServers",
    ],
)
async def test_unknown_methods_are_not_implemented(service: Service, path: str) -> None:
    """Calls of unknown methods fail with UNIMPLEMENTED, with and without a credential."""
    zoomgate, _ = service
    for caller in ("service", ""):
        error = await zoomgate.error_of(zoomgate.channel.unary_unary(path), b"", caller)
        assert error.code is grpc.StatusCode.UNIMPLEMENTED


def slow_call(timeout: str) -> bytes:
    """Start a proxy call and return it without reading response data."""
    headers = http2.request_headers("/zoomgate.v1.ProxyService/Get", metadata(), timeout)
    request = proxy.GetRequest(user_email=MONICA, url="/users/me").SerializeToString()
    return (
        http2.PREFACE
        + http2.settings((http2.INITIAL_WINDOW_SIZE, 0))
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(headers))
        + http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(request))
    )


async def test_call_of_a_slow_reader_ends_at_its_deadline(service: Service) -> None:
    """A response of several megabytes that the client does not read is discarded at the deadline."""
    zoomgate, raw = service
    raw.responses = [http_response("200 OK", b"x" * 4_000_000), OK]
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as raw_connection:
        await raw_connection.send(slow_call("2S"))
        assert await raw_connection.until_stream_ends() is not None
    assert len(raw.requests) == 1
    raw.requests.clear()
    await assert_serving(zoomgate)


@pytest.mark.parametrize("timeout", ["1m", "1u", "0n", "300m"])
async def test_call_without_time_is_not_sent_to_zoom(service: Service, timeout: str) -> None:
    """A call with too little time left until its deadline fails before a request is sent to Zoom."""
    zoomgate, raw = service
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as raw_connection:
        await raw_connection.send(slow_call(timeout))
        assert await raw_connection.until_stream_ends() is not None
    request = proxy.GetRequest(user_email=MONICA, url="/users/me")
    error = await zoomgate.error_of(zoomgate.proxy.Get, request, seconds=0.001)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    error = await zoomgate.error_of(zoomgate.proxy.Get, request, seconds=0.4)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert raw.requests == []


@pytest.mark.parametrize(("limit", "seconds"), [("default_limit", None), ("max_limit", 1e6)])
async def test_every_call_has_a_time_limit(tmp_path: Path, limit: str, seconds: float | None) -> None:
    """If the deadline is missing or too distant, the server's limit applies: 30 or 60 seconds. The test reduces the limit to 2 seconds."""
    timing = Timing(calls=authentication.Timing(**{limit: 2.0}))
    async with serving_upstream(tmp_path, timing) as (zoomgate, raw), asyncio.timeout(20):
        raw.responses = [Endless(b"HTTP/1.1 200 OK\r\n"), OK]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await zoomgate.proxy.Get(
                proxy.GetRequest(user_email=MONICA, url="/users/me"), metadata=metadata(), timeout=seconds
            )
    assert RpcError.of(error.value).short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")


async def test_calls_beyond_the_stream_limit_all_succeed(service: Service) -> None:
    """A thousand concurrent calls over one connection are queued, and none of their streams is reset."""
    zoomgate, _ = service
    responses = await asyncio.gather(*(zoomgate.call(zoomgate.auth.CheckToken, CHECK) for _ in range(1000)))
    assert all(response.expired for response in responses)


async def test_calls_waiting_for_zoom_do_not_block_others(service: Service) -> None:
    """While hundreds of calls wait for Zoom, other calls succeed and the health status is SERVING. Once Zoom responds, all succeed."""
    zoomgate, raw = service
    raw.responses = [OK]
    raw.open.clear()
    request = proxy.GetRequest(user_email=MONICA, url="/users/me")
    channels = [
        grpc.aio.insecure_channel(zoomgate.grpc_address, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]
    stubs = [ProxyServiceStub(channel).Get for channel in channels]
    waiting = [
        asyncio.ensure_future(stubs[number % 4](request, metadata=metadata(), timeout=60))
        for number in range(320)
    ]
    while len(raw.requests) < len(waiting):
        await asyncio.sleep(0.01)
    await assert_serving(zoomgate)
    raw.open.set()
    assert {result.response.status for result in await asyncio.gather(*waiting)} == {200}
    for channel in channels:
        await channel.close()
    raw.requests.clear()
