"""How an event of Zoom's is read: bounded in size and time, and only if its headers can be right."""

import asyncio
import contextlib

from aiohttp import web

from zoomgate_server.webhooks.receiver import MAX_BODY, Rejection, WebhookReceiver, WebhookRejected

READ_SECONDS = 1.5
"""How long a body may take to come; Zoom waits for 3 seconds in all."""

REFUSED_SECONDS = 0.1
"""How long the body of one that is refused by its headers may take: a sender that still writes may miss the answer."""


async def handle(webhooks: WebhookReceiver, request: web.Request, client: str) -> web.Response:
    """Take an event, or refuse it.

    Args:
        webhooks: Decides.
        request: With the event.
        client: Where it comes from, for the log.
    """
    headers = request.headers
    try:
        stamp = webhooks.stamp(
            headers.get("Content-Type", ""),
            headers.getall("x-zm-request-timestamp", []),
            headers.getall("x-zm-signature", []),
        )
    except WebhookRejected as refused:
        with contextlib.suppress(WebhookRejected):
            await _body(request, REFUSED_SECONDS)
        return _reject(webhooks, refused, client)
    try:
        taken = await webhooks.receive(stamp, await _body(request, READ_SECONDS))
    except WebhookRejected as refused:
        return _reject(webhooks, refused, client)
    return web.Response(status=taken.status, body=taken.body, content_type="application/json")


def _reject(webhooks: WebhookReceiver, refused: WebhookRejected, client: str) -> web.Response:
    webhooks.rejected(refused.why, client)
    return web.Response(status=refused.status, text="Refused.\n")


async def _body(request: web.Request, seconds: float) -> bytes:
    """Read the body, which may take so long.

    Raises:
        WebhookRefused: It is too large, comes too slowly, or not to its end.
    """
    if (request.content_length or 0) > MAX_BODY:
        raise WebhookRejected(Rejection.TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while part := await request.content.readany():
                body += part
                if len(body) > MAX_BODY:
                    raise WebhookRejected(Rejection.TOO_LARGE)
    except TimeoutError:
        raise WebhookRejected(Rejection.TIMEOUT) from None
    except ConnectionError:
        raise WebhookRejected(Rejection.INCOMPLETE) from None
    return bytes(body)
