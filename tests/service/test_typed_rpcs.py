"""Tests for the RPCs that call one operation of Zoom, with scripted responses of Zoom."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from support.connect_channel import PROTOCOLS, over
from support.harness import OMAR, Harness
from support.raw_upstream import RawUpstream, http_response, serving_upstream
from support.typed_rpcs import EXAMPLES, METHODS, NO_CONTENT, request_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN, BAD = ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN"), ("INTERNAL", "ZOOM_BAD_RESPONSE")
READS = [name for name, example in EXAMPLES.items() if example.line.startswith("GET ")]
WRITES = [name for name in EXAMPLES if name not in READS]
WITH_REGISTRANT = [
    "RegistrantsService.UpdateRegistrantStatus",
    *(name for name in METHODS if "registrant_id" in METHODS[name].input_type.fields_by_name),
]
PAGED = [name for name in METHODS if "page_token" in METHODS[name].input_type.fields_by_name]
Service = tuple[Harness, RawUpstream]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Run a service whose Zoom sends scripted responses."""
    async with serving_upstream(tmp_path_factory.mktemp("service")) as running:
        yield running


def response_of(name: str, **values: Any) -> bytes:
    """Return Zoom's response in an example, with more values."""
    example = EXAMPLES[name]
    if example.zoom_response is None:
        return NO_CONTENT
    return http_response(example.status, orjson.dumps(example.zoom_response | values))


def refusal(status: str, code: int, message: str) -> bytes:
    """Return an error of Zoom."""
    return http_response(status, orjson.dumps({"code": code, "message": message}))


async def call(service: Service, name: str, zoom_response: bytes, **values: Any) -> Message:
    zoomgate, raw = service
    raw.responses = [zoom_response]
    raw.requests.clear()
    response: Message = await zoomgate.call(zoomgate.method(name), request_of(name, **values))
    return response


async def error_of(service: Service, name: str, zoom_response: bytes = NO_CONTENT, **values: Any) -> Any:
    zoomgate, raw = service
    raw.responses = [zoom_response]
    raw.requests.clear()
    return await zoomgate.error_of(zoomgate.method(name), request_of(name, **values))


async def test_every_typed_rpc_has_an_example() -> None:
    assert set(EXAMPLES) == set(METHODS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", EXAMPLES)
async def test_rpc_calls_its_operation_and_returns_the_response(
    service: Service, name: str, protocol: str
) -> None:
    example = EXAMPLES[name]
    zoomgate, raw = service
    async with over(protocol, zoomgate) as stubs:
        response = await call((stubs, raw), name, response_of(name))
    assert raw.lines() == [f"{example.line} HTTP/1.1"]
    head, _, body = raw.requests[0].partition(b"\r\n\r\n")
    assert (b"content-type: application/json" in head.lower()) is (example.body is not None)
    assert (orjson.loads(body) if body else None) == example.body
    assert MessageToDict(response) == example.response


@pytest.mark.parametrize("name", EXAMPLES)
async def test_omitted_parameters_are_not_sent(service: Service, name: str) -> None:
    """Zoom's defaults apply."""
    zoomgate, raw = service
    raw.responses = [response_of(name)]
    raw.requests.clear()
    request = request_of(name)
    for field, _ in request.ListFields():
        if field.name not in {"user_email", "meeting_id", "meeting_uuid", "registrant_id"} and not (
            EXAMPLES[name].body and field.name in {"meeting_details", "registrant", "registrants", "action"}
        ):
            request.ClearField(field.name)
    await zoomgate.call(zoomgate.method(name), request)
    assert [line.partition(" HTTP")[0] for line in raw.lines()] == [EXAMPLES[name].line.partition("?")[0]]


@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if example.zoom_response])
async def test_unknown_properties_of_a_response_are_kept(service: Service, name: str) -> None:
    new = {f"new_{number}": {"x": [number]} for number in range(300)}
    response = MessageToDict(await call(service, name, response_of(name, **new)))
    message = response if "additionalFields" in response else next(iter(response.values()))
    assert message["additionalFields"] == new


async def test_ids_above_the_range_of_a_double_are_exact(service: Service) -> None:
    name = "MeetingsService.ListMeetings"
    ids = [2**53 + 1, 2**63 - 1, 2**63, 2**70]
    zoom_response = response_of(name, meetings=[{"id": number} for number in ids[:2]])
    response = MessageToDict(await call(service, name, zoom_response))
    assert response["meetings"] == [{"id": str(number)} for number in ids[:2]]
    body = b'{"meetings":[{"id":%d},{"id":%d}]}' % tuple(ids[2:])
    response = MessageToDict(await call(service, name, http_response("200 OK", body)))
    assert [set(meeting) for meeting in response["meetings"]] == [{"additionalFields"}] * 2


async def test_values_of_other_types_than_documented_are_kept(service: Service) -> None:
    """They affect neither other values nor other items of a list."""
    name = "RegistrantsService.ListRegistrants"
    odd = {"status": 7, "custom_questions": "none", "create_time": "soon", "email": None}
    items = [{"id": "a"} | odd, 1, None, {"id": "b"}]
    response = MessageToDict(
        await call(service, name, response_of(name, registrants=items, total_records="x"))
    )
    assert response == {
        "registrants": [{"id": "a", "additionalFields": odd}, {"id": "b"}],
        "additionalFields": {"registrants": [1, None], "total_records": "x"},
    }


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'"x"', b'{"id":"","uuid":1,"meetings":{}}'])
async def test_undocumented_response_to_a_read_is_an_error(service: Service, name: str, body: bytes) -> None:
    assert (await error_of(service, name, http_response("200 OK", body))).short == BAD


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "502 Bad Gateway"])
@pytest.mark.parametrize("body", [b"", b"{}", b'{"id":1', b"<html></html>"])
async def test_write_without_the_documented_response_has_an_unknown_outcome(
    service: Service, name: str, status: str, body: bytes
) -> None:
    error = await error_of(service, name, http_response(status, body))
    assert error.short == UNKNOWN
    assert f"HTTP status {status[:3]}" in error.message


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("body", [b"", b'{"id":1', b"<html></html>"])
async def test_read_without_a_response_of_zoom_can_be_retried(
    service: Service, name: str, body: bytes
) -> None:
    error = await error_of(service, name, http_response("502 Bad Gateway", body))
    assert error.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
    assert "HTTP status 502" in error.message
    assert error.retry_after is not None


@pytest.mark.parametrize(
    "name",
    [name for name in EXAMPLES if "/meetings/" in EXAMPLES[name].line or "past" in EXAMPLES[name].line],
)
async def test_missing_meeting_is_reported(service: Service, name: str) -> None:
    zoom_response = refusal("404 Not Found", 3001, "Meeting does not exist: 1.")
    assert (await error_of(service, name, zoom_response)).short == ("NOT_FOUND", "MEETING_NOT_FOUND")


async def test_missing_meeting_of_a_new_registration_is_reported(service: Service) -> None:
    """Zoom documents the code 1001 for it."""
    zoom_response = refusal("404 Not Found", 1001, "Meeting does not exist: 1.")
    error = await error_of(service, "RegistrantsService.AddRegistrant", zoom_response)
    assert error.short == ("NOT_FOUND", "MEETING_NOT_FOUND")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "RegistrantsService.AddRegistrant"])
async def test_missing_user_is_not_a_missing_meeting(service: Service, name: str) -> None:
    zoom_response = refusal("404 Not Found", 1001, "User does not exist: me.")
    assert (await error_of(service, name, zoom_response)).short == ("NOT_FOUND", "ZOOM_REFUSED")


@pytest.mark.parametrize("name", WITH_REGISTRANT)
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "The value that you entered for the Registrant ID field is invalid. Enter a valid value.",
            "REGISTRANT_NOT_FOUND",
        ),
        ("Registrant does not exist.", "REGISTRANT_NOT_FOUND"),
        ("Registration has not been enabled for this meeting: 1.", "ZOOM_REFUSED"),
    ],
)
async def test_missing_registration_is_reported(
    service: Service, name: str, message: str, reason: str
) -> None:
    error = await error_of(service, name, refusal("400 Bad Request", 300, message))
    assert error.reason == reason
    assert (error.metadata["http_status"], error.metadata["zoom_code"]) == ("400", "300")


@pytest.mark.parametrize("name", WITH_REGISTRANT)
@pytest.mark.parametrize("code", [0, 3000, 3043])
async def test_only_the_code_of_invalid_values_reports_a_missing_registration(
    service: Service, name: str, code: int
) -> None:
    zoom_response = refusal("400 Bad Request", code, "The registrant is not valid.")
    assert (await error_of(service, name, zoom_response)).short == ("INVALID_ARGUMENT", "ZOOM_REFUSED")


@pytest.mark.parametrize("name", WITH_REGISTRANT)
@pytest.mark.parametrize("code", [0, 300])
async def test_failure_of_zoom_does_not_report_a_missing_registration(
    service: Service, name: str, code: int
) -> None:
    """A write may have had an effect."""
    zoom_response = refusal("502 Bad Gateway", code, "The registrant service is not available.")
    error = await error_of(service, name, zoom_response)
    assert error.reason == ("ZOOM_OUTCOME_UNKNOWN" if name in WRITES else "ZOOM_UNAVAILABLE")


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("code", [200, 3000, 3161, 12702])
async def test_refusal_has_the_code_of_zoom(service: Service, name: str, code: int) -> None:
    error = await error_of(
        service, name, refusal("400 Bad Request", code, "Only available for paid account: x.")
    )
    assert error.short == ("INVALID_ARGUMENT", "ZOOM_REFUSED")
    assert error.metadata["zoom_code"] == str(code)
    assert "Only available for paid account" in error.message


@pytest.mark.parametrize("name", PAGED)
async def test_next_page_is_requested_with_the_page_token(service: Service, name: str) -> None:
    """The page size may change."""
    first: Any = await call(service, name, response_of(name, next_page_token="a&b="))
    assert "a&b=" not in first.next_page_token
    token = {"page_token": first.next_page_token, "page_size": 7}
    last: Any = await call(service, name, response_of(name, next_page_token=""), **token)
    (line,) = service[1].lines()
    assert "next_page_token=a%26b%3D" in line
    assert "page_size=7" in line
    assert last.next_page_token == ""


@pytest.mark.parametrize("name", PAGED)
async def test_page_that_returns_its_own_token_is_rejected(service: Service, name: str) -> None:
    """Otherwise, the list would have no end."""
    first: Any = await call(service, name, response_of(name, next_page_token="x"))
    error = await error_of(
        service, name, response_of(name, next_page_token="x"), page_token=first.next_page_token
    )
    assert error.short == ("INTERNAL", "ZOOM_BAD_RESPONSE")


@pytest.mark.parametrize("name", PAGED)
async def test_page_token_of_other_requests_is_rejected(service: Service, name: str) -> None:
    """It is bound to the caller, the user, the RPC and the filters, and nothing is sent."""
    zoomgate, raw = service
    first: Any = await call(service, name, response_of(name, next_page_token="x"))
    token = first.next_page_token
    other_filter = {
        "MeetingsService.ListMeetings": {"type": "TYPE_LIVE"},
        "MeetingsService.ListPastParticipants": {"meeting_id": 2},
        "RegistrantsService.ListRegistrants": {"occurrence_id": "2"},
    }
    other_rpc = next(other for other in PAGED if other != name)
    raw.requests.clear()
    for rpc, caller, values in (
        (name, "service", other_filter[name]),
        (name, "service", {"user_email": OMAR}),
        (name, "monica", {}),
        (name, "service", {"page_token": token[:-1]}),
        (name, "service", {"page_token": "x" * 100_000}),
        (other_rpc, "service", {}),
    ):
        request = request_of(rpc, **({"page_token": token} | values))
        error = await zoomgate.error_of(zoomgate.method(rpc), request, caller)
        assert error.short == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN"), (rpc, caller, values)
        assert "page_token" in error.violations
    assert raw.requests == []


@pytest.mark.parametrize("name", PAGED)
async def test_page_token_that_zoom_no_longer_accepts_is_invalid(service: Service, name: str) -> None:
    first: Any = await call(service, name, response_of(name, next_page_token="x"))
    expired = refusal("400 Bad Request", 300, "The next page token is invalid or expired.")
    error = await error_of(service, name, expired, page_token=first.next_page_token)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
    assert "first page" in error.violations["page_token"]
    assert (error.metadata["http_status"], error.metadata["zoom_code"]) == ("400", "300")
    assert error.metadata["zoom_message"] == "The next page token is invalid or expired."


@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize("token", [7, ["x"], {"x": 1}])
async def test_page_token_of_another_type_does_not_end_the_list(
    service: Service, name: str, token: object
) -> None:
    assert (await error_of(service, name, response_of(name, next_page_token=token))).short == BAD


@pytest.mark.parametrize(
    ("uuid", "path"),
    [
        ("4444AAAiAAAAAiAiAiiAii==", "4444AAAiAAAAAiAiAiiAii%3D%3D"),
        ("/abc==", "%252Fabc%253D%253D"),
        ("ab//c==", "ab%252F%252Fc%253D%253D"),
        ("ab/c+==", "ab%2Fc%2B%3D%3D"),
        ("a" * 64, "a" * 64),
    ],
)
async def test_uuid_is_encoded_as_zoom_requires(service: Service, uuid: str, path: str) -> None:
    name = "MeetingsService.ListPastParticipants"
    await call(service, name, response_of(name), meeting_uuid=uuid)
    assert service[1].lines() == [f"GET /v2/past_meetings/{path}/participants?page_size=1 HTTP/1.1"]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_all_invalid_fields_are_reported_together(service: Service, name: str) -> None:
    """Nothing is sent to Zoom."""
    invalid: dict[str, Any] = {
        "from_date": "2026-02-30",
        "meeting_id": 0,
        "occurrence_id": "x",
        "page_size": 301,
        "registrant_id": "../x",
        "timezone": "../etc/passwd",
        "to_date": "2026-1-1",
        "user_email": "monica",
    }
    values = {
        field: value for field, value in invalid.items() if field in METHODS[name].input_type.fields_by_name
    }
    error = await error_of(service, name, **values)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error.violations.keys() >= values.keys()
    assert service[1].requests == []


@pytest.mark.parametrize("name", EXAMPLES)
async def test_case_of_the_address_is_ignored(service: Service, name: str) -> None:
    """The call uses the tokens of the same user, and a member may write its address in any case."""
    zoomgate, raw = service
    raw.responses = [response_of(name)]
    raw.requests.clear()
    for address in ("monica@example.com", "MONICA@Example.COM"):
        await zoomgate.call(zoomgate.method(name), request_of(name, user_email=address), "monica")
    first, second = raw.requests
    assert first == second


async def test_registration_can_be_used_for_another_meeting(service: Service) -> None:
    """What only Zoom sets is not sent."""
    name = "RegistrantsService.AddRegistrant"
    registrant = {
        "id": "9tboDiHUQAeOnbmudzWa5g",
        "email": OMAR,
        "first_name": "Omar",
        "status": "STATUS_APPROVED",
        "create_time": "2026-11-30T14:00:00Z",
        "join_url": "https://zoom.us/w/1",
        "participant_pin_code": 1,
    }
    await call(service, name, response_of(name), registrant=registrant)
    body = orjson.loads(service[1].requests[0].partition(b"\r\n\r\n")[2])
    assert (body["email"], body["first_name"]) == (OMAR, "Omar")
    assert not body.keys() & (registrant.keys() - {"email", "first_name"})


async def test_property_of_a_registration_is_set_only_once(service: Service) -> None:
    """A registration and its request are one object for Zoom. All violations are reported."""
    name = "RegistrantsService.AddRegistrant"
    registrant = {
        "email": "x",
        "first_name": "Omar",
        "additional_fields": {"language": "fr-FR", "auto_approve": True, "first_name": "b"},
    }
    error = await error_of(service, name, registrant=registrant, auto_approve=False)
    assert {*error.violations} == {
        "registrant.email",
        *(f"registrant.additional_fields.{key}" for key in registrant["additional_fields"]),
    }
    assert service[1].requests == []
