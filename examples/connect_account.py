"""Connect a user's Zoom account, and print the granted scopes."""

import os
import sys

from zoomgate import Client, NotConnected


def main(user_email: str) -> None:
    """Print the authorization URL, wait until the user has consented, and print the granted scopes."""
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    with Client(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        try:
            before = zoomgate.auth.get_connection(user_email=user_email).connection
        except NotConnected:
            before = None
        authorization = zoomgate.auth.begin_authorization(user_email=user_email)
        print(f"{user_email} must open this URL: {authorization.authorization_url}", flush=True)
        connection = zoomgate.wait_for_connection(user_email, after=before, state=authorization.state)
        print(
            f"{connection.user_email} is connected as Zoom user {connection.zoom_user_id} with these scopes:"
        )
        for scope in connection.scopes:
            print(f"  {scope}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/connect_account.py EMAIL")
    main(*sys.argv[1:])
