"""Constraints on one value of a request. `str()` states the accepted values, for violations and for the documentation."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate_server.time_zone import is_time_zone

_YEAR_10000 = 253_402_300_800


class Constraint(Protocol):
    """A constraint on a value, on a list, or on each entry of a list."""

    def violation(self, value: Any) -> str | None:
        """Return the description of the violation, or None if the value is accepted."""


class Characters(NamedTuple):
    """A maximum length of text."""

    maximum: int

    def __str__(self) -> str:
        return f"at most {self.maximum} characters"

    def violation(self, value: str) -> str | None:
        return f"has {len(value)} characters; send {self}" if len(value) > self.maximum else None


class Entries(NamedTuple):
    """A maximum length of a list, or its only length."""

    number: int
    exactly: bool = False

    def __str__(self) -> str:
        return f"{'exactly' if self.exactly else 'at most'} {self.number} entries"

    def violation(self, value: Any) -> str | None:
        length = len(value)
        is_accepted = length == self.number if self.exactly else length <= self.number
        return None if is_accepted else f"has {length} entries; send {self}"


class Numbers(NamedTuple):
    """A range or set of numbers, and its description."""

    allowed: range | tuple[int, ...]
    description: str = ""

    def __str__(self) -> str:
        return self.description or f"{self.allowed[0]} to {self.allowed[-1]}"

    def violation(self, value: int) -> str | None:
        return None if value in self.allowed else f"is {value}; send {self}"


class Words(NamedTuple):
    """A set of strings."""

    allowed: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {'; '.join(self.allowed)}"

    def violation(self, value: str) -> str | None:
        return None if value in self.allowed else f"is not supported by Zoom; send {self}"


class Form(NamedTuple):
    """A form of text: its name, an example, and the test of a string."""

    name: str
    example: str
    matches: Callable[[str], Any]

    def __str__(self) -> str:
        return f"{self.name}, such as {self.example}"

    def violation(self, value: str) -> str | None:
        return None if self.matches(value) else f"must be {self.name}; send a value such as {self.example}"


EMAIL = Form("an email address", "monica@example.com", re.compile(r".+@[^@\s]+", re.DOTALL).fullmatch)
EMAIL_OR_NONE = Form(f"empty or {EMAIL.name}", EMAIL.example, lambda text: not text or EMAIL.matches(text))
COUNTRY = Form("a country code of two letters", "DE", re.compile(r"[A-Za-z]{2}").fullmatch)
TIME_ZONE = Form("an IANA time zone", "Europe/Berlin", is_time_zone)


class Separable:
    """Text that Zoom's API represents as part of a delimited string."""

    def __str__(self) -> str:
        return "not blank, without commas and semicolons"

    def violation(self, value: str) -> str | None:
        if not value.strip():
            return "is empty; omit it"
        if "," in value or ";" in value:
            return "contains a comma or semicolon; send each value as a separate entry"
        return None


class Printable:
    """Text without control characters. Characters that set the direction of text are accepted."""

    control = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

    def __str__(self) -> str:
        return "without control characters"

    def violation(self, value: str) -> str | None:
        if value.isprintable() or not self.control.search(value):
            return None
        return "contains control characters; remove these characters"


class Multiline(Printable):
    """Text without control characters other than tabs and line breaks."""

    control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

    def __str__(self) -> str:
        return "without control characters other than tabs and line breaks"


class KnownValue:
    """A named value of an enum other than its unspecified value."""

    def __init__(self, descriptor: EnumDescriptor) -> None:
        self._names = {value.number: value.name for value in descriptor.values if value.number}

    def __str__(self) -> str:
        return f"one of {', '.join(self._names.values())}"

    def violation(self, value: int) -> str | None:
        return None if value in self._names else f"is {value}, which is not a value of the enum; send {self}"


class Time:
    """A time that Zoom can represent."""

    def __str__(self) -> str:
        return "a time in the years 1970 to 9999"

    def violation(self, value: Timestamp) -> str | None:
        if 0 <= value.seconds < _YEAR_10000 and 0 <= value.nanos < 10**9:
            return None
        return f"is not a valid time; send {self}"
