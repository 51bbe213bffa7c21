"""Tests for invalid requests of the Connect protocol: each is rejected in the form of the protocol, and nothing is sent to Zoom."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from security.memory import peak_of
from security.row import REMEDY
from support.captured_logs import LogStream
from support.harness import MONICA, Harness, caller_key, running
from zoomgate_server.app.timing import Timing
from zoomgate_server.rpc import connect
from zoomgate_server.rpc.server import MAX_REQUEST_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET_TOKEN = "/zoomgate.v1.AuthService/GetToken"
BEGIN = "/zoomgate.v1.AuthService/BeginAuthorization"
CREATE = "/zoomgate.v1.MeetingsService/CreateMeeting"
POST = "/zoomgate.v1.ProxyService/Post"
JSON = {"Content-Type": "application/json"}
KEY = f"Bearer {caller_key('service')}"
RECEIVE_TIMEOUT = 1.0
TIMEOUT_ENDED = "The timeout ended before the call was started; nothing was done, so send it again with a longer Connect-Timeout-Ms"


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in the form of the protocol."""
        error = json.loads(self.body)
        assert set(error) == {"code", "message", "details"}, error
        assert self.headers["content-type"] == "application/json"
        return dict(error)

    @property
    def details(self) -> dict[str, Any]:
        """The JSON forms of the details by type. Their binary forms must be valid Base64."""
        for detail in self.error["details"]:
            base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4), validate=True)
        return {item["type"].rpartition(".")[2]: item["debug"] for item in self.error["details"]}

    @property
    def short(self) -> tuple[int, str, str]:
        """The HTTP status, the code, and the reason, which is empty for errors of the protocol itself."""
        return self.status, self.error["code"], self.details.get("ErrorInfo", {}).get("reason", "")

    @property
    def fields(self) -> set[str]:
        """The fields with violations."""
        violations = self.details.get("BadRequest", {}).get("fieldViolations", [])
        return {row["field"] for row in violations}


class Connection:
    """A connection to the HTTP server, which sends bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def open(cls, zoomgate: Harness) -> AsyncIterator["Connection"]:
        host, _, port = zoomgate.http_url.removeprefix("http://").rpartition(":")
        connection = cls(*await asyncio.open_connection(host, int(port)))
        try:
            yield connection
        finally:
            connection.writer.close()
            with suppress(ConnectionError):
                await connection.writer.wait_closed()

    def send(
        self,
        body: bytes = b"",
        path: str = GET_TOKEN,
        *,
        method: str = "POST",
        version: str = "1.1",
        headers: dict[str, str | list[str]] | None = None,
        key: str | None = KEY,
        length: int | None = None,
    ) -> None:
        """Send a request. Its length is that of the body unless `length` or another header states a different one."""
        lines = [f"{method} {path} HTTP/{version}", "Host: zoomgate"]
        all_headers: dict[str, str | list[str]] = JSON | ({"Authorization": key} if key else {})
        all_headers |= {"Content-Length": str(len(body) if length is None else length)} | (headers or {})
        if "Transfer-Encoding" in all_headers:
            del all_headers["Content-Length"]
        for name, values in all_headers.items():
            lines += [f"{name}: {value}" for value in ([values] if isinstance(values, str) else values)]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def receive(self) -> Response:
        """Receive a response."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return Response(int(status.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Wait until the server closes the connection, and return whether it did so without further data."""
        try:
            async with asyncio.timeout(20):
                return await self.reader.read() == b""
        except ConnectionError:
            return True


async def exchange(zoomgate: Harness, body: bytes = b"", path: str = GET_TOKEN, **options: Any) -> Response:
    """Send one request on a connection of its own, and return the response."""
    async with Connection.open(zoomgate) as connection:
        connection.send(body, path, **options)
        return await connection.receive()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zoomgate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """Run a service with a connected user."""
    async with running(
        tmp_path_factory.mktemp("data"),
        timing=replace(Timing(), connect=connect.Timing(receive_timeout=RECEIVE_TIMEOUT)),
    ) as harness:
        await harness.connect()
        yield harness


@pytest_asyncio.fixture(loop_scope="module")
async def unaffected(zoomgate: Harness) -> AsyncIterator[None]:
    """Check that a test changes nothing at Zoom."""
    before = dict(zoomgate.simulator.zoom.counters)
    yield
    assert dict(zoomgate.simulator.zoom.counters) == before


def with_user(text: str) -> bytes:
    """Return a request that is valid except for further members."""
    return f'{{"userEmail": "{MONICA}", {text}}}'.encode()


MALFORMED = {
    "no body": b"",
    "not JSON": b"userEmail=x",
    "a truncated object": b'{"userEmail": "x"',
    "text after the object": b"{} {}",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "NaN": b"NaN",
    "10^5 nested arrays": b"[" * 100_000 + b"]" * 100_000,
    "10^5 nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number with too many digits": b'{"minValidity": ' + b"1" * 10_000 + b"}",
    "invalid UTF-8": b'{"userEmail": "\xff"}',
    "UTF-16": '{"userEmail": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_json_is_rejected(zoomgate: Harness, unaffected: None, body: bytes) -> None:
    response = await exchange(zoomgate, body)
    assert response.short == (400, "invalid_argument", "MALFORMED_REQUEST")
    assert REMEDY.search(response.error["message"])
    assert response.details["ErrorInfo"]["metadata"] == {"type": "zoomgate.v1.GetTokenRequest"}
    assert not [name for name in ("Error", "Exception", "json_format") if name in response.error["message"]]


INVALID = [
    (GET_TOKEN, '"userEmail": "x"', "user_email"),
    (GET_TOKEN, '"user_email": null', "user_email"),
    (GET_TOKEN, '"user_email": "x"', "user_email"),
    (CREATE, '"meetingDetails": {"topic": "x", "topic": "x"}', "meeting_details.topic"),
    (
        CREATE,
        '"meetingDetails": {"trackingFields": [{}, {"a": 1, "a": 1}]}',
        "meeting_details.tracking_fields[1].a",
    ),
    (CREATE, '"meetingDetails": {"trackingFields": [{}, null]}', "meeting_details.tracking_fields[1]"),
    (POST, '"url": "/users/me", "json": {"a": {"b": 1, "b": 1}}', "json"),
    (POST, '"url": "/users/me", "json": null, "raw": ""', "raw"),
    (
        CREATE,
        '"meetingDetails": {"startTime": "2030-01-07T09:00:00Z", "localStartTime": "2030-01-07T09:00:00"}',
        "meeting_details.local_start_time",
    ),
    (
        CREATE,
        '"meetingDetails": {"trackingFields": [], "tracking_fields": []}',
        "meeting_details.tracking_fields",
    ),
    (CREATE, '"meetingDetails": {"type": true}', "meeting_details.type"),
    (CREATE, '"meetingDetails": {"type": 1.9}', "meeting_details.type"),
    (
        CREATE,
        '"meetingDetails": {"recurrence": {"weeklyDays": [2.5]}}',
        "meeting_details.recurrence.weekly_days[0]",
    ),
    (POST, f'"url": "/users/me", "json": {{"a": {"9" * 4_000}}}', "json"),
    (GET_TOKEN, '"validity": 1', "validity"),
    (GET_TOKEN, '"minValidity": 300', "min_validity"),
    (GET_TOKEN, '"minValidity": "300"', "min_validity"),
    (GET_TOKEN, '"minValidity": {"seconds": 300}', "min_validity"),
    (BEGIN, '"options": []', "options"),
    (BEGIN, '"options": ' + '{"a":' * 500 + "1" + "}" * 500, "options"),
    (BEGIN, '"zoomEmail": 1', "zoom_email"),
    (BEGIN, '"zoomEmail": "\\ud800"', "zoom_email"),
    (BEGIN, '"zoomEmail": ["x"]', "zoom_email"),
    (CREATE, '"meetingDetails": "x"', "meeting_details"),
    (CREATE, '"meetingDetails": []', "meeting_details"),
    (CREATE, '"meetingDetails": {"recurrence": [ ]}', "meeting_details.recurrence"),
    (CREATE, '"meetingDetails": {"topics": "x"}', "meeting_details.topics"),
    (CREATE, '"meetingDetails": {"durationMinutes": 1.5}', "meeting_details.duration_minutes"),
    (CREATE, '"meetingDetails": {"durationMinutes": 2147483648}', "meeting_details.duration_minutes"),
    (CREATE, '"meetingDetails": {"durationMinutes": true}', "meeting_details.duration_minutes"),
    (CREATE, '"meetingDetails": {"durationMinutes": 1e400}', "meeting_details.duration_minutes"),
    (CREATE, '"meetingDetails": {"startTime": "tomorrow"}', "meeting_details.start_time"),
]


@pytest.mark.parametrize(("path", "text", "field"), INVALID)
async def test_invalid_field_is_named(
    zoomgate: Harness, unaffected: None, path: str, text: str, field: str
) -> None:
    """The violation states what to send, and does not repeat the value."""
    response = await exchange(zoomgate, with_user(text), path)
    assert response.short == (400, "invalid_argument", "INVALID_FIELD")
    assert response.fields == {field}
    assert response.details["BadRequest"]["fieldViolations"][0]["description"]


@pytest.mark.parametrize(
    "name",
    [
        "x" * 1_000_000,
        "\\ud800",
        "userEmai",
        "\\u0000",
        "a.b[0]",
        "\\r\\nSet-Cookie: x",
        "[zoomgate.v1.X]",
        "",
    ],
    ids=lambda name: name[:20],
)
async def test_unknown_field_with_an_odd_name_is_rejected(
    zoomgate: Harness, unaffected: None, name: str
) -> None:
    response = await exchange(zoomgate, with_user(f'"{name}": 1'))
    assert response.short == (400, "invalid_argument", "INVALID_FIELD")
    assert len(response.body) < 8192
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "value",
    ["", "-1", "1.5", "1e3", "0x10", "12345678901", "9" * 5000, " ", "\u0661".encode().decode("latin-1")],
)
async def test_absurd_timeout_is_rejected(zoomgate: Harness, unaffected: None, value: str) -> None:
    response = await exchange(
        zoomgate, with_user('"minValidity": "0s"'), headers={"Connect-Timeout-Ms": value}
    )
    assert response.short == (400, "invalid_argument", "MALFORMED_REQUEST")
    assert "Connect-Timeout-Ms" in response.error["message"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Connect-Timeout-Ms", ["5000", "1"]),
        ("Connect-Protocol-Version", ["1", "2"]),
        ("Content-Encoding", ["identity", "gzip"]),
        ("Content-Type", ["application/json", "application/proto"]),
    ],
)
async def test_second_value_of_a_header_is_not_ignored(
    zoomgate: Harness, unaffected: None, name: str, values: list[str]
) -> None:
    response = await exchange(zoomgate, with_user('"minValidity": "0s"'), headers={name: values})
    assert response.status in (400, 415, 501)


@pytest.mark.parametrize(
    ("path", "field"), [(CREATE, '"meetingDetails": {}'), (GET_TOKEN, '"minValidity": "0s"')]
)
async def test_rpc_is_not_started_with_a_timeout_of_zero(
    zoomgate: Harness, unaffected: None, path: str, field: str
) -> None:
    """A cached token is returned without waiting for anything."""
    response = await exchange(zoomgate, with_user(field), path, headers={"Connect-Timeout-Ms": "0"})
    assert response.short == (504, "deadline_exceeded", "DEADLINE_TOO_SHORT")
    assert response.error["message"] == TIMEOUT_ENDED


REJECTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"path": "/zoomgate.v1.AuthService/Missing"}, "UNIMPLEMENTED", "NOT_SUPPORTED"),
    "origin": ({"headers": {"Origin": "https://x.example"}}, "PERMISSION_DENIED", "CALLER_NOT_ALLOWED"),
    "method": ({"method": "GET"}, "UNIMPLEMENTED", "NOT_SUPPORTED"),
    "content type": ({"headers": {"Content-Type": "text/plain"}}, "UNIMPLEMENTED", "NOT_SUPPORTED"),
    "credential": ({"key": None}, "UNAUTHENTICATED", "CALLER_UNAUTHENTICATED"),
    "version": ({"headers": {"Connect-Protocol-Version": "2"}}, "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "timeout": ({"headers": {"Connect-Timeout-Ms": "x"}}, "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    "deadline": ({"headers": {"Connect-Timeout-Ms": "0"}}, "DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT"),
    "compression": ({"headers": {"Content-Encoding": "gzip"}}, "UNIMPLEMENTED", "NOT_SUPPORTED"),
    "length": ({"length": MAX_REQUEST_BYTES + 1}, "RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE"),
    "incomplete": ({"body": b"{", "length": 2}, "DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT"),
    "malformed": ({"body": b"{"}, "INVALID_ARGUMENT", "MALFORMED_REQUEST"),
}
"""Requests that are rejected before an RPC is started, with the code and the reason."""


@pytest.mark.parametrize("name", REJECTIONS)
async def test_rejected_request_is_logged_and_counted_as_a_call(
    zoomgate: Harness, unaffected: None, log: LogStream, name: str
) -> None:
    options, code, reason = REJECTIONS[name]
    method = "other" if name == "unknown" else "AuthService.GetToken"
    before = await count(zoomgate, method, code)
    request_id = f"rejected-{name}".replace(" ", "-")
    headers = {"X-Request-Id": request_id, **options.get("headers", {})}
    response = await exchange(zoomgate, **{"body": b"{}", **options, "headers": headers})
    if name in ("method", "content type"):  # the protocol has no codes for these errors
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
    else:
        assert response.short[1:] == (code.lower(), reason)
    assert response.headers["x-request-id"] == request_id
    caller = "" if name in ("unknown", "credential") else "service"
    assert logged(log, request_id) == (code, reason, caller)
    assert await count(zoomgate, method, code) == before + 1
    audited = reason in ("CALLER_NOT_ALLOWED", "CALLER_UNAUTHENTICATED")
    audit = (zoomgate.data_dir / "audit.jsonl").read_text(encoding="utf-8")
    assert (f'"request_id":"{request_id}"' in audit) == audited


@pytest.mark.parametrize("name", [name for name in REJECTIONS if name != "unknown"])
async def test_credential_is_checked_first(zoomgate: Harness, unaffected: None, name: str) -> None:
    response = await exchange(zoomgate, **{"body": b"{}", **REJECTIONS[name][0], "key": None})
    assert response.short == (401, "unauthenticated", "CALLER_UNAUTHENTICATED")


async def count(zoomgate: Harness, method: str, code: str) -> float:
    """Return how many calls of a method have ended with a code."""
    async with aiohttp.ClientSession(zoomgate.http_url) as session, session.get("/metrics") as response:
        text = await response.text()
    found = re.search(rf'^zoomgate_rpc_total{{code="{code}",method="{method}"}} (.+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def logged(log: LogStream, request_id: str) -> tuple[str, str, str]:
    """Return the status, the reason and the caller of a call in the access log."""
    lines = [json.loads(line) for line in log.getvalue().splitlines() if f'"{request_id}"' in line]
    (entry,) = [line for line in lines if line["event"] == "rpc"]
    return entry["status"], entry["reason"], entry.get("caller", "")


async def test_longest_timeout_is_accepted(zoomgate: Harness) -> None:
    body = with_user('"minValidity": "0s"')
    response = await exchange(zoomgate, body, headers={"Connect-Timeout-Ms": "9999999999"})
    assert response.status == 200


async def test_other_version_of_the_protocol_is_rejected(zoomgate: Harness, unaffected: None) -> None:
    response = await exchange(zoomgate, headers={"Connect-Protocol-Version": "2"})
    assert response.short == (400, "invalid_argument", "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "credentials",
    [[KEY, KEY], [KEY, "Bearer other"], ["Bearer other", KEY], [f"{KEY}, {KEY}"], [f"{KEY} {KEY}"]],
)
async def test_two_credentials_are_rejected(
    zoomgate: Harness, unaffected: None, credentials: list[str]
) -> None:
    body = with_user('"minValidity": "0s"')
    response = await exchange(zoomgate, body, key=None, headers={"authorization": credentials})
    assert response.short == (401, "unauthenticated", "CALLER_UNAUTHENTICATED")


@pytest.mark.parametrize(
    "path",
    [
        "/zoomgate.v1.AuthService/Missing",
        "/zoomgate.v1.AuthService/WatchConnections",
        "/zoomgate.v1.AuthService/GetToken%2f",
        "/zoomgate.v1.Missing/GetToken",
        "/zoomgate.v1.AuthService/gettoken",
        "/zoomgate.v1.AuthService/GetToken/",
        "/zoomgate.v1.AuthService/GetToken/x",
        "/zoomgate.v1.AuthService//GetToken",
        "/zoomgate.v1.AuthService/",
        "/zoomgate.v1.Auth_Service1/GetToken",
        "/zoomgate.v1/AuthService/GetToken",
        "/zoomgate.v1.AuthService/GetToken%0a",
        "/zoomgate.v1.AuthService%0a/GetToken",
    ],
)
async def test_unknown_method_is_rejected(zoomgate: Harness, unaffected: None, path: str) -> None:
    response = await exchange(zoomgate, b"{}", path)
    assert response.short == (404, "unimplemented", "NOT_SUPPORTED")
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Check", "/zoomgate.v2.AuthService/GetToken", "/AuthService/GetToken"]
)
async def test_other_services_are_not_served(zoomgate: Harness, path: str) -> None:
    assert (await exchange(zoomgate, b"{}", path)).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "QUERY"])
async def test_only_post_is_accepted(zoomgate: Harness, unaffected: None, method: str) -> None:
    async with Connection.open(zoomgate) as connection:
        connection.send(method=method)
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: POST\r\n" in head


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/grpc",
        "application/grpc-web+json",
        "application/connect+json",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "",
        "x",
        "application/json; charset=latin-1",
        "application/json; charset=UTF-16",
        'application/json; charset="us-ascii"',
        "application/proto; charset=latin-1",
    ],
)
async def test_other_content_types_are_rejected(
    zoomgate: Harness, unaffected: None, content_type: str
) -> None:
    """Among them are the types that a web page may send to other origins without a preflight request."""
    response = await exchange(zoomgate, b"{}", headers={"Content-Type": content_type})
    assert response.status == 415
    assert response.headers["accept-post"] == "application/json, application/proto"


@pytest.mark.parametrize("charset", ["utf8", "utf-8", "UTF-8", '"utf-8"', '"UTF-8"'])
async def test_charset_utf_8_is_accepted(zoomgate: Harness, charset: str) -> None:
    headers: dict[str, str | list[str]] = {"Content-Type": f"Application/JSON; charset={charset}"}
    response = await exchange(zoomgate, with_user('"minValidity": "0s"'), headers=headers)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x" * 5000])
async def test_compressed_body_is_rejected(zoomgate: Harness, unaffected: None, encoding: str) -> None:
    response = await exchange(zoomgate, b"{}", headers={"Content-Encoding": encoding})
    assert response.short == (501, "unimplemented", "NOT_SUPPORTED")


@pytest.mark.parametrize(
    "key", [KEY, "Bearer unknown-key-0123456789", None], ids=["known", "unknown", "none"]
)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_body_of_one_gibibyte_is_not_read(
    zoomgate: Harness, unaffected: None, log: LogStream, key: str | None, is_chunked: bool
) -> None:
    """The connection is closed after at most the maximum size of a request; without a valid credential, much earlier.

    The response may be lost, because the connection is closed before the request is complete.
    """
    piece, gibibyte, sent = b" " * 65536, 1 << 30, 0
    request_id = f"gibibyte-{is_chunked}-{key == KEY}-{key is None}"
    headers: dict[str, str | list[str]] = {"X-Request-Id": request_id}
    if is_chunked:
        headers["Transfer-Encoding"] = "chunked"
    with peak_of(megabytes=40):
        async with Connection.open(zoomgate) as connection:
            connection.send(key=key, length=gibibyte, headers=headers)
            response = asyncio.create_task(connection.receive())
            try:
                while sent < gibibyte and not response.done():
                    connection.writer.write(b"10000\r\n" + piece + b"\r\n" if is_chunked else piece)
                    await connection.writer.drain()
                    await asyncio.sleep(0)
                    sent += len(piece)
            except ConnectionError:
                pass
            status, code, reason = (
                (429, "resource_exhausted", "REQUEST_TOO_LARGE")
                if key == KEY
                else (401, "unauthenticated", "CALLER_UNAUTHENTICATED")
            )
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                assert (await response).short == (status, code, reason)
        assert logged(log, request_id)[:2] == (code.upper(), reason)
        assert sent < 4 * MAX_REQUEST_BYTES


async def test_length_above_the_limit_is_rejected_before_the_body_arrives(
    zoomgate: Harness, unaffected: None
) -> None:
    response = await exchange(zoomgate, length=MAX_REQUEST_BYTES + 1)
    assert response.short == (429, "resource_exhausted", "REQUEST_TOO_LARGE")
    assert response.headers["connection"] == "close"


async def test_largest_request_is_parsed(zoomgate: Harness, unaffected: None) -> None:
    body = with_user('"minValidity": ""')
    response = await exchange(zoomgate, body + b" " * (MAX_REQUEST_BYTES - len(body)))
    assert response.fields == {"min_validity"}


@pytest.mark.parametrize("headers", [{}, {"Connect-Timeout-Ms": "5000"}], ids=["default", "longer"])
async def test_body_that_does_not_arrive_is_rejected(
    zoomgate: Harness, unaffected: None, headers: dict[str, str]
) -> None:
    """The error does not advise a longer timeout, which would not help."""
    response = await exchange(zoomgate, b"{", length=2, headers=headers)
    assert response.short == (504, "deadline_exceeded", "DEADLINE_TOO_SHORT")
    assert (
        response.error["message"]
        == "The request did not arrive within 1 seconds; nothing was done, so send it again"
    )
    assert response.headers["connection"] == "close"


async def test_time_until_the_body_arrives_counts_towards_the_timeout(
    zoomgate: Harness, unaffected: None
) -> None:
    response = await exchange(zoomgate, b"{", length=2, headers={"Connect-Timeout-Ms": "1"})
    assert response.short == (504, "deadline_exceeded", "DEADLINE_TOO_SHORT")
    assert response.error["message"] == TIMEOUT_ENDED


async def test_response_is_received_while_the_body_is_sent(zoomgate: Harness, unaffected: None) -> None:
    """A short body is discarded, and the connection can be used again."""
    async with Connection.open(zoomgate) as connection:
        for _ in range(2):
            connection.send(key=None, length=2)
            await connection.writer.drain()
            for _ in range(100):  # the service handles the head of the request
                await asyncio.sleep(0)
            connection.writer.write(b"{}")
            assert (await connection.receive()).short == (401, "unauthenticated", "CALLER_UNAUTHENTICATED")


@pytest.mark.parametrize(("key", "status"), [(KEY, 429), (None, 401)], ids=["known", "none"])
async def test_response_is_received_after_a_large_body_is_sent(
    zoomgate: Harness, unaffected: None, key: str | None, status: int
) -> None:
    """A client that sends the whole body before it reads receives the response, and then the connection is closed."""
    async with Connection.open(zoomgate) as connection:
        connection.send(bytes(20_000_000), key=key)
        await connection.writer.drain()
        response = await connection.receive()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert await connection.is_closed()


@pytest.mark.parametrize("key", [KEY, None], ids=["known", "none"])
@pytest.mark.parametrize("body", [b"x\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", b"2\r\n{}x"])
async def test_invalid_chunk_is_not_an_error_of_the_service(
    zoomgate: Harness, unaffected: None, key: str | None, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such requests do not fill the log with stack traces."""
    async with Connection.open(zoomgate) as connection:
        connection.send(key=key, headers={"Transfer-Encoding": "chunked"})
        await connection.writer.drain()
        for _ in range(100):
            await asyncio.sleep(0)
        connection.writer.write(body)
        assert (await connection.receive()).status in (401, 504)
        assert await connection.is_closed()
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_body_that_is_not_completed_is_not_an_error_of_the_service(
    zoomgate: Harness, unaffected: None, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Connection.open(zoomgate) as connection:
        connection.send(b"{", length=2)
        await connection.writer.drain()
        for _ in range(100):
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (None, (401, "unauthenticated", "CALLER_UNAUTHENTICATED")),
        (f"Bearer {caller_key('admin')}", (403, "permission_denied", "CALLER_NOT_ALLOWED")),
    ],
    ids=["unknown", "not allowed"],
)
async def test_body_of_a_caller_without_permission_is_not_waited_for(
    zoomgate: Harness, unaffected: None, key: str | None, expected: tuple[int, str, str]
) -> None:
    """No state is kept for such callers, however slowly they send."""
    async with Connection.open(zoomgate) as connection:
        connection.send(key=key, length=100)
        response = await connection.receive()
        assert response.short == expected
        assert response.headers["connection"] == "close"
        assert await connection.is_closed()


@pytest.mark.parametrize("size", [9_000, 100_000])
async def test_oversized_header_is_rejected(zoomgate: Harness, unaffected: None, size: int) -> None:
    assert (await exchange(zoomgate, b"{}", headers={"X-Large": "x" * size})).status == 400


async def test_http_1_0_is_served(zoomgate: Harness) -> None:
    async with Connection.open(zoomgate) as connection:
        connection.send(with_user('"minValidity": "0s"'), version="1.0")
        response = await connection.receive()
        assert (response.status, json.loads(response.body)["token"]["tokenType"]) == (200, "bearer")
        assert await connection.is_closed()


async def test_pipelined_requests_are_answered_in_order(zoomgate: Harness) -> None:
    """Each response belongs to its request, and a request does not see the credential of the previous one."""
    async with Connection.open(zoomgate) as connection:
        body = with_user('"minValidity": "0s"')
        connection.send(body, headers={"X-Request-Id": "first"})
        connection.send(body, headers={"X-Request-Id": "second"}, key=None)
        first, second = await connection.receive(), await connection.receive()
        assert (first.status, first.headers["x-request-id"]) == (200, "first")
        assert (second.status, second.headers["x-request-id"]) == (401, "second")


@pytest.mark.parametrize("request_id", ["a b", "x" * 65, "\u00e9", "a;b", ""])
async def test_invalid_request_id_is_replaced(zoomgate: Harness, request_id: str) -> None:
    response = await exchange(
        zoomgate, with_user('"minValidity": "0s"'), headers={"X-Request-Id": request_id}
    )
    assert response.headers["x-request-id"] not in ("", request_id)


async def test_binary_message_that_cannot_be_parsed_is_rejected(zoomgate: Harness, unaffected: None) -> None:
    response = await exchange(zoomgate, b"\xff", headers={"Content-Type": "application/proto"})
    assert response.short == (400, "invalid_argument", "MALFORMED_REQUEST")


async def test_large_json_does_not_block_other_calls(zoomgate: Harness, unaffected: None) -> None:
    """A call is answered before requests that arrived earlier, whose conversion takes seconds in total."""
    objects = '{"":' * 20 + "1" + "}" * 20
    large = with_user(f'"options": {{"a": [{",".join([objects] * 900)}, "\\ud800"]}}')
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection.open(zoomgate)) for _ in range(6)]
        for connection in connections:
            connection.send(large, BEGIN)
            await connection.writer.drain()
        slow = [asyncio.create_task(connection.receive()) for connection in connections]
        assert (await exchange(zoomgate, with_user('"minValidity": "0s"'))).status == 200
        assert not all(task.done() for task in slow)
        assert {response.short[2] for response in await asyncio.gather(*slow)} == {"INVALID_FIELD"}


def dense(value: str) -> bytes:
    """Return a message of almost the maximum size that contains a value as often as possible."""
    start, end = with_user('"options": {"a": [~]}').decode().split("~")
    count = (MAX_REQUEST_BYTES - len(start + end)) // (len(value) + 1)
    return (start + ",".join([value] * count) + end).encode()


@pytest.mark.parametrize(
    "body",
    [
        *map(dense, ["1", '""', "[]", "{}", '{"":[]}', "[" * 25 + "]" * 25, '"\\"",[]']),
        b"[" * MAX_REQUEST_BYTES,
        b'{"":' * (MAX_REQUEST_BYTES // 4),
        dense("1")[:-8] + b",NaN]}}",
        dense("1")[:-1],
        dense("1")[:-1] + b"\xff",
        b'{"a":1' + b',"a":1' * 600_000 + b"}",
        ('{"a":1' + "".join(f',"{number}":1' for number in range(300_000)) + "}").encode(),
        with_user(f'"states": [{",".join("1" * 1_000_000)}]'),
    ],
    ids=lambda body: body[:60].decode() + str(len(body)),
)
async def test_message_with_too_many_values_is_rejected_before_it_is_parsed(
    zoomgate: Harness, unaffected: None, body: bytes
) -> None:
    """Parsed, these messages would take up to a hundred times their size in memory."""
    with peak_of(megabytes=40):
        response = await exchange(zoomgate, body, BEGIN)
    assert response.short == (400, "invalid_argument", "MALFORMED_REQUEST")
    assert "20000 values" in response.error["message"]


async def test_commas_and_brackets_in_strings_are_not_counted(zoomgate: Harness, unaffected: None) -> None:
    text = '\\",[{' * 500_000
    response = await exchange(zoomgate, with_user(f'"minValidity": "{text}"'))
    assert response.fields == {"min_validity"}
