"""Tests for requests, exceptions and retries of the blocking client, on a grpcio-testing channel."""

import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2, duration_pb2, json_format
from google.rpc import error_details_pb2, status_pb2

import zoomgate
from zoomgate import Client, errors
from zoomgate._channel import SERVICES
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import connection_pb2, error_reason_pb2, meeting_pb2
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import registrants_service_pb2 as registrants

AUTH, MEETINGS, REGISTRANTS, PROXY = SERVICES
GET_TOKEN, GET_CONNECTION, GET_AUTHORIZATION, LIST = (
    AUTH.methods_by_name[name]
    for name in ("GetToken", "GetConnection", "GetAuthorization", "ListConnections")
)
CREATE, LIST_MEETINGS = (MEETINGS.methods_by_name[name] for name in ("CreateMeeting", "ListMeetings"))
LIST_REGISTRANTS = REGISTRANTS.methods_by_name["ListRegistrants"]
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


def respond(
    channel: grpc_testing.Channel,
    method: Any,
    message: Any = None,
    code: grpc.StatusCode = grpc.StatusCode.OK,
    details: str = "",
    trailers: tuple[Any, ...] = (),
) -> tuple[dict[str, str], Any]:
    """Respond to the next call of a method, and return its metadata and request."""
    metadata, request, rpc = channel.take_unary_unary(method)
    rpc.send_initial_metadata(())
    rpc.terminate(message, trailers, code, details)
    return dict(metadata), request


def test_call_sends_key_and_request_id(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """Each call gets a new request ID unless the caller passes one."""
    seen = []
    for extra in ((), (), (("x-request-id", "mine"), ("other", "1"), ("other-bin", b"\xff"))):
        call = pool.submit(client.auth.get_token, user_email="monica@example.com", metadata=extra)
        metadata, request = respond(
            channel, GET_TOKEN, auth.GetTokenResponse(token=auth.Token(access_token="t"))
        )
        assert call.result().token.access_token == "t"
        assert request.user_email == "monica@example.com"
        assert metadata["authorization"] == f"Bearer {KEY}"
        seen.append(metadata["x-request-id"])
    assert seen[2] == "mine"
    assert len(set(seen)) == 3
    assert all(len(request_id) == 28 for request_id in seen[:2])


def test_nested_messages_may_be_dictionaries(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    call = pool.submit(
        client.meetings.create_meeting, user_email="monica@example.com", meeting_details={"topic": "Talk"}
    )
    _, request = respond(channel, CREATE, meetings.CreateMeetingResponse())
    assert call.result() == meetings.CreateMeetingResponse()
    assert request.meeting_details.topic == "Talk"
    with pytest.raises(TypeError, match="but not both"):
        client.auth.get_token(auth.GetTokenRequest(), user_email="x")
    with pytest.raises(ValueError, match="user_mail"):
        client.auth.get_token(user_mail="x")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"user_mail": "x"}, "user_mail is not a field of UpdateMeetingRequest; did you mean user_email?"),
        ({"update_mask": ["topic"]}, """update_mask is invalid; pass a dict such as {"paths": ["topic"]}"""),
        ({"meeting_id": "1"}, "meeting_id is invalid; pass an int of 64 bits"),
        ({"meeting_details": {"duration_minutes": 2**40}},
         "meeting_details.duration_minutes is invalid; pass an int of 32 bits"),
        ({"meeting_details": {"local_start_time": duration_pb2.Duration()}},
         "meeting_details.local_start_time is invalid; pass a str"),
        ({"meeting_details": {"start_time": "2030-01-07T09:00:00Z"}},
         "meeting_details.start_time is invalid; pass a datetime"),
        ({"meeting_details": {"recurrence": {"type": "weekly"}}},
         "meeting_details.recurrence.type is invalid; pass one of TYPE_DAILY, TYPE_WEEKLY, TYPE_MONTHLY"),
        ({"meeting_details": {"tracking_fields": [{}, {"value": 1}]}},
         "meeting_details.tracking_fields[1].value is invalid; pass a str"),
        ({"meeting_details": {"tracking_fields": ["x"]}},
         "meeting_details.tracking_fields is invalid; pass a list, each of whose items is a dict or TrackingField"),
        ({"meeting_details": {"settings": {"waiting_room": "yes"}}},
         "meeting_details.settings.waiting_room is invalid; pass a bool"),
        ({"meeting_details": {"settings": {"alternative_hosts": "omar@example.com"}}},
         "meeting_details.settings.alternative_hosts is invalid; pass a list, each of whose items is a str"),
        ({"meeting_details": {"settings": {"breakout_room": {"rooms": [{}, {"participants": "omar@example.com"}]}}}},
         "meeting_details.settings.breakout_room.rooms[1].participants is invalid; pass a list, each of whose items is a str"),
        ({"update_mask": {"paths": "topic"}},
         "update_mask.paths is invalid; pass a list, each of whose items is a str"),
    ],
)  # fmt: skip
def test_invalid_field_is_named_with_the_expected_type(
    client: Client, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        client.meetings.update_meeting(**fields)
    assert str(raised.value) == problem


@pytest.mark.parametrize("kind", [Client, zoomgate.AsyncClient])
@pytest.mark.parametrize("cache_tokens", [False, True])
@pytest.mark.parametrize("request_", ["monica@example.com", auth.ValidateUserRequest(user_email="x")])
async def test_request_of_a_different_type_is_rejected(kind: Any, cache_tokens: bool, request_: Any) -> None:
    client = kind("127.0.0.1:1", cache_tokens=cache_tokens)
    with pytest.raises(TypeError, match="pass a GetTokenRequest, or its fields by name"):
        await client.auth.get_token(request_)
    with pytest.raises(TypeError, match="pass a WatchConnectionsRequest"):
        client.auth.watch_connections(request_)
    if kind is zoomgate.AsyncClient:
        await client.close()
    else:
        client.close()


def test_struct_may_have_keys_that_are_fields_of_protobuf_messages(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    struct = {"fields": "x", "paths": "y", "values": {"fields": "z"}}
    call = pool.submit(client.meetings.create_meeting, meeting_details={"additional_fields": struct})
    _, request = respond(channel, CREATE, meetings.CreateMeetingResponse())
    assert call.result() == meetings.CreateMeetingResponse()
    assert json_format.MessageToDict(request.meeting_details.additional_fields) == struct


def test_surrogate_is_reported_as_the_character_that_cannot_be_encoded(client: Client) -> None:
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        client.auth.get_token(user_email="\udcff")


def test_invalid_query_parameter_is_named_with_the_expected_type(client: Client) -> None:
    with pytest.raises(TypeError, match=r"^query\[1\]\.value is invalid; pass a str$"):
        list(client.pages("monica@example.com", "/users", query={"status": "active", "page_size": 300}))  # type: ignore[dict-item]


def failure_trailers(
    reason: str, *details: Any, domain: str = "zoomgate", **metadata: str
) -> tuple[Any, ...]:
    """Return the trailing metadata of a failed call."""
    status = status_pb2.Status(code=9, message="m")
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata), *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "server-request-id"))


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_NOT_CONNECTED", errors.NotConnected),
        (grpc.StatusCode.NOT_FOUND, "ZOOM_NOT_CONNECTED", errors.NotConnected),
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_REAUTH_REQUIRED", errors.ReauthRequired),
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_SCOPE_MISSING", errors.ScopeMissing),
        (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_DECLINED", errors.AuthorizationFailed),
        (grpc.StatusCode.FAILED_PRECONDITION, "IDENTITY_MISMATCH", errors.AuthorizationFailed),
        (grpc.StatusCode.FAILED_PRECONDITION, "ZOOM_USER_ALREADY_CONNECTED", errors.AuthorizationFailed),
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
def test_exception_class_follows_reason_or_code(
    client: Client,
    channel: grpc_testing.Channel,
    pool: ThreadPoolExecutor,
    code: grpc.StatusCode,
    reason: str,
    kind: type[zoomgate.ZoomgateError],
) -> None:
    call = pool.submit(client.auth.get_token, user_email="x")
    respond(channel, GET_TOKEN, code=code, details="sentence", trailers=failure_trailers(reason))
    error = call.exception()
    assert type(error) is kind
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details(), error.reason) == (code, "sentence", reason)
    assert str(error) == f"{code.name} / {reason}: sentence (request server-request-id)"
    assert isinstance(error.__cause__, grpc.RpcError)


def test_exception_contains_all_error_details(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """Pickling preserves the details."""
    bad_request = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="a.b", description="send c")]
    )
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
    call = pool.submit(client.auth.get_token, user_email="x")
    trailers = failure_trailers(
        "ZOOM_REFUSED", bad_request, retry, http_status="400", zoom_code="300", user="x"
    )
    respond(channel, GET_TOKEN, code=grpc.StatusCode.INVALID_ARGUMENT, details="m", trailers=trailers)
    raised = call.exception()
    for error in (raised, pickle.loads(pickle.dumps(raised))):  # noqa: S301 - bytes created by this test
        assert isinstance(error, errors.InvalidRequest)
        assert error.retry_delay == 2.5
        assert error.field_violations == (errors.FieldViolation("a.b", "send c"),)
        assert (error.http_status, error.zoom_code) == (400, 300)
        assert error.metadata["user"] == "x"
        assert error.request_id == "server-request-id"


MALFORMED_DETAIL = status_pb2.Status(
    details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")]
)


@pytest.mark.parametrize(
    "trailers",
    [
        (),
        (("grpc-status-details-bin", b"\xff\xff"),),
        (("grpc-status-details-bin", MALFORMED_DETAIL.SerializeToString()),),
        failure_trailers("ZOOM_NOT_CONNECTED", domain="other"),
    ],
)
def test_status_without_valid_zoomgate_details_has_no_reason(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor, trailers: tuple[Any, ...]
) -> None:
    call = pool.submit(client.auth.get_token, user_email="x")
    respond(channel, GET_TOKEN, code=grpc.StatusCode.UNIMPLEMENTED, details="m", trailers=trailers)
    error = call.exception()
    assert type(error) is errors.ZoomgateError
    assert (error.reason, error.retry_delay, error.field_violations) == ("", None, ())
    assert error.http_status is None


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
@pytest.mark.parametrize(
    "details", ["Socket closed", "upstream connect error or disconnect/reset before headers", ""]
)
def test_outcome_of_a_write_is_unknown_if_the_service_did_not_respond(
    client: Client,
    channel: grpc_testing.Channel,
    pool: ThreadPoolExecutor,
    code: grpc.StatusCode,
    details: str,
) -> None:
    """Without a reason, the status is not from the service, and the meeting may have been created."""
    call = pool.submit(client.meetings.create_meeting, user_email="x")
    respond(channel, CREATE, code=code, details=details)
    error = call.exception()
    assert type(error) is errors.OutcomeUnknown
    assert (error.code(), error.reason) == (code, "")


def test_outcome_of_a_write_with_a_too_large_response_is_unknown(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """Zoom has processed the write. A read has no effect that could be repeated."""
    code, trailers = grpc.StatusCode.RESOURCE_EXHAUSTED, failure_trailers("ZOOM_RESPONSE_TOO_LARGE")
    write = pool.submit(client.meetings.create_meeting, user_email="x")
    respond(channel, CREATE, code=code, trailers=trailers)
    assert type(write.exception()) is errors.OutcomeUnknown
    read = pool.submit(client.auth.get_token, user_email="x")
    respond(channel, GET_TOKEN, code=code, trailers=trailers)
    assert type(read.exception()) is errors.ZoomgateError


def test_write_that_the_service_does_not_implement_has_no_effect(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    call = pool.submit(client.meetings.create_meeting, user_email="x")
    respond(channel, CREATE, code=grpc.StatusCode.UNIMPLEMENTED, details="Method not found!")
    assert type(call.exception()) is errors.ZoomgateError


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("SERVER: Received message larger than max (5 vs. 4)", errors.ZoomgateError),
        ("CLIENT: Received message larger than max (5 vs. 4)", errors.OutcomeUnknown),
    ],
)
def test_write_has_no_effect_if_its_request_but_not_its_response_is_too_large(
    client: Client,
    channel: grpc_testing.Channel,
    pool: ThreadPoolExecutor,
    details: str,
    kind: type[zoomgate.ZoomgateError],
) -> None:
    call = pool.submit(client.meetings.create_meeting, user_email="x")
    respond(channel, CREATE, code=grpc.StatusCode.RESOURCE_EXHAUSTED, details=details)
    assert type(call.exception()) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, errors.ZoomgateError),
    ],
)
def test_outcome_of_a_safe_call_does_not_matter(
    client: Client,
    channel: grpc_testing.Channel,
    pool: ThreadPoolExecutor,
    code: grpc.StatusCode,
    kind: type[zoomgate.ZoomgateError],
) -> None:
    call = pool.submit(client.auth.get_token, user_email="x")
    respond(channel, GET_TOKEN, code=code, details="Socket closed")
    assert type(call.exception()) is kind


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "ipv4:127.0.0.1:1,127.0.0.1:2", "unix:/nonexistent/socket", "nowhere.invalid:1"]
)
@pytest.mark.parametrize("policy", ["pick_first", "round_robin"])
def test_write_has_no_effect_if_the_connection_was_never_established(target: str, policy: str) -> None:
    """Also if the name of the service cannot be resolved, or the peer does not speak TLS."""
    options = [("grpc.lb_policy_name", policy)]
    with Client(target, options=options) as unreachable, pytest.raises(errors.ServiceUnavailable) as raised:
        unreachable.meetings.create_meeting(user_email="x")
    assert raised.value.reason == ""


@pytest.mark.parametrize("kind", [Client, zoomgate.AsyncClient])
@pytest.mark.parametrize(
    "target",
    [
        "",
        "127.0.0.1",
        "zoomgate",
        "http://127.0.0.1:50051",
        "https://zoomgate:443",
        "zoomgate:443/",
        ":50051",
        "a:1,b:1",
        "::1",
        "a:b",
    ],
)
async def test_target_that_is_not_an_address_is_rejected(kind: type, target: str) -> None:
    with pytest.raises(ValueError, match="pass HOST:PORT"):
        kind(target)


@pytest.mark.parametrize(
    "target",
    [
        "zoomgate:50051",
        "[::1]:50051",
        "[fe80::1%eth0]:1",
        "dns:///zoomgate",
        "ipv4:127.0.0.1:1,127.0.0.1:2",
        "unix:/run/zoomgate.sock",
    ],
)
def test_target_that_grpc_resolves_is_accepted(target: str) -> None:
    Client(target).close()


@pytest.mark.parametrize("kind", [Client, zoomgate.AsyncClient])
async def test_client_without_a_default_timeout_is_rejected(kind: type) -> None:
    """In a call, None stands for the default timeout, so the client must have one."""
    with pytest.raises(ValueError, match="timeout is None"):
        kind(timeout=None)


@pytest.mark.parametrize("kind", [Client, zoomgate.AsyncClient])
async def test_single_address_is_rejected_as_a_list_of_users_to_watch(kind: Any) -> None:
    """Its letters would be watched."""
    watch = kind("127.0.0.1:1").watch("monica@example.com")
    with pytest.raises(TypeError, match="user_emails is invalid; pass a list"):
        await anext(watch) if kind is zoomgate.AsyncClient else next(watch)


@pytest.mark.parametrize(
    ("metadata", "kind", "problem"),
    [
        ({"x-request-id": "canary"}, TypeError, "pass a list of pairs"),
        ({"ab": "canary"}, TypeError, "pass a list of pairs"),
        (["canary"], TypeError, "pass a list of pairs"),
        ([("x-count", 1)], TypeError, "pass a list of pairs"),
        ([("X-Request-Id", "canary")], ValueError, "'X-Request-Id' is invalid; pass a name of lower-case"),
        ([("x request", "canary")], ValueError, "'x request' is invalid"),
        ([("", "canary")], ValueError, "'' is invalid"),
        ([("x-name", "canary é")], ValueError, "'x-name' is invalid"),
        ([("x-name", "canary\n")], ValueError, "'x-name' is invalid"),
        ([("x-name", b"canary")], ValueError, "'x-name' is invalid"),
        ([("x-bin", "canary")], ValueError, "'x-bin' is invalid"),
    ],
)
def test_invalid_metadata_is_rejected_without_disclosing_values(
    client: Client, metadata: Any, kind: type[Exception], problem: str
) -> None:
    """GRPC would report an internal error, and write it to stderr."""
    for method in (client.auth.get_token, client.auth.watch_connections):
        with pytest.raises(kind, match=problem) as raised:
            method(metadata=metadata)
        assert "canary" not in str(raised.value)


@pytest.mark.parametrize("timeout", ["3", -1, -0.001, float("inf"), float("nan"), 1e10])
def test_invalid_timeout_is_rejected(client: Client, timeout: Any) -> None:
    """GRPC would end the call at once."""
    with pytest.raises(ValueError, match="timeout is"):
        client.auth.get_token(user_email="x", timeout=timeout)
    with pytest.raises(ValueError, match="timeout is"):
        client.auth.watch_connections(timeout=timeout)
    with pytest.raises(ValueError, match="timeout is"):
        client.wait_for_connection("x", timeout=timeout)
    with pytest.raises(ValueError, match="timeout is"):
        Client(timeout=timeout)


def test_connections_fetches_all_pages_with_the_same_filter(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    state = connection_pb2.Connection.STATE_ACTIVE
    call: Future[list[str]] = pool.submit(
        lambda: [connection.user_email for connection in client.connections(states=[state])]
    )

    def page(name: str, token: str) -> auth.ListConnectionsResponse:
        return auth.ListConnectionsResponse(
            connections=[connection_pb2.Connection(user_email=name)], next_page_token=token
        )

    _, first = respond(channel, LIST, page("a", "next"))
    _, second = respond(channel, LIST, page("b", ""))
    assert call.result() == ["a", "b"]
    assert (first.page_token, second.page_token) == ("", "next")
    assert list(first.states) == list(second.states) == [state]


def test_items_of_all_pages_are_fetched_as_needed(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """The request of the caller stays unchanged, and determines the first page and the page size."""
    request = meetings.ListMeetingsRequest(user_email="monica@example.com", page_token="first", page_size=2)
    items = client.meetings.list_meetings.all(request)

    def page(topics: list[str], token: str) -> meetings.ListMeetingsResponse:
        return meetings.ListMeetingsResponse(
            meetings=[meeting_pb2.Meeting(topic=topic) for topic in topics], next_page_token=token
        )

    call = pool.submit(next, items)
    _, first = respond(channel, LIST_MEETINGS, page(["a", "b"], "second"))
    assert [call.result().topic, next(items).topic] == ["a", "b"]  # the second page is not requested yet
    rest = pool.submit(lambda: [meeting.topic for meeting in items])
    _, second = respond(channel, LIST_MEETINGS, page([], "third"))
    _, third = respond(channel, LIST_MEETINGS, page(["c"], ""))
    assert rest.result() == ["c"]
    assert [sent.page_token for sent in (first, second, third)] == ["first", "second", "third"]
    assert {(sent.user_email, sent.page_size) for sent in (first, second, third)} == {
        ("monica@example.com", 2)
    }
    assert request.page_token == "first"


def test_pages_have_the_maximum_size_by_default(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    fields = {"user_email": "monica@example.com", "meeting_id": 1}
    pages = pool.submit(list, client.registrants.list_registrants.pages(**fields))
    _, request = respond(channel, LIST_REGISTRANTS, registrants.ListRegistrantsResponse(total_size=0))
    assert request.page_size == 300
    assert pages.result() == [registrants.ListRegistrantsResponse(total_size=0)]


def test_wait_for_connection_returns_only_a_newer_consent(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """A missing connection, an inactive connection, an older consent and a restart of the service do not end the wait.

    Permanent failures are raised, and temporary ones at the end of the wait.
    """

    def connection_response(seconds: int, state: str = "STATE_ACTIVE") -> auth.GetConnectionResponse:
        connection = connection_pb2.Connection(state=state, generation=seconds)
        connection.consent_time.seconds = seconds
        return auth.GetConnectionResponse(connection=connection)

    old = connection_response(5).connection
    call = pool.submit(client.wait_for_connection, "x", after=old)
    trailers = failure_trailers("ZOOM_NOT_CONNECTED")
    respond(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=trailers)
    respond(channel, GET_CONNECTION, connection_response(5))
    respond(channel, GET_CONNECTION, connection_response(6, "STATE_REAUTH_REQUIRED"))
    for code, reason in (
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED"),
    ):
        respond(channel, GET_CONNECTION, code=code, trailers=failure_trailers(reason) if reason else ())
    respond(channel, GET_CONNECTION, connection_response(6))
    assert call.result().generation == 6
    call = pool.submit(client.wait_for_connection, "x")
    respond(channel, GET_CONNECTION, code=grpc.StatusCode.PERMISSION_DENIED)
    assert isinstance(call.exception(), errors.NotAllowed)
    call = pool.submit(client.wait_for_connection, "x", timeout=0)
    respond(channel, GET_CONNECTION, code=grpc.StatusCode.UNAVAILABLE)
    assert isinstance(call.exception(), errors.ServiceUnavailable)
    call = pool.submit(client.wait_for_connection, "x", timeout=0)
    respond(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=trailers)
    with pytest.raises(TimeoutError, match="x did not consent"):
        call.result()


def test_last_poll_of_a_wait_is_at_its_end(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """The interval of the polls does not shorten the wait."""
    missing = failure_trailers("ZOOM_NOT_CONNECTED")
    started = time.monotonic()
    call = pool.submit(client.wait_for_connection, "x", timeout=0.9)
    for _ in range(2):
        respond(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=missing)
    assert isinstance(call.exception(), TimeoutError)
    assert time.monotonic() - started >= 0.9


def test_wait_ends_at_once_if_no_time_is_left_for_the_requested_delay(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    call = pool.submit(client.wait_for_connection, "x", timeout=60)
    trailers = failure_trailers("SERVER_OVERLOADED", RETRY_IN_AN_HOUR)
    respond(channel, GET_CONNECTION, code=grpc.StatusCode.RESOURCE_EXHAUSTED, trailers=trailers)
    assert isinstance(call.exception(20), errors.RateLimited)


def test_wait_for_connection_continues_after_the_authorization_has_expired(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """The connection may be created at the last moment, and is read first. A state that was never valid ends the wait."""
    missing, invalid = failure_trailers("ZOOM_NOT_CONNECTED"), failure_trailers("INVALID_STATE")
    pending = auth.GetAuthorizationResponse(state=auth.GetAuthorizationResponse.STATE_PENDING)
    active = connection_pb2.Connection(state=connection_pb2.Connection.STATE_ACTIVE)

    def respond_not_connected() -> None:
        respond(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=missing)

    def respond_invalid_state() -> None:
        respond(channel, GET_AUTHORIZATION, code=grpc.StatusCode.INVALID_ARGUMENT, trailers=invalid)

    call = pool.submit(client.wait_for_connection, "x", state="s")
    respond_not_connected()
    respond(channel, GET_AUTHORIZATION, pending)
    respond_not_connected()
    respond_invalid_state()
    respond_not_connected()
    respond(channel, GET_CONNECTION, auth.GetConnectionResponse(connection=active))
    assert call.result() == active
    call = pool.submit(client.wait_for_connection, "x", state="s", timeout=1.5)
    respond_not_connected()
    respond(channel, GET_AUTHORIZATION, pending)
    respond_not_connected()
    respond_invalid_state()
    respond_not_connected()
    assert isinstance(call.exception(), TimeoutError)
    call = pool.submit(client.wait_for_connection, "x", state="s")
    respond(channel, GET_CONNECTION, auth.GetConnectionResponse(connection=active))
    assert call.result() == active
    call = pool.submit(client.wait_for_connection, "x", state="s")
    respond_not_connected()
    respond_invalid_state()
    assert isinstance(call.exception(), errors.InvalidRequest)


def test_failure_with_a_reason_of_a_newer_server_is_raised(
    client: Client, channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    call = pool.submit(client.wait_for_connection, "x", state="s")
    trailers = failure_trailers("ZOOM_NOT_CONNECTED")
    respond(channel, GET_CONNECTION, code=grpc.StatusCode.NOT_FOUND, trailers=trailers)
    failed = auth.GetAuthorizationResponse.STATE_FAILED
    response = auth.GetAuthorizationResponse(state=failed, error_reason=9999, error_message="m")  # type: ignore[arg-type]
    respond(channel, GET_AUTHORIZATION, response)
    with pytest.raises(errors.AuthorizationFailed, match="m") as raised:
        call.result()
    assert raised.value.reason == "9999"


def test_wait_for_connection_times_out_if_the_service_does_not_respond(pool: ThreadPoolExecutor) -> None:
    """The timeout of the wait also limits each call, even if the client's default timeout is longer."""
    with (
        socket.create_server(("127.0.0.1", 0)) as unresponsive,
        Client(f"127.0.0.1:{unresponsive.getsockname()[1]}", timeout=3600) as client,
    ):
        waiting = pool.submit(client.wait_for_connection, "x", timeout=0.1)
        assert isinstance(waiting.exception(timeout=20), errors.DeadlineExceeded)


@pytest.mark.parametrize("key", [" canary", "canary\n", "canäry", "can ary", "x" * 4097, "canary\x00"])
def test_invalid_key_is_rejected_without_disclosing_it(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as raised:
        Client(key=key)
    assert key not in str(raised.value)


def test_repr_does_not_contain_the_key(client: Client) -> None:
    assert "canary" not in repr(client) + repr(client._session) + repr(client.auth.get_token)
    assert repr(client) == "Client('127.0.0.1:50051')"


def test_call_of_a_closed_client_raises_runtime_error(client: Client) -> None:
    with client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.auth.get_token(user_email="x")


class ClosingInterceptor(grpc.UnaryStreamClientInterceptor):
    """Closes a client when a stream begins, as a different thread may do.

    Attributes:
        client: The client.
        calls: The streams.
    """

    client: Client

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Close the client, and begin the stream."""
        self.client.close()
        self.calls.append(continuation(client_call_details, request))
        return self.calls[-1]


def test_stream_that_begins_while_the_client_is_closed_ends() -> None:
    """The caller's channel remains open, and the server does not respond."""
    interceptor = ClosingInterceptor()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.getsockname()[1]}") as channel,
    ):
        interceptor.client = Client(channel=grpc.intercept_channel(channel, interceptor))
        with pytest.raises(RuntimeError, match="this client is closed"):
            next(interceptor.client.watch())
        assert interceptor.calls[0].cancelled()


RETRY_IN_AN_HOUR = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3600))


def test_closing_a_client_ends_the_thread_of_its_token_cache(
    channel: grpc_testing.Channel, pool: ThreadPoolExecutor
) -> None:
    """The watch has failed, and is to be restarted after an hour."""
    client = Client(channel=channel, cache_tokens=True)
    call = pool.submit(client.auth.get_token, user_email="x")
    _, _, watch = channel.take_unary_stream(AUTH.methods_by_name["WatchConnections"])
    watch.send_initial_metadata(())
    watch.terminate(failure_trailers("STORE_UNAVAILABLE", RETRY_IN_AN_HOUR), grpc.StatusCode.UNAVAILABLE, "")
    respond(channel, GET_TOKEN, auth.GetTokenResponse())
    call.result()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "zoomgate-token-cache")
    client.close()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("target", "plain"),
    [
        ("127.0.0.1:50051", True),
        ("127.9.9.9:1", True),
        ("localhost:50051", True),
        ("LocalHost:50051", True),
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
def test_only_local_targets_default_to_plaintext(target: str, plain: bool) -> None:
    from zoomgate import _channel  # noqa: PLC0415

    assert (_channel.credentials(target, None, None) is None) is plain
    assert _channel.credentials(target, None, False) is None
    assert _channel.credentials(target, b"pem", None) is not None
    with pytest.raises(ValueError, match="omit one"):
        _channel.credentials(target, b"pem", False)


def item_types(rpc: Any) -> tuple[str, ...]:
    """Return the type of the items of an RPC that returns a page, and nothing for other RPCs."""
    if "next_page_token" not in rpc.output_type.fields_by_name:
        return ()
    return (rpc.output_type.fields_by_number[1].message_type.name,)


def test_every_rpc_has_a_typed_method_in_both_clients() -> None:
    for blocking, awaited, descriptor in (
        (zoomgate.services.Auth, zoomgate.services.AsyncAuth, AUTH),
        (zoomgate.services.Meetings, zoomgate.services.AsyncMeetings, MEETINGS),
        (zoomgate.services.Registrants, zoomgate.services.AsyncRegistrants, REGISTRANTS),
        (zoomgate.services.Proxy, zoomgate.services.AsyncProxy, PROXY),
    ):
        for kind in (blocking, awaited):
            declared = {
                name: tuple(message.DESCRIPTOR.name for message in hint.__args__)
                for name, hint in kind.__annotations__.items()
            }
            assert declared == {
                "".join("_" + c.lower() if c.isupper() else c for c in rpc.name).lstrip("_"): (
                    rpc.input_type.name,
                    rpc.output_type.name,
                    *item_types(rpc),
                )
                for rpc in descriptor.methods
            }


def test_grpc_retries_exactly_the_rpcs_documented_as_safe() -> None:
    import json  # noqa: PLC0415
    import re  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from zoomgate._channel import service_config  # noqa: PLC0415

    config = json.loads(service_config())
    retried = {f"{row['service']}/{row['method']}" for row in config["methodConfig"][0]["name"]}
    safe = set()
    for proto in (Path(__file__).parents[3] / "proto/zoomgate/v1").glob("*_service.proto"):
        service = re.search(r"^service (\w+)", proto.read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]
        for comment, rpc in re.findall(r"((?:^  //.*\n)+)  rpc (\w+)\(", proto.read_text(), re.MULTILINE):
            assert "Retries: " in comment, rpc
            if "Retries: safe" in comment:
                safe.add(f"zoomgate.v1.{service}/{rpc}")
    assert retried == safe
    assert config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]


def test_reconnect_backoff_is_limited_to_five_seconds() -> None:
    """By default, gRPC waits up to two minutes before it reconnects. Callers can override the client's limit."""
    from zoomgate import _channel  # noqa: PLC0415

    option = "grpc.max_reconnect_backoff_ms"
    assert dict(_channel.options("zoomgate:50051", ()))[option] == 5000
    assert dict(_channel.options("zoomgate:50051", [(option, 700)]))[option] == 700


def test_reasons_with_an_exception_class_exist_in_the_api() -> None:
    assert set(errors._BY_REASON) <= {
        name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()
    }
