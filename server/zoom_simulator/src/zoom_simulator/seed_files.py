"""Parser for seed files, which define the users and meetings at startup."""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoom_simulator import meeting_rules
from zoom_simulator.errors import InvalidFields
from zoom_simulator.field_types import TIME, ListOf, Record, email, integer, parse_time, text
from zoom_simulator.meeting_fields import MEETING
from zoom_simulator.options import (
    Participant,
    SeededInstance,
    SeededMeeting,
    SimulatedUser,
    email_key,
    user_violations,
)
from zoom_simulator.registrants import REGISTRANT

_USER_KEYS = tuple(field.name for field in fields(SimulatedUser))
_INSTANCE = Record(
    {
        "start_time": TIME,
        "minutes": integer(1, 1440),
        "participants": ListOf(Record({"name": text(200), "email": email()}, required=("name",))),
    },
    required=("start_time", "minutes"),
)
_MEETING = Record(
    {
        **{name: kind for name, kind in MEETING.fields.items() if name != "schedule_for"},
        "id": integer(10**8, 10**11 - 1),
        "registrants": ListOf(REGISTRANT),
        "instances": ListOf(_INSTANCE),
    }
)
_EXAMPLES = {
    "topic": 'topic = "Planning"',
    "agenda": 'agenda = "What we discuss"',
    "password": 'password = "secret" (at most 10 characters)',
    "type": "type = 2 (one of 1, 2, 3, 8, 10)",
    "duration": "duration = 60 (in minutes)",
    "timezone": 'timezone = "Europe/Berlin"',
    "start_time": 'start_time = "2026-01-05T09:00:00Z" (without Z: in the time zone of the meeting)',
    "settings": "settings = { waiting_room = true }",
    "id": "id = 81234500001 (9 to 11 digits, unique)",
    "recurrence": "recurrence = { type = 1, repeat_interval = 1, end_times = 3 }",
    "default_password": "default_password = true",
    "pre_schedule": "pre_schedule = false",
    "template_id": 'template_id = "Dv4YdINdTk+Z5RToadh5ug=="',
    "tracking_fields": 'tracking_fields = [{ field = "Department", value = "Sales" }]',
    "registrants": 'registrants = [{ email = "jo@example.com", first_name = "Jo" }]',
    "instances": 'instances = [{ start_time = 2026-01-05T09:00:00Z, minutes = 30, participants = [{ name = "Jo" }] }]',
}


class SeedFileError(Exception):
    """An error for an invalid seed file.

    Attributes:
        problems: One message per problem, with file, line, field and correction.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Seed:
    """The content of a seed file."""

    users: tuple[SimulatedUser, ...]
    meetings: tuple[SeededMeeting, ...]


def load(path: Path) -> Seed:
    """Read and parse a seed file.

    Raises:
        SeedFileError: The file cannot be read or is invalid. The error lists all problems.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SeedFileError(
            [f"{path} cannot be read ({error.strerror}); check its path and permissions"]
        ) from None
    except UnicodeDecodeError:
        raise SeedFileError([f"{path} is not UTF-8; save it as UTF-8"]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Seed:
    """Parse the text of a seed file; `name` is the file name in error messages.

    Raises:
        SeedFileError: The text is invalid. The error lists all problems.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SeedFileError([f"{name} is not valid TOML: {error}"]) from None
    except (ValueError, RecursionError):
        raise SeedFileError(
            [f"{name} contains a number that is too long, or is nested too deeply; shorten it"]
        ) from None
    return _Reader(text, name).read(content)


class _Reader:
    """A validator that collects all problems of a seed file."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines = _Lines(text)
        self._problems: list[str] = []
        self._ids: set[int] = set()
        self._used_values: set[tuple[str, str]] = set()

    def read(self, content: Mapping[str, Any]) -> Seed:
        for key in content:
            if key != "users":
                self._add_problem(
                    self._lines.line_of((), key), f"unknown key {key}; only [[users]] tables are allowed"
                )
        users: list[SimulatedUser] = []
        meetings: list[SeededMeeting] = []
        for number, row in self._tables(content, "users", ()):
            scheduled = list(self._meetings(row, number))
            user = self._user(row, number)
            if user is not None:
                users.append(user)
                meetings.extend(_seeded(user.email, meeting) for meeting in scheduled)
        if not users and not self._problems:
            self._add_problem(1, 'users is missing; add [[users]] with email = "monica@example.com" below it')
        if self._problems:
            raise SeedFileError(self._problems)
        return Seed(tuple(users), tuple(meetings))

    def _user(self, row: Mapping[str, Any], number: int) -> SimulatedUser | None:
        before, path = len(self._problems), f"users[{number}]"
        values = {key: value for key, value in row.items() if key != "meetings"}
        self._check_keys(values, _USER_KEYS, path, (number,))
        known = {key: value for key, value in values.items() if key in _USER_KEYS}
        for key, problem in user_violations(known).items():
            self._add_problem(self._lines.line_of((number,), key), f"{path}.{problem}")
        if len(self._problems) > before:
            return None
        user = SimulatedUser(**known)
        for key, value in (("email", email_key(user.email)), ("user_id", user.user_id)):
            if (key, value) in self._used_values:
                line = self._lines.line_of((number,), key)
                self._add_problem(
                    line, f"{path}.{key} is already used by a different user; use a unique value"
                )
            self._used_values.add((key, value))
        return user

    def _meetings(self, row: Mapping[str, Any], user: int) -> Iterator[dict[str, Any]]:
        for number, values in self._tables(row, "meetings", (user,)):
            path, table = f"users[{user}].meetings[{number}]", (user, number)
            self._check_keys(values, _MEETING.fields, path, table)
            meeting = {key: _zoom_times(value) for key, value in values.items() if key in _MEETING.fields}
            try:
                meeting = meeting_rules.read(meeting, _MEETING)
                invalid = set()
            except InvalidFields as error:
                invalid = set(error.fields)
            if "id" in meeting and not self._reserve_id(meeting["id"]):
                invalid.add("id")
            for field in sorted(invalid):
                key = re.split(r"[.\[]", field)[0]
                self._add_problem(
                    self._lines.line_of(table, key),
                    f"{path}.{field} is invalid; for example {_EXAMPLES[key]}",
                )
            yield meeting

    def _reserve_id(self, number: int) -> bool:
        if number in self._ids:
            return False
        self._ids.add(number)
        return True

    def _tables(
        self, content: Mapping[str, Any], key: str, table: tuple[int, ...]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = content.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            header = "users.meetings" if table else "users"
            self._add_problem(
                self._lines.line_of(table, key), f"{key} must be an array of tables; use [[{header}]]"
            )
            return
        yield from enumerate(rows, start=1)

    def _check_keys(
        self, values: Mapping[str, Any], known: Collection[str], path: str, table: tuple[int, ...]
    ) -> None:
        for key in values:
            if key not in known:
                similar = difflib.get_close_matches(key, known, 1)
                suggestion = similar[0] if similar else f"one of {', '.join(known)}"
                self._add_problem(
                    self._lines.line_of(table, key), f"unknown key {path}.{key}; use {suggestion}"
                )

    def _add_problem(self, line: int, problem: str) -> None:
        self._problems.append(f"{self._name}:{line}: {problem}")


class _Lines:
    """The line numbers of tables and keys, for error messages."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._starts: dict[tuple[int, ...], int] = {(): 0}
        user = meeting = 0
        for number, line in enumerate(self._lines, start=1):
            if re.match(r"\s*\[\[\s*users\s*\]\]", line):
                user, meeting = user + 1, 0
                self._starts[user,] = number
            elif re.match(r"\s*\[\[\s*users\s*\.\s*meetings\s*\]\]", line):
                meeting += 1
                self._starts[user, meeting] = number

    def line_of(self, table: tuple[int, ...], key: str) -> int:
        """Return the line of a key in a table, or of the table itself if the key is absent.

        A meeting in an inline array has no known line of its own; the line of its user is returned instead.
        """
        while table not in self._starts:
            table = table[:-1]
        start = self._starts[table]
        ends = [number for number in self._starts.values() if number > start]
        for number in range(start, min(ends, default=len(self._lines) + 1) - 1):
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", self._lines[number]):
                return number + 1
        for number, line in enumerate(self._lines, start=1):
            if not table and re.match(rf"\s*\[+\s*{re.escape(key)}\s*\]+", line):
                return number
        return max(start, 1)


def _seeded(owner: str, meeting: dict[str, Any]) -> SeededMeeting:
    """Return a meeting that was read with `_MEETING`."""
    registrants, instances = meeting.pop("registrants", []), meeting.pop("instances", [])
    zone = meeting.get("timezone", "UTC")
    return SeededMeeting(
        owner,
        meeting,
        tuple(registrants),
        tuple(
            SeededInstance(
                _seconds(each["start_time"], zone),
                each["minutes"],
                tuple(Participant(**person) for person in each.get("participants", [])),
            )
            for each in instances
        ),
    )


def _seconds(time: str, zone: str) -> float:
    moment = parse_time(time, zone)
    return 0.0 if moment is None else moment.timestamp()


def _zoom_times(value: Any) -> Any:
    """Format TOML datetimes, also those in tables and arrays, as Zoom expects them."""
    match value:
        case datetime():
            if value.tzinfo is None:
                return value.strftime("%Y-%m-%dT%H:%M:%S")
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case list():
            return [_zoom_times(each) for each in value]
        case dict():
            return {key: _zoom_times(each) for key, each in value.items()}
    return value
