"""Tests for refusals by Zoom: daily limits, missing scopes, tokens that one endpoint rejects, and refused token requests."""

from email.utils import formatdate
from pathlib import Path

import grpc
import orjson
import pytest

from support.clock import AdvancingClock
from support.harness import BASIL, MONICA, OMAR, Harness, RpcError, running
from support.raw_upstream import http_response, raw_upstream, serving_upstream
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections import zoom_calls

DAY = 86_400.0
ME = proxy.GetRequest(user_email=MONICA, url="/users/me")


def get_meeting(meeting_id: int = 81234567890) -> meetings.GetMeetingRequest:
    return meetings.GetMeetingRequest(user_email=MONICA, meeting_id=meeting_id)


async def state_of(zoomgate: Harness, user: str = MONICA) -> str:
    request = auth.GetConnectionRequest(user_email=user)
    response = await zoomgate.call(zoomgate.auth.GetConnection, request)
    return Connection.State.Name(response.connection.state)


async def test_daily_limit_lasts_until_midnight_utc(tmp_path: Path) -> None:
    """Typed calls and the proxy return Zoom's message, the kind of limit and the delay."""
    clock = AdvancingClock()
    clock.ahead = 1.5 * DAY - clock.wall() % DAY  # noon
    async with running(tmp_path, clock=clock) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "rate_limit_user", times=2))
        post = proxy.PostRequest(user_email=MONICA, url="/users/me/meetings", raw=b"{}")
        for method, request in (
            (zoomgate.meetings.CreateMeeting, meetings.CreateMeetingRequest(user_email=MONICA)),
            (zoomgate.proxy.Post, post),
        ):
            error = await zoomgate.error_of(method, request)
            assert error.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
            assert "daily rate limit (100)" in error.metadata["zoom_message"]
            assert error.metadata["zoom_message"] in error.message
            assert error.metadata["limit_type"] == "daily"
            assert error.retry_after == pytest.approx(DAY / 2, abs=600)


async def test_read_is_delayed_as_zoom_requests_during_an_outage(tmp_path: Path) -> None:
    clock = AdvancingClock()
    clock.ahead = DAY
    async with serving_upstream(tmp_path, clock=clock) as (zoomgate, zoom):
        until = formatdate(clock.wall() + 60, usegmt=True)
        for delay in ("Retry-After: 60", f"Retry-After: {until}"):
            zoom.responses = [http_response("503 Service Unavailable", b"", delay)]
            error = await zoomgate.error_of(zoomgate.meetings.GetMeeting, get_meeting())
            assert error.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
            assert error.retry_after == pytest.approx(60, abs=5)


async def test_endpoint_that_rejects_every_token_leaves_the_connection_active(zoomgate: Harness) -> None:
    """The proxy returns Zoom's response as data, and other endpoints keep working."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("meetings", "status", times=-1, status=401))
    request = proxy.GetRequest(user_email=MONICA, url="/meetings/81234567890")
    response = (await zoomgate.call(zoomgate.proxy.Get, request)).response
    assert (response.status, orjson.loads(response.body)["code"]) == (401, 124)
    assert (await zoomgate.call(zoomgate.proxy.Get, ME)).response.status == 200
    assert await state_of(zoomgate) == "STATE_ACTIVE"


async def test_endpoint_that_rejects_every_token_causes_one_refresh_per_pause(tmp_path: Path) -> None:
    """The pause covers all IDs in the path, but no other user, method or endpoint. It ends early if the endpoint accepts a token."""
    clock = AdvancingClock()
    async with running(tmp_path, clock=clock, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)

        async def refreshes_after(method: object, request: object) -> int:
            zoomgate.simulator.faults.add(Fault("meetings", "status", times=-1, status=401))
            error = await zoomgate.error_of(method, request)
            assert error.reason == "ZOOM_REFUSED"
            zoomgate.simulator.faults.clear()
            return zoomgate.stat("token.refresh_token.issued")

        read = zoomgate.meetings.GetMeeting
        assert await refreshes_after(read, get_meeting(1)) == 1
        assert await refreshes_after(read, get_meeting(2)) == 1
        omars = meetings.GetMeetingRequest(user_email=OMAR, meeting_id=1)
        assert await refreshes_after(read, omars) == 2
        deletion = meetings.DeleteMeetingRequest(user_email=MONICA, meeting_id=1)
        assert await refreshes_after(zoomgate.meetings.DeleteMeeting, deletion) == 3
        clock.ahead += zoom_calls.Timing().refresh_pause
        assert await refreshes_after(read, get_meeting(3)) == 4
        assert (await zoomgate.error_of(read, get_meeting(4))).reason == "MEETING_NOT_FOUND"
        assert await refreshes_after(read, get_meeting(5)) == 5


async def test_ended_authorization_is_detected_while_an_endpoint_rejects_every_token(tmp_path: Path) -> None:
    """A token that Zoom rejects elsewhere too is refreshed, which finds that the authorization has ended."""
    async with running(tmp_path, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "status", times=-1, status=401))
        assert (
            await zoomgate.error_of(zoomgate.meetings.GetMeeting, get_meeting(1))
        ).reason == "ZOOM_REFUSED"
        zoom = zoomgate.simulator.zoom
        zoom.revoke_grant(zoom.grants[MONICA])
        error = await zoomgate.error_of(zoomgate.meetings.GetMeeting, get_meeting(2))
        assert error.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
        assert await state_of(zoomgate) == "STATE_REAUTH_REQUIRED"


async def test_expired_token_is_refreshed_while_an_endpoint_rejects_every_token(tmp_path: Path) -> None:
    async with running(tmp_path, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "status", times=-1, status=401))
        assert (
            await zoomgate.error_of(zoomgate.meetings.GetMeeting, get_meeting(1))
        ).reason == "ZOOM_REFUSED"
        zoomgate.simulator.faults.clear()
        zoomgate.simulator.zoom.expire(MONICA)
        error = await zoomgate.error_of(zoomgate.meetings.GetMeeting, get_meeting(2))
        assert error.reason == "MEETING_NOT_FOUND"


async def test_nothing_is_sent_after_the_user_has_to_consent_again(zoomgate: Harness) -> None:
    """The first call finds that Zoom has ended the authorization. No later call sends the invalid token."""
    await zoomgate.connect()
    await zoomgate.call(zoomgate.proxy.Get, ME)
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    counters = zoomgate.simulator.zoom.counters
    for number in range(3):
        error = await zoomgate.error_of(zoomgate.proxy.Get, ME)
        assert error.reason == "ZOOM_REAUTH_REQUIRED"
        if number == 0:
            sent = dict(counters)
    assert dict(counters) == sent


async def test_unknown_refusal_of_a_refresh_is_not_a_rate_limit(zoomgate: Harness) -> None:
    """The error contains Zoom's message, the connection is unchanged, and its access token can still be used."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "status", status=400))
    request = auth.RefreshTokenRequest(user_email=MONICA)
    error = await zoomgate.error_of(zoomgate.auth.RefreshToken, request)
    assert error.short == ("FAILED_PRECONDITION", "TOKEN_REQUEST_REFUSED")
    assert (error.metadata["zoom_code"], error.metadata["zoom_message"]) == ("400", "Injected")
    assert "Injected" in error.message
    assert await state_of(zoomgate) == "STATE_ACTIVE"
    assert (await zoomgate.call(zoomgate.proxy.Get, ME)).response.status == 200


async def test_unknown_refusals_do_not_suspend_the_refreshes_of_other_users(zoomgate: Harness) -> None:
    for user in (MONICA, OMAR):
        await zoomgate.connect(user)
        zoomgate.simulator.faults.add(Fault("token", "status", status=400, user=user))
        request = auth.RefreshTokenRequest(user_email=user)
        assert (
            await zoomgate.error_of(zoomgate.auth.RefreshToken, request)
        ).reason == "TOKEN_REQUEST_REFUSED"
    await zoomgate.connect(BASIL)
    other = auth.RefreshTokenRequest(user_email=BASIL)
    assert (await zoomgate.call(zoomgate.auth.RefreshToken, other)).token.generation == 2


@pytest.mark.parametrize(
    ("redirect_uri", "code_exists", "expected"),
    [
        ("", False, ("INVALID_ARGUMENT", "CODE_REFUSED", "Invalid authorization code")),
        ("https://other.example/cb", True, ("INTERNAL", "REDIRECT_URI_REFUSED", "Redirect URI mismatch")),
    ],
)
async def test_refused_code_and_redirect_uri_have_their_own_reasons(
    zoomgate: Harness, redirect_uri: str, code_exists: bool, expected: tuple[str, str, str]
) -> None:
    """The message quotes Zoom."""
    zoom = zoomgate.simulator.zoom
    code = zoom.issue_code(zoom.users[MONICA], redirect_uri)
    if not code_exists:
        del zoom.codes[code]
    request = auth.CreateTokenRequest(user_email=MONICA, code=code)
    error = await zoomgate.error_of(zoomgate.auth.CreateToken, request)
    assert (*error.short, error.metadata["zoom_message"]) == expected
    assert expected[2] in error.message
    assert code not in error.message


async def test_refused_code_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    """Zoom's message contains the code."""
    async with (
        raw_upstream() as raw,
        running(tmp_path, environ={"ZOOMGATE_ZOOM_OAUTH_URL": raw.url}) as zoomgate,
    ):
        body = orjson.dumps({"reason": "Invalid authorization code abc123", "error": "invalid_request"})
        raw.responses = [http_response("400 Bad Request", body)]
        request = auth.CreateTokenRequest(user_email=MONICA, code="abc123")
        error = await zoomgate.error_of(zoomgate.auth.CreateToken, request)
        assert error.short == ("INVALID_ARGUMENT", "CODE_REFUSED")
        assert error.message.endswith("Invalid authorization code ***")
        assert error.metadata["zoom_message"] == "Invalid authorization code ***"


@pytest.mark.parametrize(("seconds", "expected"), [(20.0, "2000"), (1.0, "-1")])
async def test_automatic_retries_wait_for_the_retry_delay(
    zoomgate: Harness, seconds: float, expected: str
) -> None:
    """GRPC clients read the delay from the trailing metadata. If the deadline is earlier, they must not retry."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("meetings", "status"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await zoomgate.call(zoomgate.meetings.GetMeeting, get_meeting(), seconds=seconds)
    assert RpcError.of(raised.value).retry_after == 2.0
    assert dict(raised.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == expected


SCOPES_OF_CREATION = "meeting:write:meeting meeting:write:meeting:admin meeting:write meeting:write:admin"


@pytest.mark.parametrize(
    ("zoom_message", "scopes"),
    [
        ("Access token does not contain required scopes.", SCOPES_OF_CREATION),
        (
            "Invalid access token, does not contain scopes:[meeting:write:meeting].",
            "meeting:write:meeting meeting:write",
        ),
        (
            "Invalid access token, does not contain scopes:[meeting:write:meeting:admin].",
            "meeting:write:meeting:admin meeting:write:admin",
        ),
        ("Invalid access token, does not contain scopes:[tracking:read].", "tracking:read"),
    ],
)
async def test_missing_scope_names_the_granular_and_classic_scopes_that_suffice(
    tmp_path: Path, zoom_message: str, scopes: str
) -> None:
    """Zoom's own names come first, and the others cover the same data. This holds for typed calls and the proxy alike."""
    body = orjson.dumps({"code": 4711, "message": zoom_message})
    async with serving_upstream(tmp_path) as (zoomgate, zoom):
        post = proxy.PostRequest(user_email=MONICA, url="/users/me/meetings?x=y", raw=b"{}")
        for method, request in (
            (zoomgate.meetings.CreateMeeting, meetings.CreateMeetingRequest(user_email=MONICA)),
            (zoomgate.proxy.Post, post),
        ):
            zoom.responses = [http_response("400 Bad Request", body)]
            error = await zoomgate.error_of(method, request)
            assert error.short == ("FAILED_PRECONDITION", "ZOOM_SCOPE_MISSING")
            assert error.metadata["scopes"] == scopes
            assert scopes.replace(" ", ", ") in error.message


async def test_missing_scope_of_an_unknown_path_is_reported_as_zoom_reports_it(tmp_path: Path) -> None:
    body = orjson.dumps({"code": 4711, "message": "Access token does not contain required scopes."})
    async with serving_upstream(tmp_path) as (zoomgate, zoom):
        zoom.responses = [http_response("400 Bad Request", body)]
        request = proxy.GetRequest(user_email=MONICA, url="/phone/numbers")
        error = await zoomgate.error_of(zoomgate.proxy.Get, request)
        assert error.short == ("FAILED_PRECONDITION", "ZOOM_SCOPE_MISSING")
        assert "scopes" not in error.metadata
