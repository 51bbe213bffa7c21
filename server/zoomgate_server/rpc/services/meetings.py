"""The MeetingsService RPCs (operations: https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meeting_pb2 import MeetingDetails
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceServicer
from zoomgate_server.clock import Clock
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.rpc.services import update_mask
from zoomgate_server.rpc.services.json_mapping import MessageConverter
from zoomgate_server.rpc.services.meeting_completion import completed
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.response_mapping import confirmation, list_reader, message_reader
from zoomgate_server.rpc.services.rules import meeting_rules
from zoomgate_server.rpc.services.typed_rpc import TypedRpc, TypedService
from zoomgate_server.rpc.services.validation import Violations

_DETAILS = MessageConverter(MeetingDetails.DESCRIPTOR)


class MeetingsService(TypedService, MeetingsServiceServicer):
    """The MeetingsService: meetings of Zoom users. `defaults` are properties of new meetings, in Zoom's format."""

    def __init__(
        self, *, zoom_calls: ZoomCalls, page_tokens: PageTokens, defaults: Mapping[str, Any], clock: Clock
    ) -> None:
        super().__init__(zoom_calls=zoom_calls, page_tokens=page_tokens)
        self._defaults = defaults
        self._clock = clock

    def _new_meeting(self, request: pb.CreateMeetingRequest, violations: Violations) -> Mapping[str, Any]:
        """Return the properties of a new meeting, with defaults for unset ones."""
        violations.unsupported("request_id", request.request_id)
        default_zone, now = self._defaults["timezone"], self._clock.wall()
        details = completed(request.meeting_details, default_zone=default_zone, now=now)
        meeting_rules.check_new(details, violations, default_zone=default_zone, now=now)
        return {**self._defaults, **meeting_json(details, violations)}

    def _changes(self, request: pb.UpdateMeetingRequest, violations: Violations) -> Mapping[str, Any]:
        """Return the properties to change: those in the mask, or without a mask those that are set."""
        details, cleared = request.meeting_details, list[Sequence[str]]()
        has_mask = request.HasField("update_mask")
        if has_mask:
            details, cleared = update_mask.select(details, request.update_mask, violations)
        meeting_rules.check_update(
            details, violations, cleared=cleared, of_occurrence=bool(request.occurrence_id)
        )
        changes = meeting_json(details, violations, cleared=cleared)
        if not has_mask and all(value == {} for value in changes.values()):
            violations.add("meeting_details", "contains no change; set the properties to change")
        return changes

    CreateMeeting = TypedRpc(
        "POST",
        "/users/{userId}/meetings",
        message_reader(pb.CreateMeetingResponse, field="meeting", required="id"),
        body=_new_meeting,
    )
    GetMeeting = TypedRpc(
        "GET",
        "/meetings/{meetingId}",
        message_reader(pb.GetMeetingResponse, field="meeting", required="id"),
        query=("occurrence_id", "show_previous_occurrences"),
    )
    ListMeetings = TypedRpc(
        "GET",
        "/users/{userId}/meetings",
        list_reader(pb.ListMeetingsResponse, items="meetings"),
        query=("type", "from_date", "to_date", "timezone", "page_size", "page_token"),
    )
    UpdateMeeting = TypedRpc(
        "PATCH",
        "/meetings/{meetingId}",
        confirmation(pb.UpdateMeetingResponse),
        query=("occurrence_id",),
        body=_changes,
    )
    DeleteMeeting = TypedRpc(
        "DELETE",
        "/meetings/{meetingId}",
        confirmation(pb.DeleteMeetingResponse),
        query=("occurrence_id", "schedule_for_reminder", "cancel_meeting_reminder"),
    )
    RecoverMeeting = TypedRpc(
        "PUT",
        "/meetings/{meetingId}/status",
        confirmation(pb.RecoverMeetingResponse),
        body=lambda *_: {"action": "recover"},
    )
    EndMeeting = TypedRpc(
        "PUT",
        "/meetings/{meetingId}/status",
        confirmation(pb.EndMeetingResponse),
        body=lambda *_: {"action": "end"},
    )
    GetMeetingInvitation = TypedRpc(
        "GET",
        "/meetings/{meetingId}/invitation",
        message_reader(pb.GetMeetingInvitationResponse, required="invitation"),
    )
    GetPastMeeting = TypedRpc(
        "GET",
        "/past_meetings/{meetingId}",
        message_reader(pb.GetPastMeetingResponse, field="past_meeting", required="uuid"),
    )
    ListPastInstances = TypedRpc(
        "GET",
        "/past_meetings/{meetingId}/instances",
        list_reader(pb.ListPastInstancesResponse, items="meetings"),
    )
    ListPastParticipants = TypedRpc(
        "GET",
        "/past_meetings/{meetingId}/participants",
        list_reader(pb.ListPastParticipantsResponse, items="participants"),
        query=("page_size", "page_token"),
    )


def meeting_json(
    details: MeetingDetails, violations: Violations, *, cleared: Iterable[Sequence[str]] = ()
) -> dict[str, Any]:
    """Return the details of a meeting as JSON for Zoom, with empty values at the cleared paths."""
    data: dict[str, Any] = {}
    for path in cleared:
        _DETAILS.clear(data, path)
    return _DETAILS.json(details, violations, "meeting_details.", data)
