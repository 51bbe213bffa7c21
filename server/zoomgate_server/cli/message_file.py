"""Option `--details`, a JSON file with a message of the API."""

import json
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zoomgate_server.cli.options import Decorator
from zoomgate_server.cli.output import USAGE, fail


def details_option(kind: type[Message]) -> Decorator:
    """Return a decorator that adds the option --details, which the command receives as an open file or None."""
    return click.option(
        "--details",
        type=click.File("rb"),
        metavar="FILE",
        help=f"JSON file with a {kind.DESCRIPTOR.name} message of the API, or - for standard input. Other options override it.",
    )


def read_details(file: Any, message: Message) -> None:
    """Read the file of the option --details, if there is one, into a message. Exit with an error if it does not contain the message."""
    if file is None:
        return
    content = file.read()
    try:
        json_format.Parse(content, message)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError):
        fail(f"--details: {_problem(content, type(message))}; see docs/meetings.md", USAGE)


def _problem(content: bytes, kind: type[Message]) -> str:
    """Return the reason why content is not a message."""
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    if not isinstance(document, dict):
        return "not a JSON object"
    return _invalid_field(document, kind) or (
        "a field is set twice, or fields exclude each other, such as startTime and localStartTime"
    )


def _invalid_field(document: dict[str, Any], kind: type[Message], path: str = "") -> str:
    """Describe the first field that is unknown or has an invalid value, without the value, which can be a password."""
    fields = {name: field for field in kind.DESCRIPTOR.fields for name in (field.name, field.json_name)}
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            return f"unknown field {path}{name}"
        try:
            json_format.ParseDict({name: value}, kind())
        except json_format.ParseError:
            if field.enum_type is not None:
                names = [known.name for known in field.enum_type.values if known.number]
                return f"invalid value of {path}{name}; use one of {', '.join(names)}"
            nested = ""
            if isinstance(value, dict) and field.message_type is not None:
                nested_kind = GetMessageClass(field.message_type)  # type: ignore[arg-type]
                nested = _invalid_field(value, nested_kind, f"{path}{name}.")
            return nested or f"invalid value of {path}{name}"
    return ""
