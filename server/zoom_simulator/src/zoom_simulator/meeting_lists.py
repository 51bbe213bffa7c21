"""Filtering of meeting lists (`GET /users/me/meetings`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from zoom_simulator.errors import InvalidFields
from zoom_simulator.field_types import is_timezone
from zoom_simulator.meetings import Meeting, end_of
from zoom_simulator.requests import query_choice

TYPES = ("scheduled", "live", "upcoming", "upcoming_meetings", "previous_meetings")
_SIX_MONTHS = timedelta(days=183)
_ID_LIFETIME = timedelta(days=30)
"""Time after which an unused meeting ID expires."""

_MAX_AGENDA_LENGTH = 250
_LIST_FIELDS = (
    "agenda",
    "created_at",
    "duration",
    "host_id",
    "id",
    "join_url",
    "pmi",
    "start_time",
    "timezone",
    "topic",
    "type",
    "uuid",
)


@dataclass(frozen=True, slots=True)
class Filter:
    """The parsed query of a meeting list.

    Attributes:
        kind: The list type, one of `TYPES`.
        begin: The start of the range of start times, inclusive.
        end: The end of the range of start times, exclusive.
        now: The current time.
    """

    kind: str
    begin: datetime | None
    end: datetime | None
    now: datetime

    @classmethod
    def parse(cls, query: Mapping[str, str], now: float) -> "Filter":
        """Parse `type`, `from`, `to` and `timezone`.

        Raises:
            InvalidFields: A parameter is invalid.
        """
        kind = query_choice(query, "type", TYPES)
        name = query.get("timezone") or "UTC"
        if not is_timezone(name):
            raise InvalidFields({"timezone": "Invalid field."})
        zone = ZoneInfo(name)
        begin, last_day = _parse_day(query, "from", zone), _parse_day(query, "to", zone)
        if begin is not None and last_day is not None and last_day < begin:
            raise InvalidFields({"to": "Invalid field."})
        end = None if last_day is None else (last_day + timedelta(days=1)).astimezone(UTC)
        begin = None if begin is None else begin.astimezone(UTC)
        return cls(kind, begin, end, datetime.fromtimestamp(now, UTC))

    def matches(self, meeting: Meeting) -> bool:
        """Return whether a meeting is listed. An instant meeting is listed only while it is live."""
        is_live = meeting.body["status"] == "started"
        live_in_range = is_live and self._matches_range(_moment(meeting.instances[-1].start))
        if self.kind == "live" or (live_in_range and self.kind != "previous_meetings"):
            return live_in_range
        if meeting.body["type"] == 1:
            return False
        times = _times(meeting.body)
        if self.kind == "previous_meetings":
            times += [(_moment(each.start), _moment(each.end)) for each in meeting.instances if each.end]
        elif not times:  # a recurring meeting without fixed times is always upcoming and has no date
            return self.begin is None and self.end is None
        return any(self._matches_kind(start, end) and self._matches_range(start) for start, end in times)

    def _matches_kind(self, start: datetime, end: datetime) -> bool:
        match self.kind:
            case "upcoming" | "upcoming_meetings":
                return end > self.now and start <= self.now + _SIX_MONTHS
            case "previous_meetings":
                return self.now - _SIX_MONTHS <= end <= self.now
            case _:
                return end > self.now - _ID_LIFETIME

    def _matches_range(self, start: datetime) -> bool:
        return (self.begin is None or self.begin <= start) and (self.end is None or start < self.end)


def list_row(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a meeting that a meeting list contains. The agenda is cut."""
    row = {name: body[name] for name in _LIST_FIELDS if name in body}
    if "agenda" in row:
        row["agenda"] = row["agenda"][:_MAX_AGENDA_LENGTH]
    return row


def _times(body: Mapping[str, Any]) -> list[tuple[datetime, datetime]]:
    """Return the start and end of each occurrence that is not deleted, or of the meeting itself if it does not recur."""
    if "occurrences" in body:
        rows = [each for each in body["occurrences"] if each["status"] != "deleted"]
    else:
        rows = [body] if "start_time" in body else []
    return [(datetime.fromisoformat(each["start_time"]), end_of(each)) for each in rows]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _parse_day(query: Mapping[str, str], field: str, zone: ZoneInfo) -> datetime | None:
    text = query.get(field)
    if not text:
        return None
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else None
    except ValueError:
        day = None
    # up to 9998, so that adding a day or a UTC offset does not exceed the year 9999
    if day is None or not 1970 <= day.year <= 9998:
        raise InvalidFields({field: "Invalid field."})
    return datetime(day.year, day.month, day.day, tzinfo=zone)
