"""Tests for reading import files in all formats."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from service.importing.exports import ExportedUser, as_csv
from zoomgate_server.cli.importing import formats
from zoomgate_server.cli.importing.rows import InvalidRow, Row, parse_time
from zoomgate_server.cli.importing.scan import scanned
from zoomgate_server.cli.importing.text import ImportFileError

NOW = time.time()
USERS = [
    ExportedUser(f"p{number}@example.com", f"access-{number}", f"refresh-{number}") for number in range(4)
]
CSV = as_csv(USERS)
HEADER, *RECORDS = CSV.splitlines(keepends=True)
OBJECTS = [json.dumps(user.velo) for user in USERS]
TWICE = json.dumps(USERS[0].line).replace("{", '{"refresh_token": "other", ', 1)
LINES = [json.dumps(user.line) for user in USERS]
GOOD = ["p0@example.com", "p1@example.com", "p2@example.com", "p3@example.com"]

Read = Callable[[bytes | str], tuple[list[str], dict[int, str]]]


def reader(tmp_path: Path, make: Callable[[Path], formats.Source]) -> Read:
    """Return a function that reads a file and returns the addresses of the valid rows and the errors by line."""

    def read(content: bytes | str) -> tuple[list[str], dict[int, str]]:
        path = tmp_path / "export"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rows = list(make(path).read())
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        good = [row.user_email for row in rows if isinstance(row, Row)]
        return good, {row.line: row.reason for row in rows if isinstance(row, InvalidRow)}

    return read


@pytest.fixture
def velo(tmp_path: Path) -> Read:
    """Return a reader for the collection `ZoomUsers`."""
    return reader(tmp_path, lambda path: formats.velo_users(path, "userEmail"))


@pytest.fixture
def lines(tmp_path: Path) -> Read:
    """Return a reader for the format `jsonl`."""
    return reader(tmp_path, formats.json_lines)


@pytest.fixture
def nango(tmp_path: Path) -> Read:
    """Return a reader for connections of Nango."""
    return reader(tmp_path, lambda path: formats.nango(path, "end_user.email"))


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace("\r\n", "\n"),
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.encode("utf-16"),
        b"\xfe\xff" + CSV.encode("utf-16-be"),
        as_csv(USERS, delimiter=";"),
        as_csv(USERS, delimiter="\t"),
        CSV.replace("_updatedDate", "Updated Date").replace("refresh_token", "Refresh Token"),
        CSV + "\r\n\r\n",
        "\r\n  \r\n" + CSV,
        ",,,,,,,\r\n" + CSV + ",,,,,,,\r\n",
        ";;;;;;;\n" + as_csv(USERS, delimiter=";") + ";;;;;;;\n",
        b"\xef\xbb\xbfsep=,\r\n" + CSV.encode(),
        ("sep=\t\r\n" + as_csv(USERS, delimiter="\t")).encode("utf-16"),
        "SEP=;\r\n\r\n" + as_csv(USERS, delimiter=";"),
        f"[{','.join(OBJECTS)}]",
        "\ufeff[\r\n" + ",\r\n".join(OBJECTS) + "\r\n]\r\n",
        f"[{','.join(OBJECTS)}]".encode("utf-16"),
        "\n".join(OBJECTS),
        json.dumps({"items": [user.velo for user in USERS], "totalCount": 4}, indent=4),
        json.dumps({"_items": [user.velo for user in USERS], "_totalCount": 4}),
        json.dumps({"paging": {"count": 4}, "dataItems": [{"id": "1", "data": u.velo} for u in USERS]}),
    ],
    ids=[
        "unchanged",
        "unix line endings",
        "byte order mark",
        "utf-16 little",
        "utf-16 big",
        "semicolons",
        "tabs",
        "display names",
        "blank lines",
        "blank lines before the header",
        "empty rows of a spreadsheet",
        "empty rows with semicolons",
        "delimiter line",
        "delimiter line with a tab",
        "delimiter line and a blank line",
        "json on one line",
        "json with byte order mark",
        "json in utf-16",
        "sequence of objects",
        "query items",
        "query result",
        "data api items",
    ],
)
def test_all_forms_of_an_export_yield_the_same_rows(content: bytes | str, velo: Read) -> None:
    assert velo(content) == (GOOD, {})


def test_addresses_are_in_lower_case_in_all_formats(velo: Read, lines: Read, nango: Read) -> None:
    users = [replace(user, email=user.email.upper()) for user in USERS]
    assert velo(as_csv(users)) == (GOOD, {})
    assert velo(json.dumps([user.velo for user in users])) == (GOOD, {})
    assert nango(json.dumps([user.nango for user in users])) == (GOOD, {})
    assert lines("\n".join(json.dumps(user.line) for user in users)) == (GOOD, {})


INVALID_RECORDS: dict[str, tuple[str | bytes, int, str]] = {
    "truncated": (RECORDS[1][:30] + "\r\n", 3, "fields, but the header has 8"),
    "extra field": (RECORDS[1].rstrip() + ",more\r\n", 3, "the row has 9 fields"),
    "unclosed quotation mark": (
        '7b1c,"' + RECORDS[1].partition(",")[2],
        3,
        "the row has an unclosed quotation mark",
    ),
    "stray quotation mark": (RECORDS[1].replace("refresh-1", 'ref"resh-1"x"'), 3, "unclosed"),
    "line of 10 MB": (RECORDS[1].replace("access-1", "a" * 10_000_000), 3, "longer than 65536"),
    "other encoding": (
        RECORDS[1].replace("refresh-1", "refresh-ü").encode("latin-1"),
        3,
        "in an unsupported encoding",
    ),
    "address with a Kelvin sign": (
        RECORDS[1].replace("p1@", "\u212a1@"),
        3,
        "the email address contains the non-ASCII character U+212A",
    ),
    "address with a full-width letter": (RECORDS[1].replace("p1@", "\uff501@"), 3, "character U+FF50"),
    "address in non-Latin script": (RECORDS[1].replace("p1@", "þ1@"), 3, "character U+00FE"),
    "address after a space": (RECORDS[1].replace("p1@", " p1@"), 3, "contains a space"),
    "two addresses": (RECORDS[1].replace("p1@example.com", '"p1@a.com,p2@a.com"'), 3, "exactly one @"),
    "missing address": (RECORDS[1].replace("p1@example.com", ""), 3, "the email address is required"),
    "missing refresh token": (RECORDS[1].replace("refresh-1", ""), 3, "the refresh token is missing"),
    "token with a space": (RECORDS[1].replace("refresh-1", "refresh 1"), 3, "the refresh token is invalid"),
    "token too long": (RECORDS[1].replace("refresh-1", "r" * 9000), 3, "the refresh token is invalid"),
    "invalid access token": (
        RECORDS[1].replace("access-1", "acc\u00e9s"),
        3,
        "the access token is invalid",
    ),
    "null bytes": (RECORDS[1].replace("refresh-1", "refresh\0"), 3, "the refresh token is invalid"),
}


def test_lines_before_the_header_are_counted(velo: Read) -> None:
    """Line numbers in errors are those of the file."""
    good, errors = velo("sep=,\r\n\r\n" + HEADER + "x,y\r\n" + RECORDS[0])
    assert good == [GOOD[0]]
    assert list(errors) == [4]


@pytest.mark.parametrize("name", INVALID_RECORDS)
def test_invalid_record_does_not_affect_other_records(name: str, velo: Read) -> None:
    invalid, line, reason = INVALID_RECORDS[name]
    invalid = invalid if isinstance(invalid, bytes) else invalid.encode()
    good, errors = velo(
        b"".join([HEADER.encode(), RECORDS[0].encode(), invalid, RECORDS[2].encode(), RECORDS[3].encode()])
    )
    assert good == [GOOD[0], *GOOD[2:]]
    assert list(errors) == [line]
    assert reason in errors[line]


def test_quoted_field_may_contain_line_endings(velo: Read) -> None:
    """The line numbers reported for rows after such a field are correct."""
    note = ExportedUser("p9@example.com", "access-9", "refresh-9").velo | {"_id": 'a "quoted"\nnote,\n'}
    fields = ",".join(f'"{str(value).replace(chr(34), chr(34) * 2)}"' for value in note.values())
    good, errors = velo(HEADER + fields + "\r\n" + "x,y\r\n" + RECORDS[0])
    assert good == ["p9@example.com", "p0@example.com"]
    assert list(errors) == [5]


INVALID_OBJECTS: dict[str, tuple[str, str]] = {
    "not json": ('{"userEmail": p1}', "not a JSON object"),
    "unclosed string": ('{"userEmail": "p1', "not a JSON object"),
    "unclosed object": ('{"userEmail": "p1@example.com"', "not a JSON object"),
    "number": ("17", "not a JSON object"),
    "object of 10 MB": (json.dumps(USERS[1].velo | {"more": "m" * 10_000_000}), "not a JSON object"),
    "deep nesting": ('{"a":' * 100_000 + "1" + "}" * 100_000, "not a JSON object"),
    "many blanks": ('{"userEmail": }' + " " * 300_000, "not a JSON object"),
    "missing address": (
        json.dumps({"refresh_token": "r", "Owner": "x"}),
        "the field userEmail is missing",
    ),
    "key twice": (OBJECTS[1].replace("{", '{"refresh_token": "other", ', 1), "the object has a key twice"),
    "nested key twice": (OBJECTS[1].replace("{", '{"x": [{"a": 1, "a": 2}], ', 1), "has a key twice"),
    "numeric token": (
        json.dumps(USERS[1].velo | {"refresh_token": 17}),
        "the refresh token is invalid",
    ),
}


@pytest.mark.parametrize("name", INVALID_OBJECTS)
def test_invalid_object_does_not_affect_other_objects(name: str, velo: Read) -> None:
    invalid, reason = INVALID_OBJECTS[name]
    good, errors = velo("[\n" + ",\n".join([OBJECTS[0], invalid, OBJECTS[2], OBJECTS[3]]) + "\n]")
    assert good == [GOOD[0], *GOOD[2:]]
    assert list(errors) == [3]
    assert reason in errors[3]


def test_truncated_list_is_read_and_reported(velo: Read) -> None:
    good, errors = velo("[\n" + ",\n".join(OBJECTS)[:-20])
    assert good == GOOD[:3]
    assert "is truncated" in errors[5]
    good, errors = velo("[\n" + ",\n".join(OBJECTS))
    assert good == GOOD
    assert "the file is truncated" in errors[5]


def test_jsonl_lines_are_validated_independently(lines: Read) -> None:
    """Unknown fields are rejected, since they may be misspelled."""
    misspelled = json.dumps(USERS[1].line | {"acess_token": "a"})
    good, errors = lines(
        "\n".join([LINES[0], misspelled, "{", "x" * 10_000_000, "[1]", LINES[2], LINES[3][:-9], TWICE])
    )
    assert good == [GOOD[0], GOOD[2]]
    assert list(errors) == [2, 3, 4, 5, 7, 8]
    assert errors[8].startswith("the object has a key twice; ")
    assert errors[2].startswith("the object has unknown fields: acess_token; ")


def test_documented_line_is_valid_and_complete(lines: Read) -> None:
    """The example in docs/importing.md contains every field."""
    page = (Path(__file__).parents[3] / "docs/importing.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^```json\n(.+)\n```$", page, re.MULTILINE)
    assert lines(line.replace("…", "opaque")) == (["monica@example.com"], {})
    assert json.loads(line).keys() == formats.LINE_KEYS


def test_epoch_times_in_csv_determine_the_expiry(tmp_path: Path) -> None:
    """A spreadsheet or a database may export `_updatedDate` as seconds or milliseconds since 1970."""
    path = tmp_path / "export"
    for date in (str(int(NOW)), str(int(NOW * 1000))):
        path.write_text(CSV.replace(USERS[0].velo["_updatedDate"], date))
        with scanned(formats.velo_users(path, "userEmail"), NOW) as scan:
            assert (scan.invalid_times, scan.valid_access_tokens) == (0, len(USERS))


def test_nango_connection_without_the_address_field(nango: Read) -> None:
    """The error names the field and the option that selects a different field."""
    anonymous = USERS[0].nango | {"end_user": None}
    good, errors = nango(json.dumps([anonymous, USERS[1].nango]))
    assert good == [GOOD[1]]
    assert errors[1] == "the field end_user.email is missing (to use a different field, set --user-field)"


@pytest.mark.parametrize("provider", [{"provider": "google-mail"}, {"provider": None}, {}])
def test_nango_connection_to_a_different_provider_is_rejected(
    provider: dict[str, object], nango: Read
) -> None:
    """A refresh token of a different provider must not be sent to Zoom."""
    other = {key: value for key, value in USERS[0].nango.items() if key != "provider"} | provider
    good, errors = nango(json.dumps([other, USERS[1].nango]))
    assert good == [GOOD[1]]
    assert errors[1] == "the connection's provider is not zoom; export only connections to Zoom"


def test_nango_connection_without_credentials(nango: Read) -> None:
    """Nango's list of connections omits credentials; the error explains how to export them."""
    listed = USERS[0].nango
    del listed["credentials"]
    good, errors = nango(json.dumps({"connections": [listed, USERS[1].nango]}))
    assert good == [GOOD[1]]
    assert "get each connection from Nango individually" in errors[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        (HEADER, "the file contains no rows; export it again"),
        ("[]", "the file contains no rows; export it again"),
        (CSV.replace("\r\n", "\r"), "save the file with Unix or Windows line endings"),
        (CSV.encode("utf-16-le"), "save it as UTF-8"),
        (
            CSV.replace("userEmail", "owner"),
            "(to use a different column, set --user-column); it contains _id, owner, access_token, expires_in, scope, refresh_token,",
        ),
        ("".join(RECORDS), "it contains …, …"),
        (CSV.replace("token_type", "Refresh Token"), "contains refresh_token more than once"),
        (CSV.replace("_id", "userEmail"), "contains userEmail more than once"),
        ("name\nMonica\n", "it contains name"),
    ],
)
def test_unusable_file_is_rejected(content: bytes | str, sentence: str, tmp_path: Path) -> None:
    """The error message contains no tokens."""
    path = tmp_path / "export"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ImportFileError) as problem, scanned(formats.velo_users(path, "userEmail"), NOW):
        pass
    assert sentence in str(problem.value)
    assert "refresh-" not in str(problem.value)


def test_csv_file_is_rejected_by_json_formats(lines: Read, nango: Read) -> None:
    with pytest.raises(ImportFileError, match="not JSON"):
        nango(CSV)
    assert lines(CSV)[0] == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-01-05T09:00:00Z", 1767603600.0),
        ("2026-01-05T09:00:00.250+01:00", 1767600000.25),
        ("2026-01-05 09:00:00", 1767603600.0),
        ({"$date": "2026-01-05T09:00:00.000Z"}, 1767603600.0),
        ({"$date": 1767603600000}, 1767603600.0),
        (1767603600, 1767603600.0),
        ("1767603600", 1767603600.0),
        (" 1767603600.25 ", 1767603600.25),
        ("1767603600250", 1767603600.25),
        ("20260105", 1767571200.0),
        ("20260105T090000Z", 1767603600.0),
        ("yesterday", 0.0),
        ("9999-12-31T23:59:59-14:00", 0.0),
        (True, 0.0),
        (1e300, 0.0),
        (10**400, 0.0),
        (-(10**400), 0.0),
        (float("nan"), 0.0),
        (None, 0.0),
    ],
)
def test_times_are_parsed(value: object, seconds: float) -> None:
    """An invalid time is treated as unknown, so the refresh token is used."""
    assert parse_time(value) == seconds


def test_invalid_times_are_counted(tmp_path: Path) -> None:
    """Times may be invalid because a spreadsheet has reformatted them. Missing times are not counted as invalid."""
    path = tmp_path / "export"
    counts = []
    for make, rows in (
        (
            lambda: formats.velo_users(path, "userEmail"),
            [u.velo | {"_updatedDate": "1/5/2026 9:00"} for u in USERS],
        ),
        (lambda: formats.json_lines(path), [u.line | {"expires_at": "05.01.2026 09:00"} for u in USERS]),
        (
            lambda: formats.nango(path, "end_user.email"),
            [u.nango | {"updated_at": "Jan 5, 2026"} for u in USERS],
        ),
        (lambda: formats.velo_users(path, "userEmail"), [u.velo | {"_updatedDate": ""} for u in USERS]),
        (lambda: formats.velo_users(path, "userEmail"), [u.velo for u in USERS]),
    ):
        path.write_text("\n".join(json.dumps(row) for row in rows))
        with scanned(make(), NOW) as scan:
            counts.append(scan.invalid_times)
    assert counts == [4, 4, 4, 0, 0]


def test_newest_row_of_a_user_supersedes_the_others(tmp_path: Path) -> None:
    """The number and order of the user's rows and the case of the address do not matter, and invalid rows are ignored."""
    rows = [
        ExportedUser(address, "a", f"r{number}", NOW - age)
        for number, (address, age) in enumerate(
            [
                ("a@example.com", 50),
                ("A@example.com", 10),
                ("a@Example.com", 30),
                ("a@example.com", 10),
                ("A@EXAMPLE.COM", 90),
            ]
        )
    ]
    path = tmp_path / "export"
    path.write_text(
        as_csv([*rows, ExportedUser("b@example.com", "a", "r"), ExportedUser("a@example.com", "a", "", NOW)])
    )
    with scanned(formats.velo_users(path, "userEmail"), NOW) as scan:
        newest = {
            row.number: scan.newest(row)
            for row in formats.velo_users(path, "userEmail").read()
            if isinstance(row, Row)
        }
        assert newest == {1: 4, 2: 4, 3: 4, 4: 4, 5: 4, 6: 6}
        assert (scan.rows, scan.usable, scan.superseded, scan.rejected) == (7, 2, 4, 1)
