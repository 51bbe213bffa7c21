"""Tests for the first use of the product, with `make run`, a browser and grpcurl."""

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

from support.harness import MONICA, RpcError, browser, consent, consent_form
from support.toolchain import require
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.connection_pb2 import Connection
from zoomgate.v1.meetings_service_pb2 import CreateMeetingRequest, GetMeetingRequest
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceStub

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
ZOOMGATE = str(Path(sys.executable).with_name("zoomgate"))
GRPCURL_HINT = "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest"


@contextmanager
def start_service(
    command: list[str], folder: Path, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start the service and wait for its ready line; yield the process and its gRPC and HTTP addresses."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    process = subprocess.Popen(
        command, cwd=folder, env=settings | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            ready = re.fullmatch(r"zoomgate: ready grpc=(\S+) http=(\S+)\n", line)
            if ready:
                yield process, ready.group(1), ready.group(2)
                break
        else:
            raise AssertionError(
                f"the service did not start: {output} {process.stderr.read() if process.stderr else ''}"
            )
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def stop(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Stop the service; return its exit code and the rest of its output."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def isolated_options(folder: Path) -> list[str]:
    """Return options that avoid the default ports and data directory."""
    return [
        "--listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
        "--simulator-listen=127.0.0.1:0",
        f"--data-dir={folder / 'data'}",
    ]


def read_guide(process: subprocess.Popen[str]) -> str:
    """Return the guide that a service prints after its ready line."""
    assert process.stdout is not None
    guide = ""
    while "Press Ctrl+C to stop" not in guide:
        line = process.stdout.readline()
        assert line, f"the guide is incomplete: {guide}"
        guide += line
    return guide


def simulator_address(guide: str) -> str:
    """Return the address of the Zoom simulator that the guide contains."""
    (address,) = re.findall(r"overview page: http://(\S+)/_sim/", guide)
    return str(address)


def grpcurl(command: str, address: str) -> Any:
    """Run a documented command against the running service, and return the output."""
    words = [word.replace("127.0.0.1:50051", address) for word in shlex.split(command)]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    succeeded = result.returncode == 0 or ("-max-time" in words and "DeadlineExceeded" in result.stderr)
    assert succeeded, f"{words}: {result.stderr}"
    return result.stdout


async def test_documented_grpcurl_commands_work(tmp_path: Path) -> None:
    """The commands of docs/grpcurl.md run in order, against the service that `make run` starts."""
    require("grpcurl", GRPCURL_HINT)
    require("make", "apt-get install make")
    commands = re.findall(r"```sh\n(grpcurl .+)\n```", (ROOT / "docs/grpcurl.md").read_text())
    assert len(commands) >= 12
    arguments = " ".join(isolated_options(tmp_path))
    python = f"PYTHON={sys.executable}"
    with start_service(["make", "--no-print-directory", "run", python, f"ARGS={arguments}"], ROOT) as (
        process,
        address,
        _,
    ):
        assert "grpcurl -plaintext" in read_guide(process)
        meeting_id = state = ""
        for command in commands:
            output = grpcurl(
                command.replace("MEETING_ID", meeting_id).replace('"STATE"', f'"{state}"'), address
            )
            if command.endswith("BeginAuthorization"):
                state = json.loads(output)["state"]
                async with browser() as session:
                    page = await consent(session, json.loads(output)["authorizationUrl"], MONICA)
                    assert page.url.query["outcome"] == "connected"
            elif command.endswith("CreateMeeting"):
                meeting_id = json.loads(output)["meeting"]["id"]
            elif command.endswith("ListMeetings"):
                assert [row["topic"] for row in json.loads(output)["meetings"]] == ["Review"]
            elif command.endswith("ListRegistrants"):
                assert [row["firstName"] for row in json.loads(output)["registrants"]] == ["Omar"]
            elif command.endswith("ProxyService/Get"):
                assert json.loads(output)["response"]["json"]["email"] == MONICA
            elif command.endswith("WatchConnections"):
                assert "TYPE_INITIAL" in output
                assert "TYPE_SYNCED" in output
            elif command.endswith("ListConnections"):
                assert [row["userEmail"] for row in json.loads(output)["connections"]] == [MONICA]
        listed = subprocess.run(
            [ZOOMGATE, "connections", "list", "--server", address, "--state", "disconnected", "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert json.loads(listed.stdout)["userEmail"] == MONICA
        code, _, _ = stop(process)
        assert code == -signal.SIGTERM  # the exit code of make, which forwards the signal and waits


async def test_configured_redirect_uri_is_registered_with_the_simulator(tmp_path: Path) -> None:
    page = "https://www.example.com/zoom"
    command = [ZOOMGATE, "run", *isolated_options(tmp_path)]
    with start_service(command, tmp_path, ZOOMGATE_REDIRECT_URI=page) as (_, address, _):
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            request = pb.BeginAuthorizationRequest(user_email=MONICA)
            response = await AuthServiceStub(channel).BeginAuthorization(request)
            _, fields = await consent_form(session, response.authorization_url)
    assert fields["redirect_uri"] == page


def curl(command: str, address: str) -> Any:
    """Run a documented command against the running service, and return the parsed output, which may be an error of the service."""
    words = shlex.split(command.replace("\\\n", "").replace("127.0.0.1:8080", address))
    result = subprocess.run([*words, "-sS"], capture_output=True, text=True, check=True, timeout=30)
    return json.loads(result.stdout)


async def test_documented_curl_commands_work(tmp_path: Path) -> None:
    """The commands of docs/http.md run in order, then that of the README and the one that the service prints."""
    require("curl", "apt-get install curl")
    page, readme = (ROOT / "docs/http.md").read_text(), (ROOT / "README.md").read_text()
    commands = re.findall(r"```sh\n(curl .+)\n```", page)
    commands += re.findall(r"```sh\n(curl (?:.+\\\n)*.+)\n```", readme)
    assert len(commands) == 7
    meeting_id = ""
    with start_service([ZOOMGATE, "run", *isolated_options(tmp_path)], tmp_path) as (process, _, address):
        (printed,) = re.findall(r"^  (curl (?:.+\\\n)*.+)$", read_guide(process), re.MULTILINE)
        for command in (*commands, printed):
            output = curl(command.replace("MEETING_ID", meeting_id), address)
            if "BeginAuthorization" in command:
                async with browser() as session:
                    page_shown = await consent(session, output["authorizationUrl"], MONICA)
                    assert page_shown.url.query["outcome"] == "connected"
            elif "CreateMeeting" in command:
                assert output["meeting"]["topic"] == "First meeting"
                meeting_id = output["meeting"]["id"]
            elif "ProxyService/Get" in command:
                assert output["response"]["json"]["email"] == MONICA
            elif "GetToken" in command:
                (documented,) = [
                    json.loads(block)
                    for block in re.findall(r"```json\n(.+?)```", page, re.DOTALL)
                    if "code" in block
                ]
                assert (output["code"], output["message"]) == (documented["code"], documented["message"])
                assert documented["details"][0] in output["details"]
            else:
                assert "code" not in output, output


async def test_calls_in_progress_complete_on_sigterm(tmp_path: Path) -> None:
    """A refresh in progress at SIGTERM succeeds, and then the process exits with 0."""
    request = pb.RefreshTokenRequest(user_email=MONICA)
    with start_service([ZOOMGATE, "run", *isolated_options(tmp_path)], tmp_path) as (process, address, _):
        simulator = f"http://{simulator_address(read_guide(process))}"
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            auth = AuthServiceStub(channel)
            authorization = await auth.BeginAuthorization(
                pb.BeginAuthorizationRequest(user_email=MONICA), timeout=10
            )
            await consent(session, authorization.authorization_url, MONICA)
            fault = {"endpoint": "token", "kind": "delay", "seconds": 1.0, "times": 1}
            async with session.post(f"{simulator}/_sim/fault", json=fault) as response:
                assert response.status == 200
            call = auth.RefreshToken(request, timeout=20)
            await call.wait_for_connection()
            while await injected_delays(session, simulator) == 0:  # wait until the refresh has reached Zoom
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert (await call).token.generation == 2
        process.communicate(timeout=60)
        assert process.returncode == 0


async def test_outcome_of_a_write_that_outlasts_the_drain_is_unknown(tmp_path: Path) -> None:
    """Zoom does not respond. The call ends with an error, and then the process exits with 0."""
    command = [ZOOMGATE, "run", *isolated_options(tmp_path)]
    with start_service(command, tmp_path, ZOOMGATE_DRAIN_SECONDS="0") as (process, address, _):
        simulator = f"http://{simulator_address(read_guide(process))}"
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            authorization = await AuthServiceStub(channel).BeginAuthorization(
                pb.BeginAuthorizationRequest(user_email=MONICA), timeout=10
            )
            await consent(session, authorization.authorization_url, MONICA)
            fault = {"endpoint": "meetings", "kind": "delay", "seconds": 600.0, "times": 1}
            async with session.post(f"{simulator}/_sim/fault", json=fault) as response:
                assert response.status == 200
            call = MeetingsServiceStub(channel).CreateMeeting(
                CreateMeetingRequest(user_email=MONICA), timeout=60
            )
            while await injected_delays(session, simulator) == 0:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert RpcError.of(caught.value).short == ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_removing_the_app_in_zoom_soon_after_a_consent_requires_consent(
    tmp_path: Path, workers: int
) -> None:
    """The command from the guide triggers a webhook, and the overview page of the Zoom simulator shows the response.

    Soon after a consent, the event itself ends nothing, but Zoom rejects the tokens.
    """
    options = [*isolated_options(tmp_path), f"--workers={workers}"]
    show = pb.GetConnectionRequest(user_email=MONICA)
    with start_service([ZOOMGATE, "run", *options], tmp_path) as (process, address, _):
        guide = read_guide(process)
        simulator = simulator_address(guide)
        command = [ZOOMGATE, "simulator", "event", "app_deauthorized", MONICA, "--at", simulator]
        assert " ".join(command[1:]) in guide
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            auth = AuthServiceStub(channel)
            authorization = await auth.BeginAuthorization(
                pb.BeginAuthorizationRequest(user_email=MONICA), timeout=10
            )
            await consent(session, authorization.authorization_url, MONICA)
            result = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=30
            )
            assert result.stderr == "triggered app_deauthorized; webhook queued\n"
            while "204, accepted" not in await page(session, f"http://{simulator}/_sim/"):
                await asyncio.sleep(0.05)
            while (
                await auth.GetConnection(show, timeout=10)
            ).connection.state != Connection.STATE_REAUTH_REQUIRED:
                await asyncio.sleep(0.05)
        assert stop(process)[0] == 0


async def page(session: aiohttp.ClientSession, url: str) -> str:
    """Return the text of the page at a URL."""
    async with session.get(url) as response:
        return await response.text()


async def injected_delays(session: aiohttp.ClientSession, simulator: str) -> int:
    """Return the number of responses that the simulator has delayed."""
    async with session.get(f"{simulator}/_sim/stats") as response:
        count: int = (await response.json())["counters"].get("faults.delay", 0)
        return count


def start_error(folder: Path, *options: str, **environ: str) -> str:
    """Start a service that must fail to start; return its error message."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    result = subprocess.run(
        [ZOOMGATE, *options],
        cwd=folder,
        env=settings | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_port_in_use_prevents_a_start(tmp_path: Path) -> None:
    """The failed start does not create a store."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for option, problem in (
            (f"--listen=127.0.0.1:{port}", "cannot listen on"),
            (f"--http-listen=127.0.0.1:{port}", "cannot listen on"),
            (f"--simulator-listen=127.0.0.1:{port}", "cannot listen on"),
        ):
            options = [
                each
                for each in isolated_options(tmp_path)
                if not each.startswith(option.partition("=")[0] + "=")
            ]
            assert problem in start_error(tmp_path, "run", *options, option)
    assert not (tmp_path / "data" / "zoomgate.db").exists()


def test_two_services_cannot_share_a_port(tmp_path: Path) -> None:
    """The second service fails to start instead of silently sharing the port."""
    with start_service([ZOOMGATE, "run", *isolated_options(tmp_path)], tmp_path) as (_, address, _):
        options = [option for option in isolated_options(tmp_path / "b") if not option.startswith("--listen")]
        assert "cannot listen on" in start_error(tmp_path, "run", *options, f"--listen={address}")


def test_services_can_start_concurrently_with_one_new_data_directory(tmp_path: Path) -> None:
    """Three services share a data directory that does not exist yet, and use the same key."""
    (tmp_path / "callers.toml").touch(mode=0o600)
    environ = {
        "PATH": os.environ["PATH"],
        "ZOOMGATE_CLIENT_ID": "x",
        "ZOOMGATE_CLIENT_SECRET": "y",
        "ZOOMGATE_CALLERS": "callers.toml",
    }
    options = ("--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--data-dir=shared")
    processes = [
        subprocess.Popen(
            [ZOOMGATE, "serve", *options],
            cwd=tmp_path,
            env=environ,
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
        assert [stop(process)[0] for process in processes] == [0, 0, 0]
    assert not [path for path in (tmp_path / "shared").iterdir() if path.name.startswith(".")]


def test_non_loopback_addresses_are_rejected(tmp_path: Path) -> None:
    """Without TLS or with the Zoom simulator, the service listens only on loopback addresses."""
    for address in ("0.0.0.0:0", "[::]:0", ":0"):
        for name in ("ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"):
            text = start_error(tmp_path, "run", *isolated_options(tmp_path)[2:], **{name: address})
            assert name in text
    assert files(tmp_path) == {}


def test_serve_requires_an_app_and_callers(tmp_path: Path) -> None:
    assert "ZOOMGATE_CLIENT_ID" in start_error(tmp_path, "serve")
    app = {"ZOOMGATE_CLIENT_ID": "x", "ZOOMGATE_CLIENT_SECRET": "y"}
    assert "ZOOMGATE_CALLERS" in start_error(tmp_path, "serve", **app)
    assert files(tmp_path) == {}


def test_wrong_or_missing_encryption_key_prevents_a_start(tmp_path: Path) -> None:
    """The failed start does not change the store."""
    options = isolated_options(tmp_path)
    with start_service([ZOOMGATE, "run", *options], tmp_path):
        pass
    keys = tmp_path / "data" / "keys.json"
    right = keys.read_bytes()
    keys.unlink()
    before = files(tmp_path)
    assert "does not exist" in start_error(tmp_path, "run", *options)
    assert files(tmp_path) == before
    subprocess.run([ZOOMGATE, "keys", "new", str(keys)], check=True, capture_output=True)
    store = (tmp_path / "data" / "zoomgate.db").read_bytes()
    assert "key ring" in start_error(tmp_path, "run", *options)
    assert len((tmp_path / "data" / "zoomgate.db").read_bytes()) == len(store)
    keys.write_bytes(right)
    with start_service([ZOOMGATE, "run", *options], tmp_path):
        pass


def test_deleted_store_is_replaced_only_after_it_is_given_up(tmp_path: Path) -> None:
    """The failed start changes nothing, and names the command that gives up the store."""
    options = isolated_options(tmp_path)
    with start_service([ZOOMGATE, "run", *options], tmp_path):
        pass
    for path in (tmp_path / "data").glob("zoomgate.db*"):
        path.unlink()
    before = files(tmp_path)
    text = start_error(tmp_path, "run", *options)
    assert "zoomgate.db is missing or empty" in text
    assert len(text.strip().splitlines()) == 1
    assert files(tmp_path) == before
    (command,) = re.findall(r"run `zoomgate (.+)`", text)
    environ = os.environ | {"ZOOMGATE_DATA_DIR": str(tmp_path / "data")}
    subprocess.run([ZOOMGATE, *command.split(), "--yes"], check=True, capture_output=True, env=environ)
    with start_service([ZOOMGATE, "run", *options], tmp_path):
        pass


def test_unusable_data_directory_is_reported(tmp_path: Path) -> None:
    """The error message consists of one line."""
    (tmp_path / "data").write_text("a file, not a directory")
    text = start_error(tmp_path, "run", *isolated_options(tmp_path))
    assert "--data-dir: cannot create or use" in text
    assert len(text.strip().splitlines()) == 1


def test_full_disk_prevents_a_start_and_leaves_no_files(tmp_path: Path) -> None:
    """The error message consists of one line, and the failed start deletes the files that it created."""
    limited = f"ulimit -f 8; exec {shlex.quote(ZOOMGATE)} run {' '.join(isolated_options(tmp_path))}"  # limits each file to 4 KiB
    result = subprocess.run(
        ["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert files(tmp_path) == {}


def test_simulator_runs_without_the_service(tmp_path: Path) -> None:
    """The simulator prints its address and the URL of its overview page, and exits with 0."""
    process = subprocess.Popen(
        [ZOOMGATE, "simulator", "--listen", "127.0.0.1:0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().removeprefix("zoom_simulator: ready http=").rstrip()
    assert process.stdout.readline() == f"zoom_simulator: overview page: http://{address}/_sim/\n"
    with urllib.request.urlopen(f"http://{address}/_sim/", timeout=10) as page:
        assert page.status == 200
    code, _, _ = stop(process)
    assert code == 0


async def test_connections_and_meetings_survive_a_restart(tmp_path: Path) -> None:
    """The token of a connection is refreshed with the simulator of the next run."""
    options = isolated_options(tmp_path)
    with start_service([ZOOMGATE, "run", *options], tmp_path) as (process, address, _):
        async with grpc.aio.insecure_channel(address) as channel, browser() as session:
            started = await AuthServiceStub(channel).BeginAuthorization(
                pb.BeginAuthorizationRequest(user_email=MONICA), timeout=10
            )
            await consent(session, started.authorization_url, MONICA)
            create = CreateMeetingRequest(user_email=MONICA)
            created = await MeetingsServiceStub(channel).CreateMeeting(create, timeout=10)
        process.kill()  # without a chance to save anything at the end
        process.wait()
    with start_service([ZOOMGATE, "run", *options], tmp_path) as (process, address, _):
        async with grpc.aio.insecure_channel(address) as channel:
            refreshed = await AuthServiceStub(channel).RefreshToken(
                pb.RefreshTokenRequest(user_email=MONICA), timeout=10
            )
            assert refreshed.token.generation == 2
            get = GetMeetingRequest(user_email=MONICA, meeting_id=created.meeting.id)
            found = await MeetingsServiceStub(channel).GetMeeting(get, timeout=10)
            assert found.meeting.join_url == created.meeting.join_url


def test_second_run_on_the_same_directory_is_rejected(tmp_path: Path) -> None:
    """One sentence names the directory, whether or not the ports are different; a run on a different directory starts."""
    with start_service([ZOOMGATE, "run", *isolated_options(tmp_path)], tmp_path) as (
        process,
        grpc_address,
        _,
    ):
        before = sorted(path.name for path in (tmp_path / "data").iterdir())
        for options in ((), (f"--listen={grpc_address}",)):
            error = start_error(tmp_path, "run", *isolated_options(tmp_path), *options)
            assert error == (
                f"zoomgate: another `zoomgate run` uses {tmp_path / 'data'}; stop it, or choose a different directory with --data-dir\n"
            )
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before
        with start_service([ZOOMGATE, "run", *isolated_options(tmp_path / "other")], tmp_path):
            pass
        assert process.poll() is None
