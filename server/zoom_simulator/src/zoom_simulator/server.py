"""The HTTP server of the simulator."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from zoom_simulator import state_file
from zoom_simulator.admin import AdminEndpoints, reject_foreign_sites, reject_unknown_user
from zoom_simulator.api import Authorization, operations
from zoom_simulator.faults import Faults
from zoom_simulator.files import Files
from zoom_simulator.loopback_address import LoopbackAddress
from zoom_simulator.oauth import OAuthEndpoints
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.playing import Playing
from zoom_simulator.request_log import RequestLog
from zoom_simulator.state import ZoomState
from zoom_simulator.webhooks import APP_REMOVED, USER_EVENTS, Webhooks

_server_log = logging.getLogger("aiohttp.server.zoom_simulator")
_server_log.addFilter(  # malformed HTTP, such as a URL that is not ASCII, is an error of the client
    lambda record: not record.exc_info or not isinstance(record.exc_info[1], HttpProcessingError)
)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a consent.

    Attributes:
        access_token: Valid for `SimulatorOptions.access_token_seconds`.
        refresh_token: Single-use, as in Zoom.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)


class Simulator:
    """A Zoom simulator that listens on the local machine, as an async context manager.

    Args:
        wall: The underlying clock, in seconds since 1970. The simulator's clock follows it unless frozen.

    Raises:
        StateFileError: `SimulatorOptions.state_file` cannot be used.

    Attributes:
        zoom: The simulated state: users, grants, tokens, meetings and the clock.
        faults: The active faults.
        playing: Starts and ends instances of meetings.
        files: The files to download.
        log: The latest requests.
        webhooks: The sender of webhook events.
    """

    def __init__(
        self, options: SimulatorOptions | None = None, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.options = options or SimulatorOptions()
        self.zoom = ZoomState(self.options, wall)
        if self.options.state_file is not None:
            state_file.load(self.options.state_file, self.zoom)
        self.faults = Faults(self.zoom)
        self.playing = Playing(self.zoom)
        self.files = Files(self.zoom)
        self.log = RequestLog(self.zoom.wall)
        self.webhooks = Webhooks(self.options, self.zoom.wall, self.zoom.random)
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://{LoopbackAddress(self.options.host, self._port)}"

    @property
    def oauth_url(self) -> str:
        """Base URL of the OAuth endpoints."""
        return f"{self.url}/oauth"

    @property
    def api_url(self) -> str:
        """Base URL of the REST API."""
        return f"{self.url}/v2"

    @property
    def page_url(self) -> str:
        """URL of the overview page."""
        return f"{self.url}/_sim/"

    async def start(self) -> None:
        """Start the server and the webhook sender.

        Raises:
            OSError: The address cannot be used.
        """
        runner = web.AppRunner(
            self._app(), access_log=None, logger=_server_log, handle_signals=False, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.options.host, self.options.port).start()
        except OSError as error:
            await runner.cleanup()
            raise OSError(
                error.errno, os.strerror(error.errno or 0)
            ) from None  # asyncio's text repeats the address
        self._runner = runner
        self._port = runner.addresses[0][1]
        await self.webhooks.start()

    async def stop(self) -> None:
        """Stop the server and the webhook sender. The state is retained."""
        await self.webhooks.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def reset(self) -> None:
        """Restore the initial state."""
        self.faults.clear()
        self.zoom.reset()
        self.files.reset()
        self.log.clear()
        self.webhooks.clear()

    def connect(self, email: str) -> Tokens:
        """Grant consent for a user without a browser, and return the tokens.

        Raises:
            UnknownUser: No user has this email address; see `SimulatorOptions.users`.
        """
        code = self.zoom.issue_code(self.zoom.user(email), self.zoom.redirect_uri)
        issued = self.zoom.exchange(code, self.zoom.redirect_uri, "")
        return Tokens(issued["access_token"], issued["refresh_token"])

    def trigger_event(self, event: str, email: str) -> None:
        """Apply an event to a user and send it to `SimulatorOptions.webhook_url`.

        Args:
            event: `app_deauthorized`, `user.deleted`, `user.deactivated` or `user.disassociated`.
            email: Email address of the user.

        Raises:
            UnknownUser: No user has this email address.
            ValueError: The event is unknown, or the event removes the app, but the user has no active grant.
        """
        user = self.zoom.user(email)
        if event not in (APP_REMOVED, *USER_EVENTS) or not self.zoom.apply_event(event, user):
            raise ValueError(f"cannot apply {event} to {email}")
        self.webhooks.send(event, user)

    async def __aenter__(self) -> "Simulator":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _app(self) -> web.Application:
        oauth = OAuthEndpoints(self.zoom)
        authorization = Authorization(self.zoom)
        admin = AdminEndpoints(
            self.zoom,
            self.faults,
            oauth,
            playing=self.playing,
            log=self.log,
            webhooks=self.webhooks,
            url=lambda: self.url,
            reset=self.reset,
        )
        app = web.Application(
            client_max_size=2 * 1024 * 1024,
            middlewares=[self.log.record, reject_foreign_sites, self._save_changes, reject_unknown_user],
        )
        app.on_response_prepare.append(self._set_date)
        add = app.router.add_route
        add("GET", "/oauth/authorize", oauth.authorize)
        add("POST", "/oauth/authorize", oauth.submit_consent)
        add("POST", "/oauth/token", self._with_faults("token", oauth.token))
        add("POST", "/oauth/revoke", self._with_faults("revoke", oauth.revoke))
        for operation in operations(self.zoom):
            handler = self._with_faults(operation.faults, authorization.protect(operation))
            add(operation.method, f"/v2{operation.path}", handler)
        add("*", "/v2/{tail:.*}", self._with_faults("any", authorization.unknown))
        add("GET", "/rec/download/{size}/{name}", self._with_faults("files", self.files.download))
        add("GET", "/rec/file/{size}/{name}", self._with_faults("files", self.files.file))
        for path in ("/", "/_sim"):
            add("GET", path, admin.redirect_to_overview)
        add("GET", "/_sim/", admin.overview)
        add("GET", "/_sim/stats", admin.stats)
        add("POST", "/_sim/fault", admin.add_fault)
        add("DELETE", "/_sim/fault", admin.clear_faults)
        add("POST", "/_sim/play", admin.play)
        add("GET", "/_sim/clock", admin.clock)
        add("POST", "/_sim/clock", admin.move_clock)
        add("POST", "/_sim/expire", admin.expire)
        add("POST", "/_sim/revoke_user", admin.revoke_user)
        add("POST", "/_sim/event", admin.event)
        add("GET", "/_sim/webhooks", admin.deliveries)
        add("GET", "/_sim/users", admin.users)
        add("POST", "/_sim/users", admin.add_user)
        add("POST", "/_sim/rename_user", admin.rename_user)
        add("POST", "/_sim/authorize", admin.authorize)
        add("POST", "/_sim/reset", admin.reset)
        return app

    @web.middleware
    async def _save_changes(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Save the state after each request that may have changed it, before the response is sent."""
        try:
            return await handler(request)
        finally:
            if self.options.state_file is not None and request.method not in ("GET", "HEAD"):
                state_file.save(self.options.state_file, self.zoom)

    async def _set_date(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Set the `Date` header from the simulator's clock."""
        response.headers["Date"] = formatdate(self.zoom.wall(), usegmt=True)

    def _with_faults(self, endpoint: str, handler: Handler) -> Handler:
        """Wrap a handler with fault injection."""

        async def serve(request: web.Request) -> web.StreamResponse:
            return await self.faults.apply(endpoint, request, handler)

        return serve
