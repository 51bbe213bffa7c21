"""Lets a person connect their Zoom account, and says what the app may do then."""

import os
import sys

from zoomgate import Client, NotConnected


def main(user_email: str) -> None:
    """Print a link, wait until the person has consented, and print what was granted."""
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    with Client(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        try:
            before = zoomgate.auth.get_connection(user_email=user_email).connection
        except NotConnected:
            before = None
        begun = zoomgate.auth.begin_authorization(user_email=user_email)
        print(f"{user_email} opens this link: {begun.authorization_url}", flush=True)
        connection = zoomgate.wait_for_connection(user_email, after=before)
        print(f"{connection.user_email} is connected as Zoom user {connection.zoom_user_id}; the app may:")
        for scope in connection.scopes:
            print(f"  {scope}")


if __name__ == "__main__":
    main(sys.argv[1])
