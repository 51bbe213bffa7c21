"""Parsing of JSON from Zoom, in which an unreadable value does not make the whole text unreadable."""

import json
import re
from contextlib import suppress
from typing import Any

import orjson

_MAX_DEPTH = 250
"""Maximum nesting depth of a result, below the limits of orjson and of Python's recursion."""

_MAX_DEEP_CHARACTERS = 1024 * 1024
"""Maximum length of a text with deeper nesting. Flattening is slow, and blocks the event loop."""

_LONE = r"u[Dd][89A-Fa-f][0-9A-Fa-f]{2}"
_PAIR = r"u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}"
_SURROGATE = re.compile(rf"((?:[^\\]++|\\{_PAIR}|\\(?!{_LONE}).)++)|\\{_LONE}", re.DOTALL)
"""Pattern of text without lone surrogates, which is in group 1, or of a lone surrogate."""

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def loads(body: bytes) -> Any:
    """Parse JSON.

    Lone surrogates and invalid UTF-8 become U+FFFD. NaN, infinity and numbers beyond the range of a double become floats that are not
    finite. Values nested deeper than 250 levels become strings that contain their JSON.

    Raises:
        ValueError: The body is not JSON, or has deeper levels and more than 1 MiB.
    """
    try:
        return _encodable(orjson.loads(body))
    except orjson.JSONEncodeError:
        text = body.decode()
    except orjson.JSONDecodeError:
        text = _SURROGATE.sub(lambda match: match[1] or r"\ufffd", body.decode("utf-8-sig", "replace"))
        with suppress(RecursionError, orjson.JSONEncodeError):
            return _encodable(json.loads(text, parse_int=_number))
    if len(text) > _MAX_DEEP_CHARACTERS:
        raise ValueError("nested too deeply")
    return json.loads(_flattened(text), parse_int=_number)


def _encodable(value: Any) -> Any:
    """Return a value.

    Raises:
        orjson.JSONEncodeError: The value is nested too deeply.
    """
    orjson.dumps(value)
    return value


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
