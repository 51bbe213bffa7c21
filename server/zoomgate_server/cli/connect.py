"""`zoomgate connect`: connect a person from the terminal."""

import re
import sys

import click

from zoomgate import Client, NotConnected
from zoomgate_server.cli.channel import calls_service, user_argument
from zoomgate_server.cli.connections import print_connection
from zoomgate_server.cli.output import document, fail, note


@click.command()
@user_argument
@click.option("--no-browser", is_flag=True, help="Print the link, do not open it.")
@click.option(
    "--wait",
    type=click.IntRange(0, 600),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the consent; 0 to print the link and end.",
)
@calls_service
def connect(client: Client, as_json: bool, user: str, no_browser: bool, wait: int) -> None:
    """Let USER, an e-mail address, consent at Zoom, and say who is connected and with which scopes.

    The link is printed on standard output and opened in a browser when a person sits at this terminal. It works once, for 10 minutes.

    Example: zoomgate connect monica@example.com
    """
    try:
        before = client.auth.get_connection(user_email=user).connection
    except NotConnected:
        before = None
    begun = client.auth.begin_authorization(user_email=user)
    link = begun.authorization_url
    if not re.fullmatch(r"https?://[!-~]+", link):
        fail(
            "The service gave a link that is no web address; look at its redirect URI with `zoomgate doctor`"
        )
    if wait == 0 and as_json:
        document(begun)
        return
    click.echo(link, err=as_json)
    if wait == 0:
        return
    if not no_browser and sys.stdout.isatty():
        click.launch(link)
    note(f"waiting until {user} has consented (Ctrl+C ends the waiting, not the link)")
    try:
        connection = client.wait_for_connection(user, after=before, timeout=wait)
    except TimeoutError:
        fail(
            f"{user} did not consent within {wait} seconds: the link may still be used; look with `zoomgate connections show {user}`"
        )
    print_connection(connection, as_json=as_json)
