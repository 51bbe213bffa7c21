"""Option `--details`, a JSON file with a message of the API."""

from typing import Any

import click
from google.protobuf.message import Message

from zoomgate_server.cli.options import Decorator
from zoomgate_server.cli.output import USAGE, fail
from zoomgate_server.errors import InvalidRequest, MalformedRequest


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
    from zoomgate_server.rpc import json_request  # noqa: PLC0415 - rarely needed

    try:
        message.MergeFrom(json_request.parse(type(message), file.read()))
    except (InvalidRequest, MalformedRequest) as error:
        fail(f"--details: {error.message}", USAGE)
