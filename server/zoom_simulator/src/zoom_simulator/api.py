"""The REST API below `/v2`: its operations, and the check of access tokens."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from zoom_simulator.errors import ApiError, ErrorResponse
from zoom_simulator.meeting_endpoints import MeetingEndpoints
from zoom_simulator.options import SimulatedUser
from zoom_simulator.past_meeting_endpoints import PastMeetingEndpoints
from zoom_simulator.registrant_endpoints import RegistrantEndpoints
from zoom_simulator.request_log import log_reason
from zoom_simulator.state import Grant, ZoomState
from zoom_simulator.user_endpoints import UserEndpoints

Endpoint = Callable[[web.Request, SimulatedUser], Awaitable[web.StreamResponse]]

_READ, _WRITE = "meeting:read", "meeting:write"


class Operation(NamedTuple):
    """An operation of the API.

    Attributes:
        faults: The endpoint of the faults that affect it; see `faults.ENDPOINTS`.
        scopes: The scopes of which the grant must contain one.
    """

    method: str
    path: str
    faults: str
    scopes: tuple[str, ...]
    endpoint: Endpoint


def operations(state: ZoomState) -> list[Operation]:
    """Return the operations of the API."""
    users, meetings = UserEndpoints(state), MeetingEndpoints(state)
    registrants, past = RegistrantEndpoints(state), PastMeetingEndpoints(state)
    own_user = ("user:read:user", "user:read", "user_info:read")
    all_users = ("user:read:list_users:admin", "user:read:admin")
    rows: tuple[tuple[str, str, str, Endpoint], ...] = (
        ("POST", "/users/{user}/meetings", "write:meeting", meetings.create),
        ("GET", "/users/{user}/meetings", "read:list_meetings", meetings.list),
        ("GET", "/meetings/{id}", "read:meeting", meetings.get),
        ("PATCH", "/meetings/{id}", "update:meeting", meetings.update),
        ("DELETE", "/meetings/{id}", "delete:meeting", meetings.delete),
        ("PUT", "/meetings/{id}/status", "update:status", meetings.status),
        ("GET", "/meetings/{id}/invitation", "read:invitation", meetings.invitation),
        ("POST", "/meetings/{id}/registrants", "write:registrant", registrants.add_registrant),
        ("GET", "/meetings/{id}/registrants", "read:list_registrants", registrants.list_registrants),
        ("PUT", "/meetings/{id}/registrants/status", "update:registrant_status", registrants.set_status),
        ("GET", "/meetings/{id}/registrants/{registrant}", "read:registrant", registrants.get_registrant),
        ("DELETE", "/meetings/{id}/registrants/{registrant}", "delete:registrant", registrants.unregister),
        ("GET", "/past_meetings/{id}", "read:past_meeting", past.past_meeting),
        ("GET", "/past_meetings/{id}/instances", "read:list_past_instances", past.instances),
        ("GET", "/past_meetings/{id}/participants", "read:list_past_participants", past.participants),
    )
    return [
        Operation("GET", "/users/{user}", "users_me", own_user, users.me),
        Operation("GET", "/users", "users", all_users, users.list_users),
        *(
            Operation(
                method,
                path,
                "meetings",
                (f"meeting:{scope}", "meeting:read" if method == "GET" else "meeting:write"),
                endpoint,
            )
            for method, path, scope, endpoint in rows
        ),
    ]


class Authorization:
    """The check of access tokens and scopes."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    def protect(self, operation: Operation) -> Handler:
        """Return a handler that checks the access token, and converts `ErrorResponse` to a response."""
        counters, name = self._state.counters, operation.endpoint.__name__

        async def serve(request: web.Request) -> web.StreamResponse:
            headers = {"x-zm-trackingid": f"v=2.0;sim;rid={self._state.random.octets(6).hex()}"}
            try:
                grant = self._grant(request, operation.scopes)
                counters[f"api.{name}"] += 1
                response = await operation.endpoint(request, grant.user)
            except ErrorResponse as error:
                counters[f"api.{name}.{error.status}"] += 1
                response = error.response()
            response.headers.update(headers)
            return response

        return serve

    async def unknown(self, _request: web.Request) -> web.StreamResponse:
        """Reject a call to an unknown endpoint."""
        self._state.counters["api.unknown"] += 1
        log_reason("the simulator has no endpoint with this method and path; the token was not checked")
        return web.json_response(
            {"code": 2300, "message": "This API endpoint is not recognized."}, status=404
        )

    def _grant(self, request: web.Request, scopes: tuple[str, ...]) -> Grant:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError(
                401, 124, "Invalid access token.", reason="no access token; send Authorization: Bearer"
            )
        grant = self._state.authenticate(token)
        if not set(scopes) & set(grant.scope.split()):
            raise ApiError(
                400,
                4711,
                f"Invalid access token, does not contain scopes:[{', '.join(scopes)}].",
                reason=f"missing scope: the grant contains none of {', '.join(scopes)}",
            )
        return grant
