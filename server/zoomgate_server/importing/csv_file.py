"""Records of a CSV file (RFC 4180), of which one that is damaged takes no other along."""

import csv
import io
from collections.abc import Iterator
from typing import TextIO

from zoomgate_server.importing.problems import FileProblem
from zoomgate_server.importing.text import MAX_ROW, Lines

TOO_LONG = f"it is longer than {MAX_ROW} characters"
_UNCLOSED = "a quotation mark in it is not closed"
_NO_RECORD = "it is no CSV"

Record = tuple[int, list[str] | str]
"""The line at which a record begins, and its fields or why it has none."""


def records(text: TextIO, delimiter: str, fields: int) -> Iterator[Record]:
    """Give the records behind the header.

    Args:
        text: Behind its first line.
        delimiter: Between two fields.
        fields: How many a record has.
    """
    lines = Lines(text)
    while (first := lines.take()) is not None:
        number, line = first
        if line is None:
            yield number + 1, TOO_LONG
        elif line.strip():
            yield number + 1, _record(lines, line, delimiter, fields)


def header(text: TextIO, delimiters: str) -> Iterator[tuple[str, list[str]]]:
    """Give the first line, taken apart at one delimiter after another.

    Raises:
        FileProblem: All lines are one.
    """
    line = text.readline(MAX_ROW).rstrip("\r\n")
    if "\r" in line:
        raise FileProblem(
            "Its lines end with carriage returns alone: save it with line ends of Unix or Windows"
        )
    for delimiter in delimiters:
        yield delimiter, [name.strip() for name in _parsed(line, delimiter) or [line]]


def _record(lines: Lines, line: str, delimiter: str, fields: int) -> list[str] | str:
    """Take a record apart that begins with a line. A quoted field may have line ends in it."""
    more: list[tuple[int, str | None]] = []
    whole, is_open = line, line.count('"') % 2
    while is_open and len(whole) < MAX_ROW and (following := lines.take()) is not None:
        more.append(following)
        if following[1] is None:
            break
        whole += "\n" + following[1]
        is_open ^= following[1].count('"') % 2
    found = None if is_open else _parsed(whole, delimiter)
    if found is not None and len(found) == fields:
        return found
    lines.give_back(more)  # else a quotation mark that is not closed takes the rows behind it along
    if more or is_open:
        return _UNCLOSED
    return _NO_RECORD if found is None else f"it has {len(found)} fields, and the header has {fields}"


def _parsed(record: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None
