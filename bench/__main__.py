"""The benchmarks: the service against the floor, in interleaved rounds.

`python -m bench [ROUNDS] [SECONDS]`. Only ratios inside one run count: machines are noisy.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from bench import client_overhead, garbage, herd, json_mapping, many, moving_in, upstream, watching
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.options import SimulatedUser
from zoomgate.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    meetings_service_pb2,
    proxy_service_pb2,
    proxy_service_pb2_grpc,
)
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceStub
from zoomgate_server.cli.caller_key import digest, new_key
from zoomgate_server.telemetry import logs

CONNECTIONS, STREAMS = 4, 16
WORKER_CONNECTIONS, WORKER_STREAMS = (
    16,
    4,
)  # more of them, since the kernel spreads connections over workers, and not calls
GOALS = {"G1": 0.70, "G3": 0.76, "G4": 0.80}
SERVER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Target:
    """One RPC of one server.

    Attributes:
        address: HOST:PORT.
        path: Of the RPC.
        request: Serialized.
        key: The caller's key; the floor gets it, too, and does not look at it.
    """

    address: str
    path: str
    request: bytes
    key: str


def pinned(core: int) -> list[str]:
    """A prefix that keeps a command on one core, where there are two and taskset."""
    return ["taskset", "-c", str(core)] if (os.cpu_count() or 1) > 1 and shutil.which("taskset") else []


@contextlib.contextmanager
def server(
    command: list[str], environ: dict[str, str] | None = None, *, every_core: bool = False
) -> Iterator[tuple[str, str, int]]:
    """Start a server, wait for its ready line, and give its gRPC and HTTP addresses and its process id."""
    process = subprocess.Popen(
        [*([] if every_core else pinned(SERVER_CORE)), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | (environ or {}),
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"ready grpc=(\S+)(?: http=(\S+))?", line)
            if found:
                yield found.group(1), found.group(2) or "", process.pid
                return
        raise RuntimeError(f"{command} did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def load(target: Target, seconds: int, folder: Path, *, every_core: bool = False) -> float:
    """Load a target and give its calls a second; every answer must be HTTP 200.

    Args:
        target: What to call.
        seconds: How long, after a second of warming up.
        folder: For files.
        every_core: Do not stay on one core, and spread the same calls over more connections.
    """
    connections, streams = (WORKER_CONNECTIONS, WORKER_STREAMS) if every_core else (CONNECTIONS, STREAMS)
    body = folder / "request"
    body.write_bytes(b"\0" + len(target.request).to_bytes(4, "big") + target.request)
    command = [
        *([] if every_core else pinned(LOAD_CORE)),
        "h2load",
        f"-D{seconds}",
        "--warm-up-time=1",
        f"-c{connections}",
        f"-m{streams}",
        "-t1",
        f"-d{body}",
        "-Hcontent-type: application/grpc",
        "-Hte: trailers",
    ]
    command.append(f"-Hauthorization: Bearer {target.key}")
    command.append(f"http://{target.address}{target.path}")
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", output)
    failed = re.search(r"(\d+) failed, (\d+) errored", output)
    assert rate is not None, output
    assert failed is not None, output
    assert failed.groups() == ("0", "0"), output
    return float(rate.group(1))


def call(target: Target) -> bytes:
    """Call a target once with a real client: a load of errors would be fast, too."""
    metadata = (("authorization", f"Bearer {target.key}"),)
    with grpc.insecure_channel(target.address) as channel:
        method: Any = channel.unary_unary(target.path)
        answer: bytes = method(target.request, metadata=metadata, timeout=10)
    return answer


def latencies(targets: list[Target], calls: int) -> list[float]:
    """Call each target in turn, one call in flight; gives each one's median in milliseconds."""
    times: list[list[float]] = [[] for _ in targets]
    with contextlib.ExitStack() as stack:
        methods: list[Any] = []
        for target in targets:
            channel = stack.enter_context(grpc.insecure_channel(target.address))
            methods.append(channel.unary_unary(target.path))
        for _ in range(calls):
            for target, method, found in zip(targets, methods, times, strict=True):
                metadata = (("authorization", f"Bearer {target.key}"),)
                before = time.perf_counter()
                method(target.request, metadata=metadata, timeout=10)
                found.append((time.perf_counter() - before) * 1000)
    return [statistics.median(found) for found in times]


def service_environment(folder: Path, api_url: str, simulator: Simulator, key: str) -> dict[str, str]:
    """Settings of the service under load."""
    callers = folder / "callers.toml"
    callers.write_text(
        f'[[callers]]\nname = "bench"\nrole = "service"\nkey_sha256 = "{digest(key)}"\nusers = ["*"]\n'
        'access_tokens = true\nproxy_paths = ["/**"]\n'
    )
    callers.chmod(0o600)
    return {
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_DATA_DIR": str(folder / "data"),
        "ZOOMGATE_CALLERS": str(callers),
        "ZOOMGATE_CLIENT_ID": simulator.options.client_id,
        "ZOOMGATE_CLIENT_SECRET": simulator.options.client_secret,
        "ZOOMGATE_ZOOM_API_URL": api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": simulator.oauth_url,
        "ZOOMGATE_LOG_FORMAT": "json",
    }


def bring_in(address: str, key: str, refresh_token: str) -> None:
    """Connect the user of the benchmarks."""
    with grpc.insecure_channel(address) as channel:
        auth_service_pb2_grpc.AuthServiceStub(channel).RequestToken(
            auth_service_pb2.RequestTokenRequest(user_email=upstream.USER, refresh_token=refresh_token),
            metadata=(("authorization", f"Bearer {key}"),),
            timeout=10,
        )


def store_reads(http: str) -> float:
    """How many records the service has read for calls."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as page:
        found = re.search(r"^zoomgate_store_reads_total ([\d.e+]+)$", page.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def failed_calls(http: str) -> list[str]:
    """The service's counters of calls that did not end well, if there were any: h2load looks at the HTTP status alone."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("zoomgate_rpc_total{") and 'code="OK"' not in line]
    return [line for line in counted if float(line.rpartition(" ")[2])]


def start_times(environ: dict[str, str], count: int) -> tuple[list[float], list[float]]:
    """Milliseconds from start to the ready line, and of `zoomgate --help`."""
    starts, helps = [], []
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    for _ in range(count):
        before = time.perf_counter()
        with server([zoomgate, "serve"], environ):
            starts.append((time.perf_counter() - before) * 1000)
        before = time.perf_counter()
        subprocess.run([zoomgate, "--help"], capture_output=True, check=True)
        helps.append((time.perf_counter() - before) * 1000)
    return starts, helps


def workers_gain(environ: dict[str, str], target: Target, count: int, seconds: int) -> list[float]:
    """Calls a second of two workers, divided by those of one, by round. Load, upstream and workers share all cores."""
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    gains = []
    with (
        server([zoomgate, "serve"], environ, every_core=True) as (one, http_of_one, _),
        server([zoomgate, "serve", "--workers", "2"], environ, every_core=True) as (two, http_of_two, _),
    ):
        targets = [replace(target, address=address) for address in (one, two)]
        folder = Path(environ["ZOOMGATE_DATA_DIR"])
        for number in range(count):
            print(f"round {number + 1} of {count}, workers", file=sys.stderr, flush=True)
            alone, together = (load(target, seconds, folder, every_core=True) for target in targets)
            gains.append(together / alone)
        for http in (http_of_one, http_of_two):
            assert not [line for line in failed_calls(http) if "CANCELLED" not in line], failed_calls(http)
    return gains


def row(table: Table, name: str, what: str, values: list[float], unit: str, goal: str, *, met: bool) -> None:
    """Add a row with minimum, median and maximum."""
    shown = [f"{value:,.2f}{unit}" for value in (min(values), statistics.median(values), max(values))]
    table.add_row(name, what, *shown, goal, "yes" if met else "NO")


async def main() -> int:
    """Run everything and print the table; gives the exit code."""
    logs.configure("warning", "console")
    missing = [tool for tool in ("h2load", "nginx") if shutil.which(tool) is None]
    if missing:
        print(
            f"bench: {', '.join(missing)} missing; on Debian: apt-get install nghttp2-client nginx-light",
            file=sys.stderr,
        )
        return 1
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    user = SimulatedUser(upstream.USER, "u-bench")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nginx, api_url = upstream.start(folder, pinned(LOAD_CORE))
        try:
            async with Simulator(
                SimulatorOptions(port=0, users=(user, watching.WATCHED, *herd.users()))
            ) as simulator:
                code = simulator.zoom.issue_code(user, "x")
                refresh_token = simulator.zoom.exchange(code, "x", "")["refresh_token"]
                await asyncio.to_thread(measure, folder, api_url, simulator, refresh_token, count, seconds)
                code = simulator.zoom.issue_code(user, "x")
                refresh_token = simulator.zoom.exchange(code, "x", "")["refresh_token"]
                await asyncio.to_thread(rubbish, folder, simulator, refresh_token, seconds)
                await asyncio.to_thread(crowd, folder, simulator)
                await asyncio.to_thread(moving_in.report, folder)
                await asyncio.to_thread(watchers, folder, simulator, asyncio.get_running_loop())
                await asyncio.to_thread(herds, folder, simulator, asyncio.get_running_loop())
                return 0
        finally:
            nginx.terminate()
            nginx.wait(10)


def measure(
    folder: Path, api_url: str, simulator: Simulator, refresh_token: str, count: int, seconds: int
) -> None:
    """Measure and print."""
    key = new_key()
    environ = service_environment(folder, api_url, simulator, key)
    proxied = proxy_service_pb2.GetRequest(
        user_email=upstream.USER, url=f"/meetings/{upstream.MEETING_ID}"
    ).SerializeToString()
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    rates: dict[str, list[float]] = {name: [] for name in ("floor", "typed", "proxy", "echo", "token")}
    with (
        server([sys.executable, "-m", "bench.floor", "pass", api_url]) as (floor, _, _),
        server([sys.executable, "-m", "bench.floor", "echo"]) as (echo, _, _),
        server([zoomgate, "serve"], environ) as (service, http, _),
    ):
        bring_in(service, key, refresh_token)
        meeting = meetings_service_pb2.GetMeetingRequest(
            user_email=upstream.USER, meeting_id=upstream.MEETING_ID
        )
        token = auth_service_pb2.GetTokenRequest(user_email=upstream.USER).SerializeToString()
        get_token = "/zoomgate.v1.AuthService/GetToken"
        targets = {
            "floor": Target(floor, "/zoomgate.v1.ProxyService/Get", proxied, key),
            "typed": Target(
                service, "/zoomgate.v1.MeetingsService/GetMeeting", meeting.SerializeToString(), key
            ),
            "proxy": Target(service, "/zoomgate.v1.ProxyService/Get", proxied, key),
            "echo": Target(echo, get_token, token, key),
            "token": Target(service, get_token, token, key),
        }
        for target in targets.values():
            call(target)
        with grpc.insecure_channel(service) as channel:
            answer = MeetingsServiceStub(channel).GetMeeting(
                meeting, metadata=(("authorization", f"Bearer {key}"),)
            )
            assert answer.meeting.id == upstream.MEETING_ID
            forwarded = proxy_service_pb2_grpc.ProxyServiceStub(channel).Get(
                proxy_service_pb2.GetRequest.FromString(proxied),
                metadata=(("authorization", f"Bearer {key}"),),
            )
            assert forwarded.response.body == upstream.BODY
        reads_before = store_reads(http)
        calls = 0.0
        for number in range(count):
            print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
            for name, target in targets.items():
                rates[name].append(load(target, seconds, folder))
                if target.address == service:
                    calls += rates[name][-1] * seconds
        for target in targets.values():
            call(target)
        # what was still in flight when a round ended is CANCELLED; everything else must have ended well
        assert not [line for line in failed_calls(http) if "CANCELLED" not in line], failed_calls(http)
        reads = (store_reads(http) - reads_before) / calls * 10_000
        added_blocking = list(client_overhead.blocking(echo, key, count))
        added_awaited = client_overhead.awaited(echo, key, count)
        medians = [latencies([targets["floor"], targets["typed"]], 300) for _ in range(count)]
    gains = workers_gain(environ, targets["typed"], count, seconds)
    starts, helps = start_times(environ, count)
    mapping = [theirs / ours for ours, theirs in json_mapping.rounds(count)]
    table = Table("", "what", "min", "median", "max", "goal", "met")
    for name, found in rates.items():
        row(table, "", f"{name}, calls/s", found, "", "", met=True)
    for goal, what, above, below in (
        ("G1", "typed GetMeeting / floor", "typed", "floor"),
        ("G3", "Proxy bytes / floor", "proxy", "floor"),
        ("G4", "GetToken from cache / bare echo", "token", "echo"),
    ):
        ratios = [one / other for one, other in zip(rates[above], rates[below], strict=True)]
        row(
            table,
            goal,
            what,
            ratios,
            "",
            f">= {GOALS[goal]:.2f}",
            met=statistics.median(ratios) >= GOALS[goal],
        )
    row(
        table,
        "G5",
        "JSON to meeting, times faster than json_format",
        mapping,
        "",
        ">= 8",
        met=statistics.median(mapping) >= 8,
    )
    added = [typed - floor for floor, typed in medians]
    row(
        table,
        "G6",
        "added median with one call in flight",
        added,
        " ms",
        "<= 0.15 ms",
        met=statistics.median(added) <= 0.15,
    )
    for what, microseconds in (("blocking", added_blocking), ("asyncio", added_awaited)):
        row(
            table,
            "",
            f"Python client, {what}, added to a call",
            microseconds,
            " µs",
            "<= 15 µs",
            met=statistics.median(microseconds) <= 15,
        )
    row(
        table,
        "G8",
        "two workers / one, typed GetMeeting",
        gains,
        "",
        ">= 1.25",
        met=statistics.median(gains) >= 1.25,
    )
    row(table, "G9", "store reads per 10,000 calls", [reads], "", "<= 1", met=reads <= 1)
    row(table, "G12", "start to SERVING", starts, " ms", "<= 500 ms", met=statistics.median(starts) <= 500)
    row(table, "G12", "zoomgate --help", helps, " ms", "<= 200 ms", met=statistics.median(helps) <= 200)
    Console(width=110).print(table)
    print(
        f"G8: load, upstream and both workers share {os.cpu_count()} cores, which keeps the ratio below 2; the kernel spreads"
        f" {WORKER_CONNECTIONS} connections, not calls, so that it varies from round to round."
    )


def rubbish(folder: Path, simulator: Simulator, refresh_token: str, seconds: int) -> None:
    """Throw garbage at the webhooks, and print what was refused and what was answered meanwhile."""
    key, place = new_key(), folder / "garbage-service"
    place.mkdir()
    environ = service_environment(place, simulator.api_url, simulator, key)
    environ["ZOOMGATE_WEBHOOK_SECRET"] = "bench"
    table = Table(
        "webhooks",
        "refused a second",
        "a processor second",
        "goal",
        "calls a second",
        "median",
        "alone",
        "met",
    )
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    with server([zoomgate, "serve"], environ) as (address, http, process):
        bring_in(address, key, refresh_token)
        for found in garbage.measure(
            address, http, process, key, upstream.USER, place, seconds=seconds, prefix=pinned(LOAD_CORE)
        ):
            table.add_row(
                found.kind,
                f"{found.refused:,.0f}",
                f"{found.efficiency:,.0f}",
                f">= {found.goal:,.0f}" if found.goal else "",
                f"{found.calls:,.0f}",
                f"{found.milliseconds:.1f} ms",
                f"{found.alone:.1f} ms",
                "yes" if found.efficiency >= found.goal else "NO",
            )
    Console(width=130).print(table)


def crowd(folder: Path, simulator: Simulator) -> None:
    """List very many connections and seal them anew, and print how that went."""
    key, place = new_key(), folder / "many"
    place.mkdir()
    environ = service_environment(place, simulator.api_url, simulator, key)
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    with server([zoomgate, "serve"], environ):
        pass  # makes key and store
    many.fill(place / "data", f"loopback|{simulator.options.client_id}")
    with server([zoomgate, "serve"], environ, every_core=True) as (address, _, process):
        listing = many.listed(address, key, process)
    rate = many.swept(os.environ | environ)
    print(
        f"{many.CONNECTIONS:,} connections: {listing.rows:,} listed in {listing.seconds:.1f} s,"
        f" the command in {listing.command_mib:.0f} MiB, the service grown by {listing.service_mib:.0f} MiB;"
        f" sealed anew at {rate:,.0f} a second"
    )


def watchers(folder: Path, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
    """Let very many watch one process, and look for changes in very many connections; print how that went."""
    key, place = new_key(), folder / "watched"
    place.mkdir()
    environ = service_environment(place, simulator.api_url, simulator, key)
    environ |= {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    with server([zoomgate, "serve"], environ) as (address, _, process):
        refresh_token = watching.refresh_token(simulator, loop)
        found = asyncio.run(watching.crowd(address, key, process, refresh_token))
    print(
        f"{watching.WATCHES:,} watches of one process: {found.kib:.1f} KiB each, all begun in {found.begun:.1f} s;"
        f" from a change to its event {found.quantile(0.5):.2f} s (median), {found.quantile(0.99):.2f} s (p99),"
        f" {found.quantile(1.0):.2f} s (max), {found.microseconds:.0f} µs of the service's processor time each"
    )
    app = f"loopback|{simulator.options.client_id}"
    sqlite = asyncio.run(watching.idle_look_sqlite(folder / "many" / "data" / "zoomgate.db", app))
    with herd.mongodb(folder / "watched-mongodb") as uri:
        mongodb = asyncio.run(watching.idle_look_mongodb(uri))
    for store, milliseconds in (("SQLite", sqlite), ("MongoDB-compatible", mongodb)):
        print(
            f"a look for changes in {watching.CONNECTIONS:,} connections, {store}: {milliseconds:.2f} ms"
            f" (goal <= 5 ms, {'met' if milliseconds <= 5 else 'NOT MET'})"
        )


def herds(folder: Path, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
    """Let herds come to four processes over each store, and print how they fared."""
    zoomgate = str(Path(sys.executable).with_name("zoomgate"))
    table = Table("G10", "Zoom answers", "refreshes", "ok", "told to come back", "failed", "took", "met")
    with herd.mongodb(folder / "mongodb") as uri:
        for store, setting in (("SQLite", ""), ("MongoDB-compatible", uri)):
            key, place = new_key(), folder / f"herd-{store}"
            place.mkdir()
            environ = service_environment(place, simulator.api_url, simulator, key)
            if setting:
                environ |= {"ZOOMGATE_STORE": setting, "ZOOMGATE_KEYS": str(place / "keys.json")}
                subprocess.run(
                    [zoomgate, "keys", "new", str(place / "keys.json")], check=True, capture_output=True
                )
            with contextlib.ExitStack() as stack:
                addresses = [
                    stack.enter_context(server([zoomgate, "serve"], environ, every_core=True))[0]
                    for _ in range(herd.PROCESSES)
                ]
                for found in asyncio.run(herd.run(simulator, loop, store, addresses, key)):
                    after = f"after {found.delay:.0f} s" if found.delay else "at once"
                    failed = ", ".join(f"{count} {code}" for code, count in found.failed.items())
                    table.add_row(
                        f"{found.store}, {herd.PROCESSES} processes x {herd.CALLS} calls",
                        after,
                        str(found.refreshes),
                        str(found.succeeded),
                        str(found.told),
                        failed or "0",
                        f"{found.seconds:.1f} s",
                        "yes" if found.refreshes == 1 and not found.failed else "NO",
                    )
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
