"""The admin path: what the simulator knows and was asked, and switches for faults."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import orjson
from aiohttp import web

from zoom_simulator import clock, overview_page, pages
from zoom_simulator.faults import Fault, Faults
from zoom_simulator.oauth import OAuthEndpoints
from zoom_simulator.options import SimulatedUser
from zoom_simulator.request_log import RequestLog
from zoom_simulator.state import ZoomState
from zoom_simulator.webhooks import EVENTS, VALIDATION, Webhooks

_UNKNOWN = (
    "user is unknown: name the e-mail address of somebody who has an account, as GET /_sim/users lists them"
)
_NOTHING = "user has granted nothing: let the person connect first"


class AdminEndpoints:
    """Serves `/_sim/…`: a page, and JSON.

    Args:
        state: What the simulated Zoom knows.
        faults: The switches.
        oauth: For consents without a browser.
        log: What was asked.
        webhooks: Tells the app.
        url: Gives the simulator's base address.
        reset: Makes everything as it was at the start.
    """

    def __init__(
        self,
        state: ZoomState,
        faults: Faults,
        oauth: OAuthEndpoints,
        *,
        log: RequestLog,
        webhooks: Webhooks,
        url: Callable[[], str],
        reset: Callable[[], None],
    ) -> None:
        self._state = state
        self._faults = faults
        self._oauth = oauth
        self._log = log
        self._webhooks = webhooks
        self._url = url
        self._reset = reset

    async def overview(self, _request: web.Request) -> web.StreamResponse:
        """Show in a browser what the simulated Zoom knows, and why it answered as it did."""
        page = overview_page.page(self._state, self._faults.active(), self._log, self._webhooks, self._url())
        return web.Response(text=page, content_type="text/html", headers=pages.SECURITY_HEADERS)

    async def to_overview(self, _request: web.Request) -> web.StreamResponse:
        """Add the slash that somebody left out."""
        return web.Response(status=302, headers={"Location": "/_sim/"})

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
            return _refuse(_NOTHING)
        self._state.end(grant)
        return web.json_response({"ok": True})

    async def event(self, request: web.Request) -> web.StreamResponse:
        """Let `event` happen to `user`, and tell the app; the page sends a form, and is shown again."""
        form = request.content_type == "application/x-www-form-urlencoded"
        if form and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return _refuse("the form is of another site")
        body = dict(await request.post()) if form else await _json(request)
        name, email = body.get("event"), str(body.get("user", ""))
        if name not in EVENTS:
            return _refuse(f"event must be one of {', '.join(EVENTS)}")
        user = None if name == VALIDATION else self._state.users.get(email)
        if user is None and name != VALIDATION:
            return _refuse(_UNKNOWN)
        if user is not None and not self._state.happen(name, user):
            return _refuse(_NOTHING)
        told = self._webhooks.tell(name, user)
        if form:
            return web.Response(status=303, headers={"Location": "/_sim/#webhooks"})
        return web.json_response({"ok": True, "told": told})

    async def deliveries(self, _request: web.Request) -> web.StreamResponse:
        """List the latest events that were sent to the app, and what it answered."""
        return web.json_response(
            [
                {
                    "event": delivery.event,
                    "user": delivery.user,
                    "answers": delivery.answers,
                    "next": None if delivery.due is None else clock.text(delivery.due),
                }
                for delivery in self._webhooks.latest()
            ]
        )

    async def users(self, _request: web.Request) -> web.StreamResponse:
        """List who has an account."""
        return web.json_response([asdict(user) for user in self._state.users.values()])

    async def add_user(self, request: web.Request) -> web.StreamResponse:
        """Give somebody an account."""
        try:
            user = SimulatedUser(**await _json(request))
        except TypeError:
            known = ", ".join(field.name for field in fields(SimulatedUser))
            return _refuse(f"email is required, and the fields are {known}")
        except ValueError as error:
            return _refuse(str(error))
        self._state.users[user.email] = user
        return web.json_response(asdict(user), status=201)

    async def rename_user(self, request: web.Request) -> web.StreamResponse:
        """Give `user` another address, `email`, as after a marriage or when a company changes its domain."""
        body = await _json(request)
        try:
            user = self._state.rename(str(body.get("user")), str(body.get("email")))
        except KeyError:
            return _refuse(_UNKNOWN)
        except ValueError as error:
            return _refuse(str(error))
        return web.json_response(asdict(user))

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Consent without a browser: `user` and the parameters of the authorization address; gives where the browser would go."""
        body = {name: str(value) for name, value in (await _json(request)).items()}
        user = self._state.users.get(body.get("user", ""))
        if user is None:
            return _refuse(_UNKNOWN)
        if body.get("client_id", self._state.options.client_id) != self._state.options.client_id:
            return _refuse("client_id is not the app's")
        if body.get("response_type", "code") != "code":
            return _refuse("response_type must be code")
        if not self._oauth.redirect_allowed(body.get("redirect_uri", "")):
            return _refuse("redirect_uri is not registered")
        return web.json_response({"location": self._oauth.consent(user, body)})

    async def clock(self, _request: web.Request) -> web.StreamResponse:
        """Tell what time it is."""
        wall = self._state.wall
        return web.json_response({"now": clock.text(wall()), "stands": wall.stands})

    async def move_clock(self, request: web.Request) -> web.StreamResponse:
        """Move the clock forward: by `advance` seconds, or to the moment `now`."""
        body = await _json(request)
        wall = self._state.wall
        try:
            match body:
                case {"advance": int() | float() as seconds, **rest} if not rest and not isinstance(
                    seconds, bool
                ):
                    wall.advance(seconds)
                case {"now": str() as moment, **rest} if not rest:
                    wall.advance(clock.parse(moment) - wall())
                case _:
                    raise ValueError("there must be one of both")
        except ValueError as error:
            return _refuse(
                f"write advance, in seconds, or now, such as 2026-01-01T00:00:00Z, and nothing else: {error}"
            )
        return await self.clock(request)

    async def reset(self, _request: web.Request) -> web.StreamResponse:
        """Make everything as it was at the start."""
        self._reset()
        return web.json_response({"ok": True})


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError:
        body = {}
    return body if isinstance(body, dict) else {}


def _refuse(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
