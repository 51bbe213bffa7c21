"""Parser for CSV files (RFC 4180) in which a malformed record does not affect other records."""

import csv
import io
import re
from collections.abc import Iterator
from typing import TextIO

from zoomgate_server.cli.importing.text import MAX_ROW, ImportFileError, Line, Lines

TOO_LONG = f"the row is longer than {MAX_ROW} characters"
_UNCLOSED = "the row has an unclosed quotation mark"
_NOT_CSV = "the row is not valid CSV"
_NO_HEADER = re.compile(r'("?sep=."?)?[\s,;]*', re.IGNORECASE)
"""A blank line, an empty row of a spreadsheet, or the line with which Excel recognizes the delimiter."""

Record = tuple[int, list[str] | str]
"""The number of a record's first line, and the record's fields or an error message."""


def records(text: TextIO, number: int, delimiter: str, fields: int) -> Iterator[Record]:
    """Yield the records after the header, each of which must have this number of fields. `number` is that of the header's line."""
    lines = Lines(text, number)
    for first, line in lines:
        if line is None:
            yield first, TOO_LONG
        elif line.strip(f" \t{delimiter}"):  # a spreadsheet writes an empty row as delimiters only
            yield first, _record(lines, line, delimiter, fields)


def header(text: TextIO) -> tuple[int, str]:
    """Return the number and the text of the header's line, which may follow blank lines and Excel's `sep=` line.

    Raises:
        ImportFileError: The lines end with carriage returns only.
    """
    number, line = 1, text.readline(MAX_ROW)
    while line and _NO_HEADER.fullmatch(line):
        number, line = number + 1, text.readline(MAX_ROW)
    line = line.rstrip("\r\n")
    if "\r" in line:
        raise ImportFileError(
            "the lines end with carriage returns only; save the file with Unix or Windows line endings"
        )
    return number, line


def names(line: str, delimiter: str) -> list[str]:
    """Return the fields into which a delimiter splits the header."""
    return [name.strip() for name in _parsed(line, delimiter) or [line]]


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
