"""Endpoints of the REST API for past meetings."""

from urllib.parse import unquote

from aiohttp import web

from zoom_simulator import clock
from zoom_simulator.errors import ApiError
from zoom_simulator.meeting_access import meeting_not_found
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser
from zoom_simulator.paging import page
from zoom_simulator.past_meetings import Instance
from zoom_simulator.request_log import log_reason
from zoom_simulator.requests import number
from zoom_simulator.state import ZoomState

_YEAR_SECONDS = 365 * 86_400


class PastMeetingEndpoints:
    """Handlers of `/v2/past_meetings/…`."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    async def past_meeting(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Return an instance, or the latest instance of a meeting."""
        meeting, instance = self._instance(request, caller)
        host = self._state.user_by_id(meeting.owner)
        log_reason(f"read an instance of meeting {meeting.number}")
        return web.json_response(instance.details(meeting.body, host.name if host else ""))

    async def instances(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """List the instances of a meeting."""
        number(request.match_info["id"], "meetingId", maximum=2**63 - 1)
        ended = self._ended(request, caller)
        if not ended:
            raise meeting_not_found(request, "the meeting has no past instance")
        log_reason(f"listed {len(ended)} instances of meeting {request.match_info['id']}")
        rows = [{"uuid": each.uuid, "start_time": clock.text(each.start)} for _, each in ended]
        return web.json_response({"meetings": rows})

    async def participants(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """List the participants of an instance, or of the latest instance of a meeting."""
        meeting, instance = self._instance(request, caller)
        if not caller.licensed:
            raise ApiError(400, 200, f"Only available for paid account: {caller.account_id}")
        response = page(request, caller, "participants", instance.participants, now=self._state.wall())
        log_reason(f"listed {len(response['participants'])} participants of meeting {meeting.number}")
        return web.json_response(response)

    def _instance(self, request: web.Request, caller: SimulatedUser) -> tuple[Meeting, Instance]:
        ended = self._ended(request, caller)
        if not ended:
            raise meeting_not_found(request, "the caller has no past instance with this ID or UUID")
        meeting, instance = ended[-1]
        if self._state.wall() - instance.start > _YEAR_SECONDS:
            raise ApiError(400, 12702, "Can not access a meeting a year ago.")
        return meeting, instance

    def _ended(self, request: web.Request, caller: SimulatedUser) -> list[tuple[Meeting, Instance]]:
        """Return the caller's instances with the meeting ID or UUID in the path, oldest first.

        The path has been decoded once. A UUID that starts with a slash or contains two in sequence must be encoded twice.
        """
        once = request.match_info["id"]
        name = "" if once.startswith("/") or "//" in once else unquote(once)
        return [
            (meeting, instance)
            for meeting in self._state.meetings.values()
            if meeting.is_accessible_to(caller)
            for instance in meeting.instances
            if instance.end is not None and name in (str(meeting.number), instance.uuid)
        ]
