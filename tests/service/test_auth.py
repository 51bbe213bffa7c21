"""Tests for AuthService."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from yarl import URL

from support.clock import AdvancingClock
from support.harness import (
    BASIL,
    MONICA,
    OMAR,
    SECONDS,
    Harness,
    RpcError,
    browser,
    consent,
    consent_form,
    metadata,
    running,
    serving,
)
from zoom_simulator import RefreshTokenReuse, Rules, Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import disconnection
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.rpc.middleware import authentication
from zoomgate_server.storage.record_store import Kind, RecordKey, StoreError

CALLERS_PAGE = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done"}
"""Settings with which Zoom redirects to a page of the caller's application instead of this service, as in Velo."""


def token_request(user: str = MONICA) -> pb.GetTokenRequest:
    return pb.GetTokenRequest(user_email=user)


async def code_for(zoomgate: Harness, authorization_url: str, user: str = MONICA) -> tuple[str, str]:
    """Grant consent, and return the code and state that Zoom sends to the caller's page."""
    async with browser() as session:
        action, fields = await consent_form(session, authorization_url)
        async with session.post(
            action, data=fields | {"user": user, "decision": "allow"}, allow_redirects=False
        ) as response:
            query = URL(response.headers["Location"]).query
            return query["code"], query["state"]


async def test_consent_creates_a_connection_and_a_token(zoomgate: Harness) -> None:
    """The connection that is returned to callers contains no secret."""
    await zoomgate.connect()
    token = (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token
    assert token.access_token in zoomgate.simulator.zoom.access_tokens
    assert (token.token_type, token.generation) == ("bearer", 1)
    assert 3500 < token.expires_in <= 3600
    assert token.refresh_token.startswith("sim-rt-")
    connection = (
        await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    ).connection
    assert (connection.state, connection.zoom_user_id) == (Connection.STATE_ACTIVE, "u-Monica-7Yc1")
    assert "meeting:write:meeting" in connection.scopes
    assert "sim-" not in str(connection)


async def test_required_scopes_that_the_user_has_not_granted_are_listed(tmp_path: Path) -> None:
    """A classic scope covers the granular scopes of the same calls. Lists and watches contain the missing scopes, too."""
    options = SimulatorOptions(port=0, scopes=("user:read:user", "meeting:read"))
    environ = {
        "ZOOMGATE_REQUIRED_SCOPES": "user:read:user,meeting:read:meeting,meeting:write:meeting,phone:read"
    }
    missing = ["meeting:write:meeting", "phone:read"]
    async with running(tmp_path, simulator=options, environ=environ) as zoomgate:
        await zoomgate.connect()
        get_connection = pb.GetConnectionRequest(user_email=MONICA)
        connection = (await zoomgate.call(zoomgate.auth.GetConnection, get_connection)).connection
        assert list(connection.missing_scopes) == missing
        listed = await zoomgate.call(zoomgate.auth.ListConnections, pb.ListConnectionsRequest())
        assert [list(listed.missing_scopes) for listed in listed.connections] == [missing]
        watch = zoomgate.auth.WatchConnections(pb.WatchConnectionsRequest(), metadata=metadata("service"))
        event = await anext(aiter(watch))
        assert list(event.connection.missing_scopes) == missing
        watch.cancel()
        await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
        ended = (await zoomgate.call(zoomgate.auth.GetConnection, get_connection)).connection
        assert (ended.state, list(ended.missing_scopes)) == (Connection.STATE_DISCONNECTED, [])


async def test_refresh_token_is_only_returned_if_the_policy_allows(zoomgate: Harness) -> None:
    await zoomgate.connect(OMAR)
    token = (await zoomgate.call(zoomgate.auth.GetToken, token_request(OMAR), "narrow")).token
    assert token.access_token
    assert token.refresh_token == ""


async def test_missing_connection_is_reported(zoomgate: Harness) -> None:
    """Token calls fail with FAILED_PRECONDITION, connection calls with NOT_FOUND."""
    refusal = await zoomgate.error_of(zoomgate.auth.GetToken, token_request())
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")
    assert "PreconditionFailure" in refusal.details
    for method, request in (
        (zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)),
        (zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA)),
    ):
        refusal = await zoomgate.error_of(method, request)
        assert refusal.short == ("NOT_FOUND", "ZOOM_NOT_CONNECTED")


async def test_expired_token_is_refreshed_once_for_concurrent_calls(zoomgate: Harness) -> None:
    """The remaining lifetime of the cached token is shorter than requested."""
    async with running(
        zoomgate.data_dir / "short", simulator=SimulatorOptions(port=0, access_token_seconds=90)
    ) as short:
        await short.connect()
        request = pb.GetTokenRequest(user_email=MONICA)
        request.min_validity.seconds = 300
        before = short.stat("token.refresh_token.issued")
        short.simulator.zoom.options = SimulatorOptions(port=0, access_token_seconds=3600)
        responses = await asyncio.gather(*(short.call(short.auth.GetToken, request) for _ in range(100)))
        assert {response.token.generation for response in responses} == {2}
        assert short.stat("token.refresh_token.issued") - before == 1


async def test_refresh_continues_after_the_deadline_of_its_caller(zoomgate: Harness) -> None:
    """The next call receives the token from this refresh."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=0.7))
    with pytest.raises(grpc.aio.AioRpcError) as early:
        await zoomgate.auth.RefreshToken(
            pb.RefreshTokenRequest(user_email=MONICA), metadata=metadata(), timeout=0.4
        )
    assert early.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    request = pb.RefreshTokenRequest(user_email=MONICA)
    response = await zoomgate.call(zoomgate.auth.RefreshToken, request)
    assert response.token.generation == 2
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_forced_refreshes_are_limited_to_one_per_minute(zoomgate: Harness) -> None:
    """The second call within the interval receives the token of the first call."""
    await zoomgate.connect()
    request = pb.RefreshTokenRequest(user_email=MONICA)
    first = await zoomgate.call(zoomgate.auth.RefreshToken, request)
    second = await zoomgate.call(zoomgate.auth.RefreshToken, request)
    assert first.token.generation == second.token.generation == 2
    assert first.token.access_token == second.token.access_token


async def test_refresh_token_other_than_the_stored_one_is_rejected(zoomgate: Harness) -> None:
    """The error names the field, and no refresh token is used."""
    await zoomgate.connect()
    refusal = await zoomgate.error_of(
        zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA, refresh_token="sim-rt-other")
    )
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert list(refusal.violations) == ["refresh_token"]
    assert zoomgate.stat("token.refresh_token.issued") == 0


async def test_refresh_of_a_token_that_was_replaced_returns_the_current_token(zoomgate: Harness) -> None:
    """A call whose response was lost can be repeated with the same refresh token, which is not used again."""
    await zoomgate.connect()
    stored = (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token
    request = pb.RefreshTokenRequest(user_email=MONICA, refresh_token=stored.refresh_token)
    first = await zoomgate.call(zoomgate.auth.RefreshToken, request)
    second = await zoomgate.call(zoomgate.auth.RefreshToken, request)
    assert first.token.generation == second.token.generation == 2
    assert first.token.access_token == second.token.access_token
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_deadline_that_is_too_short_to_read_the_token_is_not_an_outage_of_the_store(
    tmp_path: Path,
) -> None:
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path) as first:
            await first.connect()
        timing = replace(Timing(), calls=authentication.Timing(response_margin=2 * SECONDS))
        async with serving(zoom, tmp_path, timing=timing) as restarted:
            refusal = await restarted.error_of(restarted.auth.GetToken, token_request())
    assert refusal.short == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")


async def test_revoked_grant_requires_consent_and_consent_restores_it(zoomgate: Harness) -> None:
    await zoomgate.connect()
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
    assert refusal.metadata["cause"] == "REVOKED"
    response = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert response.connection.state == Connection.STATE_REAUTH_REQUIRED
    assert response.connection.last_error.message
    await zoomgate.connect()
    assert (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token.generation == 2


@pytest.mark.parametrize("kind", ["status", "html", "garbage", "cut_before"])
async def test_token_endpoint_outage_retains_the_connection(tmp_path: Path, kind: str) -> None:
    """5xx, HTML, incomplete JSON and interrupted connections are reported as UNAVAILABLE."""
    request, clock = pb.RefreshTokenRequest(user_email=MONICA), AdvancingClock()
    async with running(tmp_path / "data", clock=clock) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("token", kind, times=-1, status=503))
        refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, request)
        assert refusal.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
        assert refusal.retry_after is not None
        zoomgate.simulator.faults.clear()
        clock.ahead += refusal.retry_after
        assert (await zoomgate.call(zoomgate.auth.RefreshToken, request)).token.generation == 2


async def test_lost_response_requires_consent_if_zoom_rejects_the_previous_token(zoomgate: Harness) -> None:
    """The connection requires consent with the cause OUTCOME_LOST."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "cut_after"))
    refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert (refusal.reason, refusal.metadata["cause"]) == ("ZOOM_REAUTH_REQUIRED", "OUTCOME_LOST")


async def test_lost_response_is_recovered_if_zoom_accepts_the_previous_token(zoomgate: Harness) -> None:
    async with running(
        zoomgate.data_dir / "tolerant",
        simulator=SimulatorOptions(port=0, rules=Rules(refresh_token_reuse=RefreshTokenReuse.TOLERATED)),
    ) as tolerant:
        await tolerant.connect()
        tolerant.simulator.faults.add(Fault("token", "cut_after"))
        response = await tolerant.call(tolerant.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        assert response.token.generation == 2


async def test_rejected_client_secret_retains_the_connection(tmp_path: Path) -> None:
    """The refresh call fails with INTERNAL."""
    request, clock = pb.RefreshTokenRequest(user_email=MONICA), AdvancingClock()
    async with running(tmp_path / "data", clock=clock) as zoomgate:
        await zoomgate.connect()
        right = zoomgate.simulator.zoom.options
        zoomgate.simulator.zoom.options = SimulatorOptions(port=0, client_secret="rotated-secret-value")
        refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, request)
        assert refusal.short == ("INTERNAL", "APP_CREDENTIALS_REJECTED")
        zoomgate.simulator.zoom.options = right
        clock.ahead += protocol.Timing().first_backoff
        assert (await zoomgate.call(zoomgate.auth.RefreshToken, request)).token.generation == 2


async def test_rate_limited_refresh_returns_a_retry_delay(zoomgate: Harness) -> None:
    """The retry delay is at most one hour."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "rate_limit_daily"))
    refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert refusal.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
    assert refusal.retry_after is not None
    assert 1 <= refusal.retry_after <= 3600
    assert "QuotaFailure" in refusal.details


async def test_delete_disconnects_and_revokes_the_tokens(zoomgate: Harness) -> None:
    """Repeating the DeleteConnection call returns NOT_FOUND."""
    await zoomgate.connect()
    request = pb.DeleteConnectionRequest(user_email=MONICA)
    tombstone = (await zoomgate.call(zoomgate.auth.DeleteConnection, request, "admin")).connection
    assert tombstone.state == Connection.STATE_DISCONNECTED
    assert zoomgate.simulator.zoom.access_tokens == {}
    refusal = await zoomgate.error_of(zoomgate.auth.GetToken, token_request())
    assert refusal.reason == "ZOOM_NOT_CONNECTED"
    assert (
        await zoomgate.error_of(zoomgate.auth.DeleteConnection, request)
    ).code is grpc.StatusCode.NOT_FOUND
    await zoomgate.connect()
    assert (
        await zoomgate.call(zoomgate.auth.GetToken, token_request())
    ).token.generation > tombstone.generation


async def test_connections_are_listed_in_pages(zoomgate: Harness) -> None:
    """Page tokens are bound to the filter and the caller; services can list only their own users."""
    for user in (MONICA, OMAR, BASIL):
        await zoomgate.connect(user)
    first = await zoomgate.call(
        zoomgate.auth.ListConnections, pb.ListConnectionsRequest(page_size=2), "admin"
    )
    assert [connection.user_email for connection in first.connections] == [BASIL, MONICA]
    rest = pb.ListConnectionsRequest(page_size=2, page_token=first.next_page_token)
    last = await zoomgate.call(zoomgate.auth.ListConnections, rest, "admin")
    assert [connection.user_email for connection in last.connections] == [OMAR]
    assert last.next_page_token == ""
    refusal = await zoomgate.error_of(zoomgate.auth.ListConnections, rest, "service")
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
    visible = await zoomgate.call(zoomgate.auth.ListConnections, pb.ListConnectionsRequest(), "narrow")
    assert [connection.user_email for connection in visible.connections] == [OMAR]
    disconnected = pb.ListConnectionsRequest(states=[Connection.STATE_DISCONNECTED])
    assert not (await zoomgate.call(zoomgate.auth.ListConnections, disconnected, "admin")).connections


@pytest.mark.parametrize(
    ("caller", "forwarded", "user", "valid", "reason"),
    [
        ("service", "", MONICA, False, "Member is not logged in"),
        ("service", "monica", MONICA, True, ""),
        ("service", "omar", MONICA, False, "Email addresses do not match"),
        ("monica", "", MONICA, True, ""),
        ("monica", "", OMAR, False, "Email addresses do not match"),
    ],
)
async def test_validate_user_compares_the_member_with_the_user(
    zoomgate: Harness, caller: str, forwarded: str, user: str, valid: bool, reason: str
) -> None:
    """The reasons in the response are the same as in the Velo package."""
    response = await zoomgate.call(
        zoomgate.auth.ValidateUser, pb.ValidateUserRequest(user_email=user), caller, forwarded
    )
    assert (response.valid, response.reason) == (valid, reason)


@pytest.mark.parametrize(("caller", "forwarded"), [("monica", ""), ("service", "monica")])
async def test_members_own_address_applies_if_it_is_omitted(
    zoomgate: Harness, caller: str, forwarded: str
) -> None:
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        validated = await service.call(service.auth.ValidateUser, pb.ValidateUserRequest(), caller, forwarded)
        assert (validated.valid, validated.reason) == (True, "")
        code = service.simulator.zoom.issue_code(
            service.simulator.zoom.users[MONICA], CALLERS_PAGE["ZOOMGATE_REDIRECT_URI"]
        )
        request = pb.CreateTokenRequest(code=code)
        created = await service.call(service.auth.CreateToken, request, caller, forwarded)
        assert created.success
        connection = await service.call(
            service.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA), "monica"
        )
        assert connection.connection.state == Connection.STATE_ACTIVE


async def test_omitted_address_of_a_member_is_subject_to_the_policy_of_the_service(zoomgate: Harness) -> None:
    """The service `omars` may not act for Monica, with or without her address."""
    for user in ("", MONICA):
        request = pb.CreateTokenRequest(user_email=user, code="c")
        error = await zoomgate.error_of(zoomgate.auth.CreateToken, request, "omars", "monica")
        assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


async def test_services_must_name_the_user(zoomgate: Harness) -> None:
    for method, request in (
        (zoomgate.auth.ValidateUser, pb.ValidateUserRequest()),
        (zoomgate.auth.CreateToken, pb.CreateTokenRequest(code="c")),
    ):
        assert set((await zoomgate.error_of(method, request)).violations) == {"user_email"}


async def test_check_token_by_facts_and_by_user(zoomgate: Harness) -> None:
    """Checking a stored token does not refresh it."""
    facts = pb.CheckTokenRequest()
    facts.facts.expires_in = 3600
    facts.facts.update_time.GetCurrentTime()
    fresh = await zoomgate.call(zoomgate.auth.CheckToken, facts, "monica")
    assert not fresh.expired
    assert 3500 < fresh.remaining.seconds <= 3600
    facts.facts.update_time.seconds -= 4000
    stale = await zoomgate.call(zoomgate.auth.CheckToken, facts)
    assert stale.expired
    assert stale.remaining.seconds == 0
    await zoomgate.connect()
    stored = await zoomgate.call(zoomgate.auth.CheckToken, pb.CheckTokenRequest(user_email=MONICA), "monica")
    assert not stored.expired
    assert (await zoomgate.error_of(zoomgate.auth.CheckToken, pb.CheckTokenRequest())).violations.keys() == {
        "subject"
    }


async def test_authorization_is_completed_by_the_callers_own_page(zoomgate: Harness) -> None:
    """CompleteAuthorization returns the options that were passed to BeginAuthorization."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        started = await service.begin_authorization(options={"page": "/book", "n": 3})
        code, state = await code_for(service, started.authorization_url)
        assert state == started.state
        request = pb.CompleteAuthorizationRequest(code=code, state=state)
        other_caller = await service.error_of(service.auth.CompleteAuthorization, request, "blind")
        assert other_caller.short == ("INVALID_ARGUMENT", "INVALID_STATE")
        completed = await service.call(service.auth.CompleteAuthorization, request)
        assert (completed.user_email, completed.connection.state) == (MONICA, Connection.STATE_ACTIVE)
        assert dict(completed.options) == {"page": "/book", "n": 3}
        repeated = await service.error_of(service.auth.CompleteAuthorization, request)
        assert repeated.short == ("INVALID_ARGUMENT", "INVALID_STATE")


@pytest.mark.parametrize(
    "template",
    [
        "http://127.0.0.1:9/zoom-done?code={code}&state={state}",
        "https://shop.example/a/b?x=1&state={state}&code={code}&empty=#fragment?code=other",
        "/zoom-done?code={code}&state={state}",
        "?code={code}&state={state}",
    ],
)
async def test_authorization_is_completed_with_the_whole_callback_url(
    zoomgate: Harness, template: str
) -> None:
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        started = await service.begin_authorization(options={"n": 3})
        code, state = await code_for(service, started.authorization_url)
        request = pb.CompleteAuthorizationRequest(callback_url=template.format(code=code, state=state))
        completed = await service.call(service.auth.CompleteAuthorization, request)
        assert (completed.user_email, completed.connection.state) == (MONICA, Connection.STATE_ACTIVE)
        assert dict(completed.options) == {"n": 3}
        repeated = await service.error_of(service.auth.CompleteAuthorization, request)
        assert repeated.short == ("INVALID_ARGUMENT", "INVALID_STATE")


async def test_callback_url_of_a_declined_consent_reports_the_error_of_zoom(zoomgate: Harness) -> None:
    """The authorization ends. Only its caller can end it."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        started = await service.begin_authorization()
        query = f"error=access_denied&error_description=The+user%0Adeclined&state={started.state}"
        request = pb.CompleteAuthorizationRequest(callback_url=f"http://127.0.0.1:9/zoom-done?{query}")
        other = await service.error_of(service.auth.CompleteAuthorization, request, "blind")
        assert other.short == ("INVALID_ARGUMENT", "INVALID_STATE")
        error = await service.error_of(service.auth.CompleteAuthorization, request)
        assert error.short == ("FAILED_PRECONDITION", "AUTHORIZATION_DECLINED")
        assert error.metadata == {"error": "access_denied"}
        assert "(access_denied: The user declined)" in error.message
        assert (await service.error_of(service.auth.CompleteAuthorization, request)).reason == "INVALID_STATE"
        request.callback_url = "?error=invalid_scope"
        error = await service.error_of(service.auth.CompleteAuthorization, request)
        assert (error.reason, error.metadata) == ("AUTHORIZATION_DECLINED", {"error": "invalid_scope"})


@pytest.mark.parametrize("outage", ["server_error", "temporarily_unavailable"])
async def test_callback_url_with_an_outage_is_not_reported_as_declined(
    zoomgate: Harness, outage: str
) -> None:
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        started = await service.begin_authorization()
        request = pb.CompleteAuthorizationRequest(callback_url=f"?error={outage}&state={started.state}")
        error = await service.error_of(service.auth.CompleteAuthorization, request)
        assert error.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
        assert error.metadata == {"zoom_code": outage}
        assert error.retry_after


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"callback_url": "https://shop.example/"}, "exactly one of code, error and ticket"),
        ({"callback_url": "code=a&state=b"}, "exactly one of"),
        ({"callback_url": "?code=a&error=b&state=c"}, "exactly one of"),
        ({"callback_url": "?code=a&state=b&ticket=c"}, "exactly one of"),
        ({"callback_url": "https://[::1?state=b"}, "exactly one of"),
        ({"callback_url": "?code=a"}, "Marketplace"),
        ({"callback_url": "?code=a&state="}, "Marketplace"),
        ({"callback_url": "?code=a&code=b&state=c"}, "code more than once"),
        ({"callback_url": "?code=a&state=b&%73tate=c"}, "state more than once"),
        ({"callback_url": f"?state=b&code={'c' * 2049}"}, "code of more than 2048 characters"),
        ({"callback_url": f"?code=a&state=b&x={'x' * 8192}"}, "send at most 8192"),
        ({"callback_url": "?code=a&state=b", "code": "a"}, "cannot be combined"),
        ({"callback_url": "?ticket=a", "ticket": "a"}, "cannot be combined"),
    ],
)
async def test_callback_url_without_a_result_is_rejected(
    zoomgate: Harness, fields: dict[str, str], word: str
) -> None:
    """The error does not contain the code."""
    request = pb.CompleteAuthorizationRequest(**fields)
    error = await zoomgate.error_of(zoomgate.auth.CompleteAuthorization, request)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert word in error.message


async def test_repeated_code_returns_the_stored_connection(zoomgate: Harness) -> None:
    """The code is sent to Zoom only once."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        first = await service.begin_authorization()
        code, state = await code_for(service, first.authorization_url)
        for _ in range(2):
            completed = await service.call(
                service.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(code=code, state=state)
            )
            assert completed.connection.state == Connection.STATE_ACTIVE
            state = (await service.begin_authorization()).state
        assert (await service.call(service.auth.GetToken, token_request())).token.generation == 1
        assert service.stat("token.authorization_code.refused") == 0


async def test_repeated_code_is_refused_after_a_later_authorization(zoomgate: Harness) -> None:
    """The code's connection was replaced, so that the code grants nothing any more. It is not sent to Zoom again."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        codes = []
        for _ in range(2):
            started = await service.begin_authorization()
            code, state = await code_for(service, started.authorization_url)
            request = pb.CompleteAuthorizationRequest(code=code, state=state)
            await service.call(service.auth.CompleteAuthorization, request)
            codes.append(code)
        state = (await service.begin_authorization()).state
        request = pb.CompleteAuthorizationRequest(code=codes[0], state=state)
        refusal = await service.error_of(service.auth.CompleteAuthorization, request)
        assert refusal.short == ("INVALID_ARGUMENT", "CODE_REFUSED")
        assert service.stat("token.authorization_code.refused") == 0


async def test_code_used_by_another_system_is_rejected_and_retains_the_connection(zoomgate: Harness) -> None:
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        started = await service.begin_authorization()
        code, state = await code_for(service, started.authorization_url)
        request = pb.CompleteAuthorizationRequest(code=code, state=state)
        await service.call(service.auth.CompleteAuthorization, request)
        other = service.simulator.zoom.issue_code(service.simulator.zoom.users[MONICA], "http://127.0.0.1/x")
        del service.simulator.zoom.codes[other]
        second = await service.begin_authorization()
        request = pb.CompleteAuthorizationRequest(code=other, state=second.state)
        for _ in range(2):
            refusal = await service.error_of(service.auth.CompleteAuthorization, request)
            assert refusal.short == ("INVALID_ARGUMENT", "CODE_REFUSED")
            request.state = (await service.begin_authorization()).state
        assert (await service.call(service.auth.GetToken, token_request())).token.generation == 1


async def test_repeated_code_with_a_different_address_is_a_mismatch(zoomgate: Harness) -> None:
    """Neither connection changes."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        started = await service.begin_authorization()
        code, state = await code_for(service, started.authorization_url)
        request = pb.CompleteAuthorizationRequest(code=code, state=state)
        await service.call(service.auth.CompleteAuthorization, request)
        request.state = (await service.begin_authorization(OMAR)).state
        refusal = await service.error_of(service.auth.CompleteAuthorization, request)
        assert refusal.reason == "IDENTITY_MISMATCH"
        assert (await service.call(service.auth.GetToken, token_request())).token.generation == 1
        refusal = await service.error_of(service.auth.GetToken, token_request(OMAR))
        assert refusal.reason == "ZOOM_NOT_CONNECTED"


async def test_create_token_from_a_callers_code(zoomgate: Harness) -> None:
    """A service receives the token; a service without token access and a member receive only the success flag."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as service:
        for caller, returns_token in (("service", True), ("blind", False), ("monica", False)):
            started = await service.begin_authorization(caller=caller)
            code, state = await code_for(service, started.authorization_url)
            response = await service.call(
                service.auth.CreateToken,
                pb.CreateTokenRequest(user_email=MONICA, code=code, state=state),
                caller,
            )
            assert (response.success, response.HasField("token")) == (True, returns_token)


async def test_consent_of_a_different_user_is_rejected_and_revoked(zoomgate: Harness) -> None:
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE, timing=timing) as service:
        started = await service.begin_authorization()
        code, state = await code_for(service, started.authorization_url, OMAR)
        refusal = await service.error_of(
            service.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(code=code, state=state)
        )
        assert refusal.short == ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")
        missing = await service.error_of(
            service.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)
        )
        assert missing.code is grpc.StatusCode.NOT_FOUND
        async with asyncio.timeout(SECONDS):
            while service.simulator.zoom.access_tokens:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("failures", [0, 2])
async def test_mistaken_consent_of_a_connected_user_updates_that_users_connection(
    tmp_path: Path, failures: int
) -> None:
    """If a different user consents than requested, the new tokens are stored, because the consent invalidates that user's earlier tokens.

    The new tokens are stored even if the store is unavailable at first.
    """
    remaining_failures = failures

    async def failing_get(get: Any, key: RecordKey) -> Any:
        nonlocal remaining_failures
        if remaining_failures and key.kind is Kind.USER and requested == MONICA:
            remaining_failures -= 1
            raise StoreError("injected")
        return await get(key)

    async with running(tmp_path / "data", environ=CALLERS_PAGE) as service:
        with service.store.intercept("get", failing_get):
            for requested in (OMAR, MONICA):
                started = await service.begin_authorization(requested)
                code, state = await code_for(service, started.authorization_url, OMAR)
                request = pb.CompleteAuthorizationRequest(code=code, state=state)
                if requested == OMAR:
                    await service.call(service.auth.CompleteAuthorization, request)
                else:
                    assert (
                        await service.error_of(service.auth.CompleteAuthorization, request)
                    ).reason == "IDENTITY_MISMATCH"
        token = (await service.call(service.auth.GetToken, token_request(OMAR))).token
        assert token.generation == 2
        assert token.access_token in service.simulator.zoom.access_tokens
        assert not remaining_failures


def supplied_token(zoomgate: Harness) -> str:
    """Return a refresh token of Monica that another system has received from Zoom."""
    zoom = zoomgate.simulator.zoom
    code = zoom.issue_code(zoom.users[MONICA], "http://127.0.0.1/x")
    refresh_token: str = zoom.exchange(code, "http://127.0.0.1/x", "")["refresh_token"]
    return refresh_token


async def test_request_token_imports_a_refresh_token(zoomgate: Harness) -> None:
    """The refresh token is used, the user of the new tokens is verified, and the new tokens are stored."""
    request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied_token(zoomgate))
    token = (await zoomgate.call(zoomgate.auth.RequestToken, request)).token
    assert (token.generation, token.access_token in zoomgate.simulator.zoom.access_tokens) == (1, True)
    assert (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token.generation == 1


async def test_repeated_request_token_returns_the_stored_token(zoomgate: Harness) -> None:
    """The refresh token is sent to Zoom only once, also if several calls send it at the same time."""
    request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied_token(zoomgate))
    outcomes = await asyncio.gather(
        *(zoomgate.call(zoomgate.auth.RequestToken, request) for _ in range(3)), return_exceptions=True
    )
    errors = [RpcError.of(error) for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
    assert {(error.reason, error.retry_after is not None) for error in errors} <= {
        ("REFRESH_IN_PROGRESS", True)
    }
    assert len(errors) < len(outcomes)
    assert (await zoomgate.call(zoomgate.auth.RequestToken, request)).token.generation == 1
    assert zoomgate.stat("token.refresh_token.issued") == 1
    assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_repeated_request_token_returns_a_valid_token(zoomgate: Harness) -> None:
    """The stored access token has expired, so that it is refreshed, but not with the refresh token of the request."""
    options = SimulatorOptions(port=0, access_token_seconds=60)
    async with running(zoomgate.data_dir / "short", simulator=options) as short:
        request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied_token(short))
        await short.call(short.auth.RequestToken, request)
        short.simulator.zoom.options = SimulatorOptions(port=0)
        token = (await short.call(short.auth.RequestToken, request)).token
        assert token.expires_in > 3500
        assert token.access_token in short.simulator.zoom.access_tokens
        assert short.stat("token.refresh_token.refused") == 0


async def test_request_token_of_a_connection_that_needs_a_new_consent_is_rejected(zoomgate: Harness) -> None:
    """The connection has held the refresh token, which is not sent to Zoom again."""
    request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied_token(zoomgate))
    await zoomgate.call(zoomgate.auth.RequestToken, request)
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    refused = zoomgate.stat("token.refresh_token.refused")
    refusal = await zoomgate.error_of(zoomgate.auth.RequestToken, request)
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
    assert zoomgate.stat("token.refresh_token.refused") == refused


async def test_request_token_rejected_by_zoom_can_be_repeated(zoomgate: Harness) -> None:
    """Each call sends the refresh token to Zoom, because no earlier call has stored anything."""
    request = pb.RequestTokenRequest(user_email=MONICA, refresh_token="sim-rt-never-issued")
    for count in (1, 2):
        refusal = await zoomgate.error_of(zoomgate.auth.RequestToken, request)
        assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
        assert zoomgate.stat("token.refresh_token.refused") == count


async def test_pending_authorizations_per_user_are_limited(tmp_path: Path) -> None:
    async with running(tmp_path, environ={"ZOOMGATE_MAX_PENDING_PER_USER": "2"}) as zoomgate:
        for _ in range(2):
            await zoomgate.begin_authorization()
        request = pb.BeginAuthorizationRequest(user_email=MONICA)
        refusal = await zoomgate.error_of(zoomgate.auth.BeginAuthorization, request)
        assert refusal.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
        assert refusal.retry_after
        await zoomgate.begin_authorization(OMAR)


async def test_all_invalid_fields_are_reported_together(zoomgate: Harness) -> None:
    too_large = struct_pb2.Struct()
    too_large["x"] = "y" * 9000
    cases: list[tuple[object, object, set[str]]] = [
        (
            zoomgate.auth.BeginAuthorization,
            pb.BeginAuthorizationRequest(user_email="x", options=too_large, return_to="z" * 65),
            {"user_email", "options", "return_to"},
        ),
        (zoomgate.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(), {"code", "state"}),
        (
            zoomgate.auth.CompleteAuthorization,
            pb.CompleteAuthorizationRequest(code="c" * 2049, state="s" * 513, ticket="t"),
            {"code", "state", "ticket"},
        ),
        (
            zoomgate.auth.CreateToken,
            pb.CreateTokenRequest(user_email="", code="", state="s", code_verifier="short"),
            {"user_email", "code", "code_verifier"},
        ),
        (zoomgate.auth.RequestToken, pb.RequestTokenRequest(user_email=MONICA), {"refresh_token"}),
        (
            zoomgate.auth.ListConnections,
            pb.ListConnectionsRequest(page_size=1001, page_token="x", states=[0]),
            {"page_size", "page_token", "states"},
        ),
    ]
    for method, request, fields in cases:
        refusal: RpcError = await zoomgate.error_of(method, request)
        assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD"), request
        assert set(refusal.violations) == fields, request
    longest = pb.GetTokenRequest(user_email=MONICA)
    longest.min_validity.seconds = 601
    assert set((await zoomgate.error_of(zoomgate.auth.GetToken, longest)).violations) == {"min_validity"}


async def test_declined_consent_of_a_connected_user_changes_nothing(zoomgate: Harness) -> None:
    """The page does not claim that the user is disconnected."""
    await zoomgate.connect(MONICA)
    request = pb.GetConnectionRequest(user_email=MONICA)
    connected = await zoomgate.call(zoomgate.auth.GetConnection, request)
    started = await zoomgate.begin_authorization()
    async with browser() as session:
        page = await (await consent(session, started.authorization_url, MONICA, "decline")).text()
    assert "If you were already connected, you still are." in page
    assert "not connected" not in page
    assert await zoomgate.call(zoomgate.auth.GetConnection, request) == connected


async def test_declined_consent_stores_nothing(zoomgate: Harness) -> None:
    """The consent link cannot be used again."""
    started = await zoomgate.begin_authorization()
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA, "decline")
        assert page.url.query["outcome"] == "declined"
    refusal = await zoomgate.error_of(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert refusal.reason == "ZOOM_NOT_CONNECTED"
