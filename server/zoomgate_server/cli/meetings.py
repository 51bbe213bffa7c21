"""Command `zoomgate meetings`, which manages users' meetings through the running service."""

import json
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zoomgate import Client
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.options import combined, user_argument, yes_option
from zoomgate_server.cli.output import USAGE, confirm, fail, local_time, note, print_json, print_message

_meeting_arguments = combined(user_argument(), click.argument("meeting_id", type=int, metavar="ID"))


@click.group()
def meetings() -> None:
    """Create, get and delete meetings.

    Example: zoomgate meetings create monica@example.com --topic "Weekly review"
    """


@meetings.command()
@user_argument()
@click.option("--topic", help="The topic of the meeting.")
@click.option("--agenda", help="The agenda of the meeting.")
@click.option(
    "--start",
    metavar="TIME",
    help="The date and time of the start, such as 2030-01-07T09:00:00Z; without a zone, in --timezone. Default: now.",
)
@click.option("--timezone", help="The time zone, as a name in the tz database, such as Europe/Berlin.")
@click.option("--duration", type=int, metavar="MINUTES", help="The duration of the meeting.")
@click.option("--password", help="The password that attendees must enter.")
@click.option(
    "--details",
    type=click.File("rb"),
    metavar="FILE",
    help="JSON file with a MeetingDetails message of the API, or - for standard input. Other options override it.",
)
@calls_service
def create(client: Client, as_json: bool, user: str, details: Any, start: str | None, **fields: Any) -> None:
    """Create a meeting of USER. The service applies defaults for omitted options.

    Example: zoomgate meetings create monica@example.com --topic Review --start 2030-01-07T09:00:00Z --duration 45
    """
    meeting_details = MeetingDetails()
    if details is not None:
        content = details.read()
        try:
            json_format.Parse(content, meeting_details)
        except (json_format.ParseError, UnicodeDecodeError, RecursionError):
            fail(f"--details: {_details_problem(content)}; see docs/meetings.md", USAGE)
    fields["duration_minutes"] = fields.pop("duration")
    for name, value in fields.items():
        if value is not None:
            try:
                setattr(meeting_details, name, value)
            except UnicodeEncodeError:
                raise
            except ValueError:
                fail(f"--{name.removesuffix('_minutes')} is out of range", USAGE)
    if start is not None:
        _set_start(meeting_details, start)
    response = client.meetings.create_meeting(user_email=user, meeting_details=meeting_details)
    _print(response.meeting, as_json=as_json)


@meetings.command()
@_meeting_arguments
@calls_service
def get(client: Client, as_json: bool, user: str, meeting_id: int) -> None:
    """Show the meeting of USER with the given ID.

    Example: zoomgate meetings get monica@example.com 85746065432
    """
    _print(client.meetings.get_meeting(user_email=user, meeting_id=_id(meeting_id)).meeting, as_json=as_json)


@meetings.command()
@_meeting_arguments
@click.option(
    "--occurrence",
    default="",
    metavar="ID",
    help="The occurrence of a recurring meeting to delete. Default: the whole meeting.",
)
@yes_option
@calls_service
def delete(client: Client, as_json: bool, user: str, meeting_id: int, occurrence: str, yes: bool) -> None:
    """Delete the meeting of USER with the given ID.

    Example: zoomgate meetings delete monica@example.com 85746065432 --yes
    """
    if not yes:
        confirm(f"Delete meeting {meeting_id} of {user}?")
    response = client.meetings.delete_meeting(
        user_email=user, meeting_id=_id(meeting_id), occurrence_id=occurrence
    )
    if as_json:
        print_json(response)
    else:
        note(f"deleted meeting {meeting_id}")


def _details_problem(content: bytes) -> str:
    """Return the reason why content is not a MeetingDetails message."""
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    if not isinstance(document, dict):
        return "not a JSON object"
    return _invalid_field(document, MeetingDetails) or (
        "a field is set twice, or fields exclude each other, such as startTime and localStartTime"
    )


def _invalid_field(document: dict[str, Any], kind: type[Message], path: str = "") -> str:
    """Describe the first field that is unknown or has an invalid value, without the value, which can be a password."""
    fields = {name: field for field in kind.DESCRIPTOR.fields for name in (field.name, field.json_name)}
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            return f"unknown field {path}{name}"
        try:
            json_format.ParseDict({name: value}, kind())
        except json_format.ParseError:
            if field.enum_type is not None:
                names = [known.name for known in field.enum_type.values if known.number]
                return f"invalid value of {path}{name}; use one of {', '.join(names)}"
            nested = ""
            if isinstance(value, dict) and field.message_type is not None:
                nested_kind = GetMessageClass(field.message_type)  # type: ignore[arg-type]
                nested = _invalid_field(value, nested_kind, f"{path}{name}.")
            return nested or f"invalid value of {path}{name}"
    return ""


def _id(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        fail(f"invalid meeting ID {number}; use the 9 to 11 digits in the link of the meeting", USAGE)
    return number


def _set_start(details: MeetingDetails, text: str) -> None:
    try:
        if len(text) <= len("2030-01-07"):  # a date, which would become midnight
            raise ValueError
        start = datetime.fromisoformat(text)
        if start.tzinfo is None:
            details.local_start_time = start.isoformat(timespec="seconds")
        else:
            details.start_time.FromDatetime(start)
    except (ValueError, OverflowError):  # not a date and time, or outside the years 1 to 9999 in UTC
        fail(
            f"invalid --start {text!r}; use a date and time such as 2030-01-07T09:00:00Z, or omit the Z for a time in --timezone",
            USAGE,
        )


def _zone(name: str) -> tzinfo | None:
    """Return the time zone of a meeting, or None if it is unknown on the local machine."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        return None


def _print(meeting: Meeting, *, as_json: bool) -> None:
    print_message(
        meeting,
        {
            "id": str(meeting.id),
            "topic": meeting.topic,
            "agenda": meeting.agenda,
            "starts": local_time(meeting.start_time, _zone(meeting.timezone)),
            "time zone": meeting.timezone,
            "duration": f"{meeting.duration_minutes} minutes" if meeting.duration_minutes else "",
            "occurrences": str(len(meeting.occurrences) or ""),
            "join": meeting.join_url,
            "password": meeting.password,
            "host": meeting.host_email,
        },
        as_json=as_json,
    )
