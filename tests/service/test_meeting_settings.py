"""Tests for the properties of returned meetings in requests."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from support.harness import MONICA, Harness
from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.zoom.request import ZoomResponse

MEETINGS = Path(__file__).parents[1] / "contract/golden/meetings"
FULL_MEETING = MEETINGS / "full.zoom.json"
"""A meeting with every property that Zoom documents."""

EXAMPLES = MEETINGS / "examples.zoom.json"
"""A scheduled meeting with the values of the examples in Zoom's documentation."""

WITHOUT_EFFECT: list[dict[str, Any]] = [
    {},
    {"approval_type": 2},
    {"registrants_email_notification": False},
    {"join_before_host": False, "jbh_time": 5},
    {"waiting_room": True},
    {"meeting_authentication": False},
    {"use_pmi": True},
]
"""Settings with which Zoom ignores others."""

SENDABLE = {*MeetingDetails.DESCRIPTOR.fields_by_name} - {"additional_fields", "type", "recurrence"}


def returned(settings: dict[str, Any], **properties: Any) -> Meeting:
    """Return the meeting of Zoom's examples with different settings."""
    data = orjson.loads(EXAMPLES.read_bytes()) | properties
    data["settings"] |= settings
    response = MeetingsService.GetMeeting.read(ZoomResponse(200, (), orjson.dumps(data)))
    assert response is not None
    return response.meeting


@pytest.mark.parametrize("settings", WITHOUT_EFFECT, ids=str)
@pytest.mark.parametrize("kind", ["SCHEDULED", "RECURRING_NO_FIXED_TIME", "RECURRING_FIXED_TIME"])
async def test_returned_meeting_can_be_created_and_sent_as_an_update(
    zoomgate: Harness, settings: dict[str, Any], kind: str
) -> None:
    """Zoom returns values that have no effect unless others are set."""
    await zoomgate.connect()
    details = MeetingDetails(
        **{field.name: value for field, value in returned(settings).ListFields() if field.name in SENDABLE},
        type=f"MEETING_TYPE_{kind}",
        recurrence={"type": "TYPE_DAILY", "end_times": 1} if kind == "RECURRING_FIXED_TIME" else None,
    )
    if kind == "RECURRING_NO_FIXED_TIME":
        details.ClearField("start")
    created = await zoomgate.call(
        zoomgate.meetings.CreateMeeting, pb.CreateMeetingRequest(user_email=MONICA, meeting_details=details)
    )
    await zoomgate.call(
        zoomgate.meetings.UpdateMeeting,
        pb.UpdateMeetingRequest(user_email=MONICA, meeting_id=created.meeting.id, meeting_details=details),
    )


async def test_settings_of_an_instant_meeting_can_be_those_of_a_scheduled_one(zoomgate: Harness) -> None:
    """Zoom uses `join_before_host` only for other types. The chat is the only setting that Zoom does not support."""
    await zoomgate.connect()
    settings = returned({"join_before_host": True}).settings
    settings.ClearField("continuous_meeting_chat")
    details = MeetingDetails(type="MEETING_TYPE_INSTANT", settings=settings)
    await zoomgate.call(
        zoomgate.meetings.CreateMeeting, pb.CreateMeetingRequest(user_email=MONICA, meeting_details=details)
    )


async def test_settings_of_a_meeting_can_be_used_for_another_one(zoomgate: Harness) -> None:
    """The settings are all of those that Zoom documents, and one that it does not document."""
    await zoomgate.connect()
    response = MeetingsService.GetMeeting.read(ZoomResponse(200, (), FULL_MEETING.read_bytes()))
    assert response is not None
    response.meeting.settings.additional_fields.update({"a_new_setting": "new"})
    settings = [response.meeting.settings]
    for _ in range(2):
        details = MeetingDetails(settings=settings[-1], recurrence={"type": "TYPE_DAILY", "end_times": 1})
        created = await zoomgate.call(
            zoomgate.meetings.CreateMeeting,
            pb.CreateMeetingRequest(user_email=MONICA, meeting_details=details),
        )
        read = await zoomgate.call(
            zoomgate.meetings.GetMeeting,
            pb.GetMeetingRequest(user_email=MONICA, meeting_id=created.meeting.id),
        )
        settings.append(read.meeting.settings)
    assert len(settings[1].ListFields()) > 50
    assert settings[1] == settings[2]
