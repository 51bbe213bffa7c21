"""What the simulated Zoom tells an app by itself, and how often."""

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
    """An app that is told.

    Attributes:
        heard: Headers and body of every event.
        statuses: What it answers next; 204 when there is nothing left.
        proof: Gives its answer to a challenge.
        in_parts: Whether that answer comes in two parts.
        answers: Cleared while it keeps its answers back.
        url: Where it listens.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.proof = SECRET
        self.in_parts = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.heard.append((dict(request.headers), body))
        await self.answers.wait()
        event = json.loads(body)
        if event["event"] == "endpoint.url_validation":
            plain = event["payload"]["plainToken"]
            proof = hmac.new(self.proof.encode(), plain.encode(), hashlib.sha256).hexdigest()
            answer = web.json_response({"plainToken": plain, "encryptedToken": proof})
            return await self._in_parts(request, answer) if self.in_parts else answer
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)

    async def _in_parts(self, request: web.Request, answer: web.Response) -> web.StreamResponse:
        """Give the beginning of an answer, and the rest a moment later."""
        whole = answer.body
        assert isinstance(whole, bytes)
        parts = web.StreamResponse(headers={"Content-Type": "application/json"})
        await parts.prepare(request)
        await parts.write(whole[:20])
        await asyncio.sleep(0.05)
        await parts.write(whole[20:])
        return parts

    def event(self, number: int = -1) -> dict[str, Any]:
        """An event, whose signature is checked."""
        headers, body = self.heard[number]
        message = b"v0:" + headers["x-zm-request-timestamp"].encode() + b":" + body
        wanted = hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()
        assert headers["x-zm-signature"] == f"v0={wanted}"
        assert headers["Content-Type"].startswith("application/json")
        found: dict[str, Any] = json.loads(body)
        return found


@pytest.fixture
async def app() -> AsyncIterator[App]:
    made = App()
    served = web.Application()
    served.router.add_post("/hook", made.take)
    runner = web.AppRunner(served)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(clock: Clock, app: App) -> AsyncIterator[Client]:
    """An app whose user has consented."""
    async with (
        Simulator(SimulatorOptions(port=0, webhook_url=app.url), wall=clock) as simulator,
        aiohttp.ClientSession() as session,
    ):
        made = Client(simulator, session)
        await made.consent()
        yield made


async def answers(client: Client, count: int, event: str = "") -> list[str]:
    """What the app answered to the latest event, or to the latest of a name, once there is so much."""
    while True:
        async with client.session.get(f"{client.simulator.url}/_sim/webhooks") as page:
            found = [row for row in await page.json() if event in ("", row["event"])]
        if found and len(found[0]["answers"]) >= count:
            told: list[str] = found[0]["answers"]
            return told
        await asyncio.sleep(0.01)


async def test_a_removed_app_is_told(client: Client, app: App, clock: Clock) -> None:
    """The grant is gone, and the app hears who removed it, signed with its secret at the time of the clock that is followed."""
    clock.now += 7.25
    client.simulator.zoom.wall.advance(9 * MINUTE)
    answer = await client.sim("event", event="app_deauthorized", user=MONICA)
    assert answer == {"ok": True, "told": True}
    assert await answers(client, 1) == ["204, taken"]
    event = app.event()
    assert event["event"] == "app_deauthorized"
    assert event["payload"] | {"signature": ""} == {
        "account_id": "acc-North-Harbour",
        "user_id": "u-Monica-7Yc1",
        "client_id": "zoomgate-dev",
        "deauthorization_time": "2030-03-17T17:46:47.250Z",
        "event_ts": "2030-03-17 17:46:47",
        "signature": "",
    }
    assert app.heard[0][0]["x-zm-request-timestamp"] == str(int(clock.now))
    assert (await client.api("GET", "/users/me"))[0] == 401
    assert "granted nothing" in (await client.sim("event", event="app_deauthorized", user=MONICA))["error"]


@pytest.mark.parametrize("name", USER_EVENTS)
async def test_what_happens_to_a_user_is_told(client: Client, app: App, clock: Clock, name: str) -> None:
    """Who is deleted or deactivated has no account and no grant any more; who leaves the account keeps both."""
    await client.sim("event", event=name, user=MONICA)
    await answers(client, 1)
    event = app.event()
    assert (event["event"], event["event_ts"]) == (name, int(clock.now * 1000))
    assert event["payload"]["object"]["id"] == "u-Monica-7Yc1"
    stays = name == "user.disassociated"
    assert ((await client.api("GET", "/users/me"))[0] == 200) == stays
    assert ("error" in await client.sim("authorize", user=MONICA, redirect_uri="http://127.0.0.1/")) != stays


@pytest.mark.parametrize("status", [500, 503])
async def test_what_failed_is_told_again_as_zoom_does(
    client: Client, app: App, clock: Clock, status: int
) -> None:
    """After 5, then 20, then 60 minutes, with the same signature; after that never again."""
    app.statuses = [status] * 4
    await client.sim("event", event="app_deauthorized", user=MONICA)
    assert await answers(client, 1) == [f"{status}, not taken"]
    for count, minutes in enumerate((5, 20, 60), 2):
        clock.now += minutes * MINUTE - 1
        await client.sim("event", event="endpoint.url_validation")  # proves that the other one was not due
        await answers(client, 1)
        assert sum(b"deauthorized" in body for _, body in app.heard) == count - 1
        client.simulator.zoom.wall.advance(1.0)
        while sum(b"deauthorized" in body for _, body in app.heard) < count:
            await asyncio.sleep(0.01)
        client.simulator.webhooks._deliveries.pop()
    assert len({body for _, body in app.heard if b"deauthorized" in body}) == 1
    assert await answers(client, 4, "app_deauthorized") == [f"{status}, not taken"] * 4
    client.simulator.zoom.wall.advance(86_400)
    await client.sim("event", event="endpoint.url_validation")
    await answers(client, 1)
    assert sum(b"deauthorized" in body for _, body in app.heard) == 4


async def test_the_time_until_it_is_told_again_counts_from_its_sending(client: Client, app: App) -> None:
    """Whoever moves the clock before the answer has come does not move what is due."""
    app.statuses = [503]
    app.answers.clear()
    await client.sim("event", event="app_deauthorized", user=MONICA)
    while not app.heard:
        await asyncio.sleep(0.01)
    client.simulator.zoom.wall.advance(5 * MINUTE)
    app.answers.set()
    assert await answers(client, 2) == ["503, not taken", "204, taken"]


@pytest.mark.parametrize("status", [400, 401, 404, 302])
async def test_what_was_refused_is_not_told_again(client: Client, app: App, status: int) -> None:
    """4xx and 3xx are final."""
    app.statuses = [status]
    await client.sim("event", event="app_deauthorized", user=MONICA)
    assert await answers(client, 1) == [f"{status}, not taken"]
    (delivery,) = client.simulator.webhooks.latest()
    assert delivery.due is None


async def test_an_app_that_is_not_there_is_told_later(client: Client, app: App) -> None:
    """No answer is like 5xx."""
    there, client.simulator.webhooks.url = app.url, "http://127.0.0.1:1/hook"
    await client.sim("event", event="app_deauthorized", user=MONICA)
    assert (await answers(client, 1))[0].startswith("no answer: ")
    client.simulator.webhooks.url = there
    client.simulator.zoom.wall.advance(5 * MINUTE)
    assert (await answers(client, 2))[1] == "204, taken"


async def test_an_endpoint_proves_that_it_knows_the_secret(client: Client, app: App) -> None:
    """A challenge is signed too, and its answer is checked."""
    await client.sim("event", event="endpoint.url_validation")
    assert await answers(client, 1) == ["200, validated"]
    assert re.fullmatch(r"[\w-]{10,100}", app.event()["payload"]["plainToken"])
    app.in_parts = True
    await client.sim("event", event="endpoint.url_validation")
    assert await answers(client, 1) == ["200, validated"]
    app.proof = "another secret"
    await client.sim("event", event="endpoint.url_validation")
    assert await answers(client, 1) == ["200, not validated"]


async def test_the_page_lets_it_happen(client: Client, app: App) -> None:
    """A button removes the app and leads back to what was told; the same form of another site does nothing."""
    page_url = f"{client.simulator.url}/_sim/"
    async with client.session.get(page_url) as answer:
        page = await answer.text()
    assert page.count("Remove the app") == 2  # its text and its label, for the one user who is connected
    form = {"user": MONICA, "event": "app_deauthorized"}
    for site in ("cross-site", "same-site", "none"):
        async with client.session.post(
            f"{page_url}event", data=form, headers={"Sec-Fetch-Site": site}, allow_redirects=False
        ) as answer:
            assert answer.status == 400
    async with client.session.post(f"{page_url}event", data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/_sim/#webhooks")
    await answers(client, 1)
    async with client.session.get(page_url) as answer:
        page = await answer.text()
    assert "204, taken" in page
    assert "Remove the app" not in page


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "event must be one of app_deauthorized, "),
        ({"event": "meeting.started", "user": MONICA}, "event must be"),
        ({"event": ["app_deauthorized"], "user": MONICA}, "event must be"),
        ({"event": "user.deleted", "user": "nobody@example.com"}, "/_sim/users"),
        ({"event": "user.deleted"}, "name the e-mail address"),
        ({"event": "app_deauthorized", "user": "omar@example.com"}, "connect first"),
    ],
)
async def test_what_cannot_happen_is_refused(
    client: Client, app: App, body: dict[str, Any], word: str
) -> None:
    """With what to write instead, and nobody is told."""
    assert word in (await client.sim("event", **body))["error"]
    assert client.simulator.webhooks.latest() == []


async def test_without_an_address_nobody_is_told(client: Client, app: App) -> None:
    """It happens all the same, and is said so; after a reset nothing is left to be told."""
    app.statuses = [503]
    await client.sim("event", event="user.disassociated", user=MONICA)
    await answers(client, 1)
    await client.sim("reset")
    assert client.simulator.webhooks.latest() == []
    await client.consent()
    client.simulator.webhooks.url = ""
    assert await client.sim("event", event="app_deauthorized", user=MONICA) == {"ok": True, "told": False}
    assert (await client.api("GET", "/users/me"))[0] == 401


def test_tests_of_other_people_let_it_happen() -> None:
    """From a thread of theirs; what cannot be is an error there."""
    with testing.running(SimulatorOptions(port=0)) as zoom:
        zoom.connect(MONICA)
        zoom.happen("app_deauthorized", MONICA)
        for event, email, error in (
            ("app_deauthorized", MONICA, ValueError),
            ("meeting.started", MONICA, ValueError),
            ("user.deleted", "nobody@example.com", KeyError),
        ):
            with pytest.raises(error):
                zoom.happen(event, email)
