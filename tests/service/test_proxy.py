"""Tests for the ProxyService RPCs. In some tests, a scripted server replaces Zoom's API and records the bytes that it receives."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from support.harness import MONICA, OMAR, Harness, running
from support.raw_upstream import CUT, OK, RawUpstream, http_response, raw_upstream
from zoomgate.v1 import meetings_service_pb2 as meetings_pb
from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate_server import settings

LIMIT = settings.load({}).max_response_bytes
ME = b'{"id":"u-Monica-7Yc1","email":"monica@example.com","account_id":"a"}'


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[tuple[Harness, RawUpstream]]:
    """Run a service with a connected user and a scripted server in place of Zoom's API."""
    async with raw_upstream() as raw, running(tmp_path / "data", zoom_api_url=raw.url) as zoomgate:
        raw.responses = [http_response("200 OK", ME), OK]
        await zoomgate.connect()
        raw.requests.clear()
        yield zoomgate, raw


def get_request(url: str, **fields: object) -> pb.GetRequest:
    return ParseDict(fields | {"url": url, "user_email": MONICA}, pb.GetRequest())


async def test_call_is_forwarded_and_response_returned_unchanged(zoomgate: Harness) -> None:
    """Status, headers and body are returned unchanged; the body is also returned as JSON if requested."""
    await zoomgate.connect()
    response = (
        await zoomgate.call(
            zoomgate.proxy.Get, get_request("https://api.zoom.us/v2/users/me", parse_json=True)
        )
    ).response
    assert response.status == 200
    assert response.json.struct_value["email"] == MONICA
    assert b'"monica@example.com"' in response.body
    assert "x-zm-trackingid" in {header.name for header in response.headers}
    missing = (await zoomgate.call(zoomgate.proxy.Get, get_request("/meetings/123"))).response
    assert missing.status == 404
    assert not missing.HasField("json")


async def test_bodies_are_sent_unchanged(upstream: tuple[Harness, RawUpstream]) -> None:
    """JSON values and raw bytes are sent with their content type; DELETE has no body."""
    zoomgate, raw = upstream
    as_json = ParseDict(
        {"user_email": MONICA, "url": "/users/me/meetings", "json": {"topic": "x", "n": 3, "f": 1.5}},
        pb.PostRequest(),
    )
    await zoomgate.call(zoomgate.proxy.Post, as_json)
    head, _, body = raw.requests[-1].partition(b"\r\n\r\n")
    assert json.loads(body) == {"topic": "x", "n": 3, "f": 1.5}
    assert b".0" not in body
    assert b"\r\nContent-Type: application/json\r\n" in head
    raw_body = pb.PatchRequest(
        user_email=MONICA, url="/meetings/1", raw=b"a=b", content_type="application/x-www-form-urlencoded"
    )
    await zoomgate.call(zoomgate.proxy.Patch, raw_body)
    assert raw.requests[-1].endswith(b"\r\n\r\na=b")
    await zoomgate.call(
        zoomgate.proxy.Put, pb.PutRequest(user_email=MONICA, url="/meetings/1/status", raw=b"{}")
    )
    await zoomgate.call(zoomgate.proxy.Delete, pb.DeleteRequest(user_email=MONICA, url="/meetings/1"))
    assert [line.split()[0] for line in raw.lines()] == ["POST", "PATCH", "PUT", "DELETE"]


ACCEPTED = [
    ("/users/me", [], "/v2/users/me"),
    ("/users/", [], "/v2/users/"),
    ("https://api.zoom.us/v2/users/me?page_size=3", [], "/v2/users/me?page_size=3"),
    (
        "/users/me/meetings?type=live",
        [{"name": "from", "value": "a b&c=ü"}],
        "/v2/users/me/meetings?type=live&from=a%20b%26c%3D%C3%BC",
    ),
    ("/past_meetings/abc%3D%3D", [], "/v2/past_meetings/abc%3D%3D"),
    ("/past_meetings/%252FAbc%253D%253D", [], "/v2/past_meetings/%252FAbc%253D%253D"),
    ("/users/me@example.com", [], "/v2/users/me@example.com"),
]


@pytest.mark.parametrize(("url", "query", "sent"), ACCEPTED)
async def test_accepted_target_is_sent_byte_for_byte(
    upstream: tuple[Harness, RawUpstream], url: str, query: list[dict[str, str]], sent: str
) -> None:
    zoomgate, raw = upstream
    await zoomgate.call(zoomgate.proxy.Get, get_request(url, query=query))
    assert raw.lines() == [f"GET {sent} HTTP/1.1"]


async def test_all_violations_are_reported_together(upstream: tuple[Harness, RawUpstream]) -> None:
    """The service validates target, query, headers and body before it rejects a request."""
    zoomgate, _ = upstream
    invalid = ParseDict(
        {
            "user_email": "x",
            "url": "users",
            "query": [{"name": "", "value": ""}],
            "headers": [{"name": "accept", "value": "a\r\nb"}, {"name": "Accept", "value": "b"}],
            "json": {"n": 2.0**54},
            "content_type": "text/plain",
            "request_id": "r",
        },
        pb.PostRequest(),
    )
    error = await zoomgate.error_of(zoomgate.proxy.Post, invalid)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_PATH")
    assert set(error.violations) == {
        "user_email",
        "url",
        "query[0].name",
        "headers[0].value",
        "headers[1].name",
        "json.n",
        "content_type",
        "request_id",
    }
    multipart = pb.PostRequest(
        user_email=MONICA, url="/x", raw=b"x", content_type="multipart/form-data; boundary=x"
    )
    assert set((await zoomgate.error_of(zoomgate.proxy.Post, multipart)).violations) == {"content_type"}
    large = pb.PostRequest(user_email=MONICA, url="/x", raw=b"x" * (1024 * 1024 + 1))
    assert set((await zoomgate.error_of(zoomgate.proxy.Post, large)).violations) == {"raw"}


async def test_paths_are_limited_by_caller_policy(zoomgate: Harness) -> None:
    """The error for a forbidden path does not depend on whether the user is connected."""
    allowed = pb.GetRequest(user_email=OMAR, url="/users/me")
    other = pb.GetRequest(user_email=OMAR, url="/users/me/settings")
    assert (await zoomgate.error_of(zoomgate.proxy.Get, allowed, "narrow")).reason == "ZOOM_NOT_CONNECTED"
    before = await zoomgate.error_of(zoomgate.proxy.Get, other, "narrow")
    await zoomgate.connect(OMAR)
    assert before == await zoomgate.error_of(zoomgate.proxy.Get, other, "narrow")
    assert before.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    assert (await zoomgate.call(zoomgate.proxy.Get, allowed, "narrow")).response.status == 200


async def test_cookies_and_foreign_redirect_targets_are_not_returned(
    upstream: tuple[Harness, RawUpstream],
) -> None:
    """Cookies are not stored for later calls. Redirects are not followed. A `Location` of another origin is removed."""
    zoomgate, raw = upstream
    raw.responses = [http_response("302 Found", b"", "Location: https://evil.com/x", "Set-Cookie: a=b"), OK]
    response = (await zoomgate.call(zoomgate.proxy.Get, get_request("/users/me"))).response
    assert response.status == 302
    assert not {"location", "set-cookie"} & {header.name for header in response.headers}
    await zoomgate.call(zoomgate.proxy.Get, get_request("/users/me"))
    assert b"cookie" not in raw.requests[-1].lower()
    assert len(raw.requests) == 2


async def test_write_is_not_sent_again_if_the_connection_is_lost(
    upstream: tuple[Harness, RawUpstream],
) -> None:
    zoomgate, raw = upstream
    await zoomgate.call(zoomgate.proxy.Get, get_request("/users/me"))
    raw.requests.clear()
    raw.responses = [CUT]
    for method, request in (
        (zoomgate.proxy.Put, pb.PutRequest(user_email=MONICA, url="/x", raw=b"{}")),
        (zoomgate.proxy.Delete, pb.DeleteRequest(user_email=MONICA, url="/x")),
        (zoomgate.proxy.Post, pb.PostRequest(user_email=MONICA, url="/x", raw=b"{}")),
        (zoomgate.proxy.Patch, pb.PatchRequest(user_email=MONICA, url="/x", raw=b"{}")),
    ):
        error = await zoomgate.error_of(method, request)
        assert error.short == ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
        assert "ServerDisconnected" not in error.message
    assert [line.split()[0] for line in raw.lines()] == ["PUT", "DELETE", "POST", "PATCH"]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01 not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_malformed_http_response_is_an_error(
    upstream: tuple[Harness, RawUpstream], response: bytes
) -> None:
    """The error contains no message of the HTTP library."""
    zoomgate, raw = upstream
    raw.responses = [response, CUT]
    error = await zoomgate.error_of(zoomgate.proxy.Get, get_request("/users/me"), seconds=1.5)
    assert error.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert "aiohttp" not in error.message


LARGE = b"0" * (LIMIT + 1)


@pytest.mark.parametrize(
    ("response", "size"),
    [
        (http_response("200 OK", LARGE), str(LIMIT + 1)),
        (http_response("200 OK", gzip.compress(LARGE), "Content-Encoding: gzip"), None),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE),
            None,
        ),
    ],
    ids=["with its size", "compressed", "chunked"],
)
async def test_response_above_the_limit_is_an_error_with_size_limit_and_remedy(
    upstream: tuple[Harness, RawUpstream], response: bytes, size: str | None
) -> None:
    """This applies to typed RPCs, too. The size is unknown if Zoom sends the body compressed or in chunks."""
    zoomgate, raw = upstream
    for method, request in (
        (zoomgate.proxy.Get, get_request("/users/me")),
        (zoomgate.meetings.GetMeeting, meetings_pb.GetMeetingRequest(user_email=MONICA, meeting_id=1)),
    ):
        raw.responses = [response, CUT]
        error = await zoomgate.error_of(method, request)
        assert error.short == ("RESOURCE_EXHAUSTED", "ZOOM_RESPONSE_TOO_LARGE")
        expected = {"http_status": "200", "limit_bytes": str(LIMIT)} | ({"size_bytes": size} if size else {})
        assert error.metadata == expected
        assert "page_size" in error.message
        assert "ZOOMGATE_MAX_RESPONSE_BYTES" in error.message
    raw.responses = [response, CUT]
    error = await zoomgate.error_of(
        zoomgate.proxy.Post, pb.PostRequest(user_email=MONICA, url="/users/me/meetings")
    )
    assert "do not repeat it" in error.message


async def test_json_is_omitted_if_the_response_would_exceed_the_limit_with_it(
    upstream: tuple[Harness, RawUpstream],
) -> None:
    """As a Value, JSON can be several times larger, and gRPC clients would reject the response."""
    zoomgate, raw = upstream
    for count, is_parsed in ((1000, True), (400_000, False)):
        body = b"[%b]" % b",".join([b"1"] * count)
        raw.responses = [http_response("200 OK", body)]
        response = (await zoomgate.call(zoomgate.proxy.Get, get_request("/x", parse_json=True))).response
        assert response.body == body
        assert response.HasField("json") is is_parsed


async def test_size_limit_is_a_setting(tmp_path: Path) -> None:
    async with raw_upstream() as raw:
        environ = {"ZOOMGATE_MAX_RESPONSE_BYTES": "65536"}
        async with running(tmp_path / "data", zoom_api_url=raw.url, environ=environ) as zoomgate:
            raw.responses = [http_response("200 OK", ME), OK]
            await zoomgate.connect()
            raw.responses = [http_response("200 OK", b"0" * 65537)]
            error = await zoomgate.error_of(zoomgate.proxy.Get, get_request("/users/me"))
            assert error.metadata["limit_bytes"] == "65536"


@pytest.mark.parametrize(
    "url",
    [
        "/v2/users/me",
        "https://api.zoom.us/v2/users/me",
        "https://api-eu.zoom.us/v2/users/me",
        "https://api-uk.zoom.us/v2/users/me",
        "https://acme.zoom.us/v2/users/me",
    ],
)
async def test_accepted_forms_of_a_url_are_sent_to_the_base_url(tmp_path: Path, url: str) -> None:
    """Callers may paste paths with the API's version, and URLs with regional hosts that the settings name."""
    environ = {"ZOOMGATE_ZOOM_API_HOSTS": "api-eu.zoom.us, api-uk.zoom.us, acme.zoom.us"}
    async with (
        raw_upstream() as raw,
        running(tmp_path / "data", zoom_api_url=raw.url, environ=environ) as zoomgate,
    ):
        raw.responses = [http_response("200 OK", ME), OK]
        await zoomgate.connect()
        raw.requests.clear()
        await zoomgate.call(zoomgate.proxy.Get, get_request(url))
        assert raw.lines() == ["GET /v2/users/me HTTP/1.1"]


async def test_policy_is_applied_to_the_path_that_is_sent(upstream: tuple[Harness, RawUpstream]) -> None:
    """The caller may use `/users/me` only, however it spells the path."""
    zoomgate, raw = upstream
    get = zoomgate.proxy.Get
    allowed = pb.GetRequest(user_email=OMAR, url="/v2/users/me")
    error = await zoomgate.error_of(get, allowed, "narrow")
    assert error.reason == "ZOOM_NOT_CONNECTED"
    for url in ("/v2/users", "/v2/v2/users/me", "/past_meetings//users/me==", "/users/me%2Fx%3D%3D"):
        error = await zoomgate.error_of(get, pb.GetRequest(user_email=OMAR, url=url), "narrow")
        assert error.reason == "CALLER_NOT_ALLOWED", url
        assert error.metadata == {"method": "ProxyService.Get"}
    assert not raw.requests
