"""Tests for the outcome of an authorization, which the caller that started it can poll."""

from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from support.clock import AdvancingClock
from support.harness import MONICA, OMAR, Harness, browser, consent, consent_form, running
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server.authorization.limits import STATE_SECONDS
from zoomgate_server.authorization.repository import AuthorizationRepository
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import AuthorizationDeclined
from zoomgate_server.storage.record_store import Kind, Record, StoreError

APP = "loopback|zoomgate-dev"
OWN_PAGE = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done"}


async def outcome(zoomgate: Harness, state: str) -> tuple[str, str, str]:
    """Return the state of an authorization, and the reason and message of its error."""
    response = await zoomgate.call(zoomgate.auth.GetAuthorization, pb.GetAuthorizationRequest(state=state))
    assert response.expire_time.seconds
    return (
        pb.GetAuthorizationResponse.State.Name(response.state).removeprefix("STATE_"),
        ErrorReason.Name(response.error_reason).removeprefix("ERROR_REASON_"),
        response.error_message,
    )


PENDING, SUCCEEDED = ("PENDING", "UNSPECIFIED", ""), ("SUCCEEDED", "UNSPECIFIED", "")


async def test_authorization_is_pending_until_the_user_has_consented(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization()
    assert await outcome(zoomgate, started.state) == PENDING
    async with browser() as session:
        await consent_form(session, started.authorization_url)
        assert await outcome(zoomgate, started.state) == PENDING
        await consent(session, started.authorization_url, MONICA)
    assert await outcome(zoomgate, started.state) == SUCCEEDED


@pytest.mark.parametrize(
    ("user", "decision", "faults", "reason"),
    [
        (MONICA, "decline", (), "AUTHORIZATION_DECLINED"),
        (OMAR, "allow", (), "IDENTITY_MISMATCH"),
        (MONICA, "allow", (Fault("token", "status", status=503),), "ZOOM_OUTCOME_UNKNOWN"),
        (MONICA, "allow", (Fault("token", "status", status=400),), "TOKEN_REQUEST_REFUSED"),
    ],
)
async def test_failure_in_the_browser_is_the_outcome(
    zoomgate: Harness, user: str, decision: str, faults: tuple[Fault, ...], reason: str
) -> None:
    """An existing connection does not change the outcome."""
    await zoomgate.connect()
    started = await zoomgate.begin_authorization()
    for fault in faults:
        zoomgate.simulator.faults.add(fault)
    async with browser() as session:
        await consent(session, started.authorization_url, user, decision)
    state, failed_with, message = await outcome(zoomgate, started.state)
    assert (state, failed_with) == ("FAILED", reason)
    assert message


async def test_authorization_is_pending_while_the_connection_is_created_later(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization()
    zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1, status=500))
    async with browser() as session:
        await consent(session, started.authorization_url, MONICA)
    assert await outcome(zoomgate, started.state) == PENDING


async def callback_url(url: str, decision: str) -> str:
    """Decide on a consent, and return the URL of Zoom's redirect."""
    async with browser() as session:
        action, fields = await consent_form(session, url)
        form = fields | {"user": MONICA, "decision": decision}
        async with session.post(action, data=form, allow_redirects=False) as response:
            return response.headers["Location"]


@pytest.mark.parametrize(
    ("decision", "expected"),
    [("allow", ("SUCCEEDED", "UNSPECIFIED")), ("decline", ("FAILED", "AUTHORIZATION_DECLINED"))],
)
@pytest.mark.parametrize("is_token", [False, True])
async def test_outcome_of_a_caller_with_its_own_page_is_returned(
    tmp_path: Path, decision: str, expected: tuple[str, str], is_token: bool
) -> None:
    async with running(tmp_path, environ=OWN_PAGE) as zoomgate:
        started = await zoomgate.begin_authorization()
        returned = await callback_url(started.authorization_url, decision)
        method: Any = zoomgate.auth.CompleteAuthorization
        request: Any = pb.CompleteAuthorizationRequest(callback_url=returned)
        if is_token and decision == "allow":
            method = zoomgate.auth.CreateToken
            code = URL(returned).query["code"]
            request = pb.CreateTokenRequest(user_email=MONICA, code=code, state=started.state)
        if decision == "allow":
            await zoomgate.call(method, request)
        else:
            await zoomgate.error_of(method, request)
        assert (await outcome(zoomgate, started.state))[:2] == expected


@pytest.mark.parametrize("caller", ["monica", "blind"])
async def test_outcome_is_returned_only_to_the_caller_that_started_the_authorization(
    zoomgate: Harness, caller: str
) -> None:
    started = await zoomgate.begin_authorization()
    for state in (started.state, "unknown"):
        request = pb.GetAuthorizationRequest(state=state)
        error = await zoomgate.error_of(zoomgate.auth.GetAuthorization, request, caller)
        assert error.short == ("INVALID_ARGUMENT", "INVALID_STATE")


async def test_outcome_is_returned_until_the_authorization_expires(tmp_path: Path) -> None:
    clock = AdvancingClock()
    async with running(tmp_path, clock=clock) as zoomgate:
        started = await zoomgate.begin_authorization()
        async with browser() as session:
            await consent(session, started.authorization_url, MONICA, "decline")
        clock.ahead = STATE_SECONDS - 60
        assert (await outcome(zoomgate, started.state))[0] == "FAILED"
        clock.ahead = STATE_SECONDS + 60
        request = pb.GetAuthorizationRequest(state=started.state)
        error = await zoomgate.error_of(zoomgate.auth.GetAuthorization, request)
        assert error.short == ("INVALID_ARGUMENT", "INVALID_STATE")


async def test_reason_that_a_newer_version_has_stored_is_unspecified(tmp_path: Path) -> None:
    async with running(tmp_path) as zoomgate:
        started = await zoomgate.begin_authorization()
        authorizations = AuthorizationRepository(
            store=zoomgate.store,
            envelope=Envelope(app=APP, keys=key_file.load(tmp_path / "keys.json")),
            reason_of=lambda _: "REASON_OF_A_NEWER_VERSION",
        )
        pending = await authorizations.get(started.state, "authorization")
        with pytest.raises(AuthorizationDeclined):
            async with authorizations.consuming(started.state, pending):
                raise AuthorizationDeclined("m")
        assert await outcome(zoomgate, started.state) == ("FAILED", "UNSPECIFIED", "m")


async def test_outcome_that_cannot_be_stored_does_not_change_the_result(zoomgate: Harness) -> None:
    writes = 0

    async def fail_second(proceed: Any, record: Record, if_rev: int) -> Any:
        nonlocal writes
        is_update = record.key.kind is Kind.STATE and if_rev > 0
        writes += is_update
        if is_update and writes == 2:
            raise StoreError("failed by the test")
        return await proceed(record, if_rev)

    started = await zoomgate.begin_authorization()
    with zoomgate.store.intercept("put", fail_second):
        async with browser() as session:
            page = await consent(session, started.authorization_url, MONICA)
    assert page.url.query["outcome"] == "connected"
    assert writes == 2
    assert await outcome(zoomgate, started.state) == PENDING
