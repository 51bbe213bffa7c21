"""The product as a stranger meets it: `make run`, a browser, grpcurl."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from support.harness import MONICA, browser, consent
from support.toolchain import require
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.connection_pb2 import Connection

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
ZOOMGATE = str(Path(sys.executable).with_name("zoomgate"))
GRPCURL_HINT = "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest"


@contextmanager
def started(
    command: list[str], folder: Path, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start the service and wait for its ready line."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    process = subprocess.Popen(
        command, cwd=folder, env=settings | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            ready = re.fullmatch(r"zoomgate: ready grpc=(\S+) http=(\S+)\n", line)
            if ready:
                yield process, ready.group(1), ready.group(2)
                break
        else:
            raise AssertionError(
                f"it did not start: {seen} {process.stderr.read() if process.stderr else ''}"
            )
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def stopped(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Ask the service to stop, and give exit code and what it printed since."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def anywhere(folder: Path) -> list[str]:
    """Options that keep a test off the default ports and folder."""
    return [
        "--listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
        "--simulator-listen=127.0.0.1:0",
        f"--data-dir={folder / 'data'}",
    ]


def guide_of(process: subprocess.Popen[str]) -> str:
    """Read what a service that is ready prints to its end."""
    assert process.stdout is not None
    guide = ""
    while "Stop with Ctrl-C" not in guide:
        line = process.stdout.readline()
        assert line, f"it ended: {guide}"
        guide += line
    return guide


def simulator_of(guide: str) -> str:
    """Where the simulated Zoom listens: HOST:PORT."""
    (address,) = re.findall(r"look inside: http://(\S+)/_sim/", guide)
    return str(address)


def grpcurl(command: str, address: str) -> Any:
    """Run a documented command against the running service and give its JSON."""
    words = [word.replace("127.0.0.1:50051", address) for word in shlex.split(command)]
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    ended = found.returncode == 0 or ("-max-time" in words and "DeadlineExceeded" in found.stderr)
    assert ended, f"{words}: {found.stderr}"
    return found.stdout


async def test_the_documented_commands_do_the_main_job(tmp_path: Path) -> None:
    """Every command of docs/grpcurl.md works, in order, on what `make run` starts."""
    require("grpcurl", GRPCURL_HINT)
    require("make", "apt-get install make")
    commands = re.findall(r"```sh\n(grpcurl .+)\n```", (ROOT / "docs/grpcurl.md").read_text())
    assert len(commands) >= 12
    arguments = " ".join(anywhere(tmp_path))
    python = f"PYTHON={sys.executable}"
    with started(["make", "--no-print-directory", "run", python, f"ARGS={arguments}"], ROOT) as (
        process,
        address,
        _,
    ):
        assert "grpcurl -plaintext" in guide_of(process)
        meeting_id = ""
        for command in commands:
            answer = grpcurl(command.replace("MEETING_ID", meeting_id), address)
            if command.endswith("BeginAuthorization"):
                async with browser() as session:
                    page = await consent(session, json.loads(answer)["authorization_url"], MONICA)
                    assert page.url.query["outcome"] == "connected"
            elif command.endswith("CreateMeeting"):
                meeting_id = json.loads(answer)["meeting"]["id"]
            elif command.endswith("ProxyService/Get"):
                assert json.loads(answer)["response"]["json"]["email"] == MONICA
            elif command.endswith("WatchConnections"):
                assert "TYPE_INITIAL" in answer
                assert "TYPE_SYNCED" in answer
            elif command.endswith("ListConnections"):
                assert [row["user_email"] for row in json.loads(answer)["connections"]] == [MONICA]
        listed = subprocess.run(
            [ZOOMGATE, "connections", "list", "--server", address, "--state", "disconnected", "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert json.loads(listed.stdout)["userEmail"] == MONICA
        code, _, _ = stopped(process)
        assert code == -signal.SIGTERM  # of make itself, which passes the signal on and waits


async def test_sigterm_lets_a_call_in_flight_finish(tmp_path: Path) -> None:
    """A refresh that is running when SIGTERM comes ends well for its caller, and then the process exits with 0."""
    wanted = pb.RefreshTokenRequest(user_email=MONICA)
    with started([ZOOMGATE, "run", *anywhere(tmp_path)], tmp_path) as (process, address, _):
        simulator = f"http://{simulator_of(guide_of(process))}"
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            auth = AuthServiceStub(channel)
            begun = await auth.BeginAuthorization(pb.BeginAuthorizationRequest(user_email=MONICA), timeout=10)
            await consent(session, begun.authorization_url, MONICA)
            fault = {"endpoint": "token", "kind": "delay", "seconds": 1.0, "times": 1}
            async with session.post(f"{simulator}/_sim/fault", json=fault) as answer:
                assert answer.status == 200
            call = auth.RefreshToken(wanted, timeout=20)
            await call.wait_for_connection()
            while await running_calls(session, simulator) == 0:  # the fault was taken: the refresh is at Zoom
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert (await call).token.generation == 2
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_app_is_removed_at_the_simulated_zoom(tmp_path: Path, workers: int) -> None:
    """The command of the guide ends the connection at the service too, and the page of the simulated Zoom says that it was told."""
    options = [*anywhere(tmp_path), f"--workers={workers}"]
    show = pb.GetConnectionRequest(user_email=MONICA)
    with started([ZOOMGATE, "run", *options], tmp_path) as (process, address, _):
        guide = guide_of(process)
        simulator = simulator_of(guide)
        command = [ZOOMGATE, "simulator", "event", "app_deauthorized", MONICA, "--at", simulator]
        assert " ".join(command[1:]) in guide
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            auth = AuthServiceStub(channel)
            begun = await auth.BeginAuthorization(pb.BeginAuthorizationRequest(user_email=MONICA), timeout=10)
            await consent(session, begun.authorization_url, MONICA)
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=30
            )
            assert done.stderr == "triggered app_deauthorized; webhook queued\n"
            while "204, accepted" not in await page(session, f"http://{simulator}/_sim/"):
                await asyncio.sleep(0.05)
            found = (await auth.GetConnection(show, timeout=10)).connection
            assert found.cause == Connection.CAUSE_APP_DEAUTHORIZED
        assert stopped(process)[0] == 0


async def page(session: aiohttp.ClientSession, url: str) -> str:
    """The text of a page."""
    async with session.get(url) as answer:
        return await answer.text()


async def running_calls(session: aiohttp.ClientSession, simulator: str) -> int:
    """How many faults of the simulator were taken."""
    async with session.get(f"{simulator}/_sim/stats") as answer:
        taken: int = (await answer.json())["counters"].get("faults.delay", 0)
        return taken


def refused(folder: Path, *options: str, **environ: str) -> str:
    """Start a service that must refuse, and give the sentence."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    found = subprocess.run(
        [ZOOMGATE, *options],
        cwd=folder,
        env=settings | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    return found.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_taken_port_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    """A port that somebody has refuses the start before anything is written."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in (
            f"--listen=127.0.0.1:{port}",
            f"--http-listen=127.0.0.1:{port}",
            f"--simulator-listen=127.0.0.1:{port}",
        ):
            options = [
                other for other in anywhere(tmp_path) if not other.startswith(option.partition("=")[0] + "=")
            ]
            assert "cannot listen on" in refused(tmp_path, "run", *options, option)
    assert not (tmp_path / "data" / "zoomgate.db").exists()


def test_two_services_cannot_share_a_port(tmp_path: Path) -> None:
    """The second service on a port is refused instead of sharing it in silence."""
    with started([ZOOMGATE, "run", *anywhere(tmp_path)], tmp_path) as (_, address, _):
        options = [option for option in anywhere(tmp_path / "b") if not option.startswith("--listen")]
        assert "cannot listen on" in refused(tmp_path, "run", *options, f"--listen={address}")


def test_services_may_start_on_an_empty_folder_at_once(tmp_path: Path) -> None:
    """Three services that start together on one folder that is not there yet all come up, with one key."""
    processes = [
        subprocess.Popen(
            [
                ZOOMGATE,
                "run",
                *anywhere(tmp_path)[:2],
                "--simulator-listen=127.0.0.1:0",
                "--data-dir=shared",
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith("zoomgate: ready"), process.stderr.read()
    finally:
        assert [stopped(process)[0] for process in processes] == [0, 0, 0]
    assert not [path for path in (tmp_path / "shared").iterdir() if path.name.startswith(".")]


def test_a_listener_for_others_is_refused(tmp_path: Path) -> None:
    """Without TLS nothing listens beyond this machine, and beside the simulated Zoom nothing does at all."""
    for address in ("0.0.0.0:0", "[::]:0", ":0"):
        for name in ("ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"):
            text = refused(tmp_path, "run", *anywhere(tmp_path)[2:], **{name: address})
            assert name in text
    assert files(tmp_path) == {}


def test_serving_needs_an_app_and_callers(tmp_path: Path) -> None:
    """Without a client id or callers there is nothing to serve, and nobody."""
    assert "ZOOMGATE_CLIENT_ID" in refused(tmp_path, "serve")
    app = {"ZOOMGATE_CLIENT_ID": "x", "ZOOMGATE_CLIENT_SECRET": "y"}
    assert "ZOOMGATE_CALLERS" in refused(tmp_path, "serve", **app)
    assert files(tmp_path) == {}


def test_a_wrong_or_missing_key_is_told_and_changes_nothing(tmp_path: Path) -> None:
    """A store whose key is gone or another one refuses the start and stays as it is."""
    options = anywhere(tmp_path)
    with started([ZOOMGATE, "run", *options], tmp_path):
        pass
    keys = tmp_path / "data" / "keys.json"
    right = keys.read_bytes()
    keys.unlink()
    before = files(tmp_path)
    assert "does not exist" in refused(tmp_path, "run", *options)
    assert files(tmp_path) == before
    subprocess.run([ZOOMGATE, "keys", "new", str(keys)], check=True, capture_output=True)
    store = (tmp_path / "data" / "zoomgate.db").read_bytes()
    assert "key ring" in refused(tmp_path, "run", *options)
    assert len((tmp_path / "data" / "zoomgate.db").read_bytes()) == len(store)
    keys.write_bytes(right)
    with started([ZOOMGATE, "run", *options], tmp_path):
        pass


def test_an_unusable_folder_is_told(tmp_path: Path) -> None:
    """A data folder that cannot be made refuses the start in one sentence."""
    (tmp_path / "data").write_text("a file, not a folder")
    text = refused(tmp_path, "run", *anywhere(tmp_path))
    assert "ZOOMGATE_DATA_DIR" in text
    assert len(text.strip().splitlines()) == 1


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """If the store cannot be written, the start is refused in one sentence and takes away what it had made."""
    limited = f"ulimit -f 8; exec {shlex.quote(ZOOMGATE)} run {' '.join(anywhere(tmp_path))}"  # 4 KiB a file
    found = subprocess.run(
        ["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 1
    assert "cannot be written" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert files(tmp_path) == {}


def test_the_simulator_runs_alone(tmp_path: Path) -> None:
    """`zoomgate simulator` says where it listens and where to look inside, and ends with 0."""
    process = subprocess.Popen(
        [ZOOMGATE, "simulator", "--listen", "127.0.0.1:0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().removeprefix("zoom_simulator: ready http=").rstrip()
    assert process.stdout.readline() == f"zoom_simulator: overview page: http://{address}/_sim/\n"
    with urllib.request.urlopen(f"http://{address}/_sim/", timeout=10) as page:
        assert page.status == 200
    code, _, _ = stopped(process)
    assert code == 0
