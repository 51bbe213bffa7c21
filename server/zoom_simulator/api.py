"""The REST API below `/v2`."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from zoom_simulator import meeting_lists, meeting_rules, meetings
from zoom_simulator.meetings import Meeting
from zoom_simulator.request_log import because, told
from zoom_simulator.state import Grant, ZoomState

Endpoint = Callable[[web.Request, Grant], Awaitable[web.StreamResponse]]

_SCOPES = {
    "me": ("user:read:user", "user:read", "user_info:read"),
    "create": ("meeting:write:meeting", "meeting:write"),
    "get": ("meeting:read:meeting", "meeting:read"),
    "update": ("meeting:update:meeting", "meeting:write"),
    "delete": ("meeting:delete:meeting", "meeting:write"),
    "list": ("meeting:read:list_meetings", "meeting:read"),
    "status": ("meeting:update:status", "meeting:write"),
    "invitation": ("meeting:read:invitation", "meeting:read"),
}


class Refused(Exception):
    """Zoom refuses a call.

    Args:
        status: HTTP status.
        code: Zoom's.
        message: Zoom's.
        errors: What is wrong with which field, if that is it.
        why: What a person should know who wonders; made from message and errors if left out.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        errors: list[dict[str, str]] | None = None,
        *,
        why: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"code": code, "message": message}
        if errors:
            self.body["errors"] = errors
        fields = ", ".join(f"{each['field']} ({each['message'].rstrip('.')})" for each in errors or [])
        self.why = why or (f"refused fields: {fields}" if fields else message.rstrip("."))


class ApiEndpoints:
    """Serves `/v2/…`.

    Args:
        state: What the simulated Zoom knows.
    """

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    def guarded(
        self, name: str, endpoint: Endpoint
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Check token and scope before an endpoint, and answer its refusals."""

        async def serve(request: web.Request) -> web.StreamResponse:
            headers = {"x-zm-trackingid": f"v=2.0;sim;rid={self._state.random.octets(6).hex()}"}
            try:
                grant = self._grant(request, name)
                self._state.counters[f"api.{name}"] += 1
                response = await endpoint(request, grant)
            except Refused as refused:
                self._state.counters[f"api.{name}.{refused.status}"] += 1
                because(refused.why)
                response = web.json_response(refused.body, status=refused.status)
            response.headers.update(headers)
            return response

        return serve

    async def me(self, _request: web.Request, grant: Grant) -> web.StreamResponse:
        """The person behind the token."""
        user = grant.user
        because("told whose token it is")
        return web.json_response(
            {
                "id": user.user_id,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "display_name": f"{user.first_name} {user.last_name}".strip(),
                "email": user.email,
                "type": 2 if user.licensed else 1,
                "role_name": "Member",
                "pmi": 4_155_550_100,
                "timezone": user.timezone,
                "verified": 1,
                "created_at": "2024-03-01T08:00:00Z",
                "account_id": user.account_id,
                "status": "active",
            }
        )

    async def create(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Schedule a meeting."""
        self._only_me(request)
        if not grant.user.licensed:
            raise Refused(
                400,
                3161,
                "Your account or service plan does not allow you to host meetings.",
                why=f"refused the meeting: {grant.user.email} has no licence",
            )
        body = await self._body(request)
        meeting = self._state.schedule(grant.user, body)
        because(f"created meeting {meeting.body['id']}")
        return web.json_response(meeting.body, status=201)

    async def list(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """List the user's meetings."""
        self._only_me(request)
        query = request.query
        size = _number(query.get("page_size") or "30", "page_size", least=1, most=300)
        after = _number(query.get("next_page_token") or "0", "next_page_token", most=10**12)
        shown = self._filter(query)
        own = [
            (number, meeting.body)
            for number, meeting in sorted(self._state.meetings.items())
            if meeting.owner == grant.user.user_id
            and not meeting.deleted
            and number > after
            and shown.shows(meeting.body)
        ]
        because(f"listed {min(size, len(own))} of {len(own)} {shown.kind} meetings")
        return web.json_response(
            {
                "page_size": size,
                "total_records": len(own),
                "next_page_token": str(own[size - 1][0]) if len(own) > size else "",
                "meetings": [meeting_lists.row(body) for _, body in own[:size]],
            }
        )

    async def get(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Read a meeting, or one occurrence of it."""
        meeting = self._meeting(request, grant)
        occurrence = self._occurrence(request, meeting)
        because(f"read {_named(meeting, occurrence)}")
        if occurrence is None:
            return web.json_response(meeting.body)
        return web.json_response(
            meeting.body | {name: occurrence[name] for name in ("start_time", "duration")}
        )

    async def update(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Change a meeting, or one occurrence of it."""
        meeting = self._meeting(request, grant)
        occurrence = self._occurrence(request, meeting)
        body = await self._body(request)
        meetings.change(meeting.body, occurrence, body, grant.user.timezone, self._state.wall())
        because(f"changed {_named(meeting, occurrence)}")
        return web.Response(status=204)

    async def delete(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Delete a meeting, or one occurrence."""
        meeting = self._meeting(request, grant)
        occurrence = self._occurrence(request, meeting)
        if occurrence is None:
            meeting.deleted = True
        else:
            occurrence["status"] = "deleted"
        because(f"deleted {_named(meeting, occurrence)}")
        return web.Response(status=204)

    async def status(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """End or recover a meeting."""
        body = await self._body(request, check=False)
        action = body.get("action")
        if action not in ("end", "recover"):
            raise Refused(400, 300, "Validation Failed.", [{"field": "action", "message": "Invalid action."}])
        meeting = self._meeting(request, grant, deleted=action == "recover")
        if action == "recover":
            meeting.deleted = False
        because(f"{'recovered' if action == 'recover' else 'ended'} {_named(meeting)}")
        return web.Response(status=204)

    async def invitation(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """The text of an invitation."""
        meeting = self._meeting(request, grant)
        body = meeting.body
        because(f"wrote the invitation of {_named(meeting)}")
        greeting = f"{grant.user.first_name} is inviting you to a scheduled meeting."
        text = f"{greeting}\r\n\r\nTopic: {body['topic']}\r\nJoin: {body['join_url']}\r\n"
        return web.json_response({"invitation": text, "sip_links": []})

    async def unknown(self, _request: web.Request) -> web.StreamResponse:
        """Anything else."""
        self._state.counters["api.unknown"] += 1
        because("no endpoint of the simulated Zoom has this method and path; no token was looked at")
        return web.json_response(
            {"code": 2300, "message": "This API endpoint is not recognized."}, status=404
        )

    # -- how ---------------------------------------------------------------------------------------------

    def _grant(self, request: web.Request, name: str) -> Grant:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(
                401, 124, "Invalid access token.", why="no access token came: send Authorization: Bearer"
            )
        grant = self._state.bearer(token)
        if isinstance(grant, str):
            raise Refused(401, 124, grant, why=told())
        if not set(_SCOPES[name]) & set(grant.scope.split()):
            raise Refused(
                400,
                4711,
                f"Invalid access token, does not contain scopes:[{', '.join(_SCOPES[name])}].",
                why=f"scope missing: the consent granted none of {', '.join(_SCOPES[name])}",
            )
        return grant

    def _only_me(self, request: web.Request) -> None:
        """User-level apps name their user `me`; ids and addresses are refused."""
        if request.match_info["user"] != "me":
            raise Refused(
                400,
                4700,
                "Invalid access token, does not contain scopes:[meeting:write:meeting:admin].",
                why="the path names a user: an app that acts for one user writes /users/me",
            )

    def _meeting(self, request: web.Request, grant: Grant, *, deleted: bool = False) -> Meeting:
        text = request.match_info["id"]
        meeting = self._state.meetings.get(_number(text, "meetingId", most=2**63 - 1))
        if meeting is None:
            why = "there is no meeting of this number"
        elif meeting.owner != grant.user.user_id:
            why = "the meeting is somebody else's"
        elif meeting.deleted is not deleted:
            why = "the meeting is deleted" if meeting.deleted else "the meeting is not deleted"
        else:
            return meeting
        raise Refused(404, 3001, f"Meeting does not exist: {text}.", why=why)

    def _occurrence(self, request: web.Request, meeting: Meeting) -> dict[str, Any] | None:
        """Give the occurrence that the address names; None if it names none."""
        wanted = request.query.get("occurrence_id")
        if not wanted:
            return None
        occurrences: list[dict[str, Any]] = meeting.body.get("occurrences", [])
        for occurrence in occurrences:
            if occurrence["occurrence_id"] == wanted and occurrence["status"] != "deleted":
                return occurrence
        raise Refused(
            404,
            3001,
            f"Meeting does not exist: {request.match_info['id']}.",
            why="the meeting has no such occurrence, or it is deleted",
        )

    def _filter(self, query: Mapping[str, str]) -> meeting_lists.Filter:
        try:
            return meeting_lists.Filter.parse(query, self._state.wall())
        except meeting_lists.WrongQuery as wrong:
            raise Refused(
                400, 300, "Validation Failed.", [{"field": wrong.field, "message": "Invalid field."}]
            ) from None

    async def _body(self, request: web.Request, *, check: bool = True) -> dict[str, Any]:
        try:
            body = orjson.loads(await request.read() or b"{}")
        except orjson.JSONDecodeError:
            raise Refused(400, 300, "Request Body should be a valid JSON object.") from None
        found = meeting_rules.problems(body) if check else []
        if not isinstance(body, dict):
            raise Refused(400, 300, "Request Body should be a valid JSON object.")
        if found:
            raise Refused(400, 300, "Validation Failed.", found)
        if body.get("schedule_for") and check:
            if body.get("type") == 1:
                raise Refused(400, 3000, "You cannot schedule an instant meeting for others.")
            if not isinstance(body["schedule_for"], str) or body["schedule_for"] not in self._state.users:
                raise Refused(400, 300, "You can not schedule a meeting for this user.")
        return body


def _named(meeting: Meeting, occurrence: Mapping[str, Any] | None = None) -> str:
    """Name a meeting, or one occurrence of it, to a person."""
    name = f"meeting {meeting.body['id']}"
    return name if occurrence is None else f"occurrence {occurrence['occurrence_id']} of {name}"


def _number(text: str, field: str, *, least: int = 0, most: int) -> int:
    """Read a number from a path or query; a larger one than `most` counts as `most`."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) < least:
        raise Refused(400, 300, "Validation Failed.", [{"field": field, "message": "Invalid field."}])
    return min(int(text), most)
