"""Request messages from keyword arguments, with errors that name the invalid field."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_M = TypeVar("_M", bound=Message)
_Field = Any  # the classes of field descriptors differ between the implementations of protobuf

_EXPECTED = {
    FieldDescriptor.CPPTYPE_BOOL: "a bool",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_STRING: "a str",
}
_INT32 = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
_EXPECTED_MESSAGES = {
    "google.protobuf.Duration": "a timedelta",
    "google.protobuf.FieldMask": 'a dict such as {"paths": ["topic"]}',
    "google.protobuf.Struct": "a dict",
    "google.protobuf.Timestamp": "a datetime",
}


def build(kind: type[_M], fields: Mapping[str, Any]) -> _M:
    """Return a message.

    Raises:
        TypeError, ValueError: A field is unknown, or its value has the wrong type or is out of range. The error does not contain the value.
    """
    _check_lists(kind.DESCRIPTOR, fields)
    try:
        return kind(**fields)
    except UnicodeError:  # names the character, and has no constructor for a message
        raise
    except (TypeError, ValueError) as error:
        problem = _find_problem(kind, fields) or str(error)
        raise type(error)(problem) from None


def _check_lists(descriptor: Any, fields: Mapping[str, Any], parent: str = "") -> None:
    """Reject a str in place of a list, which protobuf would interpret as the list of its characters."""
    for name, value in fields.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            continue
        if field.type == FieldDescriptor.TYPE_STRING and _is_repeated(field) and isinstance(value, str):
            raise TypeError(f"{parent}{name} is invalid; pass {_expected(field)}")
        for path, nested in _nested_fields(field, value, f"{parent}{name}"):
            _check_lists(field.message_type, nested, f"{path}.")


def _find_problem(kind: type[Message], fields: Mapping[str, Any], parent: str = "") -> str:
    """Describe the first invalid field; return an empty string if each field alone is valid."""
    known = kind.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        path = f"{parent}{name}"
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            advice = f"; did you mean {similar[0]}?" if similar else ""
            return f"{path} is not a field of {kind.DESCRIPTOR.name}{advice}"
        try:
            kind(**{name: value})
        except (TypeError, ValueError):
            field = known[name]
            return _find_nested(field, value, path) or f"{path} is invalid; pass {_expected(field)}"
    return ""


def _find_nested(field: _Field, value: Any, path: str) -> str:
    """Describe the first invalid field in a message or in a list of messages."""
    problems = (
        _find_problem(GetMessageClass(field.message_type), nested, f"{at}.")
        for at, nested in _nested_fields(field, value, path)
    )
    return next(filter(None, problems), "")


def _nested_fields(field: _Field, value: Any, path: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return the fields of each message that is passed as a dict, alone or in a list, with the path of the message."""
    if field.message_type is None:
        return ()
    items = [(path, value)]
    if _is_repeated(field) and isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return [(at, item) for at, item in items if isinstance(item, Mapping)]


def _is_repeated(field: _Field) -> bool:
    return bool(field.default_value == [])  # protobuf 5 has no `is_repeated`, and protobuf 7 no `label`


def _expected(field: _Field) -> str:
    """Describe the values of a field."""
    if field.enum_type is not None:
        names = ", ".join(value.name for value in field.enum_type.values if value.number)
        return f"a list of {names}" if _is_repeated(field) else f"one of {names}"
    if field.message_type is not None:
        name = field.message_type.full_name
        item = _EXPECTED_MESSAGES.get(name, f"a dict or {field.message_type.name}")
    elif field.type == FieldDescriptor.TYPE_BYTES:
        item = "bytes"
    else:
        item = _EXPECTED.get(field.cpp_type, f"an int of {32 if field.cpp_type in _INT32 else 64} bits")
    return f"a list, each of whose items is {item}" if _is_repeated(field) else item
