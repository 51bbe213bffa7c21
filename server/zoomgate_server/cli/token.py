"""Command `zoomgate token`, which checks or prints a user's access token through the running service."""

import click

from zoomgate import Client
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.options import user_argument
from zoomgate_server.cli.output import FAILURE, print_json, print_message, time_and_distance


@click.group()
def token() -> None:
    """Check or print a user's access token.

    Example: zoomgate token check monica@example.com
    """


@token.command()
@user_argument()
@calls_service
def check(client: Client, as_json: bool, user: str) -> None:
    """Check whether the stored access token of USER has expired. The exit code is 0 if the token is valid, and 1 otherwise.

    The next call refreshes an expired token.

    Example: zoomgate token check monica@example.com
    """
    response = client.auth.check_token(user_email=user)
    fields = {
        "token": "expired" if response.expired else "valid",
        "until": time_and_distance(response.expire_time),
    }
    print_message(response, fields, as_json=as_json)
    if response.expired:
        raise SystemExit(FAILURE)


@token.command()
@user_argument()
@click.option(
    "--min-validity",
    type=click.IntRange(0, 600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="The minimum remaining lifetime; a token that would expire earlier is refreshed.",
)
@calls_service
def get(client: Client, as_json: bool, user: str, min_validity: int) -> None:
    """Print an access token of USER. The token is a secret: anyone who has it can act as USER in Zoom for up to an hour.

    Example: curl -H "Authorization: Bearer $(zoomgate token get monica@example.com)" https://api.zoom.us/v2/users/me
    """
    response = client.auth.get_token(user_email=user, min_validity={"seconds": min_validity})
    if as_json:
        print_json(response.token)
    else:
        click.echo(response.token.access_token)
