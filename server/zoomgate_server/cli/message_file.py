"""Option `--details`, a JSON file with a message of the API."""

import json
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.message import Message

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
        fail(f"--details: {_problem(content, type(message))}", USAGE)


def _problem(content: bytes, kind: type[Message]) -> str:
    """Return the reason why content is not a message."""
    from zoomgate_server.rpc.json_request import find_invalid_field  # noqa: PLC0415 - rarely needed

    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    if not isinstance(document, dict):
        return "not a JSON object"
    if (found := find_invalid_field(document, kind)) is not None:
        return " ".join(found)
    return "a field is set twice, or fields exclude each other, such as startTime and localStartTime"
