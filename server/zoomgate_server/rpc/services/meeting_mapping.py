"""Conversion of meetings between Zoom's JSON and protobuf messages (https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Iterable, Sequence
from typing import Any

from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meeting_pb2 import MeetingDetails
from zoomgate_server.rpc.services.json_mapping import MessageConverter
from zoomgate_server.rpc.services.response_mapping import list_reader, message_reader
from zoomgate_server.rpc.services.validation import Violations

_DETAILS = MessageConverter(MeetingDetails.DESCRIPTOR)

created_meeting = message_reader(pb.CreateMeetingResponse, field="meeting", required="id")
meeting = message_reader(pb.GetMeetingResponse, field="meeting", required="id")
past_meeting = message_reader(pb.GetPastMeetingResponse, field="past_meeting", required="uuid")
invitation = message_reader(pb.GetMeetingInvitationResponse, required="invitation")
meetings = list_reader(pb.ListMeetingsResponse, items="meetings")
past_instances = list_reader(pb.ListPastInstancesResponse, items="meetings")
past_participants = list_reader(pb.ListPastParticipantsResponse, items="participants")


def details(
    message: MeetingDetails, violations: Violations, *, cleared: Iterable[Sequence[str]] = ()
) -> dict[str, Any]:
    """Return the details of a meeting as JSON for Zoom, with empty values at the cleared paths."""
    data: dict[str, Any] = {}
    for path in cleared:
        _DETAILS.clear(data, path)
    return _DETAILS.json(message, violations, "meeting_details.", data)
