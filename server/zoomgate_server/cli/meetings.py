"""`zoomgate meetings`: people's meetings, through the running service."""

from datetime import datetime
from typing import Any

import click
from google.protobuf import json_format

from zoomgate import Client
from zoomgate.v1.meeting_pb2 import Meeting, MeetingDetails
from zoomgate_server.cli.channel import calls_service, user_argument
from zoomgate_server.cli.output import USAGE, document, facts, fail, note, when
from zoomgate_server.telemetry.logs import plain


@click.group()
def meetings() -> None:
    """Schedule, show and delete meetings.

    Example: zoomgate meetings create monica@example.com --topic "Weekly review"
    """


@meetings.command()
@user_argument
@click.option("--topic", help="What it is about.")
@click.option("--agenda", help="More about it.")
@click.option(
    "--start",
    metavar="TIME",
    help="2030-01-07T09:00:00Z, or without a zone to be read in --timezone. Default: now.",
)
@click.option("--timezone", help="A name of the tz database, such as Europe/Berlin.")
@click.option("--duration", type=int, metavar="MINUTES", help="How long it takes.")
@click.option("--password", help="What attendees have to enter.")
@click.option(
    "--details",
    type=click.File("rb"),
    metavar="FILE",
    help="MeetingDetails of the contract as JSON, - for standard input; the other options win over it.",
)
@calls_service
def create(client: Client, as_json: bool, user: str, details: Any, start: str | None, **given: Any) -> None:
    """Schedule a meeting of USER. What is left out gets the service's defaults.

    Example: zoomgate meetings create monica@example.com --topic Review --start 2030-01-07T09:00:00Z --duration 45
    """
    wanted = MeetingDetails()
    if details is not None:
        try:
            json_format.Parse(details.read(), wanted)
        except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
            fail(f"--details: {error}; see MeetingDetails in the contract", USAGE)
    given["duration_minutes"] = given.pop("duration")
    for name, value in given.items():
        if value is not None:
            try:
                setattr(wanted, name, value)
            except UnicodeEncodeError:
                raise
            except ValueError:
                fail(f"--{name.removesuffix('_minutes')} is out of range", USAGE)
    if start is not None:
        _set_start(wanted, start)
    _print(client.meetings.create_meeting(user_email=user, meeting_details=wanted).meeting, as_json=as_json)


@meetings.command()
@user_argument
@click.argument("meeting_id", type=int, metavar="ID")
@calls_service
def get(client: Client, as_json: bool, user: str, meeting_id: int) -> None:
    """Show the meeting ID of USER.

    Example: zoomgate meetings get monica@example.com 85746065432
    """
    _print(client.meetings.get_meeting(user_email=user, meeting_id=_id(meeting_id)).meeting, as_json=as_json)


@meetings.command()
@user_argument
@click.argument("meeting_id", type=int, metavar="ID")
@click.option("--occurrence", default="", metavar="ID", help="Only this occurrence of a recurring meeting.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calls_service
def delete(client: Client, as_json: bool, user: str, meeting_id: int, occurrence: str, yes: bool) -> None:
    """Delete the meeting ID of USER.

    Example: zoomgate meetings delete monica@example.com 85746065432 --yes
    """
    if not yes:
        click.confirm(f"Delete the meeting {meeting_id} of {plain(user)}?", abort=True, err=True)
    answer = client.meetings.delete_meeting(
        user_email=user, meeting_id=_id(meeting_id), occurrence_id=occurrence
    )
    if as_json:
        document(answer)
    else:
        note(f"deleted the meeting {meeting_id}")


def _id(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        fail(f"{number} is no meeting id: it has 9 to 11 digits, as in the meeting's link", USAGE)
    return number


def _set_start(wanted: MeetingDetails, text: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            wanted.local_start_time = moment.isoformat(timespec="seconds")
        else:
            wanted.start_time.FromDatetime(moment)
    except (ValueError, OverflowError):  # no time, or one outside the years 1 to 9999 of UTC
        fail(
            f"--start is {text!r}: write 2030-01-07T09:00:00Z, or without the Z to be read in --timezone",
            USAGE,
        )


def _print(meeting: Meeting, *, as_json: bool) -> None:
    if as_json:
        document(meeting)
        return
    facts(
        {
            "id": str(meeting.id),
            "topic": meeting.topic,
            "agenda": meeting.agenda,
            "starts": when(meeting.start_time),
            "time zone": meeting.timezone,
            "takes": f"{meeting.duration_minutes} minutes" if meeting.duration_minutes else "",
            "occurrences": str(len(meeting.occurrences) or ""),
            "join": meeting.join_url,
            "password": meeting.password,
            "host": meeting.host_email,
        }
    )
