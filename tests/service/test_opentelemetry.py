"""Tests for the export of spans and metrics with OTLP, with a receiver that decodes them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import SECRETS
from support.captured_logs import LogStream
from support.connect_channel import BINARY, JSON, over
from support.harness import (
    BASIL,
    MONICA,
    OMAR,
    Harness,
    browser,
    consent_form,
    metadata,
    running,
)
from support.otlp_receiver import ONLY_AT_EXIT, OtlpReceiver, ReceivedSpan, otlp_receiver
from support.raw_upstream import http_response, raw_upstream
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import disconnection
from zoomgate_server.startup import StartError

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE_ID}-{SPAN_ID}-{flags}" for flags in ("01", "00"))
ZERO_IDS = (f"00-{'0' * 32}-{SPAN_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01")
CREATE_MEETING = "zoomgate.v1.MeetingsService/CreateMeeting"


class Exporting:
    """Runs services that export to a receiver when they exit."""

    def __init__(self, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.receiver = receiver
        self._monkeypatch = monkeypatch

    @asynccontextmanager
    async def service(
        self,
        directory: Path,
        simulator: SimulatorOptions | None = None,
        zoom_api_url: str = "",
        timing: Timing = Timing(),
        **variables: str,
    ) -> AsyncIterator[Harness]:
        """Run a service with variables of OpenTelemetry, which its library reads from the environment of the process."""
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.url, **ONLY_AT_EXIT, **variables}
        for name, value in environ.items():
            self._monkeypatch.setenv(name, value)
        async with running(
            directory, environ=environ, simulator=simulator, zoom_api_url=zoom_api_url, timing=timing
        ) as harness:
            yield harness


@pytest.fixture
async def exporting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Exporting]:
    """Return a runner of services, with its receiver."""
    async with otlp_receiver() as receiver:
        yield Exporting(receiver, monkeypatch)


async def call(zoomgate: Harness, method: Any, request: Any, traceparent: str = "") -> None:
    """Call an RPC, within a span of the caller if `traceparent` is not empty."""
    caller = (("traceparent", traceparent),) if traceparent else ()
    await method(request, metadata=metadata() + caller, timeout=20)


async def create_meeting(zoomgate: Harness, traceparent: str = "") -> None:
    await call(
        zoomgate,
        zoomgate.meetings.CreateMeeting,
        meetings.CreateMeetingRequest(user_email=MONICA),
        traceparent,
    )


def described(span: ReceivedSpan) -> tuple[str, dict[str, Any]]:
    """Return the kind and the attributes of a span, without the port, which varies."""
    return span.kind, {key: value for key, value in span.attributes.items() if key != "server.port"}


async def test_call_with_a_refresh_is_one_trace(exporting: Exporting, tmp_path: Path) -> None:
    """The refresh and its requests belong to the call that started it, although the refresh outlives canceled calls."""
    expiring = SimulatorOptions(port=0, access_token_seconds=60)
    async with exporting.service(tmp_path, expiring) as zoomgate:
        await zoomgate.connect()
        await create_meeting(zoomgate, SAMPLED)
    receiver = exporting.receiver
    root = receiver.span(CREATE_MEETING)
    assert receiver.tree(root) == [
        CREATE_MEETING,
        "  find user",
        "  refresh",
        "    get user",
        "    put user",
        "    POST /oauth/token",
        "    put user",
        "  POST /users/{userId}/meetings",
    ]
    assert (root.trace_id, root.parent_id) == (TRACE_ID, SPAN_ID)
    spans = {span.name: described(span) for span in receiver.spans if span.trace_id == TRACE_ID}
    assert spans == {
        CREATE_MEETING: (
            "SERVER",
            {"rpc.system.name": "grpc", "rpc.method": CREATE_MEETING, "rpc.response.status_code": "OK"},
        ),
        "find user": store_operation("find"),
        "refresh": ("INTERNAL", {"zoomgate.refresh.outcome": "refreshed"}),
        "get user": store_operation("get"),
        "put user": store_operation("put"),
        "POST /oauth/token": zoom_request("POST", "/oauth/token", 200),
        "POST /users/{userId}/meetings": zoom_request("POST", "/users/{userId}/meetings", 201),
    }


@pytest.mark.parametrize("protocol", [JSON, BINARY])
async def test_call_over_http_has_the_span_of_an_rpc(
    exporting: Exporting, tmp_path: Path, protocol: str
) -> None:
    """It belongs to the trace of the caller. The next request of the connection does not belong to it."""
    async with exporting.service(tmp_path) as zoomgate, over(protocol, zoomgate) as stubs:
        await zoomgate.connect()
        await create_meeting(stubs, SAMPLED)
        await create_meeting(stubs)
    receiver = exporting.receiver
    first, second = (span for span in receiver.spans if span.name == CREATE_MEETING)
    assert (first.trace_id, first.parent_id) == (TRACE_ID, SPAN_ID)
    assert second.trace_id != TRACE_ID
    assert described(first) == described(second)
    assert described(first) == (
        "SERVER",
        {"rpc.system.name": "connectrpc", "rpc.method": CREATE_MEETING, "rpc.response.status_code": "OK"},
    )
    assert not [span for span in receiver.spans if span.name.startswith("POST /zoomgate")]


async def test_rejected_token_is_refreshed_within_the_trace(exporting: Exporting, tmp_path: Path) -> None:
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.zoom.expire(MONICA)
        await create_meeting(zoomgate, SAMPLED)
    receiver = exporting.receiver
    assert receiver.tree(receiver.span(CREATE_MEETING)) == [
        CREATE_MEETING,
        "  find user",
        "  POST /users/{userId}/meetings",
        "  find user",
        "  refresh",
        "    get user",
        "    put user",
        "    POST /oauth/token",
        "    put user",
        "  POST /users/{userId}/meetings",
    ]
    statuses = [
        (span.attributes["http.response.status_code"], span.attributes.get("error.type"))
        for span in sorted(receiver.spans, key=lambda span: span.start)
        if span.name == "POST /users/{userId}/meetings"
    ]
    assert statuses == [(401, "401"), (201, None)]


def store_operation(name: str) -> tuple[str, dict[str, Any]]:
    """Return the expected description of a store operation on connections."""
    return "CLIENT", {
        "db.system.name": "sqlite",
        "db.operation.name": name,
        "db.query.summary": f"{name} user",
    }


def zoom_request(method: str, template: str, status: int, **error: str) -> tuple[str, dict[str, Any]]:
    """Return the expected description of a request to Zoom."""
    return "CLIENT", {
        "http.request.method": method,
        "server.address": "127.0.0.1",
        "url.template": template,
        "http.response.status_code": status,
    }


async def test_consent_is_traced(exporting: Exporting, tmp_path: Path) -> None:
    """The redirect from Zoom is a trace with the exchange of the code, and the browser may be part of a trace."""
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        async with aiohttp.ClientSession(headers={"traceparent": SAMPLED}) as session:
            async with session.get(f"{zoomgate.http_url}/oauth/result?outcome=declined") as response:
                assert response.status == 200
            for path in ("/healthz", "/readyz", "/metrics", "/oauth/unknown"):
                async with session.get(zoomgate.http_url + path):
                    pass
    receiver = exporting.receiver
    callback = receiver.span("GET /oauth/callback")
    assert described(callback) == (
        "SERVER",
        {
            "http.request.method": "GET",
            "http.route": "/oauth/callback",
            "url.path": "/oauth/callback",
            "url.scheme": "http",
            "http.response.status_code": 303,
        },
    )
    assert {"  POST /oauth/token", "  GET /users/me", "  put user"} <= set(receiver.tree(callback))
    (result,) = (span for span in receiver.spans if span.parent_id == SPAN_ID)
    assert result.name == "GET /oauth/result"
    assert {span.name for span in receiver.spans if span.name.startswith("GET /")} == {
        "GET /oauth/start",
        "GET /oauth/continue",
        "GET /oauth/callback",
        "GET /oauth/result",
        "GET /users/me",
    }


async def test_unsampled_calls_have_no_spans(exporting: Exporting, tmp_path: Path) -> None:
    """A caller's decision takes precedence over the sampler. An invalid traceparent is ignored."""
    async with exporting.service(
        tmp_path, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0"
    ) as zoomgate:
        await zoomgate.connect()
        for traceparent in (
            "",
            NOT_SAMPLED,
            SAMPLED.upper(),
            f"{SAMPLED}-x",
            f"ff{SAMPLED[2:]}",
            "00-x-y-01",
            *ZERO_IDS,
        ):
            await create_meeting(zoomgate, traceparent)
            async with (
                aiohttp.ClientSession(headers={"traceparent": traceparent}) as session,
                session.get(f"{zoomgate.http_url}/oauth/result?outcome=declined") as response,
            ):
                assert response.status == 200
        await create_meeting(zoomgate, f"cc{SAMPLED[2:]}-of-a-later-version")
    assert [span.name for span in exporting.receiver.spans] == [
        "POST /users/{userId}/meetings",
        CREATE_MEETING,
    ]


async def test_unsampled_caller_disables_the_default_sampler(exporting: Exporting, tmp_path: Path) -> None:
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        await create_meeting(zoomgate, NOT_SAMPLED)
    assert CREATE_MEETING not in {span.name for span in exporting.receiver.spans}


async def test_ratio_samples_the_traces_with_low_ids(exporting: Exporting, tmp_path: Path) -> None:
    """All services with the same ratio sample the same traces: the choice depends on the trace ID, whoever has chosen it."""
    low, high = (f"00-{TRACE_ID[:16]}{digit}{TRACE_ID[17:]}-{SPAN_ID}-00" for digit in "07")
    async with exporting.service(
        tmp_path, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25"
    ) as zoomgate:
        request = auth.GetConnectionRequest(user_email=MONICA)
        for traceparent in (low, high, *[""] * 200):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(zoomgate, zoomgate.auth.GetConnection, request, traceparent)
    roots = [span for span in exporting.receiver.spans if span.kind == "SERVER"]
    assert [span.trace_id for span in roots if span.parent_id] == [low[3:35]]
    assert 10 < len(roots) < 120
    assert all(int(span.trace_id[16], 16) < 4 for span in roots)


async def test_errors_have_a_reason(exporting: Exporting, tmp_path: Path) -> None:
    """`error.type` is the reason of an RPC, the outcome of a refresh, and the status of a response. Faults of callers are no errors."""
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "status", times=1, status=500))
        zoomgate.simulator.faults.add(Fault("token", "status", times=-1, status=503))
        zoomgate.simulator.faults.add(Fault("users_me", "cut_before", times=-1))
        for method, request in (
            (zoomgate.meetings.CreateMeeting, meetings.CreateMeetingRequest(user_email=MONICA)),
            (zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA)),
            (zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=OMAR)),
            (zoomgate.proxy.Get, proxy.GetRequest(user_email=MONICA, url="/users/me")),
        ):
            await zoomgate.error_of(method, request)
    errors = {
        span.name: (span.attributes.get("status", ""), span.attributes["error.type"])
        for span in exporting.receiver.spans
        if "error.type" in span.attributes
    }
    assert errors == {
        CREATE_MEETING: ("ERROR", "ZOOM_OUTCOME_UNKNOWN"),
        "POST /users/{userId}/meetings": ("ERROR", "500"),
        "zoomgate.v1.AuthService/RefreshToken": ("ERROR", "ZOOM_UNAVAILABLE"),
        "refresh": ("ERROR", "zoom_unavailable"),
        "POST /oauth/token": ("ERROR", "503"),
        "zoomgate.v1.AuthService/GetToken": ("", "ZOOM_NOT_CONNECTED"),
        "zoomgate.v1.ProxyService/Get": ("ERROR", "ZOOM_UNAVAILABLE"),
        "GET": ("ERROR", "ZoomUnavailable"),
    }


async def test_failed_consent_has_a_reason(exporting: Exporting, tmp_path: Path) -> None:
    """Only faults of the service are errors, although browsers are redirected to a page."""
    async with exporting.service(tmp_path) as zoomgate:
        for decision, failures in (("decline", 0), ("allow", 1)):
            started = await zoomgate.begin_authorization()
            async with browser() as session:
                action, fields = await consent_form(session, started.authorization_url)
                zoomgate.store.fail("get", failures)
                form = fields | {"user": MONICA, "decision": decision}
                async with session.post(action, data=form) as response:
                    await response.read()
    errors = [
        (span.attributes.get("status", ""), span.attributes.get("error.type"))
        for span in exporting.receiver.spans
        if span.name == "GET /oauth/callback"
    ]
    assert errors == [("", "AuthorizationDeclined"), ("ERROR", "StoreError")]


async def test_taken_address_is_not_an_error_of_the_store(exporting: Exporting, tmp_path: Path) -> None:
    """A different Zoom user takes the address, and replaces the former one."""
    async with exporting.service(tmp_path) as zoomgate:
        for zoom_email in (MONICA, OMAR):
            await zoomgate.connect("office@example.com", zoom_email=zoom_email)
    taken = [
        span for span in exporting.receiver.spans if span.attributes.get("error.type") == "UserEmailTaken"
    ]
    assert taken
    assert not any("status" in span.attributes for span in taken)


async def test_background_work_is_a_trace(exporting: Exporting, tmp_path: Path) -> None:
    """A revocation is retried after the call that started it. Polls of the store are not recorded."""
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
    async with exporting.service(tmp_path, timing=timing) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("revoke", "status", times=2, status=503))
        request = auth.DeleteConnectionRequest(user_email=MONICA)
        await call(zoomgate, zoomgate.auth.DeleteConnection, request, NOT_SAMPLED)
        while not zoomgate.simulator.zoom.grants[MONICA].revoked:
            await asyncio.sleep(0)
    roots = [span for span in exporting.receiver.spans if not span.parent_id and span.kind == "INTERNAL"]
    assert {span.name for span in roots} == {"revoke"}
    assert "  POST /oauth/revoke" in exporting.receiver.tree(roots[-1])
    assert {span.kind for span in exporting.receiver.spans if not span.parent_id} == {"INTERNAL", "SERVER"}


async def test_store_failure_is_an_error_of_its_operation(exporting: Exporting, tmp_path: Path) -> None:
    async with exporting.service(tmp_path) as zoomgate:
        zoomgate.store.fail("find", 1)
        error = await zoomgate.error_of(
            zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA), "admin"
        )
    assert error.reason == "STORE_UNAVAILABLE"
    assert exporting.receiver.span("find user").attributes["error.type"] == "StoreError"


async def test_canceled_call_is_recorded(exporting: Exporting, tmp_path: Path) -> None:
    """The caller's trace is not passed on to Zoom."""
    async with (
        raw_upstream() as zoom_api,
        exporting.service(tmp_path, zoom_api_url=zoom_api.url) as zoomgate,
    ):
        zoom_api.responses = [http_response("200 OK", b'{"id":"u","email":"monica@example.com"}')]
        await zoomgate.connect()
        zoom_api.requests.clear()
        zoom_api.open.clear()
        calling = asyncio.create_task(create_meeting(zoomgate, SAMPLED))
        while not zoom_api.requests:
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.wait([calling])
        assert b"traceparent" not in zoom_api.requests[0].lower()
    canceled = exporting.receiver.span(CREATE_MEETING)
    assert described(canceled)[1].items() >= {
        ("rpc.response.status_code", "CANCELLED"),
        ("error.type", "CANCELLED"),
    }
    assert (
        exporting.receiver.span("POST /users/{userId}/meetings").attributes["error.type"] == "CancelledError"
    )


async def test_telemetry_contains_no_secrets_addresses_or_ids(exporting: Exporting, tmp_path: Path) -> None:
    """Not even if a caller sends them: as paths, request IDs or trace states."""
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        created = await zoomgate.call(
            zoomgate.meetings.CreateMeeting, meetings.CreateMeetingRequest(user_email=MONICA)
        )
        meeting_id = created.meeting.id
        await zoomgate.call(
            zoomgate.meetings.GetMeeting,
            meetings.GetMeetingRequest(user_email=MONICA, meeting_id=meeting_id),
        )
        for url in (f"/meetings/{meeting_id}", f"/users/{OMAR}", "/users/hunter"):
            request = proxy.GetRequest(user_email=MONICA, url=url)
            hostile = (
                ("tracestate", "zoomgate=hunter"),
                ("x-request-id", "hunter"),
                ("traceparent", SAMPLED),
            )
            with suppress(grpc.aio.AioRpcError):  # the user's scopes do not cover other users
                await zoomgate.proxy.Get(request, metadata=metadata() + hostile, timeout=20)
        for query in ("", "?access_token=hunter"):
            url = f"{zoomgate.simulator.url}/rec/download/9/hunter{query}"
            await zoomgate.call(zoomgate.proxy.Download, proxy.DownloadRequest(user_email=MONICA, url=url))
        await zoomgate.error_of(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=BASIL))
        zoom_user_id = zoomgate.simulator.zoom.users[MONICA].user_id
    exported = b"".join(exporting.receiver.bodies).decode("latin-1")
    assert "GET /meetings/{meetingId}" in exported
    assert SECRETS.search(exported) is None
    for text in ("@example.com", "hunter", str(meeting_id), zoom_user_id, "monica"):
        assert text not in exported


async def test_log_lines_of_a_span_name_it(exporting: Exporting, tmp_path: Path, log: LogStream) -> None:
    """The line of a call names the span of the call, and the line of its refresh the span of the refresh. Others name none."""
    start = len(log.getvalue())
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        await call(zoomgate, zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA), SAMPLED)
        await call(zoomgate, zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA), NOT_SAMPLED)
    lines = [json.loads(line) for line in log.getvalue()[start:].splitlines()]
    ids = {
        line.get("method", line["event"]): (line.get("trace_id"), line.get("span_id"))
        for line in lines
        if line["event"] in ("rpc", "refresh.finished", "service.started")
    }
    refresh = exporting.receiver.span("refresh").span_id
    root = exporting.receiver.span("zoomgate.v1.AuthService/RefreshToken").span_id
    assert ids["AuthService.RefreshToken"] == (TRACE_ID, root)
    assert ids["refresh.finished"] == (TRACE_ID, refresh)
    assert ids["AuthService.GetToken"] == ids["service.started"] == (None, None)


async def test_metrics_equal_those_of_prometheus(exporting: Exporting, tmp_path: Path) -> None:
    """Every time series has the name, the labels and the value that `/metrics` has."""
    async with exporting.service(tmp_path) as zoomgate:
        await zoomgate.connect()
        await create_meeting(zoomgate)
        async with aiohttp.ClientSession() as session:
            for _ in range(2):  # the first request is counted only in the response to the second
                async with session.get(f"{zoomgate.http_url}/metrics") as response:
                    text = await response.text()
    receiver = exporting.receiver
    scraped = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.type == "histogram" and sample.name.endswith("_count"):
                scraped[family.name, *sample.labels.items()] = sample.value
            elif family.type in ("counter", "gauge") and not sample.name.endswith("_created"):
                scraped[sample.name, *sample.labels.items()] = sample.value
    assert ("zoomgate_connections", ("state", "ACTIVE")) in scraped
    del scraped["zoomgate_http_requests_total", ("route", "/metrics"), ("status_class", "2xx")]
    received = {(name, *labels): receiver.value(name, **dict(labels)) for name, *labels in scraped}
    assert received == scraped
    assert receiver.resources[0]["service.name"] == "zoomgate"
    assert receiver.resources[0]["service.instance.id"]


async def test_standard_variables_describe_the_service(exporting: Exporting, tmp_path: Path) -> None:
    async with exporting.service(
        tmp_path,
        OTEL_SERVICE_NAME="zoom",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging",
        OTEL_METRICS_EXPORTER="none",
    ) as zoomgate:
        await zoomgate.connect()
    assert not exporting.receiver.metrics
    assert exporting.receiver.resources[0].items() >= {
        ("service.name", "zoom"),
        ("deployment.environment.name", "staging"),
    }


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
async def test_disabled_exporter_sends_nothing(
    exporting: Exporting, tmp_path: Path, variables: dict[str, str]
) -> None:
    async with exporting.service(tmp_path, OTEL_METRICS_EXPORTER="none", **variables) as zoomgate:
        await zoomgate.connect()
        await create_meeting(zoomgate, SAMPLED)
    assert not exporting.receiver.bodies


async def test_invalid_variable_of_the_library_prevents_the_start(
    exporting: Exporting, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="OTEL_… variable: max_queue_size must be a positive integer"):
        async with exporting.service(tmp_path, OTEL_BSP_MAX_QUEUE_SIZE="0"):
            pass


async def test_unreachable_collector_is_logged_as_an_error(
    exporting: Exporting, tmp_path: Path, log: LogStream
) -> None:
    """The library logs warnings about its attempts, and an error once it gives up."""
    start = len(log.getvalue())
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    async with exporting.service(
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_TIMEOUT="2",
        OTEL_METRICS_EXPORTER="none",
    ) as zoomgate:
        await zoomgate.connect()
    lines = [json.loads(line) for line in log.getvalue()[start:].splitlines()]
    levels = [line["level"] for line in lines if line.get("source", "").startswith("opentelemetry.")]
    assert levels == ["warning", "error"]


async def test_failing_collector_does_not_disturb_calls(
    exporting: Exporting, tmp_path: Path, log: LogStream
) -> None:
    """Each exporter logs the failure once, although every export fails."""
    start = len(log.getvalue())
    exporting.receiver.status = 400
    async with exporting.service(
        tmp_path, OTEL_BSP_SCHEDULE_DELAY="1", OTEL_METRIC_EXPORT_INTERVAL="1"
    ) as zoomgate:
        await zoomgate.connect()
        while len(exporting.receiver.bodies) < 20:
            await create_meeting(zoomgate)
    lines = [json.loads(line) for line in log.getvalue()[start:].splitlines()]
    sources = [line["source"] for line in lines if line.get("source", "").startswith("opentelemetry.")]
    assert sorted(sources) == [
        "opentelemetry.exporter.otlp.proto.http.metric_exporter",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    ]
