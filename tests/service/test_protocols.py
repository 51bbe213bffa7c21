"""Every RPC over gRPC, and over the Connect protocol with JSON and with binary messages: the same responses, errors and effects."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from yarl import URL

from support.connect_channel import PROTOCOLS, over
from support.harness import (
    BASIL,
    CALLERS,
    MONICA,
    OMAR,
    Harness,
    RpcError,
    browser,
    consent_form,
    metadata,
    running,
    service,
)
from support.typed_rpcs import EXAMPLES
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1 import registrants_service_pb2 as registrants

pytestmark = pytest.mark.asyncio(loop_scope="module")

REDIRECT_URI = "http://127.0.0.1:9/zoom"
"""URL of a page of a caller. No server is required, since the test reads the redirect without following it."""

METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for module in (auth, meetings, proxy, registrants)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.server_streaming
}
"""The unary RPCs by `Service.Method`."""

USER = {"userEmail": MONICA}
RESPONSE = {"response": {"status": 200, "json": {"email": MONICA}}}


class Case(NamedTuple):
    """An RPC: the fields of a request, or a function that prepares them, and a part of the response. `...` is any value."""

    request: dict[str, Any] | Callable[[Harness], Awaitable[dict[str, Any]]]
    response: dict[str, Any]


def refresh_token(zoomgate: Harness, user: str) -> str:
    """Return a refresh token of a new consent of a user."""
    return str(zoomgate.simulator.zoom.exchange(code(zoomgate, user), REDIRECT_URI, "")["refresh_token"])


def code(zoomgate: Harness, user: str) -> str:
    """Return a code of a new consent of a user."""
    zoom = zoomgate.simulator.zoom
    return str(zoom.issue_code(zoom.users[user], REDIRECT_URI))


async def state(zoomgate: Harness) -> dict[str, Any]:
    return {"state": (await zoomgate.begin_authorization(OMAR)).state}


async def callback_url(zoomgate: Harness) -> dict[str, Any]:
    """Consent as Omar, and return the URL of the redirect."""
    started = await zoomgate.begin_authorization(OMAR, options={"page": "/book"})
    async with browser() as session:
        action, fields = await consent_form(session, started.authorization_url)
        data = fields | {"user": OMAR, "decision": "allow"}
        async with session.post(action, data=data, allow_redirects=False) as response:
            return {"callbackUrl": str(URL(response.headers["Location"]))}


async def new_code(zoomgate: Harness) -> dict[str, Any]:
    return {"userEmail": OMAR, "code": code(zoomgate, OMAR)}


async def new_refresh_token(zoomgate: Harness) -> dict[str, Any]:
    return {"userEmail": OMAR, "refreshToken": refresh_token(zoomgate, OMAR)}


async def meeting(zoomgate: Harness) -> dict[str, Any]:
    request = meetings.CreateMeetingRequest(user_email=MONICA, meeting_details={"topic": "Review"})
    created = await zoomgate.call(zoomgate.meetings.CreateMeeting, request)
    return USER | {"meetingId": str(created.meeting.id)}


async def connected(zoomgate: Harness) -> dict[str, Any]:
    """Connect Basil."""
    request = auth.RequestTokenRequest(user_email=BASIL, refresh_token=refresh_token(zoomgate, BASIL))
    await zoomgate.call(zoomgate.auth.RequestToken, request)
    return {"userEmail": BASIL}


async def meeting_path(zoomgate: Harness) -> dict[str, Any]:
    return USER | {"url": f"/meetings/{(await meeting(zoomgate))['meetingId']}"}


async def new_topic(zoomgate: Harness) -> dict[str, Any]:
    return await meeting_path(zoomgate) | {"json": {"topic": "Plan"}}


async def end_of_meeting(zoomgate: Harness) -> dict[str, Any]:
    path = await meeting_path(zoomgate)
    return USER | {"url": f"{path['url']}/status", "raw": "eyJhY3Rpb24iOiJlbmQifQ=="}


CASES = {
    "AuthService.BeginAuthorization": Case(
        {"userEmail": OMAR, "options": {"a": [1.5, None, {"b": "ü"}]}},
        {"authorizationUrl": ..., "state": ..., "expireTime": ...},
    ),
    "AuthService.CompleteAuthorization": Case(
        callback_url, {"userEmail": OMAR, "options": {"page": "/book"}, "connection": {"userEmail": OMAR}}
    ),
    "AuthService.GetAuthorization": Case(state, {"state": "STATE_PENDING", "expireTime": ...}),
    "AuthService.CreateToken": Case(new_code, {"success": True, "token": {"accessToken": ...}}),
    "AuthService.GetToken": Case(
        USER | {"minValidity": "300.5s"}, {"token": {"tokenType": "bearer", "expiresIn": ...}}
    ),
    "AuthService.RefreshToken": Case(USER, {"token": {"generation": ..., "refreshToken": ...}}),
    "AuthService.RequestToken": Case(new_refresh_token, {"token": {"accessToken": ...}}),
    "AuthService.ImportConnection": Case(
        new_refresh_token, {"outcome": ..., "connection": {"userEmail": OMAR}}
    ),
    "AuthService.CheckToken": Case(
        {"facts": {"expiresIn": "3600", "updateTime": "2026-01-01T00:00:00Z"}},
        {"expired": True, "expireTime": "2026-01-01T01:00:00Z"},
    ),
    "AuthService.ValidateUser": Case(USER, {"reason": "Member is not logged in"}),
    "AuthService.GetConnection": Case(USER, {"connection": {"state": "STATE_ACTIVE", "userEmail": MONICA}}),
    "AuthService.ListConnections": Case({"pageSize": 1, "states": ["STATE_ACTIVE"]}, {"connections": ...}),
    "AuthService.DeleteConnection": Case(connected, {"connection": {"state": "STATE_DISCONNECTED"}}),
    "ProxyService.Get": Case(USER | {"url": "/users/me", "parseJson": True}, RESPONSE),
    "ProxyService.Post": Case(
        USER | {"url": "/users/me/meetings", "json": {"topic": "Review"}, "parseJson": True},
        {"response": {"status": 201, "body": ..., "json": {"topic": "Review"}}},
    ),
    "ProxyService.Patch": Case(new_topic, {"response": {"status": 204}}),
    "ProxyService.Put": Case(end_of_meeting, {"response": {"status": 204}}),
    "ProxyService.Delete": Case(meeting_path, {"response": {"status": 204}}),
}
"""The main case of every unary RPC that is not in `EXAMPLES`."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PROTOCOLS)
async def protocol(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Harness, Harness]]:
    """Run a service with a connected user; yield it with stubs that use gRPC, and with stubs that use the protocol."""
    callers = CALLERS | {"idle": service("idle", methods=frozenset())}
    environ = {"ZOOMGATE_REDIRECT_URI": REDIRECT_URI, "ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    async with (
        running(tmp_path_factory.mktemp("data"), environ=environ, callers=callers) as zoomgate,
        over(request.param, zoomgate) as stubs,
    ):
        await connect(zoomgate)
        yield zoomgate, stubs


async def connect(zoomgate: Harness) -> None:
    token = refresh_token(zoomgate, MONICA)
    request = auth.RequestTokenRequest(user_email=MONICA, refresh_token=token)
    await zoomgate.call(zoomgate.auth.RequestToken, request)


def request_of(name: str, **fields: Any) -> Any:
    """Return a request. Fields that the RPC does not have are left out."""
    message = GetMessageClass(METHODS[name].input_type)()
    return json_format.ParseDict(fields, message, ignore_unknown_fields=True)


def contains(actual: Any, expected: Any) -> bool:
    """Return whether a response contains the expected values."""
    if expected is ...:
        return actual is not None
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(contains(actual.get(key), expected[key]) for key in expected)
    return bool(actual == expected)


def audit(zoomgate: Harness, request_id: str) -> list[dict[str, Any]]:
    """Return the audit entries of a call."""
    text = (zoomgate.data_dir / "audit.jsonl").read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text.splitlines()]
    return [entry for entry in entries if entry.get("request_id") == request_id]


async def error_of(stubs: Harness, name: str, caller: str = "service", **fields: Any) -> RpcError:
    return await stubs.error_of(stubs.method(name), request_of(name, **fields), caller)


async def test_every_unary_rpc_has_a_case() -> None:
    assert CASES.keys() | EXAMPLES.keys() == METHODS.keys()


@pytest.mark.parametrize("name", CASES)
async def test_rpc_returns_its_response(protocol: tuple[Harness, Harness], name: str) -> None:
    zoomgate, stubs = protocol
    case = CASES[name]
    fields = case.request if isinstance(case.request, dict) else await case.request(zoomgate)
    response = await stubs.call(stubs.method(name), request_of(name, **fields))
    assert contains(json_format.MessageToDict(response), case.response), response


@pytest.mark.parametrize("name", METHODS)
async def test_caller_without_a_credential_is_rejected(protocol: tuple[Harness, Harness], name: str) -> None:
    _, stubs = protocol
    error = await error_of(stubs, name, caller="", **USER)
    assert error.short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")


@pytest.mark.parametrize("name", METHODS)
async def test_caller_without_permission_is_rejected(protocol: tuple[Harness, Harness], name: str) -> None:
    _, stubs = protocol
    error = await error_of(stubs, name, caller="idle", **USER)
    assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    assert error.metadata == {"method": name}


async def test_rejected_call_is_audited(protocol: tuple[Harness, Harness]) -> None:
    """The entry contains the caller and the address from which it called."""
    zoomgate, stubs = protocol
    request = auth.GetTokenRequest(user_email=MONICA)
    with pytest.raises(grpc.aio.AioRpcError):
        await stubs.auth.GetToken(request, metadata=(*metadata("narrow"), ("x-request-id", "rejected")))
    (entry,) = audit(zoomgate, "rejected")
    assert (entry["action"], entry["principal"], entry["user"]) == ("call.rejected", "narrow", MONICA)
    assert entry["method"] == "AuthService.GetToken"
    assert "127.0.0.1" in entry["details"]["peer"]


WITH_USER = [name for name, method in METHODS.items() if "user_email" in method.input_type.fields_by_name]


@pytest.mark.parametrize("name", WITH_USER)
async def test_invalid_user_is_rejected(protocol: tuple[Harness, Harness], name: str) -> None:
    _, stubs = protocol
    error = await error_of(stubs, name, userEmail="monica", url="/users/me")
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "user_email" in error.violations


async def test_violations_have_paths_of_the_proto_files(protocol: tuple[Harness, Harness]) -> None:
    _, stubs = protocol
    details = {"durationMinutes": -1, "recurrence": {"endTimes": -1}, "trackingFields": [{}]}
    error = await error_of(stubs, "MeetingsService.CreateMeeting", **USER, meetingDetails=details)
    paths = [
        "meeting_details.duration_minutes",
        "meeting_details.recurrence.end_times",
        "meeting_details.tracking_fields[0].field",
    ]
    assert set(paths) <= error.violations.keys()
    assert set(paths) <= set(error.metadata["fields"].split(","))
    assert all(f"{path}: " in error.message for path in paths)


@pytest.mark.parametrize("name", [*WITH_USER, "AuthService.BeginAuthorization"])
async def test_other_user_is_not_allowed(protocol: tuple[Harness, Harness], name: str) -> None:
    if name == "AuthService.ValidateUser":  # reveals only whether two addresses are equal
        return
    _, stubs = protocol
    error = await error_of(stubs, name, caller="omars", **USER)
    assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


@pytest.mark.parametrize(
    "name",
    [name for name in METHODS if not name.startswith("AuthService.")]
    + ["AuthService.GetToken", "AuthService.RefreshToken", "AuthService.CheckToken"],
)
async def test_user_without_a_connection_is_reported(protocol: tuple[Harness, Harness], name: str) -> None:
    _, stubs = protocol
    fields = {"userEmail": "nobody@example.com", "url": "/users/me", "json": {}}
    if name in EXAMPLES:
        fields |= EXAMPLES[name].request
    error = await error_of(stubs, name, **fields)
    assert error.short == ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")
    assert error.details == ("ErrorInfo", "PreconditionFailure")


async def test_details_of_an_error_of_zoom_are_returned(protocol: tuple[Harness, Harness]) -> None:
    _, stubs = protocol
    error = await error_of(stubs, "MeetingsService.GetMeeting", **USER, meetingId="1")
    assert error.short == ("NOT_FOUND", "MEETING_NOT_FOUND")
    assert error.metadata["zoom_code"] == "3001"


async def test_rate_limit_of_zoom_has_a_delay(protocol: tuple[Harness, Harness]) -> None:
    zoomgate, stubs = protocol
    zoomgate.simulator.faults.add(Fault("meetings", "rate_limit_qps"))
    error = await error_of(stubs, "ProxyService.Post", **USER, url="/users/me/meetings", json={})
    assert error.code.name == "RESOURCE_EXHAUSTED"
    assert error.retry_after is not None


async def test_request_id_of_the_caller_is_returned_and_audited(protocol: tuple[Harness, Harness]) -> None:
    zoomgate, stubs = protocol
    entry = ("x-request-id", "my-request")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.auth.GetToken(auth.GetTokenRequest(), metadata=(*metadata(), entry))
    assert entry in tuple(caught.value.trailing_metadata())
    await stubs.auth.GetToken(auth.GetTokenRequest(user_email=MONICA), metadata=(*metadata(), entry))
    assert [row["action"] for row in audit(zoomgate, "my-request")] == ["token.returned"]


async def test_member_token_is_forwarded(protocol: tuple[Harness, Harness]) -> None:
    _, stubs = protocol
    request = auth.ValidateUserRequest(user_email=MONICA)
    assert (await stubs.call(stubs.auth.ValidateUser, request, "monica")).valid
    error = await stubs.error_of(
        stubs.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA), member_token="omar"
    )
    assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


async def test_deadline_of_the_caller_limits_the_call(protocol: tuple[Harness, Harness]) -> None:
    """The time that remains is not sufficient for a request to Zoom."""
    _, stubs = protocol
    request = meetings.CreateMeetingRequest(user_email=MONICA)
    error = await stubs.error_of(stubs.meetings.CreateMeeting, request, seconds=0.15)
    assert error.code.name == "DEADLINE_EXCEEDED"


async def test_call_whose_deadline_has_passed_is_not_made(protocol: tuple[Harness, Harness]) -> None:
    zoomgate, stubs = protocol
    entries = (*metadata(), ("x-request-id", "too-late"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.auth.GetToken(auth.GetTokenRequest(user_email=MONICA), metadata=entries, timeout=-1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not audit(zoomgate, "too-late")


async def test_concurrent_calls_do_not_share_a_context(protocol: tuple[Harness, Harness]) -> None:
    _, stubs = protocol
    callers = ["monica", "omar", "service", "monica"] * 10
    request = auth.ValidateUserRequest(user_email=MONICA)
    responses = await asyncio.gather(
        *(stubs.call(stubs.auth.ValidateUser, request, caller) for caller in callers)
    )
    assert [response.valid for response in responses] == [caller == "monica" for caller in callers]
