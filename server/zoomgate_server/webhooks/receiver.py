"""What Zoom tells by webhooks: who is believed, and what becomes of it.

Zoom signs every event (https://developers.zoom.us/docs/api/webhooks/#verify-with-zooms-header). Nothing of a body is looked at before its
signature holds. Zoom repeats what was answered with 5xx or not at all, 5, 25 and 85 minutes later, and nothing else: so a failing store
is told as 5xx, and what will never be right as 4xx.
"""

import asyncio
import hmac
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.connections.record import Cause
from zoomgate_server.errors import RecordFault
from zoomgate_server.secret import Secret
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.webhooks.seen_events import SeenEvents

PATH = "/webhooks/zoom"

MAX_BODY = 64 * 1024
"""Bytes of an event; Zoom's have a few hundred."""

ACCEPTED_SECONDS = 2 * 3600.0
"""How old an event may be: Zoom repeats until 85 minutes later, perhaps with the first time."""

AHEAD_SECONDS = 300.0
"""How far ahead of ours Zoom's clock may be."""

VALIDATION_SECONDS = 300.0
"""How old a challenge may be. Zoom sends a new one every time."""

SETTLE_SECONDS = 1.0
"""How long the store may take until Zoom is asked to come again; Zoom waits for 3 seconds in all."""

TOLD_REFUSALS, TOLD_SECONDS = 10, 60.0
"""How many refusals are told in so many seconds. All are counted."""

_SIGNATURE = re.compile(r"v0=[0-9a-f]{64}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_MILLISECONDS = re.compile(r"[0-9]{11,15}", re.ASCII)
"""As text; its digits could be those of a date, too."""

_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_JSON = re.compile(r"application/json\s*(;.*)?", re.ASCII | re.IGNORECASE)
_LONGEST_ID = 512
_CAUSES = {
    "app_deauthorized": Cause.APP_DEAUTHORIZED,
    "user.deleted": Cause.USER_DELETED,
    "user.deactivated": Cause.USER_DEACTIVATED,
    "user.disassociated": Cause.USER_DISASSOCIATED,
}
_log = logs.get("zoomgate.webhooks")


class Rejection(StrEnum):
    """Why an event is not taken, as metrics and audit say it."""

    CONTENT_TYPE = "rejected_content_type"
    SIGNATURE = "rejected_signature"
    STALE = "rejected_stale"
    TOO_LARGE = "rejected_too_large"
    TIMEOUT = "rejected_timeout"
    INCOMPLETE = "rejected_incomplete"
    MALFORMED = "rejected_malformed"
    OTHER_APP = "rejected_other_app"


_STATUSES = {
    Rejection.CONTENT_TYPE: 415,
    Rejection.SIGNATURE: 401,
    Rejection.STALE: 401,
    Rejection.TOO_LARGE: 413,
    Rejection.TIMEOUT: 408,
    Rejection.INCOMPLETE: 400,
    Rejection.MALFORMED: 400,
    Rejection.OTHER_APP: 403,
}


class WebhookRejected(Exception):
    """An event is not taken, and never will be.

    Args:
        why: The reason.
    """

    def __init__(self, why: Rejection) -> None:
        super().__init__(why.value)
        self.why = why
        self.status = _STATUSES[why]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the headers of an event claim.

    Attributes:
        text: When it was signed, as it was written.
        time: The same, in seconds since 1970.
        signature: As `v0=` and 64 hex digits.
    """

    text: str
    time: float
    signature: str


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """What Zoom is told.

    Attributes:
        status: 200, 204 or 503.
        body: JSON, or nothing.
    """

    status: int
    body: bytes = b""


_TAKEN = WebhookResponse(204)
_COME_AGAIN = WebhookResponse(503)


class WebhookReceiver:
    """Takes Zoom's events.

    Args:
        secrets: Zoom's webhook secret tokens, newest first; without one nothing is listened to.
        client_id: Of the app.
        endings: Ends connections.
        events: Remembers what was dealt with.
        now: The store's clock, in seconds since 1970.
        clock: Time.
        count: Hears of the outcome of every event.
        audit: Hears of refusals.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[Secret],
        client_id: str,
        disconnector: Disconnector,
        events: SeenEvents,
        now: Callable[[], float],
        clock: Clock,
        count: Callable[[str], None],
        audit: AuditSink,
    ) -> None:
        self._keys = [secret.reveal().encode() for secret in secrets]
        self._client_id = client_id
        self._disconnector = disconnector
        self._events = events
        self._now = now
        self._clock = clock
        self._count = count
        self._audit = audit
        self._told_since = -math.inf
        self._told = self._left_out = 0

    @property
    def is_enabled(self) -> bool:
        """Whether there is a secret to check signatures with."""
        return bool(self._keys)

    def stamp(self, content_type: str, timestamps: Sequence[str], signatures: Sequence[str]) -> Stamp:
        """Read the headers, before anything is read of the body.

        Args:
            content_type: Of the body.
            timestamps: Values of `x-zm-request-timestamp`.
            signatures: Values of `x-zm-signature`.

        Raises:
            WebhookRefused: They cannot be those of an event of Zoom's, or it is too old.
        """
        if len(timestamps) != 1 or len(signatures) != 1:
            raise WebhookRejected(Rejection.SIGNATURE)
        text, signature = timestamps[0], signatures[0]
        if not _TIMESTAMP.fullmatch(text) or not _SIGNATURE.fullmatch(signature):
            raise WebhookRejected(Rejection.SIGNATURE)
        if not -AHEAD_SECONDS <= self._now() - int(text) <= ACCEPTED_SECONDS:
            raise WebhookRejected(Rejection.STALE)
        if not _JSON.fullmatch(content_type):
            raise WebhookRejected(Rejection.CONTENT_TYPE)
        return Stamp(text, float(text), signature)

    async def receive(self, stamp: Stamp, body: bytes) -> WebhookResponse:
        """Check an event and do what follows from it.

        Args:
            stamp: Its headers.
            body: Its bytes as they came, `MAX_BODY` at most.

        Raises:
            WebhookRefused: It is not taken.
        """
        key = self._signed_with(stamp, body)
        event = _parsed(body)
        name, payload = event.get("event"), event.get("payload")
        if not isinstance(name, str) or not isinstance(payload, dict):
            raise WebhookRejected(Rejection.MALFORMED)
        if name == "endpoint.url_validation":
            return self._validate_url(stamp, payload, key)
        if payload.get("client_id", self._client_id) != self._client_id:
            raise WebhookRejected(Rejection.OTHER_APP)
        cause = _CAUSES.get(name)
        if cause is None:
            self._count("ignored")
            return _TAKEN
        zoom_user_id = _zoom_user_id(name, payload)
        happened_at = _happened_at(event, payload, stamp.time)
        # whoever is cut off from the answer, the end goes on
        work = self._disconnector.run_in_background(self._disconnect(body, zoom_user_id, cause, happened_at))
        await asyncio.wait({work}, timeout=SETTLE_SECONDS)
        if work.done():
            outcome = work.result()
        else:
            _log.warning("webhook.store_failed", error="no answer in time")
            outcome = "store_unavailable"
        self._count(outcome)
        return _COME_AGAIN if outcome in ("store_unavailable", "record_error") else _TAKEN

    def rejected(self, why: Rejection, client: str) -> None:
        """Count a refusal, and tell of it unless many were told already.

        Args:
            why: The reason.
            client: Where it came from.
        """
        self._count(why.value)
        self._audit(
            AuditEvent.unattended("webhook.rejected", why.value, "", principal="", details={"client": client})
        )
        now = self._clock.monotonic()
        if now - self._told_since >= TOLD_SECONDS:
            self._told_since, self._told = now, 0
        if self._told >= TOLD_REFUSALS:
            self._left_out += 1
            return
        self._told += 1
        left_out, self._left_out = self._left_out, 0
        _log.warning("webhook.rejected", reason=why.value, client=client, suppressed=left_out)

    def _signed_with(self, stamp: Stamp, body: bytes) -> bytes:
        """Give the secret that an event is signed with."""
        message = b"v0:%s:%s" % (stamp.text.encode(), body)
        for key in self._keys:
            expected = "v0=" + hmac.digest(key, message, "sha256").hex()
            if hmac.compare_digest(expected, stamp.signature):
                return key
        raise WebhookRejected(Rejection.SIGNATURE)

    def _validate_url(self, stamp: Stamp, payload: Mapping[str, Any], key: bytes) -> WebhookResponse:
        """Answer the challenge by which Zoom finds out that this is ours.

        The answer is a signature of whatever was sent. So it is given to who can sign already, and to nothing that could be part of a
        signed event: that has colons.
        """
        if abs(self._now() - stamp.time) > VALIDATION_SECONDS:
            raise WebhookRejected(Rejection.STALE)
        plain = payload.get("plainToken")
        if not isinstance(plain, str) or not _PLAIN_TOKEN.fullmatch(plain):
            raise WebhookRejected(Rejection.MALFORMED)
        encrypted = hmac.digest(key, plain.encode(), "sha256").hex()
        self._count("validated")
        return WebhookResponse(200, orjson.dumps({"plainToken": plain, "encryptedToken": encrypted}))

    async def _disconnect(self, body: bytes, zoom_user_id: str, cause: Cause, happened_at: float) -> str:
        """End the connection, once for every event; gives the outcome for the metrics."""
        try:
            if await self._events.has(body):
                return "duplicate"
            ended = await self._disconnector.disconnect_by_zoom(zoom_user_id, cause, happened_at)
        except StoreError as error:
            _log.warning("webhook.store_failed", error=type(error).__name__)
            return "store_unavailable"
        except RecordFault as error:
            _log.error("webhook.record_error", error=type(error).__name__, **error.metadata)
            return "record_error"
        try:
            await self._events.add(body)
        except StoreError:
            pass  # what is done is done; if it comes again, it finds nothing to do
        return ended.value


def _parsed(body: bytes) -> dict[str, Any]:
    """Read signed JSON; the parser has limits of its own for what is nested."""
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise WebhookRejected(Rejection.MALFORMED)
    return event


def _zoom_user_id(name: str, payload: Mapping[str, Any]) -> str:
    """Say whom an event is about."""
    about = payload.get("object")
    found = about.get("id") if isinstance(about, dict) else None
    if name == "app_deauthorized":
        found = payload.get("user_id")
    if not isinstance(found, str) or not 0 < len(found) <= _LONGEST_ID:
        raise WebhookRejected(Rejection.MALFORMED)
    return found


def _happened_at(event: Mapping[str, Any], payload: Mapping[str, Any], signed_at: float) -> float:
    """Say when it happened, in seconds since 1970: a repeated event may be signed anew, but what happened did so before."""
    for value in (payload.get("deauthorization_time"), event.get("event_ts"), payload.get("event_ts")):
        if isinstance(value, str) and _MILLISECONDS.fullmatch(value):
            return int(value) / 1000
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value / 1000  # milliseconds
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                continue
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return signed_at
