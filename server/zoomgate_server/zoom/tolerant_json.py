"""Parsing of JSON from Zoom, in which an unreadable value does not make the whole text unreadable."""

import json
import re
from typing import Any

import orjson

_MAX_DEPTH = 250
"""Maximum nesting depth of a result, below the limits of orjson and of Python's recursion."""

_ESCAPE = re.compile(
    r"\\(?:u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}|(u[Dd][89A-Fa-f][0-9A-Fa-f]{2})|.)",
    re.DOTALL,
)
"""Pattern of an escape sequence. A surrogate that is not part of a pair is in group 1."""

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def loads(body: bytes) -> Any:
    """Parse JSON.

    Lone surrogates and invalid UTF-8 become U+FFFD. NaN, infinity and numbers beyond the range of a double become floats that are not
    finite. Values nested deeper than 250 levels become strings that contain their JSON.

    Raises:
        ValueError: The body is not JSON.
    """
    try:
        value = orjson.loads(body)
        orjson.dumps(value)  # fails if the nesting is too deep
        return value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        text = _ESCAPE.sub(
            lambda match: r"\ufffd" if match[1] else match[0], body.decode("utf-8-sig", "replace")
        )
        return json.loads(_flattened(text), parse_int=_number)


def _number(digits: str) -> int | float:
    """Return an integer; outside 64 bits, the nearest double, as orjson does."""
    if len(digits) <= 20 and -(2**63) <= (integer := int(digits)) < 2**64:
        return integer
    return float(digits)


def _flattened(text: str) -> str:
    """Replace values nested too deeply by strings."""
    parts, depth, end = [], 0, 0
    for token in _STRUCTURE.finditer(text):
        if token[0] in "[{":
            if depth == _MAX_DEPTH:
                parts.append(text[end : token.start()])
                end = token.start()
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if depth == _MAX_DEPTH:
                parts.append(json.dumps(text[end : token.end()]))
                end = token.end()
    if depth <= _MAX_DEPTH:
        parts.append(text[end:])
    return "".join(parts)
