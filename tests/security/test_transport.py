"""What comes in at the gRPC port and is no gRPC, or too much of it: the service goes on serving everybody else."""

import asyncio
import resource
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from security import http2
from security.http2 import Connection
from security.memory import peak_of
from support.harness import MONICA, Harness, Refusal, metadata, running
from support.raw_upstream import OK, Endless, RawUpstream, answer, raw_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate_server.rpc.middleware import authentication

pytestmark = pytest.mark.asyncio(loop_scope="module")

Service = tuple[Harness, RawUpstream]
METHOD = "/zoomgate.v1.AuthService/GetConnection"
HEADERS = http2.request_headers(METHOD, metadata())
BLOCK = http2.header_block(HEADERS)
START = http2.PREFACE + http2.settings()
OPEN = START + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, BLOCK)
SECOND = http2.header_block(http2.request_headers(METHOD, metadata(), timeout="1S"))
WHOLE = http2.END_HEADERS | http2.END_STREAM
CHECK = auth.CheckTokenRequest()
CHECK.facts.expires_in = 3600
CHECK.facts.update_time.seconds = 1_700_000_000


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """Many connections need many files; both of their ends are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with a connected user whose API is a bare socket; what happens to one connection must not touch the others."""
    async with (
        raw_upstream() as raw,
        running(tmp_path_factory.mktemp("data"), zoom_api_url=raw.url) as zoomgate,
    ):
        raw.answers = [answer("200 OK", b'{"id":"u","email":"monica@example.com"}'), OK]
        await zoomgate.connect()
        raw.requests.clear()
        yield zoomgate, raw


async def serves(zoomgate: Harness) -> None:
    """The service takes connections, answers calls, and says that it is healthy."""
    async with asyncio.timeout(20), grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        answered = await AuthServiceStub(channel).CheckToken(CHECK, metadata=metadata(), timeout=20)
        assert answered.expired
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert health.status == health_pb2.HealthCheckResponse.SERVING


CLOSED = {
    "garbage": bytes(range(256)) * 4,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an upgrade from HTTP/1.1": b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 512,
    "frames without the preface": http2.settings() * 3,
    "a preface that is none": http2.PREFACE[:-4] + b"XX\r\n",
    "a PING before SETTINGS": http2.PREFACE + http2.frame(http2.PING, payload=b"12345678"),
    "SETTINGS of five bytes": http2.PREFACE + http2.frame(http2.SETTINGS, payload=b"12345"),
    "a PING of one byte": START + http2.frame(http2.PING, payload=b"1"),
    "headers that no table has": START + http2.frame(http2.HEADERS, WHOLE, 1, b"\xff" * 64),
    "a number in headers that never ends": START
    + http2.frame(http2.HEADERS, WHOLE, 1, b"\x7f" + b"\xff" * 32),
    "a header of two gigabytes": START + http2.frame(http2.HEADERS, WHOLE, 1, b"\x00\x7f\xff\xff\xff\x7f"),
    "a frame of 16 MiB": START + http2.frame(http2.DATA, 0, 1, b"x" * 100, length=2**24 - 1),
    "headers of 16 MiB": START + http2.frame(http2.HEADERS, 4, 1, b"x" * 100, length=2**24 - 1),
    "headers that go on before they began": START + http2.frame(http2.CONTINUATION, 4, 1, BLOCK),
    "headers that another frame interrupts": START
    + http2.frame(http2.HEADERS, 1, 1, BLOCK[:10])
    + http2.frame(http2.PING, payload=b"12345678"),
    "a window that grows by nothing": START + http2.frame(8, payload=b"\0\0\0\0"),
    "a flood of PINGs": START + http2.frame(http2.PING, payload=b"12345678") * 3000,
}
"""What no client sends: the server ends the connection."""

ENDED = {
    "more than a message may have": http2.message(b"abc", length=2**32 - 1),
    "two messages for one": http2.message(b"") * 2,
    "a compressed message that is not": http2.message(b"abc", compressed=1),
    "a flag that nobody knows": http2.message(b"abc", compressed=7),
}
"""Messages that are none: the server ends the call. gRPC leaves one with an unknown flag open if it waited for it already."""


@pytest.mark.parametrize("name", CLOSED)
async def test_what_is_no_grpc_ends_its_connection(service: Service, name: str) -> None:
    """Whoever breaks the rules of HTTP/2 loses the connection, and nobody else notices."""
    zoomgate, _ = service
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as bare:
        await bare.send(CLOSED[name])
        await bare.until_closed()
    await serves(zoomgate)


@pytest.mark.parametrize("name", ENDED)
async def test_what_is_no_message_ends_its_call(service: Service, name: str) -> None:
    """Whoever frames messages wrongly gets the call ended, at its deadline at the latest."""
    zoomgate, raw = service
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as bare:
        opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, SECOND)
        await bare.send(START, opened, http2.frame(http2.DATA, http2.END_STREAM, 1, ENDED[name]))
        assert await bare.until_stream_ends() is not None
    assert raw.requests == []
    await serves(zoomgate)


async def silence(_: Connection) -> None:
    """Nothing at all."""


async def preface_only(bare: Connection) -> None:
    """A connection that is never used."""
    await bare.send(START)
    await bare.read_some()


async def no_message(bare: Connection) -> None:
    """A call that ends without a request."""
    await bare.send(START, http2.frame(http2.HEADERS, WHOLE, 1, BLOCK))
    await bare.read_some()


async def half_a_message(bare: Connection) -> None:
    """A request that is shorter than it says."""
    await bare.send(OPEN, http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"abc", length=1000)))
    await bare.read_some()


async def odd_streams(bare: Connection) -> None:
    """Streams that only a server may open, that are no streams, and that come in the wrong order."""
    for stream in (2, 0, 5, 3):
        await bare.send(
            http2.frame(http2.HEADERS, WHOLE, stream, BLOCK),
            http2.frame(http2.DATA, 1, stream + 10, b"x"),
            http2.frame(5, 4, stream, b"\0\0\0\2" + BLOCK),
            http2.frame(200, 0, stream, b"x" * 100),
        )


async def settings_flood(bare: Connection) -> None:
    """Very many changes of mind."""
    await bare.send(START, *[http2.settings((http2.INITIAL_WINDOW_SIZE, size)) for size in range(3000)])
    await bare.read_some()


async def reset_flood(bare: Connection) -> None:
    """Very many calls that are taken back at once."""
    await bare.send(START)
    for stream in range(1, 6001, 2):
        await bare.send(
            http2.frame(http2.HEADERS, WHOLE, stream, BLOCK),
            http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08"),
        )
    await bare.read_some()


async def request_flood(bare: Connection) -> None:
    """Very many calls beyond the limit of streams that the server named."""
    await bare.send(START)
    message = http2.message(auth.GetConnectionRequest(user_email=MONICA).SerializeToString())
    for stream in range(1, 4001, 2):
        await bare.send(
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream, BLOCK),
            http2.frame(http2.DATA, http2.END_STREAM, stream, message),
        )
    await bare.read_some()


async def headers_without_end(bare: Connection) -> None:
    """Headers that go on for 320 MB."""
    part = http2.frame(http2.CONTINUATION, 0, 1, http2.header_block([("x", "y" * 16_000)]))
    await bare.send(START, http2.frame(http2.HEADERS, http2.END_STREAM, 1, BLOCK), *[part] * 20_000)


async def table_growth(bare: Connection) -> None:
    """Headers that ask the server to remember megabytes of them."""
    await bare.send(START)
    for stream in range(1, 1001, 2):
        field = b"\x40" + http2.header_block([(f"x-{stream}", "y" * 7_000)])[1:]
        block = BLOCK + field
        await bare.send(
            http2.frame(http2.HEADERS, WHOLE, stream, block),
            http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08"),
        )


ATTACKS: dict[str, tuple[Callable[[Connection], Coroutine[Any, Any, None]], int, int]] = {
    "silence": (silence, 300, 64),
    "connections that are never used": (preface_only, 100, 64),
    "calls without a message": (no_message, 10, 64),
    "half a message": (half_a_message, 10, 64),
    "streams out of order": (odd_streams, 1, 64),
    "a flood of SETTINGS": (settings_flood, 1, 64),
    "a flood of resets": (reset_flood, 1, 64),
    "a flood of requests": (request_flood, 1, 64),
    "headers without an end": (headers_without_end, 1, 160),
    "headers to remember": (table_growth, 1, 64),
}
"""What is done, on how many connections at once, and how many megabytes it may cost at most."""


@pytest.mark.parametrize("name", ATTACKS)
async def test_others_are_served_meanwhile(service: Service, name: str) -> None:
    """While somebody wastes connections, streams and headers, calls of others are answered and memory stays what it was."""
    zoomgate, raw = service
    attack, connections, megabytes = ATTACKS[name]
    ready = asyncio.Barrier(connections + 1)

    async def waste() -> None:
        async with http2.connection(zoomgate.grpc_address) as bare:
            await attack(bare)
            await ready.wait()
            await done.wait()

    done = asyncio.Event()
    with peak_of(megabytes):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(waste())
            await serves(zoomgate)
            await ready.wait()
            await serves(zoomgate)
            done.set()
    await serves(zoomgate)
    assert raw.requests == []


async def test_a_compressed_message_is_not_inflated_beyond_the_limit(service: Service) -> None:
    """A request of 50 KB that unpacks to 50 MB ends its call without having been unpacked."""
    zoomgate, _ = service
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join([*(packer.compress(b"\0" * 1_000_000) for _ in range(50)), packer.flush()])
    assert len(bomb) < 60_000
    body = http2.message(bomb, compressed=1)
    compressed = [*HEADERS, ("grpc-encoding", "gzip")]
    parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    with peak_of(20):
        async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as bare:
            await bare.send(
                START,
                http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(compressed)),
                *(http2.frame(http2.DATA, 0, 1, part) for part in parts),
                http2.frame(http2.DATA, http2.END_STREAM, 1),
            )
            assert await bare.until_stream_ends() is not None
    await serves(zoomgate)


@pytest.mark.parametrize(
    "more",
    [
        [(f"x-{number}", "y") for number in range(2000)],
        [("x-long", "y" * 20_000)],
        [("authorization", "Bearer " + "y" * 100_000)],
    ],
    ids=["2000 keys", "20 KB", "a key of 100 KB"],
)
async def test_too_much_metadata_is_refused(service: Service, more: list[tuple[str, str]]) -> None:
    """Metadata above the limit is RESOURCE_EXHAUSTED before anybody reads it."""
    zoomgate, _ = service
    async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await AuthServiceStub(channel).CheckToken(CHECK, metadata=(*metadata(), *more), timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await serves(zoomgate)


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
    """What is no method is UNIMPLEMENTED, with and without a credential."""
    zoomgate, _ = service
    for caller in ("service", ""):
        refusal = await zoomgate.refusal(zoomgate.channel.unary_unary(path), b"", caller)
        assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


def slow_call(timeout: str) -> bytes:
    """A call of the proxy by somebody who takes no bytes of the answer."""
    headers = http2.request_headers("/zoomgate.v1.ProxyService/Get", metadata(), timeout)
    request = proxy.GetRequest(user_email=MONICA, url="/users/me").SerializeToString()
    return (
        http2.PREFACE
        + http2.settings((http2.INITIAL_WINDOW_SIZE, 0))
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(headers))
        + http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(request))
    )


async def test_a_slow_reader_is_ended_by_its_deadline(service: Service) -> None:
    """An answer of megabytes that nobody takes is given up when the call's time is over."""
    zoomgate, raw = service
    raw.answers = [answer("200 OK", b"x" * 4_000_000), OK]
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as bare:
        await bare.send(slow_call("2S"))
        assert await bare.until_stream_ends() is not None
    assert len(raw.requests) == 1
    raw.requests.clear()
    await serves(zoomgate)


@pytest.mark.parametrize("timeout", ["1m", "1u", "0n", "300m"])
async def test_no_time_sends_nothing(service: Service, timeout: str) -> None:
    """A call without time enough for Zoom ends before anything is sent there."""
    zoomgate, raw = service
    async with asyncio.timeout(20), http2.connection(zoomgate.grpc_address) as bare:
        await bare.send(slow_call(timeout))
        assert await bare.until_stream_ends() is not None
    wanted = proxy.GetRequest(user_email=MONICA, url="/users/me")
    refusal = await zoomgate.refusal(zoomgate.proxy.Get, wanted, seconds=0.001)
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    refusal = await zoomgate.refusal(zoomgate.proxy.Get, wanted, seconds=0.4)
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert raw.requests == []


@pytest.mark.parametrize(("limit", "seconds"), [("DEFAULT_SECONDS", None), ("MAX_SECONDS", 1e6)])
async def test_no_call_goes_on_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch, limit: str, seconds: float | None
) -> None:
    """A call without a deadline, or with one in the far future, gets the server's own; shortened here, since it is half a minute."""
    zoomgate, raw = service
    monkeypatch.setattr(authentication, limit, 2.0)
    raw.answers = [Endless(b"HTTP/1.1 200 OK\r\n"), OK]
    async with asyncio.timeout(20):
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await zoomgate.proxy.Get(
                proxy.GetRequest(user_email=MONICA, url="/users/me"), metadata=metadata(), timeout=seconds
            )
    assert Refusal.of(ended.value).short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
    raw.requests.clear()


async def test_more_calls_than_streams_are_all_answered(service: Service) -> None:
    """A thousand calls at once over one connection wait for their turn; none is reset."""
    zoomgate, _ = service
    answers = await asyncio.gather(*(zoomgate.call(zoomgate.auth.CheckToken, CHECK) for _ in range(1000)))
    assert all(answered.expired for answered in answers)


async def test_calls_that_wait_for_zoom_keep_nobody_else_waiting(service: Service) -> None:
    """While hundreds of calls wait for Zoom, others are answered and health says SERVING; then they all get their answers."""
    zoomgate, raw = service
    raw.answers = [OK]
    raw.open.clear()
    wanted = proxy.GetRequest(user_email=MONICA, url="/users/me")
    channels = [
        grpc.aio.insecure_channel(zoomgate.grpc_address, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]
    stubs = [ProxyServiceStub(channel).Get for channel in channels]
    waiting = [
        asyncio.ensure_future(stubs[number % 4](wanted, metadata=metadata(), timeout=60))
        for number in range(320)
    ]
    while len(raw.requests) < len(waiting):
        await asyncio.sleep(0.01)
    await serves(zoomgate)
    raw.open.set()
    assert {answered.response.status for answered in await asyncio.gather(*waiting)} == {200}
    for channel in channels:
        await channel.close()
    raw.requests.clear()
