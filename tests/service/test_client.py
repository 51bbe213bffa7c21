"""Both clients against the real service, over a port."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, closing, suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from security import http2
from support.harness import MONICA, OMAR, Harness, key_of, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate import AsyncClient, Client, errors
from zoomgate.v1.auth_service_pb2 import WatchConnectionsRequest, WatchConnectionsResponse

INTERNAL_ERROR = 2
"""Why a stream is reset, in HTTP/2 (RFC 9113, section 7)."""


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
async def client(harness: Harness) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(harness.grpc_address, key=key_of("service")) as opened:
        yield opened


async def test_a_person_connects_and_meets(harness: Harness, client: AsyncClient) -> None:
    """From the link to a deleted meeting, with the answers' types."""
    waiting = asyncio.create_task(client.wait_for_connection(MONICA))
    await harness.connect()
    assert (await waiting).user_email == MONICA
    created = await client.meetings.create_meeting(user_email=MONICA, meeting_details={"topic": "Talk"})
    assert created.meeting.topic == "Talk"
    found = await client.meetings.get_meeting(user_email=MONICA, meeting_id=created.meeting.id)
    assert found.meeting.join_url == created.meeting.join_url
    raw = await client.proxy.get(user_email=MONICA, url=f"/meetings/{created.meeting.id}")
    assert raw.response.status == 200
    assert (
        await client.meetings.delete_meeting(user_email=MONICA, meeting_id=created.meeting.id)
    ).status == 204
    with pytest.raises(errors.NotFound) as gone:
        await client.meetings.get_meeting(user_email=MONICA, meeting_id=created.meeting.id)
    assert (gone.value.reason, gone.value.zoom_code) == ("MEETING_NOT_FOUND", 3001)


async def test_a_newer_consent_is_told_from_a_refresh(harness: Harness, client: AsyncClient) -> None:
    """Somebody who is connected already and consents again is waited for; a refresh in between does not count."""
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


async def test_failures_are_ours(harness: Harness, client: AsyncClient) -> None:
    """Refusals arrive as classes with their details and the request id that the caller sent."""
    with pytest.raises(errors.NotConnected):
        await client.auth.get_token(user_email=OMAR)
    with pytest.raises(errors.InvalidRequest) as wrong:
        await client.auth.get_token(user_email="nobody", metadata=(("x-request-id", "of-mine"),))
    assert wrong.value.request_id == "of-mine"
    assert [row.field for row in wrong.value.field_violations] == ["user_email"]
    async with AsyncClient(harness.grpc_address, key="zgk_unknown") as stranger:
        with pytest.raises(errors.Unauthenticated):
            await stranger.auth.get_token(user_email=OMAR)


async def test_all_connections_come(harness: Harness, client: AsyncClient) -> None:
    """The async iterator gives what the service lists."""
    for user in (MONICA, OMAR):
        await harness.connect(user)
    assert [found.user_email async for found in client.connections()] == [MONICA, OMAR]


async def test_cancelling_a_task_is_no_failure_of_the_service(harness: Harness, client: AsyncClient) -> None:
    """The task's own cancellation comes through, and nothing is repeated for it."""
    call = asyncio.create_task(client.auth.get_token(user_email=MONICA))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_closing_a_client_is_a_failure_of_its_calls(harness: Harness) -> None:
    """Calls in flight and watches fail, and the tasks that wait for them are not taken for cancelled."""
    client = AsyncClient(harness.grpc_address, key=key_of("service"))
    watch = client.watch()
    assert (await anext(watch)).type == WatchConnectionsResponse.TYPE_SYNCED

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        waiting = AsyncClient(f"127.0.0.1:{silent.getsockname()[1]}", key=key_of("service"))
        tasks = [
            asyncio.ensure_future(anext(watch)),
            asyncio.ensure_future(waiting.auth.get_token(user_email=MONICA)),
        ]
        connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        with connection:
            await client.close()
            await waiting.close()
            for failed in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(failed, errors.ZoomgateError)
                assert failed.code() is grpc.StatusCode.CANCELLED
                assert "closed" in failed.message


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    """After the repetitions the failure says so, without a reason of the service."""
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(errors.ServiceUnavailable) as failed:
            await client.auth.get_token(user_email=MONICA)
    assert failed.value.reason == ""


async def test_a_stopping_server_is_not_noticed(tmp_path: Path) -> None:
    """While one of two servers stops under load and ends all its calls, every call that is safe to repeat succeeds."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, AsyncExitStack() as servers:
        first = await servers.enter_async_context(serving(zoom, tmp_path, {"ZOOMGATE_DRAIN_SECONDS": "0"}))
        await first.connect()
        async with serving(zoom, tmp_path) as second:
            addresses = f"ipv4:{first.grpc_address},{second.grpc_address}"
            balanced = (("grpc.lb_policy_name", "round_robin"),)
            done = 0
            enough = asyncio.Event()

            async def caller(client: AsyncClient) -> None:
                nonlocal done
                while not enough.is_set():
                    await client.proxy.get(user_email=MONICA, url="/users/me")
                    done += 1

            async with AsyncClient(addresses, key=key_of("service"), options=balanced) as client:
                callers = [asyncio.create_task(caller(client)) for _ in range(16)]
                while done < 100 and not any(task.done() for task in callers):
                    await asyncio.sleep(0)
                zoom.faults.add(Fault("users_me", "delay", times=16, seconds=0.5))
                # all wait for Zoom then, half of them at either server
                while zoom.zoom.counters["faults.delay"] < 16:
                    await asyncio.sleep(0)
                await servers.aclose()
                before = done
                while done < before + 100 and not any(task.done() for task in callers):
                    await asyncio.sleep(0)
                enough.set()
                await asyncio.gather(*callers)


async def test_a_client_stays_in_its_loop(harness: Harness, client: AsyncClient) -> None:
    """Used in another event loop, a client says so instead of hanging."""

    async def use() -> None:
        await client.auth.get_token(user_email=MONICA)

    def elsewhere() -> None:
        asyncio.run(use())

    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(elsewhere)


def test_an_async_client_needs_a_loop() -> None:
    """Made outside of a coroutine, it says where to make it."""
    with pytest.raises(RuntimeError, match="inside a coroutine"):
        AsyncClient()


async def test_the_blocking_client_speaks_to_the_service(harness: Harness) -> None:
    """From several threads at once."""
    await harness.connect()
    with Client(harness.grpc_address, key=key_of("service")) as client:
        tokens = await asyncio.gather(
            *(asyncio.to_thread(client.auth.get_token, user_email=MONICA) for _ in range(8))
        )
        assert len({answer.token.access_token for answer in tokens}) == 1
        assert [
            found.user_email for found in await asyncio.to_thread(lambda: list(client.connections()))
        ] == [MONICA]


def test_a_client_from_before_a_fork_says_so() -> None:
    """In the child its calls fail at once and name the remedy."""
    with Client("127.0.0.1:1") as client:
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
        with os.fdopen(read, "rb") as answer:
            assert b"after the fork" in answer.read()
        os.waitpid(child, 0)


def test_the_errors_are_grpcs_too() -> None:
    """Code that is written for gRPC catches them."""
    assert issubclass(errors.ZoomgateError, grpc.RpcError)


async def test_a_watch_goes_on_at_a_server_that_comes_back(tmp_path: Path) -> None:
    """Both clients hear of what happened while the server was gone, without a word about the break."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, AsyncExitStack() as stack:
        async with serving(zoom, tmp_path) as first:
            address = first.grpc_address
            options = [("grpc.max_reconnect_backoff_ms", 200)]
            client = await stack.enter_async_context(
                AsyncClient(address, key=key_of("service"), options=options)
            )
            blocking = stack.enter_context(Client(address, key=key_of("service"), options=options))
            awaited = await stack.enter_async_context(aclosing(client.watch()))
            iterated = blocking.watch()
            stack.callback(iterated.close)
            assert (await anext(awaited)).type == WatchConnectionsResponse.TYPE_SYNCED
            assert (await asyncio.to_thread(next, iterated)).type == WatchConnectionsResponse.TYPE_SYNCED
        async with serving(zoom, tmp_path) as elsewhere:
            await elsewhere.connect()
        async with serving(zoom, tmp_path, {"ZOOMGATE_LISTEN": address}):
            heard, told = set(), set()
            while MONICA not in heard:
                heard.add((await anext(awaited)).connection.user_email)
            while MONICA not in told:
                told.add((await asyncio.to_thread(next, iterated)).connection.user_email)


class Resetting:
    """Something between client and server that resets streams, as proxies do when the server behind them is gone.

    Attributes:
        resumed: The resume token of every request; each is answered with one event.
        reset: Resets the latest stream.
    """

    def __init__(self) -> None:
        self.resumed: list[str] = []
        self.reset: Callable[[], Awaitable[None]]
        self._writers: list[asyncio.StreamWriter] = []

    async def leave(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self._writers.append(writer)
        await reader.readexactly(len(http2.PREFACE))
        connection = http2.Connection(reader, writer)
        await connection.send(http2.settings())
        async for kind, flags, stream, payload in connection.frames():
            if kind == http2.SETTINGS and not flags & http2.ACK:
                await connection.send(http2.frame(http2.SETTINGS, http2.ACK))
            if kind == http2.DATA:
                self.resumed.append(WatchConnectionsRequest.FromString(payload[5:]).resume_token)
                code = INTERNAL_ERROR.to_bytes(4, "big")
                self.reset = partial(connection.send, http2.frame(http2.RST_STREAM, 0, stream, code))
                event = WatchConnectionsResponse(resume_token=f"t{len(self.resumed)}")
                head = http2.header_block([(":status", "200"), ("content-type", "application/grpc")])
                await connection.send(
                    http2.frame(http2.HEADERS, http2.END_HEADERS, stream, head),
                    http2.frame(http2.DATA, 0, stream, http2.message(event.SerializeToString())),
                )


async def test_a_watch_goes_on_when_a_proxy_resets_it() -> None:
    """A stream that broke off without a word of the service goes on behind what was heard."""
    between = Resetting()
    async with await asyncio.start_server(between.serve, "127.0.0.1", 0) as listening:
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with AsyncClient(address) as client, aclosing(client.watch()) as events:
            for token in ("t1", "t2"):
                assert (await anext(events)).resume_token == token
                await between.reset()
            assert (await anext(events)).resume_token == "t3"
        with Client(address) as blocking, closing(blocking.watch()) as iterated:
            assert (await asyncio.to_thread(next, iterated)).resume_token == "t4"
            await between.reset()
            assert (await asyncio.to_thread(next, iterated)).resume_token == "t5"
        await between.leave()
    assert between.resumed == ["", "t1", "t2", "", "t4"]


async def test_a_watch_that_never_began_fails(harness: Harness) -> None:
    """A key that is not known and a token that is none are told at once, and so is a server that is not there."""
    async with AsyncClient(harness.grpc_address, key="zgk_unknown") as stranger:
        with pytest.raises(errors.Unauthenticated):
            await anext(stranger.watch())
    async with AsyncClient(harness.grpc_address, key=key_of("service")) as client:
        with pytest.raises(errors.InvalidRequest):
            await anext(client.watch(resume_token="x"))
