"""Objects of a JSON file, one by one: of a list, of a list within an object, or one after another."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from zoomgate_server.importing.problems import FileProblem
from zoomgate_server.importing.text import MAX_ROW

CUT_OFF = "the file ends here, and its list does not: it was cut off"
_NO_OBJECT = f"it is no JSON object of at most {MAX_ROW} characters, or it is cut off"

_CHUNK = 256 * 1024
_BETWEEN = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(
    r"(?:\}\s*+,?\s*+|\n[ \t\r]*+)(?=\{)"
)  # possessive: blanks without end take no time
_LIST = re.compile(r'"(?:_?items|dataItems|connections)"\s*:\s*\[')
_ACCESS_TOKEN = re.compile(r'"access_?token"', re.IGNORECASE)

Value = tuple[int, dict[str, Any] | str]
"""The line at which an object begins, and the object or why it is none."""


def objects(text: TextIO, lists: re.Pattern[str] = _LIST) -> Iterator[Value]:
    """Give the objects. One that is damaged takes no other along.

    Args:
        text: From its beginning.
        lists: Finds the beginning of the list, where it is within an object.

    Raises:
        FileProblem: It begins with neither a list nor an object.
    """
    return _Objects(text).all(lists)


class _Objects:
    """Reads on as far as it must."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._buffer = text.read(_CHUNK)
        self._at = 0
        self._line = 1
        self._ended = False
        self._decoder = json.JSONDecoder()

    def all(self, lists: re.Pattern[str]) -> Iterator[Value]:
        """Give everything."""
        within = self._enter(lists)
        while True:
            self._advance(_BETWEEN)
            if self._at == len(self._buffer) and not self._fill():
                break
            if self._at == len(self._buffer):
                continue
            if within and self._buffer[self._at] == "]":
                return
            yield self._object()
        if within:
            yield self._line, CUT_OFF

    def _enter(self, lists: re.Pattern[str]) -> bool:
        """Go to the first object; whether it is in a list."""
        self._advance(_BETWEEN)
        first = self._buffer[self._at : self._at + 1]
        if first not in ("[", "{"):
            raise FileProblem("The file is no JSON: it has to begin with [ or {")
        if first == "[":
            self._at += 1
            return True
        found = lists.search(self._buffer, self._at)
        row = _ACCESS_TOKEN.search(self._buffer, self._at)
        if found is None or (row is not None and row.start() < found.start()):
            return False
        self._move(found.end())
        return True

    def _object(self) -> Value:
        """Read one value."""
        line = self._line
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError):
                end = 0
            if end:
                fits = end - self._at <= MAX_ROW
                self._move(end)
                return line, value if fits and isinstance(value, dict) else _NO_OBJECT
            if len(self._buffer) - self._at > MAX_ROW or not self._fill():
                self._skip()
                return line, _NO_OBJECT

    def _skip(self) -> None:
        """Go to where the next object seems to begin."""
        self._move(self._at + 1)
        while (found := _NEXT_OBJECT.search(self._buffer, self._at)) is None:
            self._move(max(self._at, len(self._buffer) - MAX_ROW // 8))
            if not self._fill():
                self._move(len(self._buffer))
                return
        self._move(found.end())

    def _fill(self) -> bool:
        """Read more; whether there was more."""
        more = "" if self._ended else self._text.read(_CHUNK)
        self._ended = not more
        if more:
            self._buffer = self._buffer[self._at :] + more
            self._at = 0
        return bool(more)

    def _advance(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._buffer, self._at)
        if found is not None:
            self._move(found.end())

    def _move(self, to: int) -> None:
        self._line += self._buffer.count("\n", self._at, to)
        self._at = to
