"""Headers and bodies that the proxy rejects."""

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from security.row import Row, fields
from security.targets import call
from support.harness import MONICA
from zoomgate.v1 import proxy_service_pb2 as pb

FORBIDDEN = [
    "Authorization",
    "authorization",
    "Cookie",
    "Host",
    ":authority",
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "TE",
    "Trailer",
    "Connection",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Connection",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "Forwarded",
    "Expect",
    "Upgrade",
    "X-HTTP-Method-Override",
    "User-Agent",
    "Accept-Encoding",
    "x_zm_trackingid",
    "x-zm-trac\u212aingid",
    "accept ",
    " accept",
    "accept:",
    "accept\r\nHost",
    "accept\x00",
    "",
    "a" * 1_000_000,
]
"""Headers that frame, route or authenticate a request, and headers whose names resemble allowed names."""

VALUES = {
    "a line break": "a\r\nHost: evil.com",
    "a line feed": "a\nb",
    "a NUL": "a\x00b",
    "a delete": "a\x7fb",
    "non-ASCII letters": "ü",
    "a bidi override": "\u202e",
    "too many characters": "a" * 8193,
}

CONTENT_TYPES = {
    "a multipart form": "multipart/form-data; boundary=x",
    "HTML": "text/html",
    "XML": "application/xml",
    "a long s (U+017F)": "application/j\u017fon",
    "a line break": "application/json\r\nHost: evil.com",
    "two types": "application/json, text/html",
    "an extra parameter": "application/json; charset=utf-8; x=y",
    "an allowed type with a suffix": "application/jsonx",
}


def headers(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs]


def post(**more: object) -> pb.PostRequest:
    return pb.PostRequest(user_email=MONICA, url="/users/me/meetings", **more)


def nested_json(levels: int) -> bytes:
    """Return a request whose `json` contains lists nested `levels` deep. It is encoded manually, because libraries refuse to encode it."""
    value = b""
    for _ in range(levels):
        for tag in (0x0A, 0x32):  # ListValue.values, Value.list_value
            value = bytes((tag,)) + _varint(len(value)) + value
    return (
        pb.PostRequest(user_email=MONICA, url="/x").SerializeToString()
        + b"\x32"
        + _varint(len(value))
        + value
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes((*encoded, number))


ROWS = [
    *(
        Row(
            f"the header {name[:40]!r}",
            "ProxyService.Get",
            call("Get", "/users/me", headers=headers((name, "x"))),
            fields("headers[0].name"),
            "HEADER_NOT_ALLOWED",
        )
        for name in FORBIDDEN
    ),
    *(
        Row(
            f"a header with {description}",
            "ProxyService.Get",
            call("Get", "/users/me", headers=headers(("accept", value))),
            fields("headers[0].value"),
        )
        for description, value in VALUES.items()
    ),
    Row(
        "a duplicate header in a different case",
        "ProxyService.Get",
        call("Get", "/users/me", headers=headers(("accept", "a"), ("Accept", "b"))),
        fields("headers[1].name"),
    ),
    Row(
        "too many headers",
        "ProxyService.Get",
        call("Get", "/users/me", headers=headers(*[("accept", "a")] * 33)),
        fields("headers"),
    ),
    *(
        Row(
            f"a content type that is {description}",
            "ProxyService.Post",
            post(raw=b"x", content_type=content_type),
            fields("content_type"),
        )
        for description, content_type in CONTENT_TYPES.items()
    ),
    Row(
        "a content type without a body",
        "ProxyService.Post",
        post(content_type="text/plain"),
        fields("content_type"),
    ),
    Row(
        "a content type with JSON",
        "ProxyService.Post",
        post(json=Value(bool_value=True), content_type="text/plain"),
        fields("content_type"),
    ),
    Row(
        "a body one byte above the limit",
        "ProxyService.Post",
        post(raw=b"x" * (1024 * 1024 + 1)),
        fields("raw"),
    ),
    Row(
        "oversized JSON",
        "ProxyService.Post",
        post(json=Value(string_value="\x01" * 400_000)),
        fields("json"),
    ),
    Row(
        "a message above gRPC's limit",
        "ProxyService.Post",
        post(raw=b"x" * (4 * 1024 * 1024)),
        fields(),
        "",
        "RESOURCE_EXHAUSTED",
    ),
    Row("JSON without a value kind", "ProxyService.Post", post(json=Value()), fields("json")),
    *(
        Row(
            f"the number {number} in JSON",
            "ProxyService.Post",
            post(json=Value(number_value=float(number))),
            fields("json"),
        )
        for number in ("nan", "inf", "-inf", "1e300", "9007199254740993", "-9007199254740993")
    ),
    Row(
        "a nested integer that is too large",
        "ProxyService.Post",
        ParseDict({"user_email": MONICA, "url": "/x", "json": {"a": [{"b": 2.0**60}]}}, pb.PostRequest()),
        fields("json.a[0].b"),
    ),
    Row("JSON nested too deeply", "ProxyService.Post", nested_json(31), fields("json" + "[0]" * 30)),
    Row(
        "JSON nested deeper than protobuf's limit",
        "ProxyService.Post",
        nested_json(5000),
        fields(),
        "MALFORMED_REQUEST",
    ),
    Row("a reserved request ID", "ProxyService.Post", post(request_id="x"), fields("request_id")),
]
