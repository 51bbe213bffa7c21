"""Several processes on the same two ports: seen from outside they are one service, and it goes on when one of them ends."""

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
from support.harness import CALLERS, MONICA, Harness, consent, key_of, metadata
from support.mongodb import OwnServer
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate import AsyncClient, errors
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server import settings
from zoomgate_server.app.supervisor import METRICS_FOLDER, WorkerConfig
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.encryption import key_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
SECONDS = 60.0
TOKEN = auth.GetTokenRequest(user_email=MONICA)
ME = proxy.GetRequest(user_email=MONICA, url="/users/me")


@dataclass(frozen=True)
class Service:
    """A service that runs as processes of its own.

    Attributes:
        process: The one that was started.
        simulator: The simulated Zoom.
        folder: Where it runs.
        grpc: HOST:PORT.
        http: HOST:PORT.
    """

    process: subprocess.Popen[str]
    simulator: Simulator
    folder: Path
    grpc: str
    http: str

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Harness]:
        """A client with a connection of its own: the kernel chooses the worker."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.grpc, options=options) as channel:
            yield Harness(self.simulator, self.grpc, f"http://{self.http}", channel, self.folder / "data")

    async def token(self) -> str:
        """Monica's access token, over a new connection."""
        async with self.connection() as harness:
            answer = await harness.call(harness.auth.GetToken, TOKEN)
            token: str = answer.token.access_token
            return token

    async def metrics(self) -> dict[str, float]:
        """Every sample by its text, over a new connection."""
        async with browser() as session, session.get(f"http://{self.http}/metrics") as page:
            lines = (await page.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event up to now."""
        return events(self.folder / "log", event)

    def workers(self) -> dict[int, int]:
        """Process ids of the newest workers by their number."""
        return {int(str(row["worker"])): int(str(row["pid"])) for row in self.log("worker.started")}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End the service, and give what it printed since it was ready."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=SECONDS)
        return out


async def until(what: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether anything of a process runs: not if it ended and was not waited for, but as long as a thread of it has its ports."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    threads = int(numbers[16])  # proc(5): num_threads
    return state != "Z" or threads > 1


def browser() -> aiohttp.ClientSession:
    """A browser that makes a new connection for every request."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(force_close=True)
    )


def environment(zoom: Simulator, folder: Path, workers: int) -> dict[str, str]:
    """Settings of a service on free ports, with the callers of the other tests."""
    rows = []
    for name, role, rights in (
        ("service", "service", 'users = ["*"]\naccess_tokens = true\nproxy_paths = ["/**"]'),
        ("admin", "admin", ""),
    ):
        assert name in CALLERS
        rows.append(
            f'[[callers]]\nname = "{name}"\nrole = "{role}"\nkey_sha256 = "{digest(key_of(name))}"\n{rights}\n'
        )
    (folder / "callers.toml").write_text("".join(rows))
    (folder / "callers.toml").chmod(0o600)
    (folder / "tmp").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    return kept | {
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_DATA_DIR": "data",
        "ZOOMGATE_CALLERS": "callers.toml",
        "ZOOMGATE_CLIENT_ID": zoom.options.client_id,
        "ZOOMGATE_CLIENT_SECRET": zoom.options.client_secret,
        "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        "ZOOMGATE_WORKERS": str(workers),
        "TMPDIR": str(folder / "tmp"),
    }


@contextmanager
def serving(zoom: Simulator, folder: Path, workers: int, **environ: str) -> Iterator[Service]:
    """Start a service and wait for its ready line."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "zoomgate_server", "serve"],
            cwd=folder,
            env=environment(zoom, folder, workers) | environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.fullmatch(r"zoomgate: ready grpc=(\S+:[1-9]\d*) http=(\S+:[1-9]\d*)\n", line)
        assert ready is not None, line + (folder / "log").read_text()
        yield Service(process, zoom, folder, ready[1], ready[2])
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=SECONDS)


@pytest.fixture
async def zoom() -> AsyncIterator[Simulator]:
    """A simulated Zoom."""
    async with Simulator(SimulatorOptions(port=0)) as simulator:
        yield simulator


@pytest.fixture
def service(zoom: Simulator, tmp_path: Path) -> Iterator[Service]:
    """A service of four workers, started in an empty folder."""
    with serving(zoom, tmp_path, 4) as started:
        yield started


async def connect(service: Service) -> str:
    """Let Monica consent in a browser; gives the outcome."""
    async with service.connection() as harness, browser() as session:
        begun = await harness.begin()
        page = await consent(session, begun.authorization_url, MONICA)
        assert MONICA in await page.text()
        return page.url.query.get("outcome", "")


async def test_they_are_one_service(service: Service) -> None:
    """Four workers on free ports print one line once all of them serve, share one store made in an empty folder, and end with 0."""
    assert sorted(service.workers()) == [1, 2, 3, 4]
    assert len(service.log("service.started")) == 4
    assert len({(row["grpc"], row["http"]) for row in service.log("service.started")}) == 1
    await connect(service)
    assert len({await service.token() for _ in range(20)}) == 1
    assert service.stop(signal.SIGINT) == ""
    assert service.process.returncode == 0
    assert len(service.log("service.stopped")) == 4
    assert not [pid for pid in service.workers().values() if is_alive(pid)]
    assert list((service.folder / "tmp").iterdir()) == []


async def test_a_consent_takes_any_way(service: Service) -> None:
    """Start, callback and result of a consent may each be served by another worker, and so may what follows."""
    for _ in range(8):
        assert await connect(service) == "connected"
        assert await service.token()


async def test_all_of_them_refresh_once(service: Service) -> None:
    """Calls over many connections with an expired token cost one refresh, and none fails."""
    await connect(service)
    await asyncio.gather(*(service.token() for _ in range(20)))  # every worker has the token in memory
    service.simulator.zoom.expire(MONICA)

    async def me() -> int:
        async with service.connection() as harness:
            answer = await harness.call(harness.proxy.Get, ME)
            status: int = answer.response.status
            return status

    assert await asyncio.gather(*(me() for _ in range(40))) == [200] * 40
    assert service.simulator.zoom.counters["token.refresh_token.issued"] == 1


async def test_metrics_tell_of_all(service: Service) -> None:
    """Any worker tells what all have counted, and how many people are connected without counting them once a worker."""
    await connect(service)
    await asyncio.gather(*(service.token() for _ in range(30)))
    calls = 'zoomgate_rpc_total{code="OK",method="AuthService.GetToken"}'
    shown = [await service.metrics() for _ in range(20)]
    assert {page[calls] for page in shown} == {30.0}
    assert {page['zoomgate_rpc_seconds_count{method="AuthService.GetToken"}'] for page in shown} == {30.0}
    assert {page['zoomgate_connections{state="ACTIVE"}'] for page in shown} == {1.0}
    assert {page['zoomgate_build_info{version="0.1.0"}'] for page in shown} == {1.0}
    assert not [name for name in shown[0] if "pid=" in name]


async def test_a_killed_worker_comes_back(service: Service) -> None:
    """After kill -9 of a worker calls are served, another one takes its place, and what it had counted is still told."""
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


async def test_a_watch_goes_on_at_any_worker(zoom: Simulator, tmp_path: Path) -> None:
    """Who watches hears what any worker changed, and hears it as well when the worker that tells it is killed."""
    told = 0

    async def follow(client: AsyncClient) -> None:
        nonlocal told
        async with aclosing(client.watch()) as events:
            async for event in events:
                told = max(told, event.connection.generation)

    with serving(zoom, tmp_path, 4, ZOOMGATE_FORCED_REFRESH_SECONDS="0") as service:
        await connect(service)
        async with AsyncClient(service.grpc, key=key_of("admin")) as client:
            watching = asyncio.create_task(follow(client))
            await until(lambda: told == 1)
            for pid in service.workers().values():
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
                async with service.connection() as harness:
                    answer = await harness.auth.RefreshToken(
                        auth.RefreshTokenRequest(user_email=MONICA),
                        metadata=metadata(),
                        timeout=SECONDS,
                        wait_for_ready=True,
                    )
                await until(lambda wanted=answer.token.generation: told == wanted)  # type: ignore[misc]
            assert told == 5
            assert not watching.done()
            watching.cancel()
        await until(lambda: len(service.log("worker.died")) == 4)
        assert {row["exit"] for row in service.log("worker.died")} == {"killed by SIGKILL"}


async def test_a_worker_can_be_drained_alone(service: Service) -> None:
    """SIGTERM to a worker lets it end as it should; another takes its place, and nobody calls that a death."""
    first = service.workers()[1]
    os.kill(first, signal.SIGTERM)
    await until(lambda: len(service.log("service.started")) == 5)
    assert not is_alive(first)
    assert [row["worker"] for row in service.log("worker.exited")] == [1]
    assert not service.log("worker.died")


async def until_seen(service: Service, code: grpc.StatusCode) -> None:
    """Wait until every worker answers a call about Monica's token with a code."""
    in_a_row = 0
    while in_a_row < 16:
        try:
            await service.token()
            seen = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            seen = error.code()
        in_a_row = in_a_row + 1 if seen is code else 0


async def test_workers_share_a_database(zoom: Simulator, tmp_path: Path, mongodb_uri: str) -> None:
    """Over MongoDB two workers are one service as well: a consent takes any way, one refresh serves both, and so does a disconnect."""
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
                        ):  # of a refresh by the other one; clients repeat it
                            raise

        assert await asyncio.gather(*(call() for _ in range(16))) == [200] * 16
        assert zoom.zoom.counters["token.refresh_token.issued"] == issued + 1
        async with service.connection() as harness:
            gone = auth.DeleteConnectionRequest(user_email=MONICA)
            await harness.call(harness.auth.DeleteConnection, gone)
        await until_seen(service, grpc.StatusCode.FAILED_PRECONDITION)
        assert service.stop() == ""
        assert service.process.returncode == 0
        assert mongodb_uri not in (tmp_path / "log").read_text()
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["audit.jsonl", "journal"]


async def test_a_worker_that_waits_for_the_database_is_in_nobodys_way(
    zoom: Simulator, tmp_path: Path
) -> None:
    """Started again while the database is away it waits, as long as that takes, and all calls and probes come to the other one."""
    database = OwnServer(tmp_path)
    await asyncio.to_thread(database.start)
    key_file.create(tmp_path / "keys.json")
    environ = {"ZOOMGATE_STORE": database.new_database(), "ZOOMGATE_KEYS": "keys.json"}
    try:
        with serving(zoom, tmp_path, 2, ZOOMGATE_STORE_WAIT="0", **environ) as service:
            await connect(service)
            for _ in range(20):  # both have it in memory now
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
            await until_seen(service, grpc.StatusCode.OK)
            assert service.stop() == ""
            assert service.process.returncode == 0
    finally:
        await asyncio.to_thread(database.close)


PRINTS = """
import os, sys, threading, time

def much():
    while os.path.realpath("/proc/self/fd/1") != os.path.realpath("/proc/self/fd/2"):
        time.sleep(0.01)
    print("x" * 1_000_000, flush=True)
    print("printed", file=sys.stderr, flush=True)

if "worker" in sys.orig_argv:
    print("hello", flush=True)
    threading.Thread(target=much, daemon=True).start()
"""
"""A module that every process loads, as instruments of measurement do."""


async def test_a_library_that_prints_is_in_nobodys_way(zoom: Simulator, tmp_path: Path) -> None:
    """What something prints on a worker's standard output is not taken for its word, and does not fill a pipe that nobody reads."""
    (tmp_path / "sitecustomize.py").write_text(PRINTS, encoding="utf-8")
    with serving(zoom, tmp_path, 2, PYTHONPATH=str(tmp_path)) as service:
        await connect(service)
        await until(lambda: (tmp_path / "log").read_text().count("printed\n") == 2)
        assert service.stop() == ""
        assert service.process.returncode == 0


def test_a_worker_whose_supervisor_dies_while_it_starts(zoom: Simulator, tmp_path: Path) -> None:
    """It ends by itself with 0, and leaves neither a traceback nor the folder of the metrics behind."""
    given = environment(zoom, tmp_path, 2)
    loaded = settings.load(
        {name: value for name, value in given.items() if name.startswith("ZOOMGATE_")}
        | {"ZOOMGATE_CALLERS": str(tmp_path / "callers.toml"), "ZOOMGATE_DATA_DIR": str(tmp_path / "data")}
    )
    (tmp_path / "metrics").mkdir()
    worker = subprocess.Popen(
        [sys.executable, "-m", "zoomgate_server", "worker", "1"],
        env=given | {METRICS_FOLDER: str(tmp_path / "metrics")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        worker.stdout.close()
        worker.stdin.write(pickle.dumps(WorkerConfig(loaded, None, ())))
        worker.stdin.close()
        said = worker.stderr.read().decode()
    assert (worker.returncode, "Traceback" in said) == (0, False), said
    assert not (tmp_path / "metrics").exists()


async def test_calls_in_flight_end_well(service: Service) -> None:
    """SIGTERM, and another one, let calls end that every worker may have; then all is over with 0."""
    await connect(service)
    service.simulator.faults.add(Fault("users_me", "delay", times=-1, seconds=2.0))
    seen = service.simulator.zoom.counters["faults.delay"]

    async def slow() -> int:
        async with service.connection() as harness:
            answer = await harness.call(harness.proxy.Get, ME)
            status: int = answer.response.status
            return status

    calls = [asyncio.create_task(slow()) for _ in range(12)]
    await until(lambda: service.simulator.zoom.counters["faults.delay"] == seen + 12)
    service.process.terminate()
    await until(lambda: len(service.log("service.draining")) == 4)
    service.process.terminate()
    for pid in service.workers().values():
        with suppress(ProcessLookupError):  # one that had no call may have ended
            os.kill(pid, signal.SIGTERM)
    assert await asyncio.gather(*calls) == [200] * 12
    await asyncio.to_thread(service.process.wait, SECONDS)
    assert service.process.returncode == 0


async def test_without_the_first_process_they_end(service: Service) -> None:
    """When the process that was started is killed, the workers drain by themselves and leave neither port nor folder behind."""
    workers = service.workers().values()
    service.process.kill()
    await until(lambda: not any(is_alive(pid) for pid in workers))
    assert len(service.log("service.stopped")) == 4
    assert list((service.folder / "tmp").iterdir()) == []
    for address in (service.grpc, service.http):
        host, _, port = address.partition(":")
        with socket.socket() as mine:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.bind((host, int(port)))
            mine.listen()


async def test_what_cannot_start_again_ends_the_service(service: Service) -> None:
    """A worker that fails to start five times in a row ends the others as well, with the reason and exit code 1."""
    (service.folder / "data" / "keys.json").chmod(0o644)
    os.kill(service.workers()[3], signal.SIGKILL)
    await asyncio.to_thread(service.process.wait, SECONDS)
    assert service.process.returncode == 1
    last = (service.folder / "log").read_text().splitlines()[-1]
    assert last == (
        "zoomgate: A worker could not be started again, 5 times in a row:"
        " The key file data/keys.json is accessible to other users; run chmod 600 on it"
    )
    assert not [pid for pid in service.workers().values() if is_alive(pid)]


def ended(zoom: Simulator, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a service that does not start to its end."""
    return subprocess.run(
        [sys.executable, "-m", "zoomgate_server", "serve"],
        cwd=folder,
        env=environment(zoom, folder, 4) | {"ZOOMGATE_LOG_LEVEL": "error"} | environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("setting", ["ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"])
@pytest.mark.parametrize("shares", [False, True], ids=["alone", "shared"])
def test_a_strangers_port_is_not_shared(zoom: Simulator, tmp_path: Path, setting: str, shares: bool) -> None:
    """A port on which somebody listens is said to be taken, even by one who would share it, and nothing is left behind."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        result = ended(zoom, tmp_path, **{setting: address})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"zoomgate: {setting}: {address} cannot be listened on (Address already in use): choose another port\n"
    )
    assert not (tmp_path / "data").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_the_ports_are_kept_from_a_second_service(service: Service, tmp_path: Path) -> None:
    """A second service on the same ports does not start, however many workers either has."""
    (tmp_path / "other").mkdir()
    for workers in ("1", "2"):
        result = ended(
            service.simulator, tmp_path / "other", ZOOMGATE_LISTEN=service.grpc, ZOOMGATE_WORKERS=workers
        )
        assert result.returncode == 1
        assert f"ZOOMGATE_LISTEN: {service.grpc} cannot be listened on" in result.stderr


async def test_several_follow_one_on_its_ports_at_once(zoom: Simulator, tmp_path: Path) -> None:
    """Connections that the one ended are in nobody's way; and who could have shared with the one cannot share with several."""
    with serving(zoom, tmp_path, 1) as alone, socket.create_connection(address_of(alone.http)) as browser:
        browser.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert browser.recv(100)
        alone.stop()
        while browser.recv(1000):  # the service ends it, so that its side waits
            pass
    ports = {"ZOOMGATE_LISTEN": alone.grpc, "ZOOMGATE_HTTP_LISTEN": alone.http}
    with serving(zoom, tmp_path, 2, **ports) as several, socket.socket() as stranger:
        assert (several.grpc, several.http) == (alone.grpc, alone.http)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(address_of(several.http))


def address_of(text: str) -> tuple[str, int]:
    """Host and port, as sockets take them."""
    host, _, port = text.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])  # noqa: S104 - over TLS, on this machine
async def test_every_address_of_the_machine_is_shared(zoom: Simulator, tmp_path: Path, host: str) -> None:
    """Workers share names and wildcards as well, over TLS, and keep a second service from them."""
    certificate, key, pem = write_pair(tmp_path)
    tls = {"ZOOMGATE_TLS_CERT": str(certificate), "ZOOMGATE_TLS_KEY": str(key)}
    with serving(zoom, tmp_path, 2, ZOOMGATE_LISTEN=f"{host}:0", **tls) as service:
        port = service.grpc.rpartition(":")[2]
        for address in ("127.0.0.1", "localhost"):
            async with AsyncClient(
                f"{address}:{port}", key=key_of("service"), root_certificates=pem
            ) as client:
                with pytest.raises(errors.NotConnected):
                    await client.auth.get_token(user_email=MONICA)
        (tmp_path / "other").mkdir()
        result = ended(zoom, tmp_path / "other", ZOOMGATE_LISTEN=f"127.0.0.1:{port}")
        assert result.returncode == 1
        assert "cannot be listened on (Address already in use)" in result.stderr


def test_why_it_cannot_start_is_said_once(zoom: Simulator, tmp_path: Path) -> None:
    """What keeps every worker from starting is one sentence, with exit code 1, as with one process."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys.json").write_text("{}")
    (tmp_path / "data" / "keys.json").chmod(0o644)
    alone = ended(zoom, tmp_path, ZOOMGATE_WORKERS="1")
    together = ended(zoom, tmp_path)
    assert together.stderr == alone.stderr
    assert (together.returncode, together.stdout, together.stderr.count("\n")) == (1, "", 1)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_one_worker_is_one_process(zoom: Simulator, tmp_path: Path) -> None:
    """By default nothing is started and no file of metrics is kept: the process that was started serves."""
    with serving(zoom, tmp_path, 1) as service:
        await connect(service)
        assert (await service.metrics())['zoomgate_connections{state="ACTIVE"}'] == 1.0
        assert service.workers() == {}
        assert list((tmp_path / "tmp").iterdir()) == []


def test_the_first_process_is_free_of_grpc() -> None:
    """What starts and watches the workers loads neither gRPC nor the stubs."""
    code = (
        "import sys; from zoomgate_server.cli import serve; from zoomgate_server.app import supervisor;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'google', 'zoomgate', 'aiohttp'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_worker_is_not_for_people(tmp_path: Path) -> None:
    """Who starts a worker by hand is told what to do instead; the help does not name it."""
    command = [sys.executable, "-m", "zoomgate_server"]
    result = subprocess.run(
        [*command, "worker", "1"], input="hello\n", capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        "zoomgate: This command is started by `zoomgate serve --workers`, not by people: use that\n"
    )
    assert (
        "worker "
        not in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    )
