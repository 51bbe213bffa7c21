"""Text files in supported encodings, read in pieces of bounded size."""

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

MAX_ROW = 64 * 1024
"""The maximum number of characters in a row; a token has at most 8,192."""

_PREFIX_BYTES = 64
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ImportFileError(Exception):
    """An error that prevents the import of a file. The message is one sentence for the operator and contains no data from the file."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a file in UTF-8, with or without a byte order mark, or in UTF-16 with a byte order mark.

    Invalid bytes become U+FFFD, which is not valid in tokens and addresses, so only the affected rows are rejected.

    Raises:
        ImportFileError: The file cannot be read, is empty, or is in an unsupported encoding.
    """
    with reading():
        with path.open("rb") as file:
            prefix = file.read(_PREFIX_BYTES)
        with path.open(encoding=_encoding(prefix), errors="replace", newline="\n") as text:
            yield text


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raise `ImportFileError` if a file cannot be read."""
    try:
        yield
    except OSError as error:
        raise ImportFileError(
            f"the file cannot be read ({error.strerror}); check its path and permissions"
        ) from None


def _encoding(prefix: bytes) -> str:
    if not prefix.strip():
        raise ImportFileError("the file is empty; export it again")
    if prefix.startswith(_WIDE):
        return "utf-16"
    if b"\0" in prefix:
        raise ImportFileError("the file is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    return "utf-8-sig"


Line = tuple[int, str | None]
"""The number of a line, from 1, and its text without the line ending, or None if it is longer than `MAX_ROW`."""


class Lines(Iterator[Line]):
    """The lines of a file, which can be pushed back. `number` lines were read before."""

    def __init__(self, text: TextIO, number: int = 0) -> None:
        self._text = text
        self._number = number
        self._pushed_back: list[Line] = []

    def __next__(self) -> Line:
        if self._pushed_back:
            return self._pushed_back.pop()
        line = self._text.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) > MAX_ROW and not line.endswith("\n"):
            while line and not line.endswith("\n"):
                line = self._text.readline(MAX_ROW)
            return self._number, None
        return self._number, line.rstrip("\r\n")

    def push_back(self, lines: list[Line]) -> None:
        """Push lines back, so that they are returned again."""
        self._pushed_back.extend(reversed(lines))
