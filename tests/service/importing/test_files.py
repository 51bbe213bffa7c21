"""Files that are not as they should be: each row is judged by itself, by its line, and the rest goes on."""

import contextlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.importing.exports import Person, as_csv
from zoomgate_server.importing import formats
from zoomgate_server.importing.problems import FileProblem
from zoomgate_server.importing.rows import InvalidRow, Row, moment
from zoomgate_server.importing.scan import DuplicateIndex, scan

NOW = time.time()
PEOPLE = [Person(f"p{number}@example.com", f"access-{number}", f"refresh-{number}") for number in range(4)]
CSV = as_csv(PEOPLE)
HEADER, *RECORDS = CSV.splitlines(keepends=True)
OBJECTS = [json.dumps(person.velo) for person in PEOPLE]
LINES = [json.dumps(person.line) for person in PEOPLE]
GOOD = ["p0@example.com", "p1@example.com", "p2@example.com", "p3@example.com"]

Read = Callable[[bytes | str], tuple[list[str], dict[int, str]]]


def reader(tmp_path: Path, make: Callable[[Path], formats.Source]) -> Read:
    """Give what reads a file: whose rows are good, and the flaws by their line."""

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
    """Reads the collection `ZoomUsers`."""
    return reader(tmp_path, lambda path: formats.velo_users(path, "userEmail"))


@pytest.fixture
def lines(tmp_path: Path) -> Read:
    """Reads our own format."""
    return reader(tmp_path, formats.json_lines)


@pytest.fixture
def nango(tmp_path: Path) -> Read:
    """Reads Nango's connections."""
    return reader(tmp_path, lambda path: formats.nango(path, "end_user.email"))


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace("\r\n", "\n"),
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.encode("utf-16"),
        b"\xfe\xff" + CSV.encode("utf-16-be"),
        as_csv(PEOPLE, delimiter=";"),
        as_csv(PEOPLE, delimiter="\t"),
        CSV.replace("_updatedDate", "Updated Date").replace("refresh_token", "Refresh Token"),
        CSV + "\r\n\r\n",
        f"[{','.join(OBJECTS)}]",
        "\ufeff[\r\n" + ",\r\n".join(OBJECTS) + "\r\n]\r\n",
        f"[{','.join(OBJECTS)}]".encode("utf-16"),
        "\n".join(OBJECTS),
        json.dumps({"items": [person.velo for person in PEOPLE], "totalCount": 4}, indent=4),
        json.dumps({"_items": [person.velo for person in PEOPLE], "_totalCount": 4}),
        json.dumps({"paging": {"count": 4}, "dataItems": [{"id": "1", "data": p.velo} for p in PEOPLE]}),
    ],
    ids=[
        "as it is",
        "unix line ends",
        "byte order mark",
        "utf-16 little",
        "utf-16 big",
        "semicolons",
        "tabs",
        "names as shown",
        "blank lines",
        "json in a line",
        "json with byte order mark",
        "json in utf-16",
        "objects one by one",
        "items of a query",
        "a query as it is",
        "items of the data api",
    ],
)
def test_the_ways_in_which_an_export_comes(content: bytes | str, velo: Read) -> None:
    """All of them are the same rows."""
    assert velo(content) == (GOOD, {})


CSV_FLAWS: dict[str, tuple[str | bytes, int, str]] = {
    "cut off": (RECORDS[1][:30] + "\r\n", 3, "fields, and the header has 8"),
    "a field too many": (RECORDS[1].rstrip() + ",more\r\n", 3, "it has 9 fields"),
    "an open quotation mark": (
        '7b1c,"' + RECORDS[1].partition(",")[2],
        3,
        "a quotation mark in it is not closed",
    ),
    "a stray quotation mark": (RECORDS[1].replace("refresh-1", 'ref"resh-1"x"'), 3, "not closed"),
    "a line of ten megabytes": (RECORDS[1].replace("access-1", "a" * 10_000_000), 3, "longer than 65536"),
    "bytes of another encoding": (
        RECORDS[1].replace("refresh-1", "refresh-ü").encode("latin-1"),
        3,
        "in another encoding",
    ),
    "an address in capitals": (
        RECORDS[1].replace("p1@", "P1@"),
        3,
        "its e-mail address must be in lower case",
    ),
    "an address of another script": (RECORDS[1].replace("p1@", "þ1@"), 3, "outside visible ASCII"),
    "no address": (RECORDS[1].replace("p1@example.com", ""), 3, "its e-mail address is required"),
    "no refresh token": (RECORDS[1].replace("refresh-1", ""), 3, "it has no refresh token"),
    "a token with a blank": (RECORDS[1].replace("refresh-1", "refresh 1"), 3, "its refresh token is none"),
    "a token that is too long": (RECORDS[1].replace("refresh-1", "r" * 9000), 3, "its refresh token is none"),
    "an access token that is none": (
        RECORDS[1].replace("access-1", "acc\u00e9s"),
        3,
        "its access token is none",
    ),
    "zeros": (RECORDS[1].replace("refresh-1", "refresh\0"), 3, "its refresh token is none"),
}


@pytest.mark.parametrize("name", CSV_FLAWS)
def test_a_damaged_record_takes_no_other_along(name: str, velo: Read) -> None:
    """The rows before and behind it are read."""
    damaged, line, reason = CSV_FLAWS[name]
    damaged = damaged if isinstance(damaged, bytes) else damaged.encode()
    good, flaws = velo(
        b"".join([HEADER.encode(), RECORDS[0].encode(), damaged, RECORDS[2].encode(), RECORDS[3].encode()])
    )
    assert good == [GOOD[0], *GOOD[2:]]
    assert list(flaws) == [line]
    assert reason in flaws[line]


def test_a_quoted_field_may_have_line_ends(velo: Read) -> None:
    """As a column that somebody added may; the lines behind it are counted right."""
    note = Person("p9@example.com", "access-9", "refresh-9").velo | {"_id": 'a "quoted"\nnote,\n'}
    fields = ",".join(f'"{str(value).replace(chr(34), chr(34) * 2)}"' for value in note.values())
    good, flaws = velo(HEADER + fields + "\r\n" + "x,y\r\n" + RECORDS[0])
    assert good == ["p9@example.com", "p0@example.com"]
    assert list(flaws) == [5]


JSON_FLAWS: dict[str, tuple[str, str]] = {
    "no json": ('{"userEmail": p1}', "it is no JSON object"),
    "an open string": ('{"userEmail": "p1', "it is no JSON object"),
    "an open object": ('{"userEmail": "p1@example.com"', "it is no JSON object"),
    "a number": ("17", "it is no JSON object"),
    "ten megabytes": (json.dumps(PEOPLE[1].velo | {"more": "m" * 10_000_000}), "it is no JSON object"),
    "depth": ('{"a":' * 100_000 + "1" + "}" * 100_000, "it is no JSON object"),
    "blanks without end": ('{"userEmail": }' + " " * 300_000, "it is no JSON object"),
    "no address": (json.dumps({"refresh_token": "r", "Owner": "x"}), "it has no field userEmail"),
    "a token that is a number": (
        json.dumps(PEOPLE[1].velo | {"refresh_token": 17}),
        "its refresh token is none",
    ),
}


@pytest.mark.parametrize("name", JSON_FLAWS)
def test_a_damaged_object_takes_no_other_along(name: str, velo: Read) -> None:
    """The objects before and behind it are read."""
    damaged, reason = JSON_FLAWS[name]
    good, flaws = velo("[\n" + ",\n".join([OBJECTS[0], damaged, OBJECTS[2], OBJECTS[3]]) + "\n]")
    assert good == [GOOD[0], *GOOD[2:]]
    assert list(flaws) == [3]
    assert reason in flaws[3]


def test_a_list_that_was_cut_off(velo: Read) -> None:
    """What is there is read, and that there was more is said."""
    good, flaws = velo("[\n" + ",\n".join(OBJECTS)[:-20])
    assert good == GOOD[:3]
    assert "was cut off" in flaws[5]
    good, flaws = velo("[\n" + ",\n".join(OBJECTS))
    assert good == GOOD
    assert "it was cut off" in flaws[5]


def test_lines_of_our_own_format(lines: Read) -> None:
    """Each line is judged by itself; a field that is not known is refused, since it may be one that was meant otherwise."""
    wrong = json.dumps(PEOPLE[1].line | {"acess_token": "a"})
    good, flaws = lines("\n".join([LINES[0], wrong, "{", "x" * 10_000_000, "[1]", LINES[2], LINES[3][:-9]]))
    assert good == [GOOD[0], GOOD[2]]
    assert list(flaws) == [2, 3, 4, 5, 7]
    assert flaws[2].endswith(": acess_token")


def test_the_documented_line(lines: Read) -> None:
    """The example of docs/importing.md is a row, and it has every field that there is."""
    page = (Path(__file__).parents[3] / "docs/importing.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^```json\n(.+)\n```$", page, re.MULTILINE)
    assert lines(line.replace("…", "opaque")) == (["monica@example.com"], {})
    assert json.loads(line).keys() == formats.LINE_KEYS


def test_nango_with_the_address_elsewhere(nango: Read) -> None:
    """Which field was looked for is said, and how to name another one."""
    anonymous = PEOPLE[0].nango | {"end_user": None}
    good, flaws = nango(json.dumps([anonymous, PEOPLE[1].nango]))
    assert good == [GOOD[1]]
    assert flaws[1] == "it has no field end_user.email (choose another with --user-field)"


def test_nango_without_credentials(nango: Read) -> None:
    """Nango's list of connections leaves them out: what to do is said."""
    listed = PEOPLE[0].nango
    del listed["credentials"]
    good, flaws = nango(json.dumps({"connections": [listed, PEOPLE[1].nango]}))
    assert good == [GOOD[1]]
    assert "ask Nango for each connection by itself" in flaws[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "The file is empty"),
        (" \n", "The file is empty"),
        (HEADER, "no row in the file: export it again"),
        ("[]", "no row in the file: export it again"),
        (CSV.replace("\r\n", "\r"), "save it with line ends of Unix or Windows"),
        (CSV.encode("utf-16-le"), "save it as UTF-8"),
        (
            CSV.replace("userEmail", "owner"),
            "(choose another with --user-column); it names _id, owner, access_token, expires_in, scope, refresh_token, token_type,",
        ),
        ("".join(RECORDS), "it names …, …"),
        (CSV.replace("token_type", "Refresh Token"), "names refresh_token more than once"),
        (CSV.replace("_id", "userEmail"), "names userEmail more than once"),
        ("name\nMonica\n", "it names name"),
    ],
)
def test_a_file_that_is_none(content: bytes | str, sentence: str, tmp_path: Path) -> None:
    """One sentence says why, and holds nothing that may be a token."""
    path = tmp_path / "export"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.closing(DuplicateIndex()) as giving_way, pytest.raises(FileProblem) as problem:
        scan(formats.velo_users(path, "userEmail"), giving_way, NOW, 10)
    assert sentence in str(problem.value)
    assert "refresh-" not in str(problem.value)


def test_what_is_not_json(lines: Read, nango: Read) -> None:
    """A CSV file given as JSON is refused as a whole, or line by line."""
    with pytest.raises(FileProblem, match="no JSON"):
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
def test_times(value: object, seconds: float) -> None:
    """A time that is none counts as unknown: the refresh token is spent then."""
    assert moment(value) == seconds


def test_times_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    """A spreadsheet may have rewritten them; times that are not there at all are no mistake."""
    path = tmp_path / "export"
    seen = []
    for make, rows in (
        (
            lambda: formats.velo_users(path, "userEmail"),
            [p.velo | {"_updatedDate": "1/5/2026 9:00"} for p in PEOPLE],
        ),
        (lambda: formats.json_lines(path), [p.line | {"expires_at": "05.01.2026 09:00"} for p in PEOPLE]),
        (
            lambda: formats.nango(path, "end_user.email"),
            [p.nango | {"updated_at": "Jan 5, 2026"} for p in PEOPLE],
        ),
        (lambda: formats.velo_users(path, "userEmail"), [p.velo | {"_updatedDate": ""} for p in PEOPLE]),
        (lambda: formats.velo_users(path, "userEmail"), [p.velo for p in PEOPLE]),
    ):
        path.write_text("\n".join(json.dumps(row) for row in rows))
        giving_way = DuplicateIndex()
        seen.append(scan(make(), giving_way, NOW, 10).misread)
        giving_way.close()
    assert seen == [4, 4, 4, 0, 0]


def test_the_newest_row_of_a_person_wins(tmp_path: Path) -> None:
    """Whatever their number and order; rows with a flaw take no part."""
    rows = [
        Person("a@example.com", "a", f"r{number}", NOW - age)
        for number, age in enumerate((50, 10, 30, 10, 90))
    ]
    path = tmp_path / "export"
    path.write_text(as_csv([*rows, Person("b@example.com", "a", "r"), Person("a@example.com", "a", "", NOW)]))
    giving_way = DuplicateIndex()
    found = scan(formats.velo_users(path, "userEmail"), giving_way, NOW, 10)
    assert list(giving_way.rows()) == [(1, 4), (2, 4), (3, 4), (5, 4)]
    assert (found.rows, found.counts["usable"], found.counts["superseded"], found.counts["refused"]) == (
        7,
        2,
        4,
        1,
    )
    giving_way.close()
