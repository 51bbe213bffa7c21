"""Tests for the conversion of Zoom meetings, with stored examples."""

from pathlib import Path

import pytest
from google.protobuf import json_format

from zoomgate_server.errors import ZoomBadResponse
from zoomgate_server.rpc.services import meeting_mapping

CASES = sorted((Path(__file__).parent / "meetings").glob("*.zoom.json"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name.partition(".")[0])
def test_meeting_is_converted_as_expected(case: Path, request: pytest.FixtureRequest) -> None:
    """Fields that Zoomgate does not know are preserved."""
    meeting = meeting_mapping.meeting(case.read_bytes())
    actual = json_format.MessageToJson(meeting, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    expected = case.with_name(case.name.replace(".zoom.", ".meeting."))
    if request.config.getoption("--regenerate"):
        expected.write_text(actual)
    assert actual == expected.read_text()


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
        b'{"id": "85746065432"}',
        b'{"id": 0}',
        b'{"id": -5}',
        b'{"id": 1180591620717411303424}',
        b'{"id": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
)
def test_invalid_meeting_is_a_bad_response(body: bytes) -> None:
    """The error contains the length of the body, but not the body itself."""
    with pytest.raises(ZoomBadResponse) as error:
        meeting_mapping.meeting(body)
    assert error.value.metadata == {"length": str(len(body))}


def test_deeply_nested_value_is_stored_as_text() -> None:
    """Protobuf limits the nesting depth of messages, so receivers could not parse a deeply nested value."""
    meeting = meeting_mapping.meeting(b'{"id": 1, "x": ' + b"[" * 60 + b"]" * 60 + b"}")
    assert meeting_mapping.pb.Meeting.FromString(meeting.SerializeToString()) == meeting
