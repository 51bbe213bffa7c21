"""Parsing of requests in protobuf's JSON format (https://protobuf.dev/programming-guides/json/), with errors that name the field."""

import json
import re
from difflib import get_close_matches
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zoomgate_server.errors import InvalidRequest, MalformedRequest, ZoomgateError

_M = TypeVar("_M", bound=Message)
_MAX_NAME = 64
_EMPTY_ARRAY = re.compile(r"\[\s*\]")
_Field = Any  # the classes of field descriptors differ between the implementations of protobuf


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
    message = kind()
    try:
        json_format.Parse(text, message)
    except (ValueError, RecursionError, json_format.Error):
        raise _problem(text, kind) from None
    # json_format accepts an empty array as an empty message
    if _EMPTY_ARRAY.search(text) and (problem := _find_problem(text, kind)):
        raise problem
    return message


def _problem(text: str, kind: type[Message]) -> ZoomgateError:
    """Return the error for a document that is not a message of a type."""
    return _find_problem(text, kind) or _malformed(
        # each field alone is valid
        kind,
        "A field is set twice, or two fields exclude each other; send only one of them",
    )


def _find_problem(text: str, kind: type[Message]) -> ZoomgateError | None:
    """Return the error for the first invalid part of a document, or None if each field alone is valid."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as invalid:
        return _malformed(kind, f"The request is not valid JSON ({invalid.msg}); send a JSON object")
    except (ValueError, RecursionError):
        return _malformed(
            kind, "The request is nested too deeply or contains a number with too many digits; send less"
        )
    if not isinstance(document, dict):
        return _malformed(kind, "The request is not a JSON object; send one")
    invalid_field = find_invalid_field(document, kind)
    return None if invalid_field is None else InvalidRequest.of(*invalid_field)


def _malformed(kind: type[Message], text: str) -> MalformedRequest:
    return MalformedRequest(text, metadata={"type": kind.DESCRIPTOR.full_name})


def find_invalid_field(
    document: dict[str, Any], kind: type[Message], path: str = ""
) -> tuple[str, str] | None:
    """Return the path of the first invalid field and what is wrong with it, without the value; or None if each field alone is valid."""
    fields = {name: field for field in kind.DESCRIPTOR.fields for name in (field.name, field.json_name)}
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            # a name may be long, or contain surrogates, which errors cannot contain
            shown = name[:_MAX_NAME].encode(errors="replace").decode()
            return f"{path}{shown}", f"is not a field of {kind.DESCRIPTOR.name}; {_similar(shown, fields)}"
        if (found := _find_in(field, value, f"{path}{name}")) is not None:
            return found
        try:
            json_format.ParseDict({name: value}, kind())
        except (ValueError, RecursionError, json_format.Error):
            return f"{path}{name}", f"has an invalid value; send {_expected(field)}"
    return None


def _find_in(field: _Field, value: Any, path: str) -> tuple[str, str] | None:
    """Return the first invalid field within the messages of a field, if they have a JSON form of their own fields."""
    if field.message_type is None or field.message_type.full_name.startswith("google.protobuf."):
        return None
    kind: type[Message] = GetMessageClass(field.message_type)
    if not field.is_repeated:
        items = [(path, value)]
    else:
        items = (
            [(f"{path}[{index}]", item) for index, item in enumerate(value)]
            if isinstance(value, list)
            else []
        )
    for item_path, item in items:
        if item == []:
            return item_path, "has an invalid value; send an object"
        if isinstance(item, dict) and (found := find_invalid_field(item, kind, f"{item_path}.")) is not None:
            return found
    return None


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
