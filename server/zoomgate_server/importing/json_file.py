"""Streaming parser for a JSON array of objects, an array within an object, or a sequence of objects."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from zoomgate_server.importing.errors import ImportFileError
from zoomgate_server.importing.text import MAX_ROW

TRUNCATED = "the file is truncated; it ends before the end of the array"
_NOT_AN_OBJECT = f"the entry is not a JSON object of at most {MAX_ROW} characters, or it is truncated"

_CHUNK = 256 * 1024
_SEPARATORS = re.compile(r"[\s,]*")
# possessive quantifiers avoid backtracking in long runs of blanks
_NEXT_OBJECT = re.compile(r"(?:\}\s*+,?\s*+|\n[ \t\r]*+)(?=\{)")
_LIST = re.compile(r'"(?:_?items|dataItems|connections)"\s*:\s*\[')
_ACCESS_TOKEN = re.compile(r'"access_?token"', re.IGNORECASE)

Value = tuple[int, dict[str, Any] | str]
"""The number of the first line of an object, and the object or an error message."""


class Objects:
    """The objects of a file, of which only a part is buffered. A malformed object does not affect other objects."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._buffer = text.read(_CHUNK)
        self._at = 0
        self._line = 1
        self._ended = False
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Value]:
        """Yield the objects.

        Raises:
            ImportFileError: The file starts with neither an array nor an object.
        """
        in_list = self._enter()
        while True:
            self._advance(_SEPARATORS)
            if self._at == len(self._buffer) and not self._fill():
                break
            if self._at == len(self._buffer):
                continue
            if in_list and self._buffer[self._at] == "]":
                return
            yield self._object()
        if in_list:
            yield self._line, TRUNCATED

    def _enter(self) -> bool:
        """Move to the first object, and return whether the objects are in an array."""
        self._advance(_SEPARATORS)
        first = self._buffer[self._at : self._at + 1]
        if first not in ("[", "{"):
            raise ImportFileError("the file is not JSON; it must start with [ or {")
        if first == "[":
            self._at += 1
            return True
        found = _LIST.search(self._buffer, self._at)
        row = _ACCESS_TOKEN.search(self._buffer, self._at)
        if found is None or (row is not None and row.start() < found.start()):
            return False
        self._move(found.end())
        return True

    def _object(self) -> Value:
        line = self._line
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError):
                end = 0
            if end:
                fits = end - self._at <= MAX_ROW
                self._move(end)
                return line, value if fits and isinstance(value, dict) else _NOT_AN_OBJECT
            if len(self._buffer) - self._at > MAX_ROW or not self._fill():
                self._skip()
                return line, _NOT_AN_OBJECT

    def _skip(self) -> None:
        """Skip to the next likely start of an object."""
        self._move(self._at + 1)
        while (found := _NEXT_OBJECT.search(self._buffer, self._at)) is None:
            self._move(max(self._at, len(self._buffer) - MAX_ROW // 8))
            if not self._fill():
                self._move(len(self._buffer))
                return
        self._move(found.end())

    def _fill(self) -> bool:
        """Read more text into the buffer, and return False at the end of the file."""
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
