"""Tests for the owner and the Zoom user of a connection when an email address is given to a different person during a call."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.harness import CALLERS, MONICA, Harness, member, running
from zoom_simulator import SimulatedUser, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection

RENAMED = "monica.former@example.com"
"""The new address of the Zoom user who had Monica's address."""

ZOOM_USER, NEW_ZOOM_USER = "u-Monica-7Yc1", "u-New-Monica"


@pytest.fixture
def options() -> SimulatorOptions:
    """Return the options of the simulator."""
    return SimulatorOptions(port=0)


@pytest.fixture
async def zoomgate(tmp_path: Path, options: SimulatorOptions) -> AsyncIterator[Harness]:
    """Return a service with two members who have the same address. The former one is connected."""
    callers = CALLERS | {"former": replace(member(MONICA), subject="former")}
    async with running(tmp_path / "data", simulator=options, callers=callers) as harness:
        await harness.connect(MONICA, "former")
        yield harness


async def reconnect(zoomgate: Harness, *, same_zoom_user: bool) -> None:
    """Let the new member consent, with the same Zoom user or with a new Zoom user who has the address now."""
    zoom = zoomgate.simulator.zoom
    if not same_zoom_user:
        zoom.rename(MONICA, RENAMED)
        zoom.users[MONICA] = SimulatedUser(MONICA, NEW_ZOOM_USER)
        zoom.expire(RENAMED)
    await zoomgate.connect(MONICA, "monica")


async def until_delayed(zoomgate: Harness) -> None:
    """Wait until the simulator delays a request."""
    async with asyncio.timeout(20):
        while zoomgate.simulator.faults.active():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("caller", "same_zoom_user", "reason"),
    [
        ("former", True, "CALLER_NOT_ALLOWED"),
        ("former", False, "ZOOM_UNAVAILABLE"),
        ("service", False, "ZOOM_UNAVAILABLE"),
    ],
)
async def test_rejected_call_is_not_repeated_with_the_token_of_another_person(
    zoomgate: Harness, caller: str, same_zoom_user: bool, reason: str
) -> None:
    """Zoom rejects the access token of a call after a different person has connected with the address. Nothing is done."""
    zoomgate.simulator.faults.add(Fault("meetings", "delay", seconds=20.0))
    request = pb.CreateMeetingRequest(user_email=MONICA)
    waiting = asyncio.create_task(zoomgate.error_of(zoomgate.meetings.CreateMeeting, request, caller))
    await until_delayed(zoomgate)
    await reconnect(zoomgate, same_zoom_user=same_zoom_user)
    zoomgate.simulator.faults.clear()
    error = await waiting
    assert (error.reason, error.retry_after is not None) == (reason, reason == "ZOOM_UNAVAILABLE")
    assert not zoomgate.simulator.zoom.meetings


@pytest.mark.parametrize("same_zoom_user", [True, False])
@pytest.mark.parametrize("options", [SimulatorOptions(port=0, access_token_seconds=60)])
async def test_member_who_waits_for_a_refresh_receives_no_token_of_another_person(
    zoomgate: Harness, same_zoom_user: bool
) -> None:
    """A different person connects with the address while Zoom refreshes the token that the call needs."""
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=20.0))
    request = pb.CreateMeetingRequest(user_email=MONICA)
    waiting = asyncio.create_task(zoomgate.error_of(zoomgate.meetings.CreateMeeting, request, "former"))
    await until_delayed(zoomgate)
    await reconnect(zoomgate, same_zoom_user=same_zoom_user)
    zoomgate.simulator.faults.clear()
    assert (await waiting).reason == "CALLER_NOT_ALLOWED"
    assert not zoomgate.simulator.zoom.meetings


@pytest.mark.parametrize("options", [SimulatorOptions(port=0, access_token_seconds=60)])
async def test_service_that_waits_for_a_refresh_acts_for_the_user_who_has_the_address_afterwards(
    zoomgate: Harness,
) -> None:
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=20.0))
    request = pb.CreateMeetingRequest(user_email=MONICA)
    waiting = asyncio.create_task(zoomgate.call(zoomgate.meetings.CreateMeeting, request))
    await until_delayed(zoomgate)
    await reconnect(zoomgate, same_zoom_user=False)
    zoomgate.simulator.faults.clear()
    await waiting
    (meeting,) = zoomgate.simulator.zoom.meetings.values()
    assert meeting.owner == NEW_ZOOM_USER


async def test_previous_address_of_a_renamed_zoom_user_is_disconnected(zoomgate: Harness) -> None:
    """Its connection has no Zoom user. A cached token of the previous address is not used."""
    await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
    zoomgate.simulator.zoom.rename(MONICA, RENAMED)
    await zoomgate.connect(RENAMED)
    error = await zoomgate.error_of(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
    assert error.reason == "ZOOM_NOT_CONNECTED"
    connections = [
        (
            await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=user))
        ).connection
        for user in (MONICA, RENAMED)
    ]
    assert [(row.user_email, row.state, row.zoom_user_id) for row in connections] == [
        (MONICA, Connection.STATE_DISCONNECTED, ""),
        (RENAMED, Connection.STATE_ACTIVE, ZOOM_USER),
    ]
    await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=RENAMED))
