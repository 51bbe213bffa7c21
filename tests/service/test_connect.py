"""Tests for RPCs over HTTP: web pages of other origins, proxies, callers that disconnect, and the shutdown."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from google.protobuf.empty_pb2 import Empty

from support.captured_logs import LogStream, capture_logs
from support.clock import AdvancingClock
from support.harness import BASIL, MONICA, Harness, browser, consent, metadata, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate_server.app.timing import Timing
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.rpc import connect
from zoomgate_server.rpc.connect import LARGE_REQUEST_BYTES, MAX_LARGE_REQUESTS, ConnectEndpoint
from zoomgate_server.rpc.middleware import authentication
from zoomgate_server.rpc.middleware.pipeline import Handler, Method, Pipeline
from zoomgate_server.rpc.server import MAX_REQUEST_BYTES
from zoomgate_server.telemetry.metrics import Metrics

APP, OTHER = "https://app.example.com", "https://evil.example"
POST = "/zoomgate.v1.ProxyService/Post"
GET_TOKEN = "/zoomgate.v1.AuthService/GetToken"
VALIDATE, CREATE = "/zoomgate.v1.AuthService/ValidateUser", "/zoomgate.v1.MeetingsService/CreateMeeting"
GET = "/zoomgate.v1.MeetingsService/GetMeeting"


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path, environ={"ZOOMGATE_ALLOWED_ORIGINS": APP}) as harness:
        yield harness


async def send(
    zoomgate: Harness,
    path: str = VALIDATE,
    method: str = "POST",
    origins: Sequence[str] = (),
    fields: Mapping[str, Any] = {},
    **headers: str,
) -> tuple[aiohttp.ClientResponse, Any]:
    """Send a request with a valid credential; return the response and its parsed JSON body."""
    named = dict(metadata()) | {name.replace("_", "-"): value for name, value in headers.items()}
    entries = [*named.items(), *(("Origin", origin) for origin in origins)]
    async with (
        aiohttp.ClientSession(zoomgate.http_url) as session,
        session.request(method, path, json={"userEmail": MONICA} | dict(fields), headers=entries) as response,
    ):
        is_json = response.content_type == "application/json"
        return response, await response.json() if is_json else await response.text()


async def when(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


async def metrics(zoomgate: Harness) -> str:
    async with (
        aiohttp.ClientSession(zoomgate.http_url) as session,
        session.get("/metrics") as response,
    ):
        return await response.text()


def cors(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the headers for web pages of other origins."""
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


async def test_rpcs_are_served_only_on_request(tmp_path: Path) -> None:
    async with running(tmp_path, environ={"ZOOMGATE_CONNECT_RPC": "off"}) as harness:
        assert (await send(harness))[0].status == 404


async def test_preflight_of_an_allowed_origin_is_answered(zoomgate: Harness) -> None:
    response, _ = await send(zoomgate, method="OPTIONS", Origin=APP)
    headers = cors(response)
    assert (response.status, headers.pop("Access-Control-Max-Age")) == (204, "7200")
    requested = headers.pop("Access-Control-Allow-Headers").lower()
    for name in ("authorization", "content-type", "connect-protocol-version", "connect-timeout-ms"):
        assert name in requested
    assert headers == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Expose-Headers": "X-Request-Id",
    }


@pytest.mark.parametrize("path", [VALIDATE, "/zoomgate.v1.AuthService/Missing"])
async def test_page_of_an_allowed_origin_may_read_responses_and_errors(zoomgate: Harness, path: str) -> None:
    """Credentials of the browser, such as cookies, are not allowed."""
    response, body = await send(zoomgate, path, Origin=APP)
    assert cors(response) == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Expose-Headers": "X-Request-Id",
    }
    assert response.headers["Vary"] == "Origin"
    assert body.get("reason") == "Member is not logged in" or body["code"] == "unimplemented"
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    "origins",
    [
        [OTHER],
        ["null"],
        [""],
        [f"{APP}:443"],
        [f"{APP}.evil.example"],
        ["http://app.example.com"],
        [f"{APP}/"],
        [APP, OTHER],
        [OTHER, APP],
        [APP, APP],
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_page_of_another_origin_gets_nothing(
    zoomgate: Harness, origins: list[str], method: str
) -> None:
    """The call is not made, even if the browser would only withhold the response."""
    await zoomgate.connect()
    before = dict(zoomgate.simulator.zoom.counters)
    response, body = await send(zoomgate, CREATE, method=method, origins=origins)
    assert (response.status, body["code"]) == (403, "permission_denied")
    assert body["details"][0]["debug"]["reason"] == "CALLER_NOT_ALLOWED"
    assert cors(response) == {}
    assert dict(zoomgate.simulator.zoom.counters) == before
    assert (await send(zoomgate, CREATE))[0].status == 200  # the same request without an origin
    assert dict(zoomgate.simulator.zoom.counters) != before


@pytest.mark.parametrize("credential", [dict(metadata())["authorization"], ""], ids=["call", "preflight"])
async def test_rejected_origin_is_logged(zoomgate: Harness, credential: str) -> None:
    """Browsers send a preflight request without a credential, and the call only if it succeeds."""
    origin = "https://app.example.org"
    method = "POST" if credential else "OPTIONS"
    with capture_logs() as lines:
        response, _ = await send(zoomgate, method=method, Origin=origin, Authorization=credential)
    assert (response.status, cors(response)) == (403, {})
    cause = f"ZOOMGATE_ALLOWED_ORIGINS does not include '{origin}'"
    assert [line["cause"] for line in lines if line["event"] == "rpc.rejected"] == [cause]
    text = (zoomgate.data_dir / "audit.jsonl").read_text()
    assert (cause in text) == bool(credential)


async def test_long_origin_is_logged_clipped_and_escaped(zoomgate: Harness) -> None:
    with capture_logs() as lines:
        await send(zoomgate, method="OPTIONS", Origin="https://\xfc" + "x" * 4000)
    (cause,) = (line["cause"] for line in lines if line["event"] == "rpc.rejected")
    assert len(cause) < 300
    assert cause.isascii()


async def test_no_origin_is_allowed_by_default(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response, _ = await send(harness, Origin=harness.http_url)
        assert (response.status, cors(response)) == (403, {})
        response, _ = await send(harness)
        assert (response.status, cors(response)) == (200, {})


async def test_rpcs_are_available_only_through_the_proxy(tmp_path: Path) -> None:
    """Otherwise callers would send their keys over a network without encryption."""
    environ = {"ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com", "ZOOMGATE_TRUSTED_PROXIES": "192.0.2.1"}
    async with running(tmp_path / "direct", environ=environ) as harness:
        assert (await send(harness))[0].status == 403
    environ["ZOOMGATE_TRUSTED_PROXIES"] = "127.0.0.1"
    async with running(tmp_path / "proxied", environ=environ) as harness:
        assert (await send(harness, X_Forwarded_Proto="http"))[0].status == 403
        assert (await send(harness, X_Forwarded_Proto="https"))[0].status == 200


async def test_address_of_the_caller_is_audited(tmp_path: Path) -> None:
    environ = {"ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com", "ZOOMGATE_TRUSTED_PROXIES": "127.0.0.1"}
    async with running(tmp_path, environ=environ) as harness:
        await send(harness, X_Forwarded_For="192.0.2.7", Authorization="Bearer unknown-key-0123456789")
    assert '"peer":"http:192.0.2.7"' in (tmp_path / "audit.jsonl").read_text()


async def test_call_is_canceled_if_the_caller_disconnects(zoomgate: Harness) -> None:
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("meetings", "delay", seconds=600))
    call = asyncio.create_task(send(zoomgate, CREATE))
    await when(lambda: is_in_progress(zoomgate))
    call.cancel()

    async def is_canceled() -> bool:
        return 'zoomgate_rpc_total{code="CANCELLED",method="MeetingsService.CreateMeeting"} 1' in (
            await metrics(zoomgate)
        )

    await when(is_canceled)
    zoomgate.simulator.faults.clear()


@pytest.mark.parametrize(
    ("path", "milliseconds", "expected"),
    [
        (CREATE, "800", (500, "unknown", "ZOOM_OUTCOME_UNKNOWN")),
        (GET, "800", (504, "deadline_exceeded", "DEADLINE_EXCEEDED")),
        (CREATE, "499", (504, "deadline_exceeded", "DEADLINE_TOO_SHORT")),
        (GET, "499", (504, "deadline_exceeded", "DEADLINE_TOO_SHORT")),
    ],
    ids=["write", "read", "write not sent", "read not sent"],
)
async def test_error_of_a_passed_timeout_states_whether_the_call_may_have_taken_effect(
    zoomgate: Harness, path: str, milliseconds: str, expected: tuple[int, str, str]
) -> None:
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("meetings", "delay", seconds=600))
    fields = {"meetingId": "1"} if path == GET else {}
    response, body = await send(zoomgate, path, fields=fields, **{"Connect-Timeout-Ms": milliseconds})
    assert (response.status, body["code"], body["details"][0]["debug"]["reason"]) == expected
    zoomgate.simulator.faults.clear()


async def test_call_that_outlasts_its_deadline_may_have_taken_effect(tmp_path: Path, log: LogStream) -> None:
    """The service expects the caller's deadline later than it is."""
    timing = replace(Timing(), calls=authentication.Timing(response_margin=-60.0))
    async with running(tmp_path, timing=timing) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "delay", seconds=600))
        headers = {"Connect-Timeout-Ms": "500", "X-Request-Id": "outlasted"}
        response, body = await send(zoomgate, CREATE, **headers)
        assert (response.status, body["code"]) == (504, "deadline_exceeded")
        assert body["details"][0]["debug"]["reason"] == "DEADLINE_EXCEEDED"
        assert "may have taken effect" in body["message"]
        (line,) = [line for line in log.getvalue().splitlines() if '"outlasted"' in line]
        assert '"reason":"DEADLINE_EXCEEDED"' in line
        zoomgate.simulator.faults.clear()


LARGE = {"url": "/users/me/meetings", "json": {"topic": "x", "agenda": "x" * LARGE_REQUEST_BYTES}}
SLOTS = 'zoomgate_slots_{}{{limit="concurrent_large_requests"}} {}'


async def test_large_request_waits_for_others(tmp_path: Path) -> None:
    async with running(tmp_path) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "delay", times=-1, seconds=600))
        calls = [
            asyncio.create_task(send(zoomgate, POST, fields=LARGE)) for _ in range(MAX_LARGE_REQUESTS + 1)
        ]

        async def is_waiting() -> bool:
            page = await metrics(zoomgate)
            return all(
                SLOTS.format(*line) in page
                for line in [("used", f"{MAX_LARGE_REQUESTS}.0"), ("waiting", "1.0")]
            )

        await when(is_waiting)
        assert (await send(zoomgate))[0].status == 200
        zoomgate.simulator.faults.clear()
        assert [(await call)[0].status for call in calls] == [200] * len(calls)


async def test_large_request_that_finds_no_slot_in_time_is_rejected(tmp_path: Path) -> None:
    timing = replace(Timing(), connect=connect.Timing(slot_share=0.0))
    async with running(tmp_path, timing=timing) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "delay", times=-1, seconds=600))
        calls = [asyncio.create_task(send(zoomgate, POST, fields=LARGE)) for _ in range(MAX_LARGE_REQUESTS)]

        async def are_running() -> bool:
            return SLOTS.format("used", f"{MAX_LARGE_REQUESTS}.0") in await metrics(zoomgate)

        await when(are_running)
        response, body = await send(zoomgate, POST, fields=LARGE)
        assert (response.status, body["code"]) == (429, "resource_exhausted")
        info = body["details"][0]["debug"]
        assert (info["reason"], info["metadata"]) == (
            "SERVER_OVERLOADED",
            {"limit": "concurrent_large_requests"},
        )
        zoomgate.simulator.faults.clear()
        assert [(await call)[0].status for call in calls] == [200] * len(calls)
        assert (await send(zoomgate, POST, fields=LARGE))[0].status == 200


async def test_large_request_is_not_read_while_it_waits() -> None:
    """What has arrived is a small part of it, since the number of waiting requests is not limited."""
    gauges = Metrics("0", [])
    slots = ConcurrencyLimit(Limit.LARGE_REQUESTS, 1, SystemClock(), gauges)
    pipeline = Pipeline(grpc.aio.server(), [without_authentication])
    handler = grpc.unary_unary_rpc_method_handler(respond_empty, Empty.FromString, Empty.SerializeToString)
    pipeline.add_registered_method_handlers("zoomgate.v1.AuthService", {"GetToken": handler})
    endpoint = ConnectEndpoint(
        pipeline, clock=SystemClock(), large_requests=slots, max_request_bytes=MAX_REQUEST_BYTES
    )
    received: list[web.Request] = []

    async def handle(request: Any) -> web.StreamResponse:
        received.append(request)
        return await endpoint.handle(request, "")

    async def is_waiting() -> bool:
        limit = {"limit": Limit.LARGE_REQUESTS}
        return gauges.registry.get_sample_value("zoomgate_slots_waiting", limit) == 1

    async with RawTestServer(handle) as server:
        host, port = str(server.host), server.port
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST {GET_TOKEN} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {MAX_REQUEST_BYTES}\r\n\r\n{{}}".encode())
        async with slots.slot():
            writer.write(b" " * (MAX_REQUEST_BYTES - 2))
            await when(is_waiting)
            (request,) = received
            for _ in range(100):  # the endpoint could read more
                await asyncio.sleep(0)
            assert LARGE_REQUEST_BYTES < request.content.total_bytes < MAX_REQUEST_BYTES / 2
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        assert request.content.total_bytes == MAX_REQUEST_BYTES
        writer.close()
        await writer.wait_closed()


def without_authentication(method: Method, respond: Handler) -> Handler:
    """Receive the request. A stage of the pipeline, instead of the one that authenticates callers."""

    async def receive_and_respond(request: Any, context: Any) -> Any:
        return await respond(await method.receive(request, context), context)

    return receive_and_respond


async def respond_empty(_request: Empty, _context: Any) -> Empty:
    return Empty()


@pytest.mark.parametrize("headers", [{}, {"Connect-Timeout-Ms": "9999999999"}], ids=["default", "maximum"])
async def test_time_limit_of_a_call_includes_the_time_to_receive_it(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """Otherwise a call could outlast the timeout that proxies are advised to have."""
    clock = AdvancingClock()
    async with running(tmp_path, clock=clock) as zoomgate:
        await zoomgate.connect()

        async def is_received_in_part() -> bool:
            return SLOTS.format("used", "1.0") in await metrics(zoomgate)

        async def body() -> AsyncIterator[bytes]:
            yield b" " * (LARGE_REQUEST_BYTES + 1)
            await when(is_received_in_part)
            clock.ahead += authentication.Timing().max_limit
            yield json.dumps({"userEmail": MONICA}).encode()

        headers = headers | dict(metadata()) | {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(zoomgate.http_url) as session,
            session.post(CREATE, data=body(), headers=headers) as response,
        ):
            details = (await response.json())["details"]
        assert (response.status, details[0]["debug"]["reason"]) == (504, "DEADLINE_TOO_SHORT")


async def is_in_progress(zoomgate: Harness) -> bool:
    """Return whether the simulator delays a request."""
    return not zoomgate.simulator.faults.active()


async def test_consent_is_completed_if_the_browser_disconnects(zoomgate: Harness) -> None:
    authorization = await zoomgate.begin_authorization(BASIL)
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=600))

    async def consent_in_browser() -> None:
        async with browser() as session:
            await consent(session, authorization.authorization_url, BASIL)

    visit = asyncio.create_task(consent_in_browser())
    await when(lambda: is_in_progress(zoomgate))
    visit.cancel()
    await asyncio.wait([visit])
    for _ in range(100):  # the service notices that the connection is closed
        await asyncio.sleep(0)
    zoomgate.simulator.faults.clear()

    async def is_counted() -> bool:
        return 'zoomgate_http_requests_total{route="/oauth/callback",status_class="3xx"} 1' in (
            await metrics(zoomgate)
        )

    await when(is_counted)


async def test_running_call_completes_before_the_end_of_the_drain(tmp_path: Path) -> None:
    """New calls are rejected meanwhile."""
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path, {"ZOOMGATE_DRAIN_SECONDS": "20"}) as harness:
            await harness.connect()
            zoom.faults.add(Fault("meetings", "delay", seconds=600))
            call = asyncio.create_task(send(harness, CREATE))
            await when(lambda: is_in_progress(harness))

            async def is_draining() -> bool:
                async with (
                    aiohttp.ClientSession(harness.http_url) as session,
                    session.get("/readyz") as page,
                ):
                    return "draining" in await page.text()

            async def reject_and_continue() -> None:
                await when(is_draining)
                response, body = await send(harness)
                assert (response.status, body["code"]) == (503, "unavailable")
                assert body["details"][0]["debug"]["reason"] == "SHUTTING_DOWN"
                assert response.headers["X-Request-Id"]
                zoom.faults.clear()

            other = asyncio.create_task(reject_and_continue())
        assert (await call)[0].status == 200
        await other
