"""Tests for webhooks: events from Zoom, and requests that are not from Zoom."""

import asyncio
import gzip
import hashlib
import hmac
import io
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from support.harness import MONICA, OMAR, SECONDS, Harness, running, serving
from support.zoom_events import (
    AFTER_CONSENT,
    ENVIRON,
    PATIENT,
    SECRET,
    about_user,
    app_deauthorized,
    challenge,
    headers,
    send,
)
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.web import server, webhook_endpoint
from zoomgate_server.webhooks import receiver

HOUR = 3600.0


@pytest.fixture
def environ(store_environ: dict[str, str]) -> dict[str, str]:
    """Return settings with the webhook secret, for each store."""
    return ENVIRON | store_environ


@pytest.fixture
async def stored(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service that accepts webhooks, for each store."""
    async with running(tmp_path / "data", environ=environ, timing=PATIENT) as harness:
        yield harness


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service that accepts webhooks, with the default store."""
    async with running(tmp_path / "data", environ=ENVIRON, timing=PATIENT) as harness:
        yield harness


class LogLines:
    """The lines logged during a test."""

    def __init__(self, log: io.StringIO) -> None:
        self._log = log
        self._start = len(log.getvalue())

    @property
    def text(self) -> str:
        """The text logged since the test started."""
        return self._log.getvalue()[self._start :]

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines whose event has the given name."""
        return [row for row in map(json.loads, self.text.splitlines()) if row["event"] == event]


def audited(service: Harness, action: str) -> list[dict[str, Any]]:
    """Return the lines of the audit trail with an action."""
    rows = map(json.loads, (service.data_dir / "audit.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["action"] == action]


@pytest.fixture
def lines(log: io.StringIO) -> LogLines:
    """Return the log lines of the test."""
    return LogLines(log)


async def get_connection(zoomgate: Harness, user: str = MONICA) -> Connection:
    response = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
    connection: Connection = response.connection
    return connection


async def outcomes(zoomgate: Harness) -> dict[str, int]:
    """Return the nonzero counters of webhook outcomes."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        text = await page.text()
    rows = [row.split() for row in text.splitlines() if row.startswith("zoomgate_webhooks_total{")]
    return {name.split('"')[1]: int(float(count)) for name, count in rows if float(count)}


# -- events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "cause", "revoked"),
    [
        ("app_deauthorized", Connection.CAUSE_APP_DEAUTHORIZED, False),
        ("user.deleted", Connection.CAUSE_USER_DELETED, False),
        ("user.deactivated", Connection.CAUSE_USER_DEACTIVATED, True),
        ("user.disassociated", Connection.CAUSE_USER_DISASSOCIATED, True),
    ],
)
async def test_event_disconnects_the_user(
    zoomgate: Harness, event: str, cause: "Connection.Cause.ValueType", revoked: bool
) -> None:
    """The user is disconnected immediately, and the cause is recorded. Tokens that Zoom might still accept are revoked."""
    await zoomgate.connect(MONICA)
    await zoomgate.connect(OMAR)
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    body = app_deauthorized(MONICA) if event == "app_deauthorized" else about_user(event, MONICA)
    assert await send(zoomgate.http_url, body) == (204, b"")
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    assert rejection.reason == "ZOOM_NOT_CONNECTED"
    connection = await get_connection(zoomgate)
    assert (connection.state, connection.cause) == (Connection.STATE_DISCONNECTED, cause)
    assert (await get_connection(zoomgate, OMAR)).state == Connection.STATE_ACTIVE
    while revoked and zoomgate.stat("revoke.known") < 2:
        await asyncio.sleep(0.005)
    assert zoomgate.stat("revoke.known") == (2 if revoked else 0)
    await zoomgate.connect(MONICA)
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE


async def test_tombstone_is_stored_before_the_response(stored: Harness) -> None:
    await stored.connect()
    assert (await send(stored.http_url, app_deauthorized(MONICA)))[0] == 204
    assert (await get_connection(stored)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(stored) == {"disconnected": 1}


async def test_repeated_event_has_no_effect(stored: Harness) -> None:
    """A repeated event also has no effect after a new consent, or with a new signature."""
    await stored.connect()
    event = app_deauthorized(MONICA)
    assert (await send(stored.http_url, event))[0] == 204
    assert (await send(stored.http_url, event, time.time() + 10))[0] == 204
    await stored.connect()
    assert (await send(stored.http_url, event))[0] == 204
    assert (await get_connection(stored)).state == Connection.STATE_ACTIVE
    assert await outcomes(stored) == {"disconnected": 1, "duplicate": 2}
    rows = audited(stored, "connection.disconnected")
    assert [(row["user"], row["outcome"], row["principal"]) for row in rows] == [(MONICA, "ok", "zoom")]


@pytest.mark.parametrize("event", ["app_deauthorized", "user.deactivated"])
async def test_event_older_than_the_consent_is_ignored(stored: Harness, event: str) -> None:
    """Zoom retries events for 85 minutes. If a user has reconnected before a late event arrives, the user remains connected."""
    await stored.connect()
    before = time.time() - 1.4 * HOUR
    old = (
        app_deauthorized(MONICA, before) if event == "app_deauthorized" else about_user(event, MONICA, before)
    )
    assert (await send(stored.http_url, old, before))[0] == 204
    assert (await send(stored.http_url, old))[0] == 204
    assert (await get_connection(stored)).state == Connection.STATE_ACTIVE
    assert await outcomes(stored) == {"older_than_consent": 1, "duplicate": 1}


@pytest.mark.parametrize("seconds", [-110.0, 0.0])
@pytest.mark.parametrize("event", [app_deauthorized, partial(about_user, "user.deactivated")])
async def test_event_near_the_consent_changes_nothing_while_zoom_accepts_the_token(
    zoomgate: Harness, event: Callable[..., Any], seconds: float
) -> None:
    """The times do not show whether the user consented before or after the event."""
    await zoomgate.connect()
    assert (await send(zoomgate.http_url, event(MONICA, time.time() + seconds)))[0] == 204
    assert await outcomes(zoomgate) == {"near_consent": 1}
    connection = await get_connection(zoomgate)
    assert (connection.state, connection.generation) == (Connection.STATE_ACTIVE, 1)
    assert (zoomgate.stat("revoke.known"), zoomgate.stat("token.refresh_token.issued")) == (0, 0)


@pytest.mark.parametrize(("seconds", "outcome"), [(3.0, "disconnected"), (-3.0, "near_consent")])
async def test_event_after_the_consent_on_zooms_clock_disconnects_the_user(
    tmp_path: Path, seconds: float, outcome: str
) -> None:
    """Zoom's clock is ahead of the service's, and the user removes the app soon after the consent."""

    def wall() -> float:
        return time.time() + 60.0

    options = SimulatorOptions(port=0)
    async with (
        Simulator(options, wall=wall) as zoom,
        serving(zoom, tmp_path / "data", environ=ENVIRON, timing=PATIENT) as zoomgate,
    ):
        await zoomgate.connect()
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA, wall() + seconds)))[0] == 204
        assert await outcomes(zoomgate) == {outcome: 1}


async def test_event_near_the_consent_keeps_a_connection_whose_refresh_succeeds(zoomgate: Harness) -> None:
    """Zoom rejects the access token because it has expired, although the grant is valid."""
    await zoomgate.connect()
    zoomgate.simulator.zoom.expire(MONICA)
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA, time.time())))[0] == 204
    async with asyncio.timeout(SECONDS):
        while (await get_connection(zoomgate)).generation < 2:
            await asyncio.sleep(0.01)
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE


@pytest.mark.parametrize("kind", [str, float], ids=["string", "number"])
async def test_milliseconds_may_be_string_or_number(
    zoomgate: Harness, kind: Callable[[int], str | float]
) -> None:
    """Zoom sends some timestamps as strings and others as numbers. Both are compared with the time of the consent."""
    await zoomgate.connect()
    before = kind(int((time.time() - HOUR) * 1000))
    event = app_deauthorized(MONICA, deauthorization_time=None, event_ts=before)
    assert (await send(zoomgate.http_url, event))[0] == 204
    assert await outcomes(zoomgate) == {"older_than_consent": 1}
    after = kind(int((time.time() + AFTER_CONSENT) * 1000))
    event = app_deauthorized(MONICA, deauthorization_time=None, event_ts=after)
    assert (await send(zoomgate.http_url, event, time.time() - HOUR))[0] == 204
    assert await outcomes(zoomgate) == {"older_than_consent": 1, "disconnected": 1}


@pytest.mark.parametrize(
    "value",
    [
        rb'"Jo \ud83d"',
        rb'{"\udfff": ["\ud83d\ud83d"]}',
        b'"Jo \xf0\x9f"',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"[" * 20_000 + b"]" * 20_000,
    ],
)
async def test_unreadable_value_does_not_invalidate_a_signed_event(zoomgate: Harness, value: bytes) -> None:
    """The user is disconnected, and the repeated event is recognized."""
    await zoomgate.connect()
    event = (
        json.dumps(about_user("user.deleted", MONICA)).encode().replace(b'{"id"', b'{"x": %b, "id"' % value)
    )
    assert value in event
    for _ in range(2):
        assert await send(zoomgate.http_url, event) == (204, b"")
    assert (await get_connection(zoomgate)).cause == Connection.CAUSE_USER_DELETED
    assert await outcomes(zoomgate) == {"disconnected": 1, "duplicate": 1}


async def test_damaged_user_id_matches_no_user(zoomgate: Harness) -> None:
    await zoomgate.connect()
    event = json.dumps(about_user("user.deleted", "\ud83d")).encode()
    assert await send(zoomgate.http_url, event) == (204, b"")
    assert await outcomes(zoomgate) == {"not_connected": 1}


async def test_event_for_a_user_without_a_connection_is_accepted(zoomgate: Harness) -> None:
    """Cases: the user is unknown, or is already disconnected."""
    await zoomgate.connect()
    await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
    for event in (
        app_deauthorized("u-unknown"),
        app_deauthorized(MONICA),
        about_user("user.deleted", "\x00é"),
    ):
        assert await send(zoomgate.http_url, event) == (204, b"")
    assert await outcomes(zoomgate) == {"not_connected": 3}
    assert (await get_connection(zoomgate)).cause == Connection.CAUSE_REVOKED


async def test_other_events_are_accepted_and_ignored(zoomgate: Harness) -> None:
    await zoomgate.connect()
    for name in ("meeting.started", "user.updated", "", "x" * 1000):
        assert await send(zoomgate.http_url, about_user(name, MONICA)) == (204, b"")
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE
    assert await outcomes(zoomgate) == {"ignored": 4}


async def test_event_disconnects_a_user_who_must_consent_again(zoomgate: Harness) -> None:
    """The connection of such a user still contains tokens, although Zoom has already rejected them."""
    await zoomgate.connect()
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert (await get_connection(zoomgate)).state == Connection.STATE_REAUTH_REQUIRED
    await send(zoomgate.http_url, app_deauthorized(MONICA))
    assert (await get_connection(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_concurrent_events_in_two_services_disconnect_once(
    stored: Harness, environ: dict[str, str]
) -> None:
    """Both services accept the event, one service disconnects the user, and neither service returns the token after that."""
    async with serving(stored.simulator, stored.data_dir, environ, timing=PATIENT) as other:
        for number in range(3):
            await stored.connect()
            for each in (stored, other):
                await each.call(each.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
            event = app_deauthorized(MONICA)
            responses = await asyncio.gather(
                *(send(each.http_url, event) for each in (stored, other) for _ in range(3))
            )
            assert {status for status, _ in responses} == {204}, number
            for each in (stored, other):
                while True:
                    request = pb.GetTokenRequest(user_email=MONICA)
                    try:
                        await each.call(each.auth.GetToken, request)
                    except grpc.aio.AioRpcError:  # the error is checked below
                        break
                    await asyncio.sleep(0.01)
                assert (await each.error_of(each.auth.GetToken, request)).reason == "ZOOM_NOT_CONNECTED"
        counts = [(await outcomes(each)).get("disconnected", 0) for each in (stored, other)]
        assert sum(counts) == 3
        # services that share a SQLite file share the data directory and therefore the audit trail
        directories = {each.data_dir: each for each in (stored, other)}.values()
        assert sum(len(audited(each, "connection.disconnected")) for each in directories) == 3


# -- store failures ------------------------------------------------------------------------------------------


@contextmanager
def failing(
    zoomgate: Harness,
    method: str,
    error: type[Exception] = StoreError,
    *,
    kind: Kind = Kind.USER,
    after: bool = False,
) -> Iterator[None]:
    """Make `get` or `put` fail for records of a kind, either before or after it has performed the operation."""

    async def fail(proceed: Any, first: RecordKey | Record, *arguments: Any) -> Any:
        key = first.key if isinstance(first, Record) else first
        is_failing = key.kind is kind
        result = await proceed(first, *arguments) if after or not is_failing else None
        if is_failing:
            raise error("injected")
        return result

    with zoomgate.store.intercept(method, fail):
        yield


@pytest.mark.parametrize(
    ("method", "kind"), [("get", Kind.WEBHOOK), ("get", Kind.USER), ("put", Kind.USER)], ids=str
)
async def test_store_failure_makes_zoom_retry(zoomgate: Harness, method: str, kind: Kind) -> None:
    """The response is 503, and the retried event disconnects the user."""
    await zoomgate.connect()
    event = app_deauthorized(MONICA)
    at = time.time()
    with failing(zoomgate, method, kind=kind):
        assert (await send(zoomgate.http_url, event, at))[0] == 503
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE
    assert (await send(zoomgate.http_url, event, at))[0] == 204
    assert (await get_connection(zoomgate)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(zoomgate) == {"store_unavailable": 1, "disconnected": 1}


async def test_unconfirmed_tombstone_is_detected(zoomgate: Harness) -> None:
    """If the store writes a disconnection without confirming it, the disconnection is audited and the token is not returned."""
    await zoomgate.connect()
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    with failing(zoomgate, "put", after=True):
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 204
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    assert rejection.reason == "ZOOM_NOT_CONNECTED"
    assert (await get_connection(zoomgate)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(zoomgate) == {"disconnected": 1}
    assert len(audited(zoomgate, "connection.disconnected")) == 1


async def test_tombstone_stored_before_an_outage_remains(zoomgate: Harness) -> None:
    """The store fails after it has written the disconnection. Zoom's retry has no further effect."""
    await zoomgate.connect()
    event = app_deauthorized(MONICA)
    failed = False

    async def put_then_fail(put: Any, record: Record, if_rev: int) -> None:
        nonlocal failed
        failed = True
        await put(record, if_rev)
        raise StoreError("injected")

    async def get_or_fail(get: Any, key: RecordKey) -> Any:
        if failed:
            raise StoreError("injected")
        return await get(key)

    store = zoomgate.store
    with store.intercept("put", put_then_fail), store.intercept("get", get_or_fail):
        assert (await send(zoomgate.http_url, event))[0] == 503
    assert (await send(zoomgate.http_url, event))[0] == 204
    assert (await get_connection(zoomgate)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(zoomgate) == {"store_unavailable": 1, "not_connected": 1}


async def test_slow_store_does_not_delay_the_response(tmp_path: Path) -> None:
    """The response is 503 before Zoom's timeout of 3 seconds. The disconnection continues in the background."""
    gate = asyncio.Event()

    async def slow(put: Any, record: Record, if_rev: int) -> Any:
        await gate.wait()
        return await put(record, if_rev)

    timing = Timing(webhooks=receiver.Timing(store_timeout=0.1))
    async with running(tmp_path / "data", environ=ENVIRON, timing=timing) as zoomgate:
        await zoomgate.connect()
        event = app_deauthorized(MONICA)
        with zoomgate.store.intercept("put", slow):
            assert (await send(zoomgate.http_url, event))[0] == 503
            gate.set()
            while (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(SECONDS):
            while (status := (await send(zoomgate.http_url, event))[0]) == 503:  # a slow machine
                pass
        assert status == 204


async def test_undecryptable_connection_makes_zoom_retry(zoomgate: Harness, lines: LogLines) -> None:
    """The cause, e.g. a missing encryption key, may be corrected before Zoom's retry. The log contains the record's key, not the user."""
    await zoomgate.connect()
    store = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    record, _ = await store.find("loopback|zoomgate-dev", MONICA)
    assert record is not None
    corrupt = record.value[:-1] + bytes([record.value[-1] ^ 1])
    await store.put(
        Record(**{name: getattr(record, name) for name in record.__slots__} | {"value": corrupt}), record.rev
    )
    await store.close()
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 503
    assert await outcomes(zoomgate) == {"record_error": 1}
    (line,) = lines.of("webhook.record_error")
    assert line["record"].startswith("user/")
    assert not line.keys() & {"user", "zoom_user_id"}


# -- URL validation ------------------------------------------------------------------------------------------


async def test_validation_response_proves_the_secret(zoomgate: Harness) -> None:
    """The response contains Zoom's token and the token's HMAC, with the webhook secret as the key."""
    status, body = await send(zoomgate.http_url, challenge("qgg8vlvZRS6UYooatFL8Aw"))
    proof = hmac.new(SECRET.encode(), b"qgg8vlvZRS6UYooatFL8Aw", hashlib.sha256).hexdigest()
    assert (status, json.loads(body)) == (
        200,
        {"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": proof},
    )
    assert await outcomes(zoomgate) == {"validated": 1}


async def test_validation_cannot_be_used_to_forge_signatures(zoomgate: Harness) -> None:
    """The validation request itself must be signed, and its token must not have the format of an event's signed message."""
    now = time.time()
    event = json.dumps(app_deauthorized(MONICA))
    assert (await send(zoomgate.http_url, challenge("abc"), secret="another"))[0] == 401
    for token in (f"v0:{int(now)}:{event}", "v0:1:x", "", "a b", "a\n", "é", "a" * 129, 7, None, ["a"]):
        status, body = await send(zoomgate.http_url, challenge(token))  # type: ignore[arg-type]
        assert status == 400, token
        assert b"encrypted" not in body
    assert (await send(zoomgate.http_url, challenge("abc"), now - 301))[0] == 401
    assert (await send(zoomgate.http_url, challenge("abc"), now - 290))[0] == 200


async def test_secret_can_be_rotated_without_rejecting_events(tmp_path: Path) -> None:
    """With two secrets, events signed with either are accepted. The response to a challenge uses the secret that signed it."""
    both = {"ZOOMGATE_WEBHOOK_SECRET": f"new-hunter2@ {SECRET}"}
    async with running(tmp_path / "data", environ=both, timing=PATIENT) as zoomgate:
        for secret in ("new-hunter2@", SECRET):
            await zoomgate.connect()
            status, body = await send(zoomgate.http_url, challenge("abc"), secret=secret)
            proof = hmac.new(secret.encode(), b"abc", hashlib.sha256).hexdigest()
            assert (status, json.loads(body)["encryptedToken"]) == (200, proof)
            assert (await send(zoomgate.http_url, app_deauthorized(MONICA), secret=secret))[0] == 204
            assert (await get_connection(zoomgate)).state == Connection.STATE_DISCONNECTED
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA), secret="old"))[0] == 401


# -- rejections ----------------------------------------------------------------------------------------------

DEAUTHORIZED = json.dumps(app_deauthorized(MONICA)).encode()


@pytest.mark.parametrize(
    ("body", "changed_headers", "status", "outcome"),
    [
        (DEAUTHORIZED, {"x-zm-signature": None}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-request-timestamp": None}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-signature": "v0=" + "0" * 64}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-signature": "v0="}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-signature": "v1=" + "0" * 64}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-signature": "v0=" + "é" * 64}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-signature": "0" * 4000}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-request-timestamp": "now"}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-request-timestamp": "1" * 400}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-request-timestamp": "-1"}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"x-zm-request-timestamp": "١٢٣"}, 401, "rejected_signature"),
        (DEAUTHORIZED, {"Content-Type": "text/plain"}, 415, "rejected_content_type"),
        (DEAUTHORIZED, {"Content-Type": "application/jsonx"}, 415, "rejected_content_type"),
        (DEAUTHORIZED, {"Content-Type": "multipart/form-data; boundary=x"}, 415, "rejected_content_type"),
        (b"x" * (64 * 1024 + 1), {}, 413, "rejected_too_large"),
        (b"", {}, 400, "rejected_malformed"),
        (b"[" * 60_000, {}, 400, "rejected_malformed"),
        (b'{"a":' * 10_000, {}, 400, "rejected_malformed"),
        (b"\xff\xfe", {}, 400, "rejected_malformed"),
        (b'"\xed\xa0\x80"', {}, 400, "rejected_malformed"),
        (b"[]", {}, 400, "rejected_malformed"),
        (b"null", {}, 400, "rejected_malformed"),
        (b"{}", {}, 400, "rejected_malformed"),
        (b'{"event": 1, "payload": {}}', {}, 400, "rejected_malformed"),
        (b'{"event": "app_deauthorized", "payload": []}', {}, 400, "rejected_malformed"),
        (b'{"event": "app_deauthorized", "payload": {}}', {}, 400, "rejected_malformed"),
        (b'{"event": "app_deauthorized", "payload": {"user_id": 7}}', {}, 400, "rejected_malformed"),
        (b'{"event": "app_deauthorized", "payload": {"user_id": ""}}', {}, 400, "rejected_malformed"),
        (
            json.dumps(app_deauthorized("u" * 513)).encode(),
            {},
            400,
            "rejected_malformed",
        ),
        (b'{"event": "user.deleted", "payload": {"object": []}}', {}, 400, "rejected_malformed"),
        (
            b'{"event": "user.deleted", "payload": {"object": {"id": {"$ne": 1}}}}',
            {},
            400,
            "rejected_malformed",
        ),
        (
            json.dumps(app_deauthorized(MONICA, client_id="another")).encode(),
            {},
            403,
            "rejected_other_app",
        ),
        (json.dumps(app_deauthorized(MONICA, client_id=None)).encode(), {}, 403, "rejected_other_app"),
    ],
)
async def test_invalid_event_is_rejected(
    zoomgate: Harness, body: bytes, changed_headers: dict[str, str | None], status: int, outcome: str
) -> None:
    """The response status is 4xx, so Zoom does not retry. No connection changes. The next valid event is accepted."""
    await zoomgate.connect()
    sent = {name: value for name, value in (headers(body) | changed_headers).items() if value is not None}
    async with aiohttp.ClientSession() as session:
        url = f"{zoomgate.http_url}/webhooks/zoom"
        try:
            async with session.post(url, data=body, headers=sent, allow_redirects=False) as response:
                assert response.status == status
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            assert status == 413  # the server closed the connection without reading the whole body
    assert await outcomes(zoomgate) == {outcome: 1}
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 204


@pytest.mark.parametrize(
    "event",
    [
        {"deauthorization_time": None, "event_ts": None},
        {"deauthorization_time": "yesterday", "event_ts": "0"},
        {"deauthorization_time": [], "event_ts": {}},
        {"deauthorization_time": "9999-12-31T23:59:59Z"},
        {"deauthorization_time": 10**300, "event_ts": None},
        {"deauthorization_time": None, "event_ts": True},
        {"deauthorization_time": math.nan, "event_ts": None},
        {"deauthorization_time": math.inf, "event_ts": -math.inf},
    ],
)
async def test_event_with_an_invalid_time_uses_the_time_of_its_signature(
    zoomgate: Harness, event: dict[str, Any]
) -> None:
    await zoomgate.connect()
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA, **event), time.time() + AFTER_CONSENT))[
        0
    ] == 204
    assert (await get_connection(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_old_and_future_events_are_rejected(zoomgate: Harness) -> None:
    """Events are accepted for only two hours after their timestamp, which limits replay attacks."""
    await zoomgate.connect()
    now = time.time()
    for at in (now - 2 * HOUR - 10, now + 310, 0):
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA), at))[0] == 401
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA), now - 2 * HOUR + 30))[0] == 204
    assert (await get_connection(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_repeated_headers_are_rejected(zoomgate: Harness) -> None:
    await zoomgate.connect()
    valid = headers(DEAUTHORIZED)
    for name in ("x-zm-signature", "x-zm-request-timestamp"):
        sent = [*valid.items(), (name, valid[name])]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{zoomgate.http_url}/webhooks/zoom", data=DEAUTHORIZED, headers=sent) as response,
        ):
            assert response.status == 401
    assert (await get_connection(zoomgate)).state == Connection.STATE_ACTIVE


async def open_request(
    zoomgate: Harness, head: bytes, body_start: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the headers and the start of the body of an event, and leave the connection open."""
    host, _, port = zoomgate.http_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    event_headers = b"".join(
        b"%s: %s\r\n" % (name.encode(), value.encode()) for name, value in headers(b"x").items()
    )
    writer.write(b"POST /webhooks/zoom HTTP/1.1\r\nHost: x\r\n" + event_headers + head + b"\r\n" + body_start)
    await writer.drain()
    return reader, writer


async def test_oversized_body_is_not_read(zoomgate: Harness) -> None:
    """An oversized body is rejected based on its Content-Length, or after 64 KiB if it is chunked, and the connection is closed."""
    reader, writer = await open_request(zoomgate, b"Content-Length: 1073741824\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    reader, writer = await open_request(zoomgate, b"Transfer-Encoding: chunked\r\n")

    async def send_chunks() -> None:
        for _ in range(1024):  # far more than the capacity of the network buffers
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    with pytest.raises(ConnectionError):
        await send_chunks()
    writer.close()
    assert await outcomes(zoomgate) == {"rejected_too_large": 2}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x"])
async def test_compressed_bodies_are_not_decompressed(zoomgate: Harness, encoding: str) -> None:
    """A decompression bomb has no effect, because the body is processed exactly as sent."""
    bomb = gzip.compress(bytes(32 << 20))
    assert len(bomb) < 64 * 1024
    assert (await send(zoomgate.http_url, bomb, Content_Encoding=encoding))[0] == 400
    event = json.dumps(app_deauthorized("u-unknown")).encode()
    compressed = gzip.compress(event)
    sent = headers(event) | {"Content-Encoding": encoding}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{zoomgate.http_url}/webhooks/zoom", data=compressed, headers=sent) as response,
    ):
        assert response.status == 401  # the signature covers the uncompressed event


async def test_unexpected_error_makes_zoom_retry(zoomgate: Harness) -> None:
    """The response has status 500 instead of a redirect to an error page, so that Zoom retries."""
    await zoomgate.connect()
    event = app_deauthorized(MONICA)
    with failing(zoomgate, "get", RuntimeError):
        assert await send(zoomgate.http_url, event) == (500, b"")
    assert (await send(zoomgate.http_url, event))[0] == 204
    assert (await get_connection(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_slow_body_times_out(tmp_path: Path) -> None:
    """A body shorter than its Content-Length is rejected in time, and the connection is closed."""
    timing = Timing(web=server.Timing(webhooks=webhook_endpoint.Timing(read_timeout=0.05)))
    async with running(tmp_path / "data", environ=ENVIRON, timing=timing) as zoomgate:
        reader, writer = await open_request(zoomgate, b"Content-Length: 500\r\n", b"{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        await reader.read()  # read until the server closes the connection
        writer.close()
        assert await outcomes(zoomgate) == {"rejected_timeout": 1}


@pytest.mark.parametrize(
    ("head", "body_start"),
    [
        (b"Content-Length: 500\r\n", b"{"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n{"),
    ],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("signed", [True, False])
async def test_incomplete_body_is_counted_as_rejected(
    zoomgate: Harness, lines: LogLines, head: bytes, body_start: bytes, signed: bool
) -> None:
    """A sender that closes the connection early does not cause tracebacks in the log."""
    _, writer = await open_request(
        zoomgate, head + (b"" if signed else b"x-zm-signature: twice\r\n"), body_start
    )
    writer.close()
    async with asyncio.timeout(20):
        while not (counts := await outcomes(zoomgate)):
            await asyncio.sleep(0.005)
    assert counts == {"rejected_incomplete" if signed else "rejected_signature": 1}
    assert not lines.of("http.failed")


async def test_malformed_http_is_not_logged(zoomgate: Harness, lines: LogLines) -> None:
    """Malformed chunks are rejected with 400 and cause no warning or error in the log."""
    reader, writer = await open_request(zoomgate, b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n")
    assert b" 400 " in await reader.readline()
    await reader.read()
    writer.close()
    assert not [
        row for row in map(json.loads, lines.text.splitlines()) if row["level"] in ("warning", "error")
    ]


async def test_rejections_are_counted_but_rate_limited_in_logs(zoomgate: Harness, lines: LogLines) -> None:
    """A flood of invalid events fills neither the log nor the audit trail, and no line contains data from the requests."""
    for number in range(50):
        assert (await send(zoomgate.http_url, {"event": f"x{number}"}, secret="wrong-secret"))[0] == 401
    assert await outcomes(zoomgate) == {"rejected_signature": 50}
    rows = audited(zoomgate, "webhook.rejected")
    assert [row["outcome"] for row in rows] == ["rejected_signature"] * 30
    assert len(lines.of("webhook.rejected")) == 10
    assert "wrong-secret" not in lines.text
    assert "v0=" not in lines.text


async def test_webhooks_are_disabled_without_a_secret(tmp_path: Path, lines: LogLines) -> None:
    """The webhook path returns 404, and the log names the setting that enables webhooks."""
    async with running(tmp_path / "data") as zoomgate:
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 404
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA), secret=""))[0] == 404
    (line,) = lines.of("webhooks.disabled")
    assert line["set"] == "ZOOMGATE_WEBHOOK_SECRET"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_methods_other_than_post_are_rejected(zoomgate: Harness, method: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{zoomgate.http_url}/webhooks/zoom") as response,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "POST")


# -- processed events ----------------------------------------------------------------------------------------


async def test_processed_event_is_stored_for_three_hours(zoomgate: Harness) -> None:
    """Each event has one encrypted record with a digest as its key. The record may be deleted after three hours."""
    await zoomgate.connect()
    event = json.dumps(app_deauthorized(MONICA)).encode()
    await send(zoomgate.http_url, event)
    store = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    key = RecordKey("loopback|zoomgate-dev", Kind.WEBHOOK, hashlib.sha256(event).hexdigest())
    record, now = await store.get(key)
    await store.close()
    assert record is not None
    assert record.key_id
    assert b"Monica" not in record.value
    assert record.expire_at is not None
    assert now < record.expire_at <= now + 3 * HOUR


# -- with the Zoom simulator ---------------------------------------------------------------------------------


@pytest.fixture
async def subscribed(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service that receives the events of the Zoom simulator."""
    options = SimulatorOptions(port=0, webhook_secret=SECRET)
    async with running(tmp_path / "data", environ=ENVIRON, simulator=options, timing=PATIENT) as harness:
        harness.simulator.webhooks.url = f"{harness.http_url}/webhooks/zoom"
        yield harness


async def trigger(zoomgate: Harness, event: str, user: str = "") -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{zoomgate.simulator.url}/_sim/event", json={"event": event, "user": user}) as response,
    ):
        assert (await response.json())["sent"]


async def responses(zoomgate: Harness, count: int) -> list[str]:
    """Wait for at least `count` responses of the service to the latest event, and return all responses."""
    while True:
        latest = zoomgate.simulator.webhooks.latest()
        if latest and len(latest[0].responses) >= count:
            return latest[0].responses
        await asyncio.sleep(0.005)


async def test_events_of_the_simulator_are_accepted(subscribed: Harness) -> None:
    """The endpoint passes the validation, and removing the app in Zoom disconnects the user."""
    await subscribed.connect()
    subscribed.simulator.zoom.wall.advance(3)
    await trigger(subscribed, "endpoint.url_validation")
    assert await responses(subscribed, 1) == ["200, validated"]
    await trigger(subscribed, "app_deauthorized", MONICA)
    assert await responses(subscribed, 1) == ["204, accepted"]
    assert (await get_connection(subscribed)).cause == Connection.CAUSE_APP_DEAUTHORIZED


@pytest.mark.parametrize("reconnects", [False, True])
async def test_event_is_retried_after_a_store_failure(subscribed: Harness, reconnects: bool) -> None:
    """Zoom sends the event again after five minutes. It disconnects the user unless the user has reconnected in the meantime."""
    await subscribed.connect()
    subscribed.simulator.zoom.wall.advance(3)
    with failing(subscribed, "get"):
        await trigger(subscribed, "app_deauthorized", MONICA)
        assert await responses(subscribed, 1) == ["503, not accepted"]
    if reconnects:
        await subscribed.connect()
    subscribed.simulator.zoom.wall.advance(300)
    assert await responses(subscribed, 2) == ["503, not accepted", "204, accepted"]
    expected = Connection.STATE_ACTIVE if reconnects else Connection.STATE_DISCONNECTED
    assert (await get_connection(subscribed)).state == expected


async def test_removal_of_the_app_near_a_consent_requires_a_new_consent(
    subscribed: Harness,
) -> None:
    """Zoom rejects the access token, and a refresh confirms that the grant has ended."""
    await subscribed.connect()
    await trigger(subscribed, "app_deauthorized", MONICA)
    assert await responses(subscribed, 1) == ["204, accepted"]
    async with asyncio.timeout(SECONDS):
        while (await get_connection(subscribed)).state == Connection.STATE_ACTIVE:
            await asyncio.sleep(0.01)
    connection = await get_connection(subscribed)
    assert (connection.state, connection.cause) == (
        Connection.STATE_REAUTH_REQUIRED,
        Connection.CAUSE_REVOKED,
    )
    assert await outcomes(subscribed) == {"near_consent": 1}
    assert subscribed.stat("revoke.known") == 0
