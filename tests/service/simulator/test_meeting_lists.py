"""Which meetings a list shows, and what an occurrence is."""

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
    """Meetings that began 40 days ago, 2 days ago, and will begin tomorrow and next year; one instant, one without times."""
    await client.consent()
    clock.now -= 40 * DAY  # 2030-02-05
    await client.api("POST", "/users/me/meetings", topic="long ago")
    clock.now += 38 * DAY
    await client.api("POST", "/users/me/meetings", topic="lately")
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
        ("", ["lately", "tomorrow", "next year", "no times"]),
        ("?type=scheduled", ["lately", "tomorrow", "next year", "no times"]),
        ("?type=upcoming", ["tomorrow", "no times"]),
        ("?type=upcoming_meetings", ["tomorrow", "no times"]),
        ("?type=previous_meetings", ["long ago", "lately"]),
        ("?type=live", []),
        ("?type=previous_meetings&from=2030-03-01", ["lately"]),
        ("?type=upcoming&from=2030-03-19", []),
        ("?from=2030-03-18&to=2030-03-18", ["tomorrow"]),
        ("?from=2030-03-19", ["next year"]),
        ("?to=2030-03-17", ["lately"]),
        ("?from=2030-03-19&to=2030-03-19&timezone=Asia/Tokyo", ["tomorrow"]),
    ],
)
async def test_type_and_dates_choose_what_is_listed(
    calendar: Client, query: str, expected: list[str]
) -> None:
    """A list holds what its type and its days ask for; expired and instant meetings are left out."""
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
async def test_wrong_queries_are_refused(client: Client, query: str, field: str) -> None:
    """A list that is asked for nonsense answers with code 300 and the field."""
    await client.consent()
    status, refusal = await client.api("GET", f"/users/me/meetings?{query}")
    assert (status, refusal["code"]) == (400, 300)
    assert [row["field"] for row in refusal["errors"]] == [field]


async def test_pages_go_on_where_they_ended(client: Client) -> None:
    """Every meeting is on one page, and the last page has no token."""
    await client.consent()
    for number in range(5):
        await client.api("POST", "/users/me/meetings", topic=str(number))
    found: list[str] = []
    token = ""
    while True:
        page = (await client.api("GET", f"/users/me/meetings?page_size=2&next_page_token={token}"))[1]
        found += [row["topic"] for row in page["meetings"]]
        token = page["next_page_token"]
        if not token:
            break
    assert found == ["0", "1", "2", "3", "4"]


@pytest.fixture
async def series(client: Client) -> tuple[Client, str, list[dict[str, Any]]]:
    """A meeting of three days, its path and its occurrences."""
    await client.consent()
    body = {"type": 8, "start_time": "2031-07-01T09:00:00Z", "recurrence": {"type": 1, "end_times": 3}}
    meeting = (await client.api("POST", "/users/me/meetings", **body))[1]
    return client, f"/meetings/{meeting['id']}", meeting["occurrences"]


async def test_an_occurrence_is_read_changed_and_deleted_alone(
    series: tuple[Client, str, list[dict[str, Any]]],
) -> None:
    """What is done to one occurrence leaves the others and the series as they are."""
    client, path, (first, second, _) = series
    one = f"{path}?occurrence_id={second['occurrence_id']}"
    assert (await client.api("GET", one))[1]["start_time"] == second["start_time"]
    change = {"start_time": "2031-07-02T15:00:00Z", "duration": 15}
    assert (await client.api("PATCH", one, **change))[0] == 204
    found = (await client.api("GET", one))[1]
    assert (found["start_time"], found["duration"]) == ("2031-07-02T15:00:00Z", 15)
    whole = (await client.api("GET", path))[1]
    assert (whole["start_time"], whole["duration"]) == (first["start_time"], 60)
    assert (await client.api("DELETE", one))[0] == 204
    assert (await client.api("GET", one))[1]["code"] == 3001
    assert (await client.api("GET", path))[0] == 200


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_unknown_occurrences_are_no_meetings(
    series: tuple[Client, str, list[dict[str, Any]]], method: str
) -> None:
    """An occurrence that is not there is refused with code 3001, and nothing changes."""
    client, path, _ = series
    before = (await client.api("GET", path))[1]
    status, refusal = await client.api(method, f"{path}?occurrence_id=1", topic="U")
    assert (status, refusal["code"]) == (404, 3001)
    assert (await client.api("GET", path))[1] == before


async def test_changes_reach_as_far_as_documented(series: tuple[Client, str, list[dict[str, Any]]]) -> None:
    """A past start means now; a series keeps its occurrences; an occurrence takes start and duration alone."""
    client, path, occurrences = series
    one = f"{path}?occurrence_id={occurrences[1]['occurrence_id']}"
    assert (await client.api("PATCH", one, agenda="A", settings={"audio": "voip"}, duration=15))[0] == 204
    found = (await client.api("GET", one))[1]
    assert ("agenda" in found, found["settings"]["audio"], found["duration"]) == (False, "both", 15)
    before = (await client.api("GET", path))[1]["occurrences"]
    change = {"start_time": "2020-01-01T00:00:00Z", "recurrence": {"type": 1, "end_times": 9}}
    assert (await client.api("PATCH", path, **change))[0] == 204
    after = (await client.api("GET", path))[1]
    assert (after["start_time"], after["occurrences"]) == ("2030-03-17T17:46:40Z", before)
    _, listed = await client.api("GET", "/users/me/meetings?from=2031-07-02&to=2031-07-02")
    assert [row["start_time"] for row in listed["meetings"]] == [after["start_time"]]
