"""The pages of Zoom's lists, read one after another."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.errors import CallerNotAllowed, ZoomBadResponse
from zoomgate_server.zoom import tolerant_json
from zoomgate_server.zoom.client import outage_on_timeout
from zoomgate_server.zoom.request import Target, ZoomRequest, ZoomResponse
from zoomgate_server.zoom.urls import MAX_VALUE, encode_query

_PAGE_TOKEN = "next_page_token"


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of lists, in seconds.

    Attributes:
        page: Maximum time for one page.
    """

    page: float = 30.0


class ZoomPages:
    """Reader of lists that Zoom divides into pages (https://developers.zoom.us/docs/api/pagination/)."""

    def __init__(self, zoom_calls: ZoomCalls, clock: Clock, timing: Timing = Timing()) -> None:
        self._zoom_calls = zoom_calls
        self._clock = clock
        self._timing = timing

    async def read(
        self,
        call: Call,
        user_email: str,
        request: ZoomRequest,
        *,
        max_pages: int,
        max_items: int,
        permit: Callable[[str], bool],
    ) -> AsyncGenerator[ZoomResponse, None]:
        """Yield the response of each page, up to and including one that is a failure. A page is requested when the consumer needs it.

        Args:
            max_pages: Maximum number of pages; 0 for no limit.
            max_items: Number of items after which no further page is read; 0 for no limit.
            permit: Returns whether the caller may still act for the user. Called before each page.

        Raises:
            ZoomBadResponse: The end of the list is unknown: a page is not a JSON object, or its page token is invalid or repeated.
            ZoomgateError: See `ZoomCalls.send`.
        """
        pages = items = 0
        tokens: set[int] = set()  # hashes, since lists may have thousands of long tokens
        while True:
            if not permit(user_email):
                raise CallerNotAllowed(internal="the caller may no longer act for the user")
            deadline = min(call.deadline, self._clock.monotonic() + self._timing.page)
            with outage_on_timeout(deadline < call.deadline):
                response = await self._zoom_calls.send(call._replace(deadline=deadline), user_email, request)
            yield response
            if not 200 <= response.status < 300:
                return
            page = _parse(response)
            pages += 1
            items += sum(len(value) for value in page.values() if isinstance(value, list))
            token = page.get(_PAGE_TOKEN)
            if not token or pages == max_pages or 0 < max_items <= items:
                return
            if (
                not isinstance(token, str)
                or not token.isascii()
                or len(token) > MAX_VALUE
                or hash(token) in tokens
            ):
                raise _bad_response(response)
            tokens.add(hash(token))
            request = _with_page_token(request, token)


def _parse(response: ZoomResponse) -> dict[str, Any]:
    try:
        page = tolerant_json.loads(response.body)
    except ValueError:
        page = None
    if not isinstance(page, dict):
        raise _bad_response(response)
    return page


def _with_page_token(request: ZoomRequest, token: str) -> ZoomRequest:
    """Return a request for the next page: the same query with a different page token, as Zoom requires."""
    parts = [part for part in request.target.query.split("&") if part]
    kept = [part for part in parts if unquote_plus(part.partition("=")[0]) != _PAGE_TOKEN]
    query = "&".join([*kept, encode_query([(_PAGE_TOKEN, token)])])
    return replace(request, target=Target(request.target.path, query))


def _bad_response(response: ZoomResponse) -> ZoomBadResponse:
    return ZoomBadResponse(
        "The list has no proper end: the last page is not a JSON object, or its next_page_token is invalid or was returned before; do not"
        " treat the list as complete, and report the problem to the operator",
        metadata={"http_status": str(response.status)},
    )
