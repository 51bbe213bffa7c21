"""The blocking client alone, against a channel of grpcio-testing: what it sends, what it raises, what it repeats."""

import pickle
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import zoomgate
from zoomgate import Client, errors
from zoomgate._channel import SERVICES
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import connection_pb2, error_reason_pb2
from zoomgate.v1 import meetings_service_pb2 as meetings

AUTH, MEETINGS, _ = SERVICES
GET_TOKEN, GET_CONNECTION, LIST = (
    AUTH.methods_by_name[name] for name in ("GetToken", "GetConnection", "ListConnections")
)
CREATE = MEETINGS.methods_by_name["CreateMeeting"]
KEY = "zgk_canary-key"


@pytest.fixture
def channel() -> grpc_testing.Channel:
    return grpc_testing.channel(SERVICES, grpc_testing.strict_real_time())


@pytest.fixture
def client(channel: grpc_testing.Channel) -> Client:
    return Client(key=KEY, channel=channel)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def answer(
    channel: grpc_testing.Channel,
    method: Any,
    message: Any = None,
    code: grpc.StatusCode = grpc.StatusCode.OK,
    details: str = "",
    trailers: tuple[Any, ...] = (),
) -> tuple[dict[str, str], Any]:
    """Answer the next call of a method; gives its metadata and its request."""
    metadata, request, rpc = channel.take_unary_unary(method)
    rpc.send_initial_metadata(())
    rpc.terminate(message, trailers, code, details)
    return dict(metadata), request


def test_a_call_carries_key_and_request_id(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """The key goes with every call; each has a request id of its own unless the caller brings one; fields become the request."""
    seen = []
    for extra in ((), (), (("x-request-id", "mine"), ("other", "1"))):
        call = pool.submit(client.auth.get_token, user_email="monica@example.com", metadata=extra)
        metadata, request = answer(
            channel, GET_TOKEN, auth.GetTokenResponse(token=auth.Token(access_token="t"))
        )
        assert call.result().token.access_token == "t"
        assert request.user_email == "monica@example.com"
        assert metadata["authorization"] == f"Bearer {KEY}"
        seen.append(metadata["x-request-id"])
    assert seen[2] == "mine"
    assert len(set(seen)) == 3
    assert all(len(request_id) == 28 for request_id in seen[:2])


def test_messages_may_be_dictionaries(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """Nested messages are given as a message or as a dictionary; a request and fields together are refused."""
    call = pool.submit(
        client.meetings.create_meeting, user_email="monica@example.com", meeting_details={"topic": "Talk"}
    )
    _, request = answer(channel, CREATE, meetings.CreateMeetingResponse())
    assert call.result() == meetings.CreateMeetingResponse()
    assert request.meeting_details.topic == "Talk"
    with pytest.raises(TypeError, match="but not both"):
        client.auth.get_token(auth.GetTokenRequest(), user_email="x")
    with pytest.raises(ValueError, match="user_mail"):
        client.auth.get_token(user_mail="x")


def failure_details(reason: str, *more: Any, domain: str = "zoomgate", **metadata: str) -> tuple[Any, ...]:
    """The trailing metadata of a failure."""
    status = status_pb2.Status(code=9, message="m")
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata), *more):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "of-the-server"))


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_NOT_CONNECTED", errors.NotConnected),
        (grpc.StatusCode.NOT_FOUND, "ZOOM_NOT_CONNECTED", errors.NotConnected),
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_REAUTH_REQUIRED", errors.ReauthRequired),
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_SCOPE_MISSING", errors.ScopeMissing),
        (grpc.StatusCode.FAILED_PRECONDITION, "IDENTITY_MISMATCH", errors.ZoomgateError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "ZOOM_RATE_LIMITED", errors.RateLimited),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", errors.RateLimited),
        (grpc.StatusCode.UNKNOWN, "ZOOM_OUTCOME_UNKNOWN", errors.OutcomeUnknown),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", errors.InvalidRequest),
        (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED", errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED", errors.NotAllowed),
        (grpc.StatusCode.NOT_FOUND, "MEETING_NOT_FOUND", errors.NotFound),
        (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT", errors.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, "INTERNAL", errors.ZoomgateError),
    ],
)
def test_a_failure_has_a_class_by_reason_or_code(
    client: Client,
    channel: grpc_testing.Channel,
    pool: ThreadPoolExecutor,
    code: grpc.StatusCode,
    reason: str,
    kind: type[zoomgate.ZoomgateError],
) -> None:
    """Each reason that callers act on has a class; the rest goes by code; all are gRPC's errors too."""
    call = pool.submit(client.auth.get_token, user_email="x")
    answer(channel, GET_TOKEN, code=code, details="sentence", trailers=failure_details(reason))
    error = call.exception()
    assert type(error) is kind
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details(), error.reason) == (code, "sentence", reason)
    assert str(error) == f"{code.name} / {reason}: sentence (request of-the-server)"
    assert isinstance(error.__cause__, grpc.RpcError)


def test_every_detail_of_a_failure_is_read(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """Delay, violations, Zoom's status and code are fields; the whole survives pickling."""
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="a.b", description="send c")]
    )
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
    call = pool.submit(client.auth.get_token, user_email="x")
    trailers = failure_details("ZOOM_REFUSED", bad, retry, http_status="400", zoom_code="300", user="x")
    answer(channel, GET_TOKEN, code=grpc.StatusCode.INVALID_ARGUMENT, details="m", trailers=trailers)
    raised = call.exception()
    for error in (raised, pickle.loads(pickle.dumps(raised))):  # noqa: S301 - our own bytes
        assert isinstance(error, errors.InvalidRequest)
        assert error.retry_delay == 2.5
        assert error.field_violations == (errors.FieldViolation("a.b", "send c"),)
        assert (error.http_status, error.zoom_code) == (400, 300)
        assert error.metadata["user"] == "x"
        assert error.request_id == "of-the-server"


BROKEN_INSIDE = status_pb2.Status(
    details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")]
)


@pytest.mark.parametrize(
    "trailers",
    [
        (),
        (("grpc-status-details-bin", b"\xff\xff"),),
        (("grpc-status-details-bin", BROKEN_INSIDE.SerializeToString()),),
        failure_details("ZOOM_NOT_CONNECTED", domain="other"),
    ],
)
def test_a_status_of_somebody_else_has_no_reason(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor, trailers: tuple[Any, ...]
) -> None:
    """Without details of ours, or with broken ones, code and message stand alone."""
    call = pool.submit(client.auth.get_token, user_email="x")
    answer(channel, GET_TOKEN, code=grpc.StatusCode.UNIMPLEMENTED, details="m", trailers=trailers)
    error = call.exception()
    assert type(error) is errors.ZoomgateError
    assert (error.reason, error.retry_delay, error.field_violations) == ("", None, ())
    assert error.http_status is None


def test_a_cancelled_read_is_repeated(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """A server that stops gracefully cancels calls: those that are safe are repeated, twice at most, under one request id."""
    call = pool.submit(client.auth.get_token, user_email="x")
    first, _ = answer(channel, GET_TOKEN, code=grpc.StatusCode.CANCELLED)
    second, _ = answer(channel, GET_TOKEN, auth.GetTokenResponse())
    assert call.result() == auth.GetTokenResponse()
    assert first["x-request-id"] == second["x-request-id"]
    call = pool.submit(client.auth.get_token, user_email="x")
    for _ in range(3):
        answer(channel, GET_TOKEN, code=grpc.StatusCode.CANCELLED)
    assert call.exception().code() is grpc.StatusCode.CANCELLED


def test_a_cancelled_write_is_not_repeated(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """A meeting may exist already when its call is cancelled: the caller has to know."""
    call = pool.submit(client.meetings.create_meeting, user_email="x")
    answer(channel, CREATE, code=grpc.StatusCode.CANCELLED)
    assert call.exception().code() is grpc.StatusCode.CANCELLED


def test_a_call_whose_time_is_over_is_not_repeated(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """The time covers all tries together."""
    call = pool.submit(client.auth.get_token, user_email="x", timeout=0.04)
    answer(channel, GET_TOKEN, code=grpc.StatusCode.CANCELLED)
    assert isinstance(call.exception(), zoomgate.ZoomgateError)


def test_pages_are_followed(client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor) -> None:
    """All pages come one after the other, and the filter goes with each."""
    state = connection_pb2.Connection.STATE_ACTIVE
    call: Future[list[str]] = pool.submit(
        lambda: [found.user_email for found in client.connections(states=[state])]
    )

    def page(name: str, token: str) -> auth.ListConnectionsResponse:
        return auth.ListConnectionsResponse(
            connections=[connection_pb2.Connection(user_email=name)], next_page_token=token
        )

    _, first = answer(channel, LIST, page("a", "next"))
    _, second = answer(channel, LIST, page("b", ""))
    assert call.result() == ["a", "b"]
    assert (first.page_token, second.page_token) == ("", "next")
    assert list(first.states) == list(second.states) == [state]


def test_waiting_for_a_newer_consent(
    client: Client,
    channel: grpc_testing.Channel,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody unknown, an ended connection and an older consent do not count; another failure ends the waiting."""
    monkeypatch.setattr("zoomgate.client._POLL_SECONDS", 0.01)

    def shown(seconds: int, state: str = "STATE_ACTIVE") -> auth.GetConnectionResponse:
        found = connection_pb2.Connection(state=state, generation=seconds)
        found.consent_time.seconds = seconds
        return auth.GetConnectionResponse(connection=found)

    old = shown(5).connection
    call = pool.submit(client.wait_for_connection, "x", after=old)
    details = failure_details("ZOOM_NOT_CONNECTED")
    answer(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=details)
    answer(channel, GET_CONNECTION, shown(5))
    answer(channel, GET_CONNECTION, shown(6, "STATE_REAUTH_REQUIRED"))
    answer(channel, GET_CONNECTION, shown(6))
    assert call.result().generation == 6
    call = pool.submit(client.wait_for_connection, "x")
    answer(channel, GET_CONNECTION, code=grpc.StatusCode.PERMISSION_DENIED)
    assert isinstance(call.exception(), errors.NotAllowed)
    call = pool.submit(client.wait_for_connection, "x", timeout=0.001)
    answer(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=details)
    with pytest.raises(TimeoutError, match="x did not consent"):
        call.result()


def test_waiting_ends_though_the_service_is_silent(pool: ThreadPoolExecutor) -> None:
    """The time for waiting bounds each question as well, however long calls may take otherwise."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout=3600) as client,
    ):
        waiting = pool.submit(client.wait_for_connection, "x", timeout=0.1)
        assert isinstance(waiting.exception(timeout=20), errors.DeadlineExceeded)


@pytest.mark.parametrize("key", [" canary", "canary\n", "canäry", "can ary", "x" * 4097, "canary\x00"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    """The error says the rule and does not show the key."""
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        Client(key=key)
    assert key not in str(refused.value)


def test_a_client_shows_no_key(client: Client) -> None:
    """Neither the client nor what it holds prints the key."""
    assert "canary" not in repr(client) + repr(client._session) + repr(client.auth.get_token)
    assert repr(client) == "Client('127.0.0.1:50051')"


def test_a_closed_client_says_so(client: Client) -> None:
    """After closing, calls fail before anything is sent."""
    with client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.auth.get_token(user_email="x")


@pytest.mark.parametrize(
    ("target", "plain"),
    [
        ("127.0.0.1:50051", True),
        ("127.9.9.9:1", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("ipv6:[::1]:50051", True),
        ("::1", True),
        ("::1:8080", False),
        ("dns:///localhost:1", True),
        ("unix:/run/zoomgate.sock", True),
        ("zoomgate:50051", False),
        ("dns:///zoomgate:50051", False),
        ("10.0.0.1:50051", False),
        ("localhost.evil.example:1", False),
        ("127.0.0.1.evil.example:1", False),
        ("0.0.0.0:1", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
    ],
)
def test_other_machines_get_tls(target: str, plain: bool) -> None:
    """Without being told, a key crosses a network encrypted only."""
    from zoomgate import _channel  # noqa: PLC0415

    assert (_channel.credentials(target, None, None) is None) is plain
    assert _channel.credentials(target, None, False) is None
    assert _channel.credentials(target, b"pem", None) is not None
    with pytest.raises(ValueError, match="leave one"):
        _channel.credentials(target, b"pem", False)


def test_every_rpc_has_a_method_of_its_type() -> None:
    """Each RPC of the contract is declared once to block and once to await, with its own request and response."""
    for blocking, awaited, descriptor in (
        (zoomgate.services.Auth, zoomgate.services.AsyncAuth, AUTH),
        (zoomgate.services.Meetings, zoomgate.services.AsyncMeetings, MEETINGS),
        (zoomgate.services.Proxy, zoomgate.services.AsyncProxy, SERVICES[2]),
    ):
        for kind in (blocking, awaited):
            declared = {
                name: tuple(one.DESCRIPTOR.name for one in hint.__args__)
                for name, hint in kind.__annotations__.items()
            }
            assert declared == {
                "".join("_" + c.lower() if c.isupper() else c for c in rpc.name).lstrip("_"): (
                    rpc.input_type.name,
                    rpc.output_type.name,
                )
                for rpc in descriptor.methods
            }


def test_only_safe_calls_are_repeated_by_grpc() -> None:
    """The service config names exactly the RPCs whose comment in the contract says that a retry is safe."""
    import json  # noqa: PLC0415
    import re  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from zoomgate._channel import service_config  # noqa: PLC0415

    config = json.loads(service_config())
    named = {f"{row['service']}/{row['method']}" for row in config["methodConfig"][0]["name"]}
    safe = set()
    for proto in (Path(__file__).parents[3] / "proto/zoomgate/v1").glob("*_service.proto"):
        service = re.search(r"^service (\w+)", proto.read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]
        for comment, rpc in re.findall(r"((?:^  //.*\n)+)  rpc (\w+)\(", proto.read_text(), re.MULTILINE):
            assert "Retries: " in comment, rpc
            if "Retries: safe" in comment:
                safe.add(f"zoomgate.v1.{service}/{rpc}")
    assert named == safe
    assert config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_a_service_that_is_back_after_long_is_looked_for_every_few_seconds() -> None:
    """GRPC would wait for up to two minutes between two attempts to connect; who makes the client may choose otherwise."""
    from zoomgate import _channel  # noqa: PLC0415

    longest = "grpc.max_reconnect_backoff_ms"
    assert dict(_channel.options("zoomgate:50051", ()))[longest] == 5000
    assert dict(_channel.options("zoomgate:50051", [(longest, 700)]))[longest] == 700


def test_every_reason_of_the_contract_is_in_a_class() -> None:
    """The classes go by names that the contract has."""
    assert set(errors._BY_REASON) <= {
        name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()
    }
