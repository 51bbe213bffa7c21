"""Which meetings a list shows (`GET /users/me/meetings`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from zoom_simulator import meeting_rules

TYPES = ("scheduled", "live", "upcoming", "upcoming_meetings", "previous_meetings")
_SIX_MONTHS = timedelta(days=183)
_EXPIRY = timedelta(days=30)
"""After this time without use the id of a meeting expires."""

_ROW = (
    "agenda",
    "created_at",
    "duration",
    "host_id",
    "id",
    "join_url",
    "start_time",
    "timezone",
    "topic",
    "type",
    "uuid",
)


class WrongQuery(Exception):
    """A parameter of the list is wrong.

    Attributes:
        field: Which.
    """

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list was asked for.

    Attributes:
        kind: From `TYPES`.
        begin: Only meetings that start then or later.
        end: Only meetings that start before.
        now: The present.
    """

    kind: str
    begin: datetime | None
    end: datetime | None
    now: datetime

    @classmethod
    def parse(cls, query: Mapping[str, str], now: float) -> "Filter":
        """Read `type`, `from`, `to` and `timezone`.

        Raises:
            WrongQuery: One of them is no such thing.
        """
        kind = query.get("type") or "scheduled"
        if kind not in TYPES:
            raise WrongQuery("type")
        name = query.get("timezone") or "UTC"
        if not meeting_rules.is_timezone(name):
            raise WrongQuery("timezone")
        zone = ZoneInfo(name)
        begin, last = _day(query, "from", zone), _day(query, "to", zone)
        if begin is not None and last is not None and last < begin:
            raise WrongQuery("to")
        end = None if last is None else (last + timedelta(days=1)).astimezone(UTC)
        begin = None if begin is None else begin.astimezone(UTC)
        return cls(kind, begin, end, datetime.fromtimestamp(now, UTC))

    def shows(self, body: Mapping[str, Any]) -> bool:
        """Tell whether the list shows a meeting. Instant meetings are in none."""
        if body["type"] == 1:
            return False
        if self.kind == "live" and body["status"] != "started":
            return False
        times = _times(body)
        if not times:  # a recurring meeting without fixed times is always to come, and on no day
            return self.kind != "previous_meetings" and self.begin is None and self.end is None
        return any(self._kind_shows(start, end) and self._range_shows(start) for start, end in times)

    def _kind_shows(self, start: datetime, end: datetime) -> bool:
        match self.kind:
            case "upcoming" | "upcoming_meetings":
                return end > self.now and start <= self.now + _SIX_MONTHS
            case "previous_meetings":
                return self.now - _SIX_MONTHS <= end <= self.now
            case _:
                return end > self.now - _EXPIRY

    def _range_shows(self, start: datetime) -> bool:
        return (self.begin is None or self.begin <= start) and (self.end is None or start < self.end)


def row(body: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a meeting that a list has."""
    return {name: body[name] for name in _ROW if name in body}


def _times(body: Mapping[str, Any]) -> list[tuple[datetime, datetime]]:
    """List when a meeting begins and ends."""
    if "occurrences" in body:
        rows = [each for each in body["occurrences"] if each["status"] != "deleted"]
    else:
        rows = [body] if "start_time" in body else []
    starts = [(datetime.fromisoformat(each["start_time"]), each["duration"]) for each in rows]
    return [(start, start + timedelta(minutes=duration)) for start, duration in starts]


def _day(query: Mapping[str, str], field: str, zone: ZoneInfo) -> datetime | None:
    text = query.get(field)
    if not text:
        return None
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            raise WrongQuery(field)
        day = date.fromisoformat(text)
    except ValueError:
        raise WrongQuery(field) from None
    if not 1970 <= day.year <= 9998:  # a day later and every time zone must fit as well
        raise WrongQuery(field)
    return datetime(day.year, day.month, day.day, tzinfo=zone)
