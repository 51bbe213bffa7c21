"""Tests for playing meetings, and for past meetings with their participants."""

from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from support.zoom_app import MONICA, Client, Clock
from zoom_simulator import Participant, SimulatorOptions, testing

GUEST = Participant("Guest")
OMAR = Participant("Omar", "omar@example.com")


async def create(client: Client, **body: Any) -> dict[str, Any]:
    await client.consent()
    meeting: dict[str, Any] = (await client.api("POST", "/users/me/meetings", **body))[1]
    return meeting


async def get(client: Client, path: str) -> tuple[int, dict[str, Any]]:
    """Send a GET request with a path that is encoded already."""
    url = URL(client.simulator.api_url + path, encoded=True)
    async with client.session.get(url, headers={"Authorization": f"Bearer {client.access}"}) as response:
        return response.status, await response.json()


async def test_played_meeting_has_details_and_participants(client: Client) -> None:
    """The host joins first. Zoom shows the addresses of users of the account only."""
    meeting = await create(client, topic="T", type=3)
    client.simulator.playing.play(meeting["id"], [OMAR, GUEST], minutes=25)
    status, past = await client.api("GET", f"/past_meetings/{meeting['id']}")
    assert status == 200
    expected = {
        "id": meeting["id"],
        "uuid": meeting["uuid"],
        "host_id": meeting["host_id"],
        "user_email": MONICA,
        "user_name": "Monica Reyes",
        "topic": "T",
        "type": 3,
        "start_time": "2030-03-17T17:46:40Z",
        "end_time": "2030-03-17T18:11:40Z",
        "duration": 25,
        "total_minutes": 75,
        "participants_count": 3,
    }
    assert past | expected == past
    _, listed = await client.api("GET", f"/past_meetings/{meeting['id']}/participants")
    participants = listed["participants"]
    assert [each["name"] for each in participants] == ["Monica Reyes", "Omar", "Guest"]
    assert [each["user_email"] for each in participants] == [MONICA, OMAR.email, ""]
    assert [each["internal_user"] for each in participants] == [True, True, False]
    assert {each["duration"] for each in participants} == {1500}
    assert len({each["user_id"] for each in participants}) == 3


async def test_steps_of_a_meeting_follow_the_clock(client: Client, clock: Clock) -> None:
    """A live meeting has no details yet; ending it by an API call ends its instance."""
    meeting = await create(client)
    path, past = f"/meetings/{meeting['id']}", f"/past_meetings/{meeting['id']}"
    await client.sim("play", meeting=meeting["id"], action="start")
    assert (await client.api("GET", path))[1]["status"] == "started"
    assert (await client.api("GET", past))[1]["code"] == 3001
    clock.now += 60
    await client.sim("play", meeting=meeting["id"], action="join", participants=[{"name": "Late"}])
    clock.now += 30
    assert (await client.api("PUT", f"{path}/status", action="end"))[0] == 204
    assert (await client.api("GET", path))[1]["status"] == "waiting"
    _, listed = await client.api("GET", f"{past}/participants")
    assert [each["duration"] for each in listed["participants"]] == [90, 30]


async def test_ending_a_meeting_that_has_not_started_changes_nothing(client: Client) -> None:
    meeting = await create(client)
    assert (await client.api("PUT", f"/meetings/{meeting['id']}/status", action="end"))[0] == 204
    assert (await client.api("GET", f"/meetings/{meeting['id']}"))[1] == meeting
    assert (await client.api("GET", f"/past_meetings/{meeting['id']}"))[0] == 404


async def test_every_instance_has_its_own_uuid(client: Client, clock: Clock) -> None:
    """The meeting ID stands for the latest instance; all instances are listed, oldest first."""
    meeting = await create(client, type=3)
    for _ in range(3):
        client.simulator.playing.play(meeting["id"], minutes=1)
        clock.now += 60
    _, listed = await client.api("GET", f"/past_meetings/{meeting['id']}/instances")
    uuids = [each["uuid"] for each in listed["meetings"]]
    assert uuids[0] == meeting["uuid"]
    assert len(set(uuids)) == 3
    assert [each["start_time"][14:16] for each in listed["meetings"]] == ["46", "48", "50"]
    assert (await client.api("GET", f"/past_meetings/{meeting['id']}"))[1]["uuid"] == uuids[2]
    assert (await client.api("GET", f"/meetings/{meeting['id']}"))[1]["uuid"] not in uuids


@pytest.mark.parametrize("suffix", ["", "/participants"])
async def test_uuid_is_encoded_once_or_twice(client: Client, suffix: str) -> None:
    """A UUID that starts with a slash, or contains two in sequence, must be encoded twice."""
    meeting = await create(client, type=3)
    uuids = {"plain==": True, "with/slash==": True, "/start==": False, "two//slashes==": False}
    for uuid, once in uuids.items():
        client.simulator.zoom.meetings[meeting["id"]].body["uuid"] = uuid
        client.simulator.playing.play(meeting["id"], minutes=1)
        encoded = quote(uuid, safe="")
        assert (await get(client, f"/past_meetings/{encoded}{suffix}"))[0] == (200 if once else 404)
        assert (await get(client, f"/past_meetings/{quote(encoded, safe='')}{suffix}"))[0] == 200


async def test_uuids_exercise_both_rules_of_encoding(client: Client) -> None:
    """Some UUIDs need the second encoding."""
    meeting = await create(client, type=3)
    for _ in range(100):
        client.simulator.playing.play(meeting["id"], minutes=0)
    _, listed = await client.api("GET", f"/past_meetings/{meeting['id']}/instances")
    uuids = [each["uuid"] for each in listed["meetings"]]
    assert any(uuid.startswith("/") for uuid in uuids)
    assert any("//" in uuid for uuid in uuids)
    assert any("/" not in uuid for uuid in uuids)


@pytest.mark.parametrize("suffix", ["", "/instances", "/participants"])
async def test_meeting_without_past_instances_is_not_found(client: Client, suffix: str) -> None:
    """The same holds for unknown meetings and those of other users."""
    meeting = await create(client)
    assert (await client.api("GET", f"/past_meetings/{meeting['id']}{suffix}"))[1]["code"] == 3001
    client.simulator.playing.play(meeting["id"])
    assert (await client.api("GET", f"/past_meetings/1{suffix}"))[1]["code"] == 3001
    await client.consent(user=OMAR.email)
    assert (await client.api("GET", f"/past_meetings/{meeting['id']}{suffix}"))[1]["code"] == 3001


async def test_instances_require_a_meeting_id(client: Client) -> None:
    meeting = await create(client)
    client.simulator.playing.play(meeting["id"])
    assert (await get(client, f"/past_meetings/{quote(meeting['uuid'], safe='')}/instances"))[0] == 400


async def test_deleted_meeting_retains_its_past_instances(client: Client) -> None:
    meeting = await create(client)
    client.simulator.playing.play(meeting["id"])
    await client.api("DELETE", f"/meetings/{meeting['id']}")
    assert (await client.api("GET", f"/past_meetings/{meeting['id']}"))[0] == 200


@pytest.mark.parametrize("suffix", ["", "/participants"])
async def test_instance_is_accessible_for_a_year(client: Client, clock: Clock, suffix: str) -> None:
    meeting = await create(client)
    client.simulator.playing.play(meeting["id"])
    clock.now += 366 * 86_400
    await client.consent()
    status, error = await client.api("GET", f"/past_meetings/{meeting['id']}{suffix}")
    assert (status, error["code"]) == (400, 12702)


async def test_pages_list_every_participant_once(client: Client) -> None:
    meeting = await create(client)
    client.simulator.playing.play(meeting["id"], [Participant(str(number)) for number in range(4)])
    path = f"/past_meetings/{meeting['id']}/participants?page_size=2"
    listed: list[str] = []
    token = ""
    while True:
        _, page = await client.api("GET", f"{path}&next_page_token={token}")
        listed += [each["name"] for each in page["participants"]]
        token = page["next_page_token"]
        if not token:
            break
    assert listed == ["Monica Reyes", "0", "1", "2", "3"]


async def test_approved_registrants_join_a_played_meeting(client: Client) -> None:
    """Their participants carry the registrant ID and the email address."""
    meeting = await create(client, settings={"approval_type": 1})
    path = f"/meetings/{meeting['id']}/registrants"
    _, ada = await client.api(
        "POST", path, email="ada@example.com", first_name="Ada", last_name="L", auto_approve=True
    )
    await client.api("POST", path, email="pending@example.com", first_name="P")
    assert await client.sim("play", meeting=meeting["id"]) == {
        "ok": True,
        "joined": ["Monica Reyes", "Ada L"],
        "now": "2030-03-17T18:16:40Z",
    }
    _, listed = await client.api("GET", f"/past_meetings/{meeting['id']}/participants")
    _, joined = listed["participants"]
    assert (joined["name"], joined["registrant_id"], joined["user_email"]) == (
        "Ada L",
        ada["registrant_id"],
        "ada@example.com",
    )


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "must be a meeting ID"),
        ({"meeting": 1}, "meeting is unknown"),
        ({"action": "join", "participants": [{"name": "A"}]}, "has not started"),
        ({"participants": [{"name": 5}]}, "must be text"),
        ({"action": "end"}, "has not started"),
        ({"action": "pause"}, "action must be one of"),
        ({"participants": [{"nickname": "A"}]}, "known fields"),
        ({"participants": [5]}, "known fields"),
        ({"participants": [{"name": ""}]}, "must not be blank"),
        ({"action": "start", "participants": [{"name": "A"}]}, "does not apply to the action start"),
        ({"action": "start", "minutes": 5}, "does not apply to the action start"),
        ({"action": "join", "minutes": 5}, "does not apply to the action join"),
        ({"action": "end", "minutes": 5}, "does not apply to the action end"),
        ({"minutes": -1}, "minutes must be 0 or more"),
        ({"minutes": 1e30}, "only moves forward"),
        ({"minutes": None}, "minutes must be a number"),
        ({"minutes": "x"}, "minutes must be a number"),
        ({"seconds": 5}, "known fields"),
    ],
)
async def test_invalid_play_is_rejected(client: Client, body: dict[str, Any], word: str) -> None:
    """Nothing changes."""
    meeting = await create(client)
    request = {"meeting": meeting["id"]} | body if body else {"meeting": "x"}
    assert word in (await client.sim("play", **request))["error"]
    assert (await client.api("GET", f"/meetings/{meeting['id']}"))[1] == meeting
    await client.sim("play", meeting=meeting["id"], action="start")
    assert "already started" in (await client.sim("play", meeting=meeting["id"]))["error"]


async def test_approved_registrants_join_a_live_meeting_once(client: Client) -> None:
    """Without participants, `join` is for the registrants who have not joined yet; if there are none, it is rejected."""
    meeting = await create(client, settings={"approval_type": 0})
    number, path = meeting["id"], f"/meetings/{meeting['id']}/registrants"
    await client.sim("play", meeting=number, action="start")
    for name in ("Ada", "Grace"):
        await client.api("POST", path, email=f"{name}@example.com", first_name=name)
        assert (await client.sim("play", meeting=number, action="join"))["joined"] == [name]
    assert (
        "no approved registrant is left" in (await client.sim("play", meeting=number, action="join"))["error"]
    )
    await client.sim("play", meeting=number, action="end")
    _, listed = await client.api("GET", f"/past_meetings/{number}/participants")
    assert [each["name"] for each in listed["participants"]] == ["Monica Reyes", "Ada", "Grace"]


async def test_deleted_meeting_cannot_start(client: Client) -> None:
    meeting = await create(client)
    await client.api("DELETE", f"/meetings/{meeting['id']}")
    with pytest.raises(ValueError, match="unknown or deleted"):
        client.simulator.playing.start(meeting["id"])


def test_fixture_plays_meetings() -> None:
    """The fixture for tests without an event loop has the same methods."""
    import json  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    with testing.running(SimulatorOptions(port=0, seed=7)) as zoom:
        headers = {"Authorization": f"Bearer {zoom.connect(MONICA).access_token}"}

        def api(path: str, data: bytes | None = None) -> dict[str, Any]:
            request = urllib.request.Request(zoom.api_url + path, data, headers)
            with urllib.request.urlopen(request, timeout=10) as response:
                body: dict[str, Any] = json.loads(response.read())
                return body

        number = api("/users/me/meetings", b"{}")["id"]
        zoom.play(number, [GUEST], minutes=5)
        assert api(f"/past_meetings/{number}")["participants_count"] == 2
        zoom.start_meeting(number)
        zoom.join_meeting(number, [OMAR, GUEST])
        zoom.end_meeting(number)
        assert api(f"/past_meetings/{number}")["participants_count"] == 3


async def test_participants_require_a_paid_account(client: Client) -> None:
    meeting = await create(client)
    client.simulator.playing.play(meeting["id"])
    basil = client.simulator.zoom.user("basil@example.com")
    client.simulator.zoom.meetings[meeting["id"]].set_host(basil, basil)
    await client.consent(user=basil.email)
    status, error = await client.api("GET", f"/past_meetings/{meeting['id']}/participants")
    assert (status, error["code"]) == (400, 200)
