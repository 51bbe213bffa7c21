"""Command `zoomgate callers`, which manages the callers file."""

import contextlib
import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zoomgate_server import private_file
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.caller_key import digest, new_key
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

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*callers[ \t]*\]\]", re.MULTILINE)
_KEYS = re.compile(r"""^([ \t]*["']?key_sha256["']?[ \t]*=[ \t]*)("[^"]*"|'[^']*'|\[[^]]*\])""", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*(?:#.*)?\r?\n)*(?:^[ \t]*#.*)?\Z", re.MULTILINE)
"""Blank lines and comments at the end of an entry, which may describe the next one."""

_file_option = click.option(
    "--file", "path", help="The callers file. Default: ZOOMGATE_CALLERS, or callers.toml."
)


@click.group()
def callers() -> None:
    """Manage callers. A running service applies changes within 10 seconds.

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
    note(
        f"zoomgate: {name} was added to {file.path}; save the key, which is shown only once. A running service accepts it within"
        " 10 seconds"
    )
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
    rows = [(principal, _digests(keys, name)) for name, principal in principals.items()]
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
    note(
        f"zoomgate: {name} has two valid keys now; save the new key, which is shown only once. A running service accepts it within"
        f" 10 seconds. Once the caller uses it, run `zoomgate callers remove-key {name} {_key_id(digests[0])}`"
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
    note(f"zoomgate: removed key {key_id} of {name}; a running service rejects it within 10 seconds")


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
    note(f"zoomgate: removed {name} from {file.path}; a running service rejects its calls within 10 seconds")


class _CallersFile:
    """The callers file, while a command changes it. Comments and layout are retained."""

    def __init__(self, path: Path, text: str, audit_log: AuditLog) -> None:
        self.path = path
        self._text = text
        self._audit_log = audit_log
        self._keys = callers_file.parse(text, str(path), CALLABLE_METHODS)
        self._entries = tomllib.loads(text).get("callers", [])

    @property
    def names(self) -> set[str]:
        """The names of all callers."""
        return {principal.name for principal in self._keys.values()}

    def digests(self, name: str) -> list[str]:
        """Return the SHA-256 of each key of a caller; exit with an error if there is no such caller."""
        if name not in self.names:
            fail(
                f"{self.path} contains no caller {name}; list the callers with `zoomgate callers list`",
                NOT_FOUND,
            )
        return _digests(self._keys, name)

    def record(self, action: str, **details: str) -> None:
        """Write a change to the audit trail."""
        self._audit_log.record(action, **details, file=str(self.path))

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        lines = "".join(f"{key} = {_toml(value)}\n" for key, value in entry.items())
        previous = f"{self._text.rstrip()}\n\n" if self._text.strip() else ""
        self._save(f"{previous}[[callers]]\n{lines}", [*self._entries, entry])

    def set_keys(self, name: str, digests: list[str]) -> None:
        """Set the keys of a caller, or remove the caller if there are none."""
        entries, text = list(self._entries), self._text
        index = next(number for number, entry in enumerate(entries) if entry["name"] == name)
        bounds = [*(header.start() for header in _HEADER.finditer(text)), len(text)]
        is_table = index + 1 < len(bounds)  # otherwise `_save` rejects the text, in which nothing is changed
        start, end = bounds[index : index + 2] if is_table else (0, 0)
        if digests:
            value = digests if len(digests) > 1 else digests[0]
            entries[index] = entries[index] | {"key_sha256": value}
            changed = _KEYS.sub(lambda match: match[1] + _toml(value), text[start:end], count=1)
        else:
            del entries[index]
            comments = _COMMENTS.search(text[start:end])
            changed = comments[0] if comments else ""
        self._save(text[:start] + changed + text[end:], entries)

    def _save(self, text: str, entries: list[dict[str, Any]]) -> None:
        """Write a text if it contains the expected entries; an unusual layout, such as an inline table, can prevent this."""
        try:
            matches = tomllib.loads(text).get("callers", []) == entries
        except tomllib.TOMLDecodeError:
            matches = False
        if not matches:
            fail(
                f"{self.path} cannot be changed because it is not written as [[callers]] tables; edit it manually"
            )
        write = private_file.replace if self.path.exists() else private_file.create
        write(self.path.resolve(), text.encode())


def _locate(path: str | None) -> tuple[Settings | None, Path]:
    """Return the settings and the callers file, and run the rest of the command as its owner."""
    loaded = optional_settings() if path else load_settings("specify the file with --file")
    file = Path(path) if path else (loaded and loaded.callers) or Path("callers.toml")
    run_as_owner(file)
    return loaded, file


@contextlib.contextmanager
def _changing(path: str | None, *, must_exist: bool = True) -> Iterator[_CallersFile]:
    """Lock and read the callers file, so that concurrent commands do not overwrite each other's changes."""
    loaded, file = _locate(path)
    with _reported_problems(file), AuditLog(loaded) as audit_log, _lock(file):
        text = callers_file.read(file) if must_exist or file.exists() else ""
        yield _CallersFile(file, text, audit_log)


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


def _digests(keys: dict[str, Principal], name: str) -> list[str]:
    return [key for key, principal in keys.items() if principal.name == name]


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


def _toml(value: object) -> str:
    """Format a string, a list of strings or true; TOML shares the syntax of JSON, but requires DEL to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
