"""Signed webhook events in Zoom's format."""

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp

from support.harness import SECONDS
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.web import server, webhook_endpoint
from zoomgate_server.webhooks import receiver

SECRET = "hush-webhook-hunter2@"
"""The webhook secret of the tests; `conftest` checks that it never appears in the log."""

ENVIRON = {"ZOOMGATE_WEBHOOK_SECRET": SECRET}
PATIENT = Timing(
    web=server.Timing(webhooks=webhook_endpoint.Timing(read_timeout=SECONDS)),
    webhooks=receiver.Timing(store_timeout=SECONDS),
)
"""The timing of services whose webhooks do not time out on slow machines."""

AFTER_CONSENT = decisions.NEAR_CONSENT_SECONDS + 30.0
"""Seconds from now to an event, by default. An event nearer to a consent would not disconnect the user."""

USER_IDS = {"monica@example.com": "u-Monica-7Yc1", "omar@example.com": "u-Omar-2Kd9"}


def app_deauthorized(user: str, at: float | None = None, **payload: Any) -> dict[str, Any]:
    """Return the event that Zoom sends when a user removes the app."""
    moment = datetime.fromtimestamp(time.time() + AFTER_CONSENT if at is None else at, UTC)
    return {
        "event": "app_deauthorized",
        "payload": {
            "account_id": "acc",
            "user_id": USER_IDS.get(user, user),
            "client_id": "zoomgate-dev",
            "deauthorization_time": moment.isoformat(timespec="milliseconds"),
            "signature": "827edc34",
            "event_ts": moment.strftime("%Y-%m-%d %H:%M:%S"),
        }
        | payload,
    }


def about_user(event: str, user: str, at: float | None = None) -> dict[str, Any]:
    """Return an event about a user's account."""
    return {
        "event": event,
        "event_ts": int((time.time() + AFTER_CONSENT if at is None else at) * 1000),
        "payload": {"account_id": "acc", "object": {"id": USER_IDS.get(user, user), "email": user}},
    }


def challenge(token: str) -> dict[str, Any]:
    """Return a URL validation event."""
    return {
        "event": "endpoint.url_validation",
        "event_ts": int(time.time() * 1000),
        "payload": {"plainToken": token},
    }


def signature(body: bytes, stamp: str, secret: str = SECRET) -> str:
    """Return the signature of a body."""
    message = b"v0:" + stamp.encode() + b":" + body
    return f"v0={hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()}"


def headers(body: bytes, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """Return the headers of an event."""
    stamp = str(int(time.time() if at is None else at))
    return {
        "Content-Type": "application/json; charset=utf-8",
        "x-zm-request-timestamp": stamp,
        "x-zm-signature": signature(body, stamp, secret),
    }


async def send(
    http_url: str,
    event: dict[str, Any] | bytes,
    at: float | None = None,
    secret: str = SECRET,
    **extra_headers: str,
) -> tuple[int, bytes]:
    """Send an event to the service at a base URL, and return the status and body of the response."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    request_headers = headers(body, at, secret) | {
        name.replace("_", "-"): value for name, value in extra_headers.items()
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{http_url}/webhooks/zoom", data=body, headers=request_headers, allow_redirects=False
        ) as response,
    ):
        return response.status, await response.read()
