"""Tests for the conversion of Zoom meetings, with stored examples."""

from pathlib import Path

import orjson
import pytest
from google.protobuf import json_format

from support.zoom_properties import inventory
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate_server.rpc.services.meetings import MeetingsService, meeting_json
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom.request import ZoomResponse

FULL = Path(__file__).parent / "meetings/full.zoom.json"
"""A meeting with every property that Zoom documents."""

CASES = sorted((Path(__file__).parent / "meetings").glob("*.zoom.json"))


def parse(body: bytes) -> Meeting | None:
    response = MeetingsService.GetMeeting.read(ZoomResponse(200, (), body))
    return None if response is None else response.meeting


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name.partition(".")[0])
def test_meeting_is_converted_as_expected(case: Path, request: pytest.FixtureRequest) -> None:
    """Fields that Zoomgate does not know are preserved."""
    meeting = parse(case.read_bytes())
    assert meeting is not None
    actual = json_format.MessageToJson(meeting, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    expected = case.with_name(case.name.replace(".zoom.", ".meeting."))
    if request.config.getoption("--regenerate"):
        expected.write_text(actual)
    assert actual == expected.read_text()


def paths(data: object, prefix: str = "") -> set[str]:
    """Return the paths of the properties of a JSON object, and of the objects in it."""
    if isinstance(data, list):
        return {path for item in data for path in paths(item, prefix)}
    if isinstance(data, dict):
        return {
            path for key, value in data.items() for path in {prefix + key, *paths(value, f"{prefix}{key}.")}
        }
    return set()


def test_full_meeting_has_every_property_of_zoom() -> None:
    documented = {
        row.path.replace("[]", "")
        for row in inventory()
        if (row.operation, row.body) in (("meetingCreate", "response"), ("meeting", "response"))
    }
    assert paths(orjson.loads(FULL.read_bytes())) == documented
    assert "additionalFields" not in FULL.with_name("full.meeting.json").read_text()


def test_properties_of_a_meeting_can_be_sent_back() -> None:
    """They are sent unchanged, except for those that Zoom accepts in no request."""
    data = orjson.loads(FULL.read_bytes())
    meeting = parse(FULL.read_bytes())
    assert meeting is not None
    details = MeetingDetails(
        recurrence=meeting.recurrence, settings=meeting.settings, tracking_fields=meeting.tracking_fields
    )
    violations = Violations()
    sent = meeting_json(details, violations)
    violations.raise_if_any()
    del data["tracking_fields"][0]["visible"]
    del data["settings"]["continuous_meeting_chat"]["channel_id"]
    del data["settings"]["meeting_invitees"][0]["internal_user"]
    assert sent == {name: data[name] for name in ("recurrence", "settings", "tracking_fields")}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"id": NaN}',
        b"{}",
        b'{"id": "8574606543x"}',
        b'{"id": 0}',
        b'{"id": -5}',
        b'{"id": 1180591620717411303424}',
        b'{"id": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
)
def test_body_without_a_meeting_id_is_no_meeting(body: bytes) -> None:
    assert parse(body) is None
