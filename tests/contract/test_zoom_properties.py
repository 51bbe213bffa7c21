"""Tests that compare the messages with the inventory of Zoom's properties."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

from support.zoom_properties import MESSAGES, Property, fields, inventory, untyped
from zoomgate.v1 import (
    meeting_pb2,
    meetings_service_pb2,
    past_meeting_pb2,
    registrant_pb2,
    registrants_service_pb2,
)
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate.v1.past_meeting_pb2 import PastMeeting
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate.v1.registrants_service_pb2 import AddRegistrantRequest
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL, MessageConverter
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.rpc.services.registrants import RegistrantsService
from zoomgate_server.rpc.services.response_mapping import PAGING_KEYS
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.rpc.services.zoom_json import OUTPUT_ONLY, enum_words, short_name
from zoomgate_server.zoom.request import ZoomResponse

PROTO = Path(__file__).parents[2] / "proto/zoomgate/v1"

NUMBERS = {"settings.jbh_time"}
"""Properties with a closed set of values that are quantities."""

VARYING = {"no_of_employees", "registrants[].no_of_employees"}
"""Properties whose sets of values differ between requests and responses."""

READERS: dict[tuple[str, str], Callable[[ZoomResponse], Message | None]] = {
    ("meetingCreate", "response"): MeetingsService.CreateMeeting.read,
    ("meeting", "response"): MeetingsService.GetMeeting.read,
    ("meetings", "response"): MeetingsService.ListMeetings.read,
    ("meetingInvitation", "response"): MeetingsService.GetMeetingInvitation.read,
    ("pastMeetingDetails", "response"): MeetingsService.GetPastMeeting.read,
    ("pastMeetings", "response"): MeetingsService.ListPastInstances.read,
    ("pastMeetingParticipants", "response"): MeetingsService.ListPastParticipants.read,
    ("meetingRegistrantCreate", "response"): RegistrantsService.AddRegistrant.read,
    ("meetingRegistrants", "response"): RegistrantsService.ListRegistrants.read,
    ("meetingRegistrantGet", "response"): RegistrantsService.GetRegistrant.read,
}


def documented(*bodies: tuple[str, str]) -> dict[str, Property]:
    """Return the properties that Zoom documents for bodies, by path."""
    return {row.path: row for row in inventory() if (row.operation, row.body) in bodies}


def test_every_property_of_zoom_has_a_typed_field() -> None:
    assert {(row.operation, row.body) for row in inventory()} == set(MESSAGES)
    assert list(untyped(inventory())) == []


@pytest.mark.parametrize(
    "row",
    [
        ("meeting", "response", "new_property", "string", "", ""),
        ("meeting", "response", "settings.new_property", "boolean", "", ""),
        ("meeting", "response", "settings.resources[].new_property", "string", "", ""),
        ("meeting", "response", "topic", "integer", "", ""),
        ("meeting", "response", "topic[]", "string", "", ""),
        ("meeting", "response", "settings.audio", "string", "both|newWord", ""),
        ("meeting", "response", "type", "integer", "1|99", ""),
        ("meeting", "response", "start_time", "string", "", ""),
        ("meeting", "response", "duration", "integer int64", "", ""),
    ],
    ids=lambda row: " ".join(row[2:5]),
)
def test_property_without_a_fitting_field_is_reported(row: tuple[str, ...]) -> None:
    assert len(list(untyped([Property(*row)]))) == 1


def test_closed_set_of_values_is_an_enum() -> None:
    for (operation, body), messages in MESSAGES.items():
        typed = fields(messages)
        for path, row in documented((operation, body)).items():
            if row.values and path not in NUMBERS | VARYING:
                assert typed[path].enum_type is not None, f"{operation} {body}: {path}"


def enums(parent: FileDescriptor | Descriptor) -> Iterator[EnumDescriptor]:
    """Yield the enums in a file or message."""
    yield from parent.enum_types_by_name.values()
    is_file = isinstance(parent, FileDescriptor)
    nested = parent.message_types_by_name if is_file else parent.nested_types_by_name
    for message in nested.values():
        yield from enums(message)


def test_every_value_of_an_enum_has_the_documented_value_of_zoom() -> None:
    """The comments of the proto files contain the same values as the mapping."""
    files = [meeting_pb2, past_meeting_pb2, registrant_pb2, meetings_service_pb2, registrants_service_pb2]
    mapped = set()
    for enum in (enum for file in files for enum in enums(file.DESCRIPTOR)):
        words = {enum.values_by_number[number].name: str(word) for number, word in enum_words(enum).items()}
        assert {value.name for value in enum.values} - words.keys() <= {enum.values[0].name}
        mapped |= {(word, name) for name, word in words.items() if word}
    text = "".join((PROTO / Path(file.DESCRIPTOR.name).name).read_text() for file in files)
    documented = re.findall(r"Zoom API value: `?([^`\n]+?)`?\.(?: .*)?\n *(\w+) = \d+;", text)
    assert set(documented) == mapped


def test_field_is_deprecated_if_zoom_has_deprecated_the_property() -> None:
    for (operation, body), messages in MESSAGES.items():
        rows = documented((operation, body))
        for path in rows.keys() - PAGING_KEYS:
            deprecated = fields(messages)[path].GetOptions().deprecated
            assert deprecated is bool(rows[path].deprecated), f"{operation} {body}: {path}"


@pytest.mark.parametrize(
    ("message", "bodies"),
    [
        (Meeting, [("meetingCreate", "response"), ("meeting", "response"), ("meetings", "response")]),
        (PastMeeting, [("pastMeetingDetails", "response")]),
        (Registrant, [("meetingRegistrantGet", "response")]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_message_has_only_properties_that_zoom_documents(
    message: type, bodies: list[tuple[str, str]]
) -> None:
    assert fields([message]).keys() - documented(*bodies).keys() == set()


@pytest.mark.parametrize(
    ("message", "bodies"),
    [
        (MeetingDetails, [("meetingCreate", "request"), ("meetingUpdate", "request")]),
        (Registrant, [("meetingRegistrantCreate", "request")]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_fields_that_zoom_accepts_in_no_request_are_not_sent(
    message: type, bodies: list[tuple[str, str]]
) -> None:
    typed = fields([message])
    undocumented = {short_name(typed[path]) for path in typed.keys() - documented(*bodies).keys()}
    assert undocumented == OUTPUT_ONLY & {short_name(field) for field in typed.values()}


def test_every_message_preserves_additional_properties() -> None:
    messages = {
        field.message_type.full_name: field.message_type.fields_by_name
        for message in (Meeting, MeetingDetails, PastMeeting, Registrant)
        for field in fields([message]).values()
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        and field.message_type.full_name != "google.protobuf.Timestamp"
    }
    assert len(messages) > 15
    assert [name for name, names in messages.items() if ADDITIONAL not in names] == []


def document(rows: Iterable[Property]) -> dict[str, Any]:
    """Return a JSON object with all properties."""
    root: dict[str, Any] = {}
    for row in rows:
        *parents, name = row.path.split(".")
        parent = root
        for key in parents:
            parent = parent[key.removesuffix("[]")]
            parent = parent[0] if key.endswith("[]") else parent
        parent[name.removesuffix("[]")] = [value(row)] if name.endswith("[]") else value(row)
    return root


def value(row: Property) -> Any:
    """Return the last documented value of a property, or any value of its type."""
    if (row.path.rpartition(".")[2], row.values) == (
        "status",
        "",
    ):  # a closed set, but only in the description
        return "approved" if "registrants" in row.path else "available"
    if row.values:
        last = row.values.split("|")[-1]
        return int(last) if row.type == "integer" else last
    return {
        "string": "text",
        "string date-time": "2031-01-06T09:00:00Z",
        "integer": 7,
        "integer int64": 2**53 + 1,
        "boolean": True,
        "object": {},
    }[row.type]


@pytest.mark.parametrize(("operation", "body"), READERS, ids=lambda name: name)
def test_response_with_every_property_has_no_additional_fields(operation: str, body: str) -> None:
    rows = documented((operation, body)).values()
    message = READERS[operation, body](ZoomResponse(200, (), orjson.dumps(document(rows))))
    assert message is not None
    if ADDITIONAL not in message.DESCRIPTOR.fields_by_name:  # its only field is the message for the body
        ((_, message),) = message.ListFields()
    assert '"additionalFields"' not in json_format.MessageToJson(message)
    ((only, content), *others) = message.ListFields()
    if not others and not only.is_repeated:  # the response of an RPC that contains the message
        message = content
    for row in rows:
        if "[]" not in row.path and "." not in row.path and row.path not in PAGING_KEYS:
            field = fields(MESSAGES[operation, body])[row.path]
            assert field in {set_field for set_field, _ in message.ListFields()}, row.path


def test_registration_with_every_property_is_sent_unchanged() -> None:
    data = document(documented(("meetingRegistrantCreate", "request")).values())
    read = MessageConverter(Registrant.DESCRIPTOR).fields
    registrant = Registrant(**read({key: data[key] for key in data.keys() - {"language", "auto_approve"}}))
    request = AddRegistrantRequest(
        user_email="monica@example.com",
        meeting_id=1,
        registrant=registrant,
        occurrence_ids=["1"],
        language="LANGUAGE_TURKISH",
        auto_approve=True,
    )
    violations = Violations()
    assert RegistrantsService.AddRegistrant.body(None, request, violations) == data
    violations.raise_if_any()
