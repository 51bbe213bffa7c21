"""Command `zoomgate meetings`, which manages users' meetings through the running service."""

import difflib
import functools
import time
from datetime import datetime
from typing import Any

import click

from zoomgate import Client
from zoomgate.v1.meeting_pb2 import (
    DayOfWeek,
    Meeting,
    MeetingSettings,
    MeetingStatus,
    MeetingType,
    Occurrence,
    Recurrence,
    WeekOfMonth,
)
from zoomgate.v1.meetings_service_pb2 import ListMeetingsRequest
from zoomgate.v1.past_meeting_pb2 import Participant, PastInstance, PastMeeting
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.meeting_options import meeting_details, meeting_options, set_paths
from zoomgate_server.cli.options import (
    EnumChoice,
    combined,
    limit_option,
    meeting_argument,
    meeting_id,
    occurrence_option,
    page_size,
    user_argument,
    yes_option,
)
from zoomgate_server.cli.output import (
    USAGE,
    confirm,
    counted,
    duration,
    enum_name,
    fail,
    note,
    print_done,
    print_items,
    print_json,
    print_message,
    print_table,
    print_text,
    time_and_distance,
    time_in_zone,
    time_zone,
)
from zoomgate_server.telemetry.logs import plain

_UNITS = {Recurrence.TYPE_DAILY: "day", Recurrence.TYPE_WEEKLY: "week", Recurrence.TYPE_MONTHLY: "month"}

_meeting_arguments = combined(user_argument(), meeting_argument)


def _past_meeting(text: str) -> dict[str, Any]:
    """Return the field of a request that selects a past meeting by its ID or the UUID of an instance."""
    is_id = text.replace(" ", "").isdecimal()
    return {"meeting_id": meeting_id(text)} if is_id else {"meeting_uuid": text}


def _clearable(path: str) -> str:
    """Return the path of a property that can be cleared."""
    # this module loads libraries of the service, which the help does not need
    from zoomgate_server.rpc.services.update_mask import clearable_paths  # noqa: PLC0415

    paths = list(clearable_paths())
    if path in paths:
        return path
    similar = difflib.get_close_matches(path, paths, n=1)
    advice = f"did you mean {similar[0]}?" if similar else f"use one of {', '.join(paths)}"
    raise click.BadParameter(f"{plain(path)!r} cannot be cleared; {advice}")


_past_meeting_arguments = combined(
    user_argument(), click.argument("meeting", type=_past_meeting, metavar="ID_OR_UUID")
)


@click.group()
def meetings() -> None:
    """Schedule, change, list and end meetings, and read past ones.

    Example: zoomgate meetings create monica@example.com --topic "Weekly review"
    """


@meetings.command()
@user_argument()
@meeting_options
@calls_service
def create(client: Client, as_json: bool, user: str, **options: Any) -> None:
    """Create a meeting of USER. The service applies defaults for omitted options.

    Example: zoomgate meetings create monica@example.com --topic Review --start "2030-01-07 09:00" --timezone Europe/Berlin --weekly mon,wed
    --times 10
    """
    details = meeting_details(**options)
    meeting = client.meetings.create_meeting(user_email=user, meeting_details=details).meeting
    _print_meeting(meeting, as_json=as_json)
    if _is_before(options["start"], details.timezone, meeting.start_time.seconds):
        note("the start is in the past; Zoom replaced it with the current time")


@meetings.command()
@_meeting_arguments
@occurrence_option("show")
@click.option("--previous", is_flag=True, help="Include past occurrences.")
@calls_service
def get(
    client: Client, as_json: bool, user: str, meeting_id: int, occurrence_id: str, previous: bool
) -> None:
    """Show a meeting of USER and its occurrences.

    Example: zoomgate meetings get monica@example.com 85746065432
    """
    response = client.meetings.get_meeting(
        user_email=user,
        meeting_id=meeting_id,
        occurrence_id=occurrence_id,
        show_previous_occurrences=previous or None,
    )
    _print_meeting(response.meeting, as_json=as_json)


@meetings.command()
@_meeting_arguments
@occurrence_option("change")
@meeting_options
@click.option(
    "--clear",
    "cleared",
    multiple=True,
    type=_clearable,
    metavar="PATH",
    help="A text or list to clear, such as agenda or settings.alternative_hosts. An invalid PATH lists all. Repeatable.",
)
@calls_service
def update(
    client: Client,
    as_json: bool,
    user: str,
    meeting_id: int,
    occurrence_id: str,
    cleared: tuple[str, ...],
    **options: Any,
) -> None:
    """Change a meeting of USER. Only the properties that you pass are changed.

    Zoom changes the schedule of a series only together with its recurrence. Therefore, for options such as --start, --duration or --every
    without --occurrence, the command reads the meeting first, and sends its recurrence with the changes. Zoom then creates the occurrences
    again, with new IDs and without earlier changes to single occurrences.

    Example: zoomgate meetings update monica@example.com 85746065432 --duration 30 --no-waiting-room
    """

    @functools.cache
    def current() -> Meeting:
        return client.meetings.get_meeting(user_email=user, meeting_id=meeting_id).meeting

    details = meeting_details(current=current, occurrence_id=occurrence_id, **options)
    paths = set_paths(details)
    for path in cleared:
        if any(path == changed or path.startswith(f"{changed}.") for changed in paths):
            fail(f"--clear {path} contradicts the option that sets it; use one of them", USAGE)
    paths += dict.fromkeys(cleared)
    if not paths:
        fail("nothing to change; use at least one option for a property of the meeting", USAGE)
    response = client.meetings.update_meeting(
        user_email=user,
        meeting_id=meeting_id,
        occurrence_id=occurrence_id,
        meeting_details=details,
        update_mask={"paths": paths},
    )
    print_done(response, f"updated meeting {meeting_id}", as_json=as_json)
    if _is_before(options["start"], details.timezone, time.time()):
        note("the start is in the past; Zoom ignored it")


@meetings.command()
@_meeting_arguments
@occurrence_option("delete")
@click.option(
    "--notify-hosts/--no-notify-hosts",
    default=None,
    help="Whether the host and the alternative hosts are notified by email.",
)
@click.option(
    "--notify-registrants/--no-notify-registrants",
    default=None,
    help="Whether registrants are notified by email.",
)
@yes_option
@calls_service
def delete(
    client: Client,
    as_json: bool,
    user: str,
    meeting_id: int,
    occurrence_id: str,
    notify_hosts: bool | None,
    notify_registrants: bool | None,
    yes: bool,
) -> None:
    """Delete a meeting of USER, or one of its occurrences.

    Example: zoomgate meetings delete monica@example.com 85746065432 --yes
    """
    deleted = (
        f"occurrence {occurrence_id} of meeting {meeting_id}" if occurrence_id else f"meeting {meeting_id}"
    )
    if not yes:
        confirm(f"Delete {deleted} of {user}?")
    response = client.meetings.delete_meeting(
        user_email=user,
        meeting_id=meeting_id,
        occurrence_id=occurrence_id,
        schedule_for_reminder=notify_hosts,
        cancel_meeting_reminder=notify_registrants,
    )
    print_done(response, f"deleted {deleted}", as_json=as_json)


@meetings.command("list")
@user_argument()
@click.option(
    "--type",
    "kind",
    type=EnumChoice(ListMeetingsRequest.Type),
    default="scheduled",
    show_default=True,
    help="The meetings to list. upcoming, upcoming_meetings and previous_meetings cover at most six months.",
)
@click.option("--from", "from_date", default="", metavar="DATE", help="The first day, such as 2030-01-07.")
@click.option("--to", "to_date", default="", metavar="DATE", help="The last day.")
@click.option("--timezone", default="", help="The time zone of --from and --to, such as Europe/Berlin.")
@limit_option("meetings")
@calls_service
def list_(client: Client, as_json: bool, user: str, kind: int, limit: int | None, **filters: Any) -> None:
    """List the meetings of USER. Zoom lists no instant meetings and no expired ones.

    Example: zoomgate meetings list monica@example.com --type upcoming --limit 10
    """
    listed = client.meetings.list_meetings.all(
        user_email=user, type=kind, page_size=page_size(limit), **filters
    )
    titles = ("ID", "TOPIC", "START", "MINUTES", "TYPE")
    print_items(listed, limit, titles, _meeting_row, "meeting", as_json=as_json)


@meetings.command()
@_meeting_arguments
@yes_option
@calls_service
def end(client: Client, as_json: bool, user: str, meeting_id: int, yes: bool) -> None:
    """End a running meeting of USER for all participants.

    Example: zoomgate meetings end monica@example.com 85746065432 --yes
    """
    if not yes:
        confirm(f"End meeting {meeting_id} of {user} for all participants?")
    response = client.meetings.end_meeting(user_email=user, meeting_id=meeting_id)
    print_done(response, f"ended meeting {meeting_id}", as_json=as_json)


@meetings.command()
@_meeting_arguments
@calls_service
def recover(client: Client, as_json: bool, user: str, meeting_id: int) -> None:
    """Recover a deleted meeting of USER.

    Example: zoomgate meetings recover monica@example.com 85746065432
    """
    response = client.meetings.recover_meeting(user_email=user, meeting_id=meeting_id)
    print_done(response, f"recovered meeting {meeting_id}", as_json=as_json)


@meetings.command()
@_meeting_arguments
@calls_service
def invitation(client: Client, as_json: bool, user: str, meeting_id: int) -> None:
    """Print the invitation to a meeting of USER.

    Example: zoomgate meetings invitation monica@example.com 85746065432
    """
    response = client.meetings.get_meeting_invitation(user_email=user, meeting_id=meeting_id)
    if as_json:
        print_json(response)
    else:
        print_text(response.invitation)


@meetings.command()
@_past_meeting_arguments
@calls_service
def past(client: Client, as_json: bool, user: str, meeting: dict[str, Any]) -> None:
    """Show an ended meeting of USER. A meeting ID selects the latest instance; a UUID selects any instance.

    Example: zoomgate meetings past monica@example.com 85746065432
    """
    past_meeting = client.meetings.get_past_meeting(user_email=user, **meeting).past_meeting
    print_message(
        past_meeting,
        {
            "id": str(past_meeting.id),
            "uuid": past_meeting.uuid,
            "topic": past_meeting.topic,
            "type": enum_name(PastMeeting.Type, past_meeting.type),
            "started": time_in_zone(past_meeting.start_time),
            "ended": time_in_zone(past_meeting.end_time),
            "duration": duration(past_meeting.duration_minutes * 60),
            "participants": str(past_meeting.participants_count),
            "host": past_meeting.user_email,
        },
        as_json=as_json,
    )


@meetings.command()
@_meeting_arguments
@calls_service
def instances(client: Client, as_json: bool, user: str, meeting_id: int) -> None:
    """List the ended instances of a meeting of USER.

    Example: zoomgate meetings instances monica@example.com 85746065432
    """
    listed = client.meetings.list_past_instances(user_email=user, meeting_id=meeting_id).instances
    print_items(listed, None, ("UUID", "STARTED"), _instance_row, "instance", as_json=as_json)


@meetings.command()
@_past_meeting_arguments
@limit_option("participants")
@calls_service
def participants(
    client: Client, as_json: bool, user: str, meeting: dict[str, Any], limit: int | None
) -> None:
    """List the participants of an ended meeting of USER.

    A meeting ID selects the latest instance; a UUID selects any instance. A participant who left and returned is listed once for each time.

    Example: zoomgate meetings participants monica@example.com 85746065432
    """
    listed = client.meetings.list_past_participants.all(
        user_email=user, page_size=page_size(limit), **meeting
    )
    titles = ("NAME", "EMAIL", "JOINED", "LEFT", "DURATION")
    print_items(listed, limit, titles, _participant_row, "participant", as_json=as_json)


def _is_before(start: datetime | None, zone: str, seconds: float) -> bool:
    """Return whether the value of `--start` is before a Unix time."""
    if start is None or (known := start.tzinfo or time_zone(zone)) is None:
        return False
    return start.replace(tzinfo=known).timestamp() < seconds


def _meeting_row(meeting: Meeting) -> tuple[str, ...]:
    return (
        str(meeting.id),
        meeting.topic,
        time_in_zone(meeting.start_time, meeting.timezone),
        str(meeting.duration_minutes or ""),
        enum_name(MeetingType, meeting.type),
    )


def _instance_row(instance: PastInstance) -> tuple[str, ...]:
    return instance.uuid, time_in_zone(instance.start_time)


def _participant_row(participant: Participant) -> tuple[str, ...]:
    return (
        participant.name,
        participant.user_email,
        time_in_zone(participant.join_time),
        time_in_zone(participant.leave_time),
        duration(participant.duration_seconds),
    )


def _print_meeting(meeting: Meeting, *, as_json: bool) -> None:
    settings = meeting.settings
    print_message(
        meeting,
        {
            "id": str(meeting.id),
            "topic": meeting.topic,
            "agenda": meeting.agenda,
            "type": enum_name(MeetingType, meeting.type),
            "status": enum_name(MeetingStatus, meeting.status),
            "starts": time_and_distance(meeting.start_time, meeting.timezone),
            "duration": duration(meeting.duration_minutes * 60),
            "repeats": _recurrence_text(meeting.recurrence, meeting.timezone),
            "join": meeting.join_url,
            "register": meeting.registration_url,
            "passcode": meeting.password,
            "host": meeting.host_email,
            "alternative hosts": ", ".join(settings.alternative_hosts),
            "waiting room": _on_or_off(settings, "waiting_room"),
            "join before host": _on_or_off(settings, "join_before_host"),
            "mute upon entry": _on_or_off(settings, "mute_upon_entry"),
            "host video": _on_or_off(settings, "host_video"),
            "participant video": _on_or_off(settings, "participant_video"),
            "recording": enum_name(MeetingSettings.AutoRecording, settings.auto_recording),
            "registration": enum_name(MeetingSettings.ApprovalType, settings.approval_type),
        },
        as_json=as_json,
    )
    if meeting.occurrences and not as_json:
        click.echo()
        titles = ("OCCURRENCE", "START", "MINUTES", "STATUS")
        print_table(
            titles, (_occurrence_row(occurrence, meeting.timezone) for occurrence in meeting.occurrences)
        )


def _on_or_off(settings: MeetingSettings, name: str) -> str:
    """Return `on` or `off`, or an empty text if the setting is unknown."""
    if not settings.HasField(name):  # type: ignore[arg-type]
        return ""
    return "on" if getattr(settings, name) else "off"


def _occurrence_row(occurrence: Occurrence, zone: str) -> tuple[str, ...]:
    return (
        occurrence.occurrence_id,
        time_in_zone(occurrence.start_time, zone),
        str(occurrence.duration_minutes),
        enum_name(Occurrence.Status, occurrence.status),
    )


def _recurrence_text(recurrence: Recurrence, zone: str) -> str:
    """Return a text such as `every 2 weeks on monday and friday, 10 times`; empty without a recurrence."""
    if not recurrence.type:
        return ""
    unit = _UNITS.get(recurrence.type, "unit")
    interval = recurrence.repeat_interval
    parts = [f"every {counted(interval, unit)}" if interval > 1 else f"every {unit}"]
    if recurrence.weekly_days:
        parts.append("on " + ", ".join(enum_name(DayOfWeek, day) for day in recurrence.weekly_days))
    if recurrence.monthly_week:
        week, day = recurrence.monthly_week, recurrence.monthly_week_day
        parts.append(f"on the {enum_name(WeekOfMonth, week)} {enum_name(DayOfWeek, day)}")
    elif recurrence.monthly_day:
        parts.append(f"on day {recurrence.monthly_day}")
    text = " ".join(parts)
    if recurrence.HasField("end_time"):
        return f"{text}, until {time_in_zone(recurrence.end_time, zone)}"
    return f"{text}, {counted(recurrence.end_times, 'time')}" if recurrence.end_times else text
