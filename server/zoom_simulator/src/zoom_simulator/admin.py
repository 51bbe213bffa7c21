"""The admin API under `/_sim/`: state, counters and fault injection."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from zoom_simulator import clock, overview_page, pages
from zoom_simulator.faults import Fault, Faults
from zoom_simulator.oauth import OAuthEndpoints
from zoom_simulator.options import Participant, SimulatedUser
from zoom_simulator.playing import ACTIONS, PLAYED_MINUTES, Playing
from zoom_simulator.request_log import RequestLog
from zoom_simulator.state import UnknownUser, ZoomState
from zoom_simulator.webhooks import EVENTS, VALIDATION, Webhooks

_UNKNOWN_USER = "user is unknown; use the email address of an existing user, as listed by GET /_sim/users"
_NO_GRANT = "user has no active grant; connect the user first"
_FORM = "application/x-www-form-urlencoded"
_FORM_PATHS = ("/_sim/event", "/_sim/play")
_PLAY_FIELDS = "known fields: meeting, action, participants (each with name and email), minutes"


class AdminEndpoints:
    """Handlers of `/_sim/…`: the overview page and the JSON endpoints."""

    def __init__(
        self,
        state: ZoomState,
        faults: Faults,
        oauth: OAuthEndpoints,
        *,
        playing: Playing,
        log: RequestLog,
        webhooks: Webhooks,
        url: Callable[[], str],
        reset: Callable[[], None],
    ) -> None:
        self._state = state
        self._faults = faults
        self._oauth = oauth
        self._playing = playing
        self._log = log
        self._webhooks = webhooks
        self._url = url
        self._reset = reset

    async def overview(self, _request: web.Request) -> web.StreamResponse:
        """Return the overview page."""
        page = overview_page.page(self._state, self._faults.active(), self._log, self._webhooks, self._url())
        return web.Response(text=page, content_type="text/html", headers=pages.SECURITY_HEADERS)

    async def redirect_to_overview(self, _request: web.Request) -> web.StreamResponse:
        """Redirect to `/_sim/`."""
        return web.Response(status=302, headers={"Location": "/_sim/"})

    async def stats(self, _request: web.Request) -> web.StreamResponse:
        """Return the counters of requests and results."""
        return web.json_response(
            {
                "counters": dict(sorted(self._state.counters.items())),
                "access_tokens": len(self._state.access_tokens),
                "meetings": sum(not meeting.deleted for meeting in self._state.meetings.values()),
            }
        )

    async def add_fault(self, request: web.Request) -> web.StreamResponse:
        """Add a fault."""
        try:
            self._faults.add(Fault(**await _json(request)))
        except TypeError:
            known = ", ".join(field.name for field in fields(Fault))
            return _bad_request(f"endpoint and kind are required; known fields: {known}")
        except ValueError as error:
            return _bad_request(str(error))
        return web.json_response({"ok": True})

    async def clear_faults(self, _request: web.Request) -> web.StreamResponse:
        """Remove all faults."""
        self._faults.clear()
        return web.json_response({"ok": True})

    async def expire(self, request: web.Request) -> web.StreamResponse:
        """Expire the access tokens of `user`, or of all users, now."""
        email = (await _json(request)).get("user")
        return web.json_response({"expired": self._state.expire(None if email is None else str(email))})

    async def revoke_user(self, request: web.Request) -> web.StreamResponse:
        """Revoke the grants of `user` without sending an event."""
        user = self._state.user(str((await _json(request)).get("user")))
        if not self._state.revoke_user(user):
            return _bad_request(_NO_GRANT)
        return web.json_response({"ok": True})

    async def event(self, request: web.Request) -> web.StreamResponse:
        """Apply `event` to `user` and send the webhook.

        After a form submission on the overview page, the browser is redirected back to that page.
        """
        form = request.content_type == _FORM
        body = dict(await request.post()) if form else await _json(request)
        name, email = body.get("event"), str(body.get("user", ""))
        if name not in EVENTS:
            return _bad_request(f"event must be one of {', '.join(EVENTS)}", form=form)
        user = None if name == VALIDATION else self._state.user(email)
        if user is not None and not self._state.apply_event(name, user):
            return _bad_request(_NO_GRANT, form=form)
        sent = self._webhooks.send(name, user)
        if form:
            return web.Response(status=303, headers={"Location": "/_sim/#webhooks"})
        return web.json_response({"ok": True, "sent": sent})

    async def play(self, request: web.Request) -> web.StreamResponse:
        """Play `meeting`, or with `action` only a part of it.

        After a form submission on the overview page, the browser is redirected back to that page.
        """
        form = request.content_type == _FORM
        body: dict[str, Any] = dict(await request.post()) if form else await _json(request)
        try:
            joined = self._perform(**body)
        except TypeError:
            return _bad_request(f"meeting is required; {_PLAY_FIELDS}", form=form)
        except ValueError as error:
            return _bad_request(str(error), form=form)
        if form:
            return web.Response(status=303, headers={"Location": "/_sim/#meetings"})
        return web.json_response({"ok": True, "joined": joined, "now": clock.text(self._state.wall())})

    def _perform(self, meeting: int | str, action: str = "play", **options: Any) -> list[str]:
        """Perform an action, and return the names of those who joined."""
        if not str(meeting).isdecimal():
            raise ValueError("meeting must be a meeting ID, for example 81234567897")
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}")
        for name in options:
            if name not in ACTIONS[action]:
                raise ValueError(f"{name} does not apply to the action {action}; {_PLAY_FIELDS}")
        if "participants" in options:
            options["participants"] = [Participant(**each) for each in options["participants"]]
        if not isinstance(options.get("minutes", PLAYED_MINUTES), int | float):
            raise ValueError("minutes must be a number")
        number = int(meeting)
        match action:
            case "play":
                return self._playing.play(number, **options)
            case "start":
                return self._playing.start(number)
            case "join":
                if joined := self._playing.join(number, **options):
                    return joined
                raise ValueError("no approved registrant is left to join; name participants")
            case _:
                self._playing.end(number)
                return []

    async def deliveries(self, _request: web.Request) -> web.StreamResponse:
        """List the latest webhook events with the app's responses."""
        return web.json_response(
            [
                {
                    "event": delivery.event,
                    "user": delivery.user,
                    "responses": delivery.responses,
                    "next": None if delivery.due is None else clock.text(delivery.due),
                }
                for delivery in self._webhooks.latest()
            ]
        )

    async def users(self, _request: web.Request) -> web.StreamResponse:
        """List the users."""
        return web.json_response([asdict(user) for user in self._state.users.values()])

    async def add_user(self, request: web.Request) -> web.StreamResponse:
        """Create a user."""
        try:
            user = SimulatedUser(**await _json(request))
            self._state.add_user(user)
        except TypeError:
            known = ", ".join(field.name for field in fields(SimulatedUser))
            return _bad_request(f"email is required; known fields: {known}")
        except ValueError as error:
            return _bad_request(str(error))
        return web.json_response(asdict(user), status=201)

    async def rename_user(self, request: web.Request) -> web.StreamResponse:
        """Change the email address of `user` to `email`."""
        body = await _json(request)
        try:
            user = self._state.rename(str(body.get("user")), str(body.get("email")))
        except ValueError as error:
            return _bad_request(str(error))
        return web.json_response(asdict(user))

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Grant consent for `user` without a browser, and return the redirect location.

        The other fields of the request body are the query parameters of the authorization URL.
        """
        body = {name: str(value) for name, value in (await _json(request)).items()}
        user = self._state.user(body.get("user", ""))
        defaults = {"client_id": self._state.options.client_id, "response_type": "code"}
        if violation := self._oauth.violation(defaults | body):
            return _bad_request(violation[2])
        return web.json_response({"location": self._oauth.consent(user, body)})

    async def clock(self, _request: web.Request) -> web.StreamResponse:
        """Return the current time of the simulator."""
        wall = self._state.wall
        return web.json_response({"now": clock.text(wall()), "frozen": wall.frozen})

    async def move_clock(self, request: web.Request) -> web.StreamResponse:
        """Move the clock forward by `advance` seconds, or to the time `now`."""
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
                    raise ValueError("exactly one of advance and now is required")
        except ValueError as error:
            return _bad_request(
                f"{error}; send either advance in seconds or now, such as 2026-01-01T00:00:00Z"
            )
        return await self.clock(request)

    async def reset(self, _request: web.Request) -> web.StreamResponse:
        """Restore the initial state."""
        self._reset()
        return web.json_response({"ok": True})


@web.middleware
async def reject_unknown_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond with an error to an admin request for an unknown user."""
    try:
        return await handler(request)
    except UnknownUser:
        return _bad_request(_UNKNOWN_USER, form=request.content_type == _FORM)


@web.middleware
async def reject_foreign_sites(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reject admin requests with which a page of a different site could change the simulator.

    Browsers send a form or plain text to any site, but JSON only if the site allows it, and state where a request comes from.
    """
    if request.method == "GET" or not request.path.startswith("/_sim/"):
        return await handler(request)
    if _is_foreign(request):
        return web.json_response({"error": "the request was sent by a page of a different site"}, status=403)
    accepted = {"application/json"} | ({_FORM} if request.path in _FORM_PATHS else set())
    if request.can_read_body and request.content_type not in accepted:
        return web.json_response(
            {"error": "the body must be JSON; send it with Content-Type: application/json"}, status=415
        )
    return await handler(request)


def _is_foreign(request: web.Request) -> bool:
    """Return whether a browser states that a page of a different site has sent a request."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site != "same-origin"
    return request.headers.get("Origin", str(request.url.origin())) != str(request.url.origin())


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError:
        body = {}
    return body if isinstance(body, dict) else {}


def _bad_request(message: str, *, form: bool = False) -> web.Response:
    """Return an error in JSON, or as a page after a form submission."""
    if not form:
        return web.json_response({"error": message}, status=400)
    page = pages.document(
        "Zoom simulator: rejected",
        f'<h1>The request was rejected</h1><p>{pages.escaped(message)}</p><p><a href="/_sim/">Back to the overview</a></p>',
    )
    return web.Response(text=page, content_type="text/html", status=400, headers=pages.SECURITY_HEADERS)
