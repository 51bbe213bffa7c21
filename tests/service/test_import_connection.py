"""Tests for ImportConnection: token pairs of another system, verified and stored by a running service."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from service.test_audit import lines
from service.test_journal_recovery import stored
from service.test_metrics import metric_value
from support.faulty_store import Gate
from support.harness import BASIL, MONICA, OMAR, Harness, metadata, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2 import ImportConnectionResponse as Response
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import disconnection, journal_recovery

STORED, ALREADY_STORED = Response.OUTCOME_STORED, Response.OUTCOME_ALREADY_STORED
CONSENT_REQUIRED = Response.OUTCOME_CONSENT_REQUIRED


def at(seconds: float) -> Timestamp:
    """Return a time as a Timestamp."""
    return Timestamp(seconds=int(seconds))


def exported(simulator: Simulator, user: str = MONICA, **fields: Any) -> pb.ImportConnectionRequest:
    """Let a user consent to the app of another system, and return the request that imports the tokens, with a valid access token."""
    tokens = simulator.connect(user)
    default = {"update_time": at(time.time()), "expires_in": 3600, "scope": "user:read:user"}
    return pb.ImportConnectionRequest(
        **{"user_email": user} | default | fields,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
    )


def expired(simulator: Simulator, user: str = MONICA, **fields: Any) -> pb.ImportConnectionRequest:
    """Return the same request with an expired access token."""
    request = exported(simulator, user, update_time=at(time.time() - 7200), **fields)
    simulator.zoom.expire(user)
    return request


async def imported(
    zoomgate: Harness, request: pb.ImportConnectionRequest, caller: str = "service"
) -> Response:
    """Import a token pair."""
    response: Response = await zoomgate.call(zoomgate.auth.ImportConnection, request, caller)
    return response


async def access_token(zoomgate: Harness, user: str = MONICA) -> str:
    """Return the user's access token."""
    token: str = (
        await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=user))
    ).token.access_token
    return token


async def reached(zoomgate: Harness, counter: str) -> None:
    """Wait until a counter of the simulator is positive."""
    async with asyncio.timeout(20):
        while not zoomgate.stat(counter):
            await asyncio.sleep(0.01)


async def open_when_unavailable(gate: Gate, address: str) -> None:
    """Release the calls that a gate holds once a service accepts no more calls."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        while True:
            try:
                await check(b"", timeout=5)
            except grpc.aio.AioRpcError:
                break
            await asyncio.sleep(0.01)
    gate.opened.set()


async def test_expired_access_token_is_replaced_by_exchanging_the_refresh_token(zoomgate: Harness) -> None:
    request = expired(zoomgate.simulator)
    response = await imported(zoomgate, request)
    assert (response.outcome, response.connection.state) == (STORED, Connection.STATE_ACTIVE)
    assert zoomgate.stat("token.refresh_token.issued") == 1
    assert await access_token(zoomgate) not in ("", request.access_token)


@pytest.mark.parametrize("with_lifetime", [True, False], ids=["expires_in", "expire_time"])
async def test_valid_access_token_is_stored_unchanged(zoomgate: Harness, with_lifetime: bool) -> None:
    request = exported(zoomgate.simulator)
    if not with_lifetime:
        request.expires_in = 0
        request.expire_time.seconds = int(time.time()) + 1800
    response = await imported(zoomgate, request)
    assert response.outcome == STORED
    assert list(response.connection.scopes) == ["user:read:user"]
    assert (
        abs(response.connection.access_expire_time.seconds - time.time() - (3600 if with_lifetime else 1800))
        < 60
    )
    assert await access_token(zoomgate) == request.access_token
    assert zoomgate.stat("token.refresh_token.issued") == 0


async def test_access_token_that_zoom_rejects_is_replaced(zoomgate: Harness) -> None:
    """The other system reported a later expiry than Zoom's."""
    request = exported(zoomgate.simulator)
    zoomgate.simulator.zoom.expire(MONICA)
    assert (await imported(zoomgate, request)).outcome == STORED
    assert zoomgate.stat("token.refresh_token.issued") == 1


@pytest.mark.parametrize("export", [exported, expired])
async def test_repeated_import_with_another_replica_returns_the_first_result(
    export: Callable[[Simulator], pb.ImportConnectionRequest], tmp_path: Path
) -> None:
    async with (
        Simulator(SimulatorOptions(port=0)) as zoom,
        serving(zoom, tmp_path) as first,
        serving(zoom, tmp_path) as second,
    ):
        request = export(zoom)
        response = await imported(first, request)
        repeated = await imported(second, request)
        assert (response.outcome, repeated.outcome) == (STORED, ALREADY_STORED)
        assert repeated.connection == response.connection
        assert first.stat("token.refresh_token.refused") == 0


async def test_concurrent_imports_of_a_pair_exchange_it_once(zoomgate: Harness) -> None:
    request = expired(zoomgate.simulator)
    responses = await asyncio.gather(*(imported(zoomgate, request) for _ in range(10)))
    assert sorted(response.outcome for response in responses) == [STORED, *[ALREADY_STORED] * 9]
    assert (zoomgate.stat("token.refresh_token.issued"), zoomgate.stat("token.refresh_token.refused")) == (
        1,
        0,
    )


async def test_canceled_import_completes(zoomgate: Harness) -> None:
    """The caller disconnects while Zoom exchanges the refresh token."""
    request = expired(zoomgate.simulator)
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=20.0))
    call = zoomgate.auth.ImportConnection(request, metadata=metadata(), timeout=20)
    await reached(zoomgate, "faults.delay")
    call.cancel()
    zoomgate.simulator.faults.clear()
    assert (await imported(zoomgate, request)).outcome == ALREADY_STORED
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_shutdown_waits_for_a_running_import(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        request = expired(zoom)
        gate = Gate(after_effect=False, holds=lambda record, _: record.user_email == MONICA)
        async with contextlib.AsyncExitStack() as stack:
            service = await stack.enter_async_context(serving(zoom, tmp_path))
            stack.enter_context(service.store.intercept("put", gate))
            call = service.auth.ImportConnection(request, metadata=metadata(), timeout=20)
            await gate.reached.wait()
            call.cancel()
            opening = asyncio.create_task(open_when_unavailable(gate, service.grpc_address))
        await opening
        assert not list((tmp_path / "journal").glob("*.entry"))
        async with serving(zoom, tmp_path) as service:
            assert (await imported(service, request)).outcome == ALREADY_STORED


async def test_connected_user_is_skipped_unless_a_newer_pair_replaces_the_connection(
    zoomgate: Harness,
) -> None:
    await zoomgate.connect(MONICA)
    before = await access_token(zoomgate)
    newer = exported(zoomgate.simulator, update_time=at(time.time() + 60), expires_in=1800)
    older = pb.ImportConnectionRequest()
    older.CopyFrom(newer)
    older.update_time.seconds -= 7200
    older.replace = True
    for request in (newer, older):
        response = await imported(zoomgate, request)
        assert response.outcome == Response.OUTCOME_SKIPPED_CONNECTED
        assert response.connection.state == Connection.STATE_ACTIVE
    assert await access_token(zoomgate) == before
    newer.replace = True
    assert (await imported(zoomgate, newer)).outcome == STORED
    assert await access_token(zoomgate) == newer.access_token


async def test_disconnected_user_is_skipped_unless_a_newer_pair_replaces_the_record(
    zoomgate: Harness,
) -> None:
    await zoomgate.connect(MONICA)
    await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
    request = exported(zoomgate.simulator, update_time=at(time.time() + 60), expires_in=1800)
    response = await imported(zoomgate, request)
    assert response.outcome == Response.OUTCOME_SKIPPED_DISCONNECTED
    assert response.connection.state == Connection.STATE_DISCONNECTED
    request.replace = True
    assert (await imported(zoomgate, request)).outcome == STORED


async def test_user_who_must_consent_again_is_connected(zoomgate: Harness) -> None:
    await zoomgate.connect(MONICA)
    request = exported(zoomgate.simulator)  # invalidates the stored tokens
    refresh = pb.RefreshTokenRequest(user_email=MONICA)
    assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)).reason == "ZOOM_REAUTH_REQUIRED"
    assert (await imported(zoomgate, request)).outcome == STORED


async def test_rejected_refresh_token_requires_consent(zoomgate: Harness) -> None:
    """The rejection is audited, and no connection is created."""
    request = expired(zoomgate.simulator)
    request.refresh_token = "sim-rt-of-another-app"
    response = await imported(zoomgate, request)
    assert (response.outcome, response.HasField("connection")) == (CONSENT_REQUIRED, False)
    (event,) = lines(zoomgate.data_dir, "authorization.rejected")
    assert (event["outcome"], event["user"], event["principal"]) == (
        "ZOOM_REAUTH_REQUIRED",
        MONICA,
        "service",
    )


async def test_stored_pair_that_zoom_has_since_rejected_requires_consent(zoomgate: Harness) -> None:
    """The refresh token of a different app is stored because the access token is valid, and rejected at the first refresh."""
    request = exported(zoomgate.simulator)
    request.refresh_token = "sim-rt-of-another-app"
    assert (await imported(zoomgate, request)).outcome == STORED
    refresh = pb.RefreshTokenRequest(user_email=MONICA)
    assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)).reason == "ZOOM_REAUTH_REQUIRED"
    response = await imported(zoomgate, request)
    assert response.outcome == CONSENT_REQUIRED
    assert response.connection.state == Connection.STATE_REAUTH_REQUIRED


async def test_unused_pair_of_a_different_user_is_rejected_and_not_revoked(zoomgate: Harness) -> None:
    request = exported(zoomgate.simulator, OMAR, user_email=MONICA)
    error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
    assert error.short == ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")
    assert error.message.endswith("; they were not used")
    request.user_email = OMAR
    assert (await imported(zoomgate, request)).outcome == STORED
    await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=OMAR))
    events = [(event["outcome"], event["user"]) for event in lines(zoomgate.data_dir, "connection.stored")]
    assert events == [
        ("IDENTITY_MISMATCH", MONICA),
        ("ok", OMAR),
        ("ok", OMAR),
    ]  # stored, and linked at the first refresh


async def test_exchanged_pair_of_a_different_user_is_revoked(tmp_path: Path) -> None:
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
    async with running(tmp_path, timing=timing) as zoomgate:
        request = expired(zoomgate.simulator, OMAR, user_email=MONICA)
        error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
        assert error.short == ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")
        assert error.message.endswith(
            "; they were exchanged and are being revoked, so the user must consent again"
        )
        await reached(zoomgate, "revoke.known")


async def test_exchanged_pair_of_a_different_connected_user_becomes_that_users_next_pair(
    zoomgate: Harness,
) -> None:
    await zoomgate.connect(OMAR)
    request = expired(zoomgate.simulator, OMAR, user_email=MONICA)
    error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
    assert error.short == ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")
    assert error.message.endswith("; they were exchanged and stored as that user's connection")
    assert await access_token(zoomgate, OMAR) in zoomgate.simulator.zoom.access_tokens
    assert zoomgate.stat("revoke.known") == 0


@pytest.mark.parametrize("is_connected", [False, True], ids=["unknown", "connected"])
async def test_refresh_token_of_a_different_user_is_detected_at_its_first_use(
    tmp_path: Path, is_connected: bool
) -> None:
    """The access token belongs to Monica, and the refresh token to Omar. No caller receives a token of Omar for Monica."""
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
    async with running(tmp_path, timing=timing) as zoomgate:
        if is_connected:
            await zoomgate.connect(OMAR)
        request = exported(zoomgate.simulator)
        request.refresh_token = exported(zoomgate.simulator, OMAR).refresh_token
        assert (await imported(zoomgate, request)).outcome == STORED
        refresh = pb.RefreshTokenRequest(user_email=MONICA)
        assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)).reason == "ZOOM_REAUTH_REQUIRED"
        assert zoomgate.stat("token.refresh_token.issued") == 1
        if is_connected:
            assert await access_token(zoomgate, OMAR) in zoomgate.simulator.zoom.access_tokens
            assert zoomgate.stat("revoke.known") == 0
        else:
            await reached(zoomgate, "revoke.known")
        events = [(event["outcome"], event["user"]) for event in lines(tmp_path, "connection.stored")]
        assert events[-2:] == [("ok", MONICA), ("IDENTITY_MISMATCH", MONICA)]


async def test_disconnection_does_not_revoke_a_refresh_token_that_was_not_exchanged(tmp_path: Path) -> None:
    """The refresh token that was imported for Monica belongs to Omar."""
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
    async with running(tmp_path, timing=timing) as zoomgate:
        await zoomgate.connect(OMAR)
        omars = await access_token(zoomgate, OMAR)
        request = exported(zoomgate.simulator)
        request.refresh_token = zoomgate.simulator.zoom.grants[OMAR].refresh_token
        assert (await imported(zoomgate, request)).outcome == STORED
        await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
        await reached(zoomgate, "revoke.known")
        assert request.access_token not in zoomgate.simulator.zoom.access_tokens
        assert omars in zoomgate.simulator.zoom.access_tokens


async def test_first_refresh_of_an_imported_pair_waits_until_zoom_identifies_the_user(tmp_path: Path) -> None:
    """Until then, no caller receives the new access token, and the refresh token is not sent again."""
    timing = Timing(recovery=journal_recovery.Timing(0.05, first_pause=0.05, max_pause=0.1))
    async with running(tmp_path, timing=timing) as zoomgate:
        request = exported(zoomgate.simulator)
        assert (await imported(zoomgate, request)).outcome == STORED
        zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1, status=503))
        refresh = pb.RefreshTokenRequest(user_email=MONICA)
        error = await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh, seconds=3.0)
        assert error.reason == "REFRESH_IN_PROGRESS"
        zoomgate.simulator.faults.clear()
        async with asyncio.timeout(20):
            while await access_token(zoomgate) == request.access_token:
                await asyncio.sleep(0.02)
        assert zoomgate.stat("token.refresh_token.issued") == 1
        assert await access_token(zoomgate) in zoomgate.simulator.zoom.access_tokens


async def test_import_under_a_new_address_does_not_replace_the_connection_of_the_zoom_user(
    zoomgate: Harness,
) -> None:
    """The Zoom user was renamed, and the export is older than the connection."""
    await zoomgate.connect(MONICA)
    request = exported(zoomgate.simulator, update_time=at(time.time() - 60), user_email="monika@example.com")
    zoomgate.simulator.zoom.rename(MONICA, "monika@example.com")
    error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
    assert error.short == ("FAILED_PRECONDITION", "ZOOM_USER_ALREADY_CONNECTED")
    assert await access_token(zoomgate) != request.access_token


async def test_unused_pair_is_not_revoked_if_the_user_is_disconnected_during_the_import(
    zoomgate: Harness,
) -> None:
    await zoomgate.connect(MONICA)
    request = exported(zoomgate.simulator, update_time=at(time.time() + 60), expires_in=1800, replace=True)
    zoomgate.simulator.faults.add(Fault("users_me", "delay", seconds=20.0))
    importing = asyncio.create_task(imported(zoomgate, request))
    await reached(zoomgate, "faults.delay")
    await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
    zoomgate.simulator.faults.clear()
    assert (await importing).outcome == Response.OUTCOME_SKIPPED_DISCONNECTED
    request.update_time.seconds += 60
    assert (await imported(zoomgate, request)).outcome == STORED
    await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))


@pytest.mark.parametrize("endpoint", ["token", "users_me"])
@pytest.mark.parametrize("kind", ["status", "rate_limit_qps", "cut_before"])
async def test_import_can_be_retried_after_a_failure_of_zoom(
    endpoint: str, kind: str, tmp_path: Path
) -> None:
    """If the tokens were exchanged, they are stored from the journal."""
    timing = Timing(recovery=journal_recovery.Timing(poll_interval=0.01))
    async with running(tmp_path, timing=timing) as zoomgate:
        request = expired(zoomgate.simulator)
        zoomgate.simulator.faults.add(Fault(endpoint, kind, times=2))
        outcome = Response.OUTCOME_UNSPECIFIED
        while not outcome:
            try:
                outcome = (await imported(zoomgate, request)).outcome
            except grpc.aio.AioRpcError as error:
                if error.code().name not in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN"):
                    raise
                await asyncio.sleep(0.02)
        assert outcome in (STORED, ALREADY_STORED)
        assert zoomgate.stat("token.refresh_token.issued") == 1
        assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_exchanged_pair_whose_user_zoom_has_not_confirmed_is_not_exchanged_again(
    tmp_path: Path,
) -> None:
    """Until the pair is stored from the journal, a repeated import fails with a retry delay."""
    timing = Timing(recovery=journal_recovery.Timing(poll_interval=0.01))
    async with running(tmp_path, timing=timing) as zoomgate:
        request = expired(zoomgate.simulator)
        zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1))
        for _ in range(2):
            error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
            assert (error.short, error.retry_after) == (("UNAVAILABLE", "ZOOM_UNAVAILABLE"), 5.0)
        zoomgate.simulator.faults.clear()
        async with asyncio.timeout(20):
            while list((tmp_path / "journal").glob("*.entry")):
                await asyncio.sleep(0.01)
        assert (await imported(zoomgate, request)).outcome == ALREADY_STORED
        assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_pair_whose_access_tokens_zoom_rejects_is_renewed_once_per_attempt(tmp_path: Path) -> None:
    """Zoom issues tokens, and rejects them at every call. The pair waits for the next attempt of the journal recovery."""
    timing = Timing(recovery=journal_recovery.Timing(poll_interval=100.0))
    async with running(tmp_path, timing=timing) as zoomgate:
        zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1, status=401))
        request = expired(zoomgate.simulator)
        error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
        assert (error.short, error.metadata["connection"]) == (("UNAVAILABLE", "ZOOM_UNAVAILABLE"), "pending")
        assert zoomgate.stat("token.refresh_token.issued") == 2
        assert len(list((tmp_path / "journal").glob("*.entry"))) == 1


@pytest.mark.parametrize(
    ("kind", "error_of_import"),
    [
        ("status", ("UNAVAILABLE", "ZOOM_UNAVAILABLE")),
        ("html", ("UNAVAILABLE", "ZOOM_UNAVAILABLE")),
        ("garbage", ("UNAVAILABLE", "ZOOM_UNAVAILABLE")),
        ("redirect", ("INTERNAL", "ZOOM_BAD_RESPONSE")),
    ],
)
async def test_unused_pair_whose_user_zoom_has_not_confirmed_is_not_stored_later(
    zoomgate: Harness, kind: str, error_of_import: tuple[str, str]
) -> None:
    """The error does not announce a connection, and a repeated import verifies the pair again."""
    request = exported(zoomgate.simulator)
    zoomgate.simulator.faults.add(Fault("users_me", kind, times=-1))
    error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
    assert error.short == error_of_import
    assert "later; do not send" not in error.message
    assert not list((zoomgate.data_dir / "journal").glob("*.entry"))
    zoomgate.simulator.faults.clear()
    assert (await imported(zoomgate, request)).outcome == STORED


async def test_exchanged_pair_is_stored_after_journal_and_store_have_failed(zoomgate: Harness) -> None:
    """Until the store accepts the pair, it exists only in the memory of the service."""
    request = expired(zoomgate.simulator)
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=20.0))
    importing = asyncio.create_task(imported(zoomgate, request))
    await reached(zoomgate, "faults.delay")
    shutil.rmtree(zoomgate.data_dir / "journal")
    zoomgate.store.fail("put", 3)
    zoomgate.simulator.faults.clear()
    assert (await importing).outcome == STORED
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_import_requires_permission_to_receive_refresh_tokens(zoomgate: Harness) -> None:
    """Administrators may import for all users, services for their own users, and nobody on behalf of a member."""
    request = exported(zoomgate.simulator)
    for caller, member_token in (("blind", ""), ("omars", ""), ("monica", ""), ("service", "monica")):
        error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request, caller, member_token)
        assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED"), (caller, member_token)
    assert (await imported(zoomgate, exported(zoomgate.simulator, OMAR), "omars")).outcome == STORED
    assert (await imported(zoomgate, request, "admin")).outcome == STORED


async def test_replaced_connection_retains_its_owner(tmp_path: Path) -> None:
    """The audit trail and the connection name the importing caller."""
    async with running(tmp_path) as zoomgate:
        await zoomgate.connect(MONICA, "monica")
        request = exported(
            zoomgate.simulator, update_time=at(time.time() + 60), expires_in=1800, replace=True
        )
        assert (await imported(zoomgate, request)).outcome == STORED
        assert (await imported(zoomgate, exported(zoomgate.simulator, BASIL), "admin")).outcome == STORED
        event, by_admin = (
            line
            for line in lines(zoomgate.data_dir, "connection.stored")
            if line["details"]["origin"] == "import"
        )
        assert (event["outcome"], event["user"], event["principal"]) == ("ok", MONICA, "service")
        assert (event["method"], event["generation"]) == ("AuthService.ImportConnection", 2)
        assert event["details"] == {"origin": "import", "initiated_by": "key|service"}
        assert (by_admin["principal"], by_admin["role"]) == ("admin", "admin")
        assert request.refresh_token not in (tmp_path / "audit.jsonl").read_text()
    record = await stored(tmp_path, MONICA)
    assert (record.owner, record.initiated_by) == (f"key|{MONICA}", "key|service")
    assert (await stored(tmp_path, BASIL)).owner is None


async def test_outcomes_are_counted(zoomgate: Harness) -> None:
    request = exported(zoomgate.simulator)
    await imported(zoomgate, request)
    await imported(zoomgate, request)
    for outcome, count in (("STORED", 1), ("ALREADY_STORED", 1), ("CONSENT_REQUIRED", 0)):
        assert await metric_value(zoomgate, f'zoomgate_imports_total{{outcome="{outcome}"}}') == count


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"refresh_token": ""}, "refresh_token"),
        ({"refresh_token": "t" * 8193}, "refresh_token"),
        ({"refresh_token": "with space"}, "refresh_token"),
        ({"access_token": "ü"}, "access_token"),
        ({"scope": "s" * 16385}, "scope"),
        ({"expires_in": -1, "update_time": at(1)}, "expires_in"),
        ({"expires_in": 60}, "expires_in"),
        ({"expires_in": 60, "update_time": at(1), "expire_time": at(2)}, "expires_in"),
        ({"update_time": Timestamp(seconds=-1)}, "update_time"),
        ({"expire_time": Timestamp(seconds=253_402_300_799)}, "expire_time"),
    ],
)
async def test_invalid_field_is_reported(zoomgate: Harness, fields: dict[str, Any], invalid: str) -> None:
    request = pb.ImportConnectionRequest(**{"user_email": MONICA, "refresh_token": "t"} | fields)
    error = await zoomgate.error_of(zoomgate.auth.ImportConnection, request)
    assert (error.short, set(error.violations)) == (("INVALID_ARGUMENT", "INVALID_FIELD"), {invalid})
