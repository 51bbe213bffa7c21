"""Tests for the commands `meetings` and `registrants`: the requests that options result in, and the output."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from support.command_line import command
from support.harness import MONICA, OMAR
from support.recording_service import RecordingService, recording_service
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import registrants_service_pb2 as registrants
from zoomgate_server.rpc.services.update_mask import clearable_paths

NUMBER = "85746065432"
EIGHT_WEEKS = {
    "type": "TYPE_WEEKLY",
    "weeklyDays": ["DAY_OF_WEEK_MONDAY", "DAY_OF_WEEK_WEDNESDAY"],
    "endTimes": 16,
}
SERIES = {"type": "MEETING_TYPE_RECURRING_FIXED_TIME"}


@pytest.fixture
async def service() -> AsyncIterator[RecordingService]:
    async with recording_service() as started:
        yield started


async def run(
    service: RecordingService,
    *arguments: str,
    responses: Sequence[Message] = (),
    code: int = 0,
    stdin: str = "",
) -> tuple[str, str]:
    """Run a command and check the exit code; return standard output and standard error."""
    service.responses.extend(responses)
    environ = {"ZOOMGATE_SERVER": service.address, "ZOOMGATE_KEY": ""}
    result = await command(*arguments, environ=environ, stdin=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


async def details_of(service: RecordingService, *options: str, **more: Any) -> dict[str, Any]:
    """Return the meeting details that the options of `meetings create` result in."""
    await run(service, "meetings", "create", MONICA, *options, **more)
    request = service.requests.pop()
    assert isinstance(request, meetings.CreateMeetingRequest)
    return MessageToDict(request.meeting_details)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--topic", "Review", "--agenda", "Plan", "--duration", "45"),
         {"topic": "Review", "agenda": "Plan", "durationMinutes": 45}),
        (("--start", "2026-12-01 09:00", "--timezone", "Europe/Berlin"),
         {"localStartTime": "2026-12-01T09:00:00", "timezone": "Europe/Berlin"}),
        (("--start", "2026-12-01T09:00+02:00"), {"startTime": "2026-12-01T07:00:00Z"}),
        (("--weekly", "mon,Wednesday", "--times", "16"), SERIES | {"recurrence": EIGHT_WEEKS}),
        (("--daily", "--every", "2", "--times", "0"),
         SERIES | {"recurrence": {"type": "TYPE_DAILY", "repeatInterval": 2, "endTimes": 0}}),
        (("--monthly", "15", "--times", "3"),
         SERIES | {"recurrence": {"type": "TYPE_MONTHLY", "monthlyDay": 15, "endTimes": 3}}),
        (("--monthly", "2nd tue", "--times", "3"),
         SERIES | {"recurrence": {
             "type": "TYPE_MONTHLY", "monthlyWeek": "WEEK_OF_MONTH_SECOND", "monthlyWeekDay": "DAY_OF_WEEK_TUESDAY",
             "endTimes": 3,
         }}),
        (("--monthly", "last fri", "--times", "3"),
         SERIES | {"recurrence": {
             "type": "TYPE_MONTHLY", "monthlyWeek": "WEEK_OF_MONTH_LAST", "monthlyWeekDay": "DAY_OF_WEEK_FRIDAY",
             "endTimes": 3,
         }}),
        (("--daily", "--until", "2026-12-31", "--timezone", "America/New_York"),
         SERIES | {"timezone": "America/New_York",
                   "recurrence": {"type": "TYPE_DAILY", "endTime": "2027-01-01T04:59:59Z"}}),
        (("--daily", "--until", "2026-12-31", "--start", "2026-12-01T09:00Z"),
         SERIES | {"startTime": "2026-12-01T09:00:00Z",
                   "recurrence": {"type": "TYPE_DAILY", "endTime": "2026-12-31T23:59:59Z"}}),
        (("--daily", "--until", "2026-12-31T18:00+01:00"),
         SERIES | {"recurrence": {"type": "TYPE_DAILY", "endTime": "2026-12-31T17:00:00Z"}}),
        (("--waiting-room", "--no-host-video", "--recording", "cloud", "--registration", "manual"),
         {"settings": {"waitingRoom": True, "hostVideo": False, "autoRecording": "AUTO_RECORDING_CLOUD",
                       "approvalType": "APPROVAL_TYPE_MANUAL"}}),
        (("--alternative-host", OMAR, "--schedule-for", OMAR),
         {"scheduleFor": OMAR, "settings": {"alternativeHosts": [OMAR]}}),
    ],
)  # fmt: skip
async def test_options_describe_a_meeting(
    service: RecordingService, options: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert await details_of(service, *options) == expected


async def test_options_override_the_details_file(service: RecordingService) -> None:
    """An option for the pattern replaces the recurrence of the file; other options change it."""
    file = {
        "topic": "From the file",
        "durationMinutes": 30,
        "recurrence": EIGHT_WEEKS,
        "settings": {"alternativeHosts": ["basil@example.com"], "waitingRoom": True},
    }
    options = ("--details", "-", "--topic", "Review", "--times", "3", "--alternative-host", OMAR)
    assert await details_of(service, *options, stdin=json.dumps(file)) == {
        "topic": "Review",
        "durationMinutes": 30,
        "recurrence": EIGHT_WEEKS | {"endTimes": 3},
        "settings": {"alternativeHosts": [OMAR], "waitingRoom": True},
    }
    replaced = await details_of(service, "--details", "-", "--daily", "--times", "2", stdin=json.dumps(file))
    assert replaced["recurrence"] == {"type": "TYPE_DAILY", "endTimes": 2}
    until = await details_of(
        service, "--details", "-", "--until", "2030-01-07T09:00Z", stdin=json.dumps(file)
    )
    assert until["recurrence"].keys() == {"type", "weeklyDays", "endTime"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--weekly", "mon,xyz", "--times", "2"), "'xyz' is not a day of the week; use a day such as mon"),
        (("--weekly", "", "--times", "2"), "use a day such as mon"),
        (("--monthly", "5th tue", "--times", "2"), 'use a number such as 15, or a day such as "2nd tue"'),
        (("--monthly", "2nd", "--times", "2"), "use a day such as mon"),
        (("--daily", "--weekly", "mon"), "--daily, --weekly and --monthly exclude each other"),
        (("--daily",), "add --times (0 for no end) or --until"),
        (("--times", "3"), "--every, --times and --until require --daily, --weekly or --monthly"),
        (("--daily", "--until", "2026-12-31"), "--until requires a --timezone such as Europe/Berlin"),
        (("--daily", "--until", "9999-12-31", "--timezone", "America/New_York"), "--until is out of range"),
        (("--daily", "--until", "soon"), "is not a date"),
        (("--daily", "--until", "2027-13-01"), "'2027-13-01' is not a date; use a date such as 2030-03-31"),
        (("--daily", "--times", "2", "--until", "2026-12-31"), "--times and --until exclude each other"),
        (("--start", "2026-12-01 09:00"), "--start requires a --timezone such as Europe/Berlin"),
        (("--duration", "0"), "'--duration': 0 is not in the range 1<=x<=1440"),
        (("--daily", "--times", "99999999999"), "'--times': 99999999999 is not in the range"),
        (("--daily", "--every", "99999999999", "--times", "1"), "'--every': 99999999999 is not in the range"),
        (("--recording", "tape"), "'local', 'cloud', 'none'"),
    ],
)
async def test_invalid_options_are_usage_errors_and_nothing_is_sent(
    service: RecordingService, options: tuple[str, ...], text: str
) -> None:
    _, errors = await run(service, "meetings", "create", MONICA, *options, code=2)
    assert text in errors
    assert not service.requests


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        (("--topic", "Review"), ["topic"]),
        (("--no-waiting-room", "--duration", "30"), ["duration_minutes", "settings.waiting_room"]),
        (("--start", "2026-12-02 10:00", "--timezone", "Europe/Berlin"), ["local_start_time", "timezone"]),
        (("--agenda", "", "--clear", "settings.alternative_hosts"), ["agenda", "settings.alternative_hosts"]),
    ],
)
async def test_update_changes_exactly_the_given_properties(
    service: RecordingService, options: tuple[str, ...], paths: list[str]
) -> None:
    _, message = await run(service, "meetings", "update", MONICA, NUMBER, "--occurrence", "17", *options)
    (request,) = service.requests
    assert isinstance(request, meetings.UpdateMeetingRequest)
    assert (request.meeting_id, request.occurrence_id) == (int(NUMBER), "17")
    assert list(request.update_mask.paths) == paths
    assert message == f"updated meeting {NUMBER}\n"


EVERY_TWO_WEEKS = EIGHT_WEEKS | {"repeatInterval": 2}
IN_BERLIN = {"timezone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--duration", "30"), {"durationMinutes": 30, "recurrence": EVERY_TWO_WEEKS}),
        (("--start", "2031-01-07 09:00"),
         IN_BERLIN | {"localStartTime": "2031-01-07T09:00:00", "recurrence": EVERY_TWO_WEEKS}),
        (("--every", "3"), {"recurrence": EIGHT_WEEKS | {"repeatInterval": 3}}),
        (("--times", "4"), {"recurrence": EVERY_TWO_WEEKS | {"endTimes": 4}}),
        (("--weekly", "fri"),
         SERIES | {"recurrence": EVERY_TWO_WEEKS | {"weeklyDays": ["DAY_OF_WEEK_FRIDAY"]}}),
        (("--daily",), SERIES | {"recurrence": {"type": "TYPE_DAILY", "endTimes": 16}}),
        (("--until", "2031-03-01"),
         {"recurrence": {"type": "TYPE_WEEKLY", "weeklyDays": EIGHT_WEEKS["weeklyDays"], "repeatInterval": 2,
                         "endTime": "2031-03-01T22:59:59Z"}}),
    ],
)  # fmt: skip
async def test_update_of_the_schedule_of_a_series_sends_its_recurrence_with_the_changes(
    service: RecordingService, options: tuple[str, ...], expected: dict[str, Any]
) -> None:
    """Zoom ignores changes of the schedule of a series without its recurrence."""
    meeting = SERIES | IN_BERLIN | {"recurrence": EVERY_TWO_WEEKS}
    current = ParseDict({"meeting": meeting}, meetings.GetMeetingResponse())
    await run(service, "meetings", "update", MONICA, NUMBER, *options, responses=[current])
    _, request = service.requests
    assert isinstance(request, meetings.UpdateMeetingRequest)
    assert MessageToDict(request.meeting_details) == expected


@pytest.mark.parametrize(
    "options", [("--topic", "Review"), ("--no-waiting-room",), ("--occurrence", "17", "--duration", "30")]
)
async def test_update_outside_the_schedule_of_a_series_does_not_read_the_meeting(
    service: RecordingService, options: tuple[str, ...]
) -> None:
    await run(service, "meetings", "update", MONICA, NUMBER, *options)
    assert service.called == ["MeetingsService.UpdateMeeting"]


async def test_update_of_a_single_meeting_can_make_it_a_series(service: RecordingService) -> None:
    single = ParseDict({"meeting": {"type": "MEETING_TYPE_SCHEDULED"}}, meetings.GetMeetingResponse())
    options = ("--weekly", "fri", "--times", "4")
    await run(service, "meetings", "update", MONICA, NUMBER, *options, responses=[single])
    _, request = service.requests
    assert list(request.update_mask.paths) == ["type", "recurrence"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "option",
    [("--daily",), ("--weekly", "mon"), ("--every", "2"), ("--times", "3"), ("--until", "2031-01-01")],
)
async def test_recurrence_of_an_occurrence_is_a_usage_error(
    service: RecordingService, option: tuple[str, ...]
) -> None:
    _, errors = await run(
        service, "meetings", "update", MONICA, NUMBER, "--occurrence", "17", *option, code=2
    )
    assert "omit --occurrence to change the whole series" in errors
    assert not service.requests


def test_properties_that_can_be_cleared_are_documented() -> None:
    guide = (Path(__file__).parents[3] / "docs/meetings.md").read_text()
    section = guide.partition("## Change a meeting\n")[2].partition("\n## ")[0]
    assert {*clearable_paths()} - {*re.findall("`([a-z_.]+)`", section)} == set()


async def test_every_property_without_a_required_value_can_be_cleared(service: RecordingService) -> None:
    options = [word for path in clearable_paths() for word in ("--clear", path)]
    await run(service, "meetings", "update", MONICA, NUMBER, *options)
    (request,) = service.requests
    assert list(request.update_mask.paths) == list(clearable_paths())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ("--clear", "settings.alternative_hostss"),
            "cannot be cleared; did you mean settings.alternative_hosts?",
        ),
        (("--clear", "duration_minutes"), "'duration_minutes' cannot be cleared; use one of topic, agenda, "),
        (("--clear", "settings.waiting_room"), "'settings.waiting_room' cannot be cleared; "),
        (("--topic", "A", "--clear", "topic"), "--clear topic contradicts the option that sets it"),
    ],
)
async def test_property_that_cannot_be_cleared_is_a_usage_error(
    service: RecordingService, options: tuple[str, ...], text: str
) -> None:
    _, errors = await run(service, "meetings", "update", MONICA, NUMBER, "--agenda", "Plan", *options, code=2)
    assert text in errors
    assert not service.requests


async def test_update_without_a_property_is_a_usage_error(service: RecordingService) -> None:
    _, errors = await run(service, "meetings", "update", MONICA, NUMBER, code=2)
    assert "nothing to change" in errors
    assert not service.requests


async def test_meeting_id_may_contain_the_spaces_that_zoom_displays(service: RecordingService) -> None:
    await run(service, "meetings", "invitation", MONICA, "857 4606 5432")
    (request,) = service.requests
    assert request.meeting_id == int(NUMBER)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", ["x", "8574-6065", "1.5", "", "٣", "9" * 19, "9" * 5000])
async def test_invalid_meeting_ids_are_usage_errors(service: RecordingService, number: str) -> None:
    _, errors = await run(service, "meetings", "end", MONICA, number, "--yes", code=2)
    assert "use the 9 to 11 digits in the link of the meeting" in errors


@pytest.mark.parametrize("number", ["٣", "9" * 19, "9" * 5000])
@pytest.mark.parametrize("verb", ["past", "participants"])
async def test_invalid_ids_of_past_meetings_are_usage_errors(
    service: RecordingService, verb: str, number: str
) -> None:
    _, errors = await run(service, "meetings", verb, MONICA, number, code=2)
    assert "use the 9 to 11 digits in the link of the meeting" in errors


def page(topics: Sequence[str], token: str = "") -> meetings.ListMeetingsResponse:
    rows = [
        {
            "id": NUMBER,
            "topic": topic,
            "startTime": "2026-12-01T08:00:00Z",
            "timezone": "Europe/Berlin",
            "durationMinutes": 45,
            "type": "MEETING_TYPE_SCHEDULED",
        }
        for topic in topics
    ]
    return ParseDict({"meetings": rows, "nextPageToken": token}, meetings.ListMeetingsResponse())


async def test_list_follows_the_pages_and_shows_times_in_the_zone_of_the_meeting(
    service: RecordingService,
) -> None:
    options = ("--type", "upcoming", "--from", "2026-12-01", "--to", "2026-12-31", "--timezone", "UTC")
    responses = [page(["First"], "next"), page(["Second"])]
    text, message = await run(service, "meetings", "list", MONICA, *options, responses=responses)
    assert text.splitlines() == [
        "ID           TOPIC   START                           MINUTES  TYPE",
        f"{NUMBER}  First   2026-12-01 09:00 Europe/Berlin  45       scheduled",
        f"{NUMBER}  Second  2026-12-01 09:00 Europe/Berlin  45       scheduled",
    ]
    assert message == "2 meetings\n"
    sent = [MessageToDict(request) for request in service.requests]
    filters = {"fromDate": "2026-12-01", "toDate": "2026-12-31", "timezone": "UTC", "type": "TYPE_UPCOMING"}
    assert sent == [
        {"userEmail": MONICA, "pageSize": 300, **filters, **token} for token in ({}, {"pageToken": "next"})
    ]


@pytest.mark.parametrize(
    ("start", "zone"), [("9999-12-31T23:59:59Z", "Asia/Tokyo"), ("0001-01-01T00:00:00Z", "America/New_York")]
)
async def test_time_that_no_calendar_of_the_zone_contains_is_shown_in_utc(
    service: RecordingService, start: str, zone: str
) -> None:
    response = page(["Odd"])
    response.meetings[0].start_time.FromJsonString(start)
    response.meetings[0].timezone = zone
    text, _ = await run(service, "meetings", "list", MONICA, responses=[response])
    assert f"{start[5:10]} {start[11:16]} UTC" in text


@pytest.mark.parametrize("is_json", [False, True])
async def test_limit_stops_the_requests(service: RecordingService, is_json: bool) -> None:
    """With --json, each item is one line."""
    responses = [page(["a", "b"], "next"), page(["c", "d"], "more")]
    options = ("--limit", "3", *(["--json"] if is_json else []))
    text, _ = await run(service, "meetings", "list", MONICA, *options, responses=responses)
    lines = text.splitlines()
    topics = (
        [json.loads(line)["topic"] for line in lines] if is_json else [line.split()[1] for line in lines[1:]]
    )
    assert topics == ["a", "b", "c"]
    assert [request.page_size for request in service.requests] == [3, 3]  # type: ignore[attr-defined]


async def test_occurrences_of_a_series_are_listed_with_their_ids(service: RecordingService) -> None:
    meeting = {
        "id": NUMBER,
        "type": "MEETING_TYPE_RECURRING_FIXED_TIME",
        "timezone": "Europe/Berlin",
        "recurrence": EIGHT_WEEKS | {"repeatInterval": 2},
        "occurrences": [
            {"occurrenceId": "1798790400000", "startTime": "2026-12-01T08:00:00Z", "durationMinutes": 45,
             "status": "STATUS_AVAILABLE"},
        ],
    }  # fmt: skip
    response = ParseDict({"meeting": meeting}, meetings.GetMeetingResponse())
    text, _ = await run(service, "meetings", "get", MONICA, NUMBER, "--previous", responses=[response])
    assert "repeats  every 2 weeks on monday, wednesday, 16 times" in text
    assert text.endswith(
        "\n\n"
        "OCCURRENCE     START                           MINUTES  STATUS\n"
        "1798790400000  2026-12-01 09:00 Europe/Berlin  45       available\n"
    )
    (request,) = service.requests
    assert request.show_previous_occurrences  # type: ignore[attr-defined]


async def test_invitation_is_printed_line_by_line_without_control_sequences(
    service: RecordingService,
) -> None:
    response = meetings.GetMeetingInvitationResponse(invitation="Join:\r\n\r\nhttps://a.example\x1b[2J\n")
    text, _ = await run(service, "meetings", "invitation", MONICA, NUMBER, responses=[response])
    assert text == "Join:\n\nhttps://a.example\\x1b[2J\n"


@pytest.mark.parametrize(
    ("meeting", "field"),
    [(NUMBER, {"meetingId": NUMBER}), ("abc//D+e==", {"meetingUuid": "abc//D+e=="})],
)
@pytest.mark.parametrize("verb", ["past", "participants"])
async def test_past_meeting_is_selected_by_id_or_uuid(
    service: RecordingService, verb: str, meeting: str, field: dict[str, str]
) -> None:
    await run(service, "meetings", verb, MONICA, meeting)
    (request,) = service.requests
    assert field.items() <= MessageToDict(request).items()


async def test_participants_are_listed(service: RecordingService) -> None:
    participant = {
        "name": "Omar",
        "userEmail": OMAR,
        "joinTime": "2026-12-01T08:00:00Z",
        "leaveTime": "2026-12-01T08:44:12Z",
        "durationSeconds": 2652,
    }
    response = ParseDict({"participants": [participant]}, meetings.ListPastParticipantsResponse())
    text, message = await run(service, "meetings", "participants", MONICA, NUMBER, responses=[response])
    assert text.splitlines()[1].startswith(f"Omar  {OMAR}  2026-12-01 ")
    assert text.endswith("  44 minutes\n")
    assert message == "1 participant\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (
            ("--notify-hosts", "--no-notify-registrants"),
            {"scheduleForReminder": True, "cancelMeetingReminder": False},
        ),
        (
            ("--no-notify-hosts", "--notify-registrants"),
            {"scheduleForReminder": False, "cancelMeetingReminder": True},
        ),
    ],
)
async def test_notifications_of_a_deletion_can_be_selected_and_suppressed(
    service: RecordingService, options: tuple[str, ...], expected: dict[str, bool]
) -> None:
    await run(service, "meetings", "delete", MONICA, NUMBER, "--yes", *options)
    (request,) = service.requests
    assert MessageToDict(request) == {"userEmail": MONICA, "meetingId": NUMBER, **expected}


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (("meetings", "end", MONICA, NUMBER), f"End meeting {NUMBER} of {MONICA} for all participants?"),
        (("meetings", "delete", MONICA, NUMBER, "--occurrence", "17"),
         f"Delete occurrence 17 of meeting {NUMBER} of {MONICA}?"),
        (("registrants", "delete", MONICA, NUMBER, "r1"), f"Delete registration r1 for meeting {NUMBER} of {MONICA}?"),
        (("registrants", "cancel", MONICA, NUMBER, "r1", OMAR, "r1"),
         f"Cancel 2 registrations for meeting {NUMBER} of {MONICA}?"),
    ],
)  # fmt: skip
async def test_commands_that_end_something_ask_first(
    service: RecordingService, arguments: tuple[str, ...], question: str
) -> None:
    _, errors = await run(service, *arguments, stdin="n\n", code=1)
    assert question in errors
    assert not service.requests
    await run(service, *arguments, stdin="y\n")
    await run(service, *arguments, "--yes")
    assert len(service.requests) == 2


async def test_person_is_registered(service: RecordingService) -> None:
    options = ("--email", OMAR, "--occurrence", "1", "--occurrence", "2", "--language", "german", "--approve")
    response = registrants.AddRegistrantResponse(registrant_id="r1", join_url="https://a.example/w/1")
    text, _ = await run(
        service,
        *("registrants", "add", MONICA, NUMBER, "--details", "-", *options),
        stdin='{"email": "old@example.com", "firstName": "Omar", "country": "DE"}',
        responses=[response],
    )
    assert text == "id      r1\nstatus  approved\njoin    https://a.example/w/1\n"
    (request,) = service.requests
    assert MessageToDict(request) == {
        "userEmail": MONICA,
        "meetingId": NUMBER,
        "registrant": {"email": OMAR, "firstName": "Omar", "country": "DE"},
        "occurrenceIds": ["1", "2"],
        "language": "LANGUAGE_GERMAN",
        "autoApprove": True,
    }


async def test_registrations_are_listed(service: RecordingService) -> None:
    row = {"id": "r1", "email": OMAR, "firstName": "Omar", "lastName": "Haddad", "status": "STATUS_PENDING"}
    response = ParseDict({"registrants": [row]}, registrants.ListRegistrantsResponse())
    text, _ = await run(
        service, "registrants", "list", MONICA, NUMBER, "--status", "pending", responses=[response]
    )
    assert text.splitlines()[1] == f"r1  {OMAR}  Omar Haddad  pending"
    (request,) = service.requests
    assert request.status == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("verb", "action", "done"),
    [
        ("approve", "ACTION_APPROVE", "approved"),
        ("deny", "ACTION_DENY", "denied"),
        ("cancel", "ACTION_CANCEL", "canceled"),
    ],
)
async def test_status_of_registrations_is_changed_by_address_or_id(
    service: RecordingService, verb: str, action: str, done: str
) -> None:
    arguments = (MONICA, NUMBER, OMAR, "r2", OMAR, "--occurrence", "17", *(["--yes"] * (verb == "cancel")))
    _, message = await run(service, "registrants", verb, *arguments)
    assert message == f"{done} 2 registrations\n"
    (request,) = service.requests
    assert MessageToDict(request) == {
        "userEmail": MONICA,
        "meetingId": NUMBER,
        "occurrenceId": "17",
        "action": action,
        "registrants": [{"email": OMAR}, {"id": "r2"}],
    }
