"""Tests for updates of meetings, series and occurrences, and for the rules that apply to them."""

from typing import Any

import pytest

from support.zoom_app import Client, Clock

OMAR = "omar@example.com"


async def create(client: Client, **body: Any) -> tuple[str, dict[str, Any]]:
    """Create a meeting and return its path and response body."""
    await client.consent()
    status, meeting = await client.api("POST", "/users/me/meetings", **body)
    assert status == 201, meeting
    return f"/meetings/{meeting['id']}", meeting


async def updated(client: Client, path: str, **changes: Any) -> dict[str, Any]:
    """Update a meeting and return its new response body."""
    status, error = await client.api("PATCH", path, **changes)
    assert status == 204, error
    return (await client.api("GET", path))[1]


async def create_series(client: Client) -> tuple[str, dict[str, Any]]:
    """Create a series with three occurrences."""
    return await create(
        client, type=8, start_time="2031-07-01T09:00:00Z", recurrence={"type": 1, "end_times": 3}
    )


async def test_only_the_fields_of_the_request_change(client: Client) -> None:
    path, before = await create(client, topic="T", agenda="A", settings={"audio": "voip"})
    after = await updated(client, path, topic="U", settings={"mute_upon_entry": True})
    assert after == before | {"topic": "U", "settings": before["settings"] | {"mute_upon_entry": True}}


async def test_past_start_is_ignored(client: Client) -> None:
    path, before = await create(client, start_time="2031-07-01T09:00:00Z")
    assert await updated(client, path, start_time="2020-01-01T00:00:00Z") == before


async def test_local_start_uses_the_time_zone_of_the_meeting(client: Client) -> None:
    path, _ = await create(client, timezone="Asia/Tokyo")
    assert (await updated(client, path, start_time="2031-07-01T09:00:00"))[
        "start_time"
    ] == "2031-07-01T00:00:00Z"


async def test_passcode_change_updates_the_derived_passcodes_and_the_link(client: Client) -> None:
    path, before = await create(client, password="old")
    after = await updated(client, path, password="new!")
    assert [after[name] for name in ("password", "h323_password", "pstn_password")] == ["new!"] * 3
    assert after["encrypted_password"] != before["encrypted_password"]
    assert after["join_url"].endswith(f"{before['id']}?pwd={after['encrypted_password']}")


async def test_update_without_passcode_retains_the_link(client: Client) -> None:
    path, before = await create(client)
    assert (await updated(client, path, topic="U"))["join_url"] == before["join_url"]


async def test_new_host_receives_the_meeting_with_its_id_and_link(client: Client) -> None:
    """The previous host, who scheduled it, retains access."""
    path, before = await create(client)
    after = await updated(client, path, schedule_for=OMAR)
    assert (after["host_email"], after["assistant_id"]) == (OMAR, before["host_id"])
    assert [after[name] for name in ("id", "join_url")] == [before[name] for name in ("id", "join_url")]
    assert (await client.api("GET", "/users/me/meetings"))[1]["total_records"] == 0
    await client.consent(user=OMAR)
    assert (await client.api("GET", "/users/me/meetings"))[1]["total_records"] == 1


@pytest.mark.parametrize(
    ("host", "code"), [("nobody@example.com", 300), ("u-nobody", 300), ("stranger@example.com", 3000)]
)
async def test_meeting_cannot_be_scheduled_for_users_outside_of_the_account(
    client: Client, host: str, code: int
) -> None:
    await client.sim("users", email="stranger@example.com", account_id="other")
    path, before = await create(client)
    for method, target in (("PATCH", path), ("POST", "/users/me/meetings")):
        status, error = await client.api(method, target, schedule_for=host)
        assert (status, error["code"]) == (400, code)
    assert (await client.api("GET", path))[1] == before


async def test_meeting_can_be_scheduled_by_user_id(client: Client) -> None:
    _, meeting = await create(client, schedule_for="u-Omar-2Kd9", timezone="UTC")
    assert meeting["host_email"] == OMAR


async def test_series_changes_with_its_recurrence(client: Client) -> None:
    path, _ = await create_series(client)
    after = await updated(
        client,
        path,
        start_time="2031-08-01T10:00:00Z",
        duration=20,
        recurrence={"type": 2, "weekly_days": "6", "end_times": 2},
    )
    assert [(row["start_time"], row["duration"]) for row in after["occurrences"]] == [
        ("2031-08-01T10:00:00Z", 20),
        ("2031-08-08T10:00:00Z", 20),
    ]


async def test_recurrence_alone_retains_the_start_of_the_series(client: Client) -> None:
    path, _ = await create_series(client)
    after = await updated(client, path, recurrence={"type": 1, "repeat_interval": 2, "end_times": 2})
    assert [row["start_time"][:10] for row in after["occurrences"]] == ["2031-07-01", "2031-07-03"]


async def test_schedule_of_a_series_is_ignored_without_recurrence(client: Client) -> None:
    """Other fields change."""
    path, before = await create_series(client)
    after = await updated(
        client, path, topic="U", start_time="2032-01-01T00:00:00Z", duration=5, timezone="Asia/Tokyo"
    )
    assert after == before | {"topic": "U"}


async def test_type_can_change(client: Client) -> None:
    """A series that becomes a single meeting loses occurrences and recurrence, and the other way round."""
    path, _ = await create_series(client)
    single = await updated(client, path, type=2)
    assert not {"occurrences", "recurrence"} & set(single)
    series = await updated(client, path, type=8, recurrence={"type": 1, "end_times": 2})
    assert len(series["occurrences"]) == 2
    assert "start_time" not in await updated(client, path, type=3)


async def test_occurrence_changes_only_in_the_documented_fields(client: Client) -> None:
    """The series and the other occurrences do not change."""
    path, series = await create_series(client)
    first, second, _ = series["occurrences"]
    one = f"{path}?occurrence_id={second['occurrence_id']}"
    after = await updated(
        client,
        one,
        topic="U",
        password="new",
        agenda="A",
        start_time="2031-07-02T15:00:00Z",
        duration=15,
        settings={"waiting_room": True, "audio": "voip"},
    )
    assert (after["topic"], after["password"]) == (series["topic"], series["password"])
    assert (after["agenda"], after["start_time"], after["duration"]) == ("A", "2031-07-02T15:00:00Z", 15)
    assert after["settings"] == series["settings"] | {"waiting_room": True}
    other = (await client.api("GET", f"{path}?occurrence_id={first['occurrence_id']}"))[1]
    assert ("agenda" in other, other["settings"]) == (False, series["settings"])
    whole = (await client.api("GET", path))[1]
    assert whole["occurrences"][1] == second | {"start_time": "2031-07-02T15:00:00Z", "duration": 15}
    assert whole | {"occurrences": None} == series | {"occurrences": None}


async def test_past_start_of_an_occurrence_is_ignored(client: Client) -> None:
    path, series = await create_series(client)
    one = f"{path}?occurrence_id={series['occurrences'][0]['occurrence_id']}"
    assert (await updated(client, one, start_time="2020-01-01T00:00:00Z"))["start_time"] == series[
        "start_time"
    ]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_malformed_occurrence_id_is_rejected(client: Client, method: str) -> None:
    path, _ = await create_series(client)
    assert await client.api(method, f"{path}?occurrence_id=x") == (
        400,
        {"code": 300, "message": "Invalid parameter: occurrence_id."},
    )


async def test_previous_occurrences_are_shown_on_request(client: Client, clock: Clock) -> None:
    path, series = await create_series(client)
    clock.now = 1_940_662_800.0 + 3600  # the end of the first occurrence, 2031-07-01T10:00:00Z
    await client.consent()
    assert (await client.api("GET", path))[1]["occurrences"] == series["occurrences"][1:]
    complete = f"{path}?show_previous_occurrences=true"
    assert (await client.api("GET", complete))[1]["occurrences"] == series["occurrences"]


@pytest.mark.parametrize("target", ["create", "update"])
async def test_meetings_of_a_host_change_at_most_100_times_a_day(
    client: Client, clock: Clock, target: str
) -> None:
    """Rejected requests do not count, other users have their own limit, and the next day it starts again."""
    path, _ = await create(client)

    async def change() -> int:
        if target == "create":
            return (await client.api("POST", "/users/me/meetings"))[0]
        return (await client.api("PATCH", path, topic="U"))[0]

    success = 201 if target == "create" else 204
    await client.api("POST", "/users/me/meetings", duration=0)
    assert [await change() for _ in range(99)] == [success] * 99
    assert await change() == 429
    status, error = await client.api("PATCH", path, topic="U")
    assert (status, error["code"]) == (429, 429)
    assert "daily rate limit (100) of Meeting Create/Update" in error["message"]
    await client.consent(user=OMAR)
    assert (await client.api("POST", "/users/me/meetings"))[0] == 201
    clock.now += 86_400
    await client.consent()
    assert await change() == success
