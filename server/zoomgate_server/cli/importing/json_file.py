"""Parser for a JSON array of objects, an array within an object, or a sequence of objects."""

import json
import re
from collections.abc import Iterator
from typing import Any

from zoomgate_server.cli.importing.text import MAX_ROW, ImportFileError

TRUNCATED = "the file is truncated; it ends before the end of the array"
_NOT_AN_OBJECT = f"the entry is not a JSON object of at most {MAX_ROW} characters, or it is truncated"

_SEPARATORS = re.compile(r"[\s,]*")
# possessive quantifiers avoid backtracking in long runs of blanks
_NEXT_OBJECT = re.compile(r"(?:\}\s*+,?\s*+|\n[ \t\r]*+)(?=\{)")
_LIST = re.compile(r'"(?:_?items|dataItems|connections)"\s*:\s*\[')
_ACCESS_TOKEN = re.compile(r'"access_?token"', re.IGNORECASE)

DUPLICATE_KEY = "the object has a key twice; remove the invalid one"


class Decoder(json.JSONDecoder):
    """A JSON decoder that detects objects in which a key occurs twice: parsers disagree about which value applies.

    Attributes:
        has_duplicates: Whether the latest text has such an object.
    """

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self.has_duplicates = False

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """Decode the value at an index, and return it with the index after it."""
        self.has_duplicates = False
        return super().raw_decode(s, idx)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        self.has_duplicates |= len(value) < len(pairs)
        return value


Value = tuple[int, dict[str, Any] | str]
"""The number of the first line of an object, and the object or an error message."""


def objects(text: str) -> Iterator[Value]:
    """Yield the objects of a file. A malformed object does not affect other objects.

    Raises:
        ImportFileError: The file starts with neither an array nor an object.
    """
    decoder, line, counted = Decoder(), 1, 0
    position, in_list = _first_object(text)
    while (position := _skip_separators(text, position)) < len(text):
        if in_list and text[position] == "]":
            return
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            found = _NEXT_OBJECT.search(text, position + 1)
            value, end = None, found.end() if found else len(text)
        is_valid = isinstance(value, dict) and end - position <= MAX_ROW
        if is_valid and decoder.has_duplicates:
            yield line, DUPLICATE_KEY
        else:
            yield line, value if is_valid else _NOT_AN_OBJECT
        position = end
    if in_list:
        yield line + text.count("\n", counted), TRUNCATED


def _first_object(text: str) -> tuple[int, bool]:
    """Return the position of the first object, and whether the objects are in an array."""
    start = _skip_separators(text, 0)
    if text[start : start + 1] not in ("[", "{"):
        raise ImportFileError("the file is not JSON; it must start with [ or {")
    if text[start] == "[":
        return start + 1, True
    found, token = _LIST.search(text, start), _ACCESS_TOKEN.search(text, start)
    if found is None or (token is not None and token.start() < found.start()):
        return start, False
    return found.end(), True


def _skip_separators(text: str, position: int) -> int:
    found = _SEPARATORS.match(text, position)
    return found.end() if found else position
