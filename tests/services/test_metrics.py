"""What `/metrics` tells of the store."""

import re
from pathlib import Path

import aiohttp

from harness import MONICA, Harness
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.clock import SystemClock
from zoomgate_server.connection_counts import COUNT_SECONDS, ConnectionCounts
from zoomgate_server.metrics import Metrics
from zoomgate_server.tokens.cipher import Key, KeyRing
from zoomgate_server.tokens.connection_store import ConnectionStore
from zoomgate_server.tokens.memory import MemoryStore
from zoomgate_server.tokens.store import Kind, Record, RecordKey
from zoomgate_server.tokens.vault import Vault


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


class SteppingClock(SystemClock):
    """A clock that a test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def test_connections_are_not_counted_for_every_look() -> None:
    """Between two counts of the store are 15 seconds, however often somebody asks for the metrics."""
    clock, metrics = SteppingClock(), Metrics("1", [])
    store = MemoryStore(clock.wall)
    vault = Vault(app="app", keys=KeyRing([Key(key_id="01020304", secret=bytes(range(32)), primary=True)]))
    connections = ConnectionStore(
        app="app", store=store, vault=vault, clock=clock, on_read=metrics.store_read
    )
    counts = ConnectionCounts(connections, clock, metrics)
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
