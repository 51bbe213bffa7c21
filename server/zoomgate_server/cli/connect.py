"""Command `zoomgate connect`, which connects a user from the terminal."""

import re
import sys

import click

from zoomgate import Client, NotConnected
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.connections import print_connection
from zoomgate_server.cli.options import user_argument, user_email
from zoomgate_server.cli.output import counted, fail, note, print_json, prompt


@click.command()
@user_argument()
@click.option(
    "--zoom-email",
    type=user_email,
    metavar="ADDRESS",
    help="Email address of the Zoom account that must consent, if it differs from USER.",
)
@click.option("--no-browser", is_flag=True, help="Print the link without opening it.")
@click.option(
    "--wait",
    type=click.IntRange(0, 600),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Maximum time to wait for the consent; 0 prints the link and exits.",
)
@click.option(
    "--paste",
    is_flag=True,
    help="Read the URL to which Zoom redirected the browser from standard input instead of waiting, for a redirect URI of your own.",
)
@calls_service
def connect(
    client: Client,
    as_json: bool,
    user: str,
    zoom_email: str | None,
    no_browser: bool,
    wait: int,
    paste: bool,
) -> None:
    """Connect USER (an email address): print the consent link, wait, and show the connection.

    The link is printed on standard output and, on an interactive terminal, opened in the browser. It is valid for 10 minutes
    and can be used only once. With --json, the first document contains the link, and the second one is the connection.

    Example: zoomgate connect monica@example.com
    """
    try:
        previous = client.auth.get_connection(user_email=user).connection
    except NotConnected:
        previous = None
    started = client.auth.begin_authorization(user_email=user, zoom_email=zoom_email)
    link = started.authorization_url
    if not re.fullmatch(r"https?://[!-~]+", link):
        fail(
            "the service returned a link that is not a valid web URL; check the redirect URI with `zoomgate doctor`"
        )
    if as_json:
        print_json(started)
    else:
        click.echo(link)
    if wait == 0:
        return
    consenting = zoom_email or user
    if not no_browser and sys.stdout.isatty():
        click.launch(link)
    if paste:
        callback_url = prompt("URL to which Zoom redirected the browser")
        completed = client.auth.complete_authorization(callback_url=callback_url)
        print_connection(completed.connection, as_json=as_json)
        return
    note(f"waiting for the consent of {consenting} (Ctrl+C stops waiting; the link remains valid)")
    try:
        connection = client.wait_for_connection(user, after=previous, state=started.state, timeout=wait)
    except TimeoutError:
        fail(
            f"{consenting} did not consent within {counted(wait, 'second')}, but the link may still be valid;"
            f" check later with `zoomgate connections show {user}`"
        )
    print_connection(connection, as_json=as_json)
