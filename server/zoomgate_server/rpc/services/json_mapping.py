"""Conversion between Zoom's JSON and protobuf messages, based on precomputed conversion plans.

A plan is computed from a message descriptor. It maps each JSON key to a field and a conversion function, and builds a message with one
constructor call. This is about ten times as fast as protobuf's own JSON mapping, which supports neither Zoom's names nor unknown keys.
Unknown keys, and values that do not match their field, are stored in `additional_fields`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from zoomgate_server.rpc.services import json_value, zoom_json
from zoomgate_server.rpc.services.validation import Violations

ADDITIONAL = "additional_fields"
ADDITIONAL_DEPTH = 20
"""Maximum nesting depth in `additional_fields`. Keeps the whole message below protobuf's nesting limit."""

MAX_PARTS = 1000
"""Maximum number of parts of a delimited string."""

_TIMESTAMP = "google.protobuf.Timestamp"
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_INT32, _INT64 = 2**31, 2**63
_EPOCH, _SECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=1)


class _Mismatch(Exception):
    """An error for a JSON value that has the wrong type or is out of range for its field."""


class _PartialMismatch(Exception):
    """An error for a JSON list of which some items are not objects. The arguments are the converted items, and the others."""


_Convert = Callable[[Any], Any]


class _Conversion(NamedTuple):
    """The expected type of a field's JSON value, and the conversions from and to JSON; None if the value is used unchanged."""

    expected: type
    read: _Convert | None = None
    write: _Convert | None = None


class MessageConverter:
    """The conversion plan of a message type, according to the tables of `zoom_json`.

    Args:
        excluded: The fields that are not part of the JSON.
    """

    def __init__(self, descriptor: Descriptor, *, excluded: Collection[str] = ()) -> None:
        self._incoming: dict[str, tuple[str, type, _Convert | None]] = {}
        self._outgoing: dict[str, tuple[str, _Convert | None, MessageConverter | None]] = {}
        self._inlined: dict[str, MessageConverter] = {}
        self._has_additional = ADDITIONAL in descriptor.fields_by_name
        for field in descriptor.fields:
            if field.name == ADDITIONAL or field.name in excluded:
                continue
            key, name = zoom_json.json_name(field), zoom_json.short_name(field)
            nested = None
            if field.message_type is None or field.message_type.full_name == _TIMESTAMP:
                conversion = _conversion(field)
            else:
                nested = MessageConverter(field.message_type)
                conversion = (
                    _Conversion(list, _each(nested.fields))
                    if field.is_repeated
                    else _Conversion(dict, nested.fields)
                )
            self._incoming.setdefault(key, (field.name, conversion.expected, conversion.read))
            if nested is not None and name in zoom_json.INLINED:
                self._inlined[field.name] = nested
            elif name not in zoom_json.OUTPUT_ONLY:
                self._outgoing[field.name] = (key, conversion.write, nested)

    def fields(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor arguments of the message for a JSON object.

        Never fails: values that do not match a field are stored in `additional_fields`. A string of digits matches an integer.
        """
        arguments: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        incoming = self._incoming
        for key, value in data.items():
            try:
                name, expected, convert = incoming[key]
                fitting = value if value.__class__ is expected else _number(value, expected)
                arguments[name] = fitting if convert is None else convert(fitting)
            except (_Mismatch, KeyError):
                extra[key] = value
            except _PartialMismatch as partial:
                arguments[name], extra[key] = partial.args
        if extra and self._has_additional:
            arguments[ADDITIONAL] = _additional(extra)
        return arguments

    def json(
        self, message: Message, violations: Violations, prefix: str = "", data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the set fields of a message as a JSON object. Invalid values of enums and times become null.

        Args:
            prefix: The path of the message in the request, with a dot at the end, for violations.
            data: The object to which the fields are added. It must not contain the key of a set field, except of a message.
        """
        data = {} if data is None else data
        for field, value in message.ListFields():
            if field.name not in self._outgoing:
                continue
            key, convert, nested = self._outgoing[field.name]
            if nested is None:
                data[key] = convert(value) if convert is not None else value
            elif field.is_repeated:
                data[key] = [
                    nested.json(item, violations, f"{prefix}{field.name}[{index}].")
                    for index, item in enumerate(value)
                ]
            else:
                data[key] = nested.json(value, violations, f"{prefix}{field.name}.", data.get(key))
        for name, nested in self._inlined.items():
            nested.json(getattr(message, name), violations, f"{prefix}{name}.", data)
        if self._has_additional:
            self._merge(data, getattr(message, ADDITIONAL), prefix + ADDITIONAL, violations)
        return data

    def clear(self, data: dict[str, Any], path: Sequence[str]) -> None:
        """Set the string or repeated field at a path to its empty value in a JSON object."""
        name, *rest = path
        key, convert, nested = self._outgoing[name]
        if nested is None:
            data[key] = "" if convert is None else convert(())
        elif rest:
            nested.clear(data.setdefault(key, {}), rest)
        else:
            data[key] = []

    def _merge(self, data: dict[str, Any], value: Struct, path: str, violations: Violations) -> None:
        """Add `additional_fields`, which must not contain a field that is set, except for more items of a list."""
        extra: dict[str, Any] = {}
        with violations.collecting():
            extra = json_value.plain_struct(value, field=path, max_depth=ADDITIONAL_DEPTH)
        for key, item in extra.items():
            if key not in data:
                data[key] = item
            elif isinstance(item, list) and isinstance(data[key], list):
                data[key] = [*data[key], *item]
            else:
                violations.add(
                    f"{path}.{key}",
                    "is Zoom's name of a field that is set or cleared as well; send only one of them",
                )


def _conversion(field: FieldDescriptor) -> _Conversion:
    """Return the conversion of a field that is not a nested message."""
    separator = zoom_json.SEPARATORS.get(zoom_json.short_name(field))
    if field.enum_type is not None:
        words = zoom_json.enum_words(field.enum_type)
        numbers = {word: number for number, word in words.items()}
        if separator:
            texts = {str(word): number for word, number in numbers.items()}
            join = _join(separator)
            return _Conversion(
                str,
                lambda value: [texts[part] for part in _split(value)],
                lambda values: join(str(words.get(value)) for value in values),
            )
        return _Conversion(type(next(iter(numbers))), numbers.__getitem__, words.get)
    if separator:
        return _Conversion(str, _split, _join(separator))
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _Conversion(str, _timestamp, _utc)
        case FieldDescriptor.CPPTYPE_STRING:
            return _Conversion(list, _strings, list) if field.is_repeated else _Conversion(str)
        case FieldDescriptor.CPPTYPE_BOOL:
            return _Conversion(bool)
        case FieldDescriptor.CPPTYPE_INT32:
            return _Conversion(int, _integer(_INT32))
        case FieldDescriptor.CPPTYPE_INT64:
            return _Conversion(int, _integer(_INT64))
    raise TypeError(f"{field.full_name} has an unsupported type")


def _additional(extra: Mapping[str, Any]) -> Struct:
    """Return JSON values without a matching field as a Struct. Values that a Struct cannot represent become strings."""
    struct = Struct()
    for key, value in extra.items():
        json_value.fill(struct.fields[key], value, ADDITIONAL_DEPTH, lossless=True)
    return struct


def _number(value: Any, expected: type) -> int:
    """Return the integer that a string of digits represents, if an integer is expected."""
    if expected is not int or value.__class__ is not str or not _INTEGER.fullmatch(value):
        raise _Mismatch
    return int(value)


def _integer(limit: int) -> _Convert:
    def convert(value: int) -> int:
        if not -limit <= value < limit:
            raise _Mismatch
        return value

    return convert


def _each(convert: Callable[[Mapping[str, Any]], dict[str, Any]]) -> _Convert:
    def convert_all(values: list[Any]) -> list[dict[str, Any]]:
        converted = [convert(value) for value in values if value.__class__ is dict]
        if len(converted) < len(values):
            raise _PartialMismatch(converted, [value for value in values if value.__class__ is not dict])
        return converted

    return convert_all


def _strings(values: list[Any]) -> list[str]:
    if not all(value.__class__ is str for value in values):
        raise _Mismatch
    return values


def _split(value: str) -> list[str]:
    parts = value.replace(";", ",").split(",", MAX_PARTS)
    if len(parts) > MAX_PARTS:
        raise _Mismatch
    return [stripped for part in parts if (stripped := part.strip())]


def _join(separator: str) -> _Convert:
    return lambda values: separator.join(dict.fromkeys(values))


def _timestamp(value: str) -> dict[str, int]:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _Mismatch from None
    if moment.tzinfo is not UTC:
        raise _Mismatch
    seconds = (
        moment - _EPOCH
    ) // _SECOND  # not timestamp(), a float that rounds the last microsecond of the year 9999 up
    return (
        {"seconds": seconds, "nanos": moment.microsecond * 1000}
        if moment.microsecond
        else {"seconds": seconds}
    )


def _utc(value: Any) -> str | None:
    try:
        return datetime.fromtimestamp(value.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None
