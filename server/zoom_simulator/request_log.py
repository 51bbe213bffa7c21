"""What was asked lately, how it was answered, and why."""

import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from aiohttp import web

LOGGED = 100
"""How many requests are remembered."""

_LONGEST = 300
"""Characters of a path or a reason; the rest is cut off."""

_HARMLESS = frozenset(
    {
        "client_id",
        "code_challenge_method",
        "from",
        "occurrence_id",
        "page_size",
        "response_type",
        "timezone",
        "to",
        "type",
    }
)
"""Parameters whose values are remembered; of every other one only the name is."""

_LIKE_A_TOKEN = re.compile(r"[\w-]{28,}(?=[\w-]{4})")
"""Nothing in Zoom's paths is that long, but codes and tokens are."""

_OWN = "/_sim"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Why:
    """Why a request is answered as it is, in the words of whoever decided.

    Attributes:
        reason: A sentence without a full stop, for a person who wonders; no secrets.
        user: E-mail address of the account that it was about, if that is known.
        cut: Whether the connection was cut instead of an answer.
    """

    reason: str = ""
    user: str = ""
    cut: bool = False


_current: ContextVar[Why | None] = ContextVar("why", default=None)


def because(reason: str, *, user: str | None = None) -> None:
    """Say why the request that is being served is answered as it is; what is said last counts.

    Args:
        reason: See `Why`.
        user: See `Why`; None leaves what is known.
    """
    why = _current.get()
    if why is not None:  # a test in the same process may ask without a request
        why.reason = reason
        why.user = why.user if user is None else user


def told() -> str:
    """Give what was said so far about the request that is being served."""
    why = _current.get()
    return why.reason if why is not None else ""


def was_cut() -> None:
    """Say that the request that is being served gets no answer, since its connection was cut."""
    why = _current.get()
    if why is not None:
        why.cut = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was answered.

    Attributes:
        time: When that was, by the simulator's clock, in seconds since 1970.
        method: HTTP method.
        path: Path and query, without codes, tokens and states.
        user: E-mail address of the account that it was about; empty if unknown.
        status: HTTP status; None if the connection was cut instead.
        reason: Why it was answered so.
    """

    time: float
    method: str
    path: str
    user: str
    status: int | None
    reason: str


class RequestLog:
    """The latest requests, at most `LOGGED`; those to the admin path are none.

    Args:
        wall: The simulator's clock.

    Attributes:
        received: How many there were since the start.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._entries: deque[Entry] = deque(maxlen=LOGGED)
        self.received = 0

    def latest(self) -> list[Entry]:
        """Give what is remembered, the latest answer first."""
        return list(reversed(self._entries))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.received = 0

    @web.middleware
    async def record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve a request and remember it."""
        if request.path == _OWN or request.path.startswith(f"{_OWN}/"):
            return await handler(request)
        why = Why()
        token = _current.set(why)
        try:
            response = await handler(request)
        except web.HTTPException as refused:  # aiohttp's own: no such path, wrong method, too large a body
            self._add(request, refused.status, why, _refusal(request, refused))
            raise
        except Exception as error:
            self._add(
                request,
                500,
                why,
                f"the simulator failed, which is a fault of its own: {type(error).__name__}",
            )
            raise
        finally:
            _current.reset(token)
        self._add(request, response.status, why, why.reason)
        return response

    def _add(self, request: web.Request, status: int, why: Why, reason: str) -> None:
        self.received += 1
        self._entries.append(
            Entry(
                self._wall(),
                _shortened(request.method),
                _shortened(redacted(request.path, request.query)),
                why.user,
                None if why.cut else status,
                _shortened(_without_tokens(reason)),
            )
        )


def redacted(path: str, query: Mapping[str, str]) -> str:
    """Give a path and its query without what may be a secret."""
    shown = "&".join(f"{name}={value if name in _HARMLESS else '…'}" for name, value in query.items())
    return _without_tokens(f"{path}?{shown}" if shown else path)


def _without_tokens(text: str) -> str:
    return _LIKE_A_TOKEN.sub("…", text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _refusal(request: web.Request, refused: web.HTTPException) -> str:
    match refused:
        case web.HTTPNotFound():
            return "the simulated Zoom has no such path: it serves /oauth/… and /v2/…"
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(refused.allowed_methods))
            return f"this path takes {allowed}, not {request.method}"
        case web.HTTPRequestEntityTooLarge():
            return "the body is larger than 2 MiB"
        case _:
            return refused.reason
