"""Command `zoomgate callers`, which manages the callers file."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.caller_key import digest, new_key
from zoomgate_server.cli.callers_file_editor import CallersFile, digests_of
from zoomgate_server.cli.options import json_option, yes_option
from zoomgate_server.cli.output import (
    NOT_FOUND,
    confirm,
    counted,
    fail,
    load_settings,
    note,
    optional_settings,
    print_json,
    print_table,
)
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.identity import Principal
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS
from zoomgate_server.settings import Settings

_KEY_ID_LENGTH = 8

_file_option = click.option(
    "--file", "path", help="The callers file. Default: ZOOMGATE_CALLERS, or callers.toml."
)


@click.group()
def callers() -> None:
    """Manage callers. A service that runs with ZOOMGATE_CALLERS applies changes within 10 seconds.

    Example: zoomgate callers add calendar --role service --users '*@example.com' --access-tokens
    """


@callers.command(short_help="Add a caller and print its new key.")
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
@_file_option
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
    key = new_key()
    fields = {
        "name": name,
        "role": role,
        "key_sha256": digest(key),
        "users": list(users),
        "methods": list(methods),
        "proxy_paths": list(proxy_paths),
        "email": email,
        "access_tokens": access_tokens,
        "refresh_tokens": refresh_tokens,
    }
    entry = {field: value for field, value in fields.items() if value}
    with _changing(path, must_exist=False) as file:
        if name in file.names:
            fail(
                f"{file.path} already contains a caller {name}; choose a different name, or issue a new key with"
                f" `zoomgate callers rotate {name}`"
            )
        callers_file.check_entry(entry, CALLABLE_METHODS, _option)
        file.append(entry)
        file.record("callers.added", caller=name, role=role, users=" ".join(users))
    click.echo(key)
    _note_change(file, f"added {name}; save the key, which is shown only once", "accepts it")
    if role == "service" and not users:
        note(f"zoomgate: {name} has no users yet; add users to its entry")


@callers.command("list")
@_file_option
@json_option("Print one JSON object per line.")
def list_(path: str | None, as_json: bool) -> None:
    """List the callers and the IDs of their keys. A key's ID is the start of its SHA-256.

    Example: zoomgate callers list
    """
    _, file = _locate(path)
    with _reported_problems(file):
        keys = callers_file.load(file, CALLABLE_METHODS)
    principals = {principal.name: principal for principal in keys.values()}
    rows = [(principal, digests_of(keys, name)) for name, principal in principals.items()]
    if as_json:
        for principal, digests in rows:
            print_json(_fields(principal, digests))
        return
    count = print_table(
        ("CALLER", "ROLE", "KEYS", "USERS", "TOKENS"),
        (
            (
                principal.name,
                principal.role_names,
                " ".join(map(_key_id, digests)),
                " ".join(_users(principal)),
                " ".join(
                    kind
                    for kind, allowed in (
                        ("access", principal.access_tokens),
                        ("refresh", principal.refresh_tokens),
                    )
                    if allowed
                ),
            )
            for principal, digests in rows
        ),
    )
    note(counted(count, "caller"))


@callers.command()
@click.argument("name")
@_file_option
def rotate(name: str, path: str | None) -> None:
    """Add a second key to the caller NAME and print it. The key is shown only once.

    Both keys are valid until one is removed with `zoomgate callers remove-key`.

    Example: zoomgate callers rotate calendar
    """
    key = new_key()
    with _changing(path) as file:
        digests = file.digests(name)
        if len(digests) > 1:
            fail(
                f"{name} has {len(digests)} keys already ({', '.join(map(_key_id, digests))}); remove the unused ones first with"
                f" `zoomgate callers remove-key {name} KEY_ID`"
            )
        added = digest(key)
        file.set_keys(name, [*digests, added])
        file.record("callers.key_added", caller=name, key_id=_key_id(added))
    click.echo(key)
    _note_change(
        file, f"added a second key of {name}; save the key, which is shown only once", "accepts both keys"
    )
    note(
        f"zoomgate: once the caller uses the new key, run `zoomgate callers remove-key {name} {_key_id(digests[0])}`"
    )


@callers.command("remove-key")
@click.argument("name")
@click.argument("key_id")
@_file_option
def remove_key(name: str, key_id: str, path: str | None) -> None:
    """Remove the key KEY_ID of the caller NAME. The only key of a caller cannot be removed.

    KEY_ID is the start of the key's SHA-256, as listed by `zoomgate callers list`.

    Example: zoomgate callers remove-key calendar 5e884898
    """
    with _changing(path) as file:
        digests = file.digests(name)
        remaining = [
            known for known in digests if not known.startswith(key_id) or len(key_id) < _KEY_ID_LENGTH
        ]
        if len(remaining) != len(digests) - 1:
            fail(f"{name} has no key {key_id}; its keys are {', '.join(map(_key_id, digests))}", NOT_FOUND)
        if not remaining:
            fail(
                f"{key_id} is the only key of {name}; add another one with `zoomgate callers rotate {name}`, or remove the caller with"
                f" `zoomgate callers remove {name}`"
            )
        file.set_keys(name, remaining)
        file.record("callers.key_removed", caller=name, key_id=key_id[:_KEY_ID_LENGTH])
    _note_change(file, f"removed key {key_id} of {name}", "rejects it")


@callers.command()
@click.argument("name")
@_file_option
@yes_option
def remove(name: str, path: str | None, yes: bool) -> None:
    """Remove the caller NAME and all its keys. The connections of its users are not affected.

    Example: zoomgate callers remove calendar --yes
    """
    if not yes:
        with _changing(path) as file:
            file.digests(name)
        confirm(f"Remove the caller {name}?")
    with _changing(path) as file:
        file.digests(name)
        file.set_keys(name, [])
        file.record("callers.removed", caller=name)
    _note_change(file, f"removed {name}", "rejects its calls")


def _note_change(file: CallersFile, change: str, effect: str) -> None:
    """Print what was changed, and its effect on running services."""
    note(
        f"zoomgate: {change}. A service that runs with ZOOMGATE_CALLERS={file.path} {effect} within 10 seconds"
    )


def _locate(path: str | None) -> tuple[Settings | None, Path]:
    """Return the settings and the callers file, and run the rest of the command as its owner."""
    loaded = optional_settings() if path else load_settings("specify the file with --file")
    file = Path(path) if path else (loaded and loaded.callers) or Path("callers.toml")
    run_as_owner(file)
    return loaded, file


@contextlib.contextmanager
def _changing(path: str | None, *, must_exist: bool = True) -> Iterator[CallersFile]:
    """Lock and read the callers file, so that concurrent commands do not overwrite each other's changes."""
    loaded, file = _locate(path)
    with _reported_problems(file), AuditLog(loaded) as audit_log, _lock(file):
        text = callers_file.read(file) if must_exist or file.exists() else ""
        yield CallersFile(file, text, audit_log)


@contextlib.contextmanager
def _reported_problems(file: Path) -> Iterator[None]:
    """Exit with all problems of a callers file, or with the reason why it cannot be written."""
    try:
        yield
    except callers_file.CallersError as error:
        fail("\n".join(error.problems))
    except OSError as error:
        fail(f"{file} cannot be written ({error.strerror}); choose a different file with --file")


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    folder = os.open(file.resolve().parent, os.O_RDONLY)  # the file itself is replaced
    try:
        with contextlib.suppress(OSError):  # some network file systems do not support locks on directories
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _key_id(key_digest: str) -> str:
    return key_digest[:_KEY_ID_LENGTH]


def _users(principal: Principal) -> list[str]:
    if principal.email:
        return [principal.email]
    users = principal.users
    patterns = ["*"] if users.everyone else []
    return [*patterns, *sorted(f"*@{domain}" for domain in users.domains), *sorted(users.addresses)]


def _fields(principal: Principal, digests: list[str]) -> dict[str, Any]:
    return {
        "name": principal.name,
        "role": principal.role_names,
        "keyIds": [_key_id(key_digest) for key_digest in digests],
        "users": _users(principal),
        "methods": None if principal.methods is None else sorted(principal.methods),
        "accessTokens": principal.access_tokens,
        "refreshTokens": principal.refresh_tokens,
        "proxyPaths": list(principal.proxy_paths),
    }


def _option(key: str) -> str:
    """Return the argument or option of `callers add` for a key of an entry."""
    return {"name": "NAME", "proxy_paths": "--proxy-path"}.get(key, f"--{key.replace('_', '-')}")
