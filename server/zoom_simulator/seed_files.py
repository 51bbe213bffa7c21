"""Reads seed files: who has an account and which meetings there are when the simulator starts."""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoom_simulator import meeting_rules
from zoom_simulator.options import SeededMeeting, SimulatedUser, user_problems

_USER_KEYS = tuple(field.name for field in fields(SimulatedUser))
_MEETING_KEYS = (
    "agenda",
    "default_password",
    "duration",
    "id",
    "password",
    "pre_schedule",
    "recurrence",
    "settings",
    "start_time",
    "template_id",
    "timezone",
    "topic",
    "tracking_fields",
    "type",
)
_WRITE = {
    "topic": 'topic = "Planning"',
    "agenda": 'agenda = "What we talk about"',
    "password": 'password = "secret", of at most 10 characters',
    "type": "type = 2, or another of 1, 2, 3, 8, 10",
    "duration": "duration = 60, in minutes",
    "timezone": 'timezone = "Europe/Berlin"',
    "start_time": 'start_time = "2026-01-05T09:00:00Z", or without Z for the time zone of the meeting',
    "settings": "settings = { waiting_room = true }",
    "id": "id = 81234500001, of 9 to 11 digits, and give each meeting its own",
    "recurrence": "recurrence = { type = 1, repeat_interval = 1, end_times = 3 }",
}


class SeedFileError(Exception):
    """A seed file cannot be used.

    Attributes:
        problems: One sentence each: file, line, field, and what to write instead.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Seed:
    """What a seed file says."""

    users: tuple[SimulatedUser, ...]
    meetings: tuple[SeededMeeting, ...]


def load(path: Path) -> Seed:
    """Read a seed file.

    Raises:
        SeedFileError: With everything that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SeedFileError([f"{path} cannot be read ({error.strerror}): name a file of yours"]) from None
    except UnicodeDecodeError:
        raise SeedFileError([f"{path} is not UTF-8: save it as UTF-8"]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Seed:
    """Read the text of a seed file; `name` stands in the messages.

    Raises:
        SeedFileError: With everything that is wrong.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SeedFileError([f"{name} is no TOML: {error}"]) from None
    return _Reader(text, name).read(content)


class _Reader:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines = _Lines(text)
        self._problems: list[str] = []
        self._ids: set[int] = set()
        self._taken: set[tuple[str, str]] = set()

    def read(self, content: Mapping[str, Any]) -> Seed:
        for key in content:
            if key != "users":
                self._refuse(self._lines.of((), key), f"{key} is not known: write [[users]] tables only")
        users: list[SimulatedUser] = []
        meetings: list[SeededMeeting] = []
        for number, row in self._tables(content, "users", ()):
            scheduled = list(self._meetings(row, number))
            user = self._user(row, number)
            if user is not None:
                users.append(user)
                meetings.extend(SeededMeeting(user.email, meeting) for meeting in scheduled)
        if not users and not self._problems:
            self._refuse(1, 'users is missing: write [[users]] and email = "monica@example.com" below it')
        if self._problems:
            raise SeedFileError(self._problems)
        return Seed(tuple(users), tuple(meetings))

    def _user(self, row: Mapping[str, Any], number: int) -> SimulatedUser | None:
        before, place = len(self._problems), f"users[{number}]"
        given = {key: value for key, value in row.items() if key != "meetings"}
        self._unknown(given, _USER_KEYS, place, (number,))
        known = {key: value for key, value in given.items() if key in _USER_KEYS}
        for key, problem in user_problems(known).items():
            self._refuse(self._lines.of((number,), key), f"{place}.{problem}")
        if len(self._problems) > before:
            return None
        user = SimulatedUser(**known)
        for key in ("email", "user_id"):
            if (key, getattr(user, key)) in self._taken:
                line = self._lines.of((number,), key)
                self._refuse(line, f"{place}.{key} is another user's: write one that nobody has")
            self._taken.add((key, getattr(user, key)))
        return user

    def _meetings(self, row: Mapping[str, Any], user: int) -> Iterator[dict[str, Any]]:
        for number, given in self._tables(row, "meetings", (user,)):
            place, where = f"users[{user}].meetings[{number}]", (user, number)
            self._unknown(given, _MEETING_KEYS, place, where)
            meeting = {key: value for key, value in given.items() if key in _MEETING_KEYS}
            if isinstance(meeting.get("start_time"), datetime):
                meeting["start_time"] = _as_text(meeting["start_time"])
            wrong = {problem["field"] for problem in meeting_rules.problems(meeting)}
            if "id" in meeting and not self._free(meeting["id"]):
                wrong.add("id")
            for field in sorted(wrong):
                key = field.partition(".")[0]
                self._refuse(
                    self._lines.of(where, key), f"{place}.{field} cannot be used: write {_WRITE[key]}"
                )
            yield meeting

    def _free(self, number: object) -> bool:
        if type(number) is not int or not 10**8 <= number < 10**11 or number in self._ids:
            return False
        self._ids.add(number)
        return True

    def _tables(
        self, content: Mapping[str, Any], key: str, where: tuple[int, ...]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = content.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            header = "users.meetings" if where else "users"
            self._refuse(self._lines.of(where, key), f"{key} must be tables: write [[{header}]]")
            return
        yield from enumerate(rows, start=1)

    def _unknown(
        self, given: Mapping[str, Any], known: Collection[str], place: str, where: tuple[int, ...]
    ) -> None:
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                instead = near[0] if near else f"one of {', '.join(known)}"
                self._refuse(self._lines.of(where, key), f"{place}.{key} is not known: write {instead}")

    def _refuse(self, line: int, problem: str) -> None:
        self._problems.append(f"{self._name}:{line}: {problem}")


class _Lines:
    """Finds the lines of tables and keys, for messages."""

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

    def of(self, where: tuple[int, ...], key: str) -> int:
        """Line of a key in a table, or of the table itself; of a table in an inline array, the line of its user."""
        while where not in self._starts:
            where = where[:-1]
        start = self._starts[where]
        ends = [number for number in self._starts.values() if number > start]
        for number in range(start, min(ends, default=len(self._lines) + 1) - 1):
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", self._lines[number]):
                return number + 1
        for number, line in enumerate(self._lines, start=1):
            if not where and re.match(rf"\s*\[+\s*{re.escape(key)}\s*\]+", line):
                return number
        return max(start, 1)


def _as_text(moment: datetime) -> str:
    """Write a date and time of TOML as Zoom wants it."""
    if moment.tzinfo is None:
        return moment.strftime("%Y-%m-%dT%H:%M:%S")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
