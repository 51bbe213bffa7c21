"""Tests for the shutdown.

Calls end with an error that states whether a retry is safe. No token or code is sent to Zoom unless the response can be received and
stored before the process exits.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from yarl import URL

from support.captured_logs import LogStream
from support.connect_channel import GRPC, JSON, over
from support.faulty_store import Gate
from support.harness import MONICA, OMAR, Harness, RpcError, browser, consent_form, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections.record import State
from zoomgate_server.storage.record_store import Kind, RecordKey

REDIRECT_URI = "http://127.0.0.1:9/elsewhere"
NO_TIME_LEFT = replace(Timing(), drain=Timing().refreshes.call)
"""The drain is as long as a token request may take, so no request may start during the drain."""


def held_read() -> Gate:
    """Return a gate that holds reads of exchange marks."""
    return Gate(after_effect=True, holds=lambda key: isinstance(key, RecordKey) and key.kind is Kind.EXCHANGE)


def held_write(state: State) -> Gate:
    """Return a gate that holds writes of connections in a state."""
    return Gate(after_effect=True, holds=lambda record, _: record.state == state.value)


async def refresh_token(zoomgate: Harness) -> Any:
    return zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA)


async def create_token(zoomgate: Harness) -> Any:
    zoom = zoomgate.simulator.zoom
    code = zoom.issue_code(zoom.users[OMAR], REDIRECT_URI)
    return zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=OMAR, code=code)


async def request_token(zoomgate: Harness) -> Any:
    zoom = zoomgate.simulator.zoom
    issued = zoom.exchange(zoom.issue_code(zoom.users[OMAR], REDIRECT_URI), REDIRECT_URI, "")
    request = pb.RequestTokenRequest(user_email=OMAR, refresh_token=issued["refresh_token"])
    return zoomgate.auth.RequestToken, request


async def import_connection(zoomgate: Harness) -> Any:
    _, request = await request_token(zoomgate)
    imported = pb.ImportConnectionRequest(user_email=OMAR, refresh_token=request.refresh_token)
    return zoomgate.auth.ImportConnection, imported


async def delete_connection(zoomgate: Harness) -> Any:
    return zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA)


@pytest.mark.parametrize(
    ("call", "method", "gate"),
    [
        (refresh_token, "put", held_write(State.ACTIVE)),
        (create_token, "get", held_read()),
        (request_token, "get", held_read()),
        (import_connection, "get", held_read()),
        (delete_connection, "put", held_write(State.DISCONNECTED)),
    ],
    ids=["refresh token", "code", "refresh token of a caller", "imported refresh token", "revocation"],
)
async def test_nothing_is_sent_to_zoom_if_the_drain_could_end_before_the_response(
    tmp_path: Path, call: Any, method: str, gate: Gate
) -> None:
    """A slow store delays the call until the drain. The next process can perform the same call."""
    environ = {"ZOOMGATE_DRAIN_SECONDS": "0", "ZOOMGATE_REDIRECT_URI": REDIRECT_URI}
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path) as connecting:
            await connecting.connect()
        async with AsyncExitStack() as service:
            zoomgate = await service.enter_async_context(
                serving(zoom, tmp_path, environ=environ, timing=NO_TIME_LEFT)
            )
            rpc, request = await call(zoomgate)
            sent = dict(zoom.zoom.counters)
            with zoomgate.store.intercept(method, gate):
                running = asyncio.create_task(zoomgate.error_of(rpc, request))
                await gate.reached.wait()
                stopping = asyncio.create_task(service.aclose())
                await draining(zoomgate)
                gate.opened.set()
                await stopping
                running.cancel()
        assert dict(zoom.zoom.counters) == sent
        async with serving(zoom, tmp_path, environ={"ZOOMGATE_REDIRECT_URI": REDIRECT_URI}) as zoomgate:
            if call is not delete_connection:  # which has stored the disconnection
                name = type(request).__name__.removesuffix("Request")
                await zoomgate.call(getattr(zoomgate.auth, name), request)
            assert zoomgate.stat("token.refresh_token.refused") == 0


async def draining(zoomgate: Harness) -> None:
    """Wait until the service no longer listens, which is directly followed by the drain."""
    host, _, port = zoomgate.http_url.removeprefix("http://").partition(":")
    listening = True
    while listening:
        await asyncio.sleep(0)
        with contextlib.suppress(OSError), socket.create_server((host, int(port))):
            listening = False
    for _ in range(1000):
        await asyncio.sleep(0)


async def test_request_of_a_browser_that_has_disconnected_is_completed(tmp_path: Path) -> None:
    """The store is not closed during the request."""
    gate, records = Gate(after_effect=False), []

    async def read(proceed: Any, *arguments: Any) -> Any:
        records.append(await gate(proceed, *arguments))
        return records[-1]

    async with Simulator(SimulatorOptions(port=0)) as zoom, AsyncExitStack() as service:
        zoomgate = await service.enter_async_context(serving(zoom, tmp_path))
        started = await zoomgate.begin_authorization(OMAR)
        with zoomgate.store.intercept("get", read):
            async with browser() as session:
                request = asyncio.create_task(session.get(started.authorization_url))
                await gate.reached.wait()
                request.cancel()
            stopping = asyncio.create_task(service.aclose())
            await draining(zoomgate)
            await asyncio.wait([stopping], timeout=0.2)
            assert not stopping.done()
            gate.opened.set()
            await stopping
    assert records


OUTCOME_UNKNOWN = ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
SHUTTING_DOWN = ("UNAVAILABLE", "SHUTTING_DOWN")

LONG_DRAIN = {"ZOOMGATE_DRAIN_SECONDS": "600"}

DELAYED = Fault("meetings", "delay", seconds=600)
REJECTED_TOKEN = (Fault("meetings", "status", times=1, status=401), Fault("token", "delay", seconds=600))
CREATE_MEETING = ("MeetingsService.CreateMeeting", meetings.CreateMeetingRequest(user_email=MONICA))
POST = ("ProxyService.Post", proxy.PostRequest(user_email=MONICA, url="/users/me/meetings"))
LIST_MEETINGS = ("MeetingsService.ListMeetings", meetings.ListMeetingsRequest(user_email=MONICA))
GET = ("ProxyService.Get", proxy.GetRequest(user_email=MONICA, url="/users/me/meetings"))


@pytest.fixture
async def zoom() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorOptions(port=0)) as simulator:
        yield simulator


@pytest.mark.parametrize("protocol", [GRPC, JSON])
@pytest.mark.parametrize(
    ("call", "faults", "expected"),
    [
        (CREATE_MEETING, [DELAYED], OUTCOME_UNKNOWN),
        (POST, [DELAYED], OUTCOME_UNKNOWN),
        (CREATE_MEETING, REJECTED_TOKEN, SHUTTING_DOWN),
        (POST, REJECTED_TOKEN, SHUTTING_DOWN),
        (LIST_MEETINGS, [DELAYED], SHUTTING_DOWN),
        (GET, [DELAYED], SHUTTING_DOWN),
    ],
    ids=["typed write", "write", "typed write without token", "write without token", "typed read", "read"],
)
async def test_call_that_outlasts_the_drain_states_whether_it_may_have_taken_effect(
    zoom: Simulator,
    tmp_path: Path,
    log: LogStream,
    protocol: str,
    call: tuple[str, Any],
    faults: list[Fault],
    expected: tuple[str, str],
) -> None:
    """A write waits for a token after Zoom has rejected the previous one. The refresh is completed after the call has ended."""
    start = len(log.getvalue())
    async with serving(zoom, tmp_path, environ={"ZOOMGATE_DRAIN_SECONDS": "0"}) as zoomgate:
        await zoomgate.connect()
        for fault in faults:
            zoom.faults.add(replace(fault))  # the simulator counts the requests in it
        running = asyncio.create_task(failure(zoomgate, protocol, *call))
        while zoom.faults.active() and not running.done():
            await asyncio.sleep(0)
        ended = asyncio.create_task(clear_after(running, zoom))
    error, request_id = await ended
    assert error.short == expected
    assert error.retry_after == (1.0 if expected == SHUTTING_DOWN else None)
    (line,) = (
        line
        for text in log.getvalue()[start:].splitlines()
        if request_id in (line := json.loads(text)).values()
    )
    assert (line["event"], line["method"], line["status"], line["reason"]) == ("rpc", call[0], *expected)
    async with serving(zoom, tmp_path) as zoomgate:
        await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
        refreshed = int(faults is REJECTED_TOKEN)
        assert zoomgate.stat("token.refresh_token.issued") == refreshed
        assert zoomgate.stat("token.refresh_token.refused") == 0


OWN_PAGE = {"ZOOMGATE_REDIRECT_URI": REDIRECT_URI}
RETURN_TO = {"ZOOMGATE_RETURN_TO": "page=http://127.0.0.1:9/page"}
NO_DRAIN = {"ZOOMGATE_DRAIN_SECONDS": "0"}
OK = ("OK", "")
USED_STATE = ("INVALID_ARGUMENT", "INVALID_STATE")
NOT_CONNECTED = ("NOT_FOUND", "ZOOM_NOT_CONNECTED")


async def get_token(zoomgate: Harness) -> Any:
    request = pb.GetTokenRequest(user_email=MONICA)
    request.min_validity.FromSeconds(600)
    return zoomgate.auth.GetToken, request


async def complete_authorization(zoomgate: Harness) -> Any:
    started = await zoomgate.begin_authorization(OMAR)
    query = URL(started.authorization_url).query
    zoom = zoomgate.simulator.zoom
    challenge, method = query["code_challenge"], query["code_challenge_method"]
    code = zoom.issue_code(zoom.users[OMAR], REDIRECT_URI, challenge=challenge, challenge_method=method)
    request = pb.CompleteAuthorizationRequest(code=code, state=started.state)
    return zoomgate.auth.CompleteAuthorization, request


async def create_token_with_state(zoomgate: Harness) -> Any:
    _, request = await complete_authorization(zoomgate)
    with_state = pb.CreateTokenRequest(user_email=OMAR, code=request.code, state=request.state)
    return zoomgate.auth.CreateToken, with_state


async def decline_authorization(zoomgate: Harness) -> Any:
    started = await zoomgate.begin_authorization(OMAR)
    callback_url = f"?error=access_denied&state={started.state}"
    return zoomgate.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(callback_url=callback_url)


async def redeem_ticket(zoomgate: Harness) -> Any:
    started = await zoomgate.begin_authorization(return_to="page")
    async with browser() as session:
        action, fields = await consent_form(session, started.authorization_url)
        form = fields | {"user": MONICA, "decision": "allow"}
        async with session.post(action, data=form, allow_redirects=False) as response:
            callback = URL(response.headers["Location"], encoded=True)
        async with session.get(callback, allow_redirects=False) as response:
            ticket = URL(response.headers["Location"]).query["ticket"]
    return zoomgate.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(ticket=ticket)


@pytest.mark.parametrize("protocol", [GRPC, JSON])
@pytest.mark.parametrize(
    ("call", "endpoint", "expected", "repeated", "state"),
    [
        (complete_authorization, "token", OUTCOME_UNKNOWN, USED_STATE, Connection.STATE_ACTIVE),
        (create_token_with_state, "token", OUTCOME_UNKNOWN, USED_STATE, Connection.STATE_ACTIVE),
        (create_token, "token", OUTCOME_UNKNOWN, OK, Connection.STATE_ACTIVE),
        (request_token, "token", OUTCOME_UNKNOWN, OK, Connection.STATE_ACTIVE),
        (import_connection, "token", OUTCOME_UNKNOWN, OK, Connection.STATE_ACTIVE),
        (delete_connection, "revoke", OUTCOME_UNKNOWN, NOT_CONNECTED, Connection.STATE_DISCONNECTED),
        (get_token, "token", SHUTTING_DOWN, OK, Connection.STATE_ACTIVE),
        (refresh_token, "token", SHUTTING_DOWN, OK, Connection.STATE_ACTIVE),
    ],
)
async def test_retry_is_invited_only_if_the_next_process_completes_the_call(
    zoom: Simulator,
    tmp_path: Path,
    protocol: str,
    call: Any,
    endpoint: str,
    expected: tuple[str, str],
    repeated: tuple[str, str],
    state: Connection.State,
) -> None:
    """Zoom responds after the call has ended, and the connection is as if the call had not been interrupted.

    The access token of the connected user expires in less than the time that GetToken requests.
    """
    zoom.zoom.options = replace(zoom.options, access_token_seconds=500)
    async with serving(zoom, tmp_path) as zoomgate:
        await zoomgate.connect()
    zoom.zoom.options = zoom.options
    async with serving(zoom, tmp_path, environ=OWN_PAGE | NO_DRAIN) as zoomgate:
        _, request = await call(zoomgate)
        method = f"AuthService.{type(request).__name__.removesuffix('Request')}"
        zoom.faults.add(Fault(endpoint, "delay", seconds=600))
        running = asyncio.create_task(failure(zoomgate, protocol, method, request))
        while zoom.faults.active() and not running.done():
            await asyncio.sleep(0)
        ended = asyncio.create_task(clear_after(running, zoom))
    assert (await ended)[0].short == expected
    async with serving(zoom, tmp_path, environ=OWN_PAGE) as zoomgate:
        user = getattr(request, "user_email", OMAR)
        read = pb.GetConnectionRequest(user_email=user)
        stored = await zoomgate.call(zoomgate.auth.GetConnection, read)
        assert stored.connection.state == state
        if repeated == USED_STATE:
            outcome = pb.GetAuthorizationRequest(state=request.state)
            authorization = await zoomgate.call(zoomgate.auth.GetAuthorization, outcome)
            assert authorization.state == pb.GetAuthorizationResponse.STATE_SUCCEEDED
        assert await result_of(zoomgate, method, request) == repeated
        assert zoomgate.stat("token.authorization_code.refused") == 0
        assert zoomgate.stat("token.refresh_token.refused") == 0


@pytest.mark.parametrize("protocol", [GRPC, JSON])
@pytest.mark.parametrize(("call", "environ"), [(decline_authorization, OWN_PAGE), (redeem_ticket, RETURN_TO)])
async def test_retry_is_not_invited_if_the_state_or_ticket_may_be_used(
    zoom: Simulator, tmp_path: Path, protocol: str, call: Any, environ: dict[str, str]
) -> None:
    """The store has received the use of the state or ticket, but has not responded."""
    gate = Gate(after_effect=True, holds=lambda record, _: record.key.kind is Kind.STATE)
    method = "AuthService.CompleteAuthorization"
    async with AsyncExitStack() as service:
        zoomgate = await service.enter_async_context(serving(zoom, tmp_path, environ=environ | NO_DRAIN))
        _, request = await call(zoomgate)
        with zoomgate.store.intercept("put", gate):
            running = asyncio.create_task(failure(zoomgate, protocol, method, request))
            await gate.reached.wait()
            running.add_done_callback(lambda _: gate.opened.set())
            await service.aclose()
    error, _ = await running
    assert error.short == OUTCOME_UNKNOWN
    async with serving(zoom, tmp_path, environ=environ) as zoomgate:
        assert await result_of(zoomgate, method, request) == USED_STATE


async def result_of(zoomgate: Harness, method: str, request: Any) -> tuple[str, str]:
    """Call an RPC, and return its status code and error reason."""
    try:
        await zoomgate.call(zoomgate.method(method), request)
    except grpc.aio.AioRpcError as error:
        return RpcError.of(error).short
    return OK


async def failure(zoomgate: Harness, protocol: str, method: str, request: Any) -> tuple[RpcError, str]:
    """Call an RPC that must fail, on a channel that outlasts the service. Return the failure and the request ID."""
    async with (
        grpc.aio.insecure_channel(zoomgate.grpc_address) as channel,
        over(protocol, replace(zoomgate, channel=channel)) as stubs,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.call(stubs.method(method), request)
    trailing = dict(caught.value.trailing_metadata())
    return RpcError.of(caught.value), str(trailing["x-request-id"])


async def clear_after(running: asyncio.Task[Any], zoom: Simulator) -> Any:
    """Release the delayed requests to Zoom once a call has ended, and return the result of the call."""
    await asyncio.wait([running])
    zoom.faults.clear()
    return await running


@pytest.mark.parametrize("method", ["ProxyService.ListPages", "ProxyService.Download"])
async def test_stream_that_waits_for_zoom_does_not_delay_the_shutdown(
    zoom: Simulator, tmp_path: Path, method: str
) -> None:
    requests = {
        "ProxyService.ListPages": proxy.ListPagesRequest(user_email=MONICA, url="/users/me/meetings"),
        "ProxyService.Download": proxy.DownloadRequest(user_email=MONICA, url="/users/me/meetings"),
    }
    async with serving(zoom, tmp_path, environ=LONG_DRAIN) as zoomgate:
        await zoomgate.connect()
        zoom.faults.add(replace(DELAYED))
        running = asyncio.create_task(failure(zoomgate, GRPC, method, requests[method]))
        while zoom.faults.active() and not running.done():
            await asyncio.sleep(0)
        ended = asyncio.create_task(clear_after(running, zoom))
    assert (await ended)[0].short == SHUTTING_DOWN


async def test_watch_of_the_health_does_not_delay_the_shutdown(zoom: Simulator, tmp_path: Path) -> None:
    async with AsyncExitStack() as service:
        zoomgate = await service.enter_async_context(serving(zoom, tmp_path, environ=LONG_DRAIN))
        async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await service.aclose()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
    assert RpcError.of(caught.value).short == SHUTTING_DOWN
