"""Tests for the schedules of new meetings that Zoom would change without an error: the body sent to Zoom, or the rejected field."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from support.clock import AdvancingClock
from support.harness import MONICA, Harness, RpcError, running
from zoomgate.v1 import meetings_service_pb2 as pb

MONDAY = "2030-01-07T09:00:00Z"
WEDNESDAY = "2030-01-09T09:00:00Z"
WEDNESDAY_IN_SECONDS = 1_894_179_600


def create_request(**details: Any) -> pb.CreateMeetingRequest:
    return ParseDict({"user_email": MONICA, "meeting_details": details}, pb.CreateMeetingRequest())


async def sent(zoomgate: Harness, **details: Any) -> dict[str, Any]:
    """Create a meeting and return it as the simulator stored it."""
    await zoomgate.connect()
    meeting = (await zoomgate.call(zoomgate.meetings.CreateMeeting, create_request(**details))).meeting
    return zoomgate.simulator.zoom.meetings[meeting.id].body


async def rejection(zoomgate: Harness, **details: Any) -> RpcError:
    error = await zoomgate.error_of(zoomgate.meetings.CreateMeeting, create_request(**details))
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    return error


async def test_recurrence_without_a_meeting_type_is_a_series_at_fixed_times(zoomgate: Harness) -> None:
    body = await sent(
        zoomgate, start_time=MONDAY, recurrence={"type": "TYPE_WEEKLY", "weekly_days": [2], "end_times": 5}
    )
    assert body["type"] == 8
    assert len(body["occurrences"]) == 5


async def test_duplicates_in_lists_are_sent_once(zoomgate: Harness) -> None:
    hosts = ["b@example.com", "a@example.com", "b@example.com"]
    body = await sent(
        zoomgate,
        start_time=MONDAY,
        recurrence={"type": "TYPE_WEEKLY", "weekly_days": [4, 2, 4, 2], "end_times": 5},
        settings={"alternative_hosts": hosts, "authentication_domains": ["example.com", "example.com"]},
    )
    assert body["recurrence"]["weekly_days"] == "4,2"
    assert body["settings"]["alternative_hosts"] == "b@example.com;a@example.com"
    assert body["settings"]["authentication_domains"] == "example.com"


@pytest.mark.parametrize("kind", ["INSTANT", "SCHEDULED", "RECURRING_NO_FIXED_TIME", "SCREEN_SHARE_ONLY"])
async def test_recurrence_is_rejected_for_other_meeting_types(zoomgate: Harness, kind: str) -> None:
    error = await rejection(zoomgate, type=f"MEETING_TYPE_{kind}", recurrence={"type": "TYPE_DAILY"})
    assert set(error.violations) == {"meeting_details.recurrence"}


@pytest.mark.parametrize("local", ["0001-01-01T00:00:00", "1969-12-31T23:59:59"])
async def test_local_start_before_1970_is_rejected(zoomgate: Harness, local: str) -> None:
    """The same range applies to `start_time`."""
    error = await rejection(zoomgate, local_start_time=local)
    assert set(error.violations) == {"meeting_details.local_start_time"}


@pytest.mark.parametrize("kind", ["INSTANT", "RECURRING_NO_FIXED_TIME"])
@pytest.mark.parametrize("start", [{"start_time": MONDAY}, {"local_start_time": "2030-01-07T09:00:00"}])
async def test_start_is_rejected_for_meeting_types_without_one(
    zoomgate: Harness, kind: str, start: dict[str, str]
) -> None:
    error = await rejection(zoomgate, type=f"MEETING_TYPE_{kind}", **start)
    assert set(error.violations) == {f"meeting_details.{field}" for field in start}


@pytest.mark.parametrize(
    ("start", "days"),
    [
        ({"start_time": WEDNESDAY}, "4"),
        ({"start_time": "2030-01-12T09:00:00Z"}, "7"),
        ({"start_time": "2030-01-13T09:00:00Z"}, "1"),
        ({"start_time": "2030-01-09T23:30:00Z", "timezone": "Europe/Berlin"}, "5"),
        ({"start_time": "2030-01-09T04:30:00Z", "timezone": "America/New_York"}, "3"),
        ({"local_start_time": "2030-01-09T00:30:00", "timezone": "Asia/Tokyo"}, "4"),
        ({"start_time": "2020-01-08T09:00:00Z"}, "4"),
    ],
)
async def test_weekly_series_without_days_is_on_the_weekday_of_the_start(
    zoomgate: Harness, start: dict[str, str], days: str
) -> None:
    """The weekday is that of the time zone of the meeting."""
    body = await sent(zoomgate, **start, recurrence={"type": "TYPE_WEEKLY", "end_times": 5})
    assert body["recurrence"]["weekly_days"] == days


@pytest.mark.parametrize(
    ("start", "day"),
    [
        ({"start_time": WEDNESDAY}, 9),
        ({"start_time": "2030-01-31T23:30:00Z", "timezone": "Europe/Berlin"}, 1),
        ({"local_start_time": "2030-01-31T00:30:00", "timezone": "Asia/Tokyo"}, 31),
    ],
)
async def test_monthly_series_without_a_day_is_on_the_day_of_the_start(
    zoomgate: Harness, start: dict[str, str], day: int
) -> None:
    body = await sent(zoomgate, **start, recurrence={"type": "TYPE_MONTHLY", "end_times": 5})
    assert body["recurrence"]["monthly_day"] == day


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("TYPE_WEEKLY", ("weekly_days", "4")), ("TYPE_MONTHLY", ("monthly_day", 9))],
)
async def test_series_without_days_or_start_is_on_the_current_day(
    tmp_path: Path, kind: str, rule: tuple[str, object]
) -> None:
    """Zoom starts a meeting without a start at once."""
    clock = AdvancingClock()
    clock.ahead = WEDNESDAY_IN_SECONDS - clock.wall()
    async with running(tmp_path / "data", clock=clock) as zoomgate:
        body = await sent(zoomgate, recurrence={"type": kind, "end_times": 2})
    assert body["recurrence"][rule[0]] == rule[1]


@pytest.mark.parametrize(
    ("recurrence", "expected"),
    [
        (
            {"type": "TYPE_WEEKLY", "weekly_days": ["DAY_OF_WEEK_MONDAY", "DAY_OF_WEEK_THURSDAY"]},
            {"type": 2, "weekly_days": "2,5"},
        ),
        ({"type": "TYPE_MONTHLY", "monthly_day": 31}, {"type": 3, "monthly_day": 31}),
        (
            {
                "type": "TYPE_MONTHLY",
                "monthly_week": "WEEK_OF_MONTH_LAST",
                "monthly_week_day": "DAY_OF_WEEK_FRIDAY",
            },
            {"type": 3, "monthly_week": -1, "monthly_week_day": 6},
        ),
    ],
)
async def test_days_of_a_series_are_sent_in_zooms_numbers(
    zoomgate: Harness, recurrence: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = await sent(zoomgate, start_time=WEDNESDAY, recurrence={**recurrence, "end_times": 2})
    assert {name: value for name, value in body["recurrence"].items() if name in expected} == expected


@pytest.mark.parametrize(
    ("recurrence", "field"),
    [
        ({"type": "TYPE_MONTHLY", "monthly_week": 1}, "monthly_week_day"),
        ({"type": "TYPE_MONTHLY", "monthly_week_day": 1}, "monthly_week"),
        (
            {"type": "TYPE_MONTHLY", "monthly_day": 1, "monthly_week": 1, "monthly_week_day": 1},
            "monthly_day",
        ),
        ({"type": "TYPE_MONTHLY", "monthly_day": 1, "monthly_week": 1}, "monthly_day"),
        ({"type": "TYPE_MONTHLY", "weekly_days": [1]}, "weekly_days"),
        ({"type": "TYPE_DAILY", "weekly_days": [1]}, "weekly_days"),
        ({"type": "TYPE_DAILY", "monthly_day": 1}, "monthly_day"),
        ({"type": "TYPE_WEEKLY", "monthly_week_day": 1}, "monthly_week_day"),
    ],
)
async def test_contradicting_rules_of_a_series_are_rejected(
    zoomgate: Harness, recurrence: dict[str, Any], field: str
) -> None:
    error = await rejection(zoomgate, start_time=MONDAY, recurrence=recurrence)
    assert f"meeting_details.recurrence.{field}" in error.violations


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ({"start_time": MONDAY}, "2030-01-07T08:59:59Z"),
        ({"local_start_time": "2030-01-07T09:00:00", "timezone": "America/New_York"}, "2030-01-07T13:59:59Z"),
        ({"start_time": "2020-01-01T09:00:00Z"}, "2020-06-01T09:00:00Z"),
        ({}, "2020-06-01T09:00:00Z"),
    ],
)
async def test_end_of_a_series_before_its_start_is_rejected(
    zoomgate: Harness, start: dict[str, str], end: str
) -> None:
    """A start in the past is the current time."""
    error = await rejection(zoomgate, **start, recurrence={"type": "TYPE_DAILY", "end_time": end})
    assert set(error.violations) == {"meeting_details.recurrence.end_time"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timezone", "Asia/Tokyo"),
        ("start_time", "2030-01-08T23:30:00"),
        ("start_time", "2030-01-08T23:30:00Z"),
        *[("type", value) for value in (1, 2, 3, 4, 8, 10)],
    ],
)
async def test_schedule_in_additional_fields_is_rejected(
    zoomgate: Harness, name: str, value: str | int
) -> None:
    """The days of the series could not be derived from it."""
    series = {"recurrence": {"type": "TYPE_WEEKLY", "end_times": 5}}
    for details in ({}, series):
        error = await rejection(zoomgate, additional_fields={name: value}, **details)
        assert f"meeting_details.additional_fields.{name}" in error.violations


async def test_type_of_a_recurrence_in_additional_fields_is_rejected(zoomgate: Harness) -> None:
    error = await rejection(zoomgate, recurrence={"additional_fields": {"type": 2}, "end_times": 5})
    assert set(error.violations) == {"meeting_details.recurrence.additional_fields.type"}


@pytest.mark.parametrize("value", [99, [8], {"value": 8}])
async def test_unknown_type_in_additional_fields_is_sent_unchanged(zoomgate: Harness, value: object) -> None:
    """Zoom may have added it."""
    request = create_request(additional_fields={"type": value})
    await zoomgate.connect()
    error = await zoomgate.error_of(zoomgate.meetings.CreateMeeting, request)
    assert error.reason == "ZOOM_REFUSED"


async def test_end_of_a_series_at_its_start_is_accepted(zoomgate: Harness) -> None:
    body = await sent(
        zoomgate,
        local_start_time="2030-07-01T09:00:00",
        timezone="Europe/Berlin",
        recurrence={"type": "TYPE_DAILY", "end_time": "2030-07-01T07:00:00.9Z"},
    )
    assert body["recurrence"]["end_date_time"] == "2030-07-01T07:00:00Z"


@pytest.mark.parametrize(
    ("zone", "skipped", "next_time"),
    [
        ("Europe/Berlin", "2030-03-31T02:30:00", "2030-03-31T03:30:00"),
        ("America/New_York", "2030-03-10T02:00:00", "2030-03-10T03:00:00"),
        ("Australia/Lord_Howe", "2030-10-06T02:15:00", "2030-10-06T02:45:00"),
        ("Pacific/Apia", "2011-12-30T09:00:00", "2011-12-31T09:00:00"),
    ],
)
async def test_local_time_that_the_zone_skips_is_rejected(
    zoomgate: Harness, zone: str, skipped: str, next_time: str
) -> None:
    """The error contains the corresponding time after the clock change, which is accepted."""
    error = await rejection(zoomgate, timezone=zone, local_start_time=skipped)
    assert set(error.violations) == {"meeting_details.local_start_time"}
    assert next_time in error.violations["meeting_details.local_start_time"]
    assert zone in error.violations["meeting_details.local_start_time"]
    await sent(zoomgate, timezone=zone, local_start_time=next_time)


@pytest.mark.parametrize("repeated", ["2030-10-27T02:30:00", "2030-03-31T03:00:00", "2030-03-31T01:59:59"])
async def test_local_time_at_a_clock_change_is_accepted(zoomgate: Harness, repeated: str) -> None:
    await sent(zoomgate, timezone="Europe/Berlin", local_start_time=repeated)


@pytest.mark.parametrize("zone", ["Factory", "localtime", "posixrules", "posix/Europe/Berlin", "Berlin"])
async def test_name_that_is_no_time_zone_is_rejected(zoomgate: Harness, zone: str) -> None:
    error = await rejection(zoomgate, timezone=zone, local_start_time="2030-03-31T12:30:00")
    assert set(error.violations) == {"meeting_details.timezone"}


@pytest.mark.parametrize("zone", ["UTC", "CET", "Etc/Greenwich", "US/Pacific", "America/Godthab", "EST5EDT"])
async def test_old_names_of_time_zones_are_accepted(zoomgate: Harness, zone: str) -> None:
    """Zoom's list of time zones contains old names too."""
    assert (await sent(zoomgate, timezone=zone))["timezone"] == zone


async def test_fractions_of_a_second_are_dropped(zoomgate: Harness) -> None:
    """The current time plus one hour, in any language, has fractions of a second."""
    body = await sent(
        zoomgate,
        start_time="2030-01-07T09:00:00.999999999Z",
        recurrence={"type": "TYPE_DAILY", "end_time": "2030-01-09T09:00:00.000001Z"},
    )
    assert body["start_time"] == "2030-01-07T09:00:00Z"
    assert body["recurrence"]["end_date_time"] == "2030-01-09T09:00:00Z"


@pytest.mark.parametrize("passcode", ["Zoom!2026", "a#b$c", "päss wörd", "１２３", ""])
async def test_zoom_decides_which_characters_a_passcode_may_contain(zoomgate: Harness, passcode: str) -> None:
    assert (await sent(zoomgate, password=passcode))["password"] == passcode


async def test_direction_of_text_may_be_set(zoomgate: Harness) -> None:
    """Localization libraries isolate names, and texts in Arabic and Hebrew contain embeddings and marks."""
    topic = "Meeting with \u2068Monica\u2069 \u200f\u061c"
    agenda = "\u202b\u0634\u0643\u0631\u0627\u202c\n\u2066a\u2069 \u202eb\u202c"
    body = await sent(zoomgate, topic=topic, agenda=agenda)
    assert (body["topic"], body["agenda"]) == (topic, agenda)


async def test_lists_without_a_limit_of_zoom_may_be_long(zoomgate: Harness) -> None:
    hosts = [f"user{number}@example.com" for number in range(200)]
    body = await sent(
        zoomgate,
        settings={"alternative_hosts": hosts, "contact_name": "x" * 3000},
        tracking_fields=[{"field": f"field {number}", "value": "x" * 2000} for number in range(60)],
    )
    assert body["settings"]["alternative_hosts"] == ";".join(hosts)
