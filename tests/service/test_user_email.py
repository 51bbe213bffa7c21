"""Tests for the addresses in requests: the case of ASCII letters is ignored, and nothing else is repaired."""

import re
from typing import Any

import pytest
from google.protobuf.message import Message

from support import typed_rpcs
from support.command_line import command, stderr_of, stdout_of
from support.harness import OMAR, Harness, browser, caller_key, consent
from zoomgate.v1 import auth_service_pb2, meetings_service_pb2, proxy_service_pb2, registrants_service_pb2
from zoomgate.v1 import auth_service_pb2 as pb

SHOUTED = "OMAR@Example.COM"
INVALID = {
    "": "is required",
    "monica": "exactly one @",
    "monica@@example.com": "exactly one @",
    "monica@example.com@example.com": "exactly one @",
    "monica@example.com,omar@example.com": "exactly one @",
    "a" * 244 + "@example.com": "contains 256 characters",
    "mon ica@example.com": "space or control character",
    " monica@example.com": "space or control character",
    "monica@example.com\n": "space or control character",
    "monica@example.com\x00": "space or control character",
    "\u212aate@example.com": "U+212A",  # Kelvin sign; lower case is k
    "\u0130smail@example.com": "U+0130",  # I with dot above; lower case is i and a combining dot
    "\u017fam@example.com": "U+017F",  # long s; upper case is S
    "\uff2bate@example.com": "U+FF2B",  # full-width K; NFKC is K
    "kate\uff20example.com": "U+FF20",  # full-width @
    "kate@example\uff0ecom": "U+FF0E",  # full-width full stop
    "\u0430dmin@example.com": "U+0430",  # Cyrillic a
    '"monica"@example.com': "local part",
    "mon,ica@example.com": "local part",
    ".monica@example.com": "local part",
    "mon..ica@example.com": "local part",
    "@example.com": "local part",
    "monica@": "not a host name",
    "monica@[127.0.0.1]": "not a host name",
    "monica@127.0.0.1": "not a host name",
    "monica@localhost": "not a host name",
    "monica@-example.com": "not a host name",
    "monica@exa_mple.com": "not a host name",
    "monica@example,com": "not a host name",
    '{"$gt":""}': "exactly one @",
}
"""Invalid addresses with words from the error message."""

METHODS = {
    f"{service.name}.{method.name}": method
    for module in (auth_service_pb2, meetings_service_pb2, registrants_service_pb2, proxy_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if {"user_email", "user_emails"} & set(method.input_type.fields_by_name)
}
"""The RPCs with an address in the request."""


@pytest.mark.parametrize("address", INVALID)
async def test_invalid_address_is_rejected_with_a_remedy(zoomgate: Harness, address: str) -> None:
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=address))
    assert rejection.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert INVALID[address] in rejection.violations["user_email"]
    assert "; use" in rejection.violations["user_email"]
    shown = address if len(address) <= 64 else f"{address[:64]}…"
    assert not address or rejection.message.endswith(f"; got {shown!r}")


@pytest.mark.parametrize(
    "secret",
    ["eyJhbGciOiJIUzUxMiJ9." + "x" * 700, "obBEe8ewaL_KdYKjnimT4KPd8KKdQt9FQ", "x" * 1_000_000],
    ids=["token", "code", "1 MB"],
)
async def test_rejected_text_that_could_be_a_secret_is_not_shown(zoomgate: Harness, secret: str) -> None:
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=secret))
    assert rejection.reason == "INVALID_FIELD"
    assert secret[:20] not in rejection.message + str(rejection.violations)


@pytest.mark.parametrize("name", METHODS)
async def test_every_rpc_shows_the_invalid_address(zoomgate: Harness, name: str) -> None:
    """If a request contains several addresses, the error names the field as well."""
    service, _, method = name.partition(".")
    fields = METHODS[name].input_type.fields_by_name
    invalid = "mon ica@example.com"
    values: dict[str, Any] = (
        {"user_email": invalid} if "user_email" in fields else {"user_emails": [OMAR, invalid]}
    )
    if "zoom_email" in fields:
        values["zoom_email"] = "zo om@example.com"
    stub = zoomgate.channel.unary_unary(f"/zoomgate.v1.{service}/{method}")
    request = METHODS[name].input_type._concrete_class(**values)
    error = await zoomgate.error_of(stub, request.SerializeToString())
    text = " ".join(f"{field} {violation}" for field, violation in error.violations.items())
    assert re.search(rf"user_emails?(\[1\])? .*{invalid!r}", text)
    assert ("'zo om@example.com'" in text) is ("zoom_email" in fields)


@pytest.mark.parametrize(
    "address",
    [
        "monica@example.com",
        "a+b@example.com",
        "o'hara@xn--mller-kva.example",
        "a.b$c@sub.example.co",
        "a" * 64 + "@" + "b" * 51 + ".example.com",  # 128 characters, Zoom's limit
    ],
)
async def test_valid_address_is_accepted(zoomgate: Harness, address: str) -> None:
    """Addresses with dollar signs and dots are also accepted."""
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=address))
    assert rejection.reason == "ZOOM_NOT_CONNECTED"


async def request_for(zoomgate: Harness, name: str, user: str) -> Message:
    """Return a request of an RPC that succeeds for a connected user."""
    zoom = zoomgate.simulator.zoom
    values: dict[str, Any] = {}
    match name:
        case "AuthService.CreateToken":
            values["code"] = zoom.issue_code(zoom.users[OMAR], f"{zoomgate.http_url}/oauth/callback")
        case "AuthService.RequestToken" | "AuthService.ImportConnection":
            values["refresh_token"] = zoomgate.simulator.connect(OMAR).refresh_token
        case "AuthService.WatchConnections":
            return pb.WatchConnectionsRequest(user_emails=[user])
        case _ if name.startswith("ProxyService"):
            values["url"] = "/users/me"
    request: Message = METHODS[name].input_type._concrete_class(user_email=user, **values)
    return request


@pytest.mark.parametrize("name", sorted(METHODS.keys() - typed_rpcs.METHODS.keys()))  # see test_typed_rpcs.py
async def test_case_of_the_address_is_ignored(zoomgate: Harness, name: str) -> None:
    """A caller that may act for one user may write the address in any case. The audit trail contains the address in lower case."""
    await zoomgate.connect(OMAR)
    request = await request_for(zoomgate, name, SHOUTED)
    member = "omar" if name == "AuthService.ValidateUser" else ""
    response = await zoomgate.call(zoomgate.method(name), request, "omars", member)
    if isinstance(response, pb.ValidateUserResponse):
        assert response.valid
    if hasattr(response, "connection"):
        assert response.connection.user_email == OMAR
    assert SHOUTED not in (zoomgate.data_dir / "audit.jsonl").read_text()


async def test_consent_connects_the_user_of_an_address_in_upper_case(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization(SHOUTED, "omars")
    async with browser() as session:
        await consent(session, started.authorization_url, OMAR)
    listed = await zoomgate.call(zoomgate.auth.ListConnections, pb.ListConnectionsRequest(), "omars")
    assert [connection.user_email for connection in listed.connections] == [OMAR]


async def test_watch_resumes_with_the_same_addresses_in_a_different_case(zoomgate: Harness) -> None:
    await zoomgate.connect(OMAR)
    watch = zoomgate.auth.WatchConnections
    first = await zoomgate.call(watch, pb.WatchConnectionsRequest(user_emails=[OMAR, SHOUTED]))
    resumed = pb.WatchConnectionsRequest(user_emails=[SHOUTED], resume_token=first.resume_token)
    assert (await zoomgate.call(watch, resumed)).type != pb.WatchConnectionsResponse.TYPE_INITIAL


@pytest.mark.parametrize(
    "words",
    [
        "connections show USER",
        "connections refresh USER",
        "connections delete USER --yes",
        "connections list --where user=USER",
        "connections list --where user=*@Example.COM",
        "token check USER",
        "token get USER",
        "meetings create USER --topic Review",
        "proxy get USER /users/me",
    ],
)
async def test_commands_ignore_the_case_of_addresses(zoomgate: Harness, words: str) -> None:
    await zoomgate.connect(OMAR)
    caller = "admin" if words.startswith("connections list") or "delete" in words else "service"
    environ = {"ZOOMGATE_SERVER": zoomgate.grpc_address, "ZOOMGATE_KEY": caller_key(caller)}
    output = stdout_of(await command(*words.replace("USER", SHOUTED).split(), environ=environ))
    assert SHOUTED not in output
    assert (OMAR if words.startswith("connections") else "") in output


@pytest.mark.parametrize("address", [address for address in INVALID if address])
@pytest.mark.parametrize("words", [["connections", "show"], ["audit", "show", "--user"]])
async def test_commands_reject_invalid_addresses(words: list[str], address: str) -> None:
    error = re.sub(r"\s+", " ", stderr_of(await command(*words, address), 2))
    assert INVALID[address] in error
    assert "; got" in error
