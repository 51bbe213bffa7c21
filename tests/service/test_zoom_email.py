"""Tests for users whose Zoom account has a different email address, and for email addresses that change in Zoom."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from support.harness import (
    CALLERS,
    MONICA,
    OMAR,
    SECONDS,
    Harness,
    RpcError,
    browser,
    consent,
    consent_form,
    running,
)
from support.harness import service as service_caller
from zoom_simulator import SimulatedUser
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import disconnection
from zoomgate_server.identity import UserPatterns
from zoomgate_server.storage.record_store import Kind, Record, StoreError

OFFICE = "monica@office.example"
"""An address that no Zoom user has."""

RENAMED = "monica.new@example.com"
"""The new address of the Zoom user who had Monica's address."""

FREQUENT_SWEEPS = Timing(disconnections=disconnection.Timing(retry_interval=0.05))


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """Return a service that revokes tokens of other users soon."""
    only_office = service_caller("office", users=UserPatterns(addresses=frozenset({OFFICE})))
    async with running(
        tmp_path / "data", callers=CALLERS | {"office": only_office}, timing=FREQUENT_SWEEPS
    ) as harness:
        yield harness


async def page_of(zoomgate: Harness, user: str, zoom_email: str, consenting: str) -> tuple[str, str]:
    """Let a Zoom user consent, and return the outcome and the text of the result page."""
    started = await zoomgate.begin_authorization(user, zoom_email=zoom_email)
    async with browser() as session:
        page = await consent(session, started.authorization_url, consenting)
        return page.url.query["outcome"], await page.text()


async def code_of(authorization_url: str, consenting: str) -> str:
    """Grant consent, and return the code that Zoom sends to the caller's page."""
    async with browser() as session:
        action, fields = await consent_form(session, authorization_url)
        form = fields | {"user": consenting, "decision": "allow"}
        async with session.post(action, data=form, allow_redirects=False) as response:
            return URL(response.headers["Location"]).query["code"]


async def connection_of(zoomgate: Harness, user: str) -> Connection:
    request = pb.GetConnectionRequest(user_email=user)
    connection: Connection = (await zoomgate.call(zoomgate.auth.GetConnection, request)).connection
    return connection


async def is_connected(zoomgate: Harness, user: str) -> bool:
    listed = await zoomgate.call(
        zoomgate.auth.ListConnections, pb.ListConnectionsRequest(states=[Connection.STATE_ACTIVE]), "admin"
    )
    return user in [connection.user_email for connection in listed.connections]


async def denial_of(zoomgate: Harness, user: str, zoom_email: str, caller: str, member: str = "") -> RpcError:
    request = pb.BeginAuthorizationRequest(user_email=user, zoom_email=zoom_email)
    return await zoomgate.error_of(zoomgate.auth.BeginAuthorization, request, caller, member)


def audit_events(zoomgate: Harness, action: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (zoomgate.data_dir / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["action"] == action]


def rename_monica(zoomgate: Harness) -> None:
    zoomgate.simulator.zoom.rename(MONICA, RENAMED)


async def until_no_token_of(zoomgate: Harness, zoom_user_id: str) -> None:
    """Wait until all tokens of a Zoom user are revoked."""
    async with asyncio.timeout(SECONDS):
        while any(
            grant.user.user_id == zoom_user_id for grant in zoomgate.simulator.zoom.access_tokens.values()
        ):
            await asyncio.sleep(0.01)


def zoom_user_id(zoomgate: Harness, email: str) -> str:
    return zoomgate.simulator.zoom.user(email).user_id


async def test_zoom_user_with_the_named_address_is_connected(zoomgate: Harness) -> None:
    """Callers use the user's address. The Zoom user and the Zoom address are fields of the connection."""
    outcome, text = await page_of(zoomgate, OFFICE, MONICA.upper(), MONICA)
    assert outcome == "connected"
    assert f"Connected: <strong>{OFFICE}</strong><br>Zoom account: <strong>{MONICA}</strong>" in text
    connection = await connection_of(zoomgate, OFFICE)
    assert (connection.user_email, connection.zoom_email) == (OFFICE, MONICA)
    assert connection.zoom_user_id == zoom_user_id(zoomgate, MONICA)
    listed = await zoomgate.call(zoomgate.auth.ListConnections, pb.ListConnectionsRequest())
    assert list(listed.connections) == [connection]
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=OFFICE))
    missing = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    assert missing.reason == "ZOOM_NOT_CONNECTED"


async def test_start_page_shows_both_addresses(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization(OFFICE, zoom_email=MONICA)
    async with browser() as session, session.get(started.authorization_url) as page:
        text = await page.text()
    assert (
        f"the Zoom account of <strong>{MONICA}</strong> and use it for its user <strong>{OFFICE}</strong>"
        in text
    )


@pytest.mark.parametrize("consenting", [OMAR, OFFICE])
async def test_zoom_user_with_a_different_address_is_rejected(zoomgate: Harness, consenting: str) -> None:
    """The Zoom user with the address of the user is rejected as well. The page names the address to use; the tokens are revoked."""
    zoomgate.simulator.zoom.add_user(SimulatedUser(OFFICE, "u-Office"))
    outcome, text = await page_of(zoomgate, OFFICE, MONICA, consenting)
    assert outcome == "other_user"
    assert f"was for <strong>{OFFICE}</strong> with the Zoom account <strong>{MONICA}</strong>." in text
    assert OMAR not in text
    assert not await is_connected(zoomgate, OFFICE)
    await until_no_token_of(zoomgate, zoom_user_id(zoomgate, consenting))
    (event,) = audit_events(zoomgate, "connection.stored")
    assert (event["outcome"], event["details"]["zoom_email"]) == ("IDENTITY_MISMATCH", MONICA)


@pytest.mark.parametrize(
    ("caller", "member", "user", "zoom_email"),
    [
        ("office", "", OFFICE, MONICA),
        ("office", "", OFFICE, "unknown@example.com"),
        ("office", "", MONICA, OFFICE),
        ("omar", "", OMAR, MONICA),
        ("service", "omar", OMAR, MONICA),
    ],
)
async def test_caller_must_be_allowed_to_act_for_both_addresses(
    zoomgate: Harness, caller: str, member: str, user: str, zoom_email: str
) -> None:
    """The error is the same for both fields and does not depend on what is stored. The denied address is audited."""
    await zoomgate.connect(MONICA)
    denial = await denial_of(zoomgate, user, zoom_email, caller, member)
    denied = zoom_email if user in (OMAR, OFFICE) else user
    reference = await denial_of(zoomgate, denied, "", caller, member)
    assert denial.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    assert denial == reference
    assert [event["user"] for event in audit_events(zoomgate, "call.rejected")] == [denied, denied]


async def test_own_address_is_the_default(zoomgate: Harness) -> None:
    """Also in a different case. Members can set their own address."""
    await zoomgate.connect(MONICA, "monica", zoom_email=MONICA.upper())
    assert (await connection_of(zoomgate, MONICA)).zoom_email == ""
    assert "details" not in audit_events(zoomgate, "authorization.started")[0]
    assert "zoom_email" not in audit_events(zoomgate, "connection.stored")[0]["details"]


async def test_invalid_address_is_reported_with_its_field(zoomgate: Harness) -> None:
    error = await denial_of(zoomgate, "no address", "mönica@example.com", "service")
    assert error.reason == "INVALID_FIELD"
    assert set(error.violations) == {"user_email", "zoom_email"}


async def test_zoom_address_is_audited(zoomgate: Harness) -> None:
    await zoomgate.connect(OFFICE, zoom_email=MONICA)
    (started,) = audit_events(zoomgate, "authorization.started")
    (stored,) = audit_events(zoomgate, "connection.stored")
    assert (started["user"], started["details"]) == (OFFICE, {"zoom_email": MONICA})
    assert (stored["user"], stored["outcome"], stored["details"]["zoom_email"]) == (OFFICE, "ok", MONICA)


async def test_zoom_user_can_be_connected_for_one_address_only(zoomgate: Harness) -> None:
    """The consent renews the existing connection, because Zoom may have invalidated the earlier tokens."""
    await zoomgate.connect(MONICA)
    outcome, text = await page_of(zoomgate, OFFICE, MONICA, MONICA)
    assert outcome == "already_connected"
    assert "This Zoom account is already connected" in text
    assert not await is_connected(zoomgate, OFFICE)
    token = (await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    assert (token.generation, token.access_token in zoomgate.simulator.zoom.access_tokens) == (2, True)
    stored = audit_events(zoomgate, "connection.stored")[-1]
    assert (stored["user"], stored["outcome"]) == (OFFICE, "ZOOM_USER_ALREADY_CONNECTED")
    relinked = audit_events(zoomgate, "connection.relinked")[-1]
    assert (relinked["user"], relinked["generation"]) == (MONICA, 2)


@pytest.mark.parametrize(
    ("consenting", "expected"), [(MONICA, "already_connected"), (OMAR, "other_user_connected")]
)
async def test_unconfirmed_write_does_not_change_the_result_of_a_consent(
    zoomgate: Harness, consenting: str, expected: str
) -> None:
    await zoomgate.connect(MONICA)
    await zoomgate.connect(OMAR)
    lost: list[int] = []

    async def lose_first_confirmation(proceed: Any, record: Record, if_rev: int) -> Any:
        rev = await proceed(record, if_rev)
        if record.key.kind is Kind.USER and rev is not None and not lost:
            lost.append(rev)
            raise StoreError("the confirmation was lost")
        return rev

    with zoomgate.store.intercept("put", lose_first_confirmation):
        outcome, _ = await page_of(zoomgate, OFFICE, MONICA, consenting)
    assert outcome == expected
    assert lost


async def test_already_connected_page_does_not_reveal_the_connected_address(zoomgate: Harness) -> None:
    await zoomgate.connect(OFFICE, zoom_email=MONICA)
    outcome, text = await page_of(zoomgate, MONICA, "", MONICA)
    assert outcome == "already_connected"
    assert OFFICE not in text


async def test_disconnected_zoom_user_can_be_connected_for_a_different_address(zoomgate: Harness) -> None:
    await zoomgate.connect(MONICA)
    request = pb.DeleteConnectionRequest(user_email=MONICA)
    await zoomgate.call(zoomgate.auth.DeleteConnection, request)
    await zoomgate.connect(OFFICE, zoom_email=MONICA)
    assert (await connection_of(zoomgate, OFFICE)).zoom_email == MONICA


async def test_connection_of_a_renamed_zoom_user_moves(zoomgate: Harness) -> None:
    """The address under which the Zoom user was connected is not the Zoom user's any more, so it is disconnected."""
    await zoomgate.connect(MONICA)
    rename_monica(zoomgate)
    await zoomgate.connect(OFFICE, zoom_email=RENAMED)
    connection = await connection_of(zoomgate, OFFICE)
    assert (connection.state, connection.zoom_email) == (Connection.STATE_ACTIVE, RENAMED)
    former = await connection_of(zoomgate, MONICA)
    assert (former.state, former.zoom_email) == (Connection.STATE_DISCONNECTED, "")
    assert [event["user"] for event in audit_events(zoomgate, "connection.unlinked")] == [MONICA]


@pytest.mark.parametrize(("zoom_email", "outcome"), [(RENAMED, "connected"), ("", "other_user_connected")])
async def test_renamed_zoom_user_keeps_the_earlier_address_if_the_new_one_is_named(
    zoomgate: Harness, zoom_email: str, outcome: str
) -> None:
    """Otherwise the consent is rejected, but its tokens are stored in the Zoom user's connection."""
    await zoomgate.connect(MONICA)
    rename_monica(zoomgate)
    assert (await page_of(zoomgate, MONICA, zoom_email, RENAMED))[0] == outcome
    connection = await connection_of(zoomgate, MONICA)
    assert (connection.state, connection.generation) == (Connection.STATE_ACTIVE, 2)
    assert connection.zoom_email == zoom_email


async def test_connection_with_a_named_zoom_address_does_not_move(zoomgate: Harness) -> None:
    """A renamed Zoom user stays connected for the chosen address, until the caller names the new Zoom address."""
    await zoomgate.connect(OFFICE, zoom_email=MONICA)
    rename_monica(zoomgate)
    outcome, _ = await page_of(zoomgate, RENAMED, "", RENAMED)
    assert outcome == "already_connected"
    connection = await connection_of(zoomgate, OFFICE)
    assert (connection.state, connection.generation, connection.zoom_email) == (
        Connection.STATE_ACTIVE,
        2,
        MONICA,
    )
    await zoomgate.connect(OFFICE, zoom_email=RENAMED)
    connection = await connection_of(zoomgate, OFFICE)
    assert (connection.generation, connection.zoom_email) == (3, RENAMED)


@pytest.mark.parametrize("is_named", [True, False])
async def test_zoom_user_who_takes_an_address_replaces_the_former_one(
    zoomgate: Harness, is_named: bool
) -> None:
    """The former Zoom user's connection ends, its tokens are revoked, and the Zoom user can be connected for a different address."""
    zoom = zoomgate.simulator.zoom
    if is_named:
        await zoomgate.connect(OFFICE, zoom_email=MONICA)
        await zoomgate.connect(OFFICE, zoom_email=OMAR)
        user, former, other = OFFICE, MONICA, OMAR
    else:
        await zoomgate.connect(MONICA)
        rename_monica(zoomgate)
        zoom.add_user(replace(zoom.user(RENAMED), email=MONICA, user_id="u-New-Monica"))
        await zoomgate.connect(MONICA)
        user, former, other = MONICA, RENAMED, MONICA
    connection = await connection_of(zoomgate, user)
    assert (connection.state, connection.zoom_user_id) == (
        Connection.STATE_ACTIVE,
        zoom_user_id(zoomgate, other),
    )
    await until_no_token_of(zoomgate, zoom_user_id(zoomgate, former))
    assert [event["user"] for event in audit_events(zoomgate, "connection.unlinked")] == [user]
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=user))
    await zoomgate.connect("elsewhere@office.example", zoom_email=former)
    assert await is_connected(zoomgate, user)


@pytest.mark.parametrize(
    ("is_named", "reason"), [(True, "ZOOM_USER_ALREADY_CONNECTED"), (False, "IDENTITY_MISMATCH")]
)
async def test_import_for_a_different_address_than_the_connected_one_is_rejected(
    zoomgate: Harness, is_named: bool, reason: str
) -> None:
    """The error does not reveal the connection. The existing pair is retained."""
    await zoomgate.connect(OFFICE, zoom_email=MONICA)
    before = await connection_of(zoomgate, OFFICE)
    tokens = zoomgate.simulator.connect(MONICA)
    request = pb.ImportConnectionRequest(
        user_email=MONICA if is_named else OMAR,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=3600,
    )
    request.update_time.GetCurrentTime()
    error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
    assert error.short == ("FAILED_PRECONDITION", reason)
    assert OFFICE not in error.message
    assert await connection_of(zoomgate, OFFICE) == before


@pytest.mark.parametrize("is_disconnected", [True, False])
async def test_import_for_an_address_is_not_skipped_because_of_the_zoom_users_earlier_address(
    zoomgate: Harness, is_disconnected: bool
) -> None:
    await zoomgate.connect(MONICA)
    if is_disconnected:
        await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
    rename_monica(zoomgate)
    tokens = zoomgate.simulator.connect(RENAMED)
    request = pb.ImportConnectionRequest(
        user_email=RENAMED,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=3600,
    )
    request.update_time.GetCurrentTime()
    response = await zoomgate.call(zoomgate.auth.ImportConnection, request)
    assert response.outcome == pb.ImportConnectionResponse.OUTCOME_STORED
    assert response.connection.user_email == RENAMED
    assert not await is_connected(zoomgate, MONICA)


@pytest.mark.parametrize("method", ["CompleteAuthorization", "CreateToken"])
@pytest.mark.parametrize(
    ("zoom_email", "consenting", "reason"),
    [
        (OMAR, OMAR, ""),
        (OMAR, MONICA, "IDENTITY_MISMATCH"),
        (MONICA, MONICA, "ZOOM_USER_ALREADY_CONNECTED"),
    ],
)
async def test_code_from_the_callers_own_page_must_be_of_the_named_zoom_user(
    tmp_path: Path, method: str, zoom_email: str, consenting: str, reason: str
) -> None:
    """The state of the authorization determines the Zoom address."""
    environ = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done"}
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        for user, expected, actual, error in (
            (MONICA, "", MONICA, ""),
            (OFFICE, zoom_email, consenting, reason),
        ):
            started = await zoomgate.begin_authorization(user, zoom_email=expected)
            code = await code_of(started.authorization_url, actual)
            request = (
                pb.CompleteAuthorizationRequest(code=code, state=started.state)
                if method == "CompleteAuthorization"
                else pb.CreateTokenRequest(user_email=user, code=code, state=started.state)
            )
            call = getattr(zoomgate.auth, method)
            if error:
                assert (await zoomgate.error_of(call, request)).short == ("FAILED_PRECONDITION", error)
            else:
                await zoomgate.call(call, request)
        assert await is_connected(zoomgate, OFFICE) == (not reason)


async def test_earlier_consent_does_not_replace_a_later_one(zoomgate: Harness) -> None:
    """Zoom identifies the user of the earlier consent only after a different Zoom user has been connected for the address."""
    zoomgate.simulator.faults.add(Fault("users_me", "delay", seconds=SECONDS, user=MONICA))
    earlier = asyncio.create_task(page_of(zoomgate, OFFICE, MONICA, MONICA))
    async with asyncio.timeout(SECONDS):
        while zoomgate.simulator.faults.active():
            await asyncio.sleep(0.005)
    await zoomgate.connect(OFFICE, zoom_email=OMAR)
    zoomgate.simulator.faults.clear()
    assert (await earlier)[0] == "other_user"
    assert (await connection_of(zoomgate, OFFICE)).zoom_email == OMAR
    await until_no_token_of(zoomgate, zoom_user_id(zoomgate, MONICA))
