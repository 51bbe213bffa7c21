"""Benchmark of a large store: start, idle service, list, watch, pruning and re-encryption.

Run `python -m bench.many_connections [CONNECTIONS] [sqlite|mongodb]`.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from bench import concurrent_refresh
from bench.process_stats import memory_kib, processor_seconds
from bench.server_process import server
from zoomgate_server.cli.caller_key import digest, new_key
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.mongodb import RECORDS, MongoStore, _document
from zoomgate_server.storage.record_store import Record
from zoomgate_server.storage.sqlite import SqliteStore

CONNECTIONS = 100_000
SCOPE = " ".join(f"meeting:read:scope{number}" for number in range(24))
"""Zoom's apps often have dozens of scopes, which are the same for all users of an app."""

CLIENT_ID = "zoomgate-dev"
ZOOMGATE = str(Path(sys.executable).with_name("zoomgate"))
IDLE_SECONDS = 60
DAY = 24 * 3600.0
_BATCH = 1_000


@dataclass(frozen=True)
class Listing:
    """The result of a command that prints all connections.

    Attributes:
        seconds: Duration of the command, or of a watch until it is synced.
        rows: Number of printed connections.
        command_mib: Peak memory of the command.
        service_mib: Growth of the service's memory.
    """

    seconds: float
    rows: int
    command_mib: float
    service_mib: float

    def __str__(self) -> str:
        return (
            f"{self.rows:,} in {self.seconds:.1f} s, {self.command_mib:.0f} MiB in the command,"
            f" {self.service_mib:.0f} MiB of growth in the service"
        )


def active_users(count: int) -> Iterator[str]:
    """Yield the email addresses of the first users whose tokens are valid."""
    numbers = (number for number in itertools.count() if number % 100 not in (1, 2))
    return (f"user{number:07}@example.com" for number in itertools.islice(numbers, count))


def records(envelope: Envelope, count: int) -> Iterator[Record]:
    """Yield encrypted connections. One in a hundred needs a new consent, and one in a hundred is an expired tombstone."""
    now = time.time()
    pair = TokenPair("a" * 600, "r" * 600, SCOPE, now + 3600, now)
    for number in range(count):
        active = ConnectionRecord(
            zoom_user_id=f"z{number:07}",
            user_email=f"user{number:07}@example.com",
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
            due_at=now + 50 * DAY,
        )
        match number % 100:
            case 1:
                connection = replace(active, state=State.REAUTH_REQUIRED, due_at=None)
            case 2:
                connection = replace(
                    active, state=State.DISCONNECTED, tokens=None, due_at=None, expire_at=now - DAY
                )
            case _:
                connection = active
        yield connection_record.encode(envelope, connection)


def fill(data_dir: Path, app: str, count: int = CONNECTIONS) -> None:
    """Add connections to the SQLite store of a data directory in which a service has run."""
    asyncio.run(_create_store(data_dir))
    envelope = Envelope(app=app, keys=key_file.load(data_dir / "keys.json"))
    rows: Iterator[tuple[Any, ...]] = (
        (*astuple(record.key), value, 1, *columns)
        for record in records(envelope, count)
        for value, *columns in [record.columns().values()]
    )
    with sqlite3.connect(data_dir / "zoomgate.db") as connection:
        connection.executemany(f"INSERT INTO record VALUES ({', '.join('?' * 11)})", rows)  # noqa: S608 - placeholders only
        connection.execute("UPDATE revision SET last = last + 1")
    connection.close()


async def _create_store(data_dir: Path) -> None:
    store = await SqliteStore.open(data_dir / "zoomgate.db", time.time)
    await store.close()


def fill_mongodb(uri: str, keys: Path, app: str, count: int) -> None:
    """Add connections to a MongoDB store."""

    async def create_indexes() -> None:
        await (await MongoStore.open(uri)).close()

    asyncio.run(create_indexes())
    documents = (
        _document(record, 1) for record in records(Envelope(app=app, keys=key_file.load(keys)), count)
    )
    with MongoClient[dict[str, Any]](uri) as client:
        collection = client.get_default_database()[RECORDS]
        while batch := list(itertools.islice(documents, _BATCH)):
            collection.insert_many(batch, ordered=False)


def list_all(address: str, key: str, service: int, *options: str) -> Listing:
    """List connections through a service with the process ID `service`."""
    return _printed(["connections", "list", "--json", *options], address, key, service)


def watch_all(address: str, key: str, service: int) -> Listing:
    """Watch all connections until all existing ones are printed."""
    return _printed(["connections", "watch", "--json"], address, key, service)


def _printed(command: list[str], address: str, key: str, service: int) -> Listing:
    before, started = memory_kib(service), time.perf_counter()
    rows, peak = 0, 0
    with subprocess.Popen(
        [ZOOMGATE, *command, "--server", address], stdout=subprocess.PIPE, env={"ZOOMGATE_KEY": key}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            rows += b"userEmail" in line
            if rows % 1_000 == 1:
                peak = max(peak, memory_kib(process.pid, "VmHWM"))
            if b"SYNCED" in line:
                process.terminate()
                break
        seconds = time.perf_counter() - started
    return Listing(seconds, rows, peak / 1024, (memory_kib(service) - before) / 1024)


def reencrypt(environ: dict[str, str], count: int = CONNECTIONS) -> float:
    """Re-encrypt every record under a new key, and return the records per second."""
    return count / _run(environ, "keys", "rotate", "--now", "--json")[0]


def _run(environ: dict[str, str], *command: str) -> tuple[float, float, Any]:
    """Run a command that prints JSON, and return its duration in seconds, its peak memory in MiB, and what it has printed last."""
    started = time.perf_counter()
    with subprocess.Popen([ZOOMGATE, *command], env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    printed = json.loads(output.splitlines()[-1])
    return time.perf_counter() - started, usage.ru_maxrss / 1024, printed


def scrape(http: str) -> float:
    """Read the metrics, and return the duration in seconds."""
    started = time.perf_counter()
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=60) as page:
        page.read()
    return time.perf_counter() - started


def idle_load(http: str, service: int) -> tuple[float, float]:
    """Let a service idle, scraped every 15 seconds.

    Returns:
        Its processor time per minute, and the longest scrape in seconds.
    """
    before, scrapes = processor_seconds(service), []
    for _ in range(IDLE_SECONDS // 15):
        scrapes.append(scrape(http))
        time.sleep(15)
    return (processor_seconds(service) - before) * 60 / IDLE_SECONDS, max(scrapes)


def environment(directory: Path, key: str, store: str) -> dict[str, str]:
    """Return the settings of a service whose Zoom is not reachable."""
    callers = directory / "callers.toml"
    callers.write_text(f'[[callers]]\nname = "bench"\nrole = "admin"\nkey_sha256 = "{digest(key)}"\n')
    callers.chmod(0o600)
    keys = directory / "keys.json"
    environ = {
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_DATA_DIR": str(directory / "data"),
        "ZOOMGATE_CALLERS": str(callers),
        "ZOOMGATE_CLIENT_ID": CLIENT_ID,
        "ZOOMGATE_CLIENT_SECRET": "secret",
        "ZOOMGATE_ZOOM_API_URL": "http://127.0.0.1:9/v2",
        "ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:9/oauth",
    }
    if store:
        key_file.create(keys)
        environ |= {"ZOOMGATE_STORE": store, "ZOOMGATE_KEYS": str(keys)}
    return environ


def report(what: str, text: str) -> None:
    """Print a result immediately, since the next one may take minutes."""
    print(f"{what:<40} {text}", flush=True)


def measure(directory: Path, store: str, count: int) -> None:
    """Measure a store with this number of connections, and print the results."""
    key = new_key()
    environ = environment(directory, key, store)
    with server([ZOOMGATE, "serve"], environ, every_core=True) as (_, http, process):
        empty, scraped = idle_load(http, process)
        report(
            "idle with an empty store", f"{empty:.2f} s of processor time per minute, scrape {scraped:.3f} s"
        )
    started = time.perf_counter()
    app = f"loopback|{CLIENT_ID}"
    if store:
        fill_mongodb(store, directory / "keys.json", app, count)
    else:
        fill(directory / "data", app, count)
        report(
            "size", f"{(directory / 'data' / 'zoomgate.db').stat().st_size / count:,.0f} bytes per connection"
        )
    report("filled", f"{count / (time.perf_counter() - started):,.0f} connections/s")
    os.sync()  # otherwise the start waits for the disk
    started = time.perf_counter()
    with server([ZOOMGATE, "serve"], environ, every_core=True) as (address, http, process):
        seconds = time.perf_counter() - started
        processor, mib = processor_seconds(process), memory_kib(process) / 1024
        report("start to SERVING", f"{seconds:.1f} s, {processor:.2f} s of processor time, {mib:.0f} MiB")
        idle, scraped = idle_load(http, process)
        report("idle", f"{idle:.2f} s of processor time per minute, longest scrape {scraped:.3f} s")
        report(
            "listed in one state", str(list_all(address, key, process, "--where", "state=REAUTH_REQUIRED"))
        )
        report("listed", str(list_all(address, key, process)))
        report("watched", str(watch_all(address, key, process)))
    seconds, mib, printed = _run(os.environ | environ, "prune", "--json")
    pruned = sum(printed["pruned"].values())  # the service has deleted the others
    report("pruned", f"{pruned:,} at {pruned / seconds:,.0f} records/s, {mib:.0f} MiB")
    seconds, mib, _ = _run(os.environ | environ, "keys", "rotate", "--now", "--json")
    report("re-encrypted", f"{count / seconds:,.0f} records/s, {mib:.0f} MiB")


def main() -> None:
    """Measure one store."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS
    store = sys.argv[2] if len(sys.argv) > 2 else "sqlite"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        uri = (
            stack.enter_context(concurrent_refresh.mongodb(directory / "mongodb"))
            if store == "mongodb"
            else ""
        )
        print(f"{count:,} connections, {store}")
        measure(directory, uri, count)


if __name__ == "__main__":
    main()
