"""Call a part of Zoom's API without a dedicated RPC: list all meetings of a user."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from zoomgate import Client


def pages(zoomgate: Client, user_email: str, url: str) -> Iterator[dict[str, Any]]:
    """Yield the pages of a Zoom list by following `next_page_token`."""
    token = ""
    while True:
        query = [{"name": "page_size", "value": "300"}]
        if token:
            query.append({"name": "next_page_token", "value": token})
        response = zoomgate.proxy.get(user_email=user_email, url=url, query=query).response
        page = json.loads(response.body)
        if response.status != 200:  # Zoom error responses do not raise an exception
            sys.exit(f"Zoom responded with {response.status}: {page.get('message')}")
        yield page
        token = page.get("next_page_token", "")
        if not token:
            return


def main(user_email: str) -> None:
    """Print the user's meetings."""
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    with Client(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        for page in pages(zoomgate, user_email, "/users/me/meetings"):
            for meeting in page["meetings"]:
                print(f"{meeting['id']}  {meeting['topic']}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/forward_request.py EMAIL")
    main(*sys.argv[1:])
