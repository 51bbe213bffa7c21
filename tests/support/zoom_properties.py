"""Inventory of the properties in the bodies of Zoom's meeting operations, and their comparison with the messages.

The inventory contains facts from Zoom's OpenAPI file: names, types, closed sets of values and deprecations. `.ci/zoom_properties.py`
regenerates it.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from zoomgate.v1 import meetings_service_pb2, registrants_service_pb2
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate.v1.past_meeting_pb2 import PastMeeting
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.response_mapping import PAGING_KEYS
from zoomgate_server.rpc.services.zoom_json import SEPARATORS, enum_words, json_name, short_name

TABLE = Path(__file__).parents[1] / "contract/zoom_properties.tsv"

MESSAGES: Mapping[tuple[str, str], tuple[type[Message], ...]] = {
    ("meetingCreate", "request"): (MeetingDetails,),
    ("meetingCreate", "response"): (Meeting,),
    ("meetingUpdate", "request"): (MeetingDetails,),
    ("meeting", "response"): (Meeting,),
    ("meetings", "response"): (meetings_service_pb2.ListMeetingsResponse,),
    ("meetingInvitation", "response"): (meetings_service_pb2.GetMeetingInvitationResponse,),
    ("pastMeetingDetails", "response"): (PastMeeting,),
    ("pastMeetings", "response"): (meetings_service_pb2.ListPastInstancesResponse,),
    ("pastMeetingParticipants", "response"): (meetings_service_pb2.ListPastParticipantsResponse,),
    ("meetingRegistrantCreate", "request"): (Registrant, registrants_service_pb2.AddRegistrantRequest),
    ("meetingRegistrantCreate", "response"): (registrants_service_pb2.AddRegistrantResponse,),
    ("meetingRegistrants", "response"): (registrants_service_pb2.ListRegistrantsResponse,),
    ("meetingRegistrantGet", "response"): (Registrant,),
    ("meetingRegistrantStatus", "request"): (registrants_service_pb2.UpdateRegistrantStatusRequest,),
}
"""The messages that represent the bodies of Zoom's operations. A request can consist of several messages."""

_TIMESTAMP = "google.protobuf.Timestamp"
_TYPES = {
    "string": (FieldDescriptor.CPPTYPE_STRING,),
    "string date-time": (),
    "integer": (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64),
    "integer int64": (FieldDescriptor.CPPTYPE_INT64,),
    "boolean": (FieldDescriptor.CPPTYPE_BOOL,),
    "object": (FieldDescriptor.CPPTYPE_MESSAGE,),
}


class Property(NamedTuple):
    """A property of a body. `path` contains `[]` after lists; `type` is the type of the items of a list."""

    operation: str
    body: str
    path: str
    type: str
    values: str
    """The closed set of values, separated by `|`, or empty."""

    deprecated: str
    """`deprecated`, or empty."""


def inventory() -> list[Property]:
    """Return the inventory."""
    return [Property(*line.split("\t")) for line in TABLE.read_text().splitlines()[1:]]


def fields(messages: Iterable[type[Message]]) -> dict[str, FieldDescriptor]:
    """Return the fields of messages, and of the messages in them, by their paths in Zoom's JSON."""
    found: dict[str, FieldDescriptor] = {}
    for message in messages:
        for path, field in _fields(message.DESCRIPTOR):  # type: ignore[arg-type]
            found.setdefault(path, field)
    return found


def untyped(properties: Iterable[Property]) -> Iterator[str]:
    """Describe each property without a field that can represent all its documented values."""
    typed = {body: fields(messages) for body, messages in MESSAGES.items()}
    for row in properties:
        field = typed[row.operation, row.body].get(row.path)
        if field is None and row.path not in PAGING_KEYS:
            yield f"{row.operation} {row.body}: {row.path} has no field"
        elif field is not None and not _fits(row, field):
            yield f"{row.operation} {row.body}: {row.path} does not fit {field.full_name}"


def _fields(message: Descriptor, prefix: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    for field in message.fields:
        if field.name == ADDITIONAL:
            continue
        is_list = field.is_repeated and short_name(field) not in SEPARATORS
        path = prefix + json_name(field) + "[]" * is_list
        yield path, field
        if field.message_type is not None and field.message_type.full_name != _TIMESTAMP:
            yield from _fields(field.message_type, path + ".")


def _fits(row: Property, field: FieldDescriptor) -> bool:
    if field.enum_type is not None:
        words = enum_words(field.enum_type).values()
        is_text = short_name(field) in SEPARATORS or isinstance(next(iter(words)), str)
        documented = row.values.split("|") if row.values else ()
        return row.type == ("string" if is_text else "integer") and {*documented} <= {*map(str, words)}
    if field.message_type is not None and field.message_type.full_name == _TIMESTAMP:
        return row.type == "string date-time"
    return field.cpp_type in _TYPES[row.type]
