"""Validation of meetings (https://developers.zoom.us/docs/api/meetings/) and calculation of their occurrences."""

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

TYPES = (1, 2, 3, 8, 10)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?")
_MAX_OCCURRENCES = 60
_MAX_SERIES_DAYS = 60 * 10 * 31
"""Upper bound on the days from the first to the last of 60 occurrences, which are at most 10 months of 31 days apart."""

_INTERVALS = {1: 99, 2: 50, 3: 10}


def violations(body: dict[str, Any]) -> dict[str, str]:
    """Return Zoom's error message for each invalid field of a meeting."""
    errors = {}
    for name, limit in (("topic", 200), ("agenda", 2000), ("password", 10)):
        value = body.get(name, "")
        if not isinstance(value, str) or len(value) > limit:
            errors[name] = f"The value must be text of at most {limit} characters."
    kind = body.get("type", 2)
    if type(kind) is not int or kind not in TYPES:
        errors["type"] = "Invalid meeting type."
    duration = body.get("duration", 60)
    if type(duration) is not int or not 1 <= duration <= 1440:
        errors["duration"] = "The value must be between 1 and 1440."
    zone = body.get("timezone", "UTC")
    if not isinstance(zone, str) or not is_timezone(zone):
        errors["timezone"] = "Invalid time zone."
    start = body.get("start_time")
    if start is not None and _parse_start(start, "UTC") is None:
        errors["start_time"] = "Invalid start time."
    if not isinstance(body.get("settings", {}), dict):
        errors["settings"] = "Invalid settings."
    return errors | _recurrence_violations(body.get("recurrence"))


def _recurrence_violations(recurrence: Any) -> dict[str, str]:
    if recurrence is None:
        return {}
    if not isinstance(recurrence, dict):
        return {"recurrence": "Invalid recurrence."}
    errors = {}
    kind = recurrence.get("type")
    max_interval = _INTERVALS.get(kind) if type(kind) is int else None
    ranges = {
        "repeat_interval": (1, max_interval or 99),
        "end_times": (0, _MAX_OCCURRENCES),
        "monthly_day": (1, 31),
        "monthly_week": (-1, 4),
        "monthly_week_day": (1, 7),
    }
    if max_interval is None:
        errors["recurrence.type"] = "Invalid recurrence type."
    for name, (minimum, maximum) in ranges.items():
        value = recurrence.get(name, 1)
        if type(value) is not int or not minimum <= value <= maximum:
            errors[f"recurrence.{name}"] = "Invalid field."
    if "end_times" in recurrence and "end_date_time" in recurrence:
        errors["recurrence.end_date_time"] = "Cannot be used with end_times."
    days = str(recurrence.get("weekly_days", "1")).split(",")
    if not all(day in tuple("1234567") for day in days):
        errors["recurrence.weekly_days"] = "Invalid days."
    return errors


def is_timezone(name: str) -> bool:
    """Return whether a time zone with this name exists."""
    return name in _timezones()


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def start_time(body: dict[str, Any], timezone: str, now: float) -> str:
    """Return the start time in UTC; a missing or past start time is replaced by the current time."""
    start = _parse_start(body["start_time"], body.get("timezone", timezone)) if "start_time" in body else None
    moment = datetime.fromtimestamp(now, UTC)
    if start is None or start < moment:
        start = moment
    return start.strftime("%Y-%m-%dT%H:%M:%SZ")


def occurrences(body: dict[str, Any], start: str, duration: int) -> list[dict[str, Any]]:
    """Return the occurrences of a recurring meeting with fixed times, at most 60."""
    recurrence = body.get("recurrence") or {}
    until = _parse_start(recurrence.get("end_date_time"), "UTC")
    count = _MAX_OCCURRENCES if until else recurrence.get("end_times", 1) or _MAX_OCCURRENCES
    first = datetime.strptime(start, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    rows: list[dict[str, Any]] = []
    for offset in range(_MAX_SERIES_DAYS):
        day = first + timedelta(days=offset)
        if len(rows) == count or (until is not None and day > until):
            break
        if _occurs_on(recurrence, first, day):
            rows.append(
                {
                    "occurrence_id": str(int(day.timestamp() * 1000)),
                    "start_time": day.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "duration": duration,
                    "status": "available",
                }
            )
    return rows


def _occurs_on(recurrence: dict[str, Any], first: datetime, day: datetime) -> bool:
    """Return whether a recurring meeting has an occurrence on a day."""
    interval = recurrence.get("repeat_interval", 1)
    match recurrence.get("type", 1):
        case 1:
            return bool((day - first).days % interval == 0)
        case 2:
            sunday = first - timedelta(days=first.isoweekday() % 7)
            weeks = (day - sunday).days // 7
            weekday = day.isoweekday() % 7 + 1
            return weeks % interval == 0 and str(weekday) in str(recurrence.get("weekly_days", "1")).split(
                ","
            )
        case _:
            months = 12 * (day.year - first.year) + day.month - first.month
            if months % interval:
                return False
            if "monthly_week" in recurrence:
                last = (day + timedelta(days=7)).month != day.month
                week = recurrence["monthly_week"]
                right = last if week == -1 else (day.day - 1) // 7 + 1 == week
                return bool(right and day.isoweekday() % 7 + 1 == recurrence.get("monthly_week_day", 1))
            return bool(day.day == recurrence.get("monthly_day", first.day))


def _parse_start(value: Any, zone: str) -> datetime | None:
    """Parse a time in UTC or, without `Z`, in the given time zone; return None if it is invalid."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
