"""Command `zoomgate proxy`, which calls Zoom's REST API through the running service."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from zoomgate import Client
from zoomgate.v1.proxy_service_pb2 import ZoomResponse
from zoomgate_server.cli.channel import calls_service, user_argument
from zoomgate_server.cli.output import FAILURE, USAGE, fail, note, print_json
from zoomgate_server.telemetry.logs import escape


@click.group()
def proxy() -> None:
    """Call Zoom's REST API on a user's behalf.

    The body of the Zoom response is written to standard output unchanged; on a terminal, JSON is indented. The exit code is 1 if the HTTP
    status is 400 or above.

    Example: zoomgate proxy get monica@example.com /users/me
    """


def _target(command: Any) -> Any:
    for option in (
        click.option("-i", "--include", is_flag=True, help="Print the status and headers before the body."),
        click.option(
            "-H",
            "--header",
            "headers",
            multiple=True,
            metavar="NAME:VALUE",
            help="A header to send. Repeatable.",
        ),
        click.option(
            "-q",
            "--query",
            "pairs",
            multiple=True,
            metavar="NAME=VALUE",
            help="A query parameter. Repeatable.",
        ),
    ):
        command = option(command)
    return user_argument(click.argument("url")(command))


def _body(command: Any) -> Any:
    for option in (
        click.option(
            "--content-type",
            default="application/json",
            show_default=True,
            help="The content type of the data.",
        ),
        click.option(
            "-d",
            "--data",
            default=None,
            metavar="TEXT",
            help="The body: text, @FILE for the contents of a file, or - for standard input.",
        ),
    ):
        command = option(command)
    return command


@proxy.command()
@_target
@calls_service
def get(client: Client, **arguments: Any) -> None:
    """Send a GET request to URL (a path of Zoom's API) for USER.

    Example: zoomgate proxy get monica@example.com /users/me/meetings -q page_size=30
    """
    _call(client.proxy.get, **arguments)


@proxy.command()
@_target
@calls_service
def delete(client: Client, **arguments: Any) -> None:
    """Send a DELETE request to URL (a path of Zoom's API) for USER.

    Example: zoomgate proxy delete monica@example.com /meetings/85746065432
    """
    _call(client.proxy.delete, **arguments)


@proxy.command()
@_target
@_body
@calls_service
def post(client: Client, **arguments: Any) -> None:
    """Send a POST request to URL (a path of Zoom's API) for USER.

    Example: zoomgate proxy post monica@example.com /users/me/meetings -d '{"topic": "Review", "type": 1}'
    """
    _call(client.proxy.post, **arguments)


@proxy.command()
@_target
@_body
@calls_service
def patch(client: Client, **arguments: Any) -> None:
    """Send a PATCH request to URL (a path of Zoom's API) for USER.

    Example: zoomgate proxy patch monica@example.com /meetings/85746065432 -d @changes.json
    """
    _call(client.proxy.patch, **arguments)


@proxy.command()
@_target
@_body
@calls_service
def put(client: Client, **arguments: Any) -> None:
    """Send a PUT request to URL (a path of Zoom's API) for USER.

    Example: zoomgate proxy put monica@example.com /meetings/85746065432/status -d '{"action": "end"}'
    """
    _call(client.proxy.put, **arguments)


def _call(
    method: Any,
    *,
    user: str,
    url: str,
    pairs: tuple[str, ...],
    headers: tuple[str, ...],
    include: bool,
    as_json: bool,
    data: str | None = None,
    content_type: str = "",
) -> None:
    request: dict[str, Any] = {
        "user_email": user,
        "url": url,
        "query": [_pair("--query", text, "=") for text in pairs],
        "headers": [_pair("--header", text, ":") for text in headers],
    }
    if data is not None:
        request |= {"raw": _data(data), "content_type": content_type}
    if as_json:
        request["parse_json"] = True
    _print(method(**request).response, include=include, as_json=as_json)


def _pair(option: str, text: str, separator: str) -> dict[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name:
        fail(f"invalid {option} {text!r}; use NAME{separator}VALUE", USAGE)
    return {"name": name, "value": value.strip() if separator == ":" else value}


def _data(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return os.fsencode(text)  # the bytes of the argument, even if they are not valid UTF-8
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        fail(f"--data: {text[1:]} cannot be read ({error.strerror})", USAGE)


def _print(response: ZoomResponse, *, include: bool, as_json: bool) -> None:
    if as_json:
        print_json(response)
    else:
        if include:
            click.echo(f"HTTP {response.status}")
            for header in response.headers:
                click.echo(escape(f"{header.name}: {header.value}"))
            click.echo()
        if sys.stdout.isatty():
            click.echo(_format(response.body), nl=bool(response.body))
        else:
            sys.stdout.buffer.write(response.body)
            sys.stdout.buffer.flush()
    if response.status >= 400:
        note(f"Zoom returned HTTP status {response.status}")
        raise SystemExit(FAILURE)


def _format(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
    return "\n".join(escape(line) for line in text.split("\n"))
