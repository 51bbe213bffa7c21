"""Who gets in, and as far as where."""

import itertools

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.harness import CALLERS, MONICA, OMAR, Harness, Refusal, key_of, metadata, running
from zoomgate.v1 import auth_service_pb2, meetings_service_pb2, proxy_service_pb2
from zoomgate_server.rpc.middleware.access_policy import METHOD_POLICY

S, M, A = "service", "member", "admin"
WHO = {
    "AuthService.BeginAuthorization": {S, M},
    "AuthService.CompleteAuthorization": {S, M},
    "AuthService.CreateToken": {S, M},
    "AuthService.GetToken": {S},
    "AuthService.RefreshToken": {S},
    "AuthService.RequestToken": {S},
    "AuthService.CheckToken": {S, M},
    "AuthService.ValidateUser": {S, M},
    "AuthService.GetConnection": {S, M, A},
    "AuthService.ListConnections": {S, A},
    "AuthService.DeleteConnection": {S, M, A},
    "AuthService.WatchConnections": {S, A},
    "MeetingsService.CreateMeeting": {S, M},
    "MeetingsService.GetMeeting": {S, M},
    "MeetingsService.DeleteMeeting": {S, M},
    "ProxyService.Get": {S},
    "ProxyService.Delete": {S},
    "ProxyService.Post": {S},
    "ProxyService.Patch": {S},
    "ProxyService.Put": {S},
}
"""Who may call what, as the contract promises; written down a second time on purpose."""

METHODS = {
    f"{service.name}.{method.name}": method
    for module in (auth_service_pb2, meetings_service_pb2, proxy_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def stub_of(zoomgate: Harness, name: str) -> object:
    """The callable of an RPC."""
    service, method = name.split(".")
    stub = {
        "AuthService": zoomgate.auth,
        "MeetingsService": zoomgate.meetings,
        "ProxyService": zoomgate.proxy,
    }
    return getattr(stub[service], method)


def request_of(name: str, user: str = MONICA) -> object:
    """A request of an RPC that names a user."""
    request = METHODS[name].input_type._concrete_class()
    if "user_email" in METHODS[name].input_type.fields_by_name:
        request.user_email = user
    return request


def test_every_rpc_has_a_policy_row_and_is_in_the_promise() -> None:
    """A new RPC without a row or without a promise fails here; so does a row without an RPC."""
    rows = {
        path.removeprefix("/zoomgate.v1.").replace("/", ".") for path in METHOD_POLICY if "zoomgate" in path
    }
    assert rows == set(METHODS) == set(WHO)


@pytest.mark.parametrize(("name", "caller"), list(itertools.product(WHO, ["service", "monica", "admin"])))
async def test_every_role_gets_exactly_its_rpcs(zoomgate: Harness, name: str, caller: str) -> None:
    """A role that may not call an RPC is refused before anything is looked up; one that may gets further."""
    role = {"service": S, "monica": M, "admin": A}[caller]
    code, reason = "", ""
    try:
        await zoomgate.call(stub_of(zoomgate, name), request_of(name), caller)
    except grpc.aio.AioRpcError as error:
        code, reason = Refusal.of(error).short
    refused = (code, reason) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    assert refused is (role not in WHO[name])


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, who in WHO.items()
        if M in who
        and "user_email" in METHODS[name].input_type.fields_by_name
        and name != "AuthService.ValidateUser"  # tells anybody whether two addresses are one
    ],
)
async def test_members_act_for_themselves_alone(zoomgate: Harness, name: str) -> None:
    """A member is refused for everybody else, in the same words whether that user is connected or not."""
    before = await zoomgate.refusal(stub_of(zoomgate, name), request_of(name, OMAR), "monica")
    await zoomgate.connect(OMAR)
    after = await zoomgate.refusal(stub_of(zoomgate, name), request_of(name, OMAR), "monica")
    assert before == after
    assert before.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


async def test_a_forwarded_member_binds_the_call_too(zoomgate: Harness) -> None:
    """With a member's token both policies must allow; no token is handed out in a member's name."""
    await zoomgate.connect(MONICA)
    wanted = auth_service_pb2.GetConnectionRequest(user_email=MONICA)
    await zoomgate.call(zoomgate.auth.GetConnection, wanted, "service", "monica")
    for caller, forwarded in (("service", "omar"), ("narrow", "monica"), ("admin", "monica")):
        refusal = await zoomgate.refusal(zoomgate.auth.GetConnection, wanted, caller, forwarded)
        assert refusal.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED"), (caller, forwarded)
    token = auth_service_pb2.GetTokenRequest(user_email=MONICA)
    refusal = await zoomgate.refusal(zoomgate.auth.GetToken, token, "service", "monica")
    assert refusal.reason == "CALLER_NOT_ALLOWED"
    refusal = await zoomgate.refusal(zoomgate.auth.GetConnection, wanted, "service", "service")
    assert refusal.short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")


async def test_access_tokens_are_for_those_who_may_see_them(zoomgate: Harness) -> None:
    """A service without that right gets no token."""
    wanted = auth_service_pb2.GetTokenRequest(user_email=MONICA)
    assert (await zoomgate.refusal(zoomgate.auth.GetToken, wanted, "blind")).reason == "CALLER_NOT_ALLOWED"


async def test_a_service_is_limited_to_its_users_and_methods(zoomgate: Harness) -> None:
    """A row with users and methods covers nothing else."""
    token = auth_service_pb2.GetTokenRequest(user_email=MONICA)
    assert (await zoomgate.refusal(zoomgate.auth.GetToken, token, "narrow")).reason == "CALLER_NOT_ALLOWED"
    show = auth_service_pb2.GetConnectionRequest(user_email=OMAR)
    assert (
        await zoomgate.refusal(zoomgate.auth.GetConnection, show, "narrow")
    ).reason == "CALLER_NOT_ALLOWED"


async def test_a_connection_of_another_member_stays_closed(zoomgate: Harness) -> None:
    """A connection that a member began belongs to that member: an address alone does not open it to a later holder."""
    await zoomgate.connect(MONICA, "monica")
    impostor = CALLERS["monica"].__class__(
        name="monica-2",
        roles=CALLERS["monica"].roles,
        email=MONICA,
        issuer="key",
        subject="somebody-else",
    )
    other = zoomgate.data_dir / "other"
    callers = {"monica": CALLERS["monica"], "impostor": impostor, "service": CALLERS["service"]}
    async with running(other, callers=callers) as again:
        await again.connect(MONICA, "monica")
        wanted = auth_service_pb2.GetConnectionRequest(user_email=MONICA)
        await again.call(again.auth.GetConnection, wanted, "monica")
        refusal = await again.refusal(again.auth.GetConnection, wanted, "impostor")
        assert refusal.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (("authorization", "Basic abc"),),
        (("authorization", "Bearer  two-spaces-0123456789"),),
        (("authorization", f"Bearer {key_of('service')} "),),
        (("authorization", f"Bearer {key_of('service')}x"),),
        (("authorization", key_of("service")),),
        (("authorization", ""),),
        (("authorization", f"Bearer {key_of('service')}"), ("authorization", f"Bearer {key_of('service')}")),
        (("authorization", "Bearer "),),
        (*metadata(), ("zoomgate-member-token", "x")),
        (*metadata("service", "monica"), ("zoomgate-member-token", key_of("monica"))),
    ],
)
async def test_malformed_credentials_are_refused_alike(
    zoomgate: Harness, entries: tuple[tuple[str, str], ...]
) -> None:
    """Whatever is wrong with a credential, the answer is the same and says nothing else."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await zoomgate.auth.ListConnections(
            auth_service_pb2.ListConnectionsRequest(), metadata=entries, timeout=5
        )
    refusal = Refusal.of(error.value)
    assert refusal.short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")
    assert refusal.message == "The credential is missing or invalid"
    assert refusal.details == ("ErrorInfo",)


async def test_garbage_is_refused_after_credential_and_policy(zoomgate: Harness) -> None:
    """The order is credential, policy, bytes: garbage with a bad credential is UNAUTHENTICATED, then PERMISSION_DENIED."""
    for path, caller, code in (
        ("/zoomgate.v1.AuthService/GetToken", "", "UNAUTHENTICATED"),
        ("/zoomgate.v1.AuthService/GetToken", "admin", "PERMISSION_DENIED"),
        ("/zoomgate.v1.AuthService/GetToken", "service", "INVALID_ARGUMENT"),
    ):
        raw = zoomgate.channel.unary_unary(path)
        for garbage in (b"\xff\xff\xff", b"\x0a\x02\xc3\x28"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await raw(garbage, metadata=metadata(caller), timeout=5)
            refusal = Refusal.of(error.value)
            assert refusal.code.name == code
            if code == "INVALID_ARGUMENT":
                assert refusal.reason == "MALFORMED_REQUEST"


async def test_unknown_methods_are_unimplemented(zoomgate: Harness) -> None:
    """A method that does not exist is answered by gRPC itself."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await zoomgate.channel.unary_unary("/zoomgate.v1.AuthService/Nothing")(
            b"", metadata=metadata(), timeout=5
        )
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_needs_no_credential_and_reflection_does(zoomgate: Harness) -> None:
    """Probes come without a key; looking at the contract needs one."""
    health = health_pb2_grpc.HealthStub(zoomgate.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="zoomgate.v1.AuthService"), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(zoomgate.channel)
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")

    async def names(entries: tuple[tuple[str, str], ...]) -> set[str]:
        async for found in reflection.ServerReflectionInfo(iter([wanted]), metadata=entries, timeout=5):
            return {service.name for service in found.list_services_response.service}
        return set()

    assert "zoomgate.v1.ProxyService" in await names(metadata("monica"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await names(())
    assert Refusal.of(error.value).short == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2_X", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("a\\nb", False), ("", False)],
)
async def test_request_ids_are_taken_over_or_made(zoomgate: Harness, sent: str, kept: bool) -> None:
    """A harmless id comes back in the trailing metadata; any other is replaced."""
    call = zoomgate.auth.ListConnections(
        auth_service_pb2.ListConnectionsRequest(), metadata=(*metadata(), ("x-request-id", sent)), timeout=5
    )
    await call
    answered = dict(await call.trailing_metadata())["x-request-id"]
    assert (answered == sent) is kept
    assert answered
