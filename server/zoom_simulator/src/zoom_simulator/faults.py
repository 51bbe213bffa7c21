"""Fault injection: delays, errors and dropped connections."""

import asyncio
import contextlib
import math
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from zoom_simulator.options import SimulatedUser, email_key
from zoom_simulator.rate_limits import DailyLimit, account_limit_exceeded
from zoom_simulator.request_log import current_reason, log_reason, mark_connection_cut
from zoom_simulator.state import ZoomState

KINDS = (
    "delay",
    "status",
    "html",
    "cut_before",
    "cut_after",
    "rate_limit_qps",
    "rate_limit_daily",
    "rate_limit_user",
    "redirect",
    "garbage",
)
ENDPOINTS = ("any", "token", "revoke", "users_me", "users", "meetings", "files")
MAX_DELAY_SECONDS = 600.0
"""Maximum delay in seconds. A longer delay is assumed to be a mistake."""


@dataclass(slots=True)
class Fault:
    """An injected fault.

    Attributes:
        endpoint: The affected endpoint, one of `ENDPOINTS`.
        kind: The fault, one of `KINDS`.
        times: Number of further requests that are affected, 1 to 1,000,000; -1 for no limit.
        status: HTTP status. For `status` and `html`: 400 to 599. For `redirect`: 300 to 399; a value from 400 to 599 is replaced by 302.
            For `status`, 401 is sent with Zoom's code 124.
        seconds: For `delay`: 0 to 600, in real time. Clearing the faults ends the delay early.
        location: For `redirect`: a URL of at most 2000 printable characters.
        user: Email address of the user whose requests are affected, identified by their token or code; if empty, all requests are affected.

    Raises:
        ValueError: A field is out of range; the message names the field and the allowed values.
    """

    endpoint: str
    kind: str
    times: int = 1
    status: int = 503
    seconds: float = 0.0
    location: str = "https://elsewhere.example/"
    user: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("endpoint", ENDPOINTS), ("kind", KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}")
        if not _is_integer_in_range(self.times, 1, 1_000_000) and self.times != -1:
            raise ValueError("times must be an integer from 1 to 1000000, or -1 for no limit")
        if not _is_integer_in_range(self.status, 300, 599) or (self.status < 400 and self.kind != "redirect"):
            raise ValueError(
                "status must be an integer from 400 to 599, or from 300 to 599 for kind=redirect"
            )
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float):
            raise ValueError("seconds must be a number from 0 to 600")
        if not math.isfinite(self.seconds) or not 0 <= self.seconds <= MAX_DELAY_SECONDS:
            raise ValueError("seconds must be a number from 0 to 600")
        if not isinstance(self.location, str) or not self.location.isprintable() or len(self.location) > 2000:
            raise ValueError("location must be a URL of at most 2000 printable characters")
        if not isinstance(self.user, str):
            raise ValueError("user must be an email address, or empty for all users")


class Faults:
    """The active faults, applied in the order in which they were added."""

    def __init__(self, zoom: ZoomState) -> None:
        self._zoom = zoom
        self._active: list[Fault] = []
        self._cleared = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """Add a fault.

        Raises:
            UnknownUser: No user has the email address `Fault.user`.
        """
        if fault.user:
            self._zoom.user(fault.user)
        self._active.append(fault)

    def active(self) -> tuple[Fault, ...]:
        """Return the active faults in the order in which they apply."""
        return tuple(self._active)

    def clear(self) -> None:
        """Remove all faults and release delayed requests."""
        self._active.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def apply(self, endpoint: str, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request, injecting the next fault for the endpoint, if any."""
        fault = self._next_for(endpoint, await self._user(request)) if self._active else None
        if fault is None:
            return await handler(request)
        self._zoom.counters[f"faults.{fault.kind}"] += 1
        prefix = f"injected fault {fault.kind}"
        log_reason(f"{prefix}: the request was not processed")
        match fault.kind:
            case "delay":
                delayed = f"after {fault.seconds:g} s"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._cleared.wait(), fault.seconds)
                    delayed = "when the fault was cleared"
                response = await handler(request)
                log_reason(f"{prefix}: responded {delayed} ({current_reason()})")
                return response
            case "cut_before":
                return _cut_connection(request)
            case "cut_after":
                await handler(request)
                log_reason(
                    f"{prefix}: the request was processed, but its response was dropped ({current_reason()})"
                )
                return _cut_connection(request)
            case "html":
                return web.Response(
                    status=fault.status,
                    text="<html><body>Bad Gateway</body></html>",
                    content_type="text/html",
                )
            case "garbage":
                return web.Response(status=200, body=b'{"half": ', content_type="application/json")
            case "redirect":
                status = fault.status if fault.status < 400 else 302
                return web.Response(status=status, headers={"Location": fault.location})
            case "rate_limit_qps" | "rate_limit_daily":
                error = account_limit_exceeded(self._zoom.wall(), daily=fault.kind == "rate_limit_daily")
                return error.response(current_reason())
            case "rate_limit_user":
                return DailyLimit.MEETING_CHANGES.exceeded().response(current_reason())
            case _:
                code = 124 if fault.status == 401 else fault.status  # 124: invalid access token
                return web.json_response({"code": code, "message": "Injected"}, status=fault.status)

    async def _user(self, request: web.Request) -> SimulatedUser | None:
        """Return the user of the token or code in a request."""
        form = await request.post()
        tokens = (
            request.headers.get("Authorization", "").partition(" ")[2],
            *(str(form.get(name)) for name in ("code", "refresh_token", "token")),
        )
        return next((user for token in tokens if (user := self._zoom.token_user(token))), None)

    def _next_for(self, endpoint: str, user: SimulatedUser | None) -> Fault | None:
        key = email_key(user.email) if user else None
        for fault in self._active:
            if fault.endpoint in ("any", endpoint) and (not fault.user or email_key(fault.user) == key):
                if fault.times > 0:
                    fault.times -= 1
                    if fault.times == 0:
                        self._active.remove(fault)
                return fault
        return None


def _is_integer_in_range(value: object, minimum: int, maximum: int) -> bool:
    """Return whether a value is an integer within a range. Booleans are not integers."""
    return type(value) is int and minimum <= value <= maximum


def _cut_connection(request: web.Request) -> web.StreamResponse:
    """Close the connection without a response."""
    if request.transport is not None:
        request.transport.abort()
    mark_connection_cut()
    return web.Response(status=500)
