"""`zoomgate callers`: who may call."""

import contextlib
import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import click

from zoomgate_server import callers as callers_file
from zoomgate_server.cli.caller_key import digest, new_key
from zoomgate_server.cli.output import fail
from zoomgate_server.interceptors.policy import CALLABLE_METHODS


@click.group()
def callers() -> None:
    """Manage who may call.

    Example: zoomgate callers add calendar --role service --users '*@example.com' --access-tokens
    """


@callers.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["service", "member", "admin"]), required=True, help="What the caller is."
)
@click.option("--users", multiple=True, help="For services: an address, '*@domain' or '*'. May be repeated.")
@click.option(
    "--methods",
    multiple=True,
    help="Only these, such as 'MeetingsService.*'. May be repeated. Default: all of the role.",
)
@click.option("--email", help="For members: their address.")
@click.option("--access-tokens", is_flag=True, help="For services: may see access tokens.")
@click.option("--refresh-tokens", is_flag=True, help="For services: may see refresh tokens.")
@click.option(
    "--proxy-path",
    "proxy_paths",
    multiple=True,
    help="For services: a path such as '/users/me/**'. May be repeated.",
)
@click.option(
    "--file",
    "path",
    envvar="ZOOMGATE_CALLERS",
    default="callers.toml",
    show_default=True,
    help="The callers file. [ZOOMGATE_CALLERS]",
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
    path: str,
) -> None:
    """Make a key for a caller, add its row to the callers file, and print the key, once.

    Example: zoomgate callers add calendar --role service --users '*@example.com'
    """
    key = new_key()
    row = ["[[callers]]", f'name = "{_quoted(name)}"', f'role = "{role}"', f'key_sha256 = "{digest(key)}"']
    for field, values in (("users", users), ("methods", methods), ("proxy_paths", proxy_paths)):
        if values:
            listed = ", ".join(f'"{_quoted(value)}"' for value in values)
            row.append(f"{field} = [{listed}]")
    if email:
        row.append(f'email = "{_quoted(email)}"')
    for field, given in (("access_tokens", access_tokens), ("refresh_tokens", refresh_tokens)):
        if given:
            row.append(f"{field} = true")
    file = Path(path)
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        text = f"{before.rstrip()}\n\n" if before.strip() else ""
        text += "\n".join(row) + "\n"
        callers_file.parse(text, path, CALLABLE_METHODS)
        _replace(file, text)
    except callers_file.CallersError as error:
        fail("\n".join(error.problems))
    except OSError as error:
        fail(f"{path} cannot be written ({error.strerror}): name another file with --file")
    click.echo(key)
    click.echo(
        f"zoomgate: {name} was added to {path}; this key is shown once, restart the service to let it in",
        err=True,
    )


def _quoted(text: str) -> str:
    """Escape text for a TOML string."""
    return "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\\x7f' else c for c in text)


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner alone."""
    with NamedTemporaryFile(
        "w", dir=file.parent, prefix=f".{file.name}.", delete=False, encoding="utf-8"
    ) as temporary:
        try:
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
            Path(temporary.name).chmod(0o600)
            Path(temporary.name).replace(file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary.name).unlink()
            raise
