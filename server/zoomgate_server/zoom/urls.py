"""Validation of the Zoom API paths that callers request, performed on the raw string.

URL libraries normalize their input: they decode it, collapse dot segments, drop control characters, and may change the host. Therefore, a
caller's URL must pass an allowlist here before it reaches a URL library. Before all checks, meeting UUIDs are rewritten in the encoding
that Zoom requires; an accepted URL is sent unchanged.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from urllib.parse import quote, unquote

from zoomgate_server.errors import CallerNotAllowed, FieldViolation, InvalidPath, InvalidRequest
from zoomgate_server.zoom.request import Target

MAX_PATH = 2048
MAX_SEGMENTS = 64
MAX_PARAMETERS = 100
MAX_QUERY = 8192
"""Maximum number of characters of the encoded query."""

MAX_NAME = 128
MAX_VALUE = 4096

ZOOM_API_URL = "https://api.zoom.us/v2"
"""Base URL that callers may always use instead of the configured base URL."""

_PLAIN_PATH = re.compile(
    rf"(?!/(?:v2|oauth)(?:/|$))(?:/[A-Za-z0-9_@-][A-Za-z0-9._@-]*){{1,{MAX_SEGMENTS}}}",
    re.ASCII | re.IGNORECASE,
)
"""Pattern of the usual paths, for which all other checks are unnecessary: no encoding, no UUID, no dot segment, no empty segment."""

_ORIGIN = re.compile(r"\A(https?://[a-z0-9.-]+)(?::(?=[/?]|\Z))?", re.ASCII | re.IGNORECASE)
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+", re.ASCII)
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_UUID = re.compile(r"[A-Za-z0-9+/_-]{1,62}={1,2}", re.ASCII)
"""Pattern of meeting UUIDs: padded Base64. No other segment of Zoom's paths ends with padding."""

_RAW_UUID = re.compile(rf"(?<=(?:meetings|webinars)/)(?!\d{{9,}}/){_UUID.pattern}(?=/|$)", re.ASCII)
"""Pattern of unencoded UUIDs, which may contain slashes. The digits before a slash are a meeting ID, and not the start of a UUID."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR = re.compile(r"[&;]")
"""Separators of query parameters; some servers also accept semicolons."""

_SECRET_PARAMETERS = frozenset({"access_token", "api_key"})
_UNENCODED = "-._~"
_NO_OAUTH = "The proxy does not forward requests to Zoom's OAuth endpoints"


def with_normal_origin(url: str) -> str:
    """Return a URL with its scheme and host in lower case and without an empty port, which makes no difference in URLs."""
    return _ORIGIN.sub(lambda found: found[1].lower(), url)


def parse_target(
    url: str, query: Sequence[tuple[str, str]] = (), *, base_urls: Sequence[str] = (ZOOM_API_URL,)
) -> Target:
    """Validate a path or full URL and a query, and return the target to send.

    Args:
        url: `/users/me?x=y`, `/v2/users/me?x=y` or `https://api.zoom.us/v2/users/me?x=y`.
        query: Additional parameters, not encoded.
        base_urls: The base URLs with which a full URL may start. They are equivalent, since all requests are sent to the configured one.

    Raises:
        InvalidPath: The URL is invalid. The error lists the violations of the fields `url` and `query[i].…`.
        InvalidRequest: Only parameters in `query` are invalid.
        CallerNotAllowed: Callers may not use this path.
    """
    if not query and len(url) <= MAX_PATH and _PLAIN_PATH.fullmatch(url):
        return Target(url)
    path, fragment_problems, inline_query = _split(url, base_urls)
    if len(path) <= MAX_PATH:
        path = _with_encoded_uuids(path)
    problems = [*fragment_problems, *_path_problems(path), *_inline_query_problems(inline_query)]
    in_url = [FieldViolation("url", problem) for problem in problems]
    in_query = _query_violations(query)
    if in_url:
        raise InvalidPath([*in_url, *in_query])
    if in_query:
        raise InvalidRequest(in_query)
    encoded = "&".join(part for part in (inline_query, encode_query(query)) if part)
    if len(encoded) > MAX_QUERY:
        problems.append(f"has {len(encoded)} characters when encoded; send at most {MAX_QUERY}")
    if encoded.count("&") + 1 > MAX_PARAMETERS:
        problems.append(f"has more than {MAX_PARAMETERS} parameters; send at most {MAX_PARAMETERS}")
    if problems:
        raise InvalidRequest([FieldViolation("query", problem) for problem in problems])
    if _is_oauth(path):
        raise CallerNotAllowed(_NO_OAUTH, internal="the path is one of Zoom's OAuth endpoints")
    return Target(path, encoded)


def parse_file_target(path: str, query: str) -> Target:
    """Validate the path and query of a file outside the API, and return the path that permissions apply to, and the query.

    Unlike a request to the API, the query may contain a download token, and everything is sent unchanged.

    Raises:
        InvalidPath: The path or the query is invalid; the error does not contain them.
        CallerNotAllowed: Callers may not use this path.
    """
    problems = [*_path_problems(path), *_inline_query_problems(query, secrets=_SECRET_PARAMETERS)]
    if problems:
        raise InvalidPath([FieldViolation("url", problem) for problem in problems])
    path = path.removeprefix("/v2") if path.startswith("/v2/") else path
    if _is_oauth(path):
        raise CallerNotAllowed(_NO_OAUTH, internal="the path is one of Zoom's OAuth endpoints")
    return Target(path, query)


def has_download_token(query: str) -> bool:
    """Return whether a query contains a token, with which Zoom accepts a download without the user's access token."""
    names = (part.partition("=")[0] for part in _SEPARATOR.split(query))
    return any(decode(name).strip().lower() in _SECRET_PARAMETERS for name in names)


def encode_query(query: Sequence[tuple[str, str]]) -> str:
    """Encode parameters; all characters except the unreserved ones are escaped."""
    return "&".join(
        f"{quote(name, safe=_UNENCODED)}={quote(value, safe=_UNENCODED)}" for name, value in query
    )


def encode_id(value: str) -> str:
    """Encode an ID as a segment of a path: twice if it starts with a slash or contains two consecutive slashes, otherwise once.

    See https://developers.zoom.us/docs/api/using-zoom-apis/#meeting-id-and-uuid.
    """
    once = quote(value, safe="")
    return quote(once, safe="") if value.startswith("/") or "//" in value else once


def decode(path: str) -> str:
    """Decode an accepted path repeatedly until it no longer changes."""
    while (decoded := unquote(path, errors="replace")) != path:
        path = decoded
    return path


def proxy_path_allowed(patterns: Sequence[str], path: str) -> bool:
    """Return whether one of the patterns matches a path.

    The segments of a pattern are literals, `*` for exactly one segment that is not empty, or, at the end, `**` for any number of segments.
    """
    segments = path.split("/")[1:]
    if "%" in path:
        segments = [decode(segment) for segment in segments]
    return any(_pattern_matches(pattern.split("/")[1:], segments) for pattern in patterns)


def _is_oauth(path: str) -> bool:
    """Return whether a server could interpret an accepted path as one below `/oauth`.

    The path is decoded, and leading slashes and `;` parameters are ignored.
    """
    return decode(path).lstrip("/").partition("/")[0].partition(";")[0].lower() == "oauth"


def _pattern_matches(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    if pattern[-1:] == ["**"]:
        pattern = pattern[:-1]
        segments = segments[: len(pattern)]
    return len(segments) == len(pattern) and all(
        _is_named(segment) if part == "*" else part == segment
        for part, segment in zip(pattern, segments, strict=True)
    )


def _is_named(segment: str) -> bool:
    """Return whether a decoded segment is not empty. A server may ignore a trailing slash and `;` parameters, and return the collection."""
    return segment.partition(";")[0].strip() != ""


def _split(url: str, base_urls: Sequence[str]) -> tuple[str, list[str], str]:
    """Remove the base URL and the API's version, and split off the query. A fragment is a problem."""
    url = with_normal_origin(url)
    base = next((base for base in base_urls if url.startswith(base + "/")), "")
    url, hash_sign, _ = url.removeprefix(base).partition("#")
    path, _, query = url.partition("?")
    path = path.removeprefix("/v2") if f"{path}/".startswith("/v2/") else path
    return path, ["must not contain a fragment; omit it"] if hash_sign else [], query


def _with_encoded_uuids(path: str) -> str:
    """Encode the meeting UUIDs in a path, which may be encoded once, twice or not at all, as Zoom requires."""
    path = _RAW_UUID.sub(lambda found: encode_id(found[0]), path)
    return "/".join(
        encode_id(_uuid(segment)) if _is_uuid(segment) else segment for segment in path.split("/")
    )


def _uuid(segment: str) -> str:
    return unquote(unquote(segment))


def _is_uuid(segment: str) -> bool:
    return _UUID.fullmatch(_uuid(segment)) is not None


def _path_problems(path: str) -> Iterator[str]:
    """Yield the first reason why a path is invalid, if any."""
    segments = path.split("/")[1:]
    if not path:
        yield "is required; send a path such as /users/me"
    elif len(path) > MAX_PATH:
        yield f"has a path of {len(path)} characters; send at most {MAX_PATH}"
    elif not path.startswith("/"):
        yield f"must be a path that starts with /, or a URL that starts with {ZOOM_API_URL}/; send a path such as /users/me"
    elif not _PATH.fullmatch(path):
        yield "contains a character that is not allowed in a path, or a % without two hex digits; escape it, and use ASCII only"
    elif len(segments) > MAX_SEGMENTS:
        yield f"has {len(segments)} segments; send at most {MAX_SEGMENTS}"
    elif segments == [""]:
        yield "is empty; send a path such as /users/me"
    elif "" in segments[:-1]:
        yield "contains an empty segment (//); send single slashes"
    else:
        yield from islice(filter(None, map(_segment_problem, segments)), 1)


def _segment_problem(segment: str) -> str | None:
    """Return why a segment is invalid, before or after decoding, or None if it is valid."""
    if _is_uuid(segment):
        return None  # encoded by `_with_encoded_uuids`
    if "%25" in segment:
        return "is escaped twice; escape it once"
    for text in (segment, unquote(segment)):
        if text.partition(";")[0] in (".", ".."):
            return "contains a dot segment (. or ..); send the resolved path"
        if _CONTROL.search(text):
            return "contains an escaped control character; omit it"
        if "/" in text or "\\" in text:
            return "contains an escaped slash or backslash; omit it, except in a meeting UUID"
        if not text.isascii():
            return "contains escaped non-ASCII characters, which Zoom's paths never contain; omit them"
    return None


def _inline_query_problems(query: str, secrets: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the problems of an encoded query. `secrets` are the secret parameters that are allowed."""
    if len(query) > MAX_QUERY or not _QUERY.fullmatch(query):
        yield (
            f"contains a query with more than {MAX_QUERY} characters, an unescaped reserved or non-ASCII character, or a % without two"
            " hex digits; use the query field, which is encoded automatically"
        )
        return
    for part in _SEPARATOR.split(query):
        name, _, value = part.partition("=")
        decoded = decode(name.replace("+", " "))
        parameter = decoded.strip().lower()
        if parameter in _SECRET_PARAMETERS - secrets:
            yield f"must not contain the parameter {parameter}; omit it, since the user's token is sent automatically"
        elif _CONTROL.search(decoded) or _CONTROL.search(decode(value)):
            yield "contains an escaped control character in the query; omit it"


def _query_violations(query: Sequence[tuple[str, str]]) -> list[FieldViolation]:
    if len(query) > MAX_PARAMETERS:
        return [FieldViolation("query", f"has {len(query)} parameters; send at most {MAX_PARAMETERS}")]
    problems = {
        f"query[{index}].{field}": problem
        for index, (name, value) in enumerate(query)
        for field, problem in (("name", _name_problem(name)), ("value", _value_problem(value)))
    }
    return [FieldViolation(field, problem) for field, problem in problems.items() if problem is not None]


def _name_problem(name: str) -> str | None:
    if not 1 <= len(name) <= MAX_NAME or _CONTROL.search(name):
        return f"is empty, too long, or contains control characters; send 1 to {MAX_NAME} characters, without control characters"
    if name.strip().lower() in _SECRET_PARAMETERS:
        return "must not be access_token or api_key; omit it, since the user's token is sent automatically"
    return None


def _value_problem(value: str) -> str | None:
    if len(value) > MAX_VALUE or _CONTROL.search(value):
        return f"is too long or contains control characters; send at most {MAX_VALUE} characters, without control characters"
    return None
