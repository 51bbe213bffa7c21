"""The MeetingsService RPCs."""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from zoomgate.v1 import meeting_pb2
from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceServicer
from zoomgate_server import user_email as addresses
from zoomgate_server.call_context import Call, current_call
from zoomgate_server.errors import FieldViolation
from zoomgate_server.rpc.services import meeting_mapping, meeting_validation
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom import endpoints
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse
from zoomgate_server.zoom.urls import MAX_MEETING_ID


class ZoomCalls(Protocol):
    """The part of the domain that MeetingsService uses."""

    async def send_typed(self, call: Call, user_email: str, request: ZoomRequest) -> ZoomResponse:
        """Call Zoom's API with a user's token and return the successful response."""
        ...


@dataclass(frozen=True, slots=True)
class MeetingDefaults:
    """Default properties of new meetings.

    Attributes:
        topic: At most 200 characters.
        duration_minutes: 1 to 1440.
        timezone: An IANA time zone name.
    """

    topic: str
    duration_minutes: int
    timezone: str


class MeetingsService(MeetingsServiceServicer):
    """The MeetingsService: meetings of Zoom users."""

    def __init__(self, *, zoom_calls: ZoomCalls, defaults: MeetingDefaults) -> None:
        self._zoom_calls = zoom_calls
        self._defaults = defaults

    async def CreateMeeting(self, request: pb.CreateMeetingRequest, context: Any) -> pb.CreateMeetingResponse:
        violations = Violations()
        violations.user_email(request.user_email)
        if request.request_id:
            violations.add("request_id", "is not supported yet; leave it empty")
        meeting_validation.check_details(request.meeting_details, "meeting_details", violations)
        mapping_violations: list[FieldViolation] = []
        details = (
            {}
            if violations
            else meeting_mapping.details(request.meeting_details, "meeting_details", mapping_violations)
        )
        for violation in mapping_violations:
            violations.add(violation.field, violation.description)
        violations.raise_if_any()
        body = orjson.dumps(self._with_defaults(details))
        response = await self._zoom_calls.send_typed(
            current_call.get(), request.user_email, endpoints.create_meeting(body)
        )
        return pb.CreateMeetingResponse(meeting=meeting_mapping.meeting(response.body))

    async def GetMeeting(self, request: pb.GetMeetingRequest, context: Any) -> pb.GetMeetingResponse:
        if (
            request.occurrence_id
            or not 1 <= request.meeting_id <= MAX_MEETING_ID
            or not addresses.is_canonical(request.user_email)
        ):
            _check_target(request)
        zoom_request = endpoints.get_meeting(
            request.meeting_id,
            occurrence_id=request.occurrence_id,
            show_previous_occurrences=_optional_flag(request, "show_previous_occurrences"),
        )
        response = await self._zoom_calls.send_typed(current_call.get(), request.user_email, zoom_request)
        return pb.GetMeetingResponse(meeting=meeting_mapping.meeting(response.body))

    async def DeleteMeeting(self, request: pb.DeleteMeetingRequest, context: Any) -> pb.DeleteMeetingResponse:
        _check_target(request)
        zoom_request = endpoints.delete_meeting(
            request.meeting_id,
            occurrence_id=request.occurrence_id,
            schedule_for_reminder=_optional_flag(request, "schedule_for_reminder"),
            cancel_meeting_reminder=_optional_flag(request, "cancel_meeting_reminder"),
        )
        response = await self._zoom_calls.send_typed(current_call.get(), request.user_email, zoom_request)
        return pb.DeleteMeetingResponse(status=response.status)

    def _with_defaults(self, details: dict[str, Any]) -> dict[str, Any]:
        """Return a meeting's details, with defaults for unset properties."""
        kinds = meeting_mapping.CONVENTIONS.enums["MeetingType"]
        return {
            "topic": self._defaults.topic,
            "type": kinds[meeting_pb2.MEETING_TYPE_SCHEDULED],
            "duration": self._defaults.duration_minutes,
            "timezone": self._defaults.timezone,
            **details,
        }


def _check_target(request: pb.GetMeetingRequest | pb.DeleteMeetingRequest) -> None:
    """Validate the fields that identify a meeting.

    Raises:
        InvalidRequest: Fields are invalid. `violations` lists all of them.
    """
    violations = Violations()
    meeting_validation.check_target(request, violations)
    violations.raise_if_any()


def _optional_flag(request: Any, field: str) -> bool | None:
    """Return an optional flag, or None if unset."""
    value: bool | None = getattr(request, field) if request.HasField(field) else None
    return value
