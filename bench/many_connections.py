"""Benchmark of a store of 100,000 connections: listing in pages, and re-encryption under a different key."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.process_stats import memory_kib
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.sqlite import SqliteStore

CONNECTIONS = 100_000
_COLUMNS = "app, kind, subject, value, rev, state, key_id, user_email, changed_at, due_at, expire_at"


@dataclass(frozen=True)
class Listing:
    """The result of listing all connections.

    Attributes:
        seconds: Duration of `zoomgate connections list --json`.
        rows: Number of printed connections.
        command_mib: Peak memory of the command.
        service_mib: Growth of the service's memory.
    """

    seconds: float
    rows: int
    command_mib: float
    service_mib: float


def fill(data_dir: Path, app: str) -> None:
    """Add the connections to the store of a data directory in which a service has run."""
    asyncio.run(_create_store(data_dir))
    envelope = Envelope(app=app, keys=key_file.load(data_dir / "keys.json"))
    now = time.time()

    def rows() -> "list[tuple[object, ...]]":
        result: list[tuple[object, ...]] = []
        for number in range(CONNECTIONS):
            pair = TokenPair("a" * 600, "r" * 600, "user:read:user", now + 3600, now)
            record = connection_record.encode(
                envelope,
                ConnectionRecord(
                    zoom_user_id=f"z{number:06}",
                    user_email=f"user{number:06}@example.com",
                    state=State.ACTIVE,
                    grant="g",
                    generation=1,
                    create_time=now,
                    consent_time=now,
                    update_time=now - 3600,
                    refresh_time=now,
                    access_expire_at=now + 3600,
                    tokens=pair,
                    zoom_account_id="acc",
                ),
            )
            key = record.key
            result.append((app, key.kind.value, key.subject, record.value, number + 1_000, record.state))
            result[-1] += (record.key_id, record.user_email, record.changed_at, None, None)
        return result

    with sqlite3.connect(data_dir / "zoomgate.db") as connection:
        placeholders = ", ".join("?" * 11)
        connection.executemany(f"INSERT INTO record ({_COLUMNS}) VALUES ({placeholders})", rows())  # noqa: S608
        connection.execute("UPDATE revision SET last = last + ?", (CONNECTIONS + 1_000,))
    connection.close()


async def _create_store(data_dir: Path) -> None:
    store = await SqliteStore.open(data_dir / "zoomgate.db", time.time)
    await store.close()


def list_all(address: str, key: str, service: int) -> Listing:
    """List all connections through a service with the process ID `service`."""
    before, started = memory_kib(service), time.perf_counter()
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    command = [zoomgate, "connections", "list", "--json", "--server", address]
    rows, peak = 0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"ZOOMGATE_KEY": key}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            rows += b"userEmail" in line
            if rows % 1_000 == 1:
                peak = max(peak, memory_kib(process.pid, "VmHWM"))
    seconds = time.perf_counter() - started
    assert process.returncode == 0
    return Listing(seconds, rows, peak / 1024, (memory_kib(service) - before) / 1024)


def reencrypt(environ: dict[str, str]) -> float:
    """Re-encrypt every record under a new key, and return the records per second."""
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    started = time.perf_counter()
    finished = subprocess.run(
        [zoomgate, "keys", "rotate", "--now", "--json"], env=environ, check=True, capture_output=True
    )
    assert finished.stdout
    json.loads(finished.stdout.splitlines()[-1])
    return CONNECTIONS / (time.perf_counter() - started)
