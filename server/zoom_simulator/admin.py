"""The admin path: what the simulator was asked, and switches for faults."""

from dataclasses import asdict, fields
from typing import Any

import orjson
from aiohttp import web

from zoom_simulator.faults import Fault, Faults
from zoom_simulator.oauth import OAuthEndpoints
from zoom_simulator.options import SimulatedUser
from zoom_simulator.state import ZoomState


class AdminEndpoints:
    """Serves `/_sim/…`, in JSON.

    Args:
        state: What the simulated Zoom knows.
        faults: The switches.
        oauth: For consents without a browser.
    """

    def __init__(self, state: ZoomState, faults: Faults, oauth: OAuthEndpoints) -> None:
        self._state = state
        self._faults = faults
        self._oauth = oauth

    async def stats(self, _request: web.Request) -> web.StreamResponse:
        """Count what was received and how it was answered."""
        return web.json_response(
            {
                "counters": dict(sorted(self._state.counters.items())),
                "living_access_tokens": len(self._state.access_tokens),
                "meetings": sum(not meeting.deleted for meeting in self._state.meetings.values()),
            }
        )

    async def add_fault(self, request: web.Request) -> web.StreamResponse:
        """Switch a fault on."""
        try:
            self._faults.add(Fault(**await _json(request)))
        except TypeError:
            known = ", ".join(field.name for field in fields(Fault))
            return _refuse(f"endpoint and kind are required, and the fields are {known}")
        except ValueError as error:
            return _refuse(str(error))
        return web.json_response({"ok": True})

    async def clear_faults(self, _request: web.Request) -> web.StreamResponse:
        """Switch every fault off."""
        self._faults.clear()
        return web.json_response({"ok": True})

    async def expire(self, request: web.Request) -> web.StreamResponse:
        """Make access tokens expire now: of `user`, or of all."""
        return web.json_response({"expired": self._state.expire((await _json(request)).get("user"))})

    async def revoke_user(self, request: web.Request) -> web.StreamResponse:
        """End what `user` granted, as if removed at Zoom."""
        grant = self._state.grants.get(str((await _json(request)).get("user")))
        if grant is None:
            return _refuse("user has granted nothing")
        self._state.end(grant)
        return web.json_response({"ok": True})

    async def users(self, _request: web.Request) -> web.StreamResponse:
        """List who has an account."""
        return web.json_response([asdict(user) for user in self._state.users.values()])

    async def add_user(self, request: web.Request) -> web.StreamResponse:
        """Give somebody an account."""
        try:
            user = SimulatedUser(**await _json(request))
        except TypeError:
            return _refuse(
                "email and user_id are required; account_id, first_name, last_name, timezone, licensed may follow"
            )
        self._state.users[user.email] = user
        return web.json_response(asdict(user), status=201)

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Consent without a browser: `user` and the parameters of the authorization address; gives where the browser would go."""
        body = {name: str(value) for name, value in (await _json(request)).items()}
        user = self._state.users.get(body.get("user", ""))
        if user is None:
            return _refuse("user is unknown")
        if body.get("client_id", self._state.options.client_id) != self._state.options.client_id:
            return _refuse("client_id is not the app's")
        if body.get("response_type", "code") != "code":
            return _refuse("response_type must be code")
        if not self._oauth.redirect_allowed(body.get("redirect_uri", "")):
            return _refuse("redirect_uri is not registered")
        return web.json_response({"location": self._oauth.consent(user, body)})

    async def reset(self, _request: web.Request) -> web.StreamResponse:
        """Forget grants, tokens, meetings, counters and faults; users stay."""
        self._faults.clear()
        state = self._state
        for kept in (
            state.codes,
            state.grants,
            state.refresh_tokens,
            state.access_tokens,
            state.meetings,
            state.counters,
        ):
            kept.clear()
        return web.json_response({"ok": True})


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError:
        body = {}
    return body if isinstance(body, dict) else {}


def _refuse(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
