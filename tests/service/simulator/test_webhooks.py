"""Tests for webhooks of the simulator."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from support.zoom_app import MONICA, Client, Clock
from zoom_simulator import Simulator, SimulatorOptions, testing
from zoom_simulator.webhooks import USER_EVENTS

SECRET = "zoomgate-dev-webhook-secret"
MINUTE = 60.0


class App:
    """An app that receives webhooks.

    Attributes:
        events: Headers and body of each received event.
        statuses: Statuses of the next responses; 204 when the list is empty.
        secret: The secret for responses to challenges.
        in_chunks: Whether the response to a challenge is sent in two chunks.
        may_respond: Event that is cleared to delay responses.
        url: The URL of the app.
    """

    def __init__(self) -> None:
        self.events: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.secret = SECRET
        self.in_chunks = False
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.url = ""

    async def receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.events.append((dict(request.headers), body))
        await self.may_respond.wait()
        event = json.loads(body)
        if event["event"] == "endpoint.url_validation":
            plain = event["payload"]["plainToken"]
            secret = hmac.new(self.secret.encode(), plain.encode(), hashlib.sha256).hexdigest()
            response = web.json_response({"plainToken": plain, "encryptedToken": secret})
            return await self._respond_in_chunks(request, response) if self.in_chunks else response
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)

    async def _respond_in_chunks(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """Send the first part of a response, and the rest 50 ms later."""
        payload = response.body
        assert isinstance(payload, bytes)
        chunked = web.StreamResponse(headers={"Content-Type": "application/json"})
        await chunked.prepare(request)
        await chunked.write(payload[:20])
        await asyncio.sleep(0.05)
        await chunked.write(payload[20:])
        return chunked

    def event(self, number: int = -1) -> dict[str, Any]:
        """Return a received event after verifying its signature."""
        headers, body = self.events[number]
        message = b"v0:" + headers["x-zm-request-timestamp"].encode() + b":" + body
        digest = hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()
        assert headers["x-zm-signature"] == f"v0={digest}"
        assert headers["Content-Type"].startswith("application/json")
        result: dict[str, Any] = json.loads(body)
        return result


@pytest.fixture
async def app() -> AsyncIterator[App]:
    receiver = App()
    web_app = web.Application()
    web_app.router.add_post("/hook", receiver.receive)
    runner = web.AppRunner(web_app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def client(clock: Clock, app: App) -> AsyncIterator[Client]:
    """Return a client of a simulator in which a user has consented."""
    async with (
        Simulator(SimulatorOptions(port=0, webhook_url=app.url), wall=clock) as simulator,
        aiohttp.ClientSession() as session,
    ):
        connected = Client(simulator, session)
        await connected.consent()
        yield connected


async def responses(client: Client, count: int, event: str = "") -> list[str]:
    """Wait for a number of responses to the latest event, optionally with a given event name, and return the responses."""
    while True:
        async with client.session.get(f"{client.simulator.url}/_sim/webhooks") as page:
            result = [row for row in await page.json() if event in ("", row["event"])]
        if result and len(result[0]["responses"]) >= count:
            texts: list[str] = result[0]["responses"]
            return texts
        await asyncio.sleep(0.01)


async def test_app_removal_revokes_the_grant_and_sends_a_signed_event(
    client: Client, app: App, clock: Clock
) -> None:
    """The event's timestamps are not affected by advances of the simulator's clock."""
    clock.now += 7.25
    client.simulator.zoom.wall.advance(9 * MINUTE)
    response = await client.sim("event", event="app_deauthorized", user=MONICA)
    assert response == {"ok": True, "sent": True}
    assert await responses(client, 1) == ["204, accepted"]
    event = app.event()
    assert event["event"] == "app_deauthorized"
    assert event["payload"] | {"signature": ""} == {
        "account_id": "acc-North-Harbour",
        "user_id": "u-Monica-7Yc1",
        "client_id": "zoomgate-dev",
        "deauthorization_time": "2030-03-17T17:55:47.250Z",
        "event_ts": "2030-03-17 17:55:47",
        "signature": "",
    }
    assert app.events[0][0]["x-zm-request-timestamp"] == str(int(clock.now))
    assert (await client.api("GET", "/users/me"))[0] == 401
    assert "no active grant" in (await client.sim("event", event="app_deauthorized", user=MONICA))["error"]


@pytest.mark.parametrize("name", USER_EVENTS)
async def test_user_events_are_sent_and_applied(client: Client, app: App, clock: Clock, name: str) -> None:
    """A deleted or deactivated user loses account and grant; a disassociated user retains both."""
    await client.sim("event", event=name, user=MONICA)
    await responses(client, 1)
    event = app.event()
    assert (event["event"], event["event_ts"]) == (name, int(clock.now * 1000))
    assert event["payload"]["object"]["id"] == "u-Monica-7Yc1"
    remains = name == "user.disassociated"
    assert ((await client.api("GET", "/users/me"))[0] == 200) == remains
    assert (
        "error" in await client.sim("authorize", user=MONICA, redirect_uri="http://127.0.0.1/")
    ) != remains


@pytest.mark.parametrize("status", [500, 503])
async def test_server_errors_are_retried_with_zooms_delays(
    client: Client, app: App, clock: Clock, status: int
) -> None:
    """The event is retried after 5, 20 and 60 minutes with the same signature."""
    app.statuses = [status] * 4
    await client.sim("event", event="app_deauthorized", user=MONICA)
    assert await responses(client, 1) == [f"{status}, not accepted"]
    for count, minutes in enumerate((5, 20, 60), 2):
        clock.now += minutes * MINUTE - 1
        await client.sim(
            "event", event="endpoint.url_validation"
        )  # a retry that was already due would arrive before this event
        await responses(client, 1)
        assert sum(b"deauthorized" in body for _, body in app.events) == count - 1
        client.simulator.zoom.wall.advance(1.0)
        while sum(b"deauthorized" in body for _, body in app.events) < count:
            await asyncio.sleep(0.01)
        client.simulator.webhooks._deliveries.pop()
    assert len({body for _, body in app.events if b"deauthorized" in body}) == 1
    assert await responses(client, 4, "app_deauthorized") == [f"{status}, not accepted"] * 4
    client.simulator.zoom.wall.advance(86_400)
    await client.sim("event", event="endpoint.url_validation")
    await responses(client, 1)
    assert sum(b"deauthorized" in body for _, body in app.events) == 4


async def test_retry_delay_starts_when_the_event_is_sent(client: Client, app: App) -> None:
    """If the clock is advanced before the response arrives, the retry is not postponed."""
    app.statuses = [503]
    app.may_respond.clear()
    await client.sim("event", event="app_deauthorized", user=MONICA)
    while not app.events:
        await asyncio.sleep(0.01)
    client.simulator.zoom.wall.advance(5 * MINUTE)
    app.may_respond.set()
    assert await responses(client, 2) == ["503, not accepted", "204, accepted"]


@pytest.mark.parametrize("status", [400, 401, 404, 302])
async def test_client_errors_and_redirects_are_not_retried(client: Client, app: App, status: int) -> None:
    app.statuses = [status]
    await client.sim("event", event="app_deauthorized", user=MONICA)
    assert await responses(client, 1) == [f"{status}, not accepted"]
    (delivery,) = client.simulator.webhooks.latest()
    assert delivery.due is None


async def test_unreachable_app_is_retried(client: Client, app: App) -> None:
    url, client.simulator.webhooks.url = app.url, "http://127.0.0.1:1/hook"
    await client.sim("event", event="app_deauthorized", user=MONICA)
    assert (await responses(client, 1))[0].startswith("no response: ")
    client.simulator.webhooks.url = url
    client.simulator.zoom.wall.advance(5 * MINUTE)
    assert (await responses(client, 2))[1] == "204, accepted"


async def test_url_validation_checks_the_response(client: Client, app: App) -> None:
    """The challenge is signed, and a response computed with the wrong secret is not accepted."""
    await client.sim("event", event="endpoint.url_validation")
    assert await responses(client, 1) == ["200, validated"]
    assert re.fullmatch(r"[\w-]{10,100}", app.event()["payload"]["plainToken"])
    app.in_chunks = True
    await client.sim("event", event="endpoint.url_validation")
    assert await responses(client, 1) == ["200, validated"]
    app.secret = "another secret"
    await client.sim("event", event="endpoint.url_validation")
    assert await responses(client, 1) == ["200, not validated"]


async def test_button_on_the_page_triggers_an_event(client: Client, app: App) -> None:
    """The browser returns to the list of webhooks; a form from a different site is rejected."""
    page_url = f"{client.simulator.url}/_sim/"
    async with client.session.get(page_url) as response:
        page = await response.text()
    assert (
        page.count("Remove the app") == 2
    )  # the text and the aria-label of one button, because only one user is connected
    form = {"user": MONICA, "event": "app_deauthorized"}
    for site in ("cross-site", "same-site", "none"):
        async with client.session.post(
            f"{page_url}event", data=form, headers={"Sec-Fetch-Site": site}, allow_redirects=False
        ) as response:
            assert response.status == 403
    async with client.session.post(f"{page_url}event", data=form, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/_sim/#webhooks")
    await responses(client, 1)
    async with client.session.get(page_url) as response:
        page = await response.text()
    assert "204, accepted" in page
    assert "Remove the app" not in page


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "event must be one of app_deauthorized, "),
        ({"event": "meeting.started", "user": MONICA}, "event must be"),
        ({"event": ["app_deauthorized"], "user": MONICA}, "event must be"),
        ({"event": "user.deleted", "user": "unknown@example.com"}, "/_sim/users"),
        ({"event": "user.deleted"}, "email address of an existing user"),
        ({"event": "app_deauthorized", "user": "omar@example.com"}, "connect the user first"),
    ],
)
async def test_invalid_event_is_rejected(client: Client, app: App, body: dict[str, Any], word: str) -> None:
    """The error states what is required, and no webhook is sent."""
    assert word in (await client.sim("event", **body))["error"]
    assert client.simulator.webhooks.latest() == []


async def test_event_without_webhook_url_is_applied_but_not_sent(client: Client, app: App) -> None:
    """The simulator's response reports that no event was sent. A reset also deletes pending retries."""
    app.statuses = [503]
    await client.sim("event", event="user.disassociated", user=MONICA)
    await responses(client, 1)
    await client.sim("reset")
    assert client.simulator.webhooks.latest() == []
    await client.consent()
    client.simulator.webhooks.url = ""
    assert await client.sim("event", event="app_deauthorized", user=MONICA) == {"ok": True, "sent": False}
    assert (await client.api("GET", "/users/me"))[0] == 401


def test_fixture_triggers_events() -> None:
    """The fixture works from other threads, and raises errors for invalid arguments."""
    with testing.running(SimulatorOptions(port=0)) as zoom:
        zoom.connect(MONICA)
        zoom.trigger_event("app_deauthorized", MONICA)
        for event, email, error in (
            ("app_deauthorized", MONICA, ValueError),
            ("meeting.started", MONICA, ValueError),
            ("user.deleted", "unknown@example.com", KeyError),
        ):
            with pytest.raises(error):
                zoom.trigger_event(event, email)
