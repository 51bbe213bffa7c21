"""Property tests for the conversion between JSON and messages."""

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomgate.v1 import meeting_pb2
from zoomgate_server.errors import InvalidRequest
from zoomgate_server.rpc.services import json_value
from zoomgate_server.rpc.services.json_mapping import MAX_PARTS, MessageConverter
from zoomgate_server.rpc.services.meetings import MeetingsService, meeting_json
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom.request import ZoomResponse

PLAN = MessageConverter(meeting_pb2.Meeting.DESCRIPTOR)
KEYS = st.one_of(
    st.sampled_from(
        [
            "id",
            "type",
            "settings",
            "start_time",
            "duration",
            "occurrences",
            "recurrence",
            "topic",
            "audio",
            "jbh_time",
            "weekly_days",
            "alternative_hosts",
        ]
    ),
    st.text(max_size=6),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=8), st.text("0123456789-_,;", max_size=12)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"]
)
def test_every_time_is_converted_exactly(time: str) -> None:
    message = meeting_pb2.Meeting(**PLAN.fields({"start_time": time}))
    assert message.start_time.ToJsonString() == time


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.dictionaries(KEYS, JSON, max_size=8))
def test_json_object_is_converted_without_loss(data: dict[str, object]) -> None:
    """Any JSON object becomes a valid message, and every key is either in a field or in `additional_fields`."""
    arguments = PLAN.fields(data)
    message = meeting_pb2.Meeting(**arguments)
    assert meeting_pb2.Meeting.FromString(message.SerializeToString()) == message
    json_format.MessageToJson(message)
    for key, value in data.items():
        is_typed = PLAN._incoming.get(key, ("",))[0] in arguments
        is_additional = key in message.additional_fields.fields
        if key == "occurrences" and isinstance(value, list):
            objects_in_list = [item for item in value if isinstance(item, dict)]
            assert len(message.occurrences) == len(objects_in_list)
            assert is_additional is (len(objects_in_list) < len(value))
            continue
        assert is_typed is not is_additional
        if key == "topic":
            assert is_typed is isinstance(value, str)
        elif key == "duration":
            number = int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]+", value) else value
            assert is_typed is (type(number) is int and -(2**31) <= number < 2**31)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(JSON)
def test_json_value_round_trips_through_a_value(data: object) -> None:
    """JSON is unchanged if a `Value` can represent all its numbers exactly."""
    value = struct_pb2.Value()
    try:
        json_value.fill(value, data)
    except RecursionError:
        return
    assert json_format.MessageToDict(value) == _as_doubles(data)
    if not _has_large(data):
        assert json_value.plain(value) == data


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_that_a_double_may_have_rounded_are_additional_fields_as_strings(sign: int) -> None:
    numbers = [sign * number for number in (2**53 - 1, 2**53, 2**53 + 1)]
    meeting = parse(orjson.dumps({"id": 1, "new": numbers}))
    assert meeting.additional_fields["new"] == [numbers[0], *map(str, numbers[1:])]


def parse(body: bytes) -> meeting_pb2.Meeting:
    response = MeetingsService.GetMeeting.read(ZoomResponse(200, (), body))
    assert response is not None
    return response.meeting


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("weekly_days", "99999999999"),
        ("weekly_days", "1,-99999999999"),
        ("weekly_days", "1" * 5000),
        ("weekly_days", "1_0"),
        ("weekly_days", "\u0661"),
        ("weekly_days", "1 2"),
        ("weekly_days", "1," * 2000),
        ("weekly_days", "x"),
    ],
)
def test_unreadable_days_are_kept_as_text(field: str, text: str) -> None:
    recurrence = parse(orjson.dumps({"id": 1, "recurrence": {"type": 2, field: text}})).recurrence
    assert recurrence.type == meeting_pb2.Recurrence.TYPE_WEEKLY
    assert list(recurrence.weekly_days) == []
    assert dict(recurrence.additional_fields) == {field: text}


def test_list_with_too_many_parts_is_kept_as_text() -> None:
    """No part is truncated, and no entry contains a separator."""
    for count in (MAX_PARTS, MAX_PARTS + 1):
        hosts = ";".join(f"{number}@example.com" for number in range(count))
        settings = parse(orjson.dumps({"id": 1, "settings": {"alternative_hosts": hosts}})).settings
        if count == MAX_PARTS:
            assert len(settings.alternative_hosts) == count
        else:
            assert not settings.alternative_hosts
            assert dict(settings.additional_fields) == {"alternative_hosts": hosts}


@pytest.mark.parametrize(
    "value", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"null", b"[]", b"{}", b"true"]
)
@pytest.mark.parametrize("key", ["topic", "type", "duration", "start_time", "settings", "occurrences", "new"])
def test_unreadable_value_costs_only_its_field(key: str, value: bytes) -> None:
    meeting = parse(b'{"id":1,"uuid":"u","%s":%b,"agenda":"a"}' % (key.encode(), value))
    assert (meeting.id, meeting.uuid, meeting.agenda) == (1, "u", "a")
    fits = (key, value) in (("settings", b"{}"), ("occurrences", b"[]"))
    assert (key in meeting.additional_fields.fields) is not fits
    json_format.MessageToJson(meeting)


@pytest.mark.parametrize("levels", [20, 30, 254, 255, 1024, 5000, 100_000])
def test_nesting_costs_only_its_field(levels: int) -> None:
    """The value keeps its content, from some level on as JSON text."""
    meeting = parse(b'{"id":1,"x":' + b"[" * levels + b"7" + b"]" * levels + b',"topic":"t"}')
    assert (meeting.id, meeting.topic) == (1, "t")
    assert meeting_pb2.Meeting.FromString(meeting.SerializeToString()) == meeting
    text = json_format.MessageToJson(meeting.additional_fields, indent=None)
    assert (text.count("["), text.count("7")) == (levels, 1)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [("id", "85746065432", 85746065432), ("duration", "60", 60), ("duration", "-1", -1), ("type", "8", 5)],
)
def test_string_of_digits_is_read_as_a_number(key: str, text: str, expected: int) -> None:
    meeting = parse(orjson.dumps({"id": 1, key: text}))
    assert getattr(meeting, {"duration": "duration_minutes"}.get(key, key)) == expected
    assert not meeting.HasField("additional_fields")


@pytest.mark.parametrize("text", ["6 0", "60.0", "0x1", "1_0", "\u0661", "9" * 19, "9" * 30, "--1", ""])
def test_other_strings_are_not_numbers(text: str) -> None:
    meeting = parse(orjson.dumps({"id": 1, "duration": text}))
    assert meeting.duration_minutes == 0
    assert dict(meeting.additional_fields) == {"duration": text}


FULL = Path(__file__).parents[2] / "contract/golden/meetings/full.zoom.json"
"""A meeting with every property that Zoom documents."""

SENDABLE = {field.name for field in meeting_pb2.MeetingDetails.DESCRIPTOR.fields} | {"duration"}
"""The properties of a meeting that can be part of a request."""


def objects(data: object) -> Iterator[dict[str, object]]:
    """Yield all JSON objects in a JSON value."""
    if isinstance(data, dict):
        yield data
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from objects(item)


def copied(data: dict[str, object]) -> dict[str, object]:
    """Return what is sent to Zoom for a copy of a meeting that Zoom has returned."""
    meeting = parse(orjson.dumps({"id": 1, **data}))
    details = meeting_pb2.MeetingDetails(
        **{field.name: value for field, value in meeting.ListFields() if field.name != "id"}
    )
    violations = Violations()
    sent = meeting_json(details, violations)
    violations.raise_if_any()
    return sent


def test_new_keys_of_zoom_are_copied_at_every_depth() -> None:
    data = {key: value for key, value in orjson.loads(FULL.read_bytes()).items() if key in SENDABLE}
    sent = copied(data)
    found = list(objects(sent))
    assert len(found) > 20
    for item in found:
        item["a_new_key"] = {"new": [1, None, "x"]}
    assert copied(sent) == sent


@pytest.mark.parametrize("value", [None, "newWord", 2.5, {"new": 1}, ["new", 1]], ids=repr)
def test_new_value_of_any_property_is_copied_and_changes_no_other(value: object) -> None:
    """Zoom can use words, types and shapes that the messages do not know."""
    original = copied(
        {key: value for key, value in orjson.loads(FULL.read_bytes()).items() if key in SENDABLE}
    )
    properties = [(number, key) for number, item in enumerate(objects(original)) for key in item]
    assert len(properties) > 120
    for number, key in properties:
        data = copy.deepcopy(original)
        list(objects(data))[number][key] = value
        assert copied(data) == data, key


def test_item_of_a_list_that_is_not_an_object_costs_only_this_item() -> None:
    data = {"tracking_fields": [{"field": "a"}, None, {"field": "b"}, "c"]}
    meeting = parse(orjson.dumps({"id": 1, **data}))
    assert [item.field for item in meeting.tracking_fields] == ["a", "b"]
    assert copied(data) == {"tracking_fields": [{"field": "a"}, {"field": "b"}, None, "c"]}


def test_field_that_is_set_twice_is_rejected() -> None:
    details = meeting_pb2.MeetingDetails(duration_minutes=60, settings={"audio": "AUDIO_VOIP"})
    details.additional_fields.update({"duration": 30, "topic": "x"})
    details.settings.additional_fields.update({"audio": "newWord"})
    violations = Violations()
    meeting_json(details, violations)
    with pytest.raises(InvalidRequest) as error:
        violations.raise_if_any()
    assert {violation.field for violation in error.value.violations} == {
        "meeting_details.additional_fields.duration",
        "meeting_details.settings.additional_fields.audio",
    }


DETAILS = st.builds(
    dict,
    topic=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
    duration_minutes=st.integers(1, 1440),
    settings=st.builds(
        dict,
        host_video=st.booleans(),
        alternative_hosts=st.lists(
            st.sampled_from(["a@example.com", "b@example.com"]), min_size=1, unique=True
        ),
        audio=st.sampled_from(["AUDIO_VOIP", "AUDIO_BOTH"]),
    ),
    recurrence=st.builds(
        dict, type=st.just("TYPE_WEEKLY"), weekly_days=st.lists(st.integers(1, 7), min_size=1, unique=True)
    ),
    start_time=st.integers(0, 4_000_000_000).map(lambda seconds: {"seconds": seconds}),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(DETAILS)
def test_meeting_details_round_trip_through_zoom_json(fields: dict[str, object]) -> None:
    details = meeting_pb2.MeetingDetails(**fields)
    violations = Violations()
    sent = meeting_json(details, violations)
    violations.raise_if_any()
    meeting = parse(orjson.dumps({"id": 1, **sent}))
    for name in ("topic", "duration_minutes", "settings", "recurrence", "start_time"):
        assert getattr(meeting, name) == getattr(details, name)
    assert not meeting.HasField("additional_fields")


def _as_doubles(data: object) -> object:
    if isinstance(data, dict):
        return {key: _as_doubles(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_as_doubles(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return json.dumps(data)
    return float(data) if isinstance(data, int) and not isinstance(data, bool) else data


def _has_large(data: object) -> bool:
    if isinstance(data, dict):
        return any(_has_large(value) for value in data.values())
    if isinstance(data, list):
        return any(_has_large(value) for value in data)
    number = isinstance(data, int | float) and not isinstance(data, bool)
    return number and (
        not math.isfinite(data)
        or abs(data) >= 2**53
        or (isinstance(data, float) and math.isclose(data, round(data), rel_tol=0))
    )
