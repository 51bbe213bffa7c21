"""The text of a file, in pieces of bounded size, whatever it is encoded in."""

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from zoomgate_server.importing.problems import FileProblem

MAX_ROW = 64 * 1024
"""Characters of a row; a token has at most 8,192."""

_BEGINNING = 64
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a file of UTF-8, with or without a byte order mark, or of UTF-16 with one.

    Bytes that are none become U+FFFD, which no token and no address has: so the rows that have them are refused, and no others.

    Raises:
        FileProblem: It cannot be read, is empty, or is neither.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
        encoding = _encoding(beginning)
        with path.open(encoding=encoding, errors="replace", newline="\n") as text:
            yield text
    except OSError as error:
        raise FileProblem(f"The file cannot be read ({error.strerror}): name the export") from None


def _encoding(beginning: bytes) -> str:
    if not beginning.strip():
        raise FileProblem("The file is empty: export it again")
    if beginning.startswith(_WIDE):
        return "utf-16"
    if b"\0" in beginning:
        raise FileProblem(
            "The file is no text in UTF-8, nor in UTF-16 with a byte order mark: save it as UTF-8"
        )
    return "utf-8-sig"


class Lines:
    """The lines of a text, which can be given back."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._number = 0
        self._back: list[tuple[int, str | None]] = []

    def take(self) -> tuple[int, str | None] | None:
        """Give the number of the next line, from 1, and the line without its end; None for one that is longer than a row may be."""
        if self._back:
            return self._back.pop()
        line = self._text.readline(MAX_ROW + 1)
        if not line:
            return None
        self._number += 1
        if len(line) > MAX_ROW and not line.endswith("\n"):
            while line and not line.endswith("\n"):
                line = self._text.readline(MAX_ROW)
            return self._number, None
        return self._number, line.rstrip("\r\n")

    def give_back(self, lines: list[tuple[int, str | None]]) -> None:
        """Put lines back, to be taken again."""
        self._back.extend(reversed(lines))
