"""Options that describe a meeting, and the MeetingDetails that result from them."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any, NamedTuple

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1.meeting_pb2 import (
    DayOfWeek,
    Meeting,
    MeetingDetails,
    MeetingSettings,
    MeetingType,
    Recurrence,
    WeekOfMonth,
)
from zoomgate_server.cli.message_file import details_option, read_details
from zoomgate_server.cli.options import EnumChoice, combined
from zoomgate_server.cli.output import USAGE, enum_name, fail, time_zone
from zoomgate_server.telemetry.logs import plain

_SCHEDULE = frozenset({"start_time", "local_start_time", "timezone", "duration_minutes"})
_ORDINALS = ("1st", "2nd", "3rd", "4th", "last")
_WEEKS = dict(zip(_ORDINALS, WeekOfMonth.values()[1:], strict=True))
_DAYS = [(enum_name(DayOfWeek, number), number) for number in DayOfWeek.values()[1:]]


def _start(text: str) -> datetime:
    """Return the date and time of a start. Without a zone, it is local time."""
    try:
        if len(text) > len("2030-01-07"):  # a date alone would become midnight
            start = datetime.fromisoformat(text)
            if start.tzinfo is not None:
                start.astimezone(UTC)
            return start
    except (ValueError, OverflowError):  # not a date and time, or outside the years 1 to 9999 in UTC
        pass
    raise click.BadParameter(
        f"{plain(text)!r} is not a date and time; use a date and time such as 2030-01-07T09:00:00Z, or omit the Z for a time in --timezone"
    )


def _until(text: str) -> datetime:
    """Return the end of a recurrence; a date includes the whole day."""
    try:
        return datetime.combine(date.fromisoformat(text), time(23, 59, 59))
    except ValueError:
        pass
    try:
        return _start(text)
    except click.BadParameter:
        raise click.BadParameter(
            f"{plain(text)!r} is not a date; use a date such as 2030-03-31, or a date and time such as 2030-03-31T18:00:00Z"
        ) from None


def _day(text: str) -> DayOfWeek.ValueType:
    """Return a day of the week, whose name may be abbreviated to three letters."""
    name = text.strip().lower()
    for day, number in _DAYS:
        if len(name) >= len("mon") and day.startswith(name):
            return number
    raise click.BadParameter(f"{plain(text)!r} is not a day of the week; use a day such as mon")


def _weekly(text: str) -> Recurrence:
    days = [_day(name) for name in text.split(",")]
    return Recurrence(type=Recurrence.TYPE_WEEKLY, weekly_days=days)


def _monthly(text: str) -> Recurrence:
    if text.isascii() and text.isdigit() and len(text) <= 2:
        return Recurrence(type=Recurrence.TYPE_MONTHLY, monthly_day=int(text))
    ordinal, _, day = text.strip().lower().partition(" ")
    if ordinal not in _WEEKS:
        raise click.BadParameter(
            f'{plain(text)!r} is not a day of the month; use a number such as 15, or a day such as "2nd tue" or "last fri"'
        )
    return Recurrence(type=Recurrence.TYPE_MONTHLY, monthly_week=_WEEKS[ordinal], monthly_week_day=_day(day))


def _flag(name: str, text: str) -> Any:
    option = name.replace("_", "-")
    return click.option(f"--{option}/--no-{option}", name, default=None, help=text)


_SETTINGS = combined(
    _flag("waiting_room", "Whether participants wait until the host admits them."),
    _flag("join_before_host", "Whether participants may join before the host."),
    _flag("mute_upon_entry", "Whether participants are muted when they join."),
    _flag("host_video", "Whether the host's video is on at the start."),
    _flag("participant_video", "Whether the participants' video is on at the start."),
    click.option(
        "--recording",
        "auto_recording",
        type=EnumChoice(MeetingSettings.AutoRecording),
        help="The location of automatic recordings.",
    ),
    click.option(
        "--registration",
        "approval_type",
        type=EnumChoice(MeetingSettings.ApprovalType),
        help="The way in which registrations are approved; none: participants need not register.",
    ),
    click.option(
        "--alternative-host",
        "alternative_hosts",
        multiple=True,
        metavar="EMAIL",
        help="An alternative host. Repeatable.",
    ),
)

meeting_options = combined(
    click.option("--topic", help="The topic of the meeting."),
    click.option("--agenda", help="The agenda of the meeting."),
    click.option(
        "--start",
        type=_start,
        metavar="TIME",
        help='The start, such as "2030-01-07 09:00" in --timezone, or 2030-01-07T09:00:00Z.',
    ),
    click.option("--timezone", help="The time zone, as a name in the tz database, such as Europe/Berlin."),
    click.option(
        "--duration",
        "duration_minutes",
        type=click.IntRange(1, 1440),
        metavar="MINUTES",
        help="The duration of the meeting.",
    ),
    click.option("--password", help="The passcode that participants must enter."),
    click.option("--schedule-for", metavar="EMAIL", help="The user for whom USER schedules the meeting."),
    click.option("--daily", is_flag=True, help="Repeat the meeting daily."),
    click.option(
        "--weekly",
        type=_weekly,
        metavar="DAYS",
        help="Repeat the meeting weekly on days such as mon,wed.",
    ),
    click.option(
        "--monthly",
        type=_monthly,
        metavar="DAY",
        help='Repeat the meeting monthly on a day such as 15, "2nd tue" or "last fri".',
    ),
    click.option(
        "--every", type=click.IntRange(1, 99), metavar="N", help="Repeat only every N days, weeks or months."
    ),
    click.option(
        "--times", type=click.IntRange(0, 60), metavar="N", help="The number of occurrences; 0 for no end."
    ),
    click.option(
        "--until",
        type=_until,
        metavar="DATE",
        help="The last day of the recurrence, in --timezone, or a time such as 2030-01-07T09:00:00Z.",
    ),
    _SETTINGS,
    details_option(MeetingDetails),
)


class _RecurrenceChanges(NamedTuple):
    pattern: Recurrence | None
    every: int | None
    times: int | None
    until: datetime | None


def meeting_details(
    *,
    details: Any,
    start: datetime | None,
    daily: bool,
    weekly: Recurrence | None,
    monthly: Recurrence | None,
    every: int | None,
    times: int | None,
    until: datetime | None,
    current: Callable[[], Meeting] = Meeting,
    occurrence_id: str = "",
    **values: Any,
) -> MeetingDetails:
    """Return the message that results from the values of `meeting_options`. Exit with an error if they contradict each other.

    Args:
        current: Returns the meeting to change. Called only if its time zone or recurrence is needed.
        occurrence_id: The occurrence to change, if it is not the whole meeting.
    """
    changes = _RecurrenceChanges(_pattern(daily=daily, weekly=weekly, monthly=monthly), every, times, until)
    changes_recurrence = any(change is not None for change in changes)
    if times is not None and until is not None:
        fail("--times and --until exclude each other; use one of them", USAGE)
    if occurrence_id and changes_recurrence:
        fail("an occurrence has no recurrence; omit --occurrence to change the whole series", USAGE)
    message = MeetingDetails()
    read_details(details, message)
    for name, value in values.items():
        _set(message if name in MeetingDetails.DESCRIPTOR.fields_by_name else message.settings, name, value)
    _set_start(message, start, current)
    if not occurrence_id and (changes_recurrence or not _SCHEDULE.isdisjoint(set_paths(message))):
        _add_recurrence(message, current())
    if changes_recurrence:
        zone = time_zone(message.timezone or current().timezone) or (start.tzinfo if start else None)
        _change_recurrence(message, changes, zone)
    return message


def _pattern(*, daily: bool, weekly: Recurrence | None, monthly: Recurrence | None) -> Recurrence | None:
    patterns = [Recurrence(type=Recurrence.TYPE_DAILY)] if daily else []
    patterns += filter(None, (weekly, monthly))
    if len(patterns) > 1:
        fail("--daily, --weekly and --monthly exclude each other; use one of them", USAGE)
    return patterns[0] if patterns else None


def _set_start(details: MeetingDetails, start: datetime | None, current: Callable[[], Meeting]) -> None:
    if start is None:
        return
    if start.tzinfo is not None:
        details.start_time.FromDatetime(start)
        return
    details.timezone = details.timezone or current().timezone
    if not details.timezone:
        fail("--start requires a --timezone such as Europe/Berlin, or a time with a zone", USAGE)
    details.local_start_time = start.isoformat(timespec="seconds")


def _add_recurrence(details: MeetingDetails, current: Meeting) -> None:
    """Add the recurrence of a series, without which Zoom ignores changes of its schedule."""
    remains_series = details.type in {MeetingType.MEETING_TYPE_UNSPECIFIED, current.type}
    if current.HasField("recurrence") and not details.HasField("recurrence") and remains_series:
        details.recurrence.CopyFrom(current.recurrence)


def _change_recurrence(details: MeetingDetails, changes: _RecurrenceChanges, zone: tzinfo | None) -> None:
    """Change the recurrence of a meeting; a pattern makes the meeting a series."""
    recurrence, pattern, until = details.recurrence, changes.pattern, changes.until
    if pattern is not None:
        _set_pattern(recurrence, pattern)
        details.type = details.type or MeetingType.MEETING_TYPE_RECURRING_FIXED_TIME
    elif not recurrence.type:
        fail("--every, --times and --until require --daily, --weekly or --monthly", USAGE)
    _set(recurrence, "repeat_interval", changes.every)
    if changes.times is not None:
        recurrence.ClearField("end_time")
        recurrence.end_times = changes.times
    elif until is not None:
        recurrence.ClearField("end_times")
        recurrence.end_time.CopyFrom(_end_time(until, until.tzinfo or zone))
    elif not recurrence.HasField("end_times") and not recurrence.HasField("end_time"):
        fail("a recurrence requires an end; add --times (0 for no end) or --until", USAGE)


def _end_time(until: datetime, zone: tzinfo | None) -> Timestamp:
    if zone is None:
        fail("--until requires a --timezone such as Europe/Berlin, or a time with a zone", USAGE)
    end = Timestamp()
    try:
        end.FromDatetime(until.replace(tzinfo=zone))
    except (ValueError, OverflowError):
        fail("--until is out of range", USAGE)
    return end


def _set_pattern(recurrence: Recurrence, pattern: Recurrence) -> None:
    """Replace the days of a recurrence, and its interval if the unit changes."""
    for field in ("weekly_days", "monthly_day", "monthly_week", "monthly_week_day"):
        recurrence.ClearField(field)
    if recurrence.type != pattern.type:
        recurrence.ClearField("repeat_interval")
    recurrence.MergeFrom(pattern)


def set_paths(details: MeetingDetails) -> list[str]:
    """Return the paths of the properties that are set, for an update mask. Settings have paths of their own."""
    paths = [field.name for field, _ in details.ListFields() if field.name != "settings"]
    return paths + [f"settings.{field.name}" for field, _ in details.settings.ListFields()]


def _set(message: Message, field: str, value: Any) -> None:
    """Set a field to the value of an option, unless the option was omitted."""
    if isinstance(value, tuple):
        if value:
            message.ClearField(field)
            getattr(message, field).extend(value)
    elif value is not None:
        setattr(message, field, value)
