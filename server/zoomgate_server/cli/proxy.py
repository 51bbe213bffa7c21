"""`zoomgate proxy`: any call of Zoom's REST API, through the running service."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from zoomgate import Client
from zoomgate.v1.proxy_service_pb2 import ZoomResponse
from zoomgate_server.cli.channel import calls_service, user_argument
from zoomgate_server.cli.output import FAILURE, USAGE, document, fail, note
from zoomgate_server.telemetry.logs import escape


@click.group()
def proxy() -> None:
    """Call Zoom's REST API for somebody.

    What Zoom answers goes to standard output as it came; on a terminal JSON is laid out. The exit code is 1 for a status of 400 and above.

    Example: zoomgate proxy get monica@example.com /users/me
    """


def _target(command: Any) -> Any:
    for option in (
        click.option("-i", "--include", is_flag=True, help="Print status and headers before the body."),
        click.option(
            "-H",
            "--header",
            "headers",
            multiple=True,
            metavar="NAME:VALUE",
            help="Send a header; may be repeated.",
        ),
        click.option(
            "-q",
            "--query",
            "pairs",
            multiple=True,
            metavar="NAME=VALUE",
            help="Add to the query; may be repeated.",
        ),
    ):
        command = option(command)
    return user_argument(click.argument("url")(command))


def _body(command: Any) -> Any:
    for option in (
        click.option(
            "--content-type", default="application/json", show_default=True, help="What the data is."
        ),
        click.option(
            "-d",
            "--data",
            default=None,
            metavar="TEXT",
            help="The body: text, @FILE, or - for standard input.",
        ),
    ):
        command = option(command)
    return command


@proxy.command()
@_target
@calls_service
def get(client: Client, **given: Any) -> None:
    """Send a GET for USER to URL, a path of Zoom's API.

    Example: zoomgate proxy get monica@example.com /users/me/meetings -q page_size=30
    """
    _call(client.proxy.get, **given)


@proxy.command()
@_target
@calls_service
def delete(client: Client, **given: Any) -> None:
    """Send a DELETE for USER to URL, a path of Zoom's API.

    Example: zoomgate proxy delete monica@example.com /meetings/85746065432
    """
    _call(client.proxy.delete, **given)


@proxy.command()
@_target
@_body
@calls_service
def post(client: Client, **given: Any) -> None:
    """Send a POST for USER to URL, a path of Zoom's API.

    Example: zoomgate proxy post monica@example.com /users/me/meetings -d '{"topic": "Review", "type": 1}'
    """
    _call(client.proxy.post, **given)


@proxy.command()
@_target
@_body
@calls_service
def patch(client: Client, **given: Any) -> None:
    """Send a PATCH for USER to URL, a path of Zoom's API.

    Example: zoomgate proxy patch monica@example.com /meetings/85746065432 -d @changes.json
    """
    _call(client.proxy.patch, **given)


@proxy.command()
@_target
@_body
@calls_service
def put(client: Client, **given: Any) -> None:
    """Send a PUT for USER to URL, a path of Zoom's API.

    Example: zoomgate proxy put monica@example.com /meetings/85746065432/status -d '{"action": "end"}'
    """
    _call(client.proxy.put, **given)


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
        fail(f"{option} is {text!r}: write NAME{separator}VALUE", USAGE)
    return {"name": name, "value": value.strip() if separator == ":" else value}


def _data(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return os.fsencode(text)  # the bytes that were given, whatever they are
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        fail(f"--data: {text[1:]} cannot be read ({error.strerror})", USAGE)


def _print(response: ZoomResponse, *, include: bool, as_json: bool) -> None:
    if as_json:
        document(response)
    else:
        if include:
            click.echo(f"HTTP {response.status}")
            for header in response.headers:
                click.echo(escape(f"{header.name}: {header.value}"))
            click.echo()
        if sys.stdout.isatty():
            click.echo(_for_people(response.body), nl=bool(response.body))
        else:
            sys.stdout.buffer.write(response.body)
            sys.stdout.buffer.flush()
    if response.status >= 400:
        note(f"Zoom answered {response.status}")
        raise SystemExit(FAILURE)


def _for_people(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
    return "\n".join(escape(line) for line in text.split("\n"))
