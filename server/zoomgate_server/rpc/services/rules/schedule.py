"""The schedule of a meeting: its start in its time zone, and the type and the days that follow from other fields."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.meeting_mapping import CONVENTIONS
from zoomgate_server.rpc.services.rules.rule import Values
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.time_zone import is_time_zone

_LOCAL = re.compile(
    r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d", re.ASCII
)  # excludes hour 24, which only some Python versions accept
_DAYS_OF_MONTH = frozenset(
    {"recurrence.monthly_day", "recurrence.monthly_week", "recurrence.monthly_week_day"}
)


def check_additional(details: pb.MeetingDetails, path: str, violations: Violations) -> None:
    """Reject additional fields that determine the days of a series. Only an unknown type has no field of its own."""
    types = CONVENTIONS.enums["MeetingType"].values()
    _check_additional(details, path, violations, types)
    if details.HasField("recurrence"):
        types = CONVENTIONS.enums["Recurrence.Type"].values()
        _check_additional(details.recurrence, f"{path}recurrence.", violations, types)


def _check_additional(
    message: pb.MeetingDetails | pb.Recurrence, path: str, violations: Violations, types: Collection[object]
) -> None:
    extra = message.additional_fields
    for name in ("start_time", "timezone", "type"):
        if name in extra and (name != "type" or extra[name] in types):
            violations.add(
                f"{path}{ADDITIONAL}.{name}",
                "determines the days of a series, which could not be validated; set the field of the message instead",
            )


def complete(details: pb.MeetingDetails, values: dict[str, Any], *, default_zone: str, now: float) -> None:
    """Set the type of a new meeting and the days of its recurrence, and add its start to the values.

    Zoom's defaults would be a meeting without the recurrence, and the first day of the week or month.
    """
    if "type" not in values:
        if "recurrence" in values:
            details.type = pb.MEETING_TYPE_RECURRING_FIXED_TIME
        values["type"] = details.type or pb.MEETING_TYPE_SCHEDULED
    zone = details.timezone if details.HasField("timezone") else default_zone
    add_start(details, values, zone=zone, now=now, default=now)
    start, kind = values["start"], values.get("recurrence.type")
    if start is None:
        return
    if kind == pb.Recurrence.TYPE_WEEKLY and "recurrence.weekly_days" not in values:
        details.recurrence.weekly_days.append(pb.DayOfWeek.ValueType(start.isoweekday() % 7 + 1))
    elif kind == pb.Recurrence.TYPE_MONTHLY and _DAYS_OF_MONTH.isdisjoint(values):
        details.recurrence.monthly_day = start.day


def add_start(
    details: pb.MeetingDetails, values: dict[str, Any], *, zone: str, now: float, default: float | None = None
) -> None:
    """Add the values `now`, `zone` and `start`, which is None if it is unknown or invalid.

    Args:
        zone: The time zone of the meeting; empty if it is unknown.
        default: The start of a meeting without one, in seconds since 1970.
    """
    known = ZoneInfo(zone if is_time_zone(zone) else "UTC") if zone else None
    values.update(now=now, zone=known, start=None)
    try:
        if "local_start_time" in values:
            if known is not None and is_local_time(details.local_start_time):
                local = datetime.fromisoformat(details.local_start_time).replace(tzinfo=known)
                values["start"] = local.astimezone(UTC).astimezone(known)
        else:
            seconds = details.start_time.seconds if "start_time" in values else default
            if seconds is not None:
                values["start"] = datetime.fromtimestamp(seconds, known or UTC)
    except (ValueError, OverflowError, OSError):
        pass  # outside the years 1970 to 9999, which is a violation already


def is_local_time(text: str) -> bool:
    """Return whether a string is a date and time without a time zone, from 1970 on."""
    try:
        return _LOCAL.fullmatch(text) is not None and datetime.fromisoformat(text).year >= 1970
    except ValueError:
        return False


def is_out_of_range(values: Values) -> bool:
    """Return whether a valid local start is outside the years 1970 to 9999 in UTC."""
    local = values.get("local_start_time")
    return (
        isinstance(local, str)
        and is_local_time(local)
        and values["start"] is None
        and values["zone"] is not None
    )


def is_skipped(values: Values) -> bool:
    """Return whether the local start is skipped by a clock change. Zones then return a different time after a conversion."""
    start, local = values["start"], values.get("local_start_time")
    return (
        start is not None
        and isinstance(local, str)
        and start.replace(tzinfo=None) != datetime.fromisoformat(local)
    )


def is_past(values: Values) -> bool:
    """Return whether a start is in the past."""
    return values["start"] is not None and values["start"].timestamp() < values["now"]


def ends_too_early(values: Values) -> bool:
    """Return whether the recurrence ends before the start or, if that is known, the current time."""
    start, end = values["start"], values.get("recurrence.end_time")
    if start is None or not isinstance(end, Timestamp):
        return False
    return end.seconds < max(int(start.timestamp()), int(values["now"]))
