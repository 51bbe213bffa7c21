"""`zoomgate token`: a person's access token, through the running service."""

import click

from zoomgate import Client
from zoomgate_server.cli.channel import calls_service, user_argument
from zoomgate_server.cli.output import FAILURE, document, facts, when


@click.group()
def token() -> None:
    """Check a person's access token, or get it.

    Example: zoomgate token check monica@example.com
    """


@token.command()
@user_argument
@calls_service
def check(client: Client, as_json: bool, user: str) -> None:
    """Tell whether the stored access token of USER is expired: exit code 0 if it is valid, 1 if not.

    An expired one is no problem: the next call refreshes it.

    Example: zoomgate token check monica@example.com
    """
    answer = client.auth.check_token(user_email=user)
    if as_json:
        document(answer)
    else:
        facts({"token": "expired" if answer.expired else "valid", "until": when(answer.expire_time)})
    if answer.expired:
        raise SystemExit(FAILURE)


@token.command()
@user_argument
@click.option(
    "--min-validity",
    type=click.IntRange(0, 600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long it has to be valid at least; it is refreshed if need be.",
)
@calls_service
def get(client: Client, as_json: bool, user: str, min_validity: int) -> None:
    """Print an access token of USER: a secret that lets its holder act as USER for up to an hour.

    Example: curl -H "Authorization: Bearer $(zoomgate token get monica@example.com)" https://api.zoom.us/v2/users/me
    """
    answer = client.auth.get_token(user_email=user, min_validity={"seconds": min_validity})
    if as_json:
        document(answer.token)
    else:
        click.echo(answer.token.access_token)
