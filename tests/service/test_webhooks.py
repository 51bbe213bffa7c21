"""What Zoom tells by webhooks, and what somebody else would like to tell."""

import asyncio
import gzip
import hashlib
import hmac
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from support.harness import MONICA, OMAR, SECONDS, Harness, running, serving
from support.zoom_events import ENVIRON, SECRET, about_user, app_deauthorized, challenge, headers, send
from zoom_simulator import SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.web import webhook_endpoint as reading
from zoomgate_server.webhooks import receiver as taking

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zoom is not asked to come again because this machine is slow."""
    monkeypatch.setattr(taking, "SETTLE_SECONDS", SECONDS)
    monkeypatch.setattr(reading, "READ_SECONDS", SECONDS)


@pytest.fixture
def environ(store_environ: dict[str, str]) -> dict[str, str]:
    """Settings with the secret, and with a store of either kind."""
    return ENVIRON | store_environ


@pytest.fixture
async def stored(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Harness]:
    """A service that listens, on either store."""
    async with running(tmp_path / "data", environ=environ) as harness:
        yield harness


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """A service that listens."""
    async with running(tmp_path / "data", environ=ENVIRON) as harness:
        yield harness


class Lines:
    """The log of this test."""

    def __init__(self, log: io.StringIO) -> None:
        self._log = log
        self._start = len(log.getvalue())

    @property
    def text(self) -> str:
        """What was logged since the test began."""
        return self._log.getvalue()[self._start :]

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event."""
        return [row for row in map(json.loads, self.text.splitlines()) if row["event"] == event]


def audited(service: Harness, action: str) -> list[dict[str, Any]]:
    """The audit trail's lines of an action."""
    rows = map(json.loads, (service.data_dir / "audit.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["action"] == action]


@pytest.fixture
def lines(log: io.StringIO) -> Lines:
    """The log of this test."""
    return Lines(log)


async def show(zoomgate: Harness, user: str = MONICA) -> Connection:
    answer = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
    found: Connection = answer.connection
    return found


async def outcomes(zoomgate: Harness) -> dict[str, int]:
    """What was counted, without zeros."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        text = await page.text()
    rows = [row.split() for row in text.splitlines() if row.startswith("zoomgate_webhooks_total{")]
    return {name.split('"')[1]: int(float(count)) for name, count in rows if float(count)}


# -- what Zoom tells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "cause", "revoked"),
    [
        ("app_deauthorized", Connection.CAUSE_APP_DEAUTHORIZED, False),
        ("user.deleted", Connection.CAUSE_USER_DELETED, False),
        ("user.deactivated", Connection.CAUSE_USER_DEACTIVATED, True),
        ("user.disassociated", Connection.CAUSE_USER_DISASSOCIATED, True),
    ],
)
async def test_who_is_gone_at_zoom_is_disconnected(
    zoomgate: Harness, event: str, cause: "Connection.Cause.ValueType", revoked: bool
) -> None:
    """The connection ends at once, says why, and serves nothing; what might live on at Zoom is revoked there. Others stay."""
    await zoomgate.connect(MONICA)
    await zoomgate.connect(OMAR)
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    told = app_deauthorized(MONICA) if event == "app_deauthorized" else about_user(event, MONICA)
    assert await send(zoomgate.http_url, told) == (204, b"")
    refused = await zoomgate.refusal(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    assert refused.reason == "ZOOM_NOT_CONNECTED"
    ended = await show(zoomgate)
    assert (ended.state, ended.cause) == (Connection.STATE_DISCONNECTED, cause)
    assert (await show(zoomgate, OMAR)).state == Connection.STATE_ACTIVE
    while revoked and zoomgate.stat("revoke.known") < 2:
        await asyncio.sleep(0.005)
    assert zoomgate.stat("revoke.known") == (2 if revoked else 0)
    await zoomgate.connect(MONICA)
    assert (await show(zoomgate)).state == Connection.STATE_ACTIVE


async def test_the_tokens_are_out_of_the_store_when_zoom_hears(stored: Harness) -> None:
    """On either store: the answer comes after the tombstone."""
    await stored.connect()
    assert (await send(stored.http_url, app_deauthorized(MONICA)))[0] == 204
    assert (await show(stored)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(stored) == {"ended": 1}


async def test_an_event_that_comes_again_does_nothing(stored: Harness) -> None:
    """Not while nothing has changed, not after a new consent, and not if it is signed anew."""
    await stored.connect()
    event = app_deauthorized(MONICA)
    assert (await send(stored.http_url, event))[0] == 204
    assert (await send(stored.http_url, event, time.time() + 10))[0] == 204
    await stored.connect()
    assert (await send(stored.http_url, event))[0] == 204
    assert (await show(stored)).state == Connection.STATE_ACTIVE
    assert await outcomes(stored) == {"ended": 1, "duplicate": 2}
    told = audited(stored, "connection.disconnected")
    assert [(row["user"], row["outcome"], row["principal"]) for row in told] == [(MONICA, "ok", "zoom")]


@pytest.mark.parametrize("event", ["app_deauthorized", "user.deactivated"])
async def test_an_event_older_than_the_consent_is_ignored(stored: Harness, event: str) -> None:
    """Who removed the app and connected again before the event came stays connected: Zoom repeats for 85 minutes."""
    await stored.connect()
    before = time.time() - 1.4 * HOUR
    old = (
        app_deauthorized(MONICA, before) if event == "app_deauthorized" else about_user(event, MONICA, before)
    )
    assert (await send(stored.http_url, old, before))[0] == 204
    assert (await send(stored.http_url, old))[0] == 204
    assert (await show(stored)).state == Connection.STATE_ACTIVE
    assert await outcomes(stored) == {"older_than_consent": 1, "duplicate": 1}


@pytest.mark.parametrize("kind", [str, float], ids=["text", "number"])
async def test_milliseconds_may_be_written_in_any_way(
    zoomgate: Harness, kind: Callable[[int], str | float]
) -> None:
    """Zoom writes some of them as text: an event from before the consent is ignored, one from after it ends the connection."""
    await zoomgate.connect()
    before = kind(int((time.time() - HOUR) * 1000))
    told = app_deauthorized(MONICA, deauthorization_time=None, event_ts=before)
    assert (await send(zoomgate.http_url, told))[0] == 204
    assert await outcomes(zoomgate) == {"older_than_consent": 1}
    after = kind(int((time.time() + 60) * 1000))
    told = app_deauthorized(MONICA, deauthorization_time=None, event_ts=after)
    assert (await send(zoomgate.http_url, told, time.time() - HOUR))[0] == 204
    assert await outcomes(zoomgate) == {"older_than_consent": 1, "ended": 1}


async def test_whom_nobody_knows_is_no_mistake(zoomgate: Harness) -> None:
    """An event about somebody unknown, or whose connection has ended, is taken."""
    await zoomgate.connect()
    await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
    for event in (
        app_deauthorized("u-nobody"),
        app_deauthorized(MONICA),
        about_user("user.deleted", "\x00é"),
    ):
        assert await send(zoomgate.http_url, event) == (204, b"")
    assert await outcomes(zoomgate) == {"not_connected": 3}
    assert (await show(zoomgate)).cause == Connection.CAUSE_REVOKED


async def test_other_events_are_taken_and_ignored(zoomgate: Harness) -> None:
    """Whatever else the app is subscribed to changes nothing."""
    await zoomgate.connect()
    for name in ("meeting.started", "user.updated", "", "x" * 1000):
        assert await send(zoomgate.http_url, about_user(name, MONICA)) == (204, b"")
    assert (await show(zoomgate)).state == Connection.STATE_ACTIVE
    assert await outcomes(zoomgate) == {"ignored": 4}


async def test_who_has_to_consent_again_is_disconnected_too(zoomgate: Harness) -> None:
    """A connection that Zoom has refused already still held tokens."""
    await zoomgate.connect()
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    assert (await show(zoomgate)).state == Connection.STATE_REAUTH_REQUIRED
    await send(zoomgate.http_url, app_deauthorized(MONICA))
    assert (await show(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_two_services_that_hear_at_once_end_it_once(stored: Harness, environ: dict[str, str]) -> None:
    """Both answer that it is taken, one of them ends the connection, and neither serves the token any more."""
    async with serving(stored.simulator, stored.data_dir, environ) as other:
        for number in range(3):
            await stored.connect()
            for each in (stored, other):
                await each.call(each.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
            event = app_deauthorized(MONICA)
            answers = await asyncio.gather(
                *(send(each.http_url, event) for each in (stored, other) for _ in range(3))
            )
            assert {status for status, _ in answers} == {204}, number
            for each in (stored, other):
                while True:
                    request = pb.GetTokenRequest(user_email=MONICA)
                    try:
                        await each.call(each.auth.GetToken, request)
                    except grpc.aio.AioRpcError:  # the refusal below says which
                        break
                    await asyncio.sleep(0.01)
                assert (await each.refusal(each.auth.GetToken, request)).reason == "ZOOM_NOT_CONNECTED"
        ended = [(await outcomes(each)).get("ended", 0) for each in (stored, other)]
        assert sum(ended) == 3
        # services over one file have one folder, and so one trail
        folders = {each.data_dir: each for each in (stored, other)}.values()
        assert sum(len(audited(each, "connection.disconnected")) for each in folders) == 3


# -- a store that fails --------------------------------------------------------------------------------------


@asynccontextmanager
async def failing(
    monkeypatch: pytest.MonkeyPatch, method: str, *, after: bool = False
) -> AsyncIterator[None]:
    """Let a method of the SQLite store fail, before or after it took effect."""
    real = getattr(SqliteStore, method)

    async def fails(self: SqliteStore, *arguments: Any, **named: Any) -> Any:
        if after:
            await real(self, *arguments, **named)
        raise StoreError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, method, fails)
        yield


@pytest.mark.parametrize("method", ["get", "find", "put"])
async def test_a_store_that_is_down_makes_zoom_come_again(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Zoom hears 503, which it repeats, and the repeated event ends the connection."""
    await zoomgate.connect()
    event = app_deauthorized(MONICA)
    at = time.time()
    async with failing(monkeypatch, method):
        assert (await send(zoomgate.http_url, event, at))[0] == 503
    assert (await show(zoomgate)).state == Connection.STATE_ACTIVE
    assert (await send(zoomgate.http_url, event, at))[0] == 204
    assert (await show(zoomgate)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(zoomgate) == {"store_unavailable": 1, "ended": 1}


async def test_an_end_that_was_stored_without_an_answer_is_noticed(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store took the tombstone and did not confirm it: it is looked for, told in the audit trail, and the token is not served."""
    await zoomgate.connect()
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    async with failing(monkeypatch, "put", after=True):
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 204
    refused = await zoomgate.refusal(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
    assert refused.reason == "ZOOM_NOT_CONNECTED"
    assert (await show(zoomgate)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(zoomgate) == {"ended": 1}
    assert len(audited(zoomgate, "connection.disconnected")) == 1


async def test_an_end_that_was_stored_before_an_outage_stays(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store took the tombstone and failed then altogether: Zoom comes again, and finds it done."""
    await zoomgate.connect()
    event = app_deauthorized(MONICA)
    put, get = SqliteStore.put, SqliteStore.get
    failed = False

    async def fails_after(self: SqliteStore, record: Record, if_rev: int) -> int | None:
        nonlocal failed
        failed = True
        await put(self, record, if_rev)
        raise StoreError("injected")

    async def fails_then(self: SqliteStore, key: RecordKey) -> tuple[Record | None, float]:
        if failed:
            raise StoreError("injected")
        return await get(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "put", fails_after)
        patch.setattr(SqliteStore, "get", fails_then)
        assert (await send(zoomgate.http_url, event))[0] == 503
    assert (await send(zoomgate.http_url, event))[0] == 204
    assert (await show(zoomgate)).cause == Connection.CAUSE_APP_DEAUTHORIZED
    assert await outcomes(zoomgate) == {"store_unavailable": 1, "not_connected": 1}


async def test_a_store_that_is_slow_does_not_keep_zoom_waiting(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zoom is told to come again before its 3 seconds are over; the end goes on, and is there when it does."""
    await zoomgate.connect()
    gate = asyncio.Event()
    real = SqliteStore.put

    async def slow(self: SqliteStore, record: Record, if_rev: int) -> int | None:
        await gate.wait()
        return await real(self, record, if_rev)

    monkeypatch.setattr(taking, "SETTLE_SECONDS", 0.05)
    event = app_deauthorized(MONICA)
    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "put", slow)
        assert (await send(zoomgate.http_url, event))[0] == 503
        gate.set()
        while (await show(zoomgate)).state == Connection.STATE_ACTIVE:
            await asyncio.sleep(0.005)
    monkeypatch.setattr(taking, "SETTLE_SECONDS", SECONDS)
    assert (await send(zoomgate.http_url, event))[0] == 204


async def test_a_connection_that_cannot_be_opened_makes_zoom_come_again(
    zoomgate: Harness, lines: Lines
) -> None:
    """A missing key may be put back; the log names the record and not the person."""
    await zoomgate.connect()
    store = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    found, _ = await store.find("loopback|zoomgate-dev", "u-Monica-7Yc1")
    assert found is not None
    broken = found.value[:-1] + bytes([found.value[-1] ^ 1])
    await store.put(
        Record(**{name: getattr(found, name) for name in found.__slots__} | {"value": broken}), found.rev
    )
    await store.close()
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 503
    assert await outcomes(zoomgate) == {"record_error": 1}
    (told,) = lines.of("webhook.record_error")
    assert told["record"].startswith("user/")
    assert not told.keys() & {"user", "zoom_user_id"}


# -- the challenge -------------------------------------------------------------------------------------------


async def test_the_challenge_is_answered(zoomgate: Harness) -> None:
    """Zoom gets its token back, and the proof that we know the secret."""
    status, body = await send(zoomgate.http_url, challenge("qgg8vlvZRS6UYooatFL8Aw"))
    proof = hmac.new(SECRET.encode(), b"qgg8vlvZRS6UYooatFL8Aw", hashlib.sha256).hexdigest()
    assert (status, json.loads(body)) == (
        200,
        {"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": proof},
    )
    assert await outcomes(zoomgate) == {"validated": 1}


async def test_the_challenge_signs_nothing_for_strangers(zoomgate: Harness) -> None:
    """No answer without a signature, and none that could be the signature of an event."""
    now = time.time()
    event = json.dumps(app_deauthorized(MONICA))
    assert (await send(zoomgate.http_url, challenge("abc"), secret="another"))[0] == 401
    for token in (f"v0:{int(now)}:{event}", "v0:1:x", "", "a b", "a\n", "é", "a" * 129, 7, None, ["a"]):
        status, body = await send(zoomgate.http_url, challenge(token))  # type: ignore[arg-type]
        assert status == 400, token
        assert b"encrypted" not in body
    assert (await send(zoomgate.http_url, challenge("abc"), now - 301))[0] == 401
    assert (await send(zoomgate.http_url, challenge("abc"), now - 290))[0] == 200


async def test_a_new_secret_takes_over_without_a_gap(tmp_path: Path) -> None:
    """With two secrets an event of either is believed, and a challenge is answered with the one that signed it."""
    both = {"ZOOMGATE_WEBHOOK_SECRET": f"new-hunter2@ {SECRET}"}
    async with running(tmp_path / "data", environ=both) as zoomgate:
        for secret in ("new-hunter2@", SECRET):
            await zoomgate.connect()
            status, body = await send(zoomgate.http_url, challenge("abc"), secret=secret)
            proof = hmac.new(secret.encode(), b"abc", hashlib.sha256).hexdigest()
            assert (status, json.loads(body)["encryptedToken"]) == (200, proof)
            assert (await send(zoomgate.http_url, app_deauthorized(MONICA), secret=secret))[0] == 204
            assert (await show(zoomgate)).state == Connection.STATE_DISCONNECTED
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA), secret="old"))[0] == 401


# -- what is refused -----------------------------------------------------------------------------------------

DEAUTHORIZED = json.dumps(app_deauthorized(MONICA)).encode()


@pytest.mark.parametrize(
    ("body", "changed", "status", "outcome"),
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
async def test_what_is_no_event_of_ours_is_refused(
    zoomgate: Harness, body: bytes, changed: dict[str, str | None], status: int, outcome: str
) -> None:
    """Garbage gets 4xx, which nobody repeats, and changes nothing; the next event is taken."""
    await zoomgate.connect()
    sent = {name: value for name, value in (headers(body) | changed).items() if value is not None}
    async with aiohttp.ClientSession() as session:
        url = f"{zoomgate.http_url}/webhooks/zoom"
        try:
            async with session.post(url, data=body, headers=sent, allow_redirects=False) as answer:
                assert answer.status == status
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            assert status == 413  # what came after the answer was not read
    assert await outcomes(zoomgate) == {outcome: 1}
    assert (await show(zoomgate)).state == Connection.STATE_ACTIVE
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
    ],
)
async def test_an_event_with_an_odd_time_is_as_old_as_its_signature(
    zoomgate: Harness, event: dict[str, Any]
) -> None:
    """A time that cannot be read crashes nothing, and the connection ends."""
    await zoomgate.connect()
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA, **event), time.time() + 5))[0] == 204
    assert (await show(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_old_events_and_those_of_the_future_are_refused(zoomgate: Harness) -> None:
    """An event is accepted for two hours, so that what somebody recorded is worth nothing later."""
    await zoomgate.connect()
    now = time.time()
    for at in (now - 2 * HOUR - 10, now + 310, 0):
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA), at))[0] == 401
    assert (await show(zoomgate)).state == Connection.STATE_ACTIVE
    assert (await send(zoomgate.http_url, app_deauthorized(MONICA), now - 2 * HOUR + 30))[0] == 204
    assert (await show(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_doubled_headers_are_refused(zoomgate: Harness) -> None:
    """Of two signatures or times none is believed."""
    await zoomgate.connect()
    mine = headers(DEAUTHORIZED)
    for name in ("x-zm-signature", "x-zm-request-timestamp"):
        sent = [*mine.items(), (name, mine[name])]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{zoomgate.http_url}/webhooks/zoom", data=DEAUTHORIZED, headers=sent) as answer,
        ):
            assert answer.status == 401
    assert (await show(zoomgate)).state == Connection.STATE_ACTIVE


async def raw(
    zoomgate: Harness, head: bytes, more: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send bytes to the HTTP server, the headers of an event among them, and leave the connection open."""
    host, _, port = zoomgate.http_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    named = b"".join(b"%s: %s\r\n" % (name.encode(), value.encode()) for name, value in headers(b"x").items())
    writer.write(b"POST /webhooks/zoom HTTP/1.1\r\nHost: x\r\n" + named + head + b"\r\n" + more)
    await writer.drain()
    return reader, writer


async def test_a_huge_body_is_not_read(zoomgate: Harness) -> None:
    """Who announces a gigabyte, or sends one in pieces without saying so, is refused after 64 KiB and cut off."""
    reader, writer = await raw(zoomgate, b"Content-Length: 1073741824\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    reader, writer = await raw(zoomgate, b"Transfer-Encoding: chunked\r\n")

    async def pour() -> None:
        for _ in range(1024):  # far more than the buffers on the way hold
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    with pytest.raises(ConnectionError):
        await pour()
    writer.close()
    assert await outcomes(zoomgate) == {"rejected_too_large": 2}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x"])
async def test_nothing_is_unpacked(zoomgate: Harness, encoding: str) -> None:
    """What says that it is compressed is taken as the bytes that came: a bomb stays as small as it is."""
    bomb = gzip.compress(bytes(32 << 20))
    assert len(bomb) < 64 * 1024
    assert (await send(zoomgate.http_url, bomb, Content_Encoding=encoding))[0] == 400
    event = json.dumps(app_deauthorized("u-nobody")).encode()
    packed = gzip.compress(event)
    sent = headers(event) | {"Content-Encoding": encoding}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{zoomgate.http_url}/webhooks/zoom", data=packed, headers=sent) as answer,
    ):
        assert answer.status == 401  # the signature is of what was packed


async def test_a_defect_makes_zoom_come_again(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong is told as 500, which Zoom repeats, and not as a page for people."""

    async def fails(*_: Any) -> None:
        raise RuntimeError("injected")

    await zoomgate.connect()
    event = app_deauthorized(MONICA)
    with monkeypatch.context() as patch:
        patch.setattr(Disconnector, "disconnect_by_zoom", fails)
        assert await send(zoomgate.http_url, event) == (500, b"")
    assert (await send(zoomgate.http_url, event))[0] == 204
    assert (await show(zoomgate)).state == Connection.STATE_DISCONNECTED


async def test_a_body_that_drips_is_cut(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not send what they announced is refused in time, and the connection is closed."""
    monkeypatch.setattr(reading, "READ_SECONDS", 0.05)
    reader, writer = await raw(zoomgate, b"Content-Length: 500\r\n", b"{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    await reader.read()  # to its end
    writer.close()
    assert await outcomes(zoomgate) == {"rejected_timeout": 1}


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"Content-Length: 500\r\n", b"{"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n{"),
    ],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("signed", [True, False])
async def test_a_body_that_is_cut_off_is_no_defect(
    zoomgate: Harness, lines: Lines, head: bytes, more: bytes, signed: bool
) -> None:
    """Who leaves in the middle is one more who is refused: they are counted so, and fill no log with traces."""
    _, writer = await raw(zoomgate, head + (b"" if signed else b"x-zm-signature: twice\r\n"), more)
    writer.close()
    async with asyncio.timeout(20):
        while not (counted := await outcomes(zoomgate)):
            await asyncio.sleep(0.005)
    assert counted == {"rejected_incomplete" if signed else "rejected_signature": 1}
    assert not lines.of("http.failed")


async def test_what_is_no_http_fills_no_log(zoomgate: Harness, lines: Lines) -> None:
    """Whoever sends chunks that are none is answered 400, and leaves no trace of a defect behind."""
    reader, writer = await raw(zoomgate, b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n")
    assert b" 400 " in await reader.readline()
    await reader.read()
    writer.close()
    assert not [
        row for row in map(json.loads, lines.text.splitlines()) if row["level"] in ("warning", "error")
    ]


async def test_many_refusals_are_counted_and_few_are_told(zoomgate: Harness, lines: Lines) -> None:
    """A flood of garbage fills neither the log nor the audit trail, and no line has anything of what was sent."""
    for number in range(50):
        assert (await send(zoomgate.http_url, {"event": f"x{number}"}, secret="wrong-secret"))[0] == 401
    assert await outcomes(zoomgate) == {"rejected_signature": 50}
    told = audited(zoomgate, "webhook.rejected")
    assert [row["outcome"] for row in told] == ["rejected_signature"] * 30
    assert len(lines.of("webhook.rejected")) == 10
    assert "wrong-secret" not in lines.text
    assert "v0=" not in lines.text


async def test_without_a_secret_nothing_is_listened_to(tmp_path: Path, lines: Lines) -> None:
    """The path is unknown then, and the start says how to change that."""
    async with running(tmp_path / "data") as zoomgate:
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA)))[0] == 404
        assert (await send(zoomgate.http_url, app_deauthorized(MONICA), secret=""))[0] == 404
    (told,) = lines.of("webhooks.disabled")
    assert told["set"] == "ZOOMGATE_WEBHOOK_SECRET"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_other_methods_are_refused(zoomgate: Harness, method: str) -> None:
    """Events are posted."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{zoomgate.http_url}/webhooks/zoom") as answer,
    ):
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


# -- what is remembered --------------------------------------------------------------------------------------


async def test_what_was_dealt_with_is_forgotten_in_time(zoomgate: Harness) -> None:
    """One sealed record an event, with a digest for its name, that may be deleted after three hours."""
    await zoomgate.connect()
    event = json.dumps(app_deauthorized(MONICA)).encode()
    await send(zoomgate.http_url, event)
    store = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    key = RecordKey("loopback|zoomgate-dev", Kind.WEBHOOK, hashlib.sha256(event).hexdigest())
    found, now = await store.get(key)
    await store.close()
    assert found is not None
    assert found.key_id
    assert b"Monica" not in found.value
    assert found.expire_at is not None
    assert now < found.expire_at <= now + 3 * HOUR


# -- with the simulated Zoom ---------------------------------------------------------------------------------


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Harness]:
    """A service to which the simulated Zoom tells what happens."""
    options = SimulatorOptions(port=0, webhook_secret=SECRET)
    async with running(tmp_path / "data", environ=ENVIRON, simulator=options) as harness:
        harness.simulator.webhooks.url = f"{harness.http_url}/webhooks/zoom"
        yield harness


async def happen(zoomgate: Harness, event: str, user: str = "") -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{zoomgate.simulator.url}/_sim/event", json={"event": event, "user": user}) as answer,
    ):
        assert (await answer.json())["told"]


async def answers(zoomgate: Harness, count: int) -> list[str]:
    """What the service answered to the latest event, once there is so much."""
    while True:
        latest = zoomgate.simulator.webhooks.latest()
        if latest and len(latest[0].responses) >= count:
            return latest[0].responses
        await asyncio.sleep(0.005)


async def test_zoom_tells_the_service(told: Harness) -> None:
    """A challenge is proved, and an app that was removed at Zoom is disconnected here."""
    await told.connect()
    await happen(told, "endpoint.url_validation")
    assert await answers(told, 1) == ["200, validated"]
    await happen(told, "app_deauthorized", MONICA)
    assert await answers(told, 1) == ["204, accepted"]
    assert (await show(told)).cause == Connection.CAUSE_APP_DEAUTHORIZED


async def test_what_the_store_missed_comes_again(told: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five minutes later Zoom tells it once more, and then it holds; who has connected meanwhile stays connected."""
    for connects_again in (False, True):
        await told.connect()
        async with failing(monkeypatch, "find"):
            await happen(told, "app_deauthorized", MONICA)
            assert await answers(told, 1) == ["503, not accepted"]
        if connects_again:
            await told.connect()
        told.simulator.zoom.wall.advance(300)
        assert await answers(told, 2) == ["503, not accepted", "204, accepted"]
        assert ((await show(told)).state == Connection.STATE_ACTIVE) == connects_again
