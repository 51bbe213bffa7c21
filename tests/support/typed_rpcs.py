"""An example of every RPC that calls one operation of Zoom."""

from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict

from support.harness import MONICA, OMAR
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import registrants_service_pb2 as registrants
from zoomgate_server.rpc.services.rules.request_rules import MAX_MEETING_ID

METHODS = {
    f"{service.name}.{method.name}": method
    for module in (meetings, registrants)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""The typed RPCs by `Service.Method`."""

ID = 81234567890
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nX-Zm-Trackingid: v=2.0;1\r\n\r\n"
CONFIRMED = {"response": {"status": 204, "headers": [{"name": "x-zm-trackingid", "value": "v=2.0;1"}]}}


class Example(NamedTuple):
    """An RPC: a request, the request line and body that Zoom receives, its response, and the response to the caller."""

    request: dict[str, Any]
    line: str
    zoom_response: dict[str, Any] | None
    response: dict[str, Any]
    body: dict[str, Any] | None = None
    status: str = "200 OK"


EXAMPLES = {
    "MeetingsService.CreateMeeting": Example(
        {"meeting_details": {"topic": "Review"}},
        "POST /v2/users/me/meetings",
        {"id": ID, "topic": "Review"},
        {"meeting": {"id": str(ID), "topic": "Review"}},
        {"type": 2, "topic": "Review", "duration": 60, "timezone": "UTC"},
        "201 Created",
    ),
    "MeetingsService.GetMeeting": Example(
        {"meeting_id": ID, "occurrence_id": "1767258000000", "show_previous_occurrences": True},
        f"GET /v2/meetings/{ID}?occurrence_id=1767258000000&show_previous_occurrences=true",
        {"id": ID, "created_at": "2026-11-30T14:00:00Z"},
        {"meeting": {"id": str(ID), "createTime": "2026-11-30T14:00:00Z"}},
    ),
    "MeetingsService.ListMeetings": Example(
        {
            "type": "TYPE_PREVIOUS_MEETINGS",
            "from_date": "2026-11-01",
            "to_date": "2026-11-30",
            "timezone": "Europe/Berlin",
            "page_size": 300,
        },
        "GET /v2/users/me/meetings?type=previous_meetings&from=2026-11-01&to=2026-11-30&timezone=Europe%2FBerlin&page_size=300",
        {"meetings": [{"id": 1, "duration": 30}, {"id": 2}], "total_records": 2, "next_page_token": ""},
        {"meetings": [{"id": "1", "durationMinutes": 30}, {"id": "2"}], "totalSize": 2},
    ),
    "MeetingsService.UpdateMeeting": Example(
        {
            "meeting_id": ID,
            "occurrence_id": "1",
            "meeting_details": {"agenda": "Plan", "duration_minutes": 5},
        },
        f"PATCH /v2/meetings/{ID}?occurrence_id=1",
        None,
        CONFIRMED,
        {"agenda": "Plan", "duration": 5},
    ),
    "MeetingsService.DeleteMeeting": Example(
        {"meeting_id": ID, "schedule_for_reminder": False, "cancel_meeting_reminder": True},
        f"DELETE /v2/meetings/{ID}?schedule_for_reminder=false&cancel_meeting_reminder=true",
        None,
        CONFIRMED,
    ),
    "MeetingsService.RecoverMeeting": Example(
        {"meeting_id": ID}, f"PUT /v2/meetings/{ID}/status", None, CONFIRMED, {"action": "recover"}
    ),
    "MeetingsService.EndMeeting": Example(
        {"meeting_id": MAX_MEETING_ID},
        f"PUT /v2/meetings/{MAX_MEETING_ID}/status",
        None,
        CONFIRMED,
        {"action": "end"},
    ),
    "MeetingsService.GetMeetingInvitation": Example(
        {"meeting_id": 1},
        "GET /v2/meetings/1/invitation",
        {"invitation": "Join\r\nnow", "sip_links": ["1@zmeu.us"]},
        {"invitation": "Join\r\nnow", "sipLinks": ["1@zmeu.us"]},
    ),
    "MeetingsService.GetPastMeeting": Example(
        {"meeting_uuid": "/ajXp112QmuoKj4854875=="},
        "GET /v2/past_meetings/%252FajXp112QmuoKj4854875%253D%253D",
        {"uuid": "/ajXp112QmuoKj4854875==", "type": 0, "duration": 2, "end_time": "2026-11-30T14:00:00Z"},
        {
            "pastMeeting": {
                "uuid": "/ajXp112QmuoKj4854875==",
                "type": "TYPE_PRESCHEDULED",
                "durationMinutes": 2,
                "endTime": "2026-11-30T14:00:00Z",
            }
        },
    ),
    "MeetingsService.ListPastInstances": Example(
        {"meeting_id": ID},
        f"GET /v2/past_meetings/{ID}/instances",
        {"meetings": [{"uuid": "a==", "start_time": "2026-11-30T14:00:00Z"}]},
        {"instances": [{"uuid": "a==", "startTime": "2026-11-30T14:00:00Z"}]},
    ),
    "MeetingsService.ListPastParticipants": Example(
        {"meeting_id": ID, "page_size": 1},
        f"GET /v2/past_meetings/{ID}/participants?page_size=1",
        {"participants": [{"name": "Omar", "duration": 61, "status": "in_meeting"}]},
        {"participants": [{"name": "Omar", "durationSeconds": 61, "status": "STATUS_IN_MEETING"}]},
    ),
    "RegistrantsService.AddRegistrant": Example(
        {
            "meeting_id": ID,
            "registrant": {"email": OMAR, "first_name": "Omar", "purchasing_time_frame": 2},
            "occurrence_ids": ["1", "2"],
            "language": "LANGUAGE_TURKISH",
            "auto_approve": False,
        },
        f"POST /v2/meetings/{ID}/registrants?occurrence_ids=1%2C2",
        {"id": ID, "registrant_id": "9tboDiHUQAeOnbmudzWa5g", "topic": "Review"},
        {"meetingId": str(ID), "registrantId": "9tboDiHUQAeOnbmudzWa5g", "topic": "Review"},
        {
            "email": OMAR,
            "first_name": "Omar",
            "purchasing_time_frame": "1-3 months",
            "language": "Tr-TR",
            "auto_approve": False,
        },
        "201 Created",
    ),
    "RegistrantsService.ListRegistrants": Example(
        {"meeting_id": ID, "occurrence_id": "1", "status": "STATUS_PENDING"},
        f"GET /v2/meetings/{ID}/registrants?occurrence_id=1&status=pending",
        {"registrants": [{"id": "a", "status": "pending"}], "total_records": 1},
        {"registrants": [{"id": "a", "status": "STATUS_PENDING"}], "totalSize": 1},
    ),
    "RegistrantsService.GetRegistrant": Example(
        {"meeting_id": ID, "registrant_id": "9tboDiHUQAe-_bmudzWa5g"},
        f"GET /v2/meetings/{ID}/registrants/9tboDiHUQAe-_bmudzWa5g",
        {"id": "9tboDiHUQAe-_bmudzWa5g", "email": OMAR},
        {"registrant": {"id": "9tboDiHUQAe-_bmudzWa5g", "email": OMAR}},
    ),
    "RegistrantsService.UpdateRegistrantStatus": Example(
        {
            "meeting_id": ID,
            "occurrence_id": "1",
            "action": "ACTION_CANCEL",
            "registrants": [{"id": "a"}, {"email": OMAR}],
        },
        f"PUT /v2/meetings/{ID}/registrants/status?occurrence_id=1",
        None,
        CONFIRMED,
        {"action": "cancel", "registrants": [{"id": "a"}, {"email": OMAR}]},
    ),
    "RegistrantsService.DeleteRegistrant": Example(
        {"meeting_id": ID, "registrant_id": "9tboDiHUQAeOnbmudzWa5g", "occurrence_id": "1"},
        f"DELETE /v2/meetings/{ID}/registrants/9tboDiHUQAeOnbmudzWa5g?occurrence_id=1",
        None,
        CONFIRMED,
    ),
}


def request_of(name: str, **values: Any) -> Any:
    """Return the request of an example, with more values."""
    fields = {"user_email": MONICA} | EXAMPLES[name].request | values
    if values.keys() & {"meeting_id", "meeting_uuid"}:  # alternatives in some requests
        other = "meeting_id" if "meeting_uuid" in values else "meeting_uuid"
        fields.pop(other, None)
    return ParseDict(fields, METHODS[name].input_type._concrete_class())
