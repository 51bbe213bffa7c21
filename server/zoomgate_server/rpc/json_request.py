"""Parsing of messages in protobuf's JSON format (https://protobuf.dev/programming-guides/json/), with errors that name the field.

`json_format` accepts fields that are set twice and some values that the format does not allow, and its errors contain values.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import islice
from types import UnionType
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from zoomgate_server.errors import InvalidRequest, MalformedRequest

_M = TypeVar("_M", bound=Message)
_Descriptor = Any  # the classes differ between the implementations of protobuf

MAX_VALUES = 20_000
"""Maximum number of values in a message. Even a value of one digit takes a hundred bytes of memory and several microseconds."""

MAX_MASK_CHARACTERS = 20_000
"""Maximum length of a field mask. Its paths are values, too, but are not counted as such, since they are in one string."""

_MAX_NAME = 64
_INVALID = (ValueError, OverflowError, RecursionError, json_format.Error)
_SEPARATORS = re.compile(rb'(?:[^",\[{]++|"(?:[^"\\]++|\\.)*+"?)*+(?:[,\[{]|\Z)', re.DOTALL)
"""Pattern of the text up to a comma or an opening bracket that is not in a string, or up to the end."""

_SET_TWICE = "is set twice; send it once"


def parse(kind: type[_M], body: bytes) -> _M:
    """Return the message in a JSON document.

    Raises:
        MalformedRequest: The document is not a JSON object, or has too many values.
        InvalidRequest: A field is unknown or has an invalid value. The error never contains the value, which may be a secret.
    """
    try:
        document = _document(body)
    except ValueError as invalid:
        raise MalformedRequest(str(invalid), metadata={"type": kind.DESCRIPTOR.full_name}) from None
    message = kind()
    _fill(message, document, "")
    return message


@dataclass(frozen=True)
class _Duplicate:
    """A JSON object that contains a name twice. No field accepts it."""

    name: str


def _document(body: bytes) -> dict[str, Any] | _Duplicate:
    """Return the JSON object in a document."""
    if _has_too_many_values(body):
        raise ValueError(f"The message has more than {MAX_VALUES} values; send fewer")
    try:
        document = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_reject_constant)
    except UnicodeDecodeError:
        raise ValueError("The message is not UTF-8; send a JSON object in UTF-8") from None
    except json.JSONDecodeError as invalid:
        raise ValueError(f"The message is not valid JSON ({invalid}); send a JSON object") from None
    except (ValueError, RecursionError):
        raise ValueError(
            "The message is nested too deeply, or contains NaN, Infinity or a number with too many digits; send none of these"
        ) from None
    if not isinstance(document, dict | _Duplicate):
        raise ValueError("The message is not a JSON object; send one")
    return document


def _has_too_many_values(body: bytes) -> bool:
    """Return whether a document has too many values. They are counted before parsing, which takes the memory."""
    if sum(map(body.count, (b",", b"[", b"{"))) < MAX_VALUES:
        return False
    return next(islice(_SEPARATORS.finditer(body), MAX_VALUES, None), None) is not None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Duplicate:
    document = dict(pairs)
    if len(document) < len(pairs):
        return _Duplicate(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return document


def _reject_constant(_name: str) -> None:
    raise ValueError


def _fill(message: Message, document: Any, path: str) -> None:
    """Store a JSON object in a message. `path` is the path of the message with a dot, or empty."""
    leaves: dict[str, Any] = {}
    for field, value in _members(document, message.DESCRIPTOR, path):
        items = field.items(path, value)
        if not field.is_nested:
            for item_path, item in items:
                if not field.is_canonical(item):
                    raise _invalid(field, item_path, item)
            leaves[field.json_name] = value
        elif field.is_repeated and not isinstance(value, list):
            raise _invalid(field, path + field.name, value)
        else:
            target = getattr(message, field.name)
            for item_path, item in items:
                if not isinstance(item, dict | _Duplicate):
                    raise InvalidRequest.of(item_path, "has an invalid value; send an object")
                nested = target.add() if field.is_repeated else target
                nested.SetInParent()
                _fill(nested, item, f"{item_path}.")
    try:
        json_format.ParseDict(leaves, message)
    except _INVALID:
        raise _first_invalid(leaves, type(message), path) from None


def _members(
    document: dict[str, Any] | _Duplicate, kind: _Descriptor, path: str
) -> Iterator[tuple["_Field", Any]]:
    """Yield the fields that a JSON object sets, with their values."""
    fields = _fields(kind)
    if isinstance(document, _Duplicate):
        field = fields.get(document.name)
        raise InvalidRequest.of(path + (field.name if field else _shown(document.name)), _SET_TWICE)
    names, oneofs = set[str](), dict[str, str]()
    for key, value in document.items():
        field = fields.get(key)
        if field is None:
            raise _unknown(key, kind, path)
        if field.name in names:
            raise InvalidRequest.of(path + field.name, _SET_TWICE)
        names.add(field.name)
        if value is None and not field.accepts_null:
            continue
        other = oneofs.setdefault(field.oneof, field.name)
        if other != field.name:
            raise InvalidRequest.of(path + field.name, f"excludes {other}; send only one of them")
        yield field, value


def _first_invalid(leaves: dict[str, Any], kind: type[Message], path: str) -> InvalidRequest:
    """Return the error for the first invalid value. The errors of `json_format` name its field only in their text, beside the value."""
    for name, value in leaves.items():
        if _is_valid({name: value}, kind):
            continue
        field = _fields(kind.DESCRIPTOR)[name]
        items = list(field.items(path, value))
        while len(items) > 1:  # to parse each item alone would take several times as long
            middle = len(items) // 2
            is_later = _is_valid({name: [item for _, item in items[:middle]]}, kind)
            items = items[middle:] if is_later else items[:middle]
        return _invalid(field, *items[0])
    raise AssertionError("each field alone is valid")


def _is_valid(leaves: dict[str, Any], kind: type[Message]) -> bool:
    try:
        json_format.ParseDict(leaves, kind())
    except _INVALID:
        return False
    return True


def _invalid(field: "_Field", path: str, value: Any) -> InvalidRequest:
    form = field.form
    if field.is_repeated and not path.endswith("]"):
        expected = f"an array, each entry {form.text}"
    else:
        expected = form.text + form.conditions if isinstance(value, form.type) else form.text
    return InvalidRequest.of(path, f"has an invalid value; send {expected}")


def _unknown(name: str, message: _Descriptor, path: str) -> InvalidRequest:
    shown, names = _shown(name), [field.name for field in message.fields]
    close = get_close_matches(shown, names, n=1)
    advice = f"did you mean {close[0]}?" if close else f"its fields are {', '.join(names)}"
    return InvalidRequest.of(f"{path}{shown}", f"is not a field of {message.name}; {advice}")


def _shown(name: str) -> str:
    """Return a name for an error. It may be long, or contain surrogates, which errors cannot contain."""
    return name[:_MAX_NAME].encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class _Form:
    """The JSON form of a value.

    Attributes:
        text: What to send.
        strings: The strings that are values; all that `json_format` accepts if None.
        type: The type of the values.
        conditions: What values of this type can violate. It is omitted from the error for a value of another type.
    """

    text: str
    strings: re.Pattern[str] | None = None
    type: UnionType | type = object
    conditions: str = ""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message.

    Attributes:
        oneof: The oneof that contains the field, or the field's own name.
        is_nested: Whether its values are messages that have fields in JSON, too.
    """

    name: str
    json_name: str
    oneof: str
    is_repeated: bool
    is_nested: bool
    is_enum: bool
    accepts_null: bool
    form: _Form

    def items(self, prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the items of an array, or the value itself if it is not an array, with their paths."""
        if self.is_repeated and isinstance(value, list):
            for index, item in enumerate(value):
                yield f"{prefix}{self.name}[{index}]", item
        else:
            yield prefix + self.name, value

    def is_canonical(self, value: Any) -> bool:
        """Return whether a value has the JSON form of the field, as far as `json_format` does not check it."""
        if isinstance(value, str):
            return self.form.strings is None or self.form.strings.fullmatch(value) is not None
        return not self.is_enum or type(value) is int


@cache
def _fields(message: _Descriptor) -> dict[str, _Field]:
    """Return the fields of a message type by both of their names."""
    return {
        name: field
        for each in message.fields
        for field in [_field(each)]
        for name in (each.name, each.json_name)
    }


def _field(field: _Descriptor) -> _Field:
    kind, enum, oneof = field.message_type, field.enum_type, field.containing_oneof
    form = _SCALARS.get(field.type, _Form("a number"))
    if enum is not None:
        form = _Form(
            f"one of {', '.join(value.name for value in enum.values if value.number)}",
            re.compile("|".join(value.name for value in enum.values)),
        )
    elif kind is not None:
        form = _WELL_KNOWN.get(kind.full_name, _Form("an object"))
    return _Field(
        name=field.name,
        json_name=field.json_name,
        oneof=field.name if oneof is None else oneof.name,
        is_repeated=field.is_repeated,
        is_nested=kind is not None
        and not kind.full_name.startswith("google.protobuf.")
        and not kind.GetOptions().map_entry,
        is_enum=enum is not None,
        accepts_null=kind is not None and kind.full_name == "google.protobuf.Value",
        form=form,
    )


_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BASE64 = re.compile(r"(?:[\w+/-]{4})*+(?:[\w+/-]{2}(?:==)?|[\w+/-]{3}=?)?", re.ASCII)
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DURATION = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s")
_FIELD_MASK = re.compile(rf"[^_]{{0,{MAX_MASK_CHARACTERS}}}")
_JSON_CONDITIONS = " that is not nested too deeply, with distinct names and valid Unicode"

_SCALARS = {
    FieldDescriptor.TYPE_BOOL: _Form("true or false"),
    FieldDescriptor.TYPE_INT32: _Form("an integer of 32 bits", _NUMBER),
    FieldDescriptor.TYPE_INT64: _Form("an integer of 64 bits, as a string or number", _NUMBER),
    FieldDescriptor.TYPE_STRING: _Form("a string", type=str, conditions=" of valid Unicode"),
    FieldDescriptor.TYPE_BYTES: _Form("a string in Base64", _BASE64),
}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": _Form("a time such as 2030-01-07T09:00:00Z", _TIMESTAMP),
    "google.protobuf.Duration": _Form("a duration such as 1.5s", _DURATION),
    "google.protobuf.FieldMask": _Form(
        "a string of paths in lowerCamelCase such as topic,settings.waitingRoom",
        _FIELD_MASK,
        type=str,
        conditions=f", at most {MAX_MASK_CHARACTERS} characters",
    ),
    "google.protobuf.Struct": _Form("an object", type=dict | _Duplicate, conditions=_JSON_CONDITIONS),
    "google.protobuf.Value": _Form("a JSON value", conditions=_JSON_CONDITIONS),
}
