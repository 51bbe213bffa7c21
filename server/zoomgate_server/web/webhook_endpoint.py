"""HTTP endpoint for Zoom webhooks, with limits on body size and read time."""

import contextlib
from dataclasses import dataclass

from aiohttp import web

from zoomgate_server import request_body
from zoomgate_server.webhooks.receiver import MAX_BODY, Rejection, WebhookReceiver, WebhookRejected


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the webhook endpoint, in seconds.

    Attributes:
        read_timeout: Maximum time to read a body. Zoom waits 3 seconds in total for the response.
        discard_timeout: Maximum time to read the body of a request rejected by its headers. If it were not read, a sender that is still
            writing might miss the response.
    """

    read_timeout: float = 1.5
    discard_timeout: float = 0.1


async def handle(
    webhooks: WebhookReceiver, request: web.Request, client: str, timing: Timing
) -> web.Response:
    """Return the response to a webhook request. `client` is the address of the sender, for the log."""
    headers = request.headers
    try:
        stamp = webhooks.stamp(
            headers.get("Content-Type", ""),
            headers.getall("x-zm-request-timestamp", []),
            headers.getall("x-zm-signature", []),
        )
    except WebhookRejected as rejection:
        with contextlib.suppress(WebhookRejected):
            await _read_body(request, timing.discard_timeout)
        return _reject(webhooks, rejection, client)
    try:
        result = await webhooks.receive(stamp, await _read_body(request, timing.read_timeout))
    except WebhookRejected as rejection:
        return _reject(webhooks, rejection, client)
    return web.Response(status=result.status, body=result.body, content_type="application/json")


def _reject(webhooks: WebhookReceiver, rejection: WebhookRejected, client: str) -> web.Response:
    webhooks.record_rejection(rejection.reason, client)
    return web.Response(status=rejection.status, text="Rejected.\n")


async def _read_body(request: web.Request, max_seconds: float) -> bytes:
    """Return the request body, read within `max_seconds`."""
    try:
        return await request_body.read(request, limit=MAX_BODY, timeout=max_seconds)
    except request_body.BodyTooLarge:
        raise WebhookRejected(Rejection.TOO_LARGE) from None
    except TimeoutError:
        raise WebhookRejected(Rejection.TIMEOUT) from None
    except ConnectionError:
        raise WebhookRejected(Rejection.INCOMPLETE) from None
