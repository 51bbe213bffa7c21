"""Log of the latest requests, with their results and the reasons for these results."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

MAX_ENTRIES = 100
"""Maximum number of retained requests."""

_MAX_TEXT_LENGTH = 300
"""Maximum length of paths and reasons in characters; longer ones are truncated."""

_LOGGED_PARAMETERS = frozenset(
    {
        "client_id",
        "code_challenge_method",
        "from",
        "occurrence_id",
        "occurrence_ids",
        "page_number",
        "page_size",
        "response_type",
        "show_previous_occurrences",
        "status",
        "timezone",
        "to",
        "type",
    }
)
"""Parameters that are logged with their values. Of other parameters, only the name is logged."""

_TOKEN_PATTERN = re.compile(r"[\w-]{28,}(?=[\w-]{4})")
"""Pattern for codes and tokens in paths, where nothing else is this long."""

_ADMIN_PATH = "/_sim"


@dataclass(slots=True)
class Entry:
    """A logged request.

    Attributes:
        method: HTTP method.
        path: Path and query, without codes, tokens and states.
        time: Time of the response on the simulator's clock, in seconds since 1970.
        status: HTTP status; None if the connection was closed without a response.
        reason: Explanation of the result for a developer, as a sentence without a period. It contains no secrets.
        user: Email address of the affected account; empty if unknown.
        cut: Whether the connection was closed without a response.
    """

    method: str
    path: str
    time: float = 0.0
    status: int | None = None
    reason: str = ""
    user: str = ""
    cut: bool = False


_current: ContextVar[Entry | None] = ContextVar("entry", default=None)


def log_reason(reason: str, *, user: str | None = None) -> None:
    """Set the reason for the result of the current request, replacing an earlier reason.

    Args:
        reason: See `Entry`.
        user: See `Entry`; None retains the current value.
    """
    entry = _current.get()
    if entry is not None:  # tests in the same process call methods of the state outside of a request
        entry.reason = reason
        entry.user = entry.user if user is None else user


def current_reason() -> str:
    """Return the reason of the current request."""
    entry = _current.get()
    return entry.reason if entry is not None else ""


def mark_connection_cut() -> None:
    """Record that the connection of the current request was closed without a response."""
    entry = _current.get()
    if entry is not None:
        entry.cut = True


class RequestLog:
    """A log of the latest requests, at most `MAX_ENTRIES`. Requests to the admin API are not logged.

    Attributes:
        received: Number of requests since the start or the last reset.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self.received = 0

    def latest(self) -> list[Entry]:
        """Return the logged requests, newest first."""
        return list(reversed(self._entries))

    def clear(self) -> None:
        """Delete all entries."""
        self._entries.clear()
        self.received = 0

    @web.middleware
    async def record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request and log it."""
        if request.path == _ADMIN_PATH or request.path.startswith(f"{_ADMIN_PATH}/"):
            return await handler(request)
        entry = Entry(_truncated(request.method), _truncated(redacted(request.path, request.query)))
        token = _current.set(entry)
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as rejection:
            # raised by aiohttp: unknown path, wrong method, body too large
            status, entry.reason = rejection.status, _rejection_reason(request, rejection)
            raise
        except Exception as error:
            entry.reason = f"bug in the simulator: {type(error).__name__}"
            raise
        finally:
            _current.reset(token)
            entry.time = self._wall()
            entry.status = None if entry.cut else status
            entry.reason = _truncated(_mask_tokens(entry.reason))
            self._entries.append(entry)
            self.received += 1


def redacted(path: str, query: Mapping[str, str]) -> str:
    """Return a path and its query without values that may be secret."""
    parameters = "&".join(
        f"{name}={value if name in _LOGGED_PARAMETERS else '…'}" for name, value in query.items()
    )
    return _mask_tokens(f"{path}?{parameters}" if parameters else path)


def _mask_tokens(text: str) -> str:
    return _TOKEN_PATTERN.sub("…", text)


def _truncated(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[:_MAX_TEXT_LENGTH]}…"


def _rejection_reason(request: web.Request, rejection: web.HTTPException) -> str:
    match rejection:
        case web.HTTPNotFound():
            return "the simulator does not serve this path; it serves /oauth/…, /v2/… and /rec/download/…"
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(rejection.allowed_methods))
            return f"this path accepts {allowed}, not {request.method}"
        case web.HTTPRequestEntityTooLarge():
            return "the body is larger than 2 MiB"
        case _:
            return rejection.reason
