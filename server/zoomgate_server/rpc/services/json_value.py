"""Conversion between JSON and protobuf's `Value`, faster than protobuf's own conversion and with a limited depth.

A `Value` stores numbers as finite doubles, which cannot represent all integers from 2^53 on. Protobuf parsers reject messages nested
deeper than 100 levels, which corresponds to about 33 levels of a `Value`.
"""

import json
import math
from typing import Any

import orjson
from google.protobuf import struct_pb2

from zoomgate_server.errors import InvalidRequest
from zoomgate_server.zoom import tolerant_json

MAX_EXACT = 2**53 - 1
"""The largest integer whose double represents no other integer."""

MAX_DEPTH = 30
"""Maximum nesting depth of a `Value`, chosen so that every protobuf parser accepts the `Value`."""

MAX_PARSED_BYTES = 1024 * 1024
"""Maximum size in bytes of a body to parse. Larger bodies are returned as bytes only."""


def fill(target: struct_pb2.Value, data: Any, depth: int = MAX_DEPTH, *, lossless: bool = False) -> None:
    """Store parsed JSON in a `Value`. Numbers that are not finite become strings, such as `Infinity`, as in protobuf's JSON.

    Args:
        lossless: Whether to store integers outside ±(2^53 - 1) as strings of digits, and values nested too deeply as JSON text. Otherwise,
            such integers become the nearest double.

    Raises:
        RecursionError: The JSON is nested deeper than `depth`. Not raised if `lossless`.
    """
    kind = data.__class__
    if kind is str:
        target.string_value = data
    elif kind is bool:
        target.bool_value = data
    elif kind is int and lossless and not -MAX_EXACT <= data <= MAX_EXACT:
        target.string_value = str(data)
    elif kind is float and not math.isfinite(data):
        target.string_value = json.dumps(data)
    elif kind is int or kind is float:
        target.number_value = data
    elif data is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif depth <= 0:
        if not lossless:
            raise RecursionError
        target.string_value = orjson.dumps(data).decode()
    elif kind is dict:
        target.struct_value.SetInParent()
        for key, item in data.items():
            fill(target.struct_value.fields[key], item, depth - 1, lossless=lossless)
    else:
        target.list_value.SetInParent()
        for item in data:
            fill(target.list_value.values.add(), item, depth - 1, lossless=lossless)


def parse(body: bytes) -> struct_pb2.Value | None:
    """Return a body as a `Value`, or None if the body is not JSON, too large or nested too deeply."""
    if not body or len(body) > MAX_PARSED_BYTES:
        return None
    value = struct_pb2.Value()
    try:
        fill(value, tolerant_json.loads(body))
    except (ValueError, RecursionError):
        return None
    return value


def plain(value: struct_pb2.Value, field: str = "", *, max_depth: int = MAX_DEPTH, depth: int = 0) -> Any:
    """Return a `Value` as a Python object that can be encoded as JSON. Whole numbers become integers.

    Raises:
        InvalidRequest: A number is not finite, an integer is outside ±(2^53 - 1), a value is unset, or the value is nested too deeply.
    """
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value, field)
        case "struct_value":
            return plain_struct(value.struct_value, field, max_depth=max_depth, depth=depth)
        case "list_value":
            _check_depth(field, depth, max_depth)
            return [
                plain(item, f"{field}[{index}]", max_depth=max_depth, depth=depth + 1)
                for index, item in enumerate(value.list_value.values)
            ]
        case _:
            raise InvalidRequest.of(
                field,
                "contains an unset value; send null, a boolean, a number, a string, an object or a list",
            )


def plain_struct(
    struct: struct_pb2.Struct, field: str = "", *, max_depth: int = MAX_DEPTH, depth: int = 0
) -> dict[str, Any]:
    """Return a `Struct` as a dictionary; see `plain`."""
    _check_depth(field, depth, max_depth)
    return {
        key: plain(item, f"{field}.{key[:64]}", max_depth=max_depth, depth=depth + 1)
        for key, item in struct.fields.items()
    }


def _number(number: float, field: str) -> int | float:
    if not math.isfinite(number):
        raise InvalidRequest.of(
            field, "contains a number that is not finite, which JSON does not support; send a string or null"
        )
    if number.is_integer():
        if abs(number) > MAX_EXACT:
            raise InvalidRequest.of(
                field,
                "contains an integer outside ±(2^53 - 1), which would lose precision; "
                "send it as a string, or use the field raw of a proxy request",
            )
        return int(number)
    return number


def _check_depth(field: str, depth: int, max_depth: int) -> None:
    if depth >= max_depth:
        raise InvalidRequest.of(field, f"is nested too deeply; send at most {max_depth} levels")
