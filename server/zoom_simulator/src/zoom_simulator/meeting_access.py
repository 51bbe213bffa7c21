"""Lookup of meetings and occurrences for API requests."""

from typing import Any

from aiohttp import web

from zoom_simulator.errors import ApiError
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser
from zoom_simulator.requests import number
from zoom_simulator.state import ZoomState


def meeting_of(
    request: web.Request, caller: SimulatedUser, state: ZoomState, *, deleted: bool = False, code: int = 3001
) -> Meeting:
    """Return the meeting in the path of a request.

    Args:
        request: The request.
        caller: The user of the token.
        state: The simulated state.
        deleted: Whether to return a deleted meeting, instead of one that is not deleted.
        code: Zoom's error code for a missing meeting.

    Raises:
        ApiError: The caller has no such meeting.
        InvalidFields: The path contains no meeting ID.
    """
    meeting = state.meetings.get(number(request.match_info["id"], "meetingId", maximum=2**63 - 1))
    if meeting is None:
        reason = "no meeting has this ID"
    elif not meeting.is_accessible_to(caller):
        reason = "the meeting belongs to a different user"
    elif meeting.deleted is not deleted:
        reason = "the meeting is deleted" if meeting.deleted else "the meeting is not deleted"
    else:
        return meeting
    raise meeting_not_found(request, reason, code)


def occurrence_of(request: web.Request, meeting: Meeting) -> dict[str, Any] | None:
    """Return the occurrence selected by the query, or None if none is selected.

    Raises:
        ApiError: The meeting has no such occurrence.
    """
    occurrence_id = request.query.get("occurrence_id")
    if not occurrence_id:
        return None
    if not occurrence_id.isascii() or not occurrence_id.isdigit():
        raise ApiError(400, 300, "Invalid parameter: occurrence_id.")
    occurrence = meeting.occurrence(occurrence_id)
    if occurrence is None:
        raise meeting_not_found(request, "the meeting has no such occurrence, or the occurrence is deleted")
    return occurrence


def meeting_not_found(request: web.Request, reason: str, code: int = 3001) -> ApiError:
    """Return Zoom's response for a missing meeting."""
    return ApiError(404, code, f"Meeting does not exist: {request.match_info['id']}.", reason=reason)
