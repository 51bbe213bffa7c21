"""Compare the service with the baseline. The two are measured alternately, in several rounds.

Compare only ratios within one run, because machines are noisy.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    cold_tokens,
    concurrent_refresh,
    downloads,
    importing,
    many_connections,
    throughput,
    upstream,
    watches,
    webhook_garbage,
)
from bench.process_stats import memory_kib
from bench.server_process import LOAD_CORE, pin_prefix, server
from bench.service import (
    FORWARD,
    GET_TOKEN,
    ZOOMGATE,
    Service,
    connect_user,
    new_refresh_token,
    service_environment,
    zoom,
)
from zoom_simulator import Simulator
from zoomgate_server.cli.caller_key import new_key
from zoomgate_server.telemetry import logs

GARBAGE_SECONDS = 3
TOOLS = {"h2load": "nghttp2-client", "nginx": "nginx-light", "openssl": "openssl"}
"""The Debian packages of the programs that the benchmarks use."""


async def main() -> int:
    """Run all benchmarks, print their results, and return the exit code."""
    logs.configure("warning", "console")
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=5, help="default: %(default)s")
    parser.add_argument(
        "calls", type=int, nargs="?", default=5000, help="calls per round and RPC; default: %(default)s"
    )
    arguments = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        packages = " ".join(TOOLS[tool] for tool in missing)
        print(
            f"bench: {', '.join(missing)} not found; on Debian, run: apt-get install {packages}",
            file=sys.stderr,
        )
        return 1
    count, calls = arguments.rounds, arguments.calls
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with zoom(directory, (watches.WATCHED, *concurrent_refresh.users())) as (api, simulator):
            await asyncio.to_thread(throughput.report, directory, api, simulator, count, calls)
            await asyncio.to_thread(report_downloads, directory, api, simulator, count)
            await asyncio.to_thread(report_webhook_garbage, directory, simulator)
            await asyncio.to_thread(report_many_connections, directory, simulator)
            await asyncio.to_thread(report_cold_tokens_mongodb, directory, simulator)
            await asyncio.to_thread(importing.report, directory)
            await asyncio.to_thread(report_watches, directory, simulator, loop)
            await asyncio.to_thread(report_concurrent_refreshes, directory, simulator, loop)
    return 0


def report_downloads(directory: Path, api: upstream.Upstream, simulator: Simulator, count: int) -> None:
    """Download a file through the service and through the baseline, and print the processor time."""
    key, service_directory = new_key(), directory / "downloads"
    service_directory.mkdir()
    environ = service_environment(service_directory, api.url, simulator, key)
    with (
        server([ZOOMGATE, "serve"], environ) as (address, http, process),
        throughput.baseline("pass", api.url, path=FORWARD) as baseline,
    ):
        target = Service(address, http, process, key).target(GET_TOKEN)
        connect_user(target, new_refresh_token(simulator))
        before = memory_kib(process)
        rounds = [
            (downloads.microseconds_per_mib(target), downloads.microseconds_per_mib(baseline))
            for _ in range(count)
        ]
        growth = (memory_kib(process, "VmHWM") - before) / 1024
    ours, bare = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(
        f"Download of {downloads.MIB} MiB: {ours:,.0f} µs of processor time per MiB, baseline {bare:,.0f} µs;"
        f" {growth:.1f} MiB of growth in the service"
    )


def report_webhook_garbage(directory: Path, simulator: Simulator) -> None:
    """Post invalid requests to the webhook endpoint. Print the rejection rates and the rates of the valid calls made at the same time."""
    key, service_directory = new_key(), directory / "webhook-garbage"
    service_directory.mkdir()
    environ = service_environment(service_directory, simulator.api_url, simulator, key)
    environ["ZOOMGATE_WEBHOOK_SECRET"] = "bench"
    table = Table(
        "webhooks",
        "rejected per second",
        "per processor second",
        "goal",
        "calls per second",
        "median",
        "median when idle",
        "met",
    )
    with server([ZOOMGATE, "serve"], environ) as (address, http, process):
        service = Service(address, http, process, key)
        connect_user(service.target(GET_TOKEN), new_refresh_token(simulator))
        for result in webhook_garbage.measure(
            address,
            http,
            process,
            key,
            upstream.USER,
            service_directory,
            seconds=GARBAGE_SECONDS,
            prefix=pin_prefix(LOAD_CORE),
        ):
            table.add_row(
                result.kind,
                f"{result.rejected:,.0f}",
                f"{result.efficiency:,.0f}",
                f">= {result.goal:,.0f}" if result.goal else "",
                f"{result.calls:,.0f}",
                f"{result.milliseconds:.1f} ms",
                f"{result.idle_milliseconds:.1f} ms",
                "yes" if result.efficiency >= result.goal else "NO",
            )
    Console(width=130).print(table)


def report_many_connections(directory: Path, simulator: Simulator) -> None:
    """List and re-encrypt many connections and print the results."""
    key, service_directory = new_key(), directory / "many-connections"
    service_directory.mkdir()
    environ = service_environment(service_directory, simulator.api_url, simulator, key)
    with server([ZOOMGATE, "serve"], environ):
        pass  # creates the key ring and the store
    many_connections.fill(service_directory / "data", f"loopback|{simulator.options.client_id}")
    with server([ZOOMGATE, "serve"], environ, every_core=True) as (address, _, process):
        listing = many_connections.list_all(address, key, process)
    report_cold_tokens("SQLite", environ, key)
    rate = many_connections.reencrypt(os.environ | environ)
    print(
        f"{many_connections.CONNECTIONS:,} connections: {listing.rows:,} listed in {listing.seconds:.1f} s,"
        f" with {listing.command_mib:.0f} MiB in the command and {listing.service_mib:.0f} MiB of growth in the service;"
        f" re-encrypted at {rate:,.0f} records/s"
    )


def report_cold_tokens(store: str, environ: dict[str, str], key: str) -> None:
    """Read the tokens of many users and print the results."""
    with server([ZOOMGATE, "serve"], environ) as (address, _, process):
        result = asyncio.run(cold_tokens.measure(address, key, process))
    print(
        f"GetToken for {cold_tokens.USERS:,} users, {store}: {result.cold:.0f} µs of processor time each,"
        f" {result.warm:.0f} µs with cached tokens, {result.kib:.2f} KiB of memory per cached connection"
    )


def report_cold_tokens_mongodb(directory: Path, simulator: Simulator) -> None:
    """Read the tokens of many users from a MongoDB-compatible server and print the results."""
    key, service_directory = new_key(), directory / "cold-tokens"
    service_directory.mkdir()
    keys = service_directory / "keys.json"
    subprocess.run([ZOOMGATE, "keys", "new", str(keys)], check=True, capture_output=True)
    environ = service_environment(service_directory, simulator.api_url, simulator, key)
    with concurrent_refresh.mongodb(directory / "cold-mongodb") as uri:
        environ |= {"ZOOMGATE_STORE": uri, "ZOOMGATE_KEYS": str(keys)}
        app = f"loopback|{simulator.options.client_id}"
        many_connections.fill_mongodb(uri, keys, app, 2 * cold_tokens.USERS)
        report_cold_tokens("MongoDB-compatible", environ, key)


def report_watches(directory: Path, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
    """Run many watches in one process and polls of many connections, and print the results."""
    key, service_directory = new_key(), directory / "watched"
    service_directory.mkdir()
    environ = service_environment(service_directory, simulator.api_url, simulator, key)
    environ |= {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    with server([ZOOMGATE, "serve"], environ) as (address, _, process):
        refresh_token = watches.refresh_token(simulator, loop)
        result = asyncio.run(watches.measure_watches(address, key, process, refresh_token))
    print(
        f"{watches.WATCHES:,} watches in one process: {result.kib:.1f} KiB each, all synced in {result.start_seconds:.1f} s;"
        f" from a change to its event {result.quantile(0.5):.2f} s (median), {result.quantile(0.99):.2f} s (p99),"
        f" {result.quantile(1.0):.2f} s (max), {result.microseconds:.0f} µs of the service's processor time each"
    )
    app = f"loopback|{simulator.options.client_id}"
    sqlite = asyncio.run(
        watches.measure_idle_poll_sqlite(directory / "many-connections" / "data" / "zoomgate.db", app)
    )
    with concurrent_refresh.mongodb(directory / "watched-mongodb") as uri:
        mongodb = asyncio.run(watches.measure_idle_poll_mongodb(uri))
    for store, milliseconds in (("SQLite", sqlite), ("MongoDB-compatible", mongodb)):
        print(
            f"one poll of {watches.CONNECTIONS:,} connections, {store}: {milliseconds:.2f} ms"
            f" (goal <= 5 ms, {'met' if milliseconds <= 5 else 'NOT MET'})"
        )


def report_concurrent_refreshes(
    directory: Path, simulator: Simulator, loop: asyncio.AbstractEventLoop
) -> None:
    """Run concurrent refreshes in four processes, once for each store, and print the results."""
    table = Table("G10", "Zoom responds", "refreshes", "ok", "in progress", "failed", "duration", "met")
    with concurrent_refresh.mongodb(directory / "mongodb") as uri:
        for store, setting in (("SQLite", ""), ("MongoDB-compatible", uri)):
            key, service_directory = new_key(), directory / f"refresh-{store}"
            service_directory.mkdir()
            environ = service_environment(service_directory, simulator.api_url, simulator, key)
            if setting:
                environ |= {"ZOOMGATE_STORE": setting, "ZOOMGATE_KEYS": str(service_directory / "keys.json")}
                subprocess.run(
                    [ZOOMGATE, "keys", "new", str(service_directory / "keys.json")],
                    check=True,
                    capture_output=True,
                )
            with contextlib.ExitStack() as stack:
                addresses = [
                    stack.enter_context(server([ZOOMGATE, "serve"], environ, every_core=True))[0]
                    for _ in range(concurrent_refresh.PROCESSES)
                ]
                for result in asyncio.run(concurrent_refresh.run(simulator, loop, store, addresses, key)):
                    delay = f"after {result.delay:.0f} s" if result.delay else "immediately"
                    failed = ", ".join(f"{count} {code}" for code, count in result.failed.items())
                    table.add_row(
                        f"{result.store}, {concurrent_refresh.PROCESSES} processes x {concurrent_refresh.CALLS} calls",
                        delay,
                        str(result.refreshes),
                        str(result.succeeded),
                        str(result.in_progress),
                        failed or "0",
                        f"{result.seconds:.1f} s",
                        "yes" if result.refreshes == 1 and not result.failed else "NO",
                    )
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
