"""Handlers of the REST API below `/v2`."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from zoom_simulator import meeting_lists, meeting_rules, meetings
from zoom_simulator.errors import ApiError, ErrorResponse, InvalidFields
from zoom_simulator.meetings import Meeting
from zoom_simulator.request_log import log_reason
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


class ApiEndpoints:
    """Handlers of `/v2/…`."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    def with_authorization(self, name: str, endpoint: Endpoint) -> Handler:
        """Wrap an endpoint: check the token and its scope, and convert `ErrorResponse` to a response."""

        async def serve(request: web.Request) -> web.StreamResponse:
            headers = {"x-zm-trackingid": f"v=2.0;sim;rid={self._state.random.octets(6).hex()}"}
            try:
                grant = self._grant(request, name)
                self._state.counters[f"api.{name}"] += 1
                response = await endpoint(request, grant)
            except ErrorResponse as error:
                self._state.counters[f"api.{name}.{error.status}"] += 1
                response = error.response()
            response.headers.update(headers)
            return response

        return serve

    async def me(self, _request: web.Request, grant: Grant) -> web.StreamResponse:
        """Return the user of the token."""
        user = grant.user
        log_reason("returned the token's user")
        return web.json_response(
            {
                "id": user.user_id,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "display_name": user.name,
                "email": user.email,
                "type": user.zoom_type,
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
        """Create a meeting."""
        self._only_me(request)
        if not grant.user.licensed:
            raise ApiError(
                400,
                3161,
                "Your account or service plan does not allow you to host meetings.",
                reason=f"meeting rejected: {grant.user.email} has no license",
            )
        body = await self._body(request)
        meeting = self._state.schedule(grant.user, body)
        log_reason(f"created meeting {meeting.body['id']}")
        return web.json_response(meeting.body, status=201)

    async def list(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """List the user's meetings."""
        self._only_me(request)
        query = request.query
        size = _number(query.get("page_size") or "30", "page_size", minimum=1, maximum=300)
        after = _number(query.get("next_page_token") or "0", "next_page_token", maximum=10**12)
        list_filter = meeting_lists.Filter.parse(query, self._state.wall())
        own = [
            (number, meeting.body)
            for number, meeting in sorted(self._state.meetings.items())
            if meeting.owner == grant.user.user_id
            and not meeting.deleted
            and number > after
            and list_filter.matches(meeting.body)
        ]
        log_reason(f"listed {min(size, len(own))} of {len(own)} {list_filter.kind} meetings")
        return web.json_response(
            {
                "page_size": size,
                "total_records": len(own),
                "next_page_token": str(own[size - 1][0]) if len(own) > size else "",
                "meetings": [meeting_lists.list_row(body) for _, body in own[:size]],
            }
        )

    async def get(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Return a meeting, or one occurrence of it."""
        meeting = self._meeting(request, grant)
        occurrence = self._occurrence(request, meeting)
        log_reason(f"read {_description(meeting, occurrence)}")
        if occurrence is None:
            return web.json_response(meeting.body)
        return web.json_response(
            meeting.body | {name: occurrence[name] for name in ("start_time", "duration")}
        )

    async def update(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Update a meeting, or one occurrence of it."""
        meeting = self._meeting(request, grant)
        occurrence = self._occurrence(request, meeting)
        body = await self._body(request)
        meetings.update_meeting(meeting.body, occurrence, body, grant.user.timezone, self._state.wall())
        log_reason(f"updated {_description(meeting, occurrence)}")
        return web.Response(status=204)

    async def delete(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Delete a meeting, or one occurrence of it."""
        meeting = self._meeting(request, grant)
        occurrence = self._occurrence(request, meeting)
        if occurrence is None:
            meeting.deleted = True
        else:
            occurrence["status"] = "deleted"
        log_reason(f"deleted {_description(meeting, occurrence)}")
        return web.Response(status=204)

    async def status(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """End or recover a meeting."""
        body = await self._body(request, check=False)
        action = body.get("action")
        if action not in ("end", "recover"):
            raise InvalidFields({"action": "Invalid action."})
        meeting = self._meeting(request, grant, deleted=action == "recover")
        if action == "recover":
            meeting.deleted = False
        log_reason(f"{'recovered' if action == 'recover' else 'ended'} {_description(meeting)}")
        return web.Response(status=204)

    async def invitation(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Return the invitation text of a meeting."""
        meeting = self._meeting(request, grant)
        body = meeting.body
        log_reason(f"returned the invitation of {_description(meeting)}")
        greeting = f"{grant.user.first_name} is inviting you to a scheduled meeting."
        text = f"{greeting}\r\n\r\nTopic: {body['topic']}\r\nJoin: {body['join_url']}\r\n"
        return web.json_response({"invitation": text, "sip_links": []})

    async def unknown(self, _request: web.Request) -> web.StreamResponse:
        """Reject a call to an unknown endpoint."""
        self._state.counters["api.unknown"] += 1
        log_reason("the simulator has no endpoint with this method and path; the token was not checked")
        return web.json_response(
            {"code": 2300, "message": "This API endpoint is not recognized."}, status=404
        )

    # -- internals -------------------------------------------------------------------------------------------

    def _grant(self, request: web.Request, name: str) -> Grant:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError(
                401, 124, "Invalid access token.", reason="no access token; send Authorization: Bearer"
            )
        grant = self._state.authenticate(token)
        if not set(_SCOPES[name]) & set(grant.scope.split()):
            raise ApiError(
                400,
                4711,
                f"Invalid access token, does not contain scopes:[{', '.join(_SCOPES[name])}].",
                reason=f"missing scope: the grant contains none of {', '.join(_SCOPES[name])}",
            )
        return grant

    def _only_me(self, request: web.Request) -> None:
        """Reject user IDs and email addresses; user-level apps must use `me`."""
        if request.match_info["user"] != "me":
            raise ApiError(
                400,
                4700,
                "Invalid access token, does not contain scopes:[meeting:write:meeting:admin].",
                reason="the path contains a user ID or address; user-level apps must use /users/me",
            )

    def _meeting(self, request: web.Request, grant: Grant, *, deleted: bool = False) -> Meeting:
        number = _number(request.match_info["id"], "meetingId", maximum=2**63 - 1)
        meeting = self._state.meetings.get(number)
        if meeting is None:
            reason = "no meeting has this ID"
        elif meeting.owner != grant.user.user_id:
            reason = "the meeting belongs to a different user"
        elif meeting.deleted is not deleted:
            reason = "the meeting is deleted" if meeting.deleted else "the meeting is not deleted"
        else:
            return meeting
        raise _meeting_not_found(request, reason)

    def _occurrence(self, request: web.Request, meeting: Meeting) -> dict[str, Any] | None:
        """Return the occurrence selected by the query, or None if none is selected."""
        occurrence_id = request.query.get("occurrence_id")
        if not occurrence_id:
            return None
        occurrences: list[dict[str, Any]] = meeting.body.get("occurrences", [])
        for occurrence in occurrences:
            if occurrence["occurrence_id"] == occurrence_id and occurrence["status"] != "deleted":
                return occurrence
        raise _meeting_not_found(request, "the meeting has no such occurrence, or the occurrence is deleted")

    async def _body(self, request: web.Request, *, check: bool = True) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            check: Whether the body is a meeting, which is checked.
        """
        try:
            body = orjson.loads(await request.read() or b"{}")
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise ApiError(400, 300, "Request Body should be a valid JSON object.")
        if not check:
            return body
        if violations := meeting_rules.violations(body):
            raise InvalidFields(violations)
        if body.get("schedule_for"):
            if body.get("type") == 1:
                raise ApiError(400, 3000, "You cannot schedule an instant meeting for others.")
            if not isinstance(body["schedule_for"], str) or body["schedule_for"] not in self._state.users:
                raise ApiError(400, 300, "You can not schedule a meeting for this user.")
        return body


def _meeting_not_found(request: web.Request, reason: str) -> ApiError:
    return ApiError(404, 3001, f"Meeting does not exist: {request.match_info['id']}.", reason=reason)


def _description(meeting: Meeting, occurrence: Mapping[str, Any] | None = None) -> str:
    """Return a readable name of a meeting or an occurrence for the request log."""
    name = f"meeting {meeting.body['id']}"
    return name if occurrence is None else f"occurrence {occurrence['occurrence_id']} of {name}"


def _number(text: str, field: str, *, minimum: int = 0, maximum: int) -> int:
    """Parse a number from a path or query.

    A number above `maximum` is replaced by `maximum`; a number below `minimum` is rejected.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) < minimum:
        raise InvalidFields({field: "Invalid field."})
    return min(int(text), maximum)
