"""Command `zoomgate proxy`, which calls Zoom's REST API through the running service."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from zoomgate import Client, errors
from zoomgate.v1.proxy_service_pb2 import ZoomResponse
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.options import Decorator, combined, user_argument
from zoomgate_server.cli.output import USAGE, fail, print_json
from zoomgate_server.cli.progress import counter
from zoomgate_server.telemetry.logs import escape


@click.group()
def proxy() -> None:
    """Call Zoom's REST API on a user's behalf.

    The body of the Zoom response is written to standard output. JSON ends with a newline, and is indented on a terminal; any other body is
    written unchanged to files and pipes. The exit code is 1 if the HTTP status is 400 or above.

    Example: zoomgate proxy get monica@example.com /users/me
    """


_COUNT = click.IntRange(1, 2**31 - 1)

_target = combined(
    user_argument(),
    click.argument("url"),
    click.option(
        "-q", "--query", "pairs", multiple=True, metavar="NAME=VALUE", help="A query parameter. Repeatable."
    ),
    click.option(
        "-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header to send. Repeatable."
    ),
    click.option("-i", "--include", is_flag=True, help="Print the status and headers before the body."),
)

_target_and_body = combined(
    _target,
    click.option(
        "-d",
        "--data",
        metavar="TEXT",
        help="The body: text, @FILE for the contents of a file, or - for standard input.",
    ),
    click.option(
        "--content-type", default="application/json", show_default=True, help="The content type of the data."
    ),
)

_METHODS = (
    ("get", _target, "/users/me/meetings -q page_size=30"),
    ("delete", _target, "/meetings/85746065432"),
    ("post", _target_and_body, """/users/me/meetings -d '{"topic": "Review", "type": 1}'"""),
    ("patch", _target_and_body, "/meetings/85746065432 -d @changes.json"),
    ("put", _target_and_body, """/meetings/85746065432/status -d '{"action": "end"}'"""),
)
"""The methods, each with the parameters of its command and the end of its example."""


def _add_command(method: str, parameters: Decorator, example: str) -> None:
    @proxy.command(
        method,
        help=f"Send a {method.upper()} request to URL (a path of Zoom's API) for USER.\n\n"
        f"Example: zoomgate proxy {method} monica@example.com {example}",
    )
    @parameters
    @calls_service
    def call(client: Client, **arguments: Any) -> None:
        _call(getattr(client.proxy, method), **arguments)


for _method in _METHODS:
    _add_command(*_method)


@proxy.command("pages")
@_target
@click.option("--max-pages", type=_COUNT, metavar="N", help="Stop after N pages.")
@click.option("--max-items", type=_COUNT, metavar="N", help="Stop after the page with the Nth item.")
@calls_service
def pages(client: Client, *, as_json: bool, include: bool, **arguments: Any) -> None:
    """Print all pages of a list at URL (a path of Zoom's API) for USER.

    The pages are printed as they arrive, exactly as Zoom sent them, each followed by a newline. The command fails if the list may be
    incomplete. If the output is redirected, standard error shows the progress on a terminal.

    Example: zoomgate proxy pages monica@example.com /users/me/meetings -q page_size=300
    """
    stream = client.proxy.list_pages(
        **_request(**{name: arguments[name] for name in ("user", "url", "pairs", "headers")}),
        max_pages=arguments["max_pages"],
        max_items=arguments["max_items"],
    )
    # on a terminal, the pages show the progress
    progress = contextlib.nullcontext() if sys.stdout.isatty() else counter("reading", "pages")
    with contextlib.closing(stream), progress as count:
        for number, message in enumerate(stream, 1):
            _print(message.response, include=include, as_json=as_json)
            if count is not None:
                count(number, None)


@proxy.command("download")
@user_argument()
@click.argument("url")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@calls_service
def download(client: Client, *, user: str, url: str, file: str, as_json: bool) -> None:
    """Download a file, such as a recording, from URL for USER.

    URL is a download_url of Zoom, or a path of its API. FILE is created or replaced only when the download is complete; - is standard
    output. The download is resumed if the connection is lost.
    On a terminal, standard error shows the progress. --json prints the status, headers and size, on standard error if FILE is -.

    Example: zoomgate proxy download monica@example.com https://zoom.us/rec/download/abc meeting.mp4
    """
    if not file:
        fail("the name of FILE is empty; name a file, or use - for standard output", USAGE)
    to_stdout = file == "-"
    if to_stdout and (sys.__stdout__ is None or sys.stdout.isatty()):
        state = "closed" if sys.__stdout__ is None else "a terminal"
        fail(f"standard output is {state}; redirect it, or name a file", USAGE)
    try:
        with counter("downloading", "bytes") as count:
            head = client.download(user, url, sys.stdout.buffer if to_stdout else file, on_progress=count)
        sys.stdout.buffer.flush()
    except errors.UnexpectedStatus as failure:
        if as_json:
            raise
        fail(failure.message)
    except OSError as error:
        if to_stdout:
            raise
        fail(f"{file} cannot be written ({error.strerror})")
    if as_json:
        print_json(head, err=to_stdout)


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
    request = _request(user, url, pairs, headers)
    if data is not None:
        request |= {"raw": _data(data), "content_type": content_type}
    if as_json:
        request["parse_json"] = True
    _print(method(**request).response, include=include, as_json=as_json)


def _request(user: str, url: str, pairs: tuple[str, ...], headers: tuple[str, ...]) -> dict[str, Any]:
    return {
        "user_email": user,
        "url": url,
        "query": [_pair("--query", text, "=") for text in pairs],
        "headers": [_pair("--header", text, ":") for text in headers],
    }


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
            text = _format(response.body)
            click.echo(text, nl=bool(text) and not text.endswith("\n"))
        else:
            sys.stdout.buffer.write(response.body)
            if _is_json(response) and not response.body.endswith(b"\n"):
                sys.stdout.buffer.write(b"\n")
            sys.stdout.buffer.flush()
    if response.status >= 400:
        fail(f"Zoom responded with HTTP status {response.status}")


def _is_json(response: ZoomResponse) -> bool:
    return any(
        header.name.lower() == "content-type" and "json" in header.value for header in response.headers
    )


def _format(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
    return "\n".join(escape(line) for line in text.split("\n"))
