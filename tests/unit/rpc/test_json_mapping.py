"""Property tests for the conversion between JSON and messages."""

import math

import orjson
from google.protobuf import json_format, struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomgate.v1 import meeting_pb2
from zoomgate_server.rpc.services import json_value, meeting_mapping
from zoomgate_server.rpc.services.json_mapping import MessageConverter
from zoomgate_server.rpc.services.validation import Violations

PLAN = MessageConverter(meeting_pb2.Meeting.DESCRIPTOR, meeting_mapping.CONVENTIONS)
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
        ]
    ),
    st.text(max_size=6),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.dictionaries(KEYS, JSON, max_size=8))
def test_json_object_is_converted_without_loss(data: dict[str, object]) -> None:
    """Any JSON object becomes a valid message, and every key is in a field or in `additional_fields`."""
    message = meeting_pb2.Meeting(**PLAN.fields(data))
    assert meeting_pb2.Meeting.FromString(message.SerializeToString()) == message
    for key, value in data.items():
        if key not in PLAN._incoming:
            assert key in message.additional_fields.fields
        elif value is not None and key in ("topic", "duration"):
            fits = (
                isinstance(value, str) if key == "topic" else type(value) is int and -(2**31) <= value < 2**31
            )
            assert (key in message.additional_fields.fields) is not fits


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


DETAILS = st.builds(
    dict,
    topic=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20),
    duration_minutes=st.integers(1, 1440),
    settings=st.builds(
        dict,
        host_video=st.booleans(),
        alternative_hosts=st.lists(
            st.sampled_from(["a@example.com", "b@example.com"]), min_size=1, max_size=3
        ),
        audio=st.sampled_from(["AUDIO_VOIP", "AUDIO_BOTH"]),
    ),
    recurrence=st.builds(
        dict, type=st.just("TYPE_WEEKLY"), weekly_days=st.lists(st.integers(1, 7), min_size=1, max_size=7)
    ),
    start_time=st.integers(0, 4_000_000_000).map(lambda seconds: {"seconds": seconds}),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(DETAILS)
def test_meeting_details_round_trip_through_zoom_json(fields: dict[str, object]) -> None:
    details = meeting_pb2.MeetingDetails(**fields)
    violations = Violations()
    sent = meeting_mapping.details(details, "d", violations)
    violations.raise_if_any()
    meeting = meeting_mapping.meeting(orjson.dumps({"id": 1, **sent}))
    for name in ("topic", "duration_minutes", "settings", "recurrence", "start_time"):
        assert getattr(meeting, name) == getattr(details, name)
    assert not meeting.HasField("additional_fields")


def _as_doubles(data: object) -> object:
    if isinstance(data, dict):
        return {key: _as_doubles(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_as_doubles(value) for value in data]
    return float(data) if isinstance(data, int) and not isinstance(data, bool) else data


def _has_large(data: object) -> bool:
    if isinstance(data, dict):
        return any(_has_large(value) for value in data.values())
    if isinstance(data, list):
        return any(_has_large(value) for value in data)
    number = isinstance(data, int | float) and not isinstance(data, bool)
    return number and (
        abs(data) > 2**53 or (isinstance(data, float) and math.isclose(data, round(data), rel_tol=0))
    )
