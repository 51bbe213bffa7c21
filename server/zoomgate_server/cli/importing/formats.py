"""Readers for the supported import formats."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from zoomgate_server.cli.importing import csv_file, json_file
from zoomgate_server.cli.importing.rows import Fields, InvalidEntry, InvalidRow, Row, validated
from zoomgate_server.cli.importing.text import MAX_ROW, ImportFileError, Lines, opened

_T = TypeVar("_T")

_DELIMITERS = ",;\t"
_VELO_COLUMNS = ("refresh_token", "access_token", "expires_in", "_updatedDate", "scope")
_SAFE_NAME = re.compile(r"[A-Za-z_ .-]{1,30}")
_NOT_AN_OBJECT = f"the line is not a JSON object of at most {MAX_ROW} characters"
LINE_KEYS = frozenset({"user_email", "access_token", "refresh_token", "scope", "expires_at", "updated_at"})
"""The fields of a line in the format `jsonl`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to import.

    Attributes:
        name: The name of the format, as used on the command line.
        user_field: The column or field with the email address; empty if the format has a fixed field.
        read: Function that returns an iterator over all rows. It can be called repeatedly.
    """

    name: str
    path: Path
    user_field: str
    read: Callable[[], Iterator[Row | InvalidRow]]


def velo_users(path: Path, user_column: str) -> Source:
    """Return a source for an export of the collection `ZoomUsers` of Velo's Zoom package, as CSV or JSON."""

    def read() -> Iterator[Row | InvalidRow]:
        with opened(path) as text:
            is_json = text.read(MAX_ROW).lstrip()[:1] in ("[", "{")
        with opened(path) as text:
            if is_json:
                yield from _rows(
                    json_file.objects(text.read()), lambda value: _velo_object(value, user_column)
                )
            else:
                yield from _velo_records(text, user_column)

    return Source("velo-users", path, user_column, read)


def nango(path: Path, user_field: str) -> Source:
    """Return a source for connections as returned by Nango's API, in a JSON array or as a sequence of objects.

    Args:
        user_field: The path of the field that contains the user's email address; dots separate nested fields.
    """

    def read() -> Iterator[Row | InvalidRow]:
        with opened(path) as text:
            yield from _rows(json_file.objects(text.read()), lambda value: _nango_fields(value, user_field))

    return Source("nango", path, user_field, read)


def json_lines(path: Path) -> Source:
    """Return a source for Zoomgate's own format, one JSON object per line."""

    def read() -> Iterator[Row | InvalidRow]:
        with opened(path) as text:
            yield from _rows(_line_objects(text), _line_fields)

    return Source("jsonl", path, "", read)


def _rows(
    entries: Iterable[tuple[int, _T | str]], parse: Callable[[_T], Fields]
) -> Iterator[Row | InvalidRow]:
    """Yield a row for each entry, which is given with its first line's number; a string is the error message of an invalid entry."""
    for number, (line, entry) in enumerate(entries, start=1):
        try:
            if isinstance(entry, str):
                raise InvalidEntry(entry)
            yield validated(number, line, parse(entry))
        except InvalidEntry as error:
            yield InvalidRow(number, line, error.user_email, str(error))


def _velo_records(text: TextIO, user_column: str) -> Iterator[Row | InvalidRow]:
    number, line = csv_file.header(text)
    delimiter, names, user = _velo_header(line, user_column)

    def parse(values: list[str]) -> Fields:
        return _velo_fields(values[user], dict(zip(names, values, strict=True)))

    return _rows(csv_file.records(text, number, delimiter, len(names)), parse)


def _velo_header(line: str, user_column: str) -> tuple[str, list[str], int]:
    """Return the delimiter, the normalized column names, and the index of the column with the email address."""
    longest: list[str] = []
    for delimiter in _DELIMITERS:
        names = csv_file.names(line, delimiter)
        normalized = [_normalized(name) for name in names]
        user = names.index(user_column) if user_column in names else None
        if user is None and normalized.count(_normalized(user_column)) == 1:
            user = normalized.index(_normalized(user_column))
        if user is not None and "refreshtoken" in normalized:
            _reject_duplicate_columns(names, normalized, user_column)
            return delimiter, normalized, user
        longest = names if len(names) > len(longest) else longest
    raise ImportFileError(
        f"the header must contain the columns refresh_token and {user_column} (to use a different column, set --user-column);"
        f" it contains {_listed(longest)}"
    )


def _reject_duplicate_columns(names: Sequence[str], normalized: Sequence[str], user_column: str) -> None:
    duplicates = [name for name in _VELO_COLUMNS if normalized.count(_normalized(name)) > 1]
    if names.count(user_column) > 1:
        duplicates.append(user_column)
    if duplicates:
        raise ImportFileError(
            f"the header contains {duplicates[0]} more than once; remove one of the columns"
        )


def _velo_object(value: Mapping[str, Any], user_column: str) -> Fields:
    item = value.get("data", value)
    if not isinstance(item, dict):
        raise InvalidEntry("the object has no fields")
    user = item.get(user_column)
    if user is None:
        raise InvalidEntry(
            f"the field {user_column} is missing (to use a different field, set --user-column); the fields are {_listed(item)}"
        )
    return _velo_fields(user, {_normalized(name): field for name, field in item.items()})


def _velo_fields(user: object, values: Mapping[str, object]) -> Fields:
    return {
        "user_email": user,
        "access_token": values.get("accesstoken"),
        "refresh_token": values.get("refreshtoken"),
        "scope": values.get("scope"),
        "expires_in": values.get("expiresin"),
        "updated_at": values.get("updateddate"),
    }


def _nango_fields(value: Mapping[str, Any], user_field: str) -> Fields:
    if value.get("provider") != "zoom":
        raise InvalidEntry("the connection's provider is not zoom; export only connections to Zoom")
    credentials = value.get("credentials")
    if not isinstance(credentials, dict):
        raise InvalidEntry(
            "the connection has no credentials; get each connection from Nango individually, since its list omits credentials"
        )
    user = _at(value, user_field)
    if user is None:
        raise InvalidEntry(f"the field {user_field} is missing (to use a different field, set --user-field)")
    raw = credentials.get("raw")
    return {
        "user_email": user,
        "access_token": credentials.get("access_token"),
        "refresh_token": credentials.get("refresh_token"),
        "scope": raw.get("scope") if isinstance(raw, dict) else "",
        "expires_at": credentials.get("expires_at"),
        "updated_at": value.get("last_fetched_at") or value.get("updated_at"),
    }


def _line_objects(text: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    decoder = json_file.Decoder()
    for line, content in Lines(text):
        if content is None or content.strip():
            yield line, _object(decoder, content)


def _line_fields(value: dict[str, Any]) -> Fields:
    unknown = value.keys() - LINE_KEYS
    if unknown:
        known = ", ".join(sorted(LINE_KEYS))
        raise InvalidEntry(
            f"the object has unknown fields: {_listed(sorted(unknown))}; the known fields are {known}"
        )
    return value


def _object(decoder: json_file.Decoder, line: str | None) -> dict[str, Any] | str:
    try:
        value = decoder.decode(line or "")
    except (ValueError, RecursionError):
        return _NOT_AN_OBJECT
    if not isinstance(value, dict):
        return _NOT_AN_OBJECT
    return json_file.DUPLICATE_KEY if decoder.has_duplicates else value


def _at(value: Mapping[str, Any], field: str) -> object:
    current: object = value
    for name in field.split("."):
        current = current.get(name) if isinstance(current, Mapping) else None
    return current


def _normalized(name: str) -> str:
    """Return a column name in lower case without spaces and punctuation, since an export may name `_updatedDate` `Updated Date`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Return the names as a list, masking names that might be data: without a header, the first line contains tokens."""
    masked = [name if _SAFE_NAME.fullmatch(name) else "…" for name in list(names)[:20]]
    return ", ".join(masked) or "none"
