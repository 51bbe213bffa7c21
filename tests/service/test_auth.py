"""AuthService as its callers see it."""

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf import struct_pb2
from yarl import URL

from support.harness import (
    BASIL,
    MONICA,
    OMAR,
    SECONDS,
    Harness,
    Refusal,
    browser,
    consent,
    consent_form,
    metadata,
    running,
)
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.storage.record_store import StoreError

CALLERS_PAGE = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done"}
"""Zoom redirects to a page of the caller's own, as in Velo."""


def token_request(user: str = MONICA) -> pb.GetTokenRequest:
    return pb.GetTokenRequest(user_email=user)


async def code_for(zoomgate: Harness, authorization_url: str, user: str = MONICA) -> tuple[str, str]:
    """Consent and give code and state, as the caller's page gets them."""
    async with browser() as session:
        action, fields = await consent_form(session, authorization_url)
        async with session.post(
            action, data=fields | {"user": user, "decision": "allow"}, allow_redirects=False
        ) as answer:
            query = URL(answer.headers["Location"]).query
            return query["code"], query["state"]


async def test_a_connected_user_has_a_token_and_a_connection(zoomgate: Harness) -> None:
    """After the consent in a browser a service gets the token, and the connection tells no secret."""
    await zoomgate.connect()
    token = (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token
    assert token.access_token in zoomgate.simulator.zoom.access_tokens
    assert (token.token_type, token.generation) == ("bearer", 1)
    assert 3500 < token.expires_in <= 3600
    assert token.refresh_token.startswith("sim-rt-")
    shown = (
        await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    ).connection
    assert (shown.state, shown.zoom_user_id) == (Connection.STATE_ACTIVE, "u-Monica-7Yc1")
    assert "meeting:write:meeting" in shown.scopes
    assert "sim-" not in str(shown)


async def test_a_service_that_may_not_see_refresh_tokens_gets_none(zoomgate: Harness) -> None:
    """The refresh token is given only where the caller's policy says so."""
    await zoomgate.connect(OMAR)
    token = (await zoomgate.call(zoomgate.auth.GetToken, token_request(OMAR), "narrow")).token
    assert token.access_token
    assert token.refresh_token == ""


async def test_a_user_without_a_connection_is_told_so(zoomgate: Harness) -> None:
    """Calls about a token fail a precondition, calls about the connection find nothing."""
    refusal = await zoomgate.refusal(zoomgate.auth.GetToken, token_request())
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")
    assert "PreconditionFailure" in refusal.details
    for method, request in (
        (zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)),
        (zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA)),
    ):
        refusal = await zoomgate.refusal(method, request)
        assert refusal.short == ("NOT_FOUND", "ZOOM_NOT_CONNECTED")


async def test_an_expired_token_is_refreshed_once_for_many_callers(zoomgate: Harness) -> None:
    """A hundred calls at once for a token that is too short-lived cost one refresh, and all get the new one."""
    async with running(
        zoomgate.data_dir / "short", simulator=SimulatorOptions(port=0, access_token_seconds=90)
    ) as short:
        await short.connect()
        wanted = pb.GetTokenRequest(user_email=MONICA)
        wanted.min_validity.seconds = 300
        before = short.stat("token.refresh_token.issued")
        short.simulator.zoom.options = SimulatorOptions(port=0, access_token_seconds=3600)
        answers = await asyncio.gather(*(short.call(short.auth.GetToken, wanted) for _ in range(100)))
        assert {answer.token.generation for answer in answers} == {2}
        assert short.stat("token.refresh_token.issued") - before == 1


async def test_a_refresh_outlives_the_caller_who_asked_for_it(zoomgate: Harness) -> None:
    """A caller whose deadline comes first does not stop the refresh; the next call finds its result."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=0.7))
    with pytest.raises(grpc.aio.AioRpcError) as early:
        await zoomgate.auth.RefreshToken(
            pb.RefreshTokenRequest(user_email=MONICA), metadata=metadata(), timeout=0.4
        )
    assert early.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    wanted = pb.RefreshTokenRequest(user_email=MONICA)
    answer = await zoomgate.call(zoomgate.auth.RefreshToken, wanted)
    assert answer.token.generation == 2
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_forced_refreshes_are_limited_to_one_a_minute(zoomgate: Harness) -> None:
    """The second forced refresh within the interval gives the token of the first."""
    await zoomgate.connect()
    wanted = pb.RefreshTokenRequest(user_email=MONICA)
    first = await zoomgate.call(zoomgate.auth.RefreshToken, wanted)
    second = await zoomgate.call(zoomgate.auth.RefreshToken, wanted)
    assert first.token.generation == second.token.generation == 2
    assert first.token.access_token == second.token.access_token


async def test_a_foreign_refresh_token_is_refused(zoomgate: Harness) -> None:
    """RefreshToken with a token that is not the stored one names the field and spends nothing."""
    await zoomgate.connect()
    refusal = await zoomgate.refusal(
        zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA, refresh_token="sim-rt-other")
    )
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert list(refusal.violations) == ["refresh_token"]
    assert zoomgate.stat("token.refresh_token.issued") == 0


async def test_a_refused_refresh_token_asks_for_consent_and_consent_heals(zoomgate: Harness) -> None:
    """When Zoom ended the grant, the user has to consent again; after that everything works."""
    await zoomgate.connect()
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
    assert refusal.metadata["cause"] == "REVOKED"
    shown = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert shown.connection.state == Connection.STATE_REAUTH_REQUIRED
    assert shown.connection.last_error.message
    await zoomgate.connect()
    assert (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token.generation == 2


@pytest.mark.parametrize("kind", ["status", "html", "garbage", "cut_before"])
async def test_outages_of_the_token_endpoint_change_no_user(zoomgate: Harness, kind: str) -> None:
    """5xx, HTML, half JSON and cut connections make the call unavailable; the user stays connected and works again afterwards."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", kind, times=-1, status=503))
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert refusal.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
    assert refusal.retry_after is not None
    zoomgate.simulator.faults.clear()
    assert (
        await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    ).token.generation == 2


async def test_a_lost_answer_with_a_strict_zoom_is_told_as_such(zoomgate: Harness) -> None:
    """If Zoom rotated and its answer never arrived, the user has to consent again, with the cause OUTCOME_LOST."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "cut_after"))
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert (refusal.reason, refusal.metadata["cause"]) == ("ZOOM_REAUTH_REQUIRED", "OUTCOME_LOST")


async def test_a_lost_answer_with_a_tolerant_zoom_is_recovered(zoomgate: Harness) -> None:
    """If Zoom accepts the token before once more, the user notices nothing."""
    async with running(
        zoomgate.data_dir / "tolerant", simulator=SimulatorOptions(port=0, tolerance=1)
    ) as tolerant:
        await tolerant.connect()
        tolerant.simulator.faults.add(Fault("token", "cut_after"))
        answer = await tolerant.call(tolerant.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        assert answer.token.generation == 2


async def test_a_wrong_client_secret_is_our_fault_and_no_users(zoomgate: Harness) -> None:
    """Zoom's refusal of our own credentials is INTERNAL and leaves the user connected."""
    await zoomgate.connect()
    right = zoomgate.simulator.zoom.options
    zoomgate.simulator.zoom.options = SimulatorOptions(port=0, client_secret="rotated-secret-value")
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert refusal.short == ("INTERNAL", "APP_CREDENTIALS_REJECTED")
    zoomgate.simulator.zoom.options = right
    assert (
        await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    ).token.generation == 2


async def test_throttled_refreshes_tell_when_to_come_back(zoomgate: Harness) -> None:
    """A 429 of the token endpoint is RESOURCE_EXHAUSTED with a delay, bounded by an hour."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "rate_limit_daily"))
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert refusal.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
    assert refusal.retry_after is not None
    assert 1 <= refusal.retry_after <= 3600
    assert "QuotaFailure" in refusal.details


async def test_disconnecting_ends_everything_and_revokes(zoomgate: Harness) -> None:
    """After DeleteConnection nothing is served, the tokens are dead at Zoom, and a repetition finds nothing."""
    await zoomgate.connect()
    wanted = pb.DeleteConnectionRequest(user_email=MONICA)
    ended = (await zoomgate.call(zoomgate.auth.DeleteConnection, wanted, "admin")).connection
    assert ended.state == Connection.STATE_DISCONNECTED
    assert zoomgate.simulator.zoom.access_tokens == {}
    refusal = await zoomgate.refusal(zoomgate.auth.GetToken, token_request())
    assert refusal.reason == "ZOOM_NOT_CONNECTED"
    assert (await zoomgate.refusal(zoomgate.auth.DeleteConnection, wanted)).code is grpc.StatusCode.NOT_FOUND
    await zoomgate.connect()
    assert (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token.generation > ended.generation


async def test_connections_are_listed_in_pages(zoomgate: Harness) -> None:
    """Pages follow each other, tokens are bound to filter and caller, and services see their users alone."""
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
    refusal = await zoomgate.refusal(zoomgate.auth.ListConnections, rest, "service")
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
    own = await zoomgate.call(zoomgate.auth.ListConnections, pb.ListConnectionsRequest(), "narrow")
    assert [connection.user_email for connection in own.connections] == [OMAR]
    ended = pb.ListConnectionsRequest(states=[Connection.STATE_DISCONNECTED])
    assert not (await zoomgate.call(zoomgate.auth.ListConnections, ended, "admin")).connections


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
async def test_a_member_is_compared_with_the_user(
    zoomgate: Harness, caller: str, forwarded: str, user: str, valid: bool, reason: str
) -> None:
    """ValidateUser answers for the member behind the call, in Velo's words."""
    answer = await zoomgate.call(
        zoomgate.auth.ValidateUser, pb.ValidateUserRequest(user_email=user), caller, forwarded
    )
    assert (answer.valid, answer.reason) == (valid, reason)


async def test_tokens_are_checked_by_facts_and_by_user(zoomgate: Harness) -> None:
    """CheckToken computes from facts, and reads the stored token without refreshing it."""
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
    assert (await zoomgate.refusal(zoomgate.auth.CheckToken, pb.CheckTokenRequest())).violations.keys() == {
        "subject"
    }


async def test_a_page_of_the_callers_own_completes_the_authorization(zoomgate: Harness) -> None:
    """With a redirect to the caller's page, code and state come back through CompleteAuthorization, with the options."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as own:
        begun = await own.begin(options={"page": "/book", "n": 3})
        code, state = await code_for(own, begun.authorization_url)
        assert state == begun.state
        wanted = pb.CompleteAuthorizationRequest(code=code, state=state)
        foreign = await own.refusal(own.auth.CompleteAuthorization, wanted, "blind")
        assert foreign.short == ("INVALID_ARGUMENT", "INVALID_STATE")
        done = await own.call(own.auth.CompleteAuthorization, wanted)
        assert (done.user_email, done.connection.state) == (MONICA, Connection.STATE_ACTIVE)
        assert dict(done.options) == {"page": "/book", "n": 3}
        again = await own.refusal(own.auth.CompleteAuthorization, wanted)
        assert again.short == ("INVALID_ARGUMENT", "INVALID_STATE")


async def test_a_used_code_is_refused_and_leaves_the_connection(zoomgate: Harness) -> None:
    """A code works once; its second use names CODE_REFUSED and the stored token stays."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as own:
        first = await own.begin()
        code, state = await code_for(own, first.authorization_url)
        await own.call(
            own.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(code=code, state=state)
        )
        second = await own.begin()
        refusal = await own.refusal(
            own.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(code=code, state=second.state)
        )
        assert refusal.short == ("INVALID_ARGUMENT", "CODE_REFUSED")
        assert (await own.call(own.auth.GetToken, token_request())).token.generation == 1


async def test_a_token_is_created_from_a_callers_code(zoomgate: Harness) -> None:
    """CreateToken stores; a service gets the token, a blind service and a member get success alone."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as own:
        for caller, given in (("service", True), ("blind", False), ("monica", False)):
            begun = await own.begin(caller=caller)
            code, state = await code_for(own, begun.authorization_url)
            answer = await own.call(
                own.auth.CreateToken, pb.CreateTokenRequest(user_email=MONICA, code=code, state=state), caller
            )
            assert (answer.success, answer.HasField("token")) == (True, given)


async def test_the_wrong_person_is_refused_and_its_token_revoked(zoomgate: Harness) -> None:
    """If somebody else consented, nothing is stored and the new token is dead."""
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as own:
        begun = await own.begin()
        code, state = await code_for(own, begun.authorization_url, OMAR)
        refusal = await own.refusal(
            own.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(code=code, state=state)
        )
        assert refusal.short == ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")
        missing = await own.refusal(own.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
        assert missing.code is grpc.StatusCode.NOT_FOUND
        async with asyncio.timeout(SECONDS):
            while own.simulator.zoom.access_tokens:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("failures", [0, 2])
async def test_the_wrong_person_who_is_connected_keeps_a_living_token(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """A consent ends the person's earlier tokens at Zoom, so a mistaken one refreshes that person's own connection.

    So it does if the store fails just then: the token exists nowhere else.
    """
    find, left = ConnectionRepository.find, failures

    async def finding(self: ConnectionRepository, zoom_user_id: str) -> tuple[ConnectionRecord | None, float]:
        nonlocal left
        if left:
            left -= 1
            raise StoreError("injected")
        return await find(self, zoom_user_id)

    monkeypatch.setattr(ConnectionRepository, "find", finding)
    async with running(zoomgate.data_dir / "own", environ=CALLERS_PAGE) as own:
        for asked in (OMAR, MONICA):
            begun = await own.begin(asked)
            code, state = await code_for(own, begun.authorization_url, OMAR)
            wanted = pb.CompleteAuthorizationRequest(code=code, state=state)
            if asked == OMAR:
                await own.call(own.auth.CompleteAuthorization, wanted)
            else:
                assert (
                    await own.refusal(own.auth.CompleteAuthorization, wanted)
                ).reason == "IDENTITY_MISMATCH"
        token = (await own.call(own.auth.GetToken, token_request(OMAR))).token
        assert token.generation == 2
        assert token.access_token in own.simulator.zoom.access_tokens
        assert not left


async def test_a_refresh_token_from_elsewhere_moves_in(zoomgate: Harness) -> None:
    """RequestToken spends a token that the caller brings, proves whose it is, and stores the result."""
    zoom = zoomgate.simulator.zoom
    code = zoom.issue_code(zoom.users[MONICA], "http://127.0.0.1/x")
    brought = zoom.exchange(code, "http://127.0.0.1/x", "")["refresh_token"]
    wanted = pb.RequestTokenRequest(user_email=MONICA, refresh_token=brought)
    assert (await zoomgate.call(zoomgate.auth.RequestToken, wanted)).token.generation == 1
    refusal = await zoomgate.refusal(zoomgate.auth.RequestToken, wanted)
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
    assert (await zoomgate.call(zoomgate.auth.GetToken, token_request())).token.generation == 1


async def test_open_authorizations_are_limited(tmp_path: Path) -> None:
    """Too many links for one user are refused with a delay."""
    async with running(tmp_path, environ={"ZOOMGATE_MAX_PENDING_PER_USER": "2"}) as zoomgate:
        for _ in range(2):
            await zoomgate.begin()
        wanted = pb.BeginAuthorizationRequest(user_email=MONICA)
        refusal = await zoomgate.refusal(zoomgate.auth.BeginAuthorization, wanted)
        assert refusal.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
        assert refusal.retry_after
        await zoomgate.begin(OMAR)


async def test_wrong_fields_are_told_all_at_once(zoomgate: Harness) -> None:
    """Every wrong field has its violation, with what to send instead."""
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
        refusal: Refusal = await zoomgate.refusal(method, request)
        assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD"), request
        assert set(refusal.violations) == fields, request
    longest = pb.GetTokenRequest(user_email=MONICA)
    longest.min_validity.seconds = 601
    assert set((await zoomgate.refusal(zoomgate.auth.GetToken, longest)).violations) == {"min_validity"}


async def test_a_declined_consent_stores_nothing(zoomgate: Harness) -> None:
    """Declining at Zoom leads to a page that says so, and the link is used up."""
    begun = await zoomgate.begin()
    async with browser() as session:
        page = await consent(session, begun.authorization_url, MONICA, "decline")
        assert page.url.query["outcome"] == "declined"
    refusal = await zoomgate.refusal(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert refusal.reason == "ZOOM_NOT_CONNECTED"
