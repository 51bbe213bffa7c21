"""The kinds of files that can be imported, each read into rows."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from zoomgate_server.importing import csv_file, json_file
from zoomgate_server.importing.problems import FileProblem
from zoomgate_server.importing.rows import InvalidRow, Row, checked, lifetime, misread, moment
from zoomgate_server.importing.text import MAX_ROW, Lines, opened

_DELIMITERS = ",;\t"
_VELO_COLUMNS = ("refresh_token", "access_token", "expires_in", "_updatedDate", "scope")
_SHOWN_NAME = re.compile(r"[A-Za-z_ .-]{1,30}")
_NO_OBJECT = f"it is no JSON object of at most {MAX_ROW} characters"
LINE_KEYS = frozenset({"user_email", "access_token", "refresh_token", "scope", "expires_at", "updated_at"})
"""Fields of a line of our own format."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to import.

    Attributes:
        name: Of its format, as the command has it.
        path: Where it is.
        user_field: Which column or field has the e-mail address; empty where the format says so.
        read: Gives its rows from the beginning, as often as it is called.
    """

    name: str
    path: Path
    user_field: str
    read: Callable[[], Iterator[Row | InvalidRow]]


def velo_users(path: Path, user_column: str) -> Source:
    """The collection `ZoomUsers` of Velo's Zoom package, as CSV or JSON.

    Args:
        path: Where it is.
        user_column: Which column has the e-mail address.
    """

    def read() -> Iterator[Row | InvalidRow]:
        with opened(path) as text:
            is_json = text.read(MAX_ROW).lstrip()[:1] in ("[", "{")
        with opened(path) as text:
            yield from _velo_objects(text, user_column) if is_json else _velo_records(text, user_column)

    return Source("velo-users", path, user_column, read)


def nango(path: Path, user_field: str) -> Source:
    """Connections as Nango's API gives them one by one, in a JSON list or one after another.

    Args:
        path: Where it is.
        user_field: Which field has the e-mail address; a dot leads into an object.
    """

    def read() -> Iterator[Row | InvalidRow]:
        with opened(path) as text:
            yield from _nango_objects(text, user_field)

    return Source("nango", path, user_field, read)


def json_lines(path: Path) -> Source:
    """Our own format: a JSON object a line."""

    def read() -> Iterator[Row | InvalidRow]:
        with opened(path) as text:
            yield from _line_objects(text)

    return Source("jsonl", path, "", read)


def _velo_records(text: TextIO, user_column: str) -> Iterator[Row | InvalidRow]:
    delimiter, names, user = _velo_header(text, user_column)
    columns = {name: index for index, name in enumerate(names)}
    for number, (line, fields) in enumerate(csv_file.records(text, delimiter, len(names)), start=1):
        if isinstance(fields, str):
            yield InvalidRow(number, line, "", fields)
        else:
            found = {name: fields[index] for name, index in columns.items()}
            yield _velo_row(number, line, fields[user], found)


def _velo_header(text: TextIO, user_column: str) -> tuple[str, list[str], int]:
    """Give the delimiter, the plain names of the columns, and which of them has the address."""
    shown: list[str] = []
    for delimiter, names in csv_file.header(text, _DELIMITERS):
        plain = [_plain(name) for name in names]
        wanted = names.index(user_column) if user_column in names else None
        if wanted is None and plain.count(_plain(user_column)) == 1:
            wanted = plain.index(_plain(user_column))
        if wanted is not None and "refreshtoken" in plain:
            _see_each_once(names, plain, user_column)
            return delimiter, plain, wanted
        shown = names if len(names) > len(shown) else shown
    raise FileProblem(
        f"The first line has to name the columns refresh_token and {user_column} (choose another with --user-column);"
        f" it names {_listed(shown)}"
    )


def _see_each_once(names: Sequence[str], plain: Sequence[str], user_column: str) -> None:
    """Refuse a header in which it is not clear which of two columns is meant."""
    twice = [name for name in _VELO_COLUMNS if plain.count(_plain(name)) > 1]
    if names.count(user_column) > 1:
        twice.append(user_column)
    if twice:
        raise FileProblem(f"The first line names {twice[0]} more than once: leave one of the columns out")


def _velo_objects(text: TextIO, user_column: str) -> Iterator[Row | InvalidRow]:
    for number, (line, value) in enumerate(json_file.objects(text), start=1):
        if isinstance(value, str):
            yield InvalidRow(number, line, "", value)
            continue
        item = value.get("data", value)
        if not isinstance(item, dict):
            yield InvalidRow(number, line, "", "it has no fields")
            continue
        user = item.get(user_column)
        if user is None:
            yield InvalidRow(
                number,
                line,
                "",
                f"it has no field {user_column} (choose another with --user-column); it has {_listed(item)}",
            )
            continue
        yield _velo_row(number, line, user, {_plain(name): given for name, given in item.items()})


def _velo_row(number: int, line: int, user: object, found: Mapping[str, object]) -> Row | InvalidRow:
    given = found.get("updateddate")
    updated = moment(given)
    return checked(
        number,
        line,
        user=user,
        access_token=found.get("accesstoken"),
        refresh_token=found.get("refreshtoken"),
        scope=found.get("scope"),
        expires=updated + lifetime(found.get("expiresin")) if updated else 0.0,
        updated=updated,
        misread=misread(given, updated),
    )


def _nango_objects(text: TextIO, user_field: str) -> Iterator[Row | InvalidRow]:
    for number, (line, value) in enumerate(json_file.objects(text), start=1):
        if isinstance(value, str):
            yield InvalidRow(number, line, "", value)
            continue
        credentials = value.get("credentials")
        if not isinstance(credentials, dict):
            yield InvalidRow(
                number,
                line,
                "",
                "it has no credentials: ask Nango for each connection by itself, its list leaves them out",
            )
            continue
        user = _at(value, user_field)
        if user is None:
            yield InvalidRow(
                number, line, "", f"it has no field {user_field} (choose another with --user-field)"
            )
            continue
        raw = credentials.get("raw")
        times = (credentials.get("expires_at"), value.get("last_fetched_at") or value.get("updated_at"))
        expires, updated = map(moment, times)
        yield checked(
            number,
            line,
            user=user,
            access_token=credentials.get("access_token"),
            refresh_token=credentials.get("refresh_token"),
            scope=raw.get("scope") if isinstance(raw, dict) else "",
            expires=expires,
            updated=updated,
            misread=any(map(misread, times, (expires, updated))),
        )


def _line_objects(text: TextIO) -> Iterator[Row | InvalidRow]:
    lines, number = Lines(text), 0
    while (taken := lines.take()) is not None:
        line, content = taken
        if content is not None and not content.strip():
            continue
        number += 1
        value = _object(content)
        if value is None:
            yield InvalidRow(number, line, "", _NO_OBJECT)
            continue
        unknown = value.keys() - LINE_KEYS
        if unknown:
            known = ", ".join(sorted(LINE_KEYS))
            yield InvalidRow(
                number,
                line,
                "",
                f"it has fields that are not known, beside {known}: {_listed(sorted(unknown))}",
            )
            continue
        times = (value.get("expires_at"), value.get("updated_at"))
        expires, updated = map(moment, times)
        yield checked(
            number,
            line,
            user=value.get("user_email"),
            access_token=value.get("access_token"),
            refresh_token=value.get("refresh_token"),
            scope=value.get("scope"),
            expires=expires,
            updated=updated,
            misread=any(map(misread, times, (expires, updated))),
        )


def _object(line: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(line or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _at(value: Mapping[str, Any], field: str) -> object:
    found: object = value
    for name in field.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _plain(name: str) -> str:
    """Give a name without what exports change about it: `_updatedDate` may come as `Updated Date`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """List names that are names for sure: where there is no header, the first line has tokens in it."""
    shown = [name if _SHOWN_NAME.fullmatch(name) else "…" for name in list(names)[:20]]
    return ", ".join(shown) or "nothing"
