"""Endpoints of the REST API for users."""

from typing import Any

from aiohttp import web

from zoom_simulator.errors import ApiError
from zoom_simulator.options import SimulatedUser, email_key
from zoom_simulator.paging import page
from zoom_simulator.request_log import log_reason
from zoom_simulator.requests import query_choice
from zoom_simulator.state import ZoomState

_MAX_PAGE_SIZE = 2000


class UserEndpoints:
    """Handlers of `/v2/users` and `/v2/users/{user}`."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    async def me(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Return the user of the token."""
        require_own_user(request, caller, "user:read:user:admin")
        log_reason("returned the token's user")
        return web.json_response(_row(caller) | {"account_id": caller.account_id, "role_name": "Member"})

    async def list_users(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """List the users of the caller's account. All of them are active."""
        account = caller.account_id
        active = query_choice(request.query, "status", ("active", "inactive", "pending")) == "active"
        rows = [_row(user) for user in self._state.users.values() if active and user.account_id == account]
        response = page(request, caller, "users", rows, now=self._state.wall(), maximum=_MAX_PAGE_SIZE)
        log_reason(f"listed {len(response['users'])} of {len(rows)} users")
        return web.json_response(response)


def require_own_user(request: web.Request, caller: SimulatedUser, admin_scope: str) -> None:
    """Check that the path contains `me`, or the ID or email address of the caller.

    Args:
        request: The request.
        caller: The user of the token.
        admin_scope: The scope with which account-level apps may name other users.

    Raises:
        ApiError: The path contains a different user, which requires an account-level app.
    """
    name = request.match_info["user"]
    if name not in ("me", caller.user_id) and email_key(name) != email_key(caller.email):
        raise ApiError(
            400,
            4700,
            f"Invalid access token, does not contain scopes:[{admin_scope}].",
            reason="the path contains a different user; user-level apps must use /users/me",
        )


def _row(user: SimulatedUser) -> dict[str, Any]:
    return {
        "id": user.user_id,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "display_name": user.name,
        "email": user.email,
        "type": user.zoom_type,
        "pmi": user.pmi,
        "timezone": user.timezone,
        "verified": 1,
        "created_at": "2024-03-01T08:00:00Z",
        "status": "active",
    }
