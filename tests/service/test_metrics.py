"""What `/metrics` tells of the store and of refreshes."""

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from support.harness import MONICA, SECONDS, Harness, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.count_gauge import COUNT_SECONDS, ConnectionCountGauge
from zoomgate_server.connections.refresh import refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import TokenOutcome


async def shown(zoomgate: Harness, name: str) -> float:
    """The value of a metric."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        assert page.status == 200
        found = re.search(rf"^{re.escape(name)} (\S+)$", await page.text(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def test_failures_of_the_store_are_counted(zoomgate: Harness) -> None:
    """A store that fails is seen in the metrics, which go on being served and tell the last count of the connections."""
    await zoomgate.connect()
    active = 'zoomgate_connections{state="ACTIVE"}'
    assert await shown(zoomgate, active) == 1
    before = await shown(zoomgate, "zoomgate_store_errors_total")
    Path(zoomgate.data_dir / "zoomgate.db").unlink()
    refusal = await zoomgate.refusal(
        zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA), "admin"
    )
    assert refusal.reason == "STORE_UNAVAILABLE"
    assert before == 0
    assert await shown(zoomgate, "zoomgate_store_errors_total") >= 1
    assert await shown(zoomgate, active) == 1


async def test_many_callers_of_one_person_share_a_look_at_the_store(tmp_path: Path) -> None:
    """Calls that come while somebody reads a person's token do not read it again."""
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path) as before:
            await before.connect()
        async with serving(zoom, tmp_path) as after:
            wanted = auth.GetTokenRequest(user_email=MONICA)
            answers = await asyncio.gather(*(after.call(after.auth.GetToken, wanted) for _ in range(90)))
            assert {answer.token.generation for answer in answers} == {1}
            assert await shown(after, "zoomgate_store_reads_total") < 45


async def test_a_refresh_under_way_has_an_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Zoom has not answered a refresh, its age is shown and grows; once its outcome is stored there is none."""
    answered, real = asyncio.Event(), OAuthClient.refresh

    async def refresh(self: OAuthClient, refresh_token: str) -> TokenOutcome:
        outcome = await real(self, refresh_token)
        await answered.wait()
        return outcome

    monkeypatch.setattr(refresher, "AGE_SECONDS", 0.05)
    monkeypatch.setattr(OAuthClient, "refresh", refresh)
    age = "zoomgate_oldest_pending_attempt_seconds"
    async with running(tmp_path) as zoomgate, asyncio.timeout(SECONDS):
        await zoomgate.connect()
        assert await shown(zoomgate, age) == 0
        refreshing = asyncio.create_task(
            zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
        )
        while not (young := await shown(zoomgate, age)):
            await asyncio.sleep(0.01)
        while await shown(zoomgate, age) <= young:
            await asyncio.sleep(0.01)
        answered.set()
        assert (await refreshing).token.generation == 2
        while await shown(zoomgate, age):
            await asyncio.sleep(0.01)


class SteppingClock(SystemClock):
    """A clock that a test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def test_connections_are_not_counted_for_every_look() -> None:
    """Between two counts of the store are 15 seconds, however often somebody asks for the metrics."""
    clock, metrics = SteppingClock(), Metrics("1", [])
    store = MemoryStore(clock.wall)
    envelope = Envelope(
        app="app", keys=KeyRing([Key(key_id="01020304", secret=bytes(range(32)), primary=True)])
    )
    connections = ConnectionRepository(
        app="app", store=store, envelope=envelope, clock=clock, on_read=metrics.store_read
    )
    counts = ConnectionCountGauge(connections, clock, metrics)
    seen = []
    for step in (0.0, COUNT_SECONDS - 1, 1.0):
        clock.now += step
        await counts.update()
        found = re.search(
            r'^zoomgate_connections{state="ACTIVE"} (\S+)$', metrics.render().decode(), re.MULTILINE
        )
        assert found is not None
        seen.append(float(found[1]))
        await store.put(Record(RecordKey("app", Kind.USER, f"{step}@example.com"), b"", state="ACTIVE"), 0)
    assert seen == [0, 0, 2]
