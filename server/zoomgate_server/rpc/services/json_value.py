"""JSON and protobuf's `Value`, converted by hand: faster than the library's way, and bounded.

A `Value` keeps numbers as doubles, so integers above 2^53 cannot pass exactly, and receivers cannot parse messages that nest deeper than
100 levels, which is about 33 levels of a `Value`.
"""

import math
from typing import Any

import orjson
from google.protobuf import struct_pb2

from zoomgate_server.errors import FieldViolation, InvalidRequest

MAX_EXACT = 2**53
MAX_DEPTH = 30
"""Levels of nesting that every receiver can parse."""

MAX_PARSED_BYTES = 1024 * 1024
"""Larger bodies are given as bytes alone."""

TooDeep = RecursionError


def value_of(data: Any, depth: int = MAX_DEPTH) -> struct_pb2.Value:
    """Turn parsed JSON into a `Value`. Integers above 2^53 become the nearest double.

    Raises:
        RecursionError: It nests deeper than `depth`.
    """
    if data is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(data, bool):
        return struct_pb2.Value(bool_value=data)
    if isinstance(data, int | float):
        return struct_pb2.Value(number_value=data)
    if isinstance(data, str):
        return struct_pb2.Value(string_value=data)
    if depth <= 0:
        raise TooDeep
    if isinstance(data, dict):
        return struct_pb2.Value(struct_value=struct_of(data, depth))
    return struct_pb2.Value(
        list_value=struct_pb2.ListValue(values=[value_of(item, depth - 1) for item in data])
    )


def struct_of(data: dict[str, Any], depth: int = MAX_DEPTH) -> struct_pb2.Struct:
    """Turn a JSON object into a `Struct`, as `value_of` does."""
    return struct_pb2.Struct(fields={key: value_of(item, depth - 1) for key, item in data.items()})


def parse(body: bytes) -> struct_pb2.Value | None:
    """Give a body as a `Value` if it is JSON that is not too large and not too deep, else None."""
    if not body or len(body) > MAX_PARSED_BYTES:
        return None
    try:
        return value_of(orjson.loads(body))
    except (orjson.JSONDecodeError, RecursionError):
        return None


def plain(value: struct_pb2.Value, *, field: str = "", max_depth: int = MAX_DEPTH) -> Any:
    """Turn a `Value` into what JSON is made from. Whole numbers become integers.

    Args:
        value: The value.
        field: Path of the value, for violations.
        max_depth: Levels of nesting.

    Raises:
        InvalidRequest: A number is not finite or above 2^53, a value is unset, or it nests too deep.
    """
    return _plain(value, field, max_depth, max_depth)


def plain_struct(struct: struct_pb2.Struct, *, field: str = "", max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Turn a `Struct` into a JSON object, as `plain` does."""
    return _plain_struct(struct, field, max_depth, max_depth)


def _plain(value: struct_pb2.Value, field: str, left: int, most: int) -> Any:
    """Turn a `Value` into what JSON is made from, of which `left` of `most` levels of nesting are left."""
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
            return _plain_struct(value.struct_value, field, left, most)
        case "list_value":
            _check_depth(field, left, most)
            return [
                _plain(item, f"{field}[{index}]", left - 1, most)
                for index, item in enumerate(value.list_value.values)
            ]
        case _:
            raise _violation(
                field, "has a value of no kind: send null, a boolean, a number, a string, an object or a list"
            )


def _plain_struct(struct: struct_pb2.Struct, field: str, left: int, most: int) -> dict[str, Any]:
    _check_depth(field, left, most)
    return {key: _plain(item, f"{field}.{key[:64]}", left - 1, most) for key, item in struct.fields.items()}


def _number(number: float, field: str) -> int | float:
    if not math.isfinite(number):
        raise _violation(field, "has a number that is not finite: JSON has none; send a string or null")
    if number.is_integer():
        if abs(number) > MAX_EXACT:
            raise _violation(
                field,
                "has an integer above 2^53, which cannot pass exactly: send it as a string, or the body in raw",
            )
        return int(number)
    return number


def _check_depth(field: str, left: int, most: int) -> None:
    if left <= 0:
        raise _violation(field, f"nests too deep: send at most {most} levels")


def _violation(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field, description)])
