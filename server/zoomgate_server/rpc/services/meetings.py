"""The MeetingsService RPCs."""

from collections.abc import Mapping
from typing import Any

import orjson

from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceServicer
from zoomgate_server.call_context import current_call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.rpc.services import (
    meeting_mapping,
    meeting_schedule,
    meeting_validation,
    response_mapping,
)
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom import endpoints


class MeetingsService(MeetingsServiceServicer):
    """The MeetingsService: meetings of Zoom users. `defaults` are properties of new meetings, in Zoom's format."""

    def __init__(self, *, zoom_calls: ZoomCalls, defaults: Mapping[str, Any], clock: Clock) -> None:
        self._zoom_calls = zoom_calls
        self._defaults = defaults
        self._clock = clock

    async def CreateMeeting(self, request: pb.CreateMeetingRequest, context: Any) -> pb.CreateMeetingResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        violations.unsupported("request_id", request.request_id)
        meeting_validation.check_details(request.meeting_details, "meeting_details", violations)
        meeting_schedule.complete(
            request.meeting_details,
            "meeting_details",
            violations,
            default_zone=self._defaults["timezone"],
            now=self._clock.wall(),
        )
        violations.raise_if_any()
        details = meeting_mapping.details(request.meeting_details, "meeting_details", violations)
        violations.raise_if_any()
        body = orjson.dumps(self._with_defaults(details))
        meeting = await self._zoom_calls.send_typed(
            current_call.get(), user_email, endpoints.create_meeting(body), meeting_mapping.meeting
        )
        return pb.CreateMeetingResponse(meeting=meeting)

    async def GetMeeting(self, request: pb.GetMeetingRequest, context: Any) -> pb.GetMeetingResponse:
        user_email = meeting_validation.check_target(request)
        zoom_request = endpoints.get_meeting(
            request.meeting_id,
            occurrence_id=request.occurrence_id,
            show_previous_occurrences=_optional_flag(request, "show_previous_occurrences"),
        )
        meeting = await self._zoom_calls.send_typed(
            current_call.get(), user_email, zoom_request, meeting_mapping.meeting
        )
        return pb.GetMeetingResponse(meeting=meeting)

    async def DeleteMeeting(self, request: pb.DeleteMeetingRequest, context: Any) -> pb.DeleteMeetingResponse:
        user_email = meeting_validation.check_target(request)
        zoom_request = endpoints.delete_meeting(
            request.meeting_id,
            occurrence_id=request.occurrence_id,
            schedule_for_reminder=_optional_flag(request, "schedule_for_reminder"),
            cancel_meeting_reminder=_optional_flag(request, "cancel_meeting_reminder"),
        )
        response = await self._zoom_calls.send_typed(
            current_call.get(), user_email, zoom_request, endpoints.deleted
        )
        return pb.DeleteMeetingResponse(response=response_mapping.response(response))

    def _with_defaults(self, details: dict[str, Any]) -> dict[str, Any]:
        """Return a meeting's details, with defaults for unset properties."""
        return {
            "type": meeting_mapping.CONVENTIONS.enums["MeetingType"]["SCHEDULED"],
            **self._defaults,
            **details,
        }


def _optional_flag(request: Any, field: str) -> bool | None:
    """Return an optional flag, or None if unset."""
    value: bool | None = getattr(request, field) if request.HasField(field) else None
    return value
