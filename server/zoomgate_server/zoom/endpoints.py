"""Requests to Zoom's REST API that the service itself builds (https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Mapping, Sequence

from zoomgate_server.zoom.request import Target, ZoomRequest
from zoomgate_server.zoom.urls import encode_id, encode_query


def current_user() -> ZoomRequest:
    """Return a request for the profile of the token's user."""
    return ZoomRequest("GET", Target("/users/me"), template="/users/me")


def request(
    method: str,
    template: str,
    ids: Mapping[str, str],
    query: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
) -> ZoomRequest:
    """Return a request for an operation of Zoom.

    Args:
        template: The path in Zoom's documentation, such as `/meetings/{meetingId}`.
        ids: The values of the placeholders in the template, not encoded.
        query: The parameters of the query, not encoded.
        body: The JSON body, if any.
    """
    path = template.format_map({name: encode_id(value) for name, value in ids.items()})
    content_type = None if body is None else "application/json"
    return ZoomRequest(
        method, Target(path, encode_query(query)), body=body, content_type=content_type, template=template
    )
