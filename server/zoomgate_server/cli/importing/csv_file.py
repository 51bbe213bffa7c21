"""Parser for CSV files (RFC 4180) in which a malformed record does not affect other records."""

import csv
import io
from collections.abc import Iterator
from typing import TextIO

from zoomgate_server.cli.importing.text import MAX_ROW, ImportFileError, Line, Lines

TOO_LONG = f"the row is longer than {MAX_ROW} characters"
_UNCLOSED = "the row has an unclosed quotation mark"
_NOT_CSV = "the row is not valid CSV"

Record = tuple[int, list[str] | str]
"""The number of a record's first line, and the record's fields or an error message."""


def records(text: TextIO, delimiter: str, fields: int) -> Iterator[Record]:
    """Yield the records after the header, each of which must have this number of fields."""
    lines = Lines(text)
    for number, line in lines:
        if line is None:
            yield number + 1, TOO_LONG
        elif line.strip():
            yield number + 1, _record(lines, line, delimiter, fields)


def header(text: TextIO, delimiters: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each delimiter with the fields into which it splits the first line.

    Raises:
        ImportFileError: The lines end with carriage returns only.
    """
    line = text.readline(MAX_ROW).rstrip("\r\n")
    if "\r" in line:
        raise ImportFileError(
            "the lines end with carriage returns only; save the file with Unix or Windows line endings"
        )
    for delimiter in delimiters:
        yield delimiter, [name.strip() for name in _parsed(line, delimiter) or [line]]


def _record(lines: Lines, line: str, delimiter: str, fields: int) -> list[str] | str:
    """Parse the record that starts with a line, reading further lines while a quoted field is open."""
    more: list[Line] = []
    record, is_open = line, line.count('"') % 2
    while is_open and len(record) < MAX_ROW and (following := next(lines, None)) is not None:
        more.append(following)
        if following[1] is None:
            break
        record += "\n" + following[1]
        is_open ^= following[1].count('"') % 2
    values = None if is_open else _parsed(record, delimiter)
    if values is not None and len(values) == fields:
        return values
    lines.push_back(more)  # otherwise an unclosed quotation mark would consume the following rows
    if more or is_open:
        return _UNCLOSED
    return _NOT_CSV if values is None else f"the row has {len(values)} fields, but the header has {fields}"


def _parsed(record: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None
