"""The callers file: who may call, with which static key, and what they may do.

A row that is not understood refuses the whole file: a typing mistake must not let somebody in, or keep somebody out unnoticed.
"""

import re
import stat
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoomgate_server import user_email as addresses
from zoomgate_server.identity import Principal, Role, UserPatterns

_KEYS = frozenset(
    {
        "name",
        "role",
        "key_sha256",
        "users",
        "methods",
        "access_tokens",
        "refresh_tokens",
        "proxy_paths",
        "email",
    }
)
_SERVICE_ONLY = ("users", "access_tokens", "refresh_tokens", "proxy_paths")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PROXY_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~@:-]+|\*{1,2}))+", re.ASCII)
_DOMAIN = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", re.ASCII)


class CallersError(Exception):
    """The callers file cannot be used.

    Args:
        problems: One sentence each, with the line where it can be told.
    """

    def __init__(self, problems: Collection[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller and the digest of its key.

    Attributes:
        key_sha256: SHA-256 of the key, 64 lower-case hex digits.
        principal: What it may do.
    """

    key_sha256: str
    principal: Principal


def load(path: Path, methods: Collection[str]) -> tuple[Caller, ...]:
    """Read a callers file.

    Args:
        path: The file.
        methods: Every name that `methods` may hold, such as `AuthService.GetToken`.

    Raises:
        CallersError: With everything that is wrong.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o022:
            raise CallersError([f"{path} can be changed by other users: run chmod go-w on it"])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CallersError([f"{path} does not exist: make it with `zoomgate callers add`"]) from None
    except OSError as error:
        raise CallersError([f"{path} cannot be read ({error.strerror})"]) from None
    except UnicodeDecodeError:
        raise CallersError([f"{path} is not UTF-8"]) from None
    return parse(text, str(path), methods)


def parse(text: str, name: str, methods: Collection[str]) -> tuple[Caller, ...]:
    """Read the text of a callers file; `name` stands in the messages."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CallersError([f"{name} is no TOML: {error}"]) from None
    lines = _Lines(text)
    problems = [
        f"{name}:{lines.of_key(0, key)}: {key} is not known here: write [[callers]] tables only"
        for key in content
        if key != "callers"
    ]
    rows = content.get("callers", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CallersError([*problems, f"{name}: callers must be [[callers]] tables"])
    found: list[Caller] = []
    taken: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=1):
        reader = _Row(row, name, lines, number, methods)
        caller = reader.read()
        for key, problem in (
            ("name", "is taken by another caller"),
            ("key_sha256", "is another caller's key"),
        ):
            if (value := (key, str(row.get(key, "")))) in taken:
                reader.refuse(key, f"{problem}: give each its own")
            elif value[1]:
                taken.add(value)
        problems.extend(reader.problems)
        if caller is not None:
            found.append(caller)
    if problems:
        raise CallersError(problems)
    return tuple(found)


class _Lines:
    """Finds the lines of tables and keys, for messages."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._tables = [
            number
            for number, line in enumerate(self._lines, start=1)
            if re.match(r"\s*\[\[\s*callers\s*\]\]", line)
        ]

    def of_key(self, table: int, key: str) -> int:
        """Line of a key in the n-th table (0: before the first), or of the table itself."""
        starts = [1, *self._tables]
        if table >= len(starts):
            return 1
        end = starts[table + 1] if table + 1 < len(starts) else len(self._lines) + 1
        for number in range(starts[table], end):
            if re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", self._lines[number - 1]):
                return number
        return starts[table]


class _Row:
    """Reads one row and collects what is wrong with it."""

    def __init__(
        self, row: Mapping[str, Any], file: str, lines: _Lines, number: int, methods: Collection[str]
    ) -> None:
        self._row = row
        self._file = file
        self._lines = lines
        self._number = number
        self._methods = methods
        self.problems: list[str] = []

    def refuse(self, key: str, problem: str) -> None:
        """Note a problem with a key."""
        self.problems.append(f"{self._file}:{self._lines.of_key(self._number, key)}: {key} {problem}")

    def read(self) -> Caller | None:
        """Give the caller, or None with `problems` filled."""
        for key in sorted(set(self._row) - _KEYS):
            self.refuse(key, f"is not known: use {', '.join(sorted(_KEYS))}")
        name = self._text("name", _NAME, "must be 1 to 63 of a-z 0-9 . _ -")
        digest = self._text("key_sha256", _DIGEST, "must be 64 lower-case hex digits: the SHA-256 of the key")
        role = self._role()
        email = self._email(role)
        if role is not None and role is not Role.SERVICE:
            for key in _SERVICE_ONLY:
                if key in self._row:
                    self.refuse(key, "is for services only: leave it out")
        principal = Principal(
            name=name,
            roles=frozenset() if role is None else frozenset({role}),
            users=self._users(),
            methods=self._granted_methods(),
            email=email,
            issuer="key",
            subject=email or name,
            access_tokens=self._flag("access_tokens"),
            refresh_tokens=self._flag("refresh_tokens"),
            proxy_paths=self._proxy_paths(),
        )
        return None if self.problems else Caller(digest, principal)

    def _text(self, key: str, pattern: re.Pattern[str], rule: str) -> str:
        value = self._row.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(key, rule)
            return ""
        return value

    def _role(self) -> Role | None:
        value = self._row.get("role")
        if value in list(Role):
            return Role(value)
        self.refuse("role", "must be service, member or admin")
        return None

    def _email(self, role: Role | None) -> str | None:
        value = self._row.get("email")
        if role is Role.MEMBER:
            problem = addresses.problem(value) if isinstance(value, str) else "is required for members"
            if problem is not None:
                self.refuse("email", problem)
                return None
            return str(value)
        if value is not None:
            self.refuse("email", "is for members only: leave it out")
        return None

    def _flag(self, key: str) -> bool:
        value = self._row.get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false")
            return False
        return value

    def _strings(self, key: str) -> list[str] | None:
        value = self._row.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.refuse(key, "must be a list of strings")
            return None
        return value

    def _users(self) -> UserPatterns:
        exact, domains, everyone = set(), set(), False
        for pattern in self._strings("users") or []:
            if pattern == "*":
                everyone = True
            elif pattern.startswith("*@") and _DOMAIN.fullmatch(pattern[2:]):
                domains.add(pattern[2:])
            elif addresses.is_canonical(pattern):
                exact.add(pattern)
            else:
                self.refuse("users", f'has {pattern!r}: write an address in lower case, "*@domain" or "*"')
        return UserPatterns(everyone, frozenset(exact), frozenset(domains))

    def _granted_methods(self) -> frozenset[str] | None:
        patterns = self._strings("methods")
        if patterns is None:
            return None
        granted: set[str] = set()
        for pattern in patterns:
            service = pattern.removesuffix(".*")
            matching = {
                method
                for method in self._methods
                if method == pattern or (service != pattern and method.partition(".")[0] == service)
            }
            if not matching:
                self.refuse(
                    "methods",
                    f'has {pattern!r}: write a method such as "AuthService.GetToken", or "AuthService.*"',
                )
            granted |= matching
        return frozenset(granted)

    def _proxy_paths(self) -> tuple[str, ...]:
        patterns = self._strings("proxy_paths") or []
        for pattern in patterns:
            if not _PROXY_PATH.fullmatch(pattern) or "**" in pattern.split("/")[1:-1]:
                self.refuse(
                    "proxy_paths",
                    f'has {pattern!r}: write a path such as "/users/me/**", with ** at the end only',
                )
        return tuple(patterns)
