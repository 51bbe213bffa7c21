"""Call a part of Zoom's API without a dedicated RPC: list all meetings of a user."""

import os
import sys

from zoomgate import Client, ConsentRequired, UnexpectedStatus


def main(user_email: str) -> None:
    """Print the user's meetings."""
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    with Client(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        try:
            for page in zoomgate.pages(user_email, "/users/me/meetings", query={"page_size": "300"}):
                for meeting in page["meetings"]:
                    print(f"{meeting['id']}  {meeting['topic']}")
        except ConsentRequired:
            sys.exit(f"{user_email} must connect Zoom first; run connect_account.py")
        except UnexpectedStatus as error:
            sys.exit(error.message)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/forward_request.py EMAIL")
    main(*sys.argv[1:])
