"""Tests for the conversion of Zoom meetings, with stored examples."""

from pathlib import Path

import pytest
from google.protobuf import json_format

from zoomgate.v1.meeting_pb2 import Meeting
from zoomgate_server.rpc.services import meeting_mapping
from zoomgate_server.zoom.request import ZoomResponse

CASES = sorted((Path(__file__).parent / "meetings").glob("*.zoom.json"))


def parse(body: bytes) -> Meeting | None:
    return meeting_mapping.meeting(ZoomResponse(200, (), body))


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
