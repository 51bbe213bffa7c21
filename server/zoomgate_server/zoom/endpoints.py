"""Requests to Zoom's REST API that the service itself sends (https://developers.zoom.us/docs/api/meetings/)."""

from zoomgate_server.zoom.request import Target, ZoomRequest, ZoomResponse
from zoomgate_server.zoom.urls import encode_query

_JSON = "application/json"
_MEETING = "/meetings/{meetingId}"


def current_user() -> ZoomRequest:
    """Return a request for the profile of the token's user."""
    return ZoomRequest("GET", Target("/users/me"), template="/users/me")


def create_meeting(body: bytes) -> ZoomRequest:
    """Return a request that creates a meeting of the user; Zoom responds with 201 and the meeting."""
    path = "/users/me/meetings"
    return ZoomRequest("POST", Target(path), body=body, content_type=_JSON, template=path)


def get_meeting(
    meeting_id: int, *, occurrence_id: str = "", show_previous_occurrences: bool | None = None
) -> ZoomRequest:
    """Return a request for a meeting; Zoom responds with 200 and the meeting."""
    query = _query(occurrence_id=occurrence_id, show_previous_occurrences=show_previous_occurrences)
    return ZoomRequest("GET", Target(f"/meetings/{meeting_id}", query), template=_MEETING)


def delete_meeting(
    meeting_id: int,
    *,
    occurrence_id: str = "",
    schedule_for_reminder: bool | None = None,
    cancel_meeting_reminder: bool | None = None,
) -> ZoomRequest:
    """Return a request that deletes a meeting or one of its occurrences; Zoom responds with 204."""
    query = _query(
        occurrence_id=occurrence_id,
        schedule_for_reminder=schedule_for_reminder,
        cancel_meeting_reminder=cancel_meeting_reminder,
    )
    return ZoomRequest("DELETE", Target(f"/meetings/{meeting_id}", query), template=_MEETING)


def deleted(response: ZoomResponse) -> ZoomResponse | None:
    """Return the response to a deletion if it confirms the deletion."""
    return response if response.status == 204 else None


def _query(*, occurrence_id: str, **flags: bool | None) -> str:
    """Encode the parameters that are set."""
    parameters = [("occurrence_id", occurrence_id)] if occurrence_id else []
    parameters += [(name, str(flag).lower()) for name, flag in flags.items() if flag is not None]
    return encode_query(parameters)
