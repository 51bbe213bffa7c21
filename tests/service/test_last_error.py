"""Tests for a connection's last error and next refresh time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.clock import AdvancingClock
from support.harness import MONICA, Harness, running, serving
from support.raw_upstream import http_response, raw_upstream
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.connection_pb2 import Connection
from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server.zoom import response_headers

NO_REFRESH_INTERVAL = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
REFRESH = pb.RefreshTokenRequest(user_email=MONICA)


async def get_connection(zoomgate: Harness) -> Connection:
    """Return the connection of Monica."""
    response = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    connection: Connection = response.connection
    return connection


def reason_of(connection: Connection) -> str:
    return ErrorReason.Name(connection.last_error.reason).removeprefix("ERROR_REASON_")


def fault(kind: str, times: int = -1) -> Callable[[Harness], None]:
    return lambda harness: harness.simulator.faults.add(Fault("token", kind, times=times))


def change_secret(harness: Harness) -> None:
    harness.simulator.zoom.options = SimulatorOptions(port=0, client_secret="another-secret")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (fault("status"), "ZOOM_UNAVAILABLE"),
        (fault("cut_before"), "ZOOM_UNAVAILABLE"),
        (fault("rate_limit_daily"), "ZOOM_RATE_LIMITED"),
        (fault("redirect"), "APP_CREDENTIALS_REJECTED"),
        (change_secret, "APP_CREDENTIALS_REJECTED"),
    ],
    ids=["down", "connection cut", "rate limited", "redirected", "app credentials rejected"],
)
async def test_last_error_is_set_by_a_failure_and_cleared_by_a_success(
    tmp_path: Path, failure: Callable[[Harness], None], reason: str
) -> None:
    """The tested failures are not specific to the user, so the connection remains active."""
    clock = AdvancingClock()
    async with running(tmp_path / "data", environ=NO_REFRESH_INTERVAL, clock=clock) as zoomgate:
        await zoomgate.connect()
        options = zoomgate.simulator.zoom.options
        before = await get_connection(zoomgate)
        failure(zoomgate)
        error = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH)
        failed = await get_connection(zoomgate)
        assert error.reason == reason_of(failed) == reason
        assert failed.last_error.message
        assert failed.last_error.time.ToNanoseconds() > before.update_time.ToNanoseconds()
        assert failed.update_time == failed.last_error.time
        assert (failed.state, failed.generation) == (Connection.STATE_ACTIVE, 1)
        zoomgate.simulator.faults.clear()
        zoomgate.simulator.zoom.options = options
        clock.ahead += response_headers.MAX_SECONDS
        await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
        recovered = await get_connection(zoomgate)
        assert (recovered.generation, recovered.HasField("last_error")) == (2, False)


async def test_invalid_token_response_is_the_last_error(tmp_path: Path) -> None:
    """If the new token is not a bearer token, the current token remains in use."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, raw_upstream() as upstream:
        async with serving(zoom, tmp_path / "data") as zoomgate:
            await zoomgate.connect()
        upstream.responses = [http_response("200 OK", b'{"access_token": "a", "token_type": "mac"}')]
        environ = NO_REFRESH_INTERVAL | {"ZOOMGATE_ZOOM_OAUTH_URL": upstream.url}
        async with serving(zoom, tmp_path / "data", environ=environ) as zoomgate:
            error = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH)
            failed = await get_connection(zoomgate)
            assert error.reason == reason_of(failed) == "ZOOM_BAD_RESPONSE"
            assert failed.state == Connection.STATE_ACTIVE


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (
            lambda harness: harness.simulator.zoom.revoke_grant(harness.simulator.zoom.grants[MONICA]),
            "REVOKED",
        ),
        (fault("cut_after", times=1), "OUTCOME_LOST"),
    ],
    ids=["revoked", "response lost"],
)
async def test_rejection_is_the_last_error_until_the_user_consents(
    zoomgate: Harness, failure: Callable[[Harness], None], cause: str
) -> None:
    """Until the user consents, the connection has a last error with a reason, a cause, and no next refresh time."""
    await zoomgate.connect()
    failure(zoomgate)
    error = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH)
    failed = await get_connection(zoomgate)
    assert error.reason == reason_of(failed) == "ZOOM_REAUTH_REQUIRED"
    assert error.metadata["cause"] == cause
    assert Connection.Cause.Name(failed.cause) == f"CAUSE_{cause}"
    assert not failed.HasField("next_refresh_time")
    await zoomgate.connect()
    recovered = await get_connection(zoomgate)
    assert (recovered.state, recovered.cause) == (Connection.STATE_ACTIVE, Connection.CAUSE_UNSPECIFIED)
    assert not recovered.HasField("last_error")


async def test_reached_refresh_limit_is_written_once(tmp_path: Path) -> None:
    """Only the first rejected refresh writes the last error."""
    environ = NO_REFRESH_INTERVAL | {"ZOOMGATE_MAX_REFRESHES_PER_HOUR": "2"}
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        await zoomgate.connect()
        for _ in range(2):
            await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
        connections = []
        for _ in range(2):
            error = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH)
            failed = await get_connection(zoomgate)
            assert error.reason == reason_of(failed) == "SERVER_OVERLOADED"
            connections.append(failed)
        assert connections[0] == connections[1]
        assert connections[0].state == Connection.STATE_ACTIVE


async def test_next_refresh_time_is_set_for_active_connections_only(zoomgate: Harness) -> None:
    await zoomgate.connect()
    connection = await get_connection(zoomgate)
    expires, refreshes = connection.access_expire_time, connection.next_refresh_time
    assert expires.ToNanoseconds() - refreshes.ToNanoseconds() == 120 * 10**9
    deleted = await zoomgate.call(
        zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA)
    )
    assert not deleted.connection.HasField("next_refresh_time")


@pytest.mark.parametrize(("remaining", "refreshes"), [(130, 0), (115, 1)])
async def test_calls_refresh_the_token_after_the_next_refresh_time(
    tmp_path: Path, remaining: int, refreshes: int
) -> None:
    options = SimulatorOptions(port=0, access_token_seconds=remaining)
    async with running(tmp_path / "data", simulator=options) as zoomgate:
        await zoomgate.connect()
        await zoomgate.call(zoomgate.proxy.Get, proxy.GetRequest(user_email=MONICA, url="/users/me"))
        assert zoomgate.stat("token.refresh_token.issued") == refreshes
