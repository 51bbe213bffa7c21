"""How an event of Zoom's is read: bounded in size and time, and only if its headers can be right."""

import asyncio
import contextlib

from aiohttp import web

from zoomgate_server.webhooks.receiver import MAX_BODY, Refusal, WebhookRefused, Webhooks

READ_SECONDS = 1.5
"""How long a body may take to come; Zoom waits for 3 seconds in all."""

REFUSED_SECONDS = 0.1
"""How long the body of one that is refused by its headers may take: a sender that still writes may miss the answer."""


async def answer(webhooks: Webhooks, request: web.Request, client: str) -> web.Response:
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
    except WebhookRefused as refused:
        with contextlib.suppress(WebhookRefused):
            await _body(request, REFUSED_SECONDS)
        return _refuse(webhooks, refused, client)
    try:
        taken = await webhooks.take(stamp, await _body(request, READ_SECONDS))
    except WebhookRefused as refused:
        return _refuse(webhooks, refused, client)
    return web.Response(status=taken.status, body=taken.body, content_type="application/json")


def _refuse(webhooks: Webhooks, refused: WebhookRefused, client: str) -> web.Response:
    webhooks.refused(refused.why, client)
    return web.Response(status=refused.status, text="Refused.\n")


async def _body(request: web.Request, seconds: float) -> bytes:
    """Read the body, which may take so long.

    Raises:
        WebhookRefused: It is too large, comes too slowly, or not to its end.
    """
    if (request.content_length or 0) > MAX_BODY:
        raise WebhookRefused(Refusal.TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while part := await request.content.readany():
                body += part
                if len(body) > MAX_BODY:
                    raise WebhookRefused(Refusal.TOO_LARGE)
    except TimeoutError:
        raise WebhookRefused(Refusal.TOO_SLOW) from None
    except ConnectionError:
        raise WebhookRefused(Refusal.CUT_OFF) from None
    return bytes(body)
