"""Calculation of the occurrences of a series: in the time zone of the meeting, so that a meeting at nine stays at nine."""

from calendar import monthrange
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from zoom_simulator import clock
from zoom_simulator.field_types import parse_time
from zoom_simulator.meeting_fields import MAX_OCCURRENCES

_MAX_SERIES_DAYS = 60 * 10 * 31
"""Upper bound on the days from the first to the last of 60 occurrences, which are at most 10 months of 31 days apart."""


def occurrences(meeting: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the occurrences of a series, at most 60, up to the year 9999.

    Args:
        meeting: The meeting, with `start_time`, `timezone`, `duration` and, optionally, `recurrence`.
    """
    recurrence = meeting.get("recurrence") or {}
    zone = ZoneInfo(meeting["timezone"])
    until = parse_time(recurrence.get("end_date_time"), "UTC")
    count = MAX_OCCURRENCES if until else recurrence.get("end_times", 1) or MAX_OCCURRENCES
    rows: list[dict[str, Any]] = []
    with suppress(OverflowError):  # after the year 9999
        first = datetime.fromisoformat(meeting["start_time"]).astimezone(zone)
        for offset in range(_MAX_SERIES_DAYS):
            day = first + timedelta(days=offset)  # keeps the local time
            start = day.astimezone(UTC)
            if len(rows) == count or (until is not None and start > until):
                break
            if _occurs_on(recurrence, first, day):
                rows.append(
                    {
                        "occurrence_id": str(int(start.timestamp() * 1000)),
                        "start_time": clock.text(start.timestamp()),
                        "duration": meeting["duration"],
                        "status": "available",
                    }
                )
    return rows


def _occurs_on(recurrence: dict[str, Any], first: datetime, day: datetime) -> bool:
    """Return whether a series that starts on the day `first` has an occurrence on another local day."""
    interval = recurrence.get("repeat_interval", 1)
    weekday = day.isoweekday() % 7 + 1
    match recurrence.get("type", 1):
        case 1:
            return bool((day.date() - first.date()).days % interval == 0)
        case 2:
            sunday = first.date() - timedelta(days=first.isoweekday() % 7)
            weeks = (day.date() - sunday).days // 7
            return weeks % interval == 0 and str(weekday) in recurrence.get("weekly_days", "1").split(",")
        case _:
            months = 12 * (day.year - first.year) + day.month - first.month
            if months % interval:
                return False
            if "monthly_week" in recurrence:
                week = recurrence["monthly_week"]
                is_last = day.day > monthrange(day.year, day.month)[1] - 7
                in_week = is_last if week == -1 else (day.day - 1) // 7 + 1 == week
                return bool(in_week and weekday == recurrence["monthly_week_day"])
            return bool(day.day == recurrence.get("monthly_day", 1))
