"""A web page with a "Connect Zoom" button, as on a site that used the Velo package.

Zoom sends the browser back to `/connected`, and this page hands code and state to CompleteAuthorization. Who is signed in would come from
the site's own sign-in; here the person just says who they are.
"""

import os
import secrets
import sys
from collections.abc import AsyncIterator
from html import escape

from aiohttp import web
from aiohttp.typedefs import Handler

from zoomgate import AsyncClient, ConsentRequired, ZoomgateError

ZOOMGATE = web.AppKey("zoomgate", AsyncClient)
SESSIONS = web.AppKey("sessions", dict[str, dict[str, str]])


def page(body: str, status: int = 200) -> web.Response:
    """Give a page."""
    text = f'<!doctype html><html lang="en"><title>Bookings</title><main>{body}</main></html>'
    return web.Response(text=text, content_type="text/html", status=status)


def session(request: web.Request) -> dict[str, str] | None:
    """Give what is kept about this browser, if it is signed in."""
    return request.app[SESSIONS].get(request.cookies.get("session", ""))


async def home(request: web.Request) -> web.StreamResponse:
    """Show who is signed in, and a button."""
    kept = session(request)
    if kept is None:
        return page(
            '<form method="post" action="/sign-in"><label>Your address <input name="email" type="email" required></label>'
            " <button>Sign in</button></form>"
        )
    try:
        answer = await request.app[ZOOMGATE].auth.get_connection(user_email=kept["email"])
        state = "connected" if answer.connection.state == answer.connection.STATE_ACTIVE else "not connected"
    except ConsentRequired:
        state = "not connected"
    return page(
        f"<p>{escape(kept['email'])}: Zoom is {state}.</p>"
        '<form method="post" action="/connect"><button>Connect Zoom</button></form>'
        '<form method="post" action="/book"><button>Book a meeting</button></form>'
    )


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Begin a session."""
    name = secrets.token_urlsafe(32)
    request.app[SESSIONS][name] = {"email": str((await request.post())["email"])}
    response = web.HTTPSeeOther("/")
    response.set_cookie("session", name, httponly=True, samesite="Lax")
    return response


async def connect(request: web.Request) -> web.StreamResponse:
    """Send the browser to Zoom, and remember in the session which authorization is this browser's."""
    kept = session(request)
    if kept is None:
        return web.HTTPSeeOther("/")
    begun = await request.app[ZOOMGATE].auth.begin_authorization(
        user_email=kept["email"], options={"page": "/"}
    )
    kept["state"] = begun.state
    return web.HTTPSeeOther(begun.authorization_url)


async def connected(request: web.Request) -> web.StreamResponse:
    """Finish what this browser began."""
    kept = session(request)
    state = request.query.get("state", "")
    if kept is None or not secrets.compare_digest(kept.pop("state", "").encode(), state.encode()):
        return page("<p>This browser did not ask to connect Zoom. <a href='/'>Begin again</a>.</p>", 400)
    if "code" not in request.query:
        return page("<p>Zoom was not connected. <a href='/'>Back</a>.</p>")
    done = await request.app[ZOOMGATE].auth.complete_authorization(code=request.query["code"], state=state)
    return web.HTTPSeeOther(str(done.options["page"]))


async def book(request: web.Request) -> web.StreamResponse:
    """Schedule a meeting of the person who is signed in."""
    kept = session(request)
    if kept is None:
        return web.HTTPSeeOther("/")
    answer = await request.app[ZOOMGATE].meetings.create_meeting(
        user_email=kept["email"], meeting_details={"topic": "Booked on the site"}
    )
    link = escape(answer.meeting.join_url)
    return page(f'<p>Booked: <a href="{link}">{link}</a></p>')


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Say in words what the service refused."""
    try:
        return await handler(request)
    except ConsentRequired:
        return page("<p>Connect Zoom first. <a href='/'>Back</a>.</p>", 409)
    except ZoomgateError as error:
        return page(f"<p>That did not work: {escape(error.message)}. <a href='/'>Back</a>.</p>", 502)


async def client(app: web.Application) -> AsyncIterator[None]:
    """Keep one client for the app's life, made in its event loop."""
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    async with AsyncClient(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        app[ZOOMGATE] = zoomgate
        yield


def make_app() -> web.Application:
    """Put the app together."""
    app = web.Application(middlewares=[failures])
    app[SESSIONS] = {}
    app.cleanup_ctx.append(client)
    app.add_routes(
        [
            web.get("/", home),
            web.post("/sign-in", sign_in),
            web.post("/connect", connect),
            web.get("/connected", connected),
            web.post("/book", book),
        ]
    )
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
