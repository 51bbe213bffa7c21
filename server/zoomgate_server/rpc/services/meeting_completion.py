"""Completion of new meetings with the properties that follow from others.

Zoom's defaults would be a meeting without its recurrence, and the first day of the week or month.
"""

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.rules import schedule

_DAYS_OF_MONTH = ("monthly_day", "monthly_week", "monthly_week_day")


def completed(details: pb.MeetingDetails, *, default_zone: str, now: float) -> pb.MeetingDetails:
    """Return the details of a new meeting with its type and the days of its recurrence. Invalid values are left unchanged.

    Args:
        default_zone: The time zone of a meeting without one.
        now: The current time in seconds since 1970, which is the start of a meeting without one.
    """
    complete = pb.MeetingDetails()
    complete.CopyFrom(details)
    if not _has(details, "type"):
        has_recurrence = _has(details, "recurrence")
        complete.type = pb.MEETING_TYPE_RECURRING_FIXED_TIME if has_recurrence else pb.MEETING_TYPE_SCHEDULED
    kind = details.recurrence.type
    if kind in (pb.Recurrence.TYPE_WEEKLY, pb.Recurrence.TYPE_MONTHLY):
        zone = details.timezone if details.HasField("timezone") else default_zone
        start = schedule.start(details, schedule.zone(zone), default=now)
        if start is None:
            return complete
        if kind == pb.Recurrence.TYPE_MONTHLY:
            if not any(_has(details.recurrence, name) for name in _DAYS_OF_MONTH):
                complete.recurrence.monthly_day = start.day
        elif not _has(details.recurrence, "weekly_days"):
            complete.recurrence.weekly_days.append(pb.DayOfWeek.ValueType(start.isoweekday() % 7 + 1))
    return complete


def _has(message: pb.MeetingDetails | pb.Recurrence, name: str) -> bool:
    """Return whether a field is set, or is in `additional_fields` under Zoom's name, which is the same for these fields."""
    return name in message.additional_fields or any(field.name == name for field, _ in message.ListFields())
