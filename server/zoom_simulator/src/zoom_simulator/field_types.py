"""Types of the fields of request bodies, and their validation."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol
from zoneinfo import ZoneInfo, available_timezones

from zoom_simulator.errors import InvalidFields

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(slots=True)
class Reading:
    """A request body that is being read.

    Attributes:
        undocumented: Whether to retain unknown fields and words, as a later version of Zoom does that knows them.
        violations: Zoom's error message for each invalid field, by its path.
    """

    undocumented: bool = False
    violations: dict[str, str] = field(default_factory=dict)


class FieldType(Protocol):
    """The type of a field."""

    def read(self, value: Any, path: str, reading: Reading) -> Any:
        """Return the value as it is stored, and add a violation for each invalid field in it."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value without fields.

    Attributes:
        accepts: Whether a value is valid.
        message: Zoom's error message for other values.
        grows: Whether later versions of Zoom add values.
    """

    accepts: Callable[[Any], bool]
    message: str
    grows: bool = False

    def read(self, value: Any, path: str, reading: Reading) -> Any:
        """See `FieldType`."""
        if not self.accepts(value) and not (self.grows and reading.undocumented):
            reading.violations[path] = self.message
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list with a maximum length."""

    item: FieldType
    maximum: int | None = None

    def read(self, value: Any, path: str, reading: Reading) -> Any:
        """See `FieldType`."""
        if not isinstance(value, list):
            reading.violations[path] = "The value must be a list."
            return value
        if self.maximum is not None and len(value) > self.maximum:
            reading.violations[path] = f"The list must have at most {self.maximum} entries."
        return [self.item.read(item, f"{path}[{index}]", reading) for index, item in enumerate(value)]


@dataclass(frozen=True, slots=True)
class Record:
    """An object. Unknown fields and fields without a value are dropped."""

    fields: Mapping[str, FieldType]
    required: tuple[str, ...] = ()

    def read(self, value: Any, path: str, reading: Reading) -> Any:
        """See `FieldType`."""
        if not isinstance(value, Mapping):
            reading.violations[path] = "The value must be an object."
            return value
        given = {name: item for name, item in value.items() if item is not None}
        prefix = f"{path}." if path else ""
        for name in self.required:
            if name not in given:
                reading.violations[f"{prefix}{name}"] = "The field is required."
        return {
            name: self.fields[name].read(item, f"{prefix}{name}", reading) if name in self.fields else item
            for name, item in given.items()
            if name in self.fields or reading.undocumented
        }


def read_fields(body: object, record: Record, *, undocumented: bool = False) -> dict[str, Any]:
    """Return the fields of a request body as Zoom stores them.

    Args:
        body: The request body.
        record: The fields that the request may set.
        undocumented: See `Reading`.

    Raises:
        InvalidFields: Fields are invalid.
    """
    reading = Reading(undocumented)
    fields: dict[str, Any] = record.read(body, "", reading)
    if reading.violations:
        raise InvalidFields(reading.violations)
    return fields


def text(maximum: int | None = None) -> Scalar:
    """Return the type of text with a maximum length."""
    limit = "" if maximum is None else f" of at most {maximum} characters"
    return Scalar(
        lambda value: isinstance(value, str) and (maximum is None or len(value) <= maximum),
        f"The value must be text{limit}.",
    )


def email(maximum: int = 254) -> Scalar:
    """Return the type of an email address."""
    return Scalar(
        lambda value: isinstance(value, str) and len(value) <= maximum and bool(_EMAIL.fullmatch(value)),
        "Invalid email address.",
    )


def integer(minimum: int, maximum: int) -> Scalar:
    """Return the type of an integer within a range. Booleans are not integers."""
    return Scalar(
        lambda value: type(value) is int and minimum <= value <= maximum,
        f"The value must be between {minimum} and {maximum}.",
    )


def choice(*values: str | int) -> Scalar:
    """Return the type of one of several words or numbers."""
    return Scalar(
        lambda value: any(type(value) is type(each) and value == each for each in values),
        f"The value must be one of {', '.join(map(str, values))}.",
        grows=True,
    )


def is_timezone(name: str) -> bool:
    """Return whether a time zone with this name exists."""
    return name in _timezones()


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def parse_time(value: Any, zone: str) -> datetime | None:
    """Parse a time in UTC or, without `Z`, in the given time zone; return None if it is invalid."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))
        return zoned.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


FLAG = Scalar(lambda value: isinstance(value, bool), "The value must be true or false.")
LANGUAGES = Scalar(
    lambda value: isinstance(value, str) and len([word for word in value.split(",") if word.strip()]) == 2,
    "The value must be exactly two languages, separated by a comma.",
)
TIME = Scalar(
    lambda value: parse_time(value, "UTC") is not None,
    "The value must be a time such as 2030-01-31T09:00:00Z.",
)
TIMEZONE = Scalar(lambda value: isinstance(value, str) and is_timezone(value), "Invalid time zone.")
WEEKDAYS = Scalar(
    lambda value: isinstance(value, str) and set("1234567").issuperset(value.split(",")),
    "The value must be numbers from 1 to 7, separated by commas.",
)
