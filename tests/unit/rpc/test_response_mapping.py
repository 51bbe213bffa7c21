"""Tests for the conversion of Zoom's lists and other typed responses, including those that Zoom does not document."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from google.protobuf import json_format

from zoomgate.v1.meetings_service_pb2 import ListMeetingsResponse
from zoomgate.v1.past_meeting_pb2 import PastMeeting
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.rpc.services.registrants import RegistrantsService
from zoomgate_server.zoom.request import ZoomResponse

READERS: dict[str, Callable[[ZoomResponse], Any]] = {
    "meeting": MeetingsService.GetMeeting.read,
    "meetings": MeetingsService.ListMeetings.read,
    "instances": MeetingsService.ListPastInstances.read,
    "participants": MeetingsService.ListPastParticipants.read,
    "registrants": RegistrantsService.ListRegistrants.read,
    "past_meeting": MeetingsService.GetPastMeeting.read,
    "invitation": MeetingsService.GetMeetingInvitation.read,
    "added_registrant": RegistrantsService.AddRegistrant.read,
    "registrant": RegistrantsService.GetRegistrant.read,
}
LISTS = {
    "meetings": "meetings",
    "instances": "meetings",
    "participants": "participants",
    "registrants": "registrants",
}
"""The readers of lists, and Zoom's names of the lists."""


def read(reader: str, data: Any) -> Any:
    return READERS[reader](ZoomResponse(200, (), data if isinstance(data, bytes) else orjson.dumps(data)))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"7", b"{", b"{}", b"<html>", b"\xff", b'{"code":300,"message":"x"}', b"[" * 9999],
)
def test_body_without_the_required_property_is_not_the_documented_response(reader: str, body: bytes) -> None:
    """In particular, it is no empty list."""
    assert read(reader, body) is None


@pytest.mark.parametrize("reader", LISTS)
@pytest.mark.parametrize("value", [None, {}, "x", 7, True])
def test_list_of_a_different_type_is_not_the_documented_response(reader: str, value: object) -> None:
    assert read(reader, {LISTS[reader]: value}) is None


@pytest.mark.parametrize("reader", LISTS)
def test_item_of_a_response_that_is_not_an_object_costs_only_this_item(reader: str) -> None:
    message = read(reader, {LISTS[reader]: [{"uuid": "a", "id": "1"}, None, "x", {"uuid": "b", "id": "2"}]})
    assert len(getattr(message, reader)) == 2
    assert message.additional_fields[LISTS[reader]] == [None, "x"]


@pytest.mark.parametrize("reader", LISTS)
def test_item_with_unknown_properties_or_missing_ones_is_listed(reader: str) -> None:
    unknown = {f"new_{number}": {"value": [number]} for number in range(300)}
    message = read(reader, {LISTS[reader]: [unknown, {}], **unknown})
    items = getattr(message, reader)
    assert len(items) == 2
    assert json_format.MessageToDict(items[0].additional_fields) == unknown
    assert json_format.MessageToDict(message.additional_fields) == unknown


def test_meeting_ids_above_2_to_the_53rd_are_exact() -> None:
    ids = [2**53 + 1, 2**63 - 1, str(2**53 + 1)]
    message = read("meetings", {"meetings": [{"id": number} for number in ids]})
    assert [meeting.id for meeting in message.meetings] == list(map(int, ids))


def test_meeting_whose_id_exceeds_64_bits_is_listed_with_the_id_as_a_string() -> None:
    body = b'{"meetings": [{"id": 9223372036854775808, "topic": "a"}, {"id": 1, "topic": "b"}]}'
    first, second = read("meetings", body).meetings
    assert (first.id, first.topic, second.id) == (0, "a", 1)
    assert dict(first.additional_fields) == {"id": "9223372036854775808"}


def test_lone_surrogates_cost_only_a_character() -> None:
    message = read("participants", rb'{"participants": [{"name": "a\ud800b", "user_id": "7"}]}')
    (participant,) = message.participants
    assert (participant.name, participant.user_id) == ("a\ufffdb", "7")


def test_numbers_and_times_of_a_past_meeting_can_be_strings_or_unreadable() -> None:
    message = read(
        "past_meeting",
        {"uuid": "a", "id": "85746065432", "duration": "45", "start_time": "noon", "type": 99, "dept": None},
    )
    expected = PastMeeting(uuid="a", id=85746065432, duration_minutes=45)
    expected.additional_fields.update({"start_time": "noon", "type": 99, "dept": None})
    assert message.past_meeting == expected


def test_answers_that_a_registrant_left_empty_are_unspecified() -> None:
    message = read("registrant", {"id": "r", "purchasing_time_frame": "", "role_in_purchase_process": ""})
    assert message.registrant == Registrant(id="r")


def test_properties_of_a_list_that_repeat_the_request_are_left_out() -> None:
    data = {"page_count": 1, "page_number": 1, "page_size": 30, "total_records": 0, "meetings": []}
    assert read("meetings", data) == ListMeetingsResponse(total_size=0)
