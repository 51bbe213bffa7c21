"""Webhooks of the simulator: signed events, retried as Zoom does."""

import asyncio
import hashlib
import hmac
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson

from zoom_simulator.clock import Clock
from zoom_simulator.options import SimulatedUser, SimulatorOptions
from zoom_simulator.randomness import Randomness

APP_REMOVED = "app_deauthorized"
VALIDATION = "endpoint.url_validation"
USER_EVENTS = ("user.deleted", "user.deactivated", "user.disassociated")
EVENTS = (APP_REMOVED, *USER_EVENTS, VALIDATION)

RETRY_DELAYS = (300.0, 1200.0, 3600.0)
"""Delays, in seconds, before the retries after a 5xx status or a missing response (https://developers.zoom.us/docs/api/webhooks/#retry)."""

RESPONSE_TIMEOUT = 3.0
"""Time limit for the app's response, in seconds."""

RETAINED_DELIVERIES = 50
"""Maximum number of retained deliveries."""

_POLL_INTERVAL = 0.1
"""Seconds between two checks for due deliveries; polling is needed because the clock can be advanced at any time."""


@dataclass(slots=True)
class Delivery:
    """An event and its delivery attempts.

    Attributes:
        user: Email address of the affected user, or empty.
        body: The request body.
        stamp: Time of the signature, in seconds since 1970; the same for all attempts.
        responses: Human-readable results of the previous attempts, oldest first.
        due: Time of the next attempt on the simulator's clock; None if no further attempt is made.
    """

    event: str
    user: str
    body: bytes
    stamp: str
    responses: list[str] = field(default_factory=list)
    due: float | None = None


class Webhooks:
    """The sender of webhook events, as a background task.

    Event timestamps come from the underlying clock and not from the simulator's clock, because receivers compare them with their own clock.

    Attributes:
        url: The URL that receives events; if empty, no events are sent.
    """

    def __init__(self, options: SimulatorOptions, wall: Clock, random: Randomness) -> None:
        self._options = options
        self._wall = wall
        self._random = random
        self.url = options.webhook_url
        self._deliveries: deque[Delivery] = deque(maxlen=RETAINED_DELIVERIES)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def latest(self) -> list[Delivery]:
        """Return the retained deliveries, newest first."""
        return list(reversed(self._deliveries))

    def clear(self) -> None:
        """Delete all deliveries, including those due for a retry."""
        self._deliveries.clear()

    def send(self, event: str, user: SimulatedUser | None) -> bool:
        """Queue an event, and return whether a webhook URL is configured.

        Args:
            event: One of `EVENTS`.
            user: The affected user; None for a validation.
        """
        if not self.url:
            return False
        now = self._wall()
        self._deliveries.append(
            Delivery(
                event,
                user.email if user else "",
                orjson.dumps(self._body(event, user, now)),
                str(int(self._wall.source_time())),  # the receiver compares it with its own clock
                due=now,
            )
        )
        self._wake.set()
        return True

    async def start(self) -> None:
        """Start the background task."""
        self._task = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """Stop the background task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _send_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                self._wake.clear()
                now = self._wall()
                pending = [delivery for delivery in self._deliveries if delivery.due is not None]
                due = [delivery for delivery in pending if delivery.due is not None and delivery.due <= now]
                await asyncio.gather(*(self._send(session, delivery) for delivery in due))
                if due:
                    continue
                try:
                    await asyncio.wait_for(self._wake.wait(), _POLL_INTERVAL if pending else None)
                except TimeoutError:
                    pass

    async def _send(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        """Attempt to deliver an event once, and schedule the retry if needed."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "x-zm-request-timestamp": delivery.stamp,
            "x-zm-signature": f"v0={self._sign(f'v0:{delivery.stamp}:'.encode() + delivery.body)}",
        }
        sent_at = self._wall()  # read now, since the clock may be advanced before the response arrives
        try:
            async with session.post(
                self.url, data=delivery.body, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                retry = response.status >= 500
                outcome = self._evaluate_response(delivery, response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            retry = True
            outcome = f"no response: {type(error).__name__}"
        delivery.responses.append(outcome)
        attempts = len(delivery.responses)
        # a validation request is not retried: Zoom sends a new one days later instead
        retry = retry and delivery.event != VALIDATION and attempts <= len(RETRY_DELAYS)
        delivery.due = sent_at + RETRY_DELAYS[attempts - 1] if retry else None

    def _evaluate_response(self, delivery: Delivery, status: int, body: bytes) -> str:
        """Return a human-readable result of a delivery attempt that received a response."""
        if delivery.event != VALIDATION:
            return f"{status}, accepted" if status in (200, 204) else f"{status}, not accepted"
        plain = orjson.loads(delivery.body)["payload"]["plainToken"]
        try:
            response = orjson.loads(body)
            valid = response == {"plainToken": plain, "encryptedToken": self._sign(plain.encode())}
        except orjson.JSONDecodeError:
            valid = False
        return f"{status}, validated" if status == 200 and valid else f"{status}, not validated"

    def _sign(self, message: bytes) -> str:
        return hmac.new(self._options.webhook_secret.encode(), message, hashlib.sha256).hexdigest()

    def _body(self, event: str, user: SimulatedUser | None, now: float) -> dict[str, Any]:
        moment = datetime.fromtimestamp(now, UTC)
        milliseconds = int(now * 1000)
        if user is None:
            payload: dict[str, Any] = {"plainToken": self._random.text(16)}
            return {"event": event, "event_ts": milliseconds, "payload": payload}
        if event == APP_REMOVED:
            payload = {
                "account_id": user.account_id,
                "user_id": user.user_id,
                "signature": self._random.text(48),
                "deauthorization_time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "client_id": self._options.client_id,
                "event_ts": moment.strftime("%Y-%m-%d %H:%M:%S"),
            }
            return {"event": event, "payload": payload}
        payload = {
            "account_id": user.account_id,
            "operator": "admin@example.com",
            "object": {
                "id": user.user_id,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "email": user.email,
                "type": user.zoom_type,
            },
        }
        return {"event": event, "event_ts": milliseconds, "payload": payload}
