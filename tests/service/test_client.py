"""Tests for both clients with a real service, over the network."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from security import http2
from support.harness import MONICA, OMAR, Harness, browser, caller_key, consent, running, serving
from support.tcp_proxy import tcp_proxy
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate import AsyncClient, Client, errors
from zoomgate.v1.auth_service_pb2 import (
    GetTokenResponse,
    ListConnectionsResponse,
    WatchConnectionsRequest,
    WatchConnectionsResponse,
)
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from zoomgate.v1.meetings_service_pb2_grpc import (
    MeetingsServiceServicer,
    add_MeetingsServiceServicer_to_server,
)

INTERNAL_ERROR = 2
"""The HTTP/2 error code of a stream reset (RFC 9113, section 7)."""


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
async def client(harness: Harness) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(harness.grpc_address, key=caller_key("service")) as opened:
        yield opened


async def test_user_connects_and_manages_a_meeting(harness: Harness, client: AsyncClient) -> None:
    waiting = asyncio.create_task(client.wait_for_connection(MONICA))
    await harness.connect()
    assert (await waiting).user_email == MONICA
    created = await client.meetings.create_meeting(user_email=MONICA, meeting_details={"topic": "Talk"})
    assert created.meeting.topic == "Talk"
    read = await client.meetings.get_meeting(user_email=MONICA, meeting_id=created.meeting.id)
    assert read.meeting.join_url == created.meeting.join_url
    raw = await client.proxy.get(user_email=MONICA, url=f"/meetings/{created.meeting.id}")
    assert raw.response.status == 200
    assert (
        await client.meetings.delete_meeting(user_email=MONICA, meeting_id=created.meeting.id)
    ).response.status == 204
    with pytest.raises(errors.NotFound) as raised:
        await client.meetings.get_meeting(user_email=MONICA, meeting_id=created.meeting.id)
    assert (raised.value.reason, raised.value.zoom_code) == ("MEETING_NOT_FOUND", 3001)


async def test_clients_iterate_over_all_pages(harness: Harness, client: AsyncClient) -> None:
    """`all` yields the items, and `pages` the responses."""
    await harness.connect()
    topics = ["a", "b", "c"]
    for topic in topics:
        await client.meetings.create_meeting(user_email=MONICA, meeting_details={"topic": topic})
    fields: dict[str, Any] = {"user_email": MONICA, "page_size": 2}
    listed = [meeting.topic async for meeting in client.meetings.list_meetings.all(**fields)]
    pages = [len(page.meetings) async for page in client.meetings.list_meetings.pages(**fields)]
    with Client(harness.grpc_address, key=caller_key("service")) as blocking:
        same = await asyncio.to_thread(
            lambda: [meeting.topic for meeting in blocking.meetings.list_meetings.all(**fields)]
        )
    assert sorted(listed) == sorted(same) == topics
    assert pages == [2, 1]


async def test_wait_for_connection_ignores_refreshes(harness: Harness, client: AsyncClient) -> None:
    """For a connected user, the wait ends only after a newer consent."""
    await harness.connect()
    before = (await client.auth.get_connection(user_email=MONICA)).connection
    await client.auth.refresh_token(user_email=MONICA)
    refreshed = (await client.auth.get_connection(user_email=MONICA)).connection
    assert refreshed.generation == before.generation + 1
    assert refreshed.consent_time == before.consent_time
    with pytest.raises(TimeoutError):
        await client.wait_for_connection(MONICA, after=before, timeout=0.5)
    await harness.connect()
    again = await client.wait_for_connection(MONICA, after=before)
    assert again.consent_time.ToNanoseconds() > before.consent_time.ToNanoseconds()


@pytest.mark.parametrize("is_blocking", [False, True])
async def test_wait_for_connection_ends_when_the_user_declines(harness: Harness, is_blocking: bool) -> None:
    await harness.connect()
    with Client(harness.grpc_address, key=caller_key("service")) as blocking:
        async with AsyncClient(harness.grpc_address, key=caller_key("service")) as client:
            before = (await client.auth.get_connection(user_email=MONICA)).connection
            started = await client.auth.begin_authorization(user_email=MONICA)
            waiting = asyncio.ensure_future(
                asyncio.to_thread(blocking.wait_for_connection, MONICA, after=before, state=started.state)
                if is_blocking
                else client.wait_for_connection(MONICA, after=before, state=started.state)
            )
            async with browser() as session:
                await consent(session, started.authorization_url, MONICA, "decline")
            with pytest.raises(errors.AuthorizationFailed, match="access_denied") as raised:
                await waiting
    assert raised.value.reason == "AUTHORIZATION_DECLINED"


async def test_failed_calls_raise_specific_exceptions(harness: Harness, client: AsyncClient) -> None:
    """The exceptions contain the details of the error and the request ID that the caller sent."""
    with pytest.raises(errors.NotConnected):
        await client.auth.get_token(user_email=OMAR)
    with pytest.raises(errors.InvalidRequest) as invalid:
        await client.auth.get_token(user_email="nobody", metadata=(("x-request-id", "custom-id"),))
    assert invalid.value.request_id == "custom-id"
    assert [row.field for row in invalid.value.field_violations] == ["user_email"]
    async with AsyncClient(harness.grpc_address, key="zgk_unknown") as unauthenticated:
        with pytest.raises(errors.Unauthenticated):
            await unauthenticated.auth.get_token(user_email=OMAR)


async def test_connections_iterates_over_all_connections(harness: Harness, client: AsyncClient) -> None:
    for user in (MONICA, OMAR):
        await harness.connect(user)
    assert [connection.user_email async for connection in client.connections()] == [MONICA, OMAR]


async def test_canceled_task_raises_cancelled_error(harness: Harness, client: AsyncClient) -> None:
    """The cancellation of a task is not converted to an error of the service, and the call is not retried."""
    call = asyncio.create_task(client.auth.get_token(user_email=MONICA))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_closing_a_client_fails_its_calls() -> None:
    """The calls raise `ZoomgateError`, and the tasks that wait for them are not canceled."""
    with socket.create_server(("127.0.0.1", 0)) as unresponsive:
        unresponsive.setblocking(False)
        client = AsyncClient(f"127.0.0.1:{unresponsive.getsockname()[1]}", key=caller_key("service"))
        read = asyncio.ensure_future(client.auth.get_token(user_email=MONICA))
        write = asyncio.ensure_future(client.meetings.create_meeting(user_email=MONICA))
        connection, _ = await asyncio.get_running_loop().sock_accept(unresponsive)
        with connection:
            await client.close()
            with pytest.raises(errors.OutcomeUnknown):
                await write
            with pytest.raises(errors.ZoomgateError) as failure:
                await read
    assert failure.value.code() is grpc.StatusCode.CANCELLED
    assert "closed" in failure.value.message


@pytest.mark.parametrize("owns_channel", [True, False])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_closing_a_client_ends_its_streams_with_runtime_error(kind: Any, owns_channel: bool) -> None:
    """Before and after the first event, and also if the iteration starts later. A channel of the caller stays open."""
    watching = asyncio.Semaphore(0)

    class Watched(AuthServiceServicer):
        async def WatchConnections(self, request: Any, _: Any) -> AsyncIterator[WatchConnectionsResponse]:
            if not request.resume_token:
                yield WatchConnectionsResponse(resume_token="t")
            watching.release()
            await asyncio.Event().wait()

    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(Watched(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    grpc_module: Any = grpc if kind is Client else grpc.aio
    channel = None if owns_channel else grpc_module.insecure_channel(address)
    client = kind(address, channel=channel)

    async def call(function: Any, *args: Any) -> Any:
        return await (asyncio.to_thread(function, *args) if kind is Client else function(*args))

    step = next if kind is Client else anext
    streams = [client.watch(), client.watch(resume_token="t"), client.auth.watch_connections()]
    await call(step, streams[0])
    await call(step, streams[2])
    waiting = [asyncio.create_task(call(step, stream)) for stream in streams]
    unused = client.auth.watch_connections()
    for _ in streams:
        await watching.acquire()
    await call(client.close)
    for step_ in (*waiting, asyncio.create_task(call(step, unused))):
        with pytest.raises(RuntimeError, match="this client is closed"):
            await step_
    if channel:
        await call(channel.close)
    await server.stop(None)


async def test_unreachable_service_raises_service_unavailable() -> None:
    """The exception has no Zoomgate reason, because gRPC generated the status."""
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(errors.ServiceUnavailable) as raised:
            await client.auth.get_token(user_email=MONICA)
    assert raised.value.reason == ""


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("cache_tokens", [False, True])
async def test_calls_wait_for_the_service_if_the_client_is_configured_so(
    kind: Any, cache_tokens: bool
) -> None:
    """Unary calls, lists and streams are sent once the service has started. Without the option, calls fail before that."""

    class Started(AuthServiceServicer):
        async def GetToken(self, _: Any, context: Any) -> GetTokenResponse:
            return GetTokenResponse()

        async def ListConnections(self, _: Any, context: Any) -> ListConnectionsResponse:
            return ListConnectionsResponse()

        async def WatchConnections(self, _: Any, context: Any) -> AsyncIterator[WatchConnectionsResponse]:
            yield WatchConnectionsResponse(resume_token="t")

    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(Started(), server)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    options = [("grpc.max_reconnect_backoff_ms", 200)]
    client = kind(address, wait_for_ready=True, cache_tokens=cache_tokens, options=options)

    async def call(function: Any, *args: Any, **arguments: Any) -> Any:
        if kind is Client:
            return await asyncio.to_thread(function, *args, **arguments)
        return await function(*args, **arguments)

    step = next if kind is Client else anext
    streams = [client.watch(), client.auth.list_connections.pages()]
    waiting = [
        asyncio.create_task(call(client.auth.get_token, user_email=MONICA)),
        *(asyncio.create_task(call(step, stream)) for stream in streams),
    ]
    async with AsyncClient(address) as other:
        with pytest.raises(errors.ServiceUnavailable):
            await other.auth.get_token(user_email=MONICA)
    assert server.add_insecure_port(address)
    await server.start()
    for response in await asyncio.gather(*waiting):
        assert isinstance(response, GetTokenResponse | ListConnectionsResponse | WatchConnectionsResponse)
    await call(client.close)
    await server.stop(None)


async def test_timeout_ends_the_wait_for_the_service() -> None:
    """GRPC does not report whether a request was sent, so the outcome of a write is unknown."""
    async with AsyncClient("127.0.0.1:1", wait_for_ready=True, timeout=0.1) as client:
        with pytest.raises(errors.DeadlineExceeded):
            await client.auth.get_token(user_email=MONICA)
        with pytest.raises(errors.OutcomeUnknown):
            await client.meetings.create_meeting(user_email=MONICA)


async def test_wait_for_connection_survives_a_restart_of_the_service(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path) as first:
            address = first.grpc_address
        async with AsyncClient(address, key=caller_key("service")) as client:
            waiting = asyncio.create_task(client.wait_for_connection(MONICA))
            with pytest.raises(errors.ServiceUnavailable):
                await client.auth.get_connection(user_email=MONICA)
            async with serving(zoom, tmp_path, {"ZOOMGATE_LISTEN": address}) as restarted:
                await restarted.connect()
                assert (await waiting).user_email == MONICA


async def test_call_is_sent_to_zoom_once_if_no_time_is_left_for_the_requested_delay(
    harness: Harness, client: AsyncClient
) -> None:
    """The caller receives the service's error, and not only a timeout."""
    await harness.connect()
    harness.simulator.faults.add(Fault("meetings", "status", times=-1))
    before = harness.stat("faults.status")
    with pytest.raises(errors.ServiceUnavailable) as raised:
        await client.meetings.get_meeting(user_email=MONICA, meeting_id=1, timeout=1.5)
    assert raised.value.reason == "ZOOM_UNAVAILABLE"
    assert raised.value.retry_delay == 2.0
    assert harness.stat("faults.status") == before + 1


class FailingMeetings(MeetingsServiceServicer):
    """A service that fails without a reason, and requests retries after a millisecond."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self.calls: list[str] = []

    async def _fail(self, name: str, context: Any) -> Any:
        self.calls.append(name)
        await context.abort(self._code, "down", (("grpc-retry-pushback-ms", "1"),))

    async def GetMeeting(self, request: Any, context: Any) -> Any:
        return await self._fail("get", context)

    async def DeleteMeeting(self, request: Any, context: Any) -> Any:
        return await self._fail("delete", context)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_only_safe_calls_are_repeated(code: grpc.StatusCode) -> None:
    """The repetition of a deletion would report a deleted meeting as not found."""
    failing = FailingMeetings(code)
    server = grpc.aio.server()
    add_MeetingsServiceServicer_to_server(failing, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(errors.ZoomgateError):
            await client.meetings.get_meeting(user_email=MONICA, meeting_id=1)
        with pytest.raises(errors.OutcomeUnknown):
            await client.meetings.delete_meeting(user_email=MONICA, meeting_id=1)
    await server.stop(None)
    assert failing.calls == ["get"] * 4 + ["delete"]


async def test_calls_are_distributed_over_all_addresses() -> None:
    """The name of a service with several replicas resolves to several addresses."""
    replicas = [FailingMeetings(grpc.StatusCode.NOT_FOUND) for _ in range(2)]
    servers, ports = [], []
    for replica in replicas:
        server = grpc.aio.server()
        add_MeetingsServiceServicer_to_server(replica, server)
        ports.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    async with AsyncClient(f"ipv4:{','.join(ports)}") as client:
        while not all(replica.calls for replica in replicas):
            with pytest.raises(errors.ZoomgateError):
                await client.meetings.get_meeting(user_email=MONICA, meeting_id=1)
    for server in servers:
        await server.stop(None)


async def test_no_safe_call_fails_while_a_server_stops(tmp_path: Path) -> None:
    """Calls are distributed over two servers. One of them stops and cancels its calls. Every call that is safe to retry succeeds."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, AsyncExitStack() as servers:
        first = await servers.enter_async_context(serving(zoom, tmp_path, {"ZOOMGATE_DRAIN_SECONDS": "0"}))
        await first.connect()
        async with serving(zoom, tmp_path) as second:
            addresses = f"ipv4:{first.grpc_address},{second.grpc_address}"
            completed = 0
            stop = asyncio.Event()

            async def call_repeatedly(client: AsyncClient) -> None:
                nonlocal completed
                while not stop.is_set():
                    await client.proxy.get(user_email=MONICA, url="/users/me")
                    completed += 1

            async with AsyncClient(addresses, key=caller_key("service")) as client:
                callers = [asyncio.create_task(call_repeatedly(client)) for _ in range(16)]
                while completed < 100 and not any(task.done() for task in callers):
                    await asyncio.sleep(0)
                zoom.faults.add(Fault("users_me", "delay", times=16, seconds=0.5))
                # at this point, all calls wait for Zoom, half of them on each server
                while zoom.zoom.counters["faults.delay"] < 16:
                    await asyncio.sleep(0)
                await servers.aclose()
                before = completed
                while completed < before + 100 and not any(task.done() for task in callers):
                    await asyncio.sleep(0)
                stop.set()
                await asyncio.gather(*callers)


async def test_async_client_rejects_calls_from_a_different_event_loop(
    harness: Harness, client: AsyncClient
) -> None:
    """The call raises an exception instead of blocking forever."""

    async def get_token() -> None:
        await client.auth.get_token(user_email=MONICA)

    def run_in_new_loop() -> None:
        asyncio.run(get_token())

    with pytest.raises(RuntimeError, match="a different event loop"):
        await asyncio.to_thread(run_in_new_loop)


def test_async_client_requires_a_running_event_loop() -> None:
    with pytest.raises(RuntimeError, match="inside a coroutine"):
        AsyncClient()


async def test_blocking_client_is_thread_safe(harness: Harness) -> None:
    await harness.connect()
    with Client(harness.grpc_address, key=caller_key("service")) as client:
        tokens = await asyncio.gather(
            *(asyncio.to_thread(client.auth.get_token, user_email=MONICA) for _ in range(8))
        )
        assert len({response.token.access_token for response in tokens}) == 1
        assert [
            connection.user_email
            for connection in await asyncio.to_thread(lambda: list(client.connections()))
        ] == [MONICA]


@pytest.mark.parametrize("cache_tokens", [False, True])
def test_client_created_before_a_fork_is_rejected_in_the_child(cache_tokens: bool) -> None:
    """The error message states how to correct the program."""
    with Client("127.0.0.1:1", cache_tokens=cache_tokens) as client:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                client.auth.get_token(user_email="x")
            except RuntimeError as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as output:
            assert b"after the fork" in output.read()
        os.waitpid(child, 0)


def test_exceptions_are_grpc_errors() -> None:
    assert issubclass(errors.ZoomgateError, grpc.RpcError)


async def test_watch_resumes_after_a_server_restart(tmp_path: Path) -> None:
    """Both clients receive the changes made while the server was down, without an exception."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, AsyncExitStack() as stack:
        async with serving(zoom, tmp_path) as first:
            address = first.grpc_address
            options = [("grpc.max_reconnect_backoff_ms", 200)]
            client = await stack.enter_async_context(
                AsyncClient(address, key=caller_key("service"), options=options)
            )
            blocking = stack.enter_context(Client(address, key=caller_key("service"), options=options))
            awaited = await stack.enter_async_context(aclosing(client.watch()))
            iterated = blocking.watch()
            stack.callback(iterated.close)
            assert (await anext(awaited)).type == WatchConnectionsResponse.TYPE_SYNCED
            assert (await asyncio.to_thread(next, iterated)).type == WatchConnectionsResponse.TYPE_SYNCED
        async with serving(zoom, tmp_path) as other_server:
            await other_server.connect()
        async with serving(zoom, tmp_path, {"ZOOMGATE_LISTEN": address}):
            async_users, blocking_users = set(), set()
            while MONICA not in async_users:
                async_users.add((await anext(awaited)).connection.user_email)
            while MONICA not in blocking_users:
                blocking_users.add((await asyncio.to_thread(next, iterated)).connection.user_email)


class StreamResetProxy:
    """A server that sends one event per request and can reset streams, as a proxy does if it loses its upstream server.

    Attributes:
        resume_tokens: The resume tokens of the requests.
        reset: Function that resets the latest stream.
    """

    def __init__(self) -> None:
        self.resume_tokens: list[str] = []
        self.reset: Callable[[], Awaitable[None]]
        self._writers: list[asyncio.StreamWriter] = []

    async def close(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle a connection."""
        self._writers.append(writer)
        await reader.readexactly(len(http2.PREFACE))
        connection = http2.Connection(reader, writer)
        await connection.send(http2.settings())
        async for kind, flags, stream, payload in connection.frames():
            if kind == http2.SETTINGS and not flags & http2.ACK:
                await connection.send(http2.frame(http2.SETTINGS, http2.ACK))
            if kind == http2.DATA:
                self.resume_tokens.append(WatchConnectionsRequest.FromString(payload[5:]).resume_token)
                code = INTERNAL_ERROR.to_bytes(4, "big")
                self.reset = partial(connection.send, http2.frame(http2.RST_STREAM, 0, stream, code))
                event = WatchConnectionsResponse(resume_token=f"t{len(self.resume_tokens)}")
                headers = http2.header_block([(":status", "200"), ("content-type", "application/grpc")])
                await connection.send(
                    http2.frame(http2.HEADERS, http2.END_HEADERS, stream, headers),
                    http2.frame(http2.DATA, 0, stream, http2.message(event.SerializeToString())),
                )


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_closing_a_client_ends_a_watch_that_waits_before_it_resumes(kind: str) -> None:
    """The service sends one event, and then requests a delay of an hour."""
    delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3600))
    detail = any_pb2.Any()
    detail.Pack(delay)
    trailers = (("grpc-status-details-bin", status_pb2.Status(details=[detail]).SerializeToString()),)

    class Overloaded(AuthServiceServicer):
        async def WatchConnections(self, _: Any, context: Any) -> AsyncIterator[WatchConnectionsResponse]:
            yield WatchConnectionsResponse(resume_token="t")
            await context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded", trailers)

        async def GetToken(self, _: Any, context: Any) -> GetTokenResponse:
            return GetTokenResponse()

    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(Overloaded(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    client = AsyncClient(address) if kind == "asyncio" else Client(address)
    events: Any = client.watch()

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return await (function(*args) if kind == "asyncio" else asyncio.to_thread(function, *args))

    step = anext if kind == "asyncio" else next
    assert (await call(step, events)).resume_token == "t"
    waiting = asyncio.create_task(call(step, events))
    await call(client.auth.get_token)  # the response arrives after the end of the stream
    await call(client.close)
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.wait_for(waiting, 20)
    await server.stop(None)


async def test_watch_resumes_after_a_stream_reset() -> None:
    """A stream that was reset without a status resumes after the last event."""
    proxy = StreamResetProxy()
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with AsyncClient(address) as client, aclosing(client.watch()) as events:
            for token in ("t1", "t2"):
                assert (await anext(events)).resume_token == token
                await proxy.reset()
            assert (await anext(events)).resume_token == "t3"
        with Client(address) as blocking, closing(blocking.watch()) as iterated:
            assert (await asyncio.to_thread(next, iterated)).resume_token == "t4"
            await proxy.reset()
            assert (await asyncio.to_thread(next, iterated)).resume_token == "t5"
        listening.close()  # the channels of the clients may still reconnect
        await proxy.close()
    assert proxy.resume_tokens == ["", "t1", "t2", "", "t4"]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_watch_that_ends_without_an_error_resumes_after_a_pause(kind: str) -> None:
    """An intermediary may end a stream with OK. Without a pause, the client would call the service in a loop."""
    resume_tokens: list[str] = []

    class Ending(AuthServiceServicer):
        async def WatchConnections(self, request: Any, _: Any) -> AsyncIterator[WatchConnectionsResponse]:
            resume_tokens.append(request.resume_token)
            if len(resume_tokens) in (1, 5):
                yield WatchConnectionsResponse(resume_token=f"t{len(resume_tokens)}")

    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(Ending(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with AsyncClient(address) as client:
        with Client(address) as blocking:
            events: Any = client.watch() if kind == "asyncio" else blocking.watch()

            async def step() -> Any:
                return await (anext(events) if kind == "asyncio" else asyncio.to_thread(next, events))

            assert (await step()).resume_token == "t1"
            ended = time.monotonic()
            assert (await step()).resume_token == "t5"
            assert time.monotonic() - ended >= 0.1 + 0.2 + 0.4 + 0.8
            events = client.watch() if kind == "asyncio" else blocking.watch()
            with pytest.raises(errors.ServiceUnavailable):
                await step()  # before the first event, a watch is not resumed
    await server.stop(None)
    assert resume_tokens == ["", "t1", "t1", "t1", "t1", ""]


@pytest.mark.slow
async def test_watch_resumes_after_its_network_path_dies(harness: Harness) -> None:
    """The connection stays open but carries nothing any more, as after a failure of a router."""
    host, port = harness.grpc_address.split(":")
    async with (
        tcp_proxy((host, int(port))) as path,
        AsyncClient(f"127.0.0.1:{path.port}", key=caller_key("service")) as client,
        aclosing(client.watch()) as events,
    ):
        assert (await anext(events)).type == WatchConnectionsResponse.TYPE_SYNCED
        path.silence()
        await harness.connect()
        async with asyncio.timeout(55):  # the interval of the pings, their timeout and a margin
            assert (await anext(events)).connection.user_email == MONICA


async def test_watch_that_fails_before_the_first_event_is_not_resumed(harness: Harness) -> None:
    """An unknown key and an invalid resume token raise an exception immediately."""
    async with AsyncClient(harness.grpc_address, key="zgk_unknown") as unauthenticated:
        with pytest.raises(errors.Unauthenticated):
            await anext(unauthenticated.watch())
    async with AsyncClient(harness.grpc_address, key=caller_key("service")) as client:
        with pytest.raises(errors.InvalidRequest):
            await anext(client.watch(resume_token="x"))
