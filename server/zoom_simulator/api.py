"""The REST API below `/v2`."""

import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from zoom_simulator import meeting_rules
from zoom_simulator.state import Grant, Meeting, ZoomState, new_uuid

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
    """Zoom refuses a call."""

    def __init__(
        self, status: int, code: int, message: str, errors: list[dict[str, str]] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"code": code, "message": message}
        if errors:
            self.body["errors"] = errors


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
            headers = {"x-zm-trackingid": f"v=2.0;sim;rid={secrets.token_hex(6)}"}
            try:
                grant = self._grant(request, name)
                self._state.counters[f"api.{name}"] += 1
                response = await endpoint(request, grant)
            except Refused as refused:
                self._state.counters[f"api.{name}.{refused.status}"] += 1
                response = web.json_response(refused.body, status=refused.status)
            response.headers.update(headers)
            return response

        return serve

    async def me(self, _request: web.Request, grant: Grant) -> web.StreamResponse:
        """The person behind the token."""
        user = grant.user
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
            raise Refused(400, 3161, "Your account or service plan does not allow you to host meetings.")
        body = await self._body(request)
        meeting = self._new(body, grant)
        self._state.meetings[meeting.body["id"]] = meeting
        return web.json_response(meeting.body, status=201)

    async def list(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """List the user's meetings."""
        self._only_me(request)
        size = _number(request.query.get("page_size") or "30", "page_size", 300)
        after = _number(request.query.get("next_page_token") or "0", "next_page_token", 10**12)
        own = [
            (number, meeting.body)
            for number, meeting in sorted(self._state.meetings.items())
            if meeting.owner == grant.user.user_id and not meeting.deleted and number > after
        ]
        names = (
            "agenda",
            "created_at",
            "duration",
            "host_id",
            "id",
            "join_url",
            "start_time",
            "timezone",
            "topic",
            "type",
            "uuid",
        )
        return web.json_response(
            {
                "page_size": size,
                "total_records": len(own),
                "next_page_token": str(own[size - 1][0]) if len(own) > size else "",
                "meetings": [{name: body[name] for name in names if name in body} for _, body in own[:size]],
            }
        )

    async def get(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Read a meeting."""
        return web.json_response(self._meeting(request, grant).body)

    async def update(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Change a meeting."""
        meeting = self._meeting(request, grant)
        body = await self._body(request)
        start = body.pop("start_time", None)
        if start is not None:
            changed = {"start_time": start, "timezone": body.get("timezone", meeting.body["timezone"])}
            meeting.body["start_time"] = meeting_rules.start_time(
                changed, grant.user.timezone, self._state.wall()
            )
        settings = {**meeting.body.get("settings", {}), **body.pop("settings", {})}
        meeting.body.update(_asked(body), settings=settings)
        return web.Response(status=204)

    async def delete(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """Delete a meeting, or one occurrence."""
        meeting = self._meeting(request, grant)
        occurrence_id = request.query.get("occurrence_id")
        if not occurrence_id:
            meeting.deleted = True
            return web.Response(status=204)
        for occurrence in meeting.body.get("occurrences", []):
            if occurrence["occurrence_id"] == occurrence_id:
                occurrence["status"] = "deleted"
                return web.Response(status=204)
        raise Refused(404, 3001, f"Meeting does not exist: {request.match_info['id']}.")

    async def status(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """End or recover a meeting."""
        body = await self._body(request, check=False)
        action = body.get("action")
        if action not in ("end", "recover"):
            raise Refused(400, 300, "Validation Failed.", [{"field": "action", "message": "Invalid action."}])
        meeting = self._meeting(request, grant, deleted=action == "recover")
        if action == "recover":
            meeting.deleted = False
        return web.Response(status=204)

    async def invitation(self, request: web.Request, grant: Grant) -> web.StreamResponse:
        """The text of an invitation."""
        body = self._meeting(request, grant).body
        greeting = f"{grant.user.first_name} is inviting you to a scheduled meeting."
        text = f"{greeting}\r\n\r\nTopic: {body['topic']}\r\nJoin: {body['join_url']}\r\n"
        return web.json_response({"invitation": text, "sip_links": []})

    async def unknown(self, _request: web.Request) -> web.StreamResponse:
        """Anything else."""
        self._state.counters["api.unknown"] += 1
        return web.json_response(
            {"code": 2300, "message": "This API endpoint is not recognized."}, status=404
        )

    # -- how ---------------------------------------------------------------------------------------------

    def _grant(self, request: web.Request, name: str) -> Grant:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        grant = self._state.bearer(token if scheme.lower() == "bearer" else "")
        if isinstance(grant, str):
            raise Refused(401, 124, grant)
        if not set(_SCOPES[name]) & set(grant.scope.split()):
            raise Refused(
                400, 4711, f"Invalid access token, does not contain scopes:[{', '.join(_SCOPES[name])}]."
            )
        return grant

    def _only_me(self, request: web.Request) -> None:
        """User-level apps name their user `me`; ids and addresses are refused."""
        if request.match_info["user"] != "me":
            raise Refused(
                400, 4700, "Invalid access token, does not contain scopes:[meeting:write:meeting:admin]."
            )

    def _meeting(self, request: web.Request, grant: Grant, *, deleted: bool = False) -> Meeting:
        text = request.match_info["id"]
        meeting = self._state.meetings.get(_number(text, "meetingId", 2**63 - 1))
        if meeting is None or meeting.owner != grant.user.user_id or meeting.deleted is not deleted:
            raise Refused(404, 3001, f"Meeting does not exist: {text}.")
        return meeting

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

    def _new(self, body: dict[str, Any], grant: Grant) -> Meeting:
        user, now = grant.user, self._state.wall()
        number, kind, duration = self._state.new_meeting_id(), body.get("type", 2), body.get("duration", 60)
        password = body.get("password", f"{number % 899_999 + 100_000}")
        encrypted = secrets.token_urlsafe(18)
        meeting: dict[str, Any] = {
            "uuid": new_uuid(),
            "id": number,
            "host_id": user.user_id,
            "host_email": user.email,
            "topic": "Zoom Meeting",
            "status": "waiting",
            "duration": duration,
            "timezone": user.timezone,
            "created_at": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "start_url": f"https://example.zoom.us/s/{number}?zak={secrets.token_urlsafe(40)}",
            "join_url": f"https://example.zoom.us/j/{number}?pwd={encrypted}",
            "chat_join_url": f"https://example.zoom.us/launch/jc/{number}",
            "encrypted_password": encrypted,
            "h323_password": password,
            "pstn_password": password,
            "pre_schedule": False,
            "creation_source": "open_api",
            **_asked(body),
            "type": kind,
            "password": password,
            "settings": {**_SETTINGS, **body.get("settings", {})},
        }
        meeting.pop("schedule_for", None)
        meeting.pop("start_time", None)
        if kind in (2, 8, 10):
            meeting["start_time"] = meeting_rules.start_time(body, user.timezone, now)
        if kind == 8:
            meeting["occurrences"] = meeting_rules.occurrences(body, meeting["start_time"], duration)
        return Meeting(user.user_id, meeting)


def _number(text: str, field: str, most: int) -> int:
    """Read a number from a path or query."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise Refused(400, 300, "Validation Failed.", [{"field": field, "message": "Invalid field."}])
    return min(int(text), most)


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    """What a caller may set: never what Zoom itself decides."""
    return {name: value for name, value in body.items() if name not in _ZOOMS_OWN}


_ZOOMS_OWN = frozenset(
    {
        "id",
        "uuid",
        "host_id",
        "host_email",
        "status",
        "created_at",
        "start_url",
        "join_url",
        "chat_join_url",
        "encrypted_password",
        "h323_password",
        "pstn_password",
        "pmi",
        "occurrences",
        "creation_source",
    }
)
_SETTINGS: dict[str, Any] = {
    "host_video": False,
    "participant_video": False,
    "join_before_host": False,
    "jbh_time": 0,
    "mute_upon_entry": False,
    "watermark": False,
    "use_pmi": False,
    "approval_type": 2,
    "audio": "both",
    "auto_recording": "none",
    "alternative_hosts": "",
    "waiting_room": True,
    "meeting_authentication": False,
    "encryption_type": "enhanced_encryption",
    "device_testing": False,
    "breakout_room": {"enable": False},
}
