"""Command `zoomgate callers`, which manages the callers file."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import click

from zoomgate_server import private_file
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.caller_key import digest, new_key
from zoomgate_server.cli.output import fail, load_settings, optional_settings
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS
from zoomgate_server.telemetry.logs import plain


@click.group()
def callers() -> None:
    """Manage callers.

    Example: zoomgate callers add calendar --role service --users '*@example.com' --access-tokens
    """


@callers.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["service", "member", "admin"]), required=True, help="The caller's role."
)
@click.option(
    "--users", multiple=True, help="For services: a user's email address, '*@domain' or '*'. Repeatable."
)
@click.option(
    "--methods",
    multiple=True,
    help="An allowed method, such as 'MeetingsService.*'. Repeatable. Default: all methods of the role.",
)
@click.option("--email", help="For members: the member's email address.")
@click.option("--access-tokens", is_flag=True, help="For services: permission to receive access tokens.")
@click.option(
    "--refresh-tokens",
    is_flag=True,
    help="For services: permission to receive refresh tokens and to import connections.",
)
@click.option(
    "--proxy-path",
    "proxy_paths",
    multiple=True,
    help="For services: an allowed path of Zoom's API, such as '/users/me/**'. Repeatable.",
)
@click.option(
    "--file",
    "path",
    help="The callers file. Default: ZOOMGATE_CALLERS, or callers.toml.",
)
def add(
    name: str,
    role: str,
    users: tuple[str, ...],
    methods: tuple[str, ...],
    email: str | None,
    access_tokens: bool,
    refresh_tokens: bool,
    proxy_paths: tuple[str, ...],
    path: str | None,
) -> None:
    """Add a caller to the callers file and print its new key, which is shown only once.

    Example: zoomgate callers add calendar --role service --users '*@example.com'
    """
    loaded = optional_settings() if path else load_settings("specify the file with --file")
    file = Path(path) if path else (loaded and loaded.callers) or Path("callers.toml")
    run_as_owner(file)
    key = new_key()
    fields = {
        "name": name,
        "role": role,
        "key_sha256": digest(key),
        "users": users,
        "methods": methods,
        "proxy_paths": proxy_paths,
        "email": email,
        "access_tokens": access_tokens,
        "refresh_tokens": refresh_tokens,
    }
    entry = [f"{field} = {_toml(value)}\n" for field, value in fields.items() if value]
    try:
        with AuditLog(loaded) as audit_log, _lock(file):
            previous = file.read_text(encoding="utf-8") if file.exists() else ""
            text = f"{previous.rstrip()}\n\n" if previous.strip() else ""
            text += "[[callers]]\n" + "".join(entry)
            callers_file.parse(text, str(file), CALLABLE_METHODS)
            write = private_file.replace if file.exists() else private_file.create
            write(file.resolve(), text.encode())
            audit_log.record("callers.added", caller=name, role=role, users=" ".join(users), file=str(file))
    except callers_file.CallersError as error:
        fail("\n".join(error.problems))
    except UnicodeDecodeError:
        fail(f"{file} is not valid UTF-8; correct it, or choose a different file with --file")
    except OSError as error:
        fail(f"{file} cannot be written ({error.strerror}); choose a different file with --file")
    click.echo(key)
    click.echo(
        f"zoomgate: {name} was added to {plain(str(file))}; save the key, which is shown only once, and send"
        " SIGHUP to the service",
        err=True,
    )
    if role == "service" and not users:
        click.echo(f"zoomgate: {name} has no users yet; add users to its entry", err=True)


def _toml(value: object) -> str:
    """Format a string, a list of strings or true; TOML shares the syntax of JSON, but requires DEL to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Lock a file, so that concurrent commands do not overwrite each other's changes."""
    folder = os.open(file.resolve().parent, os.O_RDONLY)  # the file itself is replaced
    try:
        with contextlib.suppress(OSError):  # some network file systems do not support locks on directories
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
