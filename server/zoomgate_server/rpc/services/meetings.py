"""The MeetingsService RPCs (operations: https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Mapping, Sequence
from typing import Any

from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceServicer
from zoomgate_server.clock import Clock
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.rpc.services import meeting_mapping, update_mask
from zoomgate_server.rpc.services.meeting_completion import completed
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.response_mapping import confirmation
from zoomgate_server.rpc.services.rules import meeting_rules
from zoomgate_server.rpc.services.typed_rpc import TypedRpc, TypedService
from zoomgate_server.rpc.services.validation import Violations


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
        return {**self._defaults, **meeting_mapping.details(details, violations)}

    def _changes(self, request: pb.UpdateMeetingRequest, violations: Violations) -> Mapping[str, Any]:
        """Return the properties to change: those in the mask, or without a mask those that are set."""
        details, cleared = request.meeting_details, list[Sequence[str]]()
        has_mask = request.HasField("update_mask")
        if has_mask:
            details, cleared = update_mask.select(details, request.update_mask, violations)
        meeting_rules.check_update(
            details, violations, cleared=cleared, of_occurrence=bool(request.occurrence_id)
        )
        changes = meeting_mapping.details(details, violations, cleared=cleared)
        if not has_mask and all(value == {} for value in changes.values()):
            violations.add("meeting_details", "contains no change; set the properties to change")
        return changes

    CreateMeeting = TypedRpc(
        "POST",
        "/users/{userId}/meetings",
        meeting_mapping.created_meeting,
        body=_new_meeting,
    )
    GetMeeting = TypedRpc(
        "GET",
        "/meetings/{meetingId}",
        meeting_mapping.meeting,
        query=("occurrence_id", "show_previous_occurrences"),
    )
    ListMeetings = TypedRpc(
        "GET",
        "/users/{userId}/meetings",
        meeting_mapping.meetings,
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
        meeting_mapping.invitation,
    )
    GetPastMeeting = TypedRpc(
        "GET",
        "/past_meetings/{meetingId}",
        meeting_mapping.past_meeting,
    )
    ListPastInstances = TypedRpc(
        "GET",
        "/past_meetings/{meetingId}/instances",
        meeting_mapping.past_instances,
    )
    ListPastParticipants = TypedRpc(
        "GET",
        "/past_meetings/{meetingId}/participants",
        meeting_mapping.past_participants,
        query=("page_size", "page_token"),
    )
