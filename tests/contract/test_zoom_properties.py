"""Tests that compare the messages with the inventory of Zoom's properties."""

import pytest
from google.protobuf.descriptor import FieldDescriptor

from support.zoom_properties import MESSAGES, Property, fields, inventory, short_name, untyped
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate.v1.past_meeting_pb2 import PastMeeting
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.meeting_mapping import CONVENTIONS
from zoomgate_server.rpc.services.response_mapping import PAGING_KEYS

NUMBERS = {"settings.jbh_time"}
"""Properties with a closed set of values that are quantities."""

VARYING = {"no_of_employees", "registrants[].no_of_employees"}
"""Properties whose sets of values differ between requests and responses."""


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
    assert undocumented == CONVENTIONS.unsent & {short_name(field) for field in typed.values()}


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
