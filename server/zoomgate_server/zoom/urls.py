"""Validation of the Zoom API paths that callers request, performed on the raw string.

URL libraries normalize their input: they decode it, collapse dot segments, drop control characters, and may change the host. Therefore, a
caller's URL must pass an allowlist here before it reaches a URL library, and an accepted URL is sent unchanged.
"""

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote, urlsplit

from zoomgate_server.errors import CallerNotAllowed, FieldViolation, InvalidPath, InvalidRequest
from zoomgate_server.zoom.request import Target

MAX_PATH = 2048
"""Maximum number of characters of a path."""

MAX_SEGMENTS = 64
MAX_PARAMETERS = 100
MAX_QUERY = 8192
"""Maximum number of characters of the encoded query."""

MAX_NAME = 128
MAX_VALUE = 4096
MAX_MEETING_ID = 10**12
MAX_UUID = 64

ZOOM_API_URL = "https://api.zoom.us/v2"
"""Base URL that callers may always use instead of the configured base URL."""

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+", re.ASCII)
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_UUID = re.compile(r"[A-Za-z0-9+/=_-]+", re.ASCII)
_ZOOM_UUID = re.compile(r"[A-Za-z0-9+/_-]{22}==", re.ASCII)
"""Pattern of Zoom's UUIDs: 16 bytes in Base64."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR = re.compile(r"[&;]")
"""Separators of query parameters; some servers also accept semicolons."""

_SECRET_PARAMETERS = frozenset({"access_token", "api_key"})
_UNENCODED = "-._~"


def parse_target(url: str, query: Sequence[tuple[str, str]] = (), *, api_url: str = ZOOM_API_URL) -> Target:
    """Validate a path or full URL and a query, and return the target to send.

    Args:
        url: `/users/me?x=y` or `https://api.zoom.us/v2/users/me?x=y`.
        query: Additional parameters, not encoded.
        api_url: The configured API URL, accepted in addition to Zoom's own.

    Raises:
        InvalidPath: The URL is invalid. The error lists the violations of the fields `url` and `query[i].…`.
        InvalidRequest: Only parameters in `query` are invalid.
        CallerNotAllowed: Callers may not use this path.
    """
    in_url: list[FieldViolation] = []
    path, inline_query = _split(url, api_url, in_url)
    _check_path(path, in_url)
    _check_inline_query(inline_query, in_url)
    in_query = _query_violations(query)
    encoded = ""
    if not in_query and not in_url:
        encoded = "&".join(part for part in (inline_query, encode_query(query)) if part)
        if len(encoded) > MAX_QUERY:
            in_query.append(
                FieldViolation(
                    "query", f"has {len(encoded)} characters when encoded; send at most {MAX_QUERY}"
                )
            )
        if encoded.count("&") + 1 > MAX_PARAMETERS:
            in_query.append(
                FieldViolation(
                    "query", f"has more than {MAX_PARAMETERS} parameters; send at most {MAX_PARAMETERS}"
                )
            )
    if in_url:
        raise InvalidPath([*in_url, *in_query])
    if in_query:
        raise InvalidRequest(in_query)
    if _is_oauth(path):
        raise CallerNotAllowed("the proxy does not forward requests to Zoom's OAuth endpoints")
    return Target(path, encoded)


def encode_query(query: Sequence[tuple[str, str]]) -> str:
    """Encode parameters; all characters except the unreserved ones are escaped."""
    return "&".join(
        f"{quote(name, safe=_UNENCODED)}={quote(value, safe=_UNENCODED)}" for name, value in query
    )


def decode(path: str) -> str:
    """Decode an accepted path repeatedly until it no longer changes."""
    while (decoded := unquote(path, errors="replace")) != path:
        path = decoded
    return path


def proxy_path_allowed(patterns: Sequence[str], path: str) -> bool:
    """Return whether one of the patterns matches a path.

    The segments of a pattern are literals, `*` for exactly one segment, or, at the end, `**` for any number of segments.
    """
    segments = [decode(segment) for segment in path.split("/")[1:]]
    return any(_pattern_matches(pattern.split("/")[1:], segments) for pattern in patterns)


def _is_oauth(path: str) -> bool:
    """Return whether a server could interpret an accepted path as one below `/oauth`.

    The path is decoded, and leading slashes and `;` parameters are ignored.
    """
    return decode(path).lstrip("/").partition("/")[0].partition(";")[0].lower() == "oauth"


def _pattern_matches(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    if pattern and pattern[-1] == "**":
        fixed = pattern[:-1]
        return len(segments) >= len(fixed) and _segments_match(fixed, segments[: len(fixed)])
    return len(segments) == len(pattern) and _segments_match(pattern, segments)


def _segments_match(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return all(part in ("*", segment) for part, segment in zip(pattern, segments, strict=True))


def meeting_id_problem(meeting_id: int) -> str | None:
    """Return why a meeting ID is invalid, or None if it is valid.

    Zoom documents IDs as int64 with more than ten digits (https://developers.zoom.us/docs/api/meetings/).
    """
    if 1 <= meeting_id <= MAX_MEETING_ID:
        return None
    return f"must be 1 to {MAX_MEETING_ID}; send the meeting's numeric ID, without spaces or dashes"


def uuid_problem(uuid: str) -> str | None:
    """Return why a meeting UUID is invalid, or None if it is valid."""
    if 1 <= len(uuid) <= MAX_UUID and _UUID.fullmatch(uuid):
        return None
    return f"must be 1 to {MAX_UUID} characters of the Base64 alphabet; send the UUID as returned by Zoom, not encoded"


def encode_uuid(uuid: str) -> str:
    """Encode a meeting UUID as a path segment. Zoom requires double encoding if the UUID starts with `/` or contains `//`."""
    encoded = quote(uuid, safe="")
    return quote(encoded, safe="") if uuid.startswith("/") or "//" in uuid else encoded


def _split(url: str, api_url: str, violations: list[FieldViolation]) -> tuple[str, str]:
    """Remove the origin and base path of a full URL, and split off the query."""
    for base in (ZOOM_API_URL, api_url):
        if url.startswith(base + "/"):
            url = url[len(base) :]
            break
    if "#" in url:
        _add(violations, "must not contain a fragment; omit it")
        url = url.partition("#")[0]
    path, _, query = url.partition("?")
    return path, query


def _add(violations: list[FieldViolation], description: str) -> None:
    violations.append(FieldViolation("url", description))


def _check_path(path: str, violations: list[FieldViolation]) -> None:
    """Append the first violation of a path, if any, to `violations`."""
    if not path:
        _add(violations, "is required; send a path such as /users/me")
    elif len(path) > MAX_PATH:
        _add(violations, f"has a path of {len(path)} characters; send at most {MAX_PATH}")
    elif not path.startswith("/"):
        _add(
            violations,
            f"must be a path that starts with /, or a URL that starts with {ZOOM_API_URL}/; send a path such as /users/me",
        )
    elif not _PATH.fullmatch(path):
        _add(
            violations,
            "contains a character that is not allowed in a path, or a % without two hex digits; escape it, and use ASCII only",
        )
    else:
        _check_segments(path, violations)


def _check_segments(path: str, violations: list[FieldViolation]) -> None:
    segments = path.split("/")[1:]
    if len(segments) > MAX_SEGMENTS:
        _add(violations, f"has {len(segments)} segments; send at most {MAX_SEGMENTS}")
        return
    for position, segment in enumerate(segments):
        if not segment and position < len(segments) - 1:
            _add(violations, "contains an empty segment (//); send single slashes")
        elif not segment and len(segments) == 1:
            _add(violations, "is empty; send a path such as /users/me")
        elif (problem := _segment_problem(segment)) is not None:
            _add(violations, problem)
        else:
            continue
        return


def _segment_problem(segment: str) -> str | None:
    """Return why a segment is invalid, at any level of repeated decoding, or None if it is valid."""
    raw = segment
    encoded_uuid = _is_encoded_uuid(segment)
    while True:
        if raw.partition(";")[0] in (".", ".."):
            return "contains a dot segment (. or ..); send the resolved path"
        if _CONTROL.search(raw):
            return "contains an escaped control character; omit it"
        if raw is not segment and not encoded_uuid and ("/" in raw or "\\" in raw):
            return "contains an escaped slash or backslash; omit it, except in a meeting UUID, which must be encoded twice"
        if not raw.isascii():
            return "contains escaped non-ASCII characters, which Zoom's paths never contain; omit them"
        decoded = unquote(raw, errors="replace")
        if decoded == raw:
            break
        raw = decoded
    if "%25" in segment and not encoded_uuid:
        return "is escaped twice; escape it once, except for a meeting UUID with a slash"
    return None


def _is_encoded_uuid(segment: str) -> bool:
    """Return whether a segment is a meeting UUID with slashes that was encoded exactly twice.

    Zoom requires double encoding if the UUID starts with `/` or contains `//`. A single slash within a UUID of Zoom's usual length may be
    encoded twice too, since a slash that is encoded once could not be distinguished from a path separator.
    """
    uuid = unquote(unquote(segment))
    return (
        uuid_problem(uuid) is None
        and (uuid.startswith("/") or "//" in uuid or ("/" in uuid and _ZOOM_UUID.fullmatch(uuid) is not None))
        and quote(quote(uuid, safe=""), safe="").lower() == segment.lower()
    )


def _check_inline_query(query: str, violations: list[FieldViolation]) -> None:
    if not query:
        return
    if len(query) > MAX_QUERY or not _QUERY.fullmatch(query):
        _add(
            violations,
            f"contains a query with more than {MAX_QUERY} characters, an unescaped reserved character, or a % without two hex digits;"
            " use the query field, which is encoded automatically",
        )
        return
    for part in _SEPARATOR.split(query):
        name, _, value = part.partition("=")
        decoded = decode(name.replace("+", " "))
        if decoded.strip().lower() in _SECRET_PARAMETERS:
            _add(
                violations,
                f"must not contain the parameter {decoded.strip().lower()}; omit it, since the user's token is sent automatically",
            )
        elif _CONTROL.search(decoded) or _CONTROL.search(decode(value)):
            _add(violations, "contains an escaped control character in the query; omit it")


def _query_violations(query: Sequence[tuple[str, str]]) -> list[FieldViolation]:
    violations: list[FieldViolation] = []
    if len(query) > MAX_PARAMETERS:
        violations.append(
            FieldViolation("query", f"has {len(query)} parameters; send at most {MAX_PARAMETERS}")
        )
        return violations
    for index, (name, value) in enumerate(query):
        field = f"query[{index}]"
        if not 1 <= len(name) <= MAX_NAME or _CONTROL.search(name):
            violations.append(
                FieldViolation(
                    f"{field}.name",
                    f"is empty, too long, or contains control characters; send 1 to {MAX_NAME} characters, without control characters",
                )
            )
        elif name.strip().lower() in _SECRET_PARAMETERS:
            violations.append(
                FieldViolation(
                    f"{field}.name",
                    "must not be access_token or api_key; omit it, since the user's token is sent automatically",
                )
            )
        if len(value) > MAX_VALUE or _CONTROL.search(value):
            violations.append(
                FieldViolation(
                    f"{field}.value",
                    f"is too long or contains control characters; send at most {MAX_VALUE} characters, without control characters",
                )
            )
    return violations


def origin_of(url: str) -> str:
    """Return the scheme, host, and port of a configured URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
