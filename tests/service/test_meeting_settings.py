"""Tests for the settings of meetings."""

from pathlib import Path

from support.harness import MONICA, Harness
from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meeting_pb2 import MeetingDetails
from zoomgate_server.rpc.services import meeting_mapping
from zoomgate_server.zoom.request import ZoomResponse

FULL_MEETING = Path(__file__).parents[1] / "contract/golden/meetings/full.zoom.json"
"""A meeting with every property that Zoom documents."""


async def test_settings_of_a_meeting_can_be_used_for_another_one(zoomgate: Harness) -> None:
    """The settings are all of those that Zoom documents, and one that it does not document."""
    await zoomgate.connect()
    response = meeting_mapping.meeting(ZoomResponse(200, (), FULL_MEETING.read_bytes()))
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
