"""Validation of the headers and bodies of proxy requests."""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from zoomgate_server.rpc.services import json_value
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom.request import ALLOWED_HEADERS, is_allowed_header

MAX_HEADERS = 32
MAX_HEADER_VALUE = 8192
MAX_BODY = 1024 * 1024
JSON_TYPE = "application/json"

_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_CONTENT_TYPE = re.compile(
    r"(?:application/json|application/x-www-form-urlencoded|text/plain)(?:; ?charset=[A-Za-z0-9_-]{1,32})?",
    re.ASCII | re.IGNORECASE,
)


def check_headers(headers: Sequence[tuple[str, str]], violations: Violations) -> bool:
    """Validate headers, and return whether callers may set all of them."""
    if len(headers) > MAX_HEADERS:
        violations.add("headers", f"has {len(headers)} entries; send at most {MAX_HEADERS}")
        return True
    allowed = True
    seen: set[str] = set()
    for index, (name, value) in enumerate(headers):
        lower = name.lower()
        if not is_allowed_header(name):
            allowed = False
            names = ", ".join(sorted(ALLOWED_HEADERS))
            shown = f"is {lower}, which" if _HEADER_NAME.fullmatch(name) else "is a header that"
            violations.add(f"headers[{index}].name", f"{shown} callers may not set; send only {names}")
        elif lower in seen:
            violations.add(f"headers[{index}].name", "is a duplicate; send each header once")
        seen.add(lower)
        if len(value) > MAX_HEADER_VALUE or not _HEADER_VALUE.fullmatch(value):
            violations.add(
                f"headers[{index}].value",
                f"must be at most {MAX_HEADER_VALUE} characters of printable ASCII and tab; remove all other characters",
            )
    return allowed


def body(request: Any, violations: Violations) -> tuple[bytes | None, str | None]:
    """Return the body and the content type of a request, if any. Adds violations to `violations`."""
    match request.WhichOneof("body"):
        case "raw":
            if len(request.raw) > MAX_BODY:
                violations.add("raw", f"has {len(request.raw)} bytes; send at most {MAX_BODY}")
            if request.content_type and not _CONTENT_TYPE.fullmatch(request.content_type):
                violations.add(
                    "content_type",
                    "is not supported; send application/json, application/x-www-form-urlencoded or text/plain, or omit it for JSON",
                )
            return request.raw, request.content_type or JSON_TYPE
        case "json":
            encoded = b""
            with violations.collecting():
                encoded = orjson.dumps(json_value.plain(request.json, "json"))
            if len(encoded) > MAX_BODY:
                violations.add("json", f"has {len(encoded)} bytes as JSON; send at most {MAX_BODY}")
            if request.content_type:
                violations.add("content_type", "is only allowed with raw; omit it with json")
            return encoded, JSON_TYPE
        case _:
            if request.content_type:
                violations.add("content_type", "is only allowed with raw; omit it without a body")
            return None, None
