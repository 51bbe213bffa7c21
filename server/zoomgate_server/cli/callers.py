"""`zoomgate callers`: who may call."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

import click

from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.caller_key import digest, new_key
from zoomgate_server.cli.output import fail, load_settings, settings_if_any
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS
from zoomgate_server.telemetry.logs import plain


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
    help="The callers file. Default: where ZOOMGATE_CALLERS says, or callers.toml.",
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
    """Make a key for a caller, add its row to the callers file, and print the key, once.

    Example: zoomgate callers add calendar --role service --users '*@example.com'
    """
    loaded = settings_if_any() if path else load_settings("name the file with --file")
    file = Path(path) if path else (loaded and loaded.callers_path) or Path("callers.toml")
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
    try:
        with AuditLog(loaded) as audited, _alone(file):
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            text = f"{before.rstrip()}\n\n" if before.strip() else ""
            text += "\n".join(row) + "\n"
            callers_file.parse(text, str(file), CALLABLE_METHODS)
            _replace(file, text)
            audited.record("callers.added", caller=name, role=role, users=" ".join(users), file=str(file))
    except callers_file.CallersError as error:
        fail("\n".join(error.problems))
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8: correct it, or name another file with --file")
    except OSError as error:
        fail(f"{file} cannot be written ({error.strerror}): name another file with --file")
    click.echo(key)
    click.echo(
        f"zoomgate: {name} was added to {plain(str(file))}; this key is shown once, restart the service to let it in",
        err=True,
    )
    if role == "service" and not users:
        click.echo(f"zoomgate: {name} may act for nobody yet: add users to its row", err=True)


def _quoted(text: str) -> str:
    """Escape text for a TOML string."""
    return "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\\x7f' else c for c in text)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other commands from changing a file meanwhile: two at once would lose the row of one."""
    folder = os.open(file.resolve().parent, os.O_RDONLY)  # the file itself is replaced
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all: a new one readable by its owner alone, another with the owner and mode that it had."""
    file = file.resolve()  # a link stays a link
    before = file.stat() if file.exists() else None
    with NamedTemporaryFile(
        "w", dir=file.parent, prefix=f".{file.name}.", delete=False, encoding="utf-8"
    ) as temporary:
        try:
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
            if before is not None:
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.chown(temporary.name, before.st_uid, before.st_gid)
                Path(temporary.name).chmod(stat.S_IMODE(before.st_mode))
            Path(temporary.name).replace(file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary.name).unlink()
            raise
