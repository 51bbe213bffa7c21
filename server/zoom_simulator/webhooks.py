"""What the simulated Zoom tells the app by itself: signed events, repeated as Zoom repeats them."""

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

REPEATED_AFTER = (300.0, 1200.0, 3600.0)
"""Seconds after which an event is sent again that got 5xx or no answer (https://developers.zoom.us/docs/api/webhooks/#retry)."""

ANSWER_SECONDS = 3.0
"""How long the app has for its answer."""

LONGEST_ANSWER = 10_000
"""How many bytes are read of it."""

REMEMBERED = 50
"""How many events are remembered."""

_LOOK_SECONDS = 0.1
"""Pause between two looks whether something is due, since the clock may be moved at any time."""


@dataclass(slots=True)
class Delivery:
    """An event on its way to the app.

    Attributes:
        event: Its name.
        user: E-mail address of whom it is about, or empty.
        body: Its bytes.
        stamp: When it was signed, in seconds since 1970; the same each time that it is sent.
        answers: What the app answered so far, in words, the latest last.
        due: When it is sent next, by the simulator's clock; None if it is not sent any more.
    """

    event: str
    user: str
    body: bytes
    stamp: str
    answers: list[str] = field(default_factory=list)
    due: float | None = None


class Webhooks:
    """Sends events, while it runs.

    Times in events are of the clock that the simulator's follows, wherever that was moved: whoever receives them compares them with theirs.

    Args:
        options: App and secret, and where events go at the start.
        wall: The simulator's clock.
        random: For what must not be guessed.

    Attributes:
        url: Where events go; nothing is sent if it is empty.
    """

    def __init__(self, options: SimulatorOptions, wall: Clock, random: Randomness) -> None:
        self._options = options
        self._wall = wall
        self._random = random
        self.url = options.webhook_url
        self._deliveries: deque[Delivery] = deque(maxlen=REMEMBERED)
        self._work: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def latest(self) -> list[Delivery]:
        """Give what is remembered, the latest event first."""
        return list(reversed(self._deliveries))

    def clear(self) -> None:
        """Forget every event, also those that were to be repeated."""
        self._deliveries.clear()

    def tell(self, event: str, user: SimulatedUser | None) -> bool:
        """Send an event, soon; tells whether there is somewhere to send it to.

        Args:
            event: One of `EVENTS`.
            user: Whom it is about; nobody for a validation.
        """
        if not self.url:
            return False
        now = self._wall.followed()
        self._deliveries.append(
            Delivery(
                event,
                user.email if user else "",
                orjson.dumps(self._body(event, user, now)),
                str(int(now)),
                due=self._wall(),
            )
        )
        self._wake.set()
        return True

    async def start(self) -> None:
        """Begin to send."""
        self._work = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """Send no more."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            self._work = None

    async def _send_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                self._wake.clear()
                now = self._wall()
                waiting = [delivery for delivery in self._deliveries if delivery.due is not None]
                due = [delivery for delivery in waiting if delivery.due is not None and delivery.due <= now]
                await asyncio.gather(*(self._send(session, delivery) for delivery in due))
                if due:
                    continue
                try:
                    await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS if waiting else None)
                except TimeoutError:
                    pass

    async def _send(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        """Send an event once, and say when it is sent again."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "x-zm-request-timestamp": delivery.stamp,
            "x-zm-signature": f"v0={self._sign(f'v0:{delivery.stamp}:'.encode() + delivery.body)}",
        }
        sent = self._wall()  # the clock may be moved before the answer comes
        try:
            async with session.post(
                self.url, data=delivery.body, headers=headers, allow_redirects=False
            ) as answer:
                body = await _beginning(answer.content)
                again = answer.status >= 500
                said = self._judged(delivery, answer.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            again = True
            said = f"no answer: {type(error).__name__}"
        delivery.answers.append(said)
        tries = len(delivery.answers)
        # a challenge is not repeated: Zoom sends a new one days later
        again = again and delivery.event != VALIDATION and tries <= len(REPEATED_AFTER)
        delivery.due = sent + REPEATED_AFTER[tries - 1] if again else None

    def _judged(self, delivery: Delivery, status: int, body: bytes) -> str:
        """Say what an answer is worth."""
        if delivery.event != VALIDATION:
            return f"{status}, taken" if status in (200, 204) else f"{status}, not taken"
        plain = orjson.loads(delivery.body)["payload"]["plainToken"]
        try:
            answer = orjson.loads(body)
            right = answer == {"plainToken": plain, "encryptedToken": self._sign(plain.encode())}
        except orjson.JSONDecodeError:
            right = False
        return f"{status}, validated" if status == 200 and right else f"{status}, not validated"

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
                "type": 2 if user.licensed else 1,
            },
        }
        return {"event": event, "event_ts": milliseconds, "payload": payload}


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """Read an answer, in however many parts it comes, as far as it matters."""
    body = b""
    while len(body) < LONGEST_ANSWER and (part := await content.read(LONGEST_ANSWER - len(body))):
        body += part
    return body
