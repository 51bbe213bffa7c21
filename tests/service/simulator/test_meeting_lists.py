"""Tests for the filters of meeting lists, and for occurrences of recurring meetings."""

from typing import Any

import pytest

from support.zoom_app import Client, Clock

DAY = 86_400.0


async def topics(client: Client, query: str = "") -> list[str]:
    status, listed = await client.api("GET", f"/users/me/meetings{query}")
    assert status == 200, listed
    return [row["topic"] for row in listed["meetings"]]


@pytest.fixture
async def calendar(client: Client, clock: Clock) -> Client:
    """A user with meetings of 40 days ago, 2 days ago, tomorrow and next year, an instant meeting, and a meeting without fixed times."""
    await client.consent()
    clock.now -= 40 * DAY  # 2030-02-05
    await client.api("POST", "/users/me/meetings", topic="long ago")
    clock.now += 38 * DAY
    await client.api("POST", "/users/me/meetings", topic="recent")
    clock.now += 2 * DAY  # 2030-03-17
    for topic, start in (("tomorrow", "2030-03-18T17:46:40Z"), ("next year", "2031-03-18T12:00:00Z")):
        await client.api("POST", "/users/me/meetings", topic=topic, start_time=start)
    await client.api("POST", "/users/me/meetings", topic="instant", type=1)
    await client.api("POST", "/users/me/meetings", topic="no times", type=3)
    await client.consent()
    return client


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["recent", "tomorrow", "next year", "no times"]),
        ("?type=scheduled", ["recent", "tomorrow", "next year", "no times"]),
        ("?type=upcoming", ["tomorrow", "no times"]),
        ("?type=upcoming_meetings", ["tomorrow", "no times"]),
        ("?type=previous_meetings", ["long ago", "recent"]),
        ("?type=live", []),
        ("?type=previous_meetings&from=2030-03-01", ["recent"]),
        ("?type=upcoming&from=2030-03-19", []),
        ("?from=2030-03-18&to=2030-03-18", ["tomorrow"]),
        ("?from=2030-03-19", ["next year"]),
        ("?to=2030-03-17", ["recent"]),
        ("?page_size=1&page_number=2", ["tomorrow"]),
        ("?from=2030-03-19&to=2030-03-19&timezone=Asia/Tokyo", ["tomorrow"]),
    ],
)
async def test_list_is_filtered_by_type_and_dates(calendar: Client, query: str, expected: list[str]) -> None:
    """Expired and instant meetings are never listed."""
    assert await topics(calendar, query) == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=webinar", "type"),
        ("page_size=0", "page_size"),
        ("page_size=-1", "page_size"),
        ("from=yesterday", "from"),
        ("from=2030-02-30", "from"),
        ("from=20300218", "from"),
        ("to=9999-12-31", "to"),
        ("from=2030-03-02&to=2030-03-01", "to"),
        ("timezone=Mars/Base", "timezone"),
    ],
)
async def test_invalid_list_query_is_rejected(client: Client, query: str, field: str) -> None:
    """The error has code 300 and names the field."""
    await client.consent()
    status, error = await client.api("GET", f"/users/me/meetings?{query}")
    assert (status, error["code"]) == (400, 300)
    assert [row["field"] for row in error["errors"]] == [field]


async def test_pages_list_every_meeting_once(client: Client) -> None:
    """The last page has no page token."""
    await client.consent()
    for number in range(5):
        await client.api("POST", "/users/me/meetings", topic=str(number))
    listed: list[str] = []
    token = ""
    while True:
        page = (await client.api("GET", f"/users/me/meetings?page_size=2&next_page_token={token}"))[1]
        listed += [row["topic"] for row in page["meetings"]]
        token = page["next_page_token"]
        if not token:
            break
    assert listed == ["0", "1", "2", "3", "4"]


@pytest.fixture
async def series(client: Client) -> tuple[Client, str, list[dict[str, Any]]]:
    """Create a recurring meeting with three occurrences. Return the client, the meeting's path and the occurrences."""
    await client.consent()
    body = {"type": 8, "start_time": "2031-07-01T09:00:00Z", "recurrence": {"type": 1, "end_times": 3}}
    meeting = (await client.api("POST", "/users/me/meetings", **body))[1]
    return client, f"/meetings/{meeting['id']}", meeting["occurrences"]


async def test_occurrence_is_read_updated_and_deleted_separately(
    series: tuple[Client, str, list[dict[str, Any]]],
) -> None:
    """The other occurrences and the series do not change."""
    client, path, (first, second, _) = series
    one = f"{path}?occurrence_id={second['occurrence_id']}"
    assert (await client.api("GET", one))[1]["start_time"] == second["start_time"]
    change = {"start_time": "2031-07-02T15:00:00Z", "duration": 15}
    assert (await client.api("PATCH", one, **change))[0] == 204
    occurrence = (await client.api("GET", one))[1]
    assert (occurrence["start_time"], occurrence["duration"]) == ("2031-07-02T15:00:00Z", 15)
    whole = (await client.api("GET", path))[1]
    assert (whole["start_time"], whole["duration"]) == (first["start_time"], 60)
    assert (await client.api("DELETE", one))[0] == 204
    assert (await client.api("GET", one))[1]["code"] == 3001
    assert (await client.api("GET", path))[0] == 200


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_unknown_occurrence_is_not_found(
    series: tuple[Client, str, list[dict[str, Any]]], method: str
) -> None:
    """The error has code 3001, and nothing changes."""
    client, path, _ = series
    before = (await client.api("GET", path))[1]
    status, error = await client.api(method, f"{path}?occurrence_id=1", topic="U")
    assert (status, error["code"]) == (404, 3001)
    assert (await client.api("GET", path))[1] == before


async def test_live_meeting_is_listed_by_all_types_except_previous_meetings(client: Client) -> None:
    """An instant meeting is listed while it is live."""
    await client.consent()
    for topic, kind in (("scheduled", 2), ("instant", 1), ("waiting", 2)):
        _, meeting = await client.api(
            "POST", "/users/me/meetings", topic=topic, type=kind, start_time="2031-01-01T00:00:00Z"
        )
        if topic != "waiting":
            client.simulator.playing.start(meeting["id"])
    live = ["scheduled", "instant"]
    assert await topics(client, "?type=live") == live
    assert await topics(client, "?type=upcoming") == live
    assert await topics(client) == [*live, "waiting"]
    assert await topics(client, "?type=previous_meetings") == []
    assert await topics(client, "?type=live&from=2030-03-18") == []


async def test_played_meeting_is_previous_and_no_longer_live(client: Client) -> None:
    await client.consent()
    _, meeting = await client.api(
        "POST", "/users/me/meetings", topic="early", start_time="2031-01-01T00:00:00Z"
    )
    client.simulator.playing.play(meeting["id"])
    assert await topics(client, "?type=live") == []
    assert await topics(client, "?type=previous_meetings&to=2030-03-17") == ["early"]
    assert await topics(client) == ["early"]


async def test_listed_agenda_is_cut_at_250_characters(client: Client) -> None:
    await client.consent()
    await client.api("POST", "/users/me/meetings", agenda="x" * 251)
    _, listed = await client.api("GET", "/users/me/meetings")
    assert listed["meetings"][0]["agenda"] == "x" * 250


async def first_page_token(client: Client, query: str = "page_size=1") -> str:
    """Create two meetings and return the token of the second page."""
    await client.consent()
    for _ in range(2):
        await client.api("POST", "/users/me/meetings")
    _, listed = await client.api("GET", f"/users/me/meetings?{query}")
    assert (listed["page_count"], listed["page_number"], listed["total_records"]) == (2, 1, 2)
    token: str = listed["next_page_token"]
    return token


async def test_page_token_expires_after_15_minutes(client: Client, clock: Clock) -> None:
    token = await first_page_token(client)
    path = f"/users/me/meetings?page_size=1&next_page_token={token}"
    clock.now += 899
    assert (await client.api("GET", path))[0] == 200
    clock.now += 1
    assert await client.api("GET", path) == (
        400,
        {"code": 300, "message": "The next page token is invalid or expired."},
    )


@pytest.mark.parametrize(
    "query", ["page_size=2", "page_size=1&type=upcoming", "page_size=1&from=2030-01-01", ""]
)
async def test_page_token_is_rejected_with_a_different_query(client: Client, query: str) -> None:
    token = await first_page_token(client)
    status, error = await client.api("GET", f"/users/me/meetings?{query}&next_page_token={token}")
    assert (status, error["code"]) == (400, 300)


@pytest.mark.parametrize("token", ["x", "!", "W10", "bnVsbA", "8J-YgA"])
async def test_page_token_that_was_never_issued_is_rejected(client: Client, token: str) -> None:
    await client.consent()
    status, error = await client.api("GET", f"/users/me/meetings?next_page_token={token}")
    assert (status, error["code"]) == (400, 300)


async def test_page_token_of_a_different_user_is_rejected(client: Client) -> None:
    token = await first_page_token(client)
    await client.consent(user="omar@example.com")
    status, error = await client.api("GET", f"/users/me/meetings?page_size=1&next_page_token={token}")
    assert (status, error["code"]) == (400, 300)


async def test_page_size_above_300_becomes_300(client: Client) -> None:
    await client.consent()
    assert (await client.api("GET", "/users/me/meetings?page_size=1000"))[1]["page_size"] == 300


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Lima"])
@pytest.mark.parametrize(
    "recurrence",
    [
        None,
        {"type": 1},
        {"type": 2, "weekly_days": "6"},
        {"type": 3, "monthly_week": -1, "monthly_week_day": 6},
    ],
)
async def test_last_second_of_the_calendar_is_a_valid_start(
    client: Client, zone: str, recurrence: dict[str, Any] | None
) -> None:
    """A series has no further occurrences then, and none at all in a time zone in which it is the year 10000."""
    await client.consent()
    last = "9999-12-31T23:59:59Z"
    series = {"type": 8, "recurrence": {**recurrence, "end_times": 3}} if recurrence else {}
    status, created = await client.api(
        "POST", "/users/me/meetings", topic="last", start_time=last, timezone=zone, **series
    )
    assert (status, created["start_time"]) == (201, last)
    if recurrence:
        starts = [row["start_time"] for row in created["occurrences"]]
        assert starts == ([] if zone == "Asia/Tokyo" else [last])
    assert await topics(client) == ["last"]
    async with client.session.get(client.simulator.page_url) as page:
        assert page.status == 200
