"""Tests for authentication and authorization."""

import itertools
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.harness import (
    CALLERS,
    MONICA,
    OMAR,
    Harness,
    RpcError,
    browser,
    caller_key,
    consent,
    metadata,
    running,
)
from zoomgate.v1 import auth_service_pb2, meetings_service_pb2, proxy_service_pb2, registrants_service_pb2
from zoomgate_server.identity import Role
from zoomgate_server.rpc.middleware.access_policy import METHOD_POLICY

S, M, A = "service", "member", "admin"
ALLOWED_ROLES = {
    "AuthService.BeginAuthorization": {S, M},
    "AuthService.CompleteAuthorization": {S, M},
    "AuthService.GetAuthorization": {S, M},
    "AuthService.CreateToken": {S, M},
    "AuthService.GetToken": {S},
    "AuthService.RefreshToken": {S},
    "AuthService.RequestToken": {S},
    "AuthService.ImportConnection": {S, A},
    "AuthService.CheckToken": {S, M},
    "AuthService.ValidateUser": {S, M},
    "AuthService.GetConnection": {S, M, A},
    "AuthService.ListConnections": {S, A},
    "AuthService.DeleteConnection": {S, M, A},
    "AuthService.WatchConnections": {S, A},
    "MeetingsService.CreateMeeting": {S, M},
    "MeetingsService.GetMeeting": {S, M},
    "MeetingsService.ListMeetings": {S, M},
    "MeetingsService.UpdateMeeting": {S, M},
    "MeetingsService.DeleteMeeting": {S, M},
    "MeetingsService.RecoverMeeting": {S, M},
    "MeetingsService.EndMeeting": {S, M},
    "MeetingsService.GetMeetingInvitation": {S, M},
    "MeetingsService.GetPastMeeting": {S, M},
    "MeetingsService.ListPastInstances": {S, M},
    "MeetingsService.ListPastParticipants": {S, M},
    "RegistrantsService.AddRegistrant": {S, M},
    "RegistrantsService.ListRegistrants": {S, M},
    "RegistrantsService.GetRegistrant": {S, M},
    "RegistrantsService.UpdateRegistrantStatus": {S, M},
    "RegistrantsService.DeleteRegistrant": {S, M},
    "ProxyService.Get": {S},
    "ProxyService.Delete": {S},
    "ProxyService.Post": {S},
    "ProxyService.Patch": {S},
    "ProxyService.Put": {S},
    "ProxyService.ListPages": {S},
    "ProxyService.Download": {S},
}
"""The roles that may call each RPC according to the documentation. Deliberately independent of the code."""

METHODS = {
    f"{service.name}.{method.name}": method
    for module in (auth_service_pb2, meetings_service_pb2, registrants_service_pb2, proxy_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def new_request(name: str, user: str = MONICA) -> object:
    """Return a request of an RPC for a user."""
    request = METHODS[name].input_type._concrete_class()
    if "user_email" in METHODS[name].input_type.fields_by_name:
        request.user_email = user
    return request


def test_every_rpc_has_a_policy() -> None:
    """Policies and documented roles exist for exactly the existing RPCs."""
    rows = {
        path.removeprefix("/zoomgate.v1.").replace("/", ".") for path in METHOD_POLICY if "zoomgate" in path
    }
    assert rows == set(METHODS) == set(ALLOWED_ROLES)


@pytest.mark.parametrize(
    ("name", "caller"), list(itertools.product(ALLOWED_ROLES, ["service", "monica", "admin"]))
)
async def test_role_may_call_exactly_its_rpcs(zoomgate: Harness, name: str, caller: str) -> None:
    role = {"service": S, "monica": M, "admin": A}[caller]
    rejected = False
    try:
        await zoomgate.call(zoomgate.method(name), new_request(name), caller)
    except grpc.aio.AioRpcError as call_error:
        error = RpcError.of(call_error)
        rejected = error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
        assert not rejected or error.metadata["method"] == name
    assert rejected is (role not in ALLOWED_ROLES[name])


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, roles in ALLOWED_ROLES.items()
        if M in roles
        and "user_email" in METHODS[name].input_type.fields_by_name
        and name != "AuthService.ValidateUser"  # this RPC may be called for any user
    ],
)
async def test_member_may_act_only_for_itself(zoomgate: Harness, name: str) -> None:
    """The error does not depend on whether the other user is connected."""
    before = await zoomgate.error_of(zoomgate.method(name), new_request(name, OMAR), "monica")
    await zoomgate.connect(OMAR)
    after = await zoomgate.error_of(zoomgate.method(name), new_request(name, OMAR), "monica")
    assert before == after
    assert before.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


async def test_policy_of_forwarded_member_applies_too(zoomgate: Harness) -> None:
    """The policies of both the caller and the member must allow a call with a member token. Such a call never returns access tokens."""
    await zoomgate.connect(MONICA)
    request = auth_service_pb2.GetConnectionRequest(user_email=MONICA)
    await zoomgate.call(zoomgate.auth.GetConnection, request, "service", "monica")
    for caller, forwarded in (("service", "omar"), ("narrow", "monica"), ("admin", "monica")):
        error = await zoomgate.error_of(zoomgate.auth.GetConnection, request, caller, forwarded)
        assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED"), (caller, forwarded)
    token = auth_service_pb2.GetTokenRequest(user_email=MONICA)
    error = await zoomgate.error_of(zoomgate.auth.GetToken, token, "service", "monica")
    assert error.reason == "CALLER_NOT_ALLOWED"
    error = await zoomgate.error_of(zoomgate.auth.GetConnection, request, "service", "service")
    assert error.short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")


async def error_as_member(
    zoomgate: Harness, name: str, request: object, email: str, caller: str = "service"
) -> RpcError | None:
    """Call an RPC in the name of a member; return the failure, or None."""
    try:
        entries = (*metadata(caller), ("zoomgate-member-email", email))
        call = zoomgate.method(name)(request, metadata=entries, timeout=20)
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else call.read())
    except grpc.aio.AioRpcError as error:
        return RpcError.of(error)
    return None


async def test_service_that_names_a_member_may_act_only_for_this_member(zoomgate: Harness) -> None:
    """The case of the address is ignored, and the service's own policy still applies."""
    await zoomgate.connect(MONICA)
    get = proxy_service_pb2.GetRequest(user_email=MONICA, url="/users/me")
    connection = auth_service_pb2.GetConnectionRequest(user_email=MONICA)
    assert await error_as_member(zoomgate, "ProxyService.Get", get, MONICA) is None
    assert await error_as_member(zoomgate, "AuthService.GetConnection", connection, MONICA.upper()) is None
    for name, request, email, caller in (
        ("ProxyService.Get", get, OMAR, "service"),
        ("AuthService.GetConnection", connection, OMAR, "service"),
        ("AuthService.GetConnection", connection, MONICA, "omars"),
        ("AuthService.GetConnection", connection, MONICA, "admin"),
        ("AuthService.GetConnection", connection, MONICA, "monica"),
        ("ProxyService.Get", get, MONICA, "blind"),
    ):
        error = await error_as_member(zoomgate, name, request, email, caller)
        assert error is not None, (name, email, caller)
        assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED"), (name, email, caller)


@pytest.mark.parametrize(
    "name", [name for name, row in METHOD_POLICY.items() if row.access_tokens or row.refresh_tokens]
)
async def test_service_that_names_a_member_receives_no_tokens(zoomgate: Harness, name: str) -> None:
    method = name.removeprefix("/zoomgate.v1.").replace("/", ".")
    error = await error_as_member(zoomgate, method, new_request(method), MONICA)
    assert error is not None
    assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


async def test_administrator_that_is_also_a_service_has_no_more_rights_in_the_name_of_a_member(
    tmp_path: Path,
) -> None:
    both = replace(CALLERS["service"], roles=frozenset({Role.SERVICE, Role.ADMIN}))
    async with running(tmp_path, callers={"both": both}) as zoomgate:
        for name, user in (("AuthService.ImportConnection", MONICA), ("AuthService.DeleteConnection", OMAR)):
            error = await error_as_member(zoomgate, name, new_request(name, user), MONICA, "both")
            assert error is not None
            assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED"), name


async def test_service_that_names_a_member_lists_only_this_member(zoomgate: Harness) -> None:
    await zoomgate.connect(MONICA)
    await zoomgate.connect(OMAR)
    listed = await zoomgate.auth.ListConnections(
        auth_service_pb2.ListConnectionsRequest(),
        metadata=(*metadata(), ("zoomgate-member-email", OMAR)),
        timeout=20,
    )
    assert [connection.user_email for connection in listed.connections] == [OMAR]


async def test_authorization_of_a_named_member_is_completed_only_for_this_member(zoomgate: Harness) -> None:
    begun = await zoomgate.auth.BeginAuthorization(
        auth_service_pb2.BeginAuthorizationRequest(user_email=MONICA),
        metadata=(*metadata(), ("zoomgate-member-email", MONICA)),
        timeout=20,
    )
    request = auth_service_pb2.GetAuthorizationRequest(state=begun.state)
    assert await error_as_member(zoomgate, "AuthService.GetAuthorization", request, MONICA) is None
    error = await error_as_member(zoomgate, "AuthService.GetAuthorization", request, OMAR)
    assert error is not None
    assert error.short == ("INVALID_ARGUMENT", "INVALID_STATE")
    assert (await zoomgate.error_of(zoomgate.auth.GetAuthorization, request)).reason == "INVALID_STATE"


async def test_named_member_is_the_member_who_has_a_key_with_the_address(zoomgate: Harness) -> None:
    """The service can also forward the member's key, and the member can use the connection without the service."""
    begun = await zoomgate.auth.BeginAuthorization(
        auth_service_pb2.BeginAuthorizationRequest(user_email=MONICA),
        metadata=(*metadata(), ("zoomgate-member-email", MONICA)),
        timeout=20,
    )
    request = auth_service_pb2.GetAuthorizationRequest(state=begun.state)
    await zoomgate.call(zoomgate.auth.GetAuthorization, request, member_token="monica")
    for caller, member_token in (("monica", ""), ("blind", "monica"), ("service", "omar")):
        error = await zoomgate.error_of(zoomgate.auth.GetAuthorization, request, caller, member_token)
        assert error.reason == "INVALID_STATE", (caller, member_token)
    async with browser() as session:
        await consent(session, begun.authorization_url, MONICA)
    meetings = meetings_service_pb2.ListMeetingsRequest(user_email=MONICA)
    await zoomgate.call(zoomgate.meetings.ListMeetings, meetings, "monica")


@pytest.mark.parametrize(
    ("user", "valid", "reason"),
    [(MONICA, True, ""), (OMAR, False, "Email addresses do not match")],
)
async def test_named_member_is_validated(zoomgate: Harness, user: str, valid: bool, reason: str) -> None:
    validation = await zoomgate.auth.ValidateUser(
        auth_service_pb2.ValidateUserRequest(user_email=user),
        metadata=(*metadata(), ("zoomgate-member-email", MONICA)),
        timeout=20,
    )
    assert (validation.valid, validation.reason) == (valid, reason)


async def test_access_token_requires_permission(zoomgate: Harness) -> None:
    request = auth_service_pb2.GetTokenRequest(user_email=MONICA)
    assert (await zoomgate.error_of(zoomgate.auth.GetToken, request, "blind")).reason == "CALLER_NOT_ALLOWED"


async def test_service_is_limited_to_its_users_and_methods(zoomgate: Harness) -> None:
    token = auth_service_pb2.GetTokenRequest(user_email=MONICA)
    assert (await zoomgate.error_of(zoomgate.auth.GetToken, token, "narrow")).reason == "CALLER_NOT_ALLOWED"
    connection = auth_service_pb2.GetConnectionRequest(user_email=OMAR)
    assert (
        await zoomgate.error_of(zoomgate.auth.GetConnection, connection, "narrow")
    ).reason == "CALLER_NOT_ALLOWED"


async def test_member_cannot_access_connection_of_a_different_member(zoomgate: Harness) -> None:
    """A connection belongs to the member who started the authorization, not to every member with the same address."""
    await zoomgate.connect(MONICA, "monica")
    impostor = CALLERS["monica"].__class__(
        name="monica-2",
        roles=CALLERS["monica"].roles,
        email=MONICA,
        issuer="key",
        subject="another-member",
    )
    other = zoomgate.data_dir / "other"
    callers = {"monica": CALLERS["monica"], "impostor": impostor, "service": CALLERS["service"]}
    async with running(other, callers=callers) as second:
        await second.connect(MONICA, "monica")
        request = auth_service_pb2.GetConnectionRequest(user_email=MONICA)
        await second.call(second.auth.GetConnection, request, "monica")
        error = await second.error_of(second.auth.GetConnection, request, "impostor")
        assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (("authorization", "Basic abc"),),
        (("authorization", "Bearer  two-spaces-0123456789"),),
        (("authorization", f"Bearer {caller_key('service')} "),),
        (("authorization", f"Bearer {caller_key('service')}x"),),
        (("authorization", caller_key("service")),),
        (("authorization", ""),),
        (
            ("authorization", f"Bearer {caller_key('service')}"),
            ("authorization", f"Bearer {caller_key('service')}"),
        ),
        (("authorization", "Bearer "),),
        (*metadata(), ("zoomgate-member-token", "x")),
        (*metadata("service", "monica"), ("zoomgate-member-token", caller_key("monica"))),
        (*metadata(), ("zoomgate-member-email", MONICA), ("zoomgate-member-email", MONICA)),
        (*metadata("service", "monica"), ("zoomgate-member-email", MONICA)),
    ],
)
async def test_malformed_credential_is_rejected(
    zoomgate: Harness, entries: tuple[tuple[str, str], ...]
) -> None:
    """The error is the same for every kind of malformed credential."""
    with pytest.raises(grpc.aio.AioRpcError) as exc_info:
        await zoomgate.auth.ListConnections(
            auth_service_pb2.ListConnectionsRequest(), metadata=entries, timeout=5
        )
    error = RpcError.of(exc_info.value)
    assert error.short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")
    assert error.message == "The credential is missing or invalid"
    assert error.details == ("ErrorInfo",)


@pytest.mark.parametrize("email", ["", f"{MONICA},{OMAR}", "monica"])
async def test_malformed_member_email_is_named(zoomgate: Harness, email: str) -> None:
    """The credential of the service is valid."""
    call = zoomgate.auth.ValidateUser(
        auth_service_pb2.ValidateUserRequest(),
        metadata=(*metadata(), ("zoomgate-member-email", email)),
        timeout=5,
    )
    with pytest.raises(grpc.aio.AioRpcError) as exc_info:
        await call
    error = RpcError.of(exc_info.value)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error.message.startswith("zoomgate-member-email: ")


async def test_credential_and_policy_are_checked_before_the_encoding(zoomgate: Harness) -> None:
    """A malformed request is UNAUTHENTICATED without a credential, and PERMISSION_DENIED for the wrong role."""
    for path, caller, code in (
        ("/zoomgate.v1.AuthService/GetToken", "", "UNAUTHENTICATED"),
        ("/zoomgate.v1.AuthService/GetToken", "admin", "PERMISSION_DENIED"),
        ("/zoomgate.v1.AuthService/GetToken", "service", "INVALID_ARGUMENT"),
    ):
        raw = zoomgate.channel.unary_unary(path)
        for garbage in (b"\xff\xff\xff", b"\x0a\x02\xc3\x28"):
            with pytest.raises(grpc.aio.AioRpcError) as exc_info:
                await raw(garbage, metadata=metadata(caller), timeout=5)
            error = RpcError.of(exc_info.value)
            assert error.code.name == code
            if code == "INVALID_ARGUMENT":
                assert error.reason == "MALFORMED_REQUEST"


async def test_unknown_method_is_unimplemented(zoomgate: Harness) -> None:
    """The UNIMPLEMENTED error is generated by gRPC itself."""
    with pytest.raises(grpc.aio.AioRpcError) as exc_info:
        await zoomgate.channel.unary_unary("/zoomgate.v1.AuthService/Unknown")(
            b"", metadata=metadata(), timeout=5
        )
    assert exc_info.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_needs_no_credential_but_reflection_does(zoomgate: Harness) -> None:
    health = health_pb2_grpc.HealthStub(zoomgate.channel)
    services = {method.containing_service.full_name for method in METHODS.values()}
    for name in services:
        response = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(zoomgate.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    async def service_names(entries: tuple[tuple[str, str], ...]) -> set[str]:
        async for response in reflection.ServerReflectionInfo(iter([request]), metadata=entries, timeout=5):
            return {service.name for service in response.list_services_response.service}
        return set()

    assert services <= await service_names(metadata("monica"))
    with pytest.raises(grpc.aio.AioRpcError) as exc_info:
        await service_names(())
    assert RpcError.of(exc_info.value).short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [("abc-1.2_X", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("a\\nb", False), ("", False)],
)
async def test_valid_request_id_is_returned_and_invalid_one_replaced(
    zoomgate: Harness, sent: str, accepted: bool
) -> None:
    call = zoomgate.auth.ListConnections(
        auth_service_pb2.ListConnectionsRequest(), metadata=(*metadata(), ("x-request-id", sent)), timeout=5
    )
    await call
    returned = dict(await call.trailing_metadata())["x-request-id"]
    assert (returned == sent) is accepted
    assert returned
