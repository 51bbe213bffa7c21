"""Faults that somebody asked for: delays, errors, cut connections."""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiohttp import web

from zoom_simulator.request_log import because, told, was_cut

KINDS = (
    "delay",
    "status",
    "html",
    "cut_before",
    "cut_after",
    "rate_limit_qps",
    "rate_limit_daily",
    "redirect",
    "garbage",
)
ENDPOINTS = ("any", "token", "revoke", "users_me", "meetings")
LONGEST_DELAY = 600.0
"""Seconds; a longer delay would be a typing error."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Fault:
    """One fault.

    Attributes:
        endpoint: Where, from `ENDPOINTS`.
        kind: What, from `KINDS`.
        times: How often still, 1 to 1,000,000; -1 for ever.
        status: For `status` and `html`, 400 to 599; for `redirect` 300 to 399, and 302 if it is something else.
        seconds: For `delay`, 0 to 600, in real time; it ends before if faults are switched off.
        location: For `redirect`: an address of at most 2000 printable characters.

    Raises:
        ValueError: A field is none of these; the text says which and what it may be.
    """

    endpoint: str
    kind: str
    times: int = 1
    status: int = 503
    seconds: float = 0.0
    location: str = "https://elsewhere.example/"

    def __post_init__(self) -> None:
        for name, allowed in (("endpoint", ENDPOINTS), ("kind", KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}")
        if not _whole(self.times, 1, 1_000_000) and self.times != -1:
            raise ValueError("times must be a whole number from 1 to 1000000, or -1 for ever")
        if not _whole(self.status, 300, 599) or (self.status < 400 and self.kind != "redirect"):
            raise ValueError("status must be a whole number from 400 to 599, for redirect from 300")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float):
            raise ValueError("seconds must be a number from 0 to 600")
        if not math.isfinite(self.seconds) or not 0 <= self.seconds <= LONGEST_DELAY:
            raise ValueError("seconds must be a number from 0 to 600")
        if not isinstance(self.location, str) or not self.location.isprintable() or len(self.location) > 2000:
            raise ValueError("location must be an address of at most 2000 printable characters")


class Faults:
    """The faults that are switched on, applied in the order in which they were asked for.

    Args:
        counters: Where faults that happened are counted.
        wall: Seconds since 1970.
    """

    def __init__(self, counters: Counter[str], wall: Callable[[], float]) -> None:
        self._counters = counters
        self._wall = wall
        self._active: list[Fault] = []
        self._switched_off = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._active.append(fault)

    def active(self) -> tuple[Fault, ...]:
        """Give the faults that are switched on, in the order in which they happen."""
        return tuple(self._active)

    def clear(self) -> None:
        """Switch every fault off, and let go what one delays."""
        self._active.clear()
        self._switched_off.set()
        self._switched_off = asyncio.Event()

    async def apply(self, endpoint: str, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve a request, with the next fault for its endpoint if there is one."""
        fault = self._take(endpoint)
        if fault is None:
            return await handler(request)
        self._counters[f"faults.{fault.kind}"] += 1
        switched = f"fault {fault.kind} that you switched on"
        because(f"{switched}: nothing was done")
        match fault.kind:
            case "delay":
                ended = f"after {fault.seconds:g} s"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._switched_off.wait(), fault.seconds)
                    ended = "once you switched it off"
                response = await handler(request)
                because(f"{switched}: answered {ended} ({told()})")
                return response
            case "cut_before":
                return _cut(request)
            case "cut_after":
                await handler(request)
                because(f"{switched}: it was done, and its answer is lost ({told()})")
                return _cut(request)
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
                return rate_limited(self._wall(), daily=fault.kind == "rate_limit_daily")
            case _:
                return web.json_response({"code": fault.status, "message": "Injected"}, status=fault.status)

    def _take(self, endpoint: str) -> Fault | None:
        for fault in self._active:
            if fault.endpoint in ("any", endpoint):
                if fault.times > 0:
                    fault.times -= 1
                    if fault.times == 0:
                        self._active.remove(fault)
                return fault
        return None


def _whole(value: object, least: int, most: int) -> bool:
    """Tell whether something is a whole number of a range; `True` is none."""
    return type(value) is int and least <= value <= most


def rate_limited(now: float, *, daily: bool) -> web.Response:
    """Answer as Zoom does over a limit (https://developers.zoom.us/docs/api/rate-limits/)."""
    headers = {
        "X-RateLimit-Category": "Light",
        "X-RateLimit-Type": "Daily-limit" if daily else "QPS",
        "X-RateLimit-Remaining": "0",
    }
    if daily:
        tomorrow = (datetime.fromtimestamp(now, UTC) + timedelta(days=1)).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        headers["Retry-After"] = tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ")
        message = (
            "You have reached the daily limit of this API; see the response header for when to try again."
        )
    else:
        message = "You have reached the maximum per-second rate limit for this API. Try again later."
    return web.json_response({"code": 429, "message": message}, status=429, headers=headers)


def _cut(request: web.Request) -> web.StreamResponse:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    was_cut()
    return web.Response(status=500)
