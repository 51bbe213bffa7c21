"""Tests for the fields of meetings: types, combinations, defaults, and what Zoom drops or adjusts without an error."""

from typing import Any

import aiohttp
import pytest

from support.zoom_app import Client, Clock
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.meeting_fields import MEETING, SETTINGS

BEFORE_2027 = 1_798_000_000.0
SERIES = {"type": 8, "start_time": "2031-07-01T09:00:00Z"}


async def create(client: Client, **body: Any) -> dict[str, Any]:
    await client.consent()
    status, meeting = await client.api("POST", "/users/me/meetings", **body)
    assert status == 201, meeting
    return meeting


async def invalid_fields(client: Client, **body: Any) -> list[str]:
    """Return the fields in the errors of a rejected creation, and check that an update is rejected in the same way."""
    path = f"/meetings/{(await create(client))['id']}"
    status, error = await client.api("POST", "/users/me/meetings", **body)
    assert (status, error["code"], error["message"]) == (400, 300, "Validation Failed.")
    assert await client.api("PATCH", path, **body) == (400, error)
    assert all(row["message"].endswith(".") for row in error["errors"])
    return [row["field"] for row in error["errors"]]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"approval_type": 99}, "approval_type"),
        ({"approval_type": True}, "approval_type"),
        ({"jbh_time": 7}, "jbh_time"),
        ({"audio": "x"}, "audio"),
        ({"host_video": "yes"}, "host_video"),
        ({"auto_recording": True}, "auto_recording"),
        ({"encryption_type": "none"}, "encryption_type"),
        ({"alternative_hosts": ["a@example.com"]}, "alternative_hosts"),
        ({"audio_conference_info": "x" * 2049}, "audio_conference_info"),
        ({"meeting_invitees": [{"email": "nobody"}]}, "meeting_invitees[0].email"),
        ({"meeting_invitees": {}}, "meeting_invitees"),
        ({"custom_keys": [{}] * 11}, "custom_keys"),
        ({"custom_keys": [{"key": "k" * 65}]}, "custom_keys[0].key"),
        ({"waiting_room_options": {}}, "waiting_room_options.mode"),
        ({"waiting_room_options": {"mode": "custom"}}, "waiting_room_options.who_goes_to_waiting_room"),
        (
            {"language_interpretation": {"interpreters": [{"interpreter_languages": "English"}]}},
            "language_interpretation.interpreters[0].interpreter_languages",
        ),
        ({"breakout_room": {"rooms": [{"participants": [5]}]}}, "breakout_room.rooms[0].participants[0]"),
        ({"who_can_ask_questions": 6}, "who_can_ask_questions"),
        (
            {"approved_or_denied_countries_or_regions": {"method": "approve", "denied_list": ["DE"]}},
            "approved_or_denied_countries_or_regions.approved_list",
        ),
        (
            {"approved_or_denied_countries_or_regions": {"method": "deny", "denied_list": []}},
            "approved_or_denied_countries_or_regions.denied_list",
        ),
        (
            {
                "request_permission_to_unmute_participants": True,
                "allow_host_control_participant_mute_state": True,
            },
            "request_permission_to_unmute_participants",
        ),
    ],
)
async def test_invalid_setting_is_rejected(client: Client, settings: dict[str, Any], field: str) -> None:
    assert await invalid_fields(client, settings=settings) == [f"settings.{field}"]


@pytest.mark.parametrize(
    ("recurrence", "field"),
    [
        ({}, "type"),
        ({"type": 4}, "type"),
        ({"type": 1, "end_times": 61}, "end_times"),
        ({"type": 1, "end_date_time": "never"}, "end_date_time"),
        ({"type": 1, "end_times": 2, "end_date_time": "2031-08-01T00:00:00Z"}, "end_date_time"),
        ({"type": 1, "repeat_interval": 100}, "repeat_interval"),
        ({"type": 2, "repeat_interval": 51}, "repeat_interval"),
        ({"type": 3, "repeat_interval": 11}, "repeat_interval"),
        ({"type": 2, "weekly_days": "0,8"}, "weekly_days"),
        ({"type": 3, "monthly_day": 32}, "monthly_day"),
        ({"type": 3, "monthly_week": 5, "monthly_week_day": 1}, "monthly_week"),
        ({"type": 3, "monthly_week": 1}, "monthly_week_day"),
        ({"type": 3, "monthly_week_day": 1}, "monthly_week"),
    ],
)
async def test_invalid_recurrence_is_rejected(client: Client, recurrence: dict[str, Any], field: str) -> None:
    assert await invalid_fields(client, **SERIES, recurrence=recurrence) == [f"recurrence.{field}"]


async def test_all_invalid_fields_are_reported_together(client: Client) -> None:
    assert await invalid_fields(
        client,
        topic=5,
        password="x" * 11,
        start_time="10000-01-01T00:00:00Z",
        tracking_fields=[{"value": "v"}],
        settings={"watermark": 1, "audio": "x"},
    ) == [
        "topic",
        "password",
        "start_time",
        "tracking_fields[0].field",
        "settings.watermark",
        "settings.audio",
    ]


@pytest.mark.parametrize("fields", [MEETING.fields, SETTINGS])
async def test_every_field_has_a_type(client: Client, fields: dict[str, Any]) -> None:
    """A value of a type that no field has is rejected for all of them."""
    body = dict.fromkeys(fields, 1.5)
    expected = {name if fields is MEETING.fields else f"settings.{name}" for name in fields}
    assert (
        set(await invalid_fields(client, **(body if fields is MEETING.fields else {"settings": body})))
        == expected
    )


async def test_unknown_fields_are_dropped_at_every_depth(client: Client) -> None:
    meeting = await create(
        client,
        durration=5,
        settings={"brand_new": 1, "breakout_room": {"enable": True, "rooms": [{"name": "A", "x": 1}]}},
        tracking_fields=[{"field": "f", "visible": True}],
    )
    assert "durration" not in meeting
    assert "brand_new" not in meeting["settings"]
    assert meeting["settings"]["breakout_room"] == {"enable": True, "rooms": [{"name": "A"}]}
    assert meeting["tracking_fields"] == [{"field": "f"}]


async def test_null_means_absent(client: Client) -> None:
    assert (await create(client, topic=None, settings={"audio": None}))["settings"]["audio"] == "both"


@pytest.mark.parametrize(
    ("body", "path", "value"),
    [
        ({"type": 2, "recurrence": {"type": 1}}, "recurrence", None),
        ({"type": 3, "recurrence": {"type": 1}}, "recurrence", None),
        ({"type": 1, "start_time": "2031-07-01T09:00:00Z"}, "start_time", None),
        ({"type": 2, "settings": {"registration_type": 2}}, "settings.registration_type", None),
        ({"type": 1, "settings": {"use_pmi": True}}, "settings.use_pmi", False),
        ({"type": 8, "settings": {"use_pmi": True}}, "settings.use_pmi", False),
        (
            {"settings": {"join_before_host": True, "waiting_room": True}},
            "settings.join_before_host",
            False,
        ),
        ({"settings": {"join_before_host": True}}, "settings.join_before_host", True),
        ({"type": 1, "settings": {"join_before_host": True}}, "settings.join_before_host", False),
        (
            {"type": 1, "settings": {"continuous_meeting_chat": {"enable": True}}},
            "settings.continuous_meeting_chat",
            None,
        ),
    ],
)
async def test_field_that_does_not_apply_is_dropped_or_adjusted(
    client: Client, body: dict[str, Any], path: str, value: object
) -> None:
    """The same holds after an update."""
    meeting = await create(client, **body)
    other = f"/meetings/{(await create(client))['id']}"
    await client.api("PATCH", other, **body)
    for found in (meeting, (await client.api("GET", other))[1]):
        section, _, leaf = path.rpartition(".")
        assert (found[section] if section else found).get(leaf) == value


@pytest.mark.parametrize("kind", [1, 8, 10])
async def test_prescheduling_is_rejected_for_other_types(client: Client, kind: int) -> None:
    await client.consent()
    status, error = await client.api("POST", "/users/me/meetings", type=kind, pre_schedule=True)
    assert (status, error["code"]) == (400, 3000)


async def test_instant_meeting_cannot_be_scheduled_for_others(client: Client) -> None:
    await client.consent()
    status, error = await client.api("POST", "/users/me/meetings", type=1, schedule_for="omar@example.com")
    assert (status, error["code"]) == (400, 3000)


async def test_meeting_without_default_passcode_has_none(client: Client) -> None:
    meeting = await create(client, default_password=False)
    assert {value for name, value in meeting.items() if "password" in name} == {""}
    assert "pwd" not in meeting["join_url"]
    assert (await create(client, default_password=False, password="p"))["password"] == "p"


async def test_personal_meeting_id_is_used_in_the_link(client: Client) -> None:
    """The meeting has an ID of its own."""
    meeting = await create(client, settings={"use_pmi": True})
    assert meeting["pmi"] == str((await client.api("GET", "/users/me"))[1]["pmi"])
    assert f"/j/{meeting['pmi']}?pwd=" in meeting["join_url"]
    assert str(meeting["id"]) != meeting["pmi"]
    assert (await client.api("GET", "/users/me/meetings"))[1]["meetings"][0]["pmi"] == meeting["pmi"]


async def test_meeting_with_registration_has_a_registration_url(client: Client) -> None:
    meeting = await create(client, settings={"approval_type": 1})
    path = f"/meetings/{meeting['id']}"
    await client.api("PATCH", path, settings={"approval_type": 0})
    assert (await client.api("GET", path))[1]["registration_url"] == meeting["registration_url"]
    await client.api("PATCH", path, settings={"approval_type": 2})
    assert "registration_url" not in (await client.api("GET", path))[1]


@pytest.mark.parametrize(
    ("start", "zone", "recurrence", "expected"),
    [
        (
            "2027-03-22T09:00:00",
            "Europe/Berlin",
            {"type": 2, "weekly_days": "2", "end_times": 3},
            ["2027-03-22T08", "2027-03-29T07", "2027-04-05T07"],
        ),
        (
            "2027-01-04T18:00:00",
            "America/Los_Angeles",
            {"type": 2, "weekly_days": "2", "end_times": 2},
            ["2027-01-05T02", "2027-01-12T02"],
        ),
        (
            "2027-10-30T09:00:00",
            "Europe/Berlin",
            {"type": 1, "end_times": 3},
            ["2027-10-30T07", "2027-10-31T08", "2027-11-01T08"],
        ),
        (
            "2027-01-31T23:30:00",
            "America/New_York",
            {"type": 3, "monthly_day": 31, "end_times": 3},
            ["2027-02-01T04", "2027-04-01T03", "2027-06-01T03"],
        ),
        (
            "2027-01-01T00:30:00",
            "Asia/Tokyo",
            {"type": 3, "monthly_week": -1, "monthly_week_day": 1, "end_times": 2},
            ["2027-01-30T15", "2027-02-27T15"],
        ),
        (
            "2027-01-04T09:00:00",
            "Asia/Tokyo",
            {"type": 1, "end_date_time": "2027-01-05T00:00:00Z"},
            ["2027-01-04T00", "2027-01-05T00"],
        ),
    ],
)
async def test_series_keeps_the_local_time_of_its_time_zone(
    client: Client, clock: Clock, start: str, zone: str, recurrence: dict[str, Any], expected: list[str]
) -> None:
    """Days of the week and of the month are those of the time zone, and clock changes do not move the meeting."""
    clock.now = BEFORE_2027
    meeting = await create(client, type=8, start_time=start, timezone=zone, recurrence=recurrence)
    assert [row["start_time"][:13] for row in meeting["occurrences"]] == expected


async def test_series_has_at_most_60_occurrences(client: Client) -> None:
    for end in ({"end_times": 0}, {"end_date_time": "2099-01-01T00:00:00Z"}):
        meeting = await create(client, **SERIES, recurrence={"type": 1, **end})
        assert len(meeting["occurrences"]) == 60


async def test_undocumented_fields_and_words_are_retained_on_request() -> None:
    """With the option, the simulator behaves like a later version of Zoom that knows them."""
    options = SimulatorOptions(port=0, undocumented_fields=True)
    async with Simulator(options) as simulator, aiohttp.ClientSession() as session:
        meeting = await create(
            Client(simulator, session),
            brand_new={"x": 1},
            settings={"audio": "newWord", "new_setting": 1},
            type=8,
            recurrence={"type": 4, "repeat_interval": 20},
            host_id="evil",
        )
    assert meeting["host_id"] == "u-Monica-7Yc1"
    assert meeting["brand_new"] == {"x": 1}
    assert (meeting["settings"]["audio"], meeting["settings"]["new_setting"]) == ("newWord", 1)
