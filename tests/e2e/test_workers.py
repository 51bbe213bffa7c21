"""Tests for multiple worker processes that share two ports."""

import asyncio
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from support.certificates import write_pair
from support.growing_log import events
from support.harness import MONICA, Harness, caller_entry, caller_key, consent, metadata, write_callers
from support.mongodb import OwnServer
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate import AsyncClient, errors
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server import build_info, settings
from zoomgate_server.app.supervisor import METRICS_DIRECTORY, WorkerConfig
from zoomgate_server.encryption import key_file

pytestmark = pytest.mark.timeout(180)
SECONDS = 60.0
TOKEN = auth.GetTokenRequest(user_email=MONICA)
ME = proxy.GetRequest(user_email=MONICA, url="/users/me")


@dataclass(frozen=True)
class Service:
    """A service that runs in separate processes.

    Attributes:
        process: The supervisor, or the service process if there is only one worker.
        simulator: The Zoom simulator.
        directory: The working directory.
        grpc: HOST:PORT.
        http: HOST:PORT.
    """

    process: subprocess.Popen[str]
    simulator: Simulator
    directory: Path
    grpc: str
    http: str

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Harness]:
        """Open a client with its own connection, for which the kernel chooses a worker."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.grpc, options=options) as channel:
            yield Harness(self.simulator, self.grpc, f"http://{self.http}", channel, self.directory / "data")

    async def token(self) -> str:
        """Return Monica's access token, over a new connection."""
        async with self.connection() as harness:
            response = await harness.call(harness.auth.GetToken, TOKEN)
            token: str = response.token.access_token
            return token

    async def metrics(self) -> dict[str, float]:
        """Return all metric samples by name and labels, over a new connection."""
        async with browser() as session, session.get(f"http://{self.http}/metrics") as page:
            lines = (await page.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def log(self, event: str) -> list[dict[str, Any]]:
        """Return all log entries of an event that have been written so far."""
        return events(self.directory / "log", event)

    def workers(self) -> dict[int, int]:
        """Return the process IDs of the current workers by worker number."""
        return {int(str(row["worker"])): int(str(row["pid"])) for row in self.log("worker.started")}

    def metrics_directory(self) -> Path:
        """Return the directory of the workers' metrics."""
        environ = Path(f"/proc/{self.workers()[1]}/environ").read_text(encoding="utf-8").split("\0")
        (directory,) = (row.partition("=")[2] for row in environ if row.startswith(f"{METRICS_DIRECTORY}="))
        return Path(directory)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Stop the service, and return the output after the ready line."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=SECONDS)
        return out


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return whether a process has a running thread, which may hold ports. A zombie process has no running thread."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    threads = int(numbers[16])  # proc(5): num_threads
    return state != "Z" or threads > 1


def browser() -> aiohttp.ClientSession:
    """Return a browser that opens a new connection for every request."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(force_close=True)
    )


def environment(zoom: Simulator, directory: Path, workers: int) -> dict[str, str]:
    """Return the settings of a service on free ports, with the callers file of the other tests."""
    write_callers(
        directory / "callers.toml",
        caller_entry("service", "service", 'users = ["*"]\naccess_tokens = true\nproxy_paths = ["/**"]'),
        caller_entry("admin", "admin"),
    )
    (directory / "tmp").mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    return inherited | {
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_DATA_DIR": "data",
        "ZOOMGATE_CALLERS": "callers.toml",
        "ZOOMGATE_CLIENT_ID": zoom.options.client_id,
        "ZOOMGATE_CLIENT_SECRET": zoom.options.client_secret,
        "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        "ZOOMGATE_WORKERS": str(workers),
        "TMPDIR": str(directory / "tmp"),
    }


@contextmanager
def serving(zoom: Simulator, directory: Path, workers: int, **environ: str) -> Iterator[Service]:
    """Start a service and wait for its ready line."""
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "zoomgate_server", "serve"],
            cwd=directory,
            env=environment(zoom, directory, workers) | environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.fullmatch(r"zoomgate: ready grpc=(\S+:[1-9]\d*) http=(\S+:[1-9]\d*)\n", line)
        assert ready is not None, line + (directory / "log").read_text()
        yield Service(process, zoom, directory, ready[1], ready[2])
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=SECONDS)


@pytest.fixture
async def zoom() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorOptions(port=0)) as simulator:
        yield simulator


@pytest.fixture
def service(zoom: Simulator, tmp_path: Path) -> Iterator[Service]:
    """Start a service with four workers in an empty directory, and yield the service."""
    with serving(zoom, tmp_path, 4) as started:
        yield started


async def connect(service: Service) -> str:
    """Consent as Monica in a browser, and return the outcome."""
    async with service.connection() as harness, browser() as session:
        started = await harness.begin_authorization()
        page = await consent(session, started.authorization_url, MONICA)
        assert MONICA in await page.text()
        return page.url.query.get("outcome", "")


async def test_workers_form_one_service(service: Service) -> None:
    """Four workers on free ports print one ready line, share one store created in an empty directory, and exit with 0."""
    assert sorted(service.workers()) == [1, 2, 3, 4]
    await until(lambda: len(service.log("service.started")) == 4)
    assert len({(row["grpc"], row["http"]) for row in service.log("service.started")}) == 1
    await connect(service)
    assert len({await service.token() for _ in range(20)}) == 1
    directory = service.metrics_directory()
    assert list(directory.glob("*.db"))
    assert service.stop(signal.SIGINT) == ""
    assert service.process.returncode == 0
    assert len(service.log("service.stopped")) == 4
    assert not [pid for pid in service.workers().values() if is_alive(pid)]
    assert not directory.exists()
    assert list((service.directory / "tmp").iterdir()) == []


async def test_consent_may_use_different_workers(service: Service) -> None:
    """The start, callback, and result of a consent, and later calls, may be served by different workers."""
    for _ in range(8):
        assert await connect(service) == "connected"
        assert await service.token()


async def test_workers_refresh_an_expired_token_once(service: Service) -> None:
    """Calls over many connections with an expired token cause one refresh, and all calls succeed."""
    await connect(service)
    await asyncio.gather(*(service.token() for _ in range(20)))  # every worker caches the token
    service.simulator.zoom.expire(MONICA)

    async def me() -> int:
        async with service.connection() as harness:
            response = await harness.call(harness.proxy.Get, ME)
            status: int = response.response.status
            return status

    assert await asyncio.gather(*(me() for _ in range(40))) == [200] * 40
    assert service.simulator.zoom.counters["token.refresh_token.issued"] == 1


async def test_metrics_cover_all_workers(service: Service) -> None:
    """The metrics of every worker are the sums over all workers, except that each connected user is counted only once."""
    await connect(service)
    await asyncio.gather(*(service.token() for _ in range(30)))
    calls = 'zoomgate_rpc_total{code="OK",method="AuthService.GetToken"}'
    pages = [await service.metrics() for _ in range(20)]
    assert {page[calls] for page in pages} == {30.0}
    assert {page['zoomgate_rpc_seconds_count{method="AuthService.GetToken"}'] for page in pages} == {30.0}
    assert {page['zoomgate_connections{state="ACTIVE"}'] for page in pages} == {1.0}
    running = f'zoomgate_build_info{{commit="{build_info.commit()}",version="{build_info.version()}"}}'
    assert {page[running] for page in pages} == {1.0}
    assert not [name for name in pages[0] if "pid=" in name]


async def test_killed_worker_is_restarted(service: Service) -> None:
    """After SIGKILL of a worker, calls succeed, the killed worker is replaced, and its counters are retained."""
    await connect(service)
    await asyncio.gather(*(service.token() for _ in range(30)))
    before = service.workers()
    for number, pid in before.items():
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
        assert await service.token()
        await until(lambda count=4 + number: len(service.log("service.started")) == count)  # type: ignore[misc]
    assert not set(before.values()) & set(service.workers().values())
    assert [row["exit"] for row in service.log("worker.died")] == ["killed by SIGKILL"] * 4
    page = await service.metrics()
    assert page['zoomgate_rpc_total{code="OK",method="AuthService.GetToken"}'] == 34.0
    assert page['zoomgate_connections{state="ACTIVE"}'] == 1.0
    assert service.stop() == ""
    assert service.process.returncode == 0


async def test_watch_resumes_on_any_worker(zoom: Simulator, tmp_path: Path) -> None:
    """A watch receives changes made by any worker, even after the worker that served the watch was killed."""
    generation = 0

    async def follow(client: AsyncClient) -> None:
        nonlocal generation
        async with aclosing(client.watch()) as events:
            async for event in events:
                generation = max(generation, event.connection.generation)

    with serving(zoom, tmp_path, 4, ZOOMGATE_FORCED_REFRESH_SECONDS="0") as service:
        await connect(service)
        async with AsyncClient(service.grpc, key=caller_key("admin")) as client:
            watching = asyncio.create_task(follow(client))
            await until(lambda: generation == 1)
            for pid in service.workers().values():
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
                async with service.connection() as harness:
                    response = await harness.auth.RefreshToken(
                        auth.RefreshTokenRequest(user_email=MONICA),
                        metadata=metadata(),
                        timeout=SECONDS,
                        wait_for_ready=True,
                    )
                await until(lambda expected=response.token.generation: generation == expected)  # type: ignore[misc]
            assert generation == 5
            assert not watching.done()
            watching.cancel()
        await until(lambda: len(service.log("worker.died")) == 4)
        assert {row["exit"] for row in service.log("worker.died")} == {"killed by SIGKILL"}


async def test_single_worker_can_be_shut_down(service: Service) -> None:
    """After SIGTERM, a worker exits with 0 and is replaced."""
    first = service.workers()[1]
    os.kill(first, signal.SIGTERM)
    await until(lambda: len(service.log("service.started")) == 5)
    assert not is_alive(first)
    assert [row["worker"] for row in service.log("worker.exited")] == [1]
    assert not service.log("worker.died")


async def test_hangup_reloads_the_callers_of_every_worker(service: Service) -> None:
    """A worker that is starting reloads the callers file as soon as it serves. No worker exits."""
    os.kill(service.workers()[2], signal.SIGKILL)
    await until(lambda: len(service.log("worker.started")) == 5)
    assert len(service.log("service.started")) == 4
    write_callers(service.directory / "callers.toml", caller_entry("admin", "admin"))
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: len(service.log("files.reloaded")) == 4)
    await until_all_respond_with(service, grpc.StatusCode.UNAUTHENTICATED)
    assert len(service.log("worker.died")) == 1
    assert service.stop() == ""
    assert service.process.returncode == 0


async def until_all_respond_with(service: Service, code: grpc.StatusCode) -> None:
    """Wait until every worker responds to GetToken for Monica with a status code."""
    in_a_row = 0
    while in_a_row < 16:
        try:
            await service.token()
            current = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            current = error.code()
        in_a_row = in_a_row + 1 if current is code else 0


async def test_workers_share_a_mongodb_database(zoom: Simulator, tmp_path: Path, mongodb_uri: str) -> None:
    """Two workers share consents, refreshes, and disconnections through MongoDB."""
    key_file.create(tmp_path / "keys.json")
    with serving(zoom, tmp_path, 2, ZOOMGATE_STORE=mongodb_uri, ZOOMGATE_KEYS="keys.json") as service:
        for _ in range(4):
            assert await connect(service) == "connected"
        assert len({await service.token() for _ in range(16)}) == 1
        zoom.zoom.options = replace(zoom.zoom.options, access_token_seconds=100)
        async with service.connection() as harness:
            await harness.call(harness.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
        issued = zoom.zoom.counters["token.refresh_token.issued"]
        zoom.zoom.options = replace(zoom.zoom.options, access_token_seconds=3600)

        async def call() -> int:
            async with service.connection() as harness:
                while True:
                    try:
                        return int((await harness.call(harness.proxy.Get, ME)).response.status)
                    except grpc.aio.AioRpcError as error:
                        if (
                            error.code() is not grpc.StatusCode.UNAVAILABLE
                        ):  # a refresh by the other worker is in progress; clients retry
                            raise

        assert await asyncio.gather(*(call() for _ in range(16))) == [200] * 16
        assert zoom.zoom.counters["token.refresh_token.issued"] == issued + 1
        async with service.connection() as harness:
            request = auth.DeleteConnectionRequest(user_email=MONICA)
            await harness.call(harness.auth.DeleteConnection, request)
        await until_all_respond_with(service, grpc.StatusCode.FAILED_PRECONDITION)
        assert service.stop() == ""
        assert service.process.returncode == 0
        assert mongodb_uri not in (tmp_path / "log").read_text()
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["audit.jsonl", "journal"]


async def test_worker_waiting_for_the_database_receives_no_calls(zoom: Simulator, tmp_path: Path) -> None:
    """A worker that restarts during a database outage waits for the database. Meanwhile, the other worker receives all calls and probes."""
    database = OwnServer(tmp_path)
    await asyncio.to_thread(database.start)
    key_file.create(tmp_path / "keys.json")
    environ = {"ZOOMGATE_STORE": database.new_database(), "ZOOMGATE_KEYS": "keys.json"}
    try:
        with serving(zoom, tmp_path, 2, ZOOMGATE_STORE_WAIT="0", **environ) as service:
            await connect(service)
            for _ in range(20):  # both workers now cache the token
                assert await service.token()
            database.kill()
            os.kill(service.workers()[2], signal.SIGKILL)
            await until(lambda: len(service.log("store.unreachable")) >= 2)
            assert len(service.log("worker.started")) == 3
            for _ in range(20):
                assert await service.token()
                async with browser() as session, session.get(f"http://{service.http}/readyz") as page:
                    assert await page.text() == "ready\n"
            await asyncio.to_thread(database.start)
            await until(lambda: len(service.log("service.started")) == 3)
            await until_all_respond_with(service, grpc.StatusCode.OK)
            assert service.stop() == ""
            assert service.process.returncode == 0
    finally:
        await asyncio.to_thread(database.close)


PRINTING_MODULE = """
import os, sys, threading, time

def print_much():
    while os.path.realpath("/proc/self/fd/1") != os.path.realpath("/proc/self/fd/2"):
        time.sleep(0.01)
    print("x" * 1_000_000, flush=True)
    print("printed", file=sys.stderr, flush=True)

if "worker" in sys.orig_argv:
    print("hello", flush=True)
    threading.Thread(target=print_much, daemon=True).start()
"""
"""Source code of a module that every process imports at startup, as some monitoring tools require."""


async def test_library_output_does_not_disturb_a_worker(zoom: Simulator, tmp_path: Path) -> None:
    """Library output on a worker's standard output is not mistaken for the ready message and does not fill the pipe."""
    (tmp_path / "sitecustomize.py").write_text(PRINTING_MODULE, encoding="utf-8")
    with serving(zoom, tmp_path, 2, PYTHONPATH=str(tmp_path)) as service:
        await connect(service)
        await until(lambda: (tmp_path / "log").read_text().count("printed\n") == 2)
        assert service.stop() == ""
        assert service.process.returncode == 0


def test_worker_exits_if_the_supervisor_exits_during_startup(zoom: Simulator, tmp_path: Path) -> None:
    """The worker exits with 0 and leaves neither a traceback nor the metrics directory."""
    environ = environment(zoom, tmp_path, 2)
    loaded = settings.load(
        {name: value for name, value in environ.items() if name.startswith("ZOOMGATE_")}
        | {"ZOOMGATE_CALLERS": str(tmp_path / "callers.toml"), "ZOOMGATE_DATA_DIR": str(tmp_path / "data")}
    )
    (tmp_path / "metrics").mkdir()
    worker = subprocess.Popen(
        [sys.executable, "-m", "zoomgate_server", "worker", "1"],
        env=environ | {METRICS_DIRECTORY: str(tmp_path / "metrics")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        worker.stdout.close()
        worker.stdin.write(pickle.dumps(WorkerConfig(loaded, None, {})))
        worker.stdin.close()
        errors_text = worker.stderr.read().decode()
    assert (worker.returncode, "Traceback" in errors_text) == (0, False), errors_text
    assert not (tmp_path / "metrics").exists()


async def test_running_calls_finish_during_shutdown(service: Service) -> None:
    """After repeated SIGTERM, running calls on all workers finish, and the service exits with 0."""
    await connect(service)
    service.simulator.faults.add(Fault("users_me", "delay", times=-1, seconds=2.0))
    seen = service.simulator.zoom.counters["faults.delay"]

    async def slow() -> int:
        async with service.connection() as harness:
            response = await harness.call(harness.proxy.Get, ME)
            status: int = response.response.status
            return status

    calls = [asyncio.create_task(slow()) for _ in range(12)]
    await until(lambda: service.simulator.zoom.counters["faults.delay"] == seen + 12)
    service.process.terminate()
    await until(lambda: len(service.log("service.draining")) == 4)
    service.process.terminate()
    for pid in service.workers().values():
        with suppress(ProcessLookupError):  # a worker without running calls may have exited already
            os.kill(pid, signal.SIGTERM)
    assert await asyncio.gather(*calls) == [200] * 12
    await asyncio.to_thread(service.process.wait, SECONDS)
    assert service.process.returncode == 0


async def test_workers_exit_when_the_supervisor_is_killed(service: Service) -> None:
    """If the supervisor is killed, the workers shut down gracefully and release all ports and directories."""
    workers, directory = service.workers().values(), service.metrics_directory()
    service.process.kill()
    await until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(service.log("service.stopped")) == 4
    assert not directory.exists()
    for address in (service.grpc, service.http):
        host, _, port = address.partition(":")
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(port)))
            listener.listen()


async def test_repeated_start_failures_stop_the_service(service: Service) -> None:
    """If a worker fails to start five times in a row, the service logs the reason and exits with 1."""
    (service.directory / "data" / "keys.json").chmod(0o644)
    os.kill(service.workers()[3], signal.SIGKILL)
    await asyncio.to_thread(service.process.wait, SECONDS)
    assert service.process.returncode == 1
    last_line = (service.directory / "log").read_text().splitlines()[-1]
    assert last_line == (
        "zoomgate: a worker failed to start 5 times in a row:"
        " The key file data/keys.json is accessible to other users; run chmod 600 on that file"
    )
    assert not [pid for pid in service.workers().values() if is_alive(pid)]


def run_failing(zoom: Simulator, directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a service that fails to start, and return the completed process."""
    return subprocess.run(
        [sys.executable, "-m", "zoomgate_server", "serve"],
        cwd=directory,
        env=environment(zoom, directory, 4) | {"ZOOMGATE_LOG_LEVEL": "error"} | environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("setting", ["ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"])
@pytest.mark.parametrize("shares", [False, True], ids=["exclusive", "shared"])
def test_port_in_use_is_rejected(zoom: Simulator, tmp_path: Path, setting: str, shares: bool) -> None:
    """A port in use is reported even if its owner allows sharing, and no files remain."""
    with socket.socket() as other_socket:
        other_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        other_socket.bind(("127.0.0.1", 0))
        other_socket.listen()
        address = f"127.0.0.1:{other_socket.getsockname()[1]}"
        result = run_failing(zoom, tmp_path, **{setting: address})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"zoomgate: {setting}: cannot listen on {address} (Address already in use); choose a different port\n"
    )
    assert not (tmp_path / "data").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_second_service_cannot_use_the_ports(service: Service, tmp_path: Path) -> None:
    """A second service on the same ports does not start, regardless of the number of workers."""
    (tmp_path / "other").mkdir()
    for workers in ("1", "2"):
        result = run_failing(
            service.simulator, tmp_path / "other", ZOOMGATE_LISTEN=service.grpc, ZOOMGATE_WORKERS=workers
        )
        assert result.returncode == 1
        assert f"ZOOMGATE_LISTEN: cannot listen on {service.grpc}" in result.stderr


async def test_several_workers_can_replace_a_single_process_immediately(
    zoom: Simulator, tmp_path: Path
) -> None:
    """Closed connections of a previous service do not block its ports, and other sockets with SO_REUSEADDR cannot bind the ports."""
    with serving(zoom, tmp_path, 1) as alone, socket.create_connection(address_of(alone.http)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100)
        alone.stop()
        while client.recv(
            1000
        ):  # the service closes the connection first, so that the service's side is in TIME_WAIT
            pass
    ports = {"ZOOMGATE_LISTEN": alone.grpc, "ZOOMGATE_HTTP_LISTEN": alone.http}
    with serving(zoom, tmp_path, 2, **ports) as several, socket.socket() as other_socket:
        assert (several.grpc, several.http) == (alone.grpc, alone.http)
        other_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other_socket.bind(address_of(several.http))


def address_of(text: str) -> tuple[str, int]:
    """Return the host and port of an address as arguments for a socket."""
    host, _, port = text.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])  # noqa: S104 - over TLS, on the local machine
async def test_host_names_and_wildcards_are_shared(zoom: Simulator, tmp_path: Path, host: str) -> None:
    """Workers share host names and wildcards, over TLS, and a second service cannot use them."""
    certificate, key, pem = write_pair(tmp_path)
    tls = {"ZOOMGATE_TLS_CERT": str(certificate), "ZOOMGATE_TLS_KEY": str(key)}
    with serving(zoom, tmp_path, 2, ZOOMGATE_LISTEN=f"{host}:0", **tls) as service:
        port = service.grpc.rpartition(":")[2]
        for address in ("127.0.0.1", "localhost"):
            async with AsyncClient(
                f"{address}:{port}", key=caller_key("service"), root_certificates=pem
            ) as client:
                with pytest.raises(errors.NotConnected):
                    await client.auth.get_token(user_email=MONICA)
        (tmp_path / "other").mkdir()
        result = run_failing(zoom, tmp_path / "other", ZOOMGATE_LISTEN=f"127.0.0.1:{port}")
        assert result.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in result.stderr


def test_start_failure_of_all_workers_is_reported_once(zoom: Simulator, tmp_path: Path) -> None:
    """An error that affects every worker is reported only once, with exit code 1, in the same way as without workers."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys.json").write_text("{}")
    (tmp_path / "data" / "keys.json").chmod(0o644)
    alone = run_failing(zoom, tmp_path, ZOOMGATE_WORKERS="1")
    together = run_failing(zoom, tmp_path)
    assert together.stderr == alone.stderr
    assert (together.returncode, together.stdout, together.stderr.count("\n")) == (1, "", 1)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_single_worker_runs_without_supervisor(zoom: Simulator, tmp_path: Path) -> None:
    """By default, no worker process is started, and no metrics directory is created."""
    with serving(zoom, tmp_path, 1) as service:
        await connect(service)
        assert (await service.metrics())['zoomgate_connections{state="ACTIVE"}'] == 1.0
        assert service.workers() == {}
        assert list((tmp_path / "tmp").iterdir()) == []


def test_supervisor_does_not_import_grpc() -> None:
    """The supervisor imports neither gRPC nor the stubs."""
    code = (
        "import sys; from zoomgate_server.cli import serve; from zoomgate_server.app import supervisor;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'google', 'zoomgate', 'aiohttp'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_worker_command_rejects_manual_use(tmp_path: Path) -> None:
    """The error of a manually started worker contains the command to run instead; the help does not list the worker command."""
    command = [sys.executable, "-m", "zoomgate_server"]
    result = subprocess.run(
        [*command, "worker", "1"], input="hello\n", capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        "zoomgate: zoomgate worker is an internal command; run `zoomgate serve --workers` instead\n"
    )
    assert (
        "worker "
        not in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    )
