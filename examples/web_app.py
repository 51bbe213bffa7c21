"""A web application with a "Connect Zoom" button, similar to a site that used the Wix Velo package "Zoom Integration".

Zoom redirects the browser to `/connected`, which passes the code and state to CompleteAuthorization. In place of a real
sign-in, users only enter their email address.
"""

import os
import secrets
import sys
from collections.abc import AsyncIterator
from html import escape

from aiohttp import web
from aiohttp.typedefs import Handler

from zoomgate import AsyncClient, AuthorizationFailed, ConsentRequired, ZoomgateError

ZOOMGATE = web.AppKey("zoomgate", AsyncClient)
SESSIONS = web.AppKey("sessions", dict[str, dict[str, str]])


def page(body: str, status: int = 200) -> web.Response:
    """Return an HTML page with the given body."""
    text = f'<!doctype html><html lang="en"><title>Bookings</title><main>{body}</main></html>'
    return web.Response(text=text, content_type="text/html", status=status)


def session(request: web.Request) -> dict[str, str] | None:
    """Return the browser's session, or None if the user is not signed in."""
    return request.app[SESSIONS].get(request.cookies.get("session", ""))


async def home(request: web.Request) -> web.StreamResponse:
    """Show the user's connection and the buttons."""
    user_session = session(request)
    if user_session is None:
        return page(
            '<form method="post" action="/sign-in"><label>Email address <input name="email" type="email" required></label>'
            " <button>Sign in</button></form>"
        )
    try:
        response = await request.app[ZOOMGATE].auth.get_connection(user_email=user_session["email"])
        state = (
            "connected" if response.connection.state == response.connection.STATE_ACTIVE else "not connected"
        )
    except ConsentRequired:
        state = "not connected"
    return page(
        f"<p>{escape(user_session['email'])}: Zoom is {state}.</p>"
        '<form method="post" action="/connect"><button>Connect Zoom</button></form>'
        '<form method="post" action="/book"><button>Book a meeting</button></form>'
    )


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Start a session."""
    name = secrets.token_urlsafe(32)
    request.app[SESSIONS][name] = {"email": str((await request.post())["email"])}
    response = web.HTTPSeeOther("/")
    response.set_cookie("session", name, httponly=True, samesite="Lax")
    return response


async def connect(request: web.Request) -> web.StreamResponse:
    """Redirect the browser to Zoom, and store the state of the authorization in the session."""
    user_session = session(request)
    if user_session is None:
        return web.HTTPSeeOther("/")
    authorization = await request.app[ZOOMGATE].auth.begin_authorization(
        user_email=user_session["email"], options={"page": "/"}
    )
    user_session["state"] = authorization.state
    return web.HTTPSeeOther(authorization.authorization_url)


async def connected(request: web.Request) -> web.StreamResponse:
    """Complete the authorization in the browser that started it; reject other browsers."""
    user_session = session(request)
    state = request.query.get("state", "")
    if user_session is None or not secrets.compare_digest(
        user_session.pop("state", "").encode(), state.encode()
    ):
        return page(
            "<p>This authorization was not started in this browser. <a href='/'>Start again</a>.</p>", 400
        )
    if "code" not in request.query:
        return page("<p>Zoom was not connected. <a href='/'>Back</a>.</p>")
    completed = await request.app[ZOOMGATE].auth.complete_authorization(
        code=request.query["code"], state=state
    )
    return web.HTTPSeeOther(str(completed.options["page"]))


async def book(request: web.Request) -> web.StreamResponse:
    """Create a meeting for the signed-in user."""
    user_session = session(request)
    if user_session is None:
        return web.HTTPSeeOther("/")
    response = await request.app[ZOOMGATE].meetings.create_meeting(
        user_email=user_session["email"], meeting_details={"topic": "Booked on the site"}
    )
    link = escape(response.meeting.join_url)
    return page(f'<p>Booked: <a href="{link}">{link}</a></p>')


@web.middleware
async def error_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Convert exceptions of the client to error pages."""
    try:
        return await handler(request)
    except AuthorizationFailed as error:
        return page(f"<p>Zoom was not connected: {escape(error.message)}. <a href='/'>Back</a>.</p>", 409)
    except ConsentRequired:
        return page("<p>Connect Zoom first. <a href='/'>Back</a>.</p>", 409)
    except ZoomgateError as error:
        return page(f"<p>The request failed: {escape(error.message)}. <a href='/'>Back</a>.</p>", 502)


async def client(app: web.Application) -> AsyncIterator[None]:
    """Provide one client for the lifetime of the application, created in its event loop."""
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    async with AsyncClient(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        app[ZOOMGATE] = zoomgate
        yield


def make_app() -> web.Application:
    """Create the application."""
    app = web.Application(middlewares=[error_pages])
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
