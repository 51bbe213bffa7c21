"""Changes to the callers file that retain its comments and layout."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from zoomgate_server import private_file
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.output import NOT_FOUND, fail
from zoomgate_server.identity import Principal
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*callers[ \t]*\]\]", re.MULTILINE)
_KEYS = re.compile(r"""^([ \t]*["']?key_sha256["']?[ \t]*=[ \t]*)("[^"]*"|'[^']*'|\[[^]]*\])""", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*(?:#.*)?\r?\n)*(?:^[ \t]*#.*)?\Z", re.MULTILINE)
"""Blank lines and comments at the end of an entry, which may describe the next one."""


class CallersFile:
    """The callers file, while a command changes it."""

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
        return digests_of(self._keys, name)

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


def digests_of(keys: dict[str, Principal], name: str) -> list[str]:
    """Return the SHA-256 of each key of a caller."""
    return [key for key, principal in keys.items() if principal.name == name]


def _toml(value: object) -> str:
    """Format a string, a list of strings or true; TOML shares the syntax of JSON, but requires DEL to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
