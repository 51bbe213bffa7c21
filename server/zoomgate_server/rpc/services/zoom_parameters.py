"""The request fields that become parameters of Zoom's paths and queries, and their conversion. Invalid values are rejected afterwards."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.descriptor import EnumDescriptor

from zoomgate.v1.meetings_service_pb2 import ListMeetingsRequest
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate_server.rpc.services.zoom_json import enum_words
from zoomgate_server.zoom.urls import encode_id


class PathParameter(NamedTuple):
    """A placeholder in a path: the request fields that determine its value, and its encoded value for a request."""

    fields: tuple[str, ...]
    text: Callable[[Any], str]


PATH_PARAMETERS: Mapping[str, PathParameter] = {
    "userId": PathParameter((), lambda _: "me"),  # Zoom accepts no other user with the tokens of users
    "meetingId": PathParameter(
        ("meeting_id", "meeting_uuid"),
        lambda request: str(request.meeting_id or encode_id(getattr(request, "meeting_uuid", ""))),
    ),
    "registrantId": PathParameter(("registrant_id",), lambda request: encode_id(request.registrant_id)),
}
"""The parameters of Zoom's paths by their placeholders."""


class QueryParameter(NamedTuple):
    """A query parameter: its name, and the conversion of a field that is set."""

    name: str
    text: Callable[[Any], str] = str


def _flag(name: str) -> QueryParameter:
    return QueryParameter(name, lambda value: str(value).lower())


def _word(name: str, enum: EnumDescriptor) -> QueryParameter:
    words = enum_words(enum)
    return QueryParameter(name, lambda value: str(words.get(value)))


QUERY_PARAMETERS: Mapping[str, QueryParameter] = {
    "cancel_meeting_reminder": _flag("cancel_meeting_reminder"),
    "from_date": QueryParameter("from"),
    "occurrence_id": QueryParameter("occurrence_id"),
    "occurrence_ids": QueryParameter("occurrence_ids", ",".join),
    "page_size": QueryParameter("page_size"),
    "schedule_for_reminder": _flag("schedule_for_reminder"),
    "show_previous_occurrences": _flag("show_previous_occurrences"),
    "status": _word("status", Registrant.Status.DESCRIPTOR),
    "timezone": QueryParameter("timezone"),
    "to_date": QueryParameter("to"),
    "type": _word("type", ListMeetingsRequest.Type.DESCRIPTOR),
}
"""The parameters of Zoom's queries by the names of the request fields. Page tokens are wrapped, and therefore not in this table."""
