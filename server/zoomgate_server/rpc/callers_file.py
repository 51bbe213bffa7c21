"""The callers file: the callers, their static keys and their policies.

A single invalid entry invalidates the whole file. Otherwise, a typing mistake could grant or deny access unnoticed.
"""

import functools
import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from zoomgate_server import file_system
from zoomgate_server.identity import Principal, Role, UserPatterns
from zoomgate_server.user_email import InvalidUserEmail, canonical_email, canonical_pattern

_SERVICE_ONLY = ("users", "access_tokens", "refresh_tokens", "proxy_paths")
_KEYS = frozenset({"name", "role", "key_sha256", "methods", "email", *_SERVICE_ONLY})
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PROXY_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~@:-]+|\*{1,2}))+", re.ASCII)


class CallersError(Exception):
    """An error for an invalid callers file. `problems` has one sentence each, with the line number if it is known."""

    def __init__(self, problems: Collection[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def load(path: Path, methods: Collection[str]) -> dict[str, Principal]:
    """Read a callers file. Return the callers by the SHA-256 of their keys, in lower-case hex digits.

    Args:
        methods: The method names that the key `methods` may contain, such as `AuthService.GetToken`.

    Raises:
        CallersError: The file is missing, unreadable, writable by other users, or invalid. `problems` lists all problems.
    """
    return parse(read(path), str(path), methods)


def read(path: Path) -> str:
    """Return the text of a callers file; raise `CallersError` if it is missing, unreadable or writable by other users."""
    try:
        with file_system.open_regular(path) as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o022:
                raise CallersError([f"{path} is writable by other users; run chmod go-w on it"])
            return file.read().decode()
    except FileNotFoundError:
        raise CallersError([f"{path} does not exist; create it with `zoomgate callers add`"]) from None
    except OSError as error:
        raise CallersError([f"{path} cannot be read ({error.strerror})"]) from None
    except UnicodeDecodeError:
        raise CallersError([f"{path} is not UTF-8; save it as UTF-8"]) from None


def parse(text: str, name: str, methods: Collection[str]) -> dict[str, Principal]:
    """Parse the content of a callers file; see `load`. Error messages refer to the file as `name`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CallersError([f"{name} is not valid TOML: {error}"]) from None
    except (ValueError, RecursionError):
        raise CallersError([f"{name} contains a number that is too long, or is nested too deeply"]) from None
    lines = _Lines(text)
    problems = [
        f"{name}:{lines.of_key(0, key)}: unknown key {key}; only [[callers]] tables are allowed"
        for key in content
        if key != "callers"
    ]
    entries = content.get("callers", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CallersError([*problems, f"{name}: callers must be written as [[callers]] tables"])
    callers: dict[str, Principal] = {}
    names: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        parser = _EntryParser(entry, methods, functools.partial(lines.locate, name, number))
        digests, principal = parser.read()
        if principal.name in names:
            parser.add_problem(
                "name", "is already used by a different caller; use a unique name for each caller"
            )
        if not callers.keys().isdisjoint(digests) or len(set(digests)) < len(digests):
            parser.add_problem(
                "key_sha256", "contains a key that is already used; use a unique key for each caller"
            )
        names.update(filter(None, [principal.name]))
        problems.extend(parser.problems)
        callers |= dict.fromkeys(digests, principal)
    if problems:
        raise CallersError(problems)
    return callers


def check_entry(entry: Mapping[str, Any], methods: Collection[str], locate: Callable[[str], str]) -> None:
    """Check the values of an entry before it is written. Raise `CallersError`, which refers to each key as `locate` returns."""
    parser = _EntryParser(entry, methods, locate)
    parser.read()
    if parser.problems:
        raise CallersError(parser.problems)


class _Lines:
    """Line numbers of tables and keys, for error messages."""

    def __init__(self, text: str) -> None:
        self._tables: list[list[tuple[int, str]]] = [[]]
        for number, line in enumerate(text.splitlines(), start=1):
            if re.match(r"\s*\[\[\s*callers\s*\]\]", line):
                self._tables.append([])
            self._tables[-1].append((number, line))

    def locate(self, name: str, table: int, key: str) -> str:
        """Return the file name, the line and the name of a key, for error messages."""
        return f"{name}:{self.of_key(table, key)}: {key}"

    def of_key(self, table: int, key: str) -> int:
        """Return the line of a key in the n-th table (0: before the first table), or the table's first line if the key is missing."""
        lines = self._tables[table] if table < len(self._tables) else []
        pattern = re.compile(rf"\s*\"?{re.escape(key)}\"?\s*=")
        return next((number for number, line in lines if pattern.match(line)), lines[0][0] if lines else 1)


class _EntryParser:
    """A parser of one [[callers]] table that collects all problems."""

    def __init__(
        self, entry: Mapping[str, Any], methods: Collection[str], locate: Callable[[str], str]
    ) -> None:
        self._entry = entry
        self._methods = methods
        self._locate = locate
        self.problems: list[str] = []

    def add_problem(self, key: str, problem: str) -> None:
        """Record a problem with a key."""
        self.problems.append(f"{self._locate(key)} {problem}")

    def read(self) -> tuple[list[str], Principal]:
        """Return the digests of the caller's keys, and the caller. If there are `problems`, both are unusable."""
        for key in sorted(set(self._entry) - _KEYS):
            self.add_problem(key, f"is not a known key; use {', '.join(sorted(_KEYS))}")
        name = self._name()
        digests = self._digests()
        role = self._role()
        email = self._email(role)
        if role is not None and role is not Role.SERVICE:
            for key in _SERVICE_ONLY:
                if key in self._entry:
                    self.add_problem(key, "is for services only; omit it")
        principal = Principal(
            name=name,
            roles=frozenset() if role is None else frozenset({role}),
            users=self._users(),
            methods=self._allowed_methods(),
            email=email,
            subject=email or name,
            access_tokens=self._flag("access_tokens"),
            refresh_tokens=self._flag("refresh_tokens"),
            proxy_paths=self._proxy_paths(),
        )
        return digests, principal

    def _name(self) -> str:
        value = self._entry.get("name")
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self.add_problem(
                "name", "must be 1 to 63 characters of a-z 0-9 . _ - and start with a letter or digit"
            )
            return ""
        return value

    def _digests(self) -> list[str]:
        value = self._entry.get("key_sha256")
        digests = [value] if isinstance(value, str) else value
        if (
            not isinstance(digests, list)
            or not digests
            or not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests)
        ):
            self.add_problem(
                "key_sha256",
                "must be 64 lower-case hex digits, the SHA-256 of the key, or a list with one such value for each key",
            )
            return []
        return digests

    def _role(self) -> Role | None:
        value = self._entry.get("role")
        if value in list(Role):
            return Role(value)
        self.add_problem("role", "must be service, member or admin")
        return None

    def _email(self, role: Role | None) -> str | None:
        value = self._entry.get("email")
        if role is Role.MEMBER:
            text = value if isinstance(value, str) else ""
            try:
                return canonical_email(text)
            except InvalidUserEmail as invalid:
                self.add_problem("email", invalid.message_for(text))
        elif value is not None:
            self.add_problem("email", "is for members only; omit it")
        return None

    def _flag(self, key: str) -> bool:
        value = self._entry.get(key, False)
        if not isinstance(value, bool):
            self.add_problem(key, "must be true or false")
            return False
        return value

    def _strings(self, key: str) -> list[str]:
        value = self._entry.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.add_problem(key, "must be a list of strings")
            return []
        return value

    def _users(self) -> UserPatterns:
        patterns = set()
        for text in self._strings("users"):
            try:
                patterns.add(text if text == "*" else canonical_pattern(text))
            except InvalidUserEmail as invalid:
                self.add_problem(
                    "users", f'contains {text!r}, which is not an address, "*@domain" or "*": {invalid}'
                )
        domains = frozenset(pattern[2:] for pattern in patterns if pattern.startswith("*@"))
        exact = frozenset(pattern for pattern in patterns if not pattern.startswith("*"))
        return UserPatterns("*" in patterns, exact, domains)

    def _allowed_methods(self) -> frozenset[str] | None:
        if "methods" not in self._entry:
            return None
        allowed: set[str] = set()
        for pattern in self._strings("methods"):
            matching = {
                method for method in self._methods if pattern in (method, f"{method.partition('.')[0]}.*")
            }
            if not matching:
                self.add_problem(
                    "methods",
                    f'contains {pattern!r}; use a method such as "AuthService.GetToken", or "AuthService.*"',
                )
            allowed |= matching
        return frozenset(allowed)

    def _proxy_paths(self) -> tuple[str, ...]:
        patterns = self._strings("proxy_paths")
        for pattern in patterns:
            if not _PROXY_PATH.fullmatch(pattern) or "**" in pattern.split("/")[1:-1]:
                self.add_problem(
                    "proxy_paths",
                    f'contains {pattern!r}; use a path such as "/users/me/**", with ** only at the end',
                )
        return tuple(patterns)
