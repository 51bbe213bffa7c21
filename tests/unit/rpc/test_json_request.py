"""Tests for the JSON forms of values (https://protobuf.dev/programming-guides/json/)."""

import json
from functools import partial
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meeting_pb2 as meeting
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.errors import InvalidRequest, MalformedRequest
from zoomgate_server.rpc import json_request
from zoomgate_server.rpc.middleware.pipeline import decoded

FIELDS: dict[str, tuple[type[Message], str]] = {
    "string": (auth.BeginAuthorizationRequest, "zoomEmail"),
    "optional string": (meeting.MeetingDetails, "topic"),
    "bool": (proxy.PostRequest, "parseJson"),
    "optional bool": (meeting.MeetingDetails, "preSchedule"),
    "int32": (meeting.MeetingDetails, "durationMinutes"),
    "int64": (meetings.GetMeetingRequest, "meetingId"),
    "bytes": (proxy.PostRequest, "raw"),
    "enum": (meeting.MeetingDetails, "type"),
    "repeated enum": (auth.ListConnectionsRequest, "states"),
    "message": (meeting.MeetingDetails, "settings"),
    "repeated message": (meeting.MeetingDetails, "trackingFields"),
    "Timestamp": (meeting.MeetingDetails, "startTime"),
    "Duration": (auth.GetTokenRequest, "minValidity"),
    "FieldMask": (meetings.UpdateMeetingRequest, "updateMask"),
    "Struct": (auth.BeginAuthorizationRequest, "options"),
    "Value": (proxy.PostRequest, "json"),
}
"""A field of each type in requests: its message type, and its name in JSON."""


def parse(kind: str, value: str) -> Any:
    """Parse a message with a value; return the value of its field, or None if it is unset."""
    message_type, json_name = FIELDS[kind]
    message = json_request.parse(message_type, f'{{"{json_name}": {value}}}'.encode())
    field = next(field for field in message.DESCRIPTOR.fields if field.json_name == json_name)
    if field.has_presence and not message.HasField(field.name):
        return None
    return getattr(message, field.name)


DAY = 86_400
ACCEPTED: list[tuple[str, str, Any]] = [
    ("string", '"\\u00e9\\ud83d\\ude00\\u0000"', "é😀\0"),
    ("string", "null", ""),
    ("optional string", '""', ""),
    ("optional string", "null", None),
    ("bool", "true", True),
    ("bool", "null", False),
    ("optional bool", "false", False),
    ("optional bool", "null", None),
    ("int32", "2147483647", 2**31 - 1),
    ("int32", '"-2147483648"', -(2**31)),
    ("int32", "1e2", 100),
    ("int32", '"1E2"', 100),
    ("int32", "1.0", 1),
    ("int32", "-0", 0),
    ("int32", "-0.0", 0),
    ("int32", "null", None),
    ("int64", "9223372036854775807", 2**63 - 1),
    ("int64", '"9223372036854775807"', 2**63 - 1),
    ("int64", '"-9223372036854775808"', -(2**63)),
    ("bytes", '""', b""),
    ("bytes", '"+/8="', b"\xfb\xff"),
    ("bytes", '"-_8="', b"\xfb\xff"),
    ("bytes", '"-_8"', b"\xfb\xff"),
    ("bytes", '"+w=="', b"\xfb"),
    ("bytes", '"AAAA"', b"\0\0\0"),
    ("enum", '"MEETING_TYPE_SCHEDULED"', meeting.MEETING_TYPE_SCHEDULED),
    ("enum", '"MEETING_TYPE_UNSPECIFIED"', 0),
    ("enum", "2", 2),
    ("enum", "1000", 1000),
    ("enum", "-1", -1),
    ("enum", "null", 0),
    ("repeated enum", "[]", []),
    ("repeated enum", "null", []),
    ("repeated enum", '["STATE_ACTIVE", 1]', [1, 1]),
    ("message", "{}", meeting.MeetingSettings()),
    ("message", '{"waitingRoom": null}', meeting.MeetingSettings()),
    ("message", "null", None),
    ("repeated message", "[]", []),
    ("repeated message", "null", []),
    ("repeated message", '[{}, {"field": "x"}]', [meeting.TrackingField(), meeting.TrackingField(field="x")]),
    ("Timestamp", '"1970-01-02T00:00:00Z"', {"seconds": DAY}),
    ("Timestamp", '"1970-01-02T00:00:00.000000001Z"', {"seconds": DAY, "nanos": 1}),
    ("Timestamp", '"1970-01-02T00:00:00.5+23:59"', {"seconds": 60, "nanos": 500_000_000}),
    ("Timestamp", '"1970-01-01T00:00:00-00:30"', {"seconds": 1800}),
    ("Timestamp", '"0001-01-01T00:00:00Z"', {"seconds": -62135596800}),
    ("Timestamp", '"9999-12-31T23:59:59.999999999Z"', {"seconds": 253402300799, "nanos": 999_999_999}),
    ("Timestamp", "null", None),
    ("Duration", '"1.5s"', {"seconds": 1, "nanos": 500_000_000}),
    ("Duration", '"-0.000000001s"', {"nanos": -1}),
    ("Duration", '"315576000000s"', {"seconds": 315_576_000_000}),
    ("Duration", '"0s"', {}),
    ("Duration", "null", None),
    ("FieldMask", '""', {}),
    ("FieldMask", '"topic,settings.waitingRoom"', {"paths": ["topic", "settings.waiting_room"]}),
    ("FieldMask", "null", None),
    ("Struct", "{}", {}),
    ("Struct", '{"": [1.5, "NaN", null, -0.0, {"a": false}]}', {"": [1.5, "NaN", None, -0.0, {"a": False}]}),
    ("Struct", "null", None),
    ("Value", "null", {"null_value": 0}),
    ("Value", '"x"', {"string_value": "x"}),
    ("Value", "1e2", {"number_value": 100.0}),
    ("Value", "[]", {"list_value": {}}),
]


@pytest.mark.parametrize(("kind", "value", "expected"), ACCEPTED)
def test_value_of_the_json_format_is_accepted(kind: str, value: str, expected: Any) -> None:
    actual = parse(kind, value)
    if kind == "Struct" and actual is not None:
        actual = json_format.MessageToDict(actual)
    elif isinstance(expected, dict):
        expected = type(actual)(**expected)
    assert actual == expected


SCALARS = ["string", "bool", "int32", "int64", "bytes", "enum", "Timestamp", "Duration", "FieldMask"]
REJECTED: list[tuple[str, str]] = [
    *((kind, value) for kind in SCALARS for value in ("{}", "[]", '["x"]', '{"a": 1, "a": 1}', '"\\ud800"')),
    *((kind, value) for kind in SCALARS if kind != "bool" for value in ("true",)),
    *((kind, '""') for kind in SCALARS if kind not in ("string", "bytes", "FieldMask")),
    *((kind, "1") for kind in ("string", "bool", "bytes", "Timestamp", "Duration", "FieldMask", "Struct")),
    *(("bool", value) for value in ('"true"', "0", "1.0")),
    *(
        (kind, value)
        for kind in ("int32", "int64")
        for value in ("1.5", '"1.5"', "1e400", '"1e400"', '"NaN"')
    ),
    *(
        ("int64", f'"{value}"')
        for value in (
            " 1",
            "1 ",
            "\\t1",
            "+1",
            "01",
            "1_0",
            "0x1",
            "\u0661",
            "1e",
            "1.",
            ".1",
            "-",
            "Infinity",
        )
    ),
    *(("int32", value) for value in ("2147483648", "-2147483649", '"2147483648"', "1e10", '"1e300"')),
    *(("int64", value) for value in ("9223372036854775808", '"-9223372036854775809"', "1e19", '"1e300"')),
    *(
        ("bytes", f'"{value}"')
        for value in ("A", "AAAAA", "AA=", "AA===", "AAA==", "=", "AA==AA==", "AA AA", "!!", "é")
    ),
    *(("enum", value) for value in ('"2"', '" 2"', '"scheduled"', "2.0", "1.5", "2147483648", "[2]")),
    *(
        ("repeated enum", value)
        for value in ('"STATE_ACTIVE"', "1", "{}", "[null]", "[[1]]", "[true]", '["1"]')
    ),
    *(("message", value) for value in ('""', "1", "true", "[]", "[{}]")),
    *(("repeated message", value) for value in ('""', "1", "{}", "[null]", "[[]]", "[1]")),
    *(
        ("Timestamp", f'"{value}"')
        for value in (
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00Z",
            "1970-1-1T0:0:0Z",
            "1970-01-01t00:00:00Z",
            "1970-01-01T00:00:00z",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567890Z",
            "1970-01-01T00:00:00+99:99",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00+00:60",
            "1970-01-01T00:00:00+1:0",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+-1:00",
            "1970-01-01T00:00:00Z ",
            "1970-02-30T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T23:59:60Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
            "١٩٧٠-01-01T00:00:00Z",
        )
    ),
    *(
        ("Duration", f'"{value}"')
        for value in (
            "1",
            "s",
            "1 s",
            " 1s",
            "+1s",
            "1S",
            "1.s",
            ".5s",
            "1_0s",
            "1e3s",
            "1ms",
            "1m",
            "0x1s",
            "1.0000000001s",
            "315576000001s",
            "-315576000001s",
        )
    ),
    *(("FieldMask", value) for value in ('"start_time"', '["topic"]', '{"paths": ["topic"]}')),
    *(("Struct", value) for value in ('""', "[]", '{"a": 1, "a": 2}', '{"\\ud800": 1}', '{"a": "\\ud800"}')),
    *(
        ("Value", value)
        for value in ('{"a": 1, "a": 2}', '[{"a": 1, "a": 2}]', '"\\ud800"', "[" * 200 + "]" * 200)
    ),
]


@pytest.mark.parametrize(("kind", "value"), REJECTED)
def test_other_value_is_rejected_with_the_path_of_its_field(kind: str, value: str) -> None:
    message_type, json_name = FIELDS[kind]
    field = next(field for field in message_type.DESCRIPTOR.fields if field.json_name == json_name)
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, value)
    (violation,) = caught.value.violations
    is_item = field.is_repeated and value.startswith("[")
    assert violation.field == field.name + ("[0]" if is_item else "")


@pytest.mark.parametrize("value", ['["STATE_ACTIVE", "x"]', "[1, 2147483648]", "[1, null, 3]"])
def test_error_of_an_item_states_its_index_and_its_form(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("repeated enum", value)
    (violation,) = caught.value.violations
    assert violation.field == "states[1]"
    assert violation.description.startswith("has an invalid value; send one of STATE_")


def error_of(kind: str, value: str) -> str:
    """Return the error for an invalid value."""
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, value)
    (violation,) = caught.value.violations
    return violation.description


STRING, OBJECT = "a string", "an object"
PATHS = "a string of paths in lowerCamelCase such as topic,settings.waitingRoom"


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("string", STRING),
        ("optional string", STRING),
        ("bytes", "a string in Base64"),
        ("bool", "true or false"),
        ("FieldMask", PATHS),
        ("Struct", OBJECT),
        ("message", OBJECT),
    ],
)
def test_error_for_another_type_names_the_type_and_no_further_conditions(kind: str, form: str) -> None:
    assert error_of(kind, "5") == f"has an invalid value; send {form}"


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        ("string", '"\\ud800"', f"{STRING} of valid Unicode"),
        ("FieldMask", '"start_time"', f"{PATHS}, at most 20000 characters"),
        ("Struct", '{"a": "\\ud800"}', f"{OBJECT} that is not nested too deeply"),
        ("Struct", '{"a": 1, "a": 2}', f"{OBJECT} that is not nested too deeply"),
        ("Value", '"\\ud800"', "a JSON value that is not nested too deeply"),
    ],
)
def test_error_for_the_right_type_names_its_conditions(kind: str, value: str, form: str) -> None:
    assert error_of(kind, value).startswith(f"has an invalid value; send {form}")


def test_paths_of_a_field_mask_are_not_counted_as_values() -> None:
    kind = meetings.UpdateMeetingRequest
    settings = {"alternativeHosts": ["a"] * 12_000}
    body = json.dumps({"updateMask": ",".join(["a"] * 10_000), "meetingDetails": {"settings": settings}})
    message = decoded(kind, partial(json_request.parse, kind), body.encode())
    hosts = message.meeting_details.settings.alternative_hosts
    assert len(message.update_mask.paths) + len(hosts) > json_request.MAX_VALUES


@pytest.mark.parametrize("mask", ["settings.waiting_room", "topic," * 4_000], ids=["proto paths", "too long"])
def test_error_of_a_field_mask_states_its_form_and_limit(mask: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("FieldMask", f'"{mask}"')
    assert "lowerCamelCase" in caught.value.message
    assert "20000 characters" in caught.value.message


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x1", "'x'", "undefined", '"\n"']
)
@pytest.mark.parametrize("kind", ["int32", "string", "Value"])
def test_value_that_is_not_json_is_rejected(kind: str, value: str) -> None:
    with pytest.raises(MalformedRequest):
        parse(kind, value)


@pytest.mark.parametrize(
    "kind", [kind for kind in FIELDS if kind not in ("string", "optional string", "Value", "FieldMask")]
)
def test_error_does_not_contain_the_value(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, '"s3cret!"')
    assert "s3cret" not in caught.value.message
