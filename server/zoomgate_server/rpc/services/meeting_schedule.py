"""Validation and completion of a meeting's schedule: its type, start, time zone and recurrence.

Zoom ignores or replaces parts of a schedule without an error. Such schedules are rejected unless their meaning is obvious.
"""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.meeting_mapping import CONVENTIONS
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.time_zone import is_time_zone

_LOCAL = re.compile(
    r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d", re.ASCII
)  # excludes hour 24, which only some Python versions accept
_WITHOUT_START = (pb.MEETING_TYPE_INSTANT, pb.MEETING_TYPE_RECURRING_NO_FIXED_TIME)
_RULES: Mapping[pb.Recurrence.Type.ValueType, tuple[int, tuple[str, ...]]] = {
    pb.Recurrence.TYPE_DAILY: (99, ()),
    pb.Recurrence.TYPE_WEEKLY: (50, ("weekly_days",)),
    pb.Recurrence.TYPE_MONTHLY: (10, ("monthly_day", "monthly_week", "monthly_week_day")),
}
"""The maximum interval of each type of recurrence, and the fields that select its days."""


def complete(
    details: pb.MeetingDetails, path: str, violations: Violations, *, default_zone: str, now: float
) -> None:
    """Validate the schedule of a new meeting, and set the type and the days that follow from its other fields.

    Args:
        default_zone: The time zone of a meeting without one.
        now: The current time in seconds since 1970. Zoom uses it for a start that is unset or in the past.
    """
    _check_additional(details, path, violations, CONVENTIONS.enums["MeetingType"].values())
    zone = details.timezone if details.HasField("timezone") else default_zone
    if not is_time_zone(zone):
        violations.add(f"{path}.timezone", "must be an IANA time zone; send a name such as Europe/Berlin")
        zone = "UTC"
    start_field = details.WhichOneof("start")
    if start_field and details.type in _WITHOUT_START:
        violations.add(
            f"{path}.{start_field}",
            f"cannot be combined with {pb.MeetingType.Name(details.type)}, whose meetings have no start time; omit it or send a"
            " different type",
        )
    start = _start(details, path, violations, ZoneInfo(zone), now)
    if not _is_set(details, "recurrence"):
        if details.type == pb.MEETING_TYPE_RECURRING_FIXED_TIME:
            violations.add(
                f"{path}.recurrence",
                "is required for MEETING_TYPE_RECURRING_FIXED_TIME; set the recurrence of the meeting",
            )
        return
    if not _is_set(details, "type"):
        details.type = pb.MEETING_TYPE_RECURRING_FIXED_TIME
    elif details.type not in (pb.MEETING_TYPE_RECURRING_FIXED_TIME, pb.MEETING_TYPE_UNSPECIFIED):
        violations.add(
            f"{path}.recurrence",
            "is only for MEETING_TYPE_RECURRING_FIXED_TIME; omit it or send this type",
        )
    if details.HasField("recurrence"):
        types = CONVENTIONS.enums["Recurrence.Type"].values()
        _check_additional(details.recurrence, f"{path}.recurrence", violations, types)
        _check_end(details.recurrence, f"{path}.recurrence", violations, start, now)
        _check_days(details.recurrence, f"{path}.recurrence", violations)
        _set_default_days(details.recurrence, start)


def _check_additional(
    message: pb.MeetingDetails | pb.Recurrence, path: str, violations: Violations, types: Collection[object]
) -> None:
    """Reject additional fields that determine the days of a series. Only an unknown type has no field of its own."""
    extra = message.additional_fields
    for name in ("start_time", "timezone", "type"):
        if name in extra and (name != "type" or extra[name] in types):
            violations.add(
                f"{path}.{ADDITIONAL}.{name}",
                "determines the days of a series, which could not be validated; set the field of the message instead",
            )


def _is_set(message: pb.MeetingDetails | pb.Recurrence, name: str) -> bool:
    """Return whether a field is set, either in the message or in its `additional_fields`."""
    return name in message.additional_fields or any(field.name == name for field, _ in message.ListFields())


def _start(
    details: pb.MeetingDetails, path: str, violations: Violations, zone: tzinfo, now: float
) -> datetime | None:
    """Return the start in the time zone of the meeting, or None if it is invalid."""
    if details.WhichOneof("start") != "local_start_time":
        seconds = details.start_time.seconds if details.HasField("start_time") else now
        try:
            return datetime.fromtimestamp(seconds, zone)
        # outside the years 1970 to 9999, which is a violation already
        except (ValueError, OverflowError, OSError):
            return None
    field = f"{path}.local_start_time"
    try:
        if not _LOCAL.fullmatch(details.local_start_time):
            raise ValueError
        local = datetime.fromisoformat(details.local_start_time).replace(tzinfo=zone)
        if local.year < 1970:
            raise ValueError
        start = local.astimezone(UTC).astimezone(zone)
    except (ValueError, OverflowError):
        violations.add(
            field,
            "must be a valid date and time without a time zone, from 1970 on; send a value such as 2026-11-24T09:00:00",
        )
        return None
    if start != local:
        violations.add(
            field,
            f"does not exist in {zone}, where the clocks skip it; send a time such as {start:%Y-%m-%dT%H:%M:%S}",
        )
    return start


def _check_end(
    recurrence: pb.Recurrence, path: str, violations: Violations, start: datetime | None, now: float
) -> None:
    if not recurrence.HasField("end_time"):
        return
    if recurrence.HasField("end_times"):
        violations.add(f"{path}.end_time", "cannot be combined with end_times; send only one of them")
    elif start and recurrence.end_time.seconds < max(int(start.timestamp()), int(now)):
        violations.add(
            f"{path}.end_time", "is before the start of the meeting, or in the past; send a later time"
        )


def _check_days(recurrence: pb.Recurrence, path: str, violations: Violations) -> None:
    """Validate the type, the interval and the fields that select days."""
    if not _is_set(recurrence, "type"):
        violations.add(f"{path}.type", "is required; send TYPE_DAILY, TYPE_WEEKLY or TYPE_MONTHLY")
    for index, day in enumerate(recurrence.weekly_days):
        if day == pb.DAY_OF_WEEK_UNSPECIFIED:
            violations.add(f"{path}.weekly_days[{index}]", "is unspecified; send a day of the week")
    if recurrence.type not in _RULES:
        return
    max_interval, _ = _RULES[recurrence.type]
    if recurrence.HasField("repeat_interval") and not 1 <= recurrence.repeat_interval <= max_interval:
        violations.add(
            f"{path}.repeat_interval",
            f"is {recurrence.repeat_interval}; send 1 to {max_interval} with this type",
        )
    for type_, (_, names) in _RULES.items():
        for name in names:
            if type_ != recurrence.type and _is_set(recurrence, name):
                violations.add(
                    f"{path}.{name}",
                    f"is only for {pb.Recurrence.Type.Name(type_)}; omit it or send this type",
                )
    has_week, has_week_day = (_is_set(recurrence, name) for name in ("monthly_week", "monthly_week_day"))
    if _is_set(recurrence, "monthly_day") and (has_week or has_week_day):
        violations.add(
            f"{path}.monthly_day",
            "cannot be combined with monthly_week and monthly_week_day; send only the day of the month or the day of a week",
        )
    elif has_week != has_week_day:
        missing, other = ("week_day", "week") if has_week else ("week", "week_day")
        violations.add(f"{path}.monthly_{missing}", f"is required with monthly_{other}; send both fields")


def _set_default_days(recurrence: pb.Recurrence, start: datetime | None) -> None:
    """Set the day of the start in a recurrence without days, because Zoom's default is the first day of the week or month."""
    _, names = _RULES.get(recurrence.type, (0, ()))
    if start is None or any(_is_set(recurrence, name) for name in names):
        return
    if recurrence.type == pb.Recurrence.TYPE_WEEKLY:
        recurrence.weekly_days.append(pb.DayOfWeek.ValueType(start.isoweekday() % 7 + 1))
    elif recurrence.type == pb.Recurrence.TYPE_MONTHLY:
        recurrence.monthly_day = start.day
