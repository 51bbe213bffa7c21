"""The request fields that become parameters of Zoom's paths and queries: their validation and conversion."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from zoomgate.v1.meetings_service_pb2 import ListMeetingsRequest
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.time_zone import is_time_zone
from zoomgate_server.zoom.urls import encode_id

MAX_MEETING_ID = 10**12
"""Zoom documents IDs as int64 with more than ten digits."""

MAX_PAGE_SIZE = 300
MAX_ENTRIES = 60
"""Maximum number of entries of a parameter: of the occurrences of a series."""

_UUID = re.compile(r"[A-Za-z0-9+/=_-]{1,64}", re.ASCII)
_REGISTRANT = re.compile(r"[A-Za-z0-9+=_~-]{1,128}", re.ASCII)
_OCCURRENCE = re.compile(r"[0-9]{1,20}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _meeting(request: Any, violations: Violations) -> str:
    """Return the meeting ID, or the UUID in a request that allows one."""
    if 1 <= request.meeting_id <= MAX_MEETING_ID:
        return str(request.meeting_id)
    if uuid := getattr(request, "meeting_uuid", ""):
        if not _UUID.fullmatch(uuid):
            violations.add(
                "meeting_uuid",
                "must be at most 64 characters of Base64; send the uuid that Zoom returned, without encoding it",
            )
        return encode_id(uuid)
    violations.add(
        "meeting_id",
        f"must be 1 to {MAX_MEETING_ID}; send the meeting's numeric ID, without spaces or dashes",
    )
    return ""


def _registrant(request: Any, violations: Violations) -> str:
    if not _REGISTRANT.fullmatch(request.registrant_id):
        violations.add(
            "registrant_id",
            "must be the ID of a registration; send the ID that AddRegistrant or ListRegistrants returned",
        )
    return encode_id(request.registrant_id)


ID_PARAMETERS: Mapping[str, Callable[[Any, Violations], str]] = {
    "userId": lambda *_: "me",  # Zoom accepts no other user with the tokens of users
    "meetingId": _meeting,
    "registrantId": _registrant,
}
"""The encoded values of the placeholders in Zoom's paths, as functions of the request."""


def _occurrence_problem(value: str) -> str | None:
    if _OCCURRENCE.fullmatch(value):
        return None
    return "must be at most 20 digits; send the occurrence_id from the meeting's occurrences"


def _date_problem(value: str) -> str | None:
    try:
        if _DATE.fullmatch(value) and date.fromisoformat(value):
            return None
    except ValueError:
        pass
    return "must be a valid date; send a value such as 2026-12-01"


def _time_zone_problem(value: str) -> str | None:
    return None if is_time_zone(value) else "must be an IANA time zone; send a name such as Europe/Berlin"


def _page_size_problem(value: int) -> str | None:
    if 1 <= value <= MAX_PAGE_SIZE:
        return None
    return f"is {value}; send 1 to {MAX_PAGE_SIZE}, or 0 for Zoom's default of 30"


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A query parameter.

    Attributes:
        text: Converts a valid value.
        problem: Returns why a value is invalid, or None.
    """

    name: str
    text: Callable[[Any], str] = str
    problem: Callable[[Any], str | None] = lambda _: None

    def read(self, field: FieldDescriptor, value: Any, violations: Violations) -> str:
        """Validate the value of a field that is set, and return the parameter. Zoom separates several values with commas."""
        if not field.is_repeated:
            value = (value,)
        elif len(value) > MAX_ENTRIES:
            violations.add(field.name, f"has {len(value)} entries; send at most {MAX_ENTRIES}")
            return ""
        for index, item in enumerate(value):
            if problem := self.problem(item):
                violations.add(f"{field.name}[{index}]" if field.is_repeated else field.name, problem)
        return ",".join(map(self.text, value))


def _flag(name: str) -> QueryParameter:
    return QueryParameter(name, lambda value: str(value).lower())


def _word(name: str, enum: EnumDescriptor) -> QueryParameter:
    """Return a parameter with the words of an enum whose values are named after them, in upper case and with a common prefix."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    words = {value.number: value.name.removeprefix(prefix).lower() for value in enum.values if value.number}
    names = ", ".join(value.name for value in enum.values if value.number)
    return QueryParameter(
        name,
        lambda value: words.get(value, ""),
        lambda value: (
            None if value in words else f"is {value}, which is not a value of the enum; send one of {names}"
        ),
    )


QUERY_PARAMETERS: Mapping[str, QueryParameter] = {
    "cancel_meeting_reminder": _flag("cancel_meeting_reminder"),
    "from_date": QueryParameter("from", problem=_date_problem),
    "occurrence_id": QueryParameter("occurrence_id", problem=_occurrence_problem),
    "occurrence_ids": QueryParameter("occurrence_ids", problem=_occurrence_problem),
    "page_size": QueryParameter("page_size", problem=_page_size_problem),
    "schedule_for_reminder": _flag("schedule_for_reminder"),
    "show_previous_occurrences": _flag("show_previous_occurrences"),
    "status": _word("status", Registrant.Status.DESCRIPTOR),
    "timezone": QueryParameter("timezone", problem=_time_zone_problem),
    "to_date": QueryParameter("to", problem=_date_problem),
    "type": _word("type", ListMeetingsRequest.Type.DESCRIPTOR),
}
"""The parameters of Zoom's queries by the names of the request fields. Page tokens are wrapped, and therefore not in this table."""
