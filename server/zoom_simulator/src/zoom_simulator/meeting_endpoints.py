"""Endpoints of the REST API for meetings."""

from typing import Any

from aiohttp import web

from zoom_simulator import meeting_lists, meeting_rules
from zoom_simulator.errors import InvalidFields
from zoom_simulator.meeting_access import meeting_of, occurrence_of
from zoom_simulator.meeting_fields import MEETING, OCCURRENCE
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser
from zoom_simulator.paging import page
from zoom_simulator.request_log import log_reason
from zoom_simulator.requests import json_object
from zoom_simulator.state import ZoomState
from zoom_simulator.user_endpoints import require_own_user


class MeetingEndpoints:
    """Handlers of `/v2/users/{user}/meetings` and `/v2/meetings/…`."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    async def create(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Create a meeting."""
        require_own_user(request, caller, "meeting:write:meeting:admin")
        body = meeting_rules.read(
            await json_object(request), undocumented=self._state.options.undocumented_fields
        )
        meeting = self._state.schedule(caller, body)
        log_reason(f"created meeting {meeting.number}")
        return web.json_response(meeting.body, status=201)

    async def list(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """List the user's meetings."""
        require_own_user(request, caller, "meeting:read:list_meetings:admin")
        now = self._state.wall()
        list_filter = meeting_lists.Filter.parse(request.query, now)
        rows = [
            meeting_lists.list_row(meeting.body)
            for _, meeting in sorted(self._state.meetings.items())
            if meeting.owner == caller.user_id and not meeting.deleted and list_filter.matches(meeting)
        ]
        response = page(request, caller, "meetings", rows, now=now)
        log_reason(f"listed {len(response['meetings'])} of {len(rows)} {list_filter.kind} meetings")
        return web.json_response(response)

    async def get(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Return a meeting, or one occurrence of it."""
        meeting = meeting_of(request, caller, self._state)
        occurrence = occurrence_of(request, meeting)
        log_reason(f"read {_description(meeting, occurrence)}")
        if occurrence is not None:
            return web.json_response(meeting.view_of_occurrence(occurrence))
        previous = request.query.get("show_previous_occurrences") == "true"
        return web.json_response(meeting.view(self._state.wall(), previous_occurrences=previous))

    async def update(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Update a meeting, or one occurrence of it."""
        meeting = meeting_of(request, caller, self._state)
        occurrence = occurrence_of(request, meeting)
        body = meeting_rules.read(
            await json_object(request),
            MEETING if occurrence is None else OCCURRENCE,
            undocumented=self._state.options.undocumented_fields,
        )
        self._state.reschedule(caller, meeting, occurrence, body)
        log_reason(f"updated {_description(meeting, occurrence)}")
        return web.Response(status=204)

    async def delete(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Delete a meeting, or one occurrence of it."""
        meeting = meeting_of(request, caller, self._state)
        occurrence = occurrence_of(request, meeting)
        if occurrence is None:
            meeting.deleted = True
        else:
            occurrence["status"] = "deleted"
        log_reason(f"deleted {_description(meeting, occurrence)}")
        return web.Response(status=204)

    async def status(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """End or recover a meeting."""
        action = (await json_object(request)).get("action")
        if action not in ("end", "recover"):
            raise InvalidFields({"action": "Invalid action."})
        meeting = meeting_of(request, caller, self._state, deleted=action == "recover")
        if action == "recover":
            meeting.deleted = False
        else:
            meeting.end_instance(self._state.wall(), self._state.random)
        log_reason(f"{'recovered' if action == 'recover' else 'ended'} {_description(meeting)}")
        return web.Response(status=204)

    async def invitation(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Return the invitation text of a meeting."""
        meeting = meeting_of(request, caller, self._state)
        body = meeting.body
        host = self._state.user_by_id(meeting.owner)
        log_reason(f"returned the invitation of {_description(meeting)}")
        lines = [
            f"{(host and host.name) or body['host_email']} is inviting you to a scheduled Zoom meeting.",
            "",
            f"Topic: {body['topic']}",
            *([f"Time: {body['start_time']} ({body['timezone']})"] if "start_time" in body else []),
            f"Join: {body.get('registration_url', body['join_url'])}",
            f"Meeting ID: {body.get('pmi', body['id'])}",
            *([f"Passcode: {body['password']}"] if body["password"] else []),
        ]
        sip = f"{body['id']}@sip.example.zoom.us"
        return web.json_response({"invitation": "\r\n".join(lines) + "\r\n", "sip_links": [sip]})


def _description(meeting: Meeting, occurrence: dict[str, Any] | None = None) -> str:
    """Return a readable name of a meeting or an occurrence for the request log."""
    name = f"meeting {meeting.number}"
    return name if occurrence is None else f"occurrence {occurrence['occurrence_id']} of {name}"
