"""What a connection tells of a refresh that failed, and when it refreshes next."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import MONICA, Harness, running, serving
from support.raw_upstream import answer, raw_upstream
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.connection_pb2 import Connection
from zoomgate.v1.error_reason_pb2 import ErrorReason

OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
REFRESH = pb.RefreshTokenRequest(user_email=MONICA)


async def shown(zoomgate: Harness) -> Connection:
    """The connection of Monica."""
    answered = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    found: Connection = answered.connection
    return found


def reason_of(connection: Connection) -> str:
    return ErrorReason.Name(connection.last_error.reason).removeprefix("ERROR_REASON_")


def fault(kind: str, times: int = -1) -> Callable[[Harness], None]:
    return lambda harness: harness.simulator.faults.add(Fault("token", kind, times=times))


def other_secret(harness: Harness) -> None:
    harness.simulator.zoom.options = SimulatorOptions(port=0, client_secret="another-secret")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (fault("status"), "ZOOM_UNAVAILABLE"),
        (fault("cut_before"), "ZOOM_UNAVAILABLE"),
        (fault("rate_limit_daily"), "ZOOM_RATE_LIMITED"),
        (fault("redirect"), "APP_CREDENTIALS_REJECTED"),
        (other_secret, "APP_CREDENTIALS_REJECTED"),
    ],
    ids=["down", "cut", "throttled", "redirected", "our credentials"],
)
async def test_a_failure_that_is_not_the_users_is_told_and_a_success_clears_it(
    tmp_path: Path, trouble: Callable[[Harness], None], reason: str
) -> None:
    """The connection stays active and says when and why the latest refresh failed, until one succeeds."""
    async with running(tmp_path / "data", environ=OFTEN) as zoomgate:
        await zoomgate.connect()
        right = zoomgate.simulator.zoom.options
        before = await shown(zoomgate)
        trouble(zoomgate)
        refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, REFRESH)
        failed = await shown(zoomgate)
        assert refusal.reason == reason_of(failed) == reason
        assert failed.last_error.message
        assert failed.last_error.time.ToNanoseconds() > before.update_time.ToNanoseconds()
        assert failed.update_time == failed.last_error.time
        assert (failed.state, failed.generation) == (Connection.STATE_ACTIVE, 1)
        zoomgate.simulator.faults.clear()
        zoomgate.simulator.zoom.options = right
        await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
        healed = await shown(zoomgate)
        assert (healed.generation, healed.HasField("last_error")) == (2, False)


async def test_an_answer_that_is_no_token_is_told(tmp_path: Path) -> None:
    """A token that no bearer token is leaves ZOOM_BAD_RESPONSE, and the token before it in use."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, raw_upstream() as upstream:
        async with serving(zoom, tmp_path / "data") as zoomgate:
            await zoomgate.connect()
        upstream.answers = [answer("200 OK", b'{"access_token": "a", "token_type": "mac"}')]
        environ = OFTEN | {"ZOOMGATE_ZOOM_OAUTH_URL": upstream.url}
        async with serving(zoom, tmp_path / "data", environ=environ) as zoomgate:
            refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, REFRESH)
            failed = await shown(zoomgate)
            assert refusal.reason == reason_of(failed) == "ZOOM_BAD_RESPONSE"
            assert failed.state == Connection.STATE_ACTIVE


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        (
            lambda harness: harness.simulator.zoom.revoke_grant(harness.simulator.zoom.grants[MONICA]),
            "REVOKED",
        ),
        (fault("cut_after", times=1), "OUTCOME_LOST"),
    ],
    ids=["refused", "answer lost"],
)
async def test_a_refusal_is_told_until_the_person_consents(
    zoomgate: Harness, trouble: Callable[[Harness], None], cause: str
) -> None:
    """A refused token leaves its reason and cause, and no time of a next refresh; a new consent clears all of it."""
    await zoomgate.connect()
    trouble(zoomgate)
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, REFRESH)
    failed = await shown(zoomgate)
    assert refusal.reason == reason_of(failed) == "ZOOM_REAUTH_REQUIRED"
    assert refusal.metadata["cause"] == cause
    assert Connection.Cause.Name(failed.cause) == f"CAUSE_{cause}"
    assert not failed.HasField("next_refresh_time")
    await zoomgate.connect()
    healed = await shown(zoomgate)
    assert (healed.state, healed.cause) == (Connection.STATE_ACTIVE, Connection.CAUSE_UNSPECIFIED)
    assert not healed.HasField("last_error")


async def test_a_storm_of_refreshes_is_told_once(tmp_path: Path) -> None:
    """The limit of refreshes is the connection's last error, written by the first refusal and by none that follow."""
    environ = OFTEN | {"ZOOMGATE_MAX_REFRESHES_PER_HOUR": "2"}
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        await zoomgate.connect()
        for _ in range(2):
            await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
        told = []
        for _ in range(2):
            refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, REFRESH)
            failed = await shown(zoomgate)
            assert refusal.reason == reason_of(failed) == "SERVER_OVERLOADED"
            told.append(failed)
        assert told[0] == told[1]
        assert told[0].state == Connection.STATE_ACTIVE


async def test_the_next_refresh_is_foretold(zoomgate: Harness) -> None:
    """An active connection says from when on a call refreshes its token; one that was ended says nothing."""
    await zoomgate.connect()
    found = await shown(zoomgate)
    expires, refreshes = found.access_expire_time, found.next_refresh_time
    assert expires.ToNanoseconds() - refreshes.ToNanoseconds() == 120 * 10**9
    ended = await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
    assert not ended.connection.HasField("next_refresh_time")


@pytest.mark.parametrize(("left", "refreshes"), [(130, 0), (115, 1)])
async def test_a_call_refreshes_from_the_foretold_time_on(tmp_path: Path, left: int, refreshes: int) -> None:
    """A call before the time of the next refresh uses the token as it is; one after it refreshes first."""
    options = SimulatorOptions(port=0, access_token_seconds=left)
    async with running(tmp_path / "data", simulator=options) as zoomgate:
        await zoomgate.connect()
        await zoomgate.call(zoomgate.proxy.Get, proxy.GetRequest(user_email=MONICA, url="/users/me"))
        assert zoomgate.stat("token.refresh_token.issued") == refreshes
