"""What callers may send through the proxy beside the target: headers and bodies."""

import re
from collections.abc import Sequence

import orjson
from google.protobuf import struct_pb2

from zoomgate_server.errors import FieldViolation, InvalidRequest
from zoomgate_server.rpc.services import json_value
from zoomgate_server.zoom.request import ALLOWED_HEADERS, is_allowed_header

MAX_HEADERS = 32
MAX_HEADER_VALUE = 8192
MAX_BODY = 1024 * 1024
JSON_TYPE = "application/json"

_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_CONTENT_TYPE = re.compile(
    r"(?:application/json|application/x-www-form-urlencoded|text/plain)(?:; ?charset=[A-Za-z0-9_-]{1,32})?",
    re.ASCII | re.IGNORECASE,
)


def check_headers(headers: Sequence[tuple[str, str]]) -> tuple[list[FieldViolation], list[FieldViolation]]:
    """Check headers.

    Returns:
        The violations of headers that callers may not set, and all other violations.
    """
    forbidden: list[FieldViolation] = []
    wrong: list[FieldViolation] = []
    if len(headers) > MAX_HEADERS:
        wrong.append(FieldViolation("headers", f"has {len(headers)} entries: send at most {MAX_HEADERS}"))
        return forbidden, wrong
    seen: set[str] = set()
    for index, (name, value) in enumerate(headers):
        lower = name.lower()
        if not is_allowed_header(name):
            allowed = ", ".join(sorted(ALLOWED_HEADERS))
            forbidden.append(
                FieldViolation(
                    f"headers[{index}].name", f"is a header that callers may not set: send only {allowed}"
                )
            )
        elif lower in seen:
            wrong.append(FieldViolation(f"headers[{index}].name", "appears twice: send each header once"))
        seen.add(lower)
        if len(value) > MAX_HEADER_VALUE or not _HEADER_VALUE.fullmatch(value):
            wrong.append(
                FieldViolation(
                    f"headers[{index}].value",
                    f"must be at most {MAX_HEADER_VALUE} characters of visible ASCII, space and tab: leave out everything else",
                )
            )
    return forbidden, wrong


def json_body(value: struct_pb2.Value, wrong: list[FieldViolation]) -> bytes:
    """Encode a `json` body, noting what is wrong with it."""
    try:
        body = orjson.dumps(json_value.plain(value, field="json"))
    except InvalidRequest as invalid:
        wrong.extend(invalid.violations)
        return b""
    if len(body) > MAX_BODY:
        wrong.append(FieldViolation("json", f"has {len(body)} bytes as JSON: send at most {MAX_BODY}"))
    return body


def check_raw(body: bytes, content_type: str, wrong: list[FieldViolation]) -> str:
    """Check a `raw` body and give its content type."""
    if len(body) > MAX_BODY:
        wrong.append(FieldViolation("raw", f"has {len(body)} bytes: send at most {MAX_BODY}"))
    if content_type and not _CONTENT_TYPE.fullmatch(content_type):
        wrong.append(
            FieldViolation(
                "content_type",
                "is not accepted: send application/json, application/x-www-form-urlencoded or text/plain, or leave it out for JSON",
            )
        )
    return content_type or JSON_TYPE
