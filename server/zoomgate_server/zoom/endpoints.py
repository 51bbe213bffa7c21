"""Requests to Zoom's REST API that the service itself builds (https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Sequence

from zoomgate_server.zoom.request import Target, ZoomRequest
from zoomgate_server.zoom.urls import encode_query


def current_user() -> ZoomRequest:
    """Return a request for the profile of the token's user."""
    return ZoomRequest("GET", Target("/users/me"), template="/users/me")


def request(
    method: str, template: str, path: str, query: Sequence[tuple[str, str]] = (), body: bytes | None = None
) -> ZoomRequest:
    """Return a request for an operation of Zoom.

    Args:
        template: The path in Zoom's documentation, such as `/meetings/{meetingId}`.
        path: The encoded path.
        query: The parameters of the query, not encoded.
        body: The JSON body, if any.
    """
    target = Target(path, encode_query(query) if query else "")
    content_type = None if body is None else "application/json"
    return ZoomRequest(method, target, body=body, content_type=content_type, template=template)
