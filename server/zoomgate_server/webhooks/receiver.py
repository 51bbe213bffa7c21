"""Verification and processing of Zoom webhooks.

Zoom signs every event (https://developers.zoom.us/docs/api/webhooks/#verify-with-zooms-header). A body is parsed only after its signature
has been verified. Zoom retries an event after 5, 25 and 85 minutes, but only after a 5xx status or no response. Store failures
therefore return 5xx, and events that can never succeed return 4xx.
"""

import asyncio
import contextlib
import hmac
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, get_args

import orjson

from zoomgate_server.audit.event import Actor, AuditEvent, AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.connections.lifecycle.ending import EventOutcome
from zoomgate_server.connections.record import Cause
from zoomgate_server.errors import RecordFault
from zoomgate_server.secret import Secret
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.webhooks.seen_events import SeenEvents
from zoomgate_server.zoom import tolerant_json

PATH = "/webhooks/zoom"

MAX_BODY = 64 * 1024
"""The maximum size of an event in bytes. Zoom's events have a few hundred bytes."""

ACCEPTED_SECONDS = 2 * 3600.0
"""The maximum age of an event. Zoom retries for 85 minutes, possibly with the original timestamp."""

AHEAD_SECONDS = 300.0
"""The maximum time that Zoom's clock may be ahead of the store's clock."""

VALIDATION_SECONDS = 300.0
"""The maximum age of a URL validation challenge. Zoom sends a new challenge for each validation."""

MAX_LOGGED_REJECTIONS, LOG_WINDOW_SECONDS = 10, 60.0
"""The maximum number of rejections logged per window. The metrics count all rejections."""

_SIGNATURE = re.compile(r"v0=[0-9a-f]{64}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_MILLISECONDS = re.compile(r"[0-9]{11,15}", re.ASCII)
"""Pattern of a timestamp in milliseconds. It must be tried before ISO formats, because the digits could also be parsed as an ISO date."""

_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_JSON = re.compile(r"application/json\s*(;.*)?", re.ASCII | re.IGNORECASE)
_MAX_ID_LENGTH = 512
_CAUSES = {
    "app_deauthorized": Cause.APP_DEAUTHORIZED,
    "user.deleted": Cause.USER_DELETED,
    "user.deactivated": Cause.USER_DEACTIVATED,
    "user.disassociated": Cause.USER_DISASSOCIATED,
}
_log = logs.get("zoomgate.webhooks")


class Rejection(StrEnum):
    """The reason for rejecting an event, as used in metrics and the audit trail."""

    CONTENT_TYPE = "rejected_content_type"
    SIGNATURE = "rejected_signature"
    STALE = "rejected_stale"
    TOO_LARGE = "rejected_too_large"
    TIMEOUT = "rejected_timeout"
    INCOMPLETE = "rejected_incomplete"
    MALFORMED = "rejected_malformed"
    OTHER_APP = "rejected_other_app"


_Outcome = Literal["ignored", "validated", "duplicate", "store_unavailable", "record_error"]
OUTCOMES = (*EventOutcome, *Rejection, *get_args(_Outcome))
"""All outcomes of events, as used in metrics."""

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
    """Rejection of an event that cannot succeed on retry."""

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.status = _STATUSES[reason]


@dataclass(frozen=True, slots=True)
class SignatureHeaders:
    """The signature headers of an event, not yet verified.

    Attributes:
        text: The timestamp exactly as sent; the signature covers this text.
        time: The timestamp in seconds since 1970.
        signature: `v0=` and 64 hex digits.
    """

    text: str
    time: float
    signature: str


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The HTTP response to Zoom; the body is JSON or empty."""

    status: int
    body: bytes = b""


_ACCEPTED = WebhookResponse(204)
_RETRY_LATER = WebhookResponse(503)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the webhook receiver, in seconds.

    Attributes:
        store_timeout: Maximum time to wait for the store before returning 503. Zoom waits 3 seconds in total for the response.
    """

    store_timeout: float = 1.0


class WebhookReceiver:
    """Receiver of Zoom's events that disconnects the affected users.

    Args:
        secrets: The app's webhook secret tokens, newest first; empty to disable webhooks.
        now: Returns the store's current time in seconds since 1970.
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
        count: Callable[[_Outcome | EventOutcome | Rejection], None],
        audit: AuditSink,
        timing: Timing = Timing(),
    ) -> None:
        self._keys = [secret.reveal().encode() for secret in secrets]
        self._client_id = client_id
        self._disconnector = disconnector
        self._events = events
        self._now = now
        self._clock = clock
        self._count = count
        self._audit = audit
        self._timing = timing
        self._window_start = -math.inf
        self._logged = self._suppressed = 0

    @property
    def is_enabled(self) -> bool:
        """Whether a secret for verifying signatures is configured."""
        return bool(self._keys)

    def stamp(
        self, content_type: str, timestamps: Sequence[str], signatures: Sequence[str]
    ) -> SignatureHeaders:
        """Check the headers of an event before its body is read.

        Raises:
            WebhookRejected: A header is missing, repeated or malformed, or the timestamp is out of range.
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
        return SignatureHeaders(text, float(text), signature)

    async def receive(self, stamp: SignatureHeaders, body: bytes) -> WebhookResponse:
        """Verify an event and process it.

        Args:
            body: The body exactly as sent, at most `MAX_BODY` bytes.

        Raises:
            WebhookRejected: The signature is wrong, or the event is malformed, stale, or for a different app.
        """
        key = self._signing_key(stamp, body)
        try:
            event = tolerant_json.loads(body)
            name, payload = event["event"], event["payload"]
        except (ValueError, TypeError, KeyError):
            raise WebhookRejected(Rejection.MALFORMED) from None
        if not isinstance(name, str) or not isinstance(payload, dict):
            raise WebhookRejected(Rejection.MALFORMED)
        if name == "endpoint.url_validation":
            return self._validate_url(stamp, payload, key)
        if payload.get("client_id", self._client_id) != self._client_id:
            raise WebhookRejected(Rejection.OTHER_APP)
        cause = _CAUSES.get(name)
        if cause is None:
            self._count("ignored")
            return _ACCEPTED
        zoom_user_id = _zoom_user_id(name, payload)
        happened_at = _happened_at(event, payload, stamp.time)
        # in the background, so that it also completes if Zoom closes the connection
        task = self._disconnector.tasks.spawn(self._disconnect(body, zoom_user_id, cause, happened_at))
        await asyncio.wait({task}, timeout=self._timing.store_timeout)
        if task.done():
            outcome = task.result()
        else:
            _log.warning("webhook.store_failed", problem="the store did not respond in time")
            outcome = "store_unavailable"
        self._count(outcome)
        return _RETRY_LATER if outcome in ("store_unavailable", "record_error") else _ACCEPTED

    def record_rejection(self, reason: Rejection, client: str) -> None:
        """Count and audit a rejected event, and log it unless many were logged recently."""
        self._count(reason)
        self._audit(AuditEvent("webhook.rejected", reason.value, "", Actor(), details={"client": client}))
        now = self._clock.monotonic()
        if now - self._window_start >= LOG_WINDOW_SECONDS:
            self._window_start, self._logged = now, 0
        if self._logged >= MAX_LOGGED_REJECTIONS:
            self._suppressed += 1
            return
        self._logged += 1
        suppressed, self._suppressed = self._suppressed, 0
        _log.warning("webhook.rejected", reason=reason.value, client=client, suppressed=suppressed)

    def _signing_key(self, stamp: SignatureHeaders, body: bytes) -> bytes:
        """Return the secret with which an event was signed."""
        message = b"v0:%s:%s" % (stamp.text.encode(), body)
        for key in self._keys:
            expected = "v0=" + hmac.digest(key, message, "sha256").hex()
            if hmac.compare_digest(expected, stamp.signature):
                return key
        raise WebhookRejected(Rejection.SIGNATURE)

    def _validate_url(
        self, stamp: SignatureHeaders, payload: Mapping[str, Any], key: bytes
    ) -> WebhookResponse:
        """Return the response to a challenge, with which Zoom validates the endpoint.

        The response contains a signature of a string chosen by the sender, so the request itself must be signed. The string must not
        contain a colon: the signed message of an event always contains one, so the response can never be used as the signature of an event.
        """
        if abs(self._now() - stamp.time) > VALIDATION_SECONDS:
            raise WebhookRejected(Rejection.STALE)
        plain = payload.get("plainToken")
        if not isinstance(plain, str) or not _PLAIN_TOKEN.fullmatch(plain):
            raise WebhookRejected(Rejection.MALFORMED)
        encrypted = hmac.digest(key, plain.encode(), "sha256").hex()
        self._count("validated")
        return WebhookResponse(200, orjson.dumps({"plainToken": plain, "encryptedToken": encrypted}))

    async def _disconnect(
        self, body: bytes, zoom_user_id: str, cause: Cause, happened_at: float
    ) -> _Outcome | EventOutcome:
        """Disconnect the user once per event, and return the outcome for the metrics."""
        try:
            if await self._events.has(body):
                return "duplicate"
            outcome = await self._disconnector.disconnect_by_zoom(zoom_user_id, cause, happened_at)
        except StoreError as error:
            _log.warning("webhook.store_failed", problem=str(error))
            return "store_unavailable"
        except RecordFault as error:
            _log.error("webhook.record_error", error=type(error).__name__, **error.metadata)
            return "record_error"
        # if this fails, a retried event has no further effect, because the user is already disconnected
        with contextlib.suppress(StoreError):
            await self._events.add(body)
        return outcome


def _zoom_user_id(name: str, payload: Mapping[str, Any]) -> str:
    """Return the Zoom user ID of the affected user."""
    user = payload.get("object")
    user_id = user.get("id") if isinstance(user, dict) else None
    if name == "app_deauthorized":
        user_id = payload.get("user_id")
    if not isinstance(user_id, str) or not 0 < len(user_id) <= _MAX_ID_LENGTH:
        raise WebhookRejected(Rejection.MALFORMED)
    return user_id


def _happened_at(event: Mapping[str, Any], payload: Mapping[str, Any], signed_at: float) -> float:
    """Return the time of the event in seconds since 1970.

    The event's own time is preferred, because Zoom may sign a retried event with a later time.
    """
    for value in (payload.get("deauthorization_time"), event.get("event_ts"), payload.get("event_ts")):
        if isinstance(value, str) and _MILLISECONDS.fullmatch(value):
            return int(value) / 1000
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value / 1000  # milliseconds
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                continue
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return signed_at
