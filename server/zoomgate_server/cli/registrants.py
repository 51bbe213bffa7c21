"""Command `zoomgate registrants`, which manages registrations for meetings through the running service."""

from typing import Any

import click

from zoomgate import Client
from zoomgate.v1.registrant_pb2 import Registrant
from zoomgate.v1.registrants_service_pb2 import AddRegistrantRequest, UpdateRegistrantStatusRequest
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.message_file import details_option, read_details
from zoomgate_server.cli.options import (
    EnumChoice,
    combined,
    limit_option,
    meeting_argument,
    occurrence_option,
    page_size,
    user_argument,
    yes_option,
)
from zoomgate_server.cli.output import (
    NOT_FOUND,
    confirm,
    counted,
    enum_name,
    fail,
    print_done,
    print_items,
    print_message,
    time_and_distance,
    time_in_zone,
)

_meeting_arguments = combined(user_argument(), meeting_argument)
_registrant_argument = click.argument("target", metavar="REGISTRANT")


@click.group()
def registrants() -> None:
    """Manage registrations for meetings.

    Example: zoomgate registrants list monica@example.com 85746065432 --status pending
    """


@registrants.command()
@_meeting_arguments
@click.option("--email", help="The email address of the person.")
@click.option("--first-name", help="The first name of the person.")
@click.option("--last-name", help="The last name of the person.")
@click.option(
    "--occurrence",
    "occurrence_ids",
    multiple=True,
    metavar="ID",
    help="An occurrence to register for, if the meeting requires a choice. Repeatable.",
)
@click.option(
    "--language",
    type=EnumChoice(AddRegistrantRequest.Language),
    metavar="NAME",
    help="The language of the email, such as german.",
)
@click.option(
    "--approve", is_flag=True, help="Approve the registration even if the host approves registrations."
)
@details_option(Registrant)
@calls_service
def add(
    client: Client,
    as_json: bool,
    user: str,
    meeting_id: int,
    occurrence_ids: tuple[str, ...],
    language: int | None,
    approve: bool,
    details: Any,
    **names: str | None,
) -> None:
    """Register a person for a meeting of USER.

    Example: zoomgate registrants add monica@example.com 85746065432 --email omar@example.com --first-name Omar
    """
    registrant = Registrant()
    read_details(details, registrant)
    for name, value in names.items():
        if value is not None:
            setattr(registrant, name, value)
    response = client.registrants.add_registrant(
        user_email=user,
        meeting_id=meeting_id,
        registrant=registrant,
        occurrence_ids=occurrence_ids,
        language=language,
        auto_approve=approve or None,
    )
    print_message(
        response,
        {
            "id": response.registrant_id,
            "status": "approved" if response.join_url else "pending",
            "topic": response.topic,
            "starts": time_and_distance(response.start_time),
            "join": response.join_url,
            "pin": str(response.participant_pin_code or ""),
        },
        as_json=as_json,
    )


@registrants.command("list")
@_meeting_arguments
@occurrence_option("list the registrations for")
@click.option(
    "--status", type=EnumChoice(Registrant.Status), default="approved", show_default=True, help="The status."
)
@limit_option("registrations")
@calls_service
def list_(
    client: Client,
    as_json: bool,
    user: str,
    meeting_id: int,
    occurrence_id: str,
    status: int,
    limit: int | None,
) -> None:
    """List the registrations for a meeting of USER.

    Example: zoomgate registrants list monica@example.com 85746065432 --status pending
    """
    listed = client.registrants.list_registrants.all(
        user_email=user,
        meeting_id=meeting_id,
        occurrence_id=occurrence_id,
        status=status,
        page_size=page_size(limit),
    )
    titles = ("ID", "EMAIL", "NAME", "STATUS", "REGISTERED")
    print_items(listed, limit, titles, _row, "registration", as_json=as_json)


@registrants.command()
@_meeting_arguments
@_registrant_argument
@calls_service
def get(client: Client, as_json: bool, user: str, meeting_id: int, target: str) -> None:
    """Show a registration for a meeting of USER. REGISTRANT is the email address of the person or the ID of the registration.

    Example: zoomgate registrants get monica@example.com 85746065432 9tboDiHUQAeOnbmudzWa5g
    """
    registrant = client.registrants.get_registrant(
        user_email=user, meeting_id=meeting_id, registrant_id=_registrant_id(client, user, meeting_id, target)
    ).registrant
    print_message(
        registrant,
        {
            "id": registrant.id,
            "email": registrant.email,
            "name": _name(registrant),
            "status": enum_name(Registrant.Status, registrant.status),
            "registered": time_and_distance(registrant.create_time),
            "organization": registrant.org,
            "job title": registrant.job_title,
            "country": registrant.country,
            "phone": registrant.phone,
            "comments": registrant.comments,
            **{question.title: question.value for question in registrant.custom_questions},
            "join": registrant.join_url,
        },
        as_json=as_json,
    )


def _add_status_command(verb: str, done: str, *, asks: bool = False) -> None:
    """Add a command that changes the status of registrations; one that `asks` requires a confirmation."""
    options = yes_option if asks else combined()
    action = UpdateRegistrantStatusRequest.Action.Value(f"ACTION_{verb.upper()}")

    @registrants.command(
        verb,
        help=f"{verb.capitalize()} registrations for a meeting of USER. Each REGISTRANT is the email address of a"
        " person or the ID of a registration.\n\n"
        f"Example: zoomgate registrants {verb} monica@example.com 85746065432 omar@example.com basil@example.com",
    )
    @options
    @_meeting_arguments
    @click.argument("targets", metavar="REGISTRANT...", nargs=-1, required=True)
    @occurrence_option(f"{verb} the registrations for")
    @calls_service
    def change(
        client: Client,
        as_json: bool,
        user: str,
        meeting_id: int,
        targets: tuple[str, ...],
        occurrence_id: str,
        yes: bool = True,
    ) -> None:
        selected = list(dict.fromkeys(targets))
        count = counted(len(selected), "registration")
        if not yes:
            confirm(f"{verb.capitalize()} {count} for meeting {meeting_id} of {user}?")
        response = client.registrants.update_registrant_status(
            user_email=user,
            meeting_id=meeting_id,
            occurrence_id=occurrence_id,
            action=action,
            registrants=[{"email" if "@" in target else "id": target} for target in selected],
        )
        print_done(response, f"{done} {count}", as_json=as_json)


_add_status_command("approve", "approved")
_add_status_command("deny", "denied")
_add_status_command("cancel", "canceled", asks=True)


@registrants.command()
@_meeting_arguments
@_registrant_argument
@occurrence_option("delete the registration for")
@yes_option
@calls_service
def delete(
    client: Client,
    as_json: bool,
    user: str,
    meeting_id: int,
    target: str,
    occurrence_id: str,
    yes: bool,
) -> None:
    """Delete a registration for a meeting of USER. REGISTRANT is the email address of the person or the ID of the registration.

    Example: zoomgate registrants delete monica@example.com 85746065432 9tboDiHUQAeOnbmudzWa5g --yes
    """
    if not yes:
        confirm(f"Delete registration {target} for meeting {meeting_id} of {user}?")
    response = client.registrants.delete_registrant(
        user_email=user,
        meeting_id=meeting_id,
        registrant_id=_registrant_id(client, user, meeting_id, target, occurrence_id),
        occurrence_id=occurrence_id,
    )
    print_done(response, f"deleted registration {target}", as_json=as_json)


def _registrant_id(client: Client, user: str, meeting_id: int, target: str, occurrence_id: str = "") -> str:
    """Return the ID of a registration, which is looked up in the lists of the meeting if the target is an email address."""
    if "@" not in target:
        return target
    listed = (
        registrant
        for status in Registrant.Status.values()[1:]
        for registrant in client.registrants.list_registrants.all(
            user_email=user, meeting_id=meeting_id, occurrence_id=occurrence_id, status=status
        )
    )
    found = next((registrant for registrant in listed if registrant.email.lower() == target.lower()), None)
    if found is None:
        fail(
            f"{target} is not registered; list the registrations with `zoomgate registrants list {user} {meeting_id}`",
            NOT_FOUND,
        )
    return found.id


def _row(registrant: Registrant) -> tuple[str, ...]:
    return (
        registrant.id,
        registrant.email,
        _name(registrant),
        enum_name(Registrant.Status, registrant.status),
        time_in_zone(registrant.create_time),
    )


def _name(registrant: Registrant) -> str:
    return f"{registrant.first_name} {registrant.last_name}".strip()
