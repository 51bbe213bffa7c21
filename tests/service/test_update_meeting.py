"""Tests for UpdateMeeting: which properties Zoom receives, with and without an update mask."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict

from support.harness import MONICA, Harness
from support.raw_upstream import RawUpstream, serving_upstream
from zoomgate.v1 import meetings_service_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

Service = tuple[Harness, RawUpstream]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Run a service whose Zoom confirms every update."""
    async with serving_upstream(tmp_path_factory.mktemp("service")) as (zoomgate, zoom):
        zoom.responses = [b"HTTP/1.1 204 No Content\r\n\r\n"]
        yield zoomgate, zoom


def update(*paths: str, **details: Any) -> pb.UpdateMeetingRequest:
    """Return a request that updates a meeting; without paths, it has no mask."""
    request = pb.UpdateMeetingRequest(user_email=MONICA, meeting_id=1)
    ParseDict(details, request.meeting_details)
    if paths:
        request.update_mask.paths.extend(paths)
    return request


async def body_of(service: Service, request: pb.UpdateMeetingRequest) -> Any:
    """Send an update, and return the body that Zoom received."""
    zoomgate, zoom = service
    zoom.requests.clear()
    await zoomgate.call(zoomgate.meetings.UpdateMeeting, request)
    (sent,) = zoom.requests
    return orjson.loads(sent.partition(b"\r\n\r\n")[2])


async def violations_of(service: Service, request: pb.UpdateMeetingRequest) -> dict[str, str]:
    """Send an update that is invalid, and return the violations. Zoom must receive nothing."""
    zoomgate, zoom = service
    zoom.requests.clear()
    error = await zoomgate.error_of(zoomgate.meetings.UpdateMeeting, request)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert zoom.requests == []
    return error.violations


async def test_without_mask_exactly_the_set_properties_change(service: Service) -> None:
    """Defaults are for new meetings only. A string that is set to an empty one is cleared."""
    request = update(agenda="", settings={"waiting_room": False, "alternative_hosts": ["a@example.com"]})
    assert await body_of(service, request) == {
        "agenda": "",
        "settings": {"waiting_room": False, "alternative_hosts": "a@example.com"},
    }


async def test_string_that_is_set_to_an_empty_one_is_a_change(service: Service) -> None:
    assert await body_of(service, update(agenda="")) == {"agenda": ""}


async def test_with_mask_only_its_properties_change(service: Service) -> None:
    request = update(
        "topic",
        "settings.jbh_time",
        "additional_fields",
        topic="Review",
        agenda="ignored",
        duration_minutes=5,
        settings={"jbh_time": 0, "waiting_room": True},
        additional_fields={"new_in_zoom": 1},
    )
    assert await body_of(service, request) == {
        "topic": "Review",
        "settings": {"jbh_time": 0},
        "new_in_zoom": 1,
    }


async def test_path_of_a_message_selects_all_its_set_properties(service: Service) -> None:
    request = update("settings", settings={"audio": "AUDIO_VOIP", "host_video": True})
    assert await body_of(service, request) == {"settings": {"audio": "voip", "host_video": True}}


@pytest.mark.parametrize(
    ("path", "cleared"),
    [
        ("topic", {"topic": ""}),
        ("agenda", {"agenda": ""}),
        ("password", {"password": ""}),
        ("tracking_fields", {"tracking_fields": []}),
        ("settings.alternative_hosts", {"settings": {"alternative_hosts": ""}}),
        ("settings.meeting_invitees", {"settings": {"meeting_invitees": []}}),
        ("settings.global_dial_in_countries", {"settings": {"global_dial_in_countries": []}}),
        ("settings.authentication_exceptions", {"settings": {"authentication_exception": []}}),
        ("settings.breakout_room.rooms", {"settings": {"breakout_room": {"rooms": []}}}),
        ("settings.contact_name", {"settings": {"contact_name": ""}}),
    ],
)
async def test_property_with_a_path_but_without_a_value_is_cleared(
    service: Service, path: str, cleared: dict[str, Any]
) -> None:
    assert await body_of(service, update(path, settings={"host_video": True})) == cleared


async def test_cleared_and_changed_properties_are_sent_together(service: Service) -> None:
    request = update(
        "agenda", "settings.host_video", "settings.alternative_hosts", settings={"host_video": True}
    )
    assert await body_of(service, request) == {
        "agenda": "",
        "settings": {"host_video": True, "alternative_hosts": ""},
    }


@pytest.mark.parametrize(
    "path",
    [
        "duration_minutes",
        "local_start_time",
        "pre_schedule",
        "recurrence",
        "recurrence.end_time",
        "recurrence.weekly_days",
        "schedule_for",
        "settings",
        "settings.approval_type",
        "settings.breakout_room",
        "settings.host_video",
        "start_time",
        "template_id",
        "timezone",
        "type",
    ],
)
async def test_property_that_zoom_cannot_clear_is_rejected(service: Service, path: str) -> None:
    violations = await violations_of(service, update("agenda", path))
    assert list(violations) == ["update_mask.paths[1]"]
    assert "set a value in meeting_details" in violations["update_mask.paths[1]"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        " topic",
        ".topic",
        "topic.",
        "Topic",
        "topic\x00",
        "topic.x",
        "meeting_details.topic",
        "settings..host_video",
        "settings.hostVideo",
        "settings.meeting_invitees.email",
        "settings.meeting_invitees[0]",
        "additional_fields.x",
        "start",
        "start_time.seconds",
        "id",
        "a" * 100_000,
    ],
)
async def test_path_of_no_property_is_rejected(service: Service, path: str) -> None:
    violations = await violations_of(service, update("agenda", path))
    assert list(violations) == ["update_mask.paths[1]"]
    assert "is not a property" in violations["update_mask.paths[1]"]


async def test_duplicate_and_overlapping_paths_are_rejected(service: Service) -> None:
    request = update(
        "settings.host_video",
        "topic",
        "settings",
        "topic",
        "settings.breakout_room.enable",
        topic="x",
        settings={"host_video": True, "breakout_room": {"enable": True}},
    )
    violations = await violations_of(service, request)
    assert list(violations) == [f"update_mask.paths[{index}]" for index in (0, 3, 4)]
    assert "part of settings" in violations["update_mask.paths[0]"]
    assert "duplicate" in violations["update_mask.paths[3]"]


@pytest.mark.parametrize("path", ["topic", "settings.contact_name", "settings.breakout_room.rooms"])
async def test_property_of_the_whole_meeting_is_not_cleared_for_an_occurrence(
    service: Service, path: str
) -> None:
    request = update("agenda", path)
    request.occurrence_id = "1"
    violations = await violations_of(service, request)
    assert list(violations) == [f"meeting_details.{path.removesuffix('.rooms')}"]
    assert "single occurrence" in next(iter(violations.values()))


async def test_replacing_all_properties_is_rejected(service: Service) -> None:
    violations = await violations_of(service, update("*", topic="x"))
    assert "cannot replace a meeting" in violations["update_mask.paths[0]"]


async def test_output_only_property_is_rejected(service: Service) -> None:
    violations = await violations_of(service, update("settings.continuous_meeting_chat.channel_id"))
    assert "only be returned by Zoom" in violations["update_mask.paths[0]"]


@pytest.mark.parametrize("count", [0, 1001])
async def test_number_of_paths_is_limited(service: Service, count: int) -> None:
    """A mask without paths would change nothing."""
    request = update(topic="x")
    request.update_mask.SetInParent()
    request.update_mask.paths.extend(["topic"] * count)
    assert list(await violations_of(service, request)) == ["update_mask"]


@pytest.mark.parametrize("details", [{}, {"settings": {}}, {"additional_fields": {}}])
async def test_update_without_a_change_is_rejected(service: Service, details: dict[str, Any]) -> None:
    assert list(await violations_of(service, update(**details))) == ["meeting_details"]


async def test_start_is_changed_as_local_time_with_its_time_zone(service: Service) -> None:
    request = update(
        "local_start_time", "timezone", local_start_time="2031-05-01T09:00:00", timezone="Europe/Berlin"
    )
    assert await body_of(service, request) == {
        "start_time": "2031-05-01T09:00:00",
        "timezone": "Europe/Berlin",
    }


@pytest.mark.parametrize(
    "schedule",
    [
        {"start_time": "2020-01-07T09:00:00Z"},
        {"local_start_time": "2020-01-07T09:00:00", "timezone": "Europe/Berlin"},
        {
            "start_time": "2020-01-07T09:00:00Z",
            "recurrence": {"type": "TYPE_DAILY", "end_time": "2020-01-09T09:00:00Z"},
        },
    ],
)
async def test_schedule_of_a_started_meeting_can_be_sent_back(
    service: Service, schedule: dict[str, Any]
) -> None:
    """Zoom ignores a start in the past when a meeting is changed, so that its other properties can change."""
    assert (await body_of(service, update(topic="Review", **schedule)))["topic"] == "Review"


async def test_first_second_of_1970_is_a_start(service: Service) -> None:
    """Its message has no set field."""
    request = update("start_time", start_time="1970-01-01T00:00:00Z")
    assert await body_of(service, request) == {"start_time": "1970-01-01T00:00:00Z"}


async def test_both_forms_of_the_start_cannot_be_selected(service: Service) -> None:
    request = update("start_time", "local_start_time", start_time="2031-05-01T09:00:00Z")
    assert list(await violations_of(service, request)) == ["update_mask.paths[1]"]


async def test_invalid_values_and_paths_are_reported_together(service: Service) -> None:
    """Values that are not selected are not validated."""
    request = update("topic", "x", topic="x" * 201, duration_minutes=0)
    assert list(await violations_of(service, request)) == ["update_mask.paths[1]", "meeting_details.topic"]


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("alternative_hosts", "a.example;b.example"),
        ("authentication_domains", "a.example,b.example"),
        ("enforce_login_domains", "a.example;b.example"),
    ],
)
async def test_list_is_sent_with_the_separator_that_zoom_documents(
    service: Service, field: str, sent: str
) -> None:
    request = update(settings={field: ["a.example", "b.example"]})
    assert await body_of(service, request) == {"settings": {field: sent}}


@pytest.mark.parametrize("paths", [(), ("type", "topic")])
async def test_series_is_not_changed_without_its_recurrence(service: Service, paths: tuple[str, ...]) -> None:
    """Zoom requires it, and otherwise confirms a change of the schedule without making it."""
    request = update(*paths, type="MEETING_TYPE_RECURRING_FIXED_TIME", topic="x")
    violations = await violations_of(service, request)
    assert list(violations) == ["meeting_details.recurrence"]
    assert "is required" in violations["meeting_details.recurrence"]


@pytest.mark.parametrize(
    ("field", "value"), [("start_time", "2031-05-01T09:00:00Z"), ("timezone", "Asia/Tokyo"), ("type", 8)]
)
async def test_schedule_is_not_changed_by_additional_fields(
    service: Service, field: str, value: object
) -> None:
    """Its rules could not be checked."""
    request = update(additional_fields={field: value})
    assert list(await violations_of(service, request)) == [f"meeting_details.additional_fields.{field}"]


@pytest.mark.parametrize(
    ("details", "rejected"),
    [
        ({"additional_fields": {"topic": "x"}}, "additional_fields.topic"),
        ({"additional_fields": {"recurrence": {"type": 1}}}, "additional_fields.recurrence"),
        ({"additional_fields": {"settings": {"approval_type": 1}}}, "additional_fields.settings"),
        (
            {"settings": {"additional_fields": {"approval_type": 9}}},
            "settings.additional_fields.approval_type",
        ),
        (
            {"settings": {"additional_fields": {"authentication_exception": "x"}}},
            "settings.additional_fields.authentication_exception",
        ),
    ],
)
async def test_property_of_the_whole_meeting_is_rejected_in_additional_fields_for_an_occurrence(
    service: Service, details: dict[str, Any], rejected: str
) -> None:
    request = update(agenda="x", **details)
    request.occurrence_id = "1"
    violations = await violations_of(service, request)
    assert list(violations) == [f"meeting_details.{rejected}"]
    assert "single occurrence" in violations[f"meeting_details.{rejected}"]


async def test_new_property_of_zoom_can_change_for_an_occurrence(service: Service) -> None:
    """A new value of a property that can change for an occurrence is accepted as well."""
    extra = {"duration": "long", "new_in_zoom": 1}
    request = update(additional_fields=extra, settings={"additional_fields": {"auto_recording": "new"}})
    request.occurrence_id = "1"
    assert await body_of(service, request) == extra | {"settings": {"auto_recording": "new"}}


@pytest.mark.parametrize(
    ("paths", "details", "conflict"),
    [
        (("agenda", "additional_fields"), {"additional_fields": {"agenda": "b"}}, "agenda"),
        (
            ("settings.alternative_hosts", "additional_fields"),
            {"additional_fields": {"settings": {"alternative_hosts": "a@example.com"}}},
            "settings",
        ),
        (
            ("settings.contact_name", "settings.additional_fields"),
            {"settings": {"additional_fields": {"contact_name": "b"}}},
            "contact_name",
        ),
    ],
)
async def test_property_is_not_both_cleared_and_set_in_additional_fields(
    service: Service, paths: tuple[str, ...], details: dict[str, Any], conflict: str
) -> None:
    violations = await violations_of(service, update(*paths, **details))
    (path,) = violations
    assert path.endswith(f"additional_fields.{conflict}")


async def test_violations_of_values_and_of_the_conversion_are_reported_together(service: Service) -> None:
    request = update(
        topic="x",
        agenda="x" * 2001,
        type=77,
        recurrence={"end_time": "0001-01-01T00:00:00Z", "weekly_days": [99]},
        additional_fields={"topic": "x"},
        settings={"audio": 99, "contact_name": "a", "additional_fields": {"contact_name": "b"}},
    )
    assert {*await violations_of(service, request)} == {
        f"meeting_details.{path}"
        for path in (
            "agenda",
            "type",
            "recurrence",
            "recurrence.type",
            "recurrence.end_time",
            "recurrence.weekly_days[0]",
            "settings.audio",
            "additional_fields.topic",
            "settings.additional_fields.contact_name",
        )
    }
