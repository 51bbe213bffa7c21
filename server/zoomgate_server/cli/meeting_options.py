"""Options that describe a meeting, and the MeetingDetails that result from them."""

from datetime import UTC, date, datetime, time
from typing import Any

import click
from google.protobuf.message import Message

from zoomgate.v1.meeting_pb2 import (
    DayOfWeek,
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

_ORDINALS = ("1st", "2nd", "3rd", "4th", "last")
_WEEKS = dict(zip(_ORDINALS, WeekOfMonth.values()[1:], strict=True))
_DAYS = [(enum_name(DayOfWeek, number), number) for number in DayOfWeek.values()[1:]]

_INT32 = click.IntRange(-(2**31), 2**31 - 1)


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
        return _start(text)


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
        "--duration", "duration_minutes", type=_INT32, metavar="MINUTES", help="The duration of the meeting."
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
    click.option("--every", type=_INT32, metavar="N", help="Repeat only every N days, weeks or months."),
    click.option("--times", type=_INT32, metavar="N", help="The number of occurrences; 0 for no end."),
    click.option(
        "--until",
        type=_until,
        metavar="DATE",
        help="The last day of the recurrence, in --timezone, or a time such as 2030-01-07T09:00:00Z.",
    ),
    _SETTINGS,
    details_option(MeetingDetails),
)


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
    **values: Any,
) -> MeetingDetails:
    """Return the message that results from the values of `meeting_options`. Exit with an error if they contradict each other."""
    message = MeetingDetails()
    read_details(details, message)
    for name, value in values.items():
        _set(message if name in MeetingDetails.DESCRIPTOR.fields_by_name else message.settings, name, value)
    if start is not None and start.tzinfo is None:
        message.local_start_time = start.isoformat(timespec="seconds")
    elif start is not None:
        message.start_time.FromDatetime(start)
    patterns = [Recurrence(type=Recurrence.TYPE_DAILY)] if daily else []
    patterns += filter(None, (weekly, monthly))
    if len(patterns) > 1:
        fail("--daily, --weekly and --monthly exclude each other; use one of them", USAGE)
    if patterns:
        message.recurrence.CopyFrom(patterns[0])
        message.type = message.type or MeetingType.MEETING_TYPE_RECURRING_FIXED_TIME
        if times is None and until is None:
            fail("a recurrence requires an end; add --times (0 for no end) or --until", USAGE)
    elif not message.HasField("recurrence") and (every, times, until) != (None, None, None):
        fail("--every, --times and --until require --daily, --weekly or --monthly", USAGE)
    if times is not None or until is not None:
        message.recurrence.ClearField("end_times")
        message.recurrence.ClearField("end_time")
    _set(message.recurrence, "repeat_interval", every)
    _set(message.recurrence, "end_times", times)
    if until is not None:
        zone = until.tzinfo or time_zone(message.timezone) or (start.tzinfo if start else None)
        if zone is None:
            fail("--until requires a --timezone such as Europe/Berlin, or a time with a zone", USAGE)
        try:
            message.recurrence.end_time.FromDatetime(until.replace(tzinfo=zone))
        except (ValueError, OverflowError):
            fail("--until is out of range", USAGE)
    return message


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
