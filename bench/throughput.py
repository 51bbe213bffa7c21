"""Benchmarks of calls, compared with the baseline: processor time, calls per second and latency. Also the start of the service."""

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from bench import client_overhead, json_mapping, meeting_rules
from bench.load import WORKER_CONNECTIONS, Load, Target, call, load, open_caller
from bench.server_process import server
from bench.service import (
    CREATE_MEETING,
    FORWARD,
    GET_MEETING,
    GET_TOKEN,
    REQUESTS,
    ZOOMGATE,
    failed_calls,
    new_refresh_token,
    running,
    service_environment,
    store_reads,
)
from bench.upstream import Upstream
from zoom_simulator import Simulator
from zoomgate_server.cli.caller_key import new_key


def build() -> str:
    """Return the build of Python and the version of gRPC, on which the results depend."""
    is_optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return (
        f"Python {platform.python_version()} ({platform.python_compiler()}, configured"
        f" {'with' if is_optimized else 'without'} --enable-optimizations), grpcio {grpc.__version__}"
    )


@contextlib.contextmanager
def baseline(*arguments: str, path: str, certificate: Path | None = None) -> Iterator[Target]:
    """Run a baseline, and yield its RPC with this path."""
    command = [sys.executable, "-m", "bench.baseline", *arguments]
    environ = {"SSL_CERT_FILE": str(certificate)} if certificate else {}
    with server(command, environ) as (address, _, process):
        target = Target(address, process, path, REQUESTS[path], "key", certificate)
        call(target)
        yield target


def latencies(targets: list[Target], calls: int) -> list[float]:
    """Call the targets in turn, one call at a time, and return the median duration of each target in milliseconds."""
    times: list[list[float]] = [[] for _ in targets]
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(open_caller(target)) for target in targets]
        for _ in range(calls):
            for caller, durations in zip(callers, times, strict=True):
                before = time.perf_counter()
                caller()
                durations.append((time.perf_counter() - before) * 1000)
    return [statistics.median(durations) for durations in times]


def start_times(environ: dict[str, str], count: int) -> tuple[list[float], list[float]]:
    """Return, per run, the milliseconds until the service prints its ready line, and the milliseconds that `zoomgate --help` takes."""
    starts, helps = [], []
    for _ in range(count):
        before = time.perf_counter()
        with server([ZOOMGATE, "serve"], environ):
            starts.append((time.perf_counter() - before) * 1000)
        before = time.perf_counter()
        subprocess.run([ZOOMGATE, "--help"], capture_output=True, check=True)
        helps.append((time.perf_counter() - before) * 1000)
    return starts, helps


def worker_speedups(environ: dict[str, str], target: Target, count: int, calls: int) -> list[float]:
    """Return, per round, the throughput of two workers divided by that of one. Load generator, upstream and workers share all cores."""
    speedups = []
    with (
        server([ZOOMGATE, "serve"], environ, every_core=True) as (one, http_one, pid_one),
        server([ZOOMGATE, "serve", "--workers", "2"], environ, every_core=True) as (two, http_two, pid_two),
    ):
        targets = [
            replace(target, address=address, process=process)
            for address, process in ((one, pid_one), (two, pid_two))
        ]
        directory = Path(environ["ZOOMGATE_DATA_DIR"])
        for number in range(count):
            print(f"round {number + 1} of {count}, workers", file=sys.stderr, flush=True)
            one_worker, two_workers = (
                load(target, calls, directory, every_core=True).rate for target in targets
            )
            speedups.append(two_workers / one_worker)
        assert not failed_calls(http_one) + failed_calls(http_two)
    return speedups


def add_row(
    table: Table,
    name: str,
    what: str,
    values: list[float],
    unit: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Add a row with the minimum, median and maximum of the values, and the goal of the median."""
    median = statistics.median(values)
    formatted = [f"{value:,.2f}{unit}" for value in (min(values), median, max(values))]
    goal, met = "", True
    if at_least is not None:
        goal, met = f">= {at_least:g}{unit}", median >= at_least
    elif at_most is not None:
        goal, met = f"<= {at_most:g}{unit}", median <= at_most
    table.add_row(name, what, *formatted, goal, "yes" if met else "NO")


def report(directory: Path, api: Upstream, simulator: Simulator, count: int, calls: int) -> None:
    """Measure throughput, latency and start times, and print the table of results."""
    key = new_key()
    environ = service_environment(directory, api.url, simulator, key)
    tls_directory = directory / "tls"
    tls_directory.mkdir()
    tls_environ = service_environment(tls_directory, api.tls_url, simulator, key) | {
        "ZOOMGATE_TLS_CERT": str(api.certificate),
        "ZOOMGATE_TLS_KEY": str(api.key),
        "SSL_CERT_FILE": str(api.certificate),
    }
    pair = str(api.certificate), str(api.key)
    with (
        baseline("pass", api.url, path=FORWARD) as pass_through,
        baseline("pass", api.tls_url, *pair, path=FORWARD, certificate=api.certificate) as tls_pass_through,
        baseline("echo", path=GET_TOKEN) as echo,
        running(environ, key, new_refresh_token(simulator)) as service,
        running(tls_environ, key, new_refresh_token(simulator)) as tls_service,
    ):
        targets = {
            "baseline": pass_through,
            "typed": service.target(GET_MEETING),
            "create": service.target(CREATE_MEETING),
            "proxy": service.target(FORWARD),
            "echo": echo,
            "token": service.target(GET_TOKEN),
            "baseline over TLS": tls_pass_through,
            "typed over TLS": tls_service.target(GET_MEETING),
            "Connect JSON": service.connect_target(GET_MEETING, "application/json"),
            "Connect binary": service.connect_target(GET_MEETING, "application/proto"),
        }
        loads: dict[str, list[Load]] = {name: [] for name in targets}
        reads_before = store_reads(service.http)
        for number in range(count):
            print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
            for name, target in targets.items():
                loads[name].append(load(target, calls, directory))
        reads = (store_reads(service.http) - reads_before) / (6 * count * calls) * 10_000
        added_blocking = list(client_overhead.measure_blocking(echo.address, key, count))
        added_asyncio = client_overhead.measure_asyncio(echo.address, key, count)
        cached_reads = list(client_overhead.measure_cached(service.address, key, count))
        in_turn = [targets[name] for name in ("baseline", "typed", "Connect JSON", "Connect binary")]
        medians = [latencies(in_turn, 300) for _ in range(count)]
    speedups = worker_speedups(environ, targets["typed"], count, calls)
    starts, helps = start_times(environ, count)
    rules_shares = [
        microseconds / create.microseconds
        for microseconds, create in zip(meeting_rules.rounds(count), loads["create"], strict=True)
    ]
    mapping_speedups = [theirs / ours for ours, theirs in json_mapping.rounds(count)]

    table = Table("", "what", "min", "median", "max", "goal", "met", title=build())
    for name, measured in loads.items():
        add_row(table, "", f"{name}, processor time per call", [one.microseconds for one in measured], " µs")
        add_row(table, "", f"{name}, calls/s", [one.rate for one in measured])
    for what, above, below, goal in (
        ("typed GetMeeting", "typed", "baseline", 120),
        ("Proxy bytes", "proxy", "baseline", 90),
        ("GetToken from cache", "token", "echo", 75),
        ("typed GetMeeting over TLS", "typed over TLS", "baseline over TLS", 120),
    ):
        added = [
            one.microseconds - other.microseconds
            for one, other in zip(loads[above], loads[below], strict=True)
        ]
        add_row(table, "", f"{what}, processor time added to {below}", added, " µs", at_most=goal)
    for name, what, above, below, ratio in (
        ("G1", "typed GetMeeting / baseline, calls/s", "typed", "baseline", 0.70),
        ("G3", "Proxy bytes / baseline, calls/s", "proxy", "baseline", 0.76),
        ("G4", "GetToken from cache / bare echo, calls/s", "token", "echo", 0.80),
        ("", "typed GetMeeting, Connect JSON / gRPC, calls/s", "Connect JSON", "typed", 0.50),
        ("", "typed GetMeeting, Connect binary / gRPC, calls/s", "Connect binary", "typed", 0.50),
    ):
        ratios = [one.rate / other.rate for one, other in zip(loads[above], loads[below], strict=True)]
        add_row(table, name, what, ratios, at_least=ratio)
    add_row(table, "G5", "JSON to meeting, speedup over json_format", mapping_speedups, at_least=8)
    add_row(
        table,
        "",
        "rules / typed CreateMeeting with every property, processor time",
        rules_shares,
        at_most=0.15,
    )
    for name, what, above_index, below_index, milliseconds in (
        ("G6", "added median with one call in flight", 1, 0, 0.15),
        ("", "Connect JSON, median added to gRPC", 2, 1, 0.5),
        ("", "Connect binary, median added to gRPC", 3, 1, 0.5),
    ):
        added = [each[above_index] - each[below_index] for each in medians]
        add_row(table, name, what, added, " ms", at_most=milliseconds)
    for what, microseconds in (("blocking", added_blocking), ("asyncio", added_asyncio)):
        add_row(table, "", f"Python client, {what}, overhead per call", microseconds, " µs", at_most=15)
    add_row(table, "", "Python client, cached tokens/s", cached_reads, at_least=200_000)
    add_row(table, "G8", "two workers / one, typed GetMeeting", speedups, at_least=1.25)
    add_row(table, "G9", "store reads per 10,000 calls", [reads], at_most=1)
    add_row(table, "G12", "start to SERVING", starts, " ms", at_most=500)
    add_row(table, "G12", "zoomgate --help", helps, " ms", at_most=200)
    Console(width=130).print(table)
    print(
        f"G8: load, upstream and both workers share {os.cpu_count()} cores, so the ratio stays below 2. The kernel distributes"
        f" {WORKER_CONNECTIONS} connections, not calls, so the ratio varies between rounds."
    )
