"""Tests for the MeetingsService RPCs."""

from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from support.harness import BASIL, MONICA, Harness, running
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import meeting_pb2
from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import zoom_calls
from zoomgate_server.rpc.services.rules.request_rules import MAX_MEETING_ID


def create_request(**details: object) -> pb.CreateMeetingRequest:
    request = pb.CreateMeetingRequest(user_email=MONICA)
    ParseDict(details, request.meeting_details)
    return request


async def test_meeting_is_created_returned_and_deleted(zoomgate: Harness) -> None:
    await zoomgate.connect()
    created = (
        await zoomgate.call(
            zoomgate.meetings.CreateMeeting,
            create_request(
                topic="Planning",
                start_time="2031-05-01T09:00:00Z",
                duration_minutes=45,
                settings={"waiting_room": False, "alternative_hosts": ["a@example.com", "b@example.com"]},
            ),
            "monica",
        )
    ).meeting
    assert created.topic == "Planning"
    assert created.start_time.ToJsonString() == "2031-05-01T09:00:00Z"
    assert list(created.settings.alternative_hosts) == ["a@example.com", "b@example.com"]
    at_zoom = zoomgate.simulator.zoom.meetings[created.id].body
    assert (at_zoom["duration"], at_zoom["settings"]["alternative_hosts"]) == (
        45,
        "a@example.com;b@example.com",
    )
    target = pb.GetMeetingRequest(user_email=MONICA, meeting_id=created.id)
    assert (await zoomgate.call(zoomgate.meetings.GetMeeting, target)).meeting == created
    deletion = pb.DeleteMeetingRequest(user_email=MONICA, meeting_id=created.id, schedule_for_reminder=False)
    response = (await zoomgate.call(zoomgate.meetings.DeleteMeeting, deletion)).response
    assert (response.status, response.body) == (204, b"")
    assert "x-zm-trackingid" in {header.name for header in response.headers}
    error = await zoomgate.error_of(zoomgate.meetings.GetMeeting, target)
    assert error.short == ("NOT_FOUND", "MEETING_NOT_FOUND")
    assert (error.metadata["http_status"], error.metadata["zoom_code"]) == ("404", "3001")


async def test_empty_details_use_documented_defaults(zoomgate: Harness) -> None:
    await zoomgate.connect()
    meeting = (await zoomgate.call(zoomgate.meetings.CreateMeeting, create_request())).meeting
    assert (meeting.topic, meeting.duration_minutes, meeting.timezone, meeting.type) == (
        "Zoom meeting",
        60,
        "UTC",
        meeting_pb2.MEETING_TYPE_SCHEDULED,
    )


async def test_local_start_time_uses_its_time_zone(zoomgate: Harness) -> None:
    """9:00 in Berlin is 7:00 UTC in summer; the response lists the occurrences of a weekly series."""
    await zoomgate.connect()
    meeting = (
        await zoomgate.call(
            zoomgate.meetings.CreateMeeting,
            create_request(
                type="MEETING_TYPE_RECURRING_FIXED_TIME",
                local_start_time="2031-07-01T09:00:00",
                timezone="Europe/Berlin",
                recurrence={"type": "TYPE_WEEKLY", "weekly_days": ["DAY_OF_WEEK_TUESDAY"], "end_times": 3},
            ),
        )
    ).meeting
    assert meeting.start_time.ToJsonString() == "2031-07-01T07:00:00Z"
    assert len(meeting.occurrences) == 3
    assert list(meeting.recurrence.weekly_days) == [meeting_pb2.DAY_OF_WEEK_TUESDAY]


async def test_additional_fields_are_sent_to_zoom_and_returned(tmp_path: Path) -> None:
    """A field of the message may be sent there too, for example with a new word of Zoom, but only in one place."""
    later_zoom = SimulatorOptions(port=0, undocumented_fields=True)
    async with running(tmp_path / "data", simulator=later_zoom) as zoomgate:
        await zoomgate.connect()
        await check_additional_fields(zoomgate)


async def check_additional_fields(zoomgate: Harness) -> None:
    request = create_request(
        additional_fields={"brand_new": {"x": 1}}, settings={"additional_fields": {"audio": "newWord"}}
    )
    meeting = (await zoomgate.call(zoomgate.meetings.CreateMeeting, request)).meeting
    assert meeting.additional_fields["brand_new"]["x"] == 1
    assert meeting.settings.additional_fields["audio"] == "newWord"
    copied = pb.CreateMeetingRequest(user_email=MONICA, meeting_details={"settings": meeting.settings})
    copy = (await zoomgate.call(zoomgate.meetings.CreateMeeting, copied)).meeting
    assert copy.settings == meeting.settings
    invalid = create_request(
        topic="x",
        additional_fields={"topic": "x"},
        settings={"waiting_room": True, "additional_fields": {"waiting_room": True}},
    )
    error = await zoomgate.error_of(zoomgate.meetings.CreateMeeting, invalid)
    assert set(error.violations) == {
        "meeting_details.additional_fields.topic",
        "meeting_details.settings.additional_fields.waiting_room",
    }


async def test_rejection_by_zoom_carries_its_message_and_code(zoomgate: Harness) -> None:
    await zoomgate.connect(BASIL)
    error = await zoomgate.error_of(
        zoomgate.meetings.CreateMeeting, pb.CreateMeetingRequest(user_email=BASIL)
    )
    assert error.short == ("INVALID_ARGUMENT", "ZOOM_REFUSED")
    assert (error.metadata["http_status"], error.metadata["zoom_code"]) == ("400", "3161")
    assert error.metadata["zoom_message"] in error.message
    assert "does not allow you to host" in error.message


async def test_missing_scope_is_named_in_the_error(zoomgate: Harness) -> None:
    await zoomgate.connect()
    zoomgate.simulator.zoom.grants[MONICA].scope = "user:read:user"
    error = await zoomgate.error_of(zoomgate.meetings.CreateMeeting, create_request())
    assert error.short == ("FAILED_PRECONDITION", "ZOOM_SCOPE_MISSING")
    assert "meeting:write:meeting" in error.metadata["scopes"]


async def test_expired_access_token_is_refreshed_and_the_call_retried(zoomgate: Harness) -> None:
    """A 401 response causes one refresh and one retry; the meeting is created only once."""
    await zoomgate.connect()
    await zoomgate.call(zoomgate.meetings.CreateMeeting, create_request())
    zoomgate.simulator.zoom.expire(MONICA)
    await zoomgate.call(zoomgate.meetings.CreateMeeting, create_request())
    assert zoomgate.stat("token.refresh_token.issued") == 1
    assert len(zoomgate.simulator.zoom.meetings) == 2


async def test_permanently_rejected_token_is_refreshed_once_per_minute(tmp_path: Path) -> None:
    """While Zoom rejects every access token, at most one call per minute causes a refresh, whatever the endpoint allows."""
    async with running(
        tmp_path / "data", timing=Timing(zoom_requests=zoom_calls.Timing(refresh_pause=0.0))
    ) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("meetings", "status", times=-1, status=401))
        target = pb.GetMeetingRequest(user_email=MONICA, meeting_id=1)
        for _ in range(3):
            error = await zoomgate.error_of(zoomgate.meetings.GetMeeting, target)
            assert error.short == ("PERMISSION_DENIED", "ZOOM_REFUSED")
            assert error.metadata["zoom_code"] == "124"
        assert zoomgate.stat("token.refresh_token.issued") == 1


@pytest.mark.parametrize(
    ("kind", "read", "write"),
    [
        ("status", ("UNAVAILABLE", "ZOOM_UNAVAILABLE"), ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")),
        ("html", ("UNAVAILABLE", "ZOOM_UNAVAILABLE"), ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")),
        ("cut_after", ("UNAVAILABLE", "ZOOM_UNAVAILABLE"), ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")),
        ("garbage", ("UNAVAILABLE", "ZOOM_UNAVAILABLE"), ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")),
        ("redirect", ("INTERNAL", "ZOOM_BAD_RESPONSE"), ("INTERNAL", "ZOOM_BAD_RESPONSE")),
        (
            "rate_limit_qps",
            ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED"),
            ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED"),
        ),
    ],
)
async def test_failure_of_zoom_returns_the_documented_error(
    zoomgate: Harness, kind: str, read: tuple[str, str], write: tuple[str, str]
) -> None:
    """The error of a failed read allows a retry. A write whose response is lost has an unknown outcome."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("meetings", kind, times=-1, status=502))
    target = pb.GetMeetingRequest(user_email=MONICA, meeting_id=1)
    assert (await zoomgate.error_of(zoomgate.meetings.GetMeeting, target)).short == read
    assert (await zoomgate.error_of(zoomgate.meetings.CreateMeeting, create_request())).short == write


async def test_all_invalid_details_are_reported_together(zoomgate: Harness) -> None:
    """Every invalid field has a violation, and nothing is sent to Zoom."""
    await zoomgate.connect()
    request = create_request(
        topic="x" * 201,
        agenda="a\x1bb",
        duration_minutes=0,
        password="much too long",
        timezone="../../etc/passwd",
        local_start_time="2026-02-30T09:00:00",
        type="MEETING_TYPE_RECURRING_FIXED_TIME",
        recurrence={
            "type": "TYPE_MONTHLY",
            "repeat_interval": 11,
            "monthly_week": 6,
            "monthly_week_day": 1,
            "end_times": 61,
            "end_time": "2020-01-01T00:00:00Z",
            "weekly_days": [0],
        },
        settings={"jbh_time": 7, "alternative_hosts": ["a@example.com;b@example.com"]},
        tracking_fields=[{"value": "x"}],
    )
    request.meeting_details.settings.approval_type = 99  # type: ignore[assignment]
    request.request_id = "1"
    error = await zoomgate.error_of(zoomgate.meetings.CreateMeeting, request)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert set(error.violations) == {
        "request_id",
        *(
            f"meeting_details.{field}"
            for field in (
                "topic",
                "agenda",
                "duration_minutes",
                "password",
                "timezone",
                "local_start_time",
                "recurrence.repeat_interval",
                "recurrence.monthly_week",
                "recurrence.end_times",
                "recurrence.end_time",
                "recurrence.weekly_days",
                "recurrence.weekly_days[0]",
                "settings.jbh_time",
                "settings.alternative_hosts[0]",
                "settings.approval_type",
                "tracking_fields[0].field",
            )
        ),
    }
    assert zoomgate.stat("api.create") == 0


@pytest.mark.parametrize("meeting_id", [0, -1, MAX_MEETING_ID + 1, 2**53 + 1, 2**63 - 1])
async def test_invalid_meeting_id_is_rejected(zoomgate: Harness, meeting_id: int) -> None:
    """Meeting IDs range from 1 to 10^12."""
    for method, request in (
        (zoomgate.meetings.GetMeeting, pb.GetMeetingRequest(user_email=MONICA, meeting_id=meeting_id)),
        (
            zoomgate.meetings.DeleteMeeting,
            pb.DeleteMeetingRequest(user_email=MONICA, meeting_id=meeting_id, occurrence_id="x"),
        ),
    ):
        error = await zoomgate.error_of(method, request)
        assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
        assert "meeting_id" in error.violations
