"""Parsing of requests in protobuf's JSON format (https://protobuf.dev/programming-guides/json/), with errors that name the field."""

import json
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zoomgate_server.errors import InvalidRequest, MalformedRequest

_M = TypeVar("_M", bound=Message)
_MAX_NAME = 64
_INVALID = (ValueError, OverflowError, RecursionError, json_format.Error)
_Field = Any  # the classes of descriptors differ between the implementations of protobuf
_Descriptor = Any


def parse(kind: type[_M], body: bytes) -> _M:
    """Return the message in a JSON document.

    Raises:
        MalformedRequest: The document is not a JSON object.
        InvalidRequest: A field is unknown or has an invalid value. The error never contains the value, which may be a secret.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _malformed(kind, "The request is not UTF-8; send a JSON object in UTF-8") from None
    document = _document(text, kind)
    problem = find_invalid_field(document, kind, by_name=True)
    message = kind()
    if problem is None:
        try:
            json_format.ParseDict(document, message)
        except _INVALID:
            problem = find_invalid_field(document, kind)
            if problem is None:  # each field alone is valid
                text = "Two fields exclude each other; send only one of them"
                raise _malformed(kind, text) from None
    if problem is not None:
        raise InvalidRequest.of(*problem)
    return message


def _document(text: str, kind: type[Message]) -> dict[str, Any]:
    """Return the JSON object in a text."""
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as invalid:
        raise _malformed(kind, f"The request is not valid JSON ({invalid.msg}); send a JSON object") from None
    except (ValueError, RecursionError):
        raise _malformed(
            kind, "The request is nested too deeply or contains a number with too many digits; send less"
        ) from None
    if not isinstance(document, dict):
        raise _malformed(kind, "The request is not a JSON object; send one")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, whose keys must differ."""
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest.of(_shown(duplicate), "is set twice; send it once")
    return document


def _malformed(kind: type[Message], text: str) -> MalformedRequest:
    return MalformedRequest(text, metadata={"type": kind.DESCRIPTOR.full_name})


def find_invalid_field(
    document: dict[str, Any], kind: type[Message], path: str = "", *, by_name: bool = False
) -> tuple[str, str] | None:
    """Return the path of the first invalid field and what is wrong with it, without the value; or None if each field alone is valid.

    Args:
        by_name: Whether to report only what `json_format` accepts or fails to report: unknown fields, fields under both of their names,
            numbers with fractions and Booleans for enums, and empty arrays for messages.
    """
    fields, seen = _fields(kind.DESCRIPTOR), set[int]()
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            return _unknown(name, kind.DESCRIPTOR, path)
        field_path = f"{path}{name}"
        if field.number in seen:
            return field_path, f"is set twice; send it once, as {field.json_name}"
        seen.add(field.number)
        items = value if field.is_repeated and isinstance(value, list) else (value,)
        if field.enum_type is not None and any(isinstance(item, bool | float) for item in items):
            return field_path, _invalid_value(field)
        if field.message_type is not None and not field.message_type.full_name.startswith("google.protobuf."):
            nested: type[Message] = GetMessageClass(field.message_type)
            for index, item in enumerate(items):
                item_path = f"{field_path}[{index}]" if field.is_repeated else field_path
                if item == []:
                    return item_path, "has an invalid value; send an object"
                if isinstance(item, dict) and (
                    found := find_invalid_field(item, nested, f"{item_path}.", by_name=by_name)
                ):
                    return found
        if not by_name:
            try:
                json_format.ParseDict({name: value}, kind())
            except _INVALID:
                return field_path, _invalid_value(field)
    return None


@cache
def _fields(message: _Descriptor) -> dict[str, _Field]:
    """Return the fields of a message type by both of their names."""
    return {name: field for field in message.fields for name in (field.name, field.json_name)}


def _invalid_value(field: _Field) -> str:
    return f"has an invalid value; send {_expected(field)}"


def _unknown(name: str, message: _Descriptor, path: str) -> tuple[str, str]:
    shown = _shown(name)
    return f"{path}{shown}", f"is not a field of {message.name}; {_similar(shown, _fields(message))}"


def _shown(name: str) -> str:
    """Return a name for an error. It may be long, or contain surrogates, which errors cannot contain."""
    return name[:_MAX_NAME].encode(errors="replace").decode()


def _similar(name: str, fields: dict[str, _Field]) -> str:
    close = get_close_matches(name, fields, n=1)
    return (
        f"did you mean {close[0]}?"
        if close
        else f"its fields are {', '.join(dict.fromkeys(f.json_name for f in fields.values()))}"
    )


def _expected(field: _Field) -> str:
    """Describe the JSON form of a field's value."""
    if field.enum_type is not None:
        text = f"one of {', '.join(value.name for value in field.enum_type.values if value.number)}"
    elif field.message_type is not None:
        text = _WELL_KNOWN.get(field.message_type.full_name, "an object")
    else:
        text = _SCALARS[field.cpp_type]
    return f"an array, each entry {text}" if field.is_repeated else text


_WELL_KNOWN = {
    "google.protobuf.Timestamp": "a time such as 2030-01-07T09:00:00Z",
    "google.protobuf.Duration": "a duration such as 1.5s",
    "google.protobuf.FieldMask": "field paths separated by commas, such as topic,settings.waitingRoom",
    "google.protobuf.Value": "a JSON value",
}
_SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_INT32: "an integer of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "an integer of 64 bits, as a string or number",
    FieldDescriptor.CPPTYPE_STRING: "a string of valid Unicode, or Base64 for bytes",
}
