"""Tests for service processes that share only a MongoDB database and a key ring."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support.harness import MONICA, SECONDS, browser, caller_key, consent, metadata
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceStub
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.encryption import key_file

pytestmark = pytest.mark.timeout(180)

CALLERS = f"""
[[callers]]
name = "service"
role = "service"
key_sha256 = "{digest(caller_key("service"))}"
users = ["*"]
access_tokens = true
proxy_paths = ["/**"]
"""


@dataclass
class Service:
    """A running service process."""

    channel: grpc.aio.Channel
    log: Path

    async def call(self, stub: Any, method: str, request: Any) -> Any:
        """Call an RPC, and return the response."""
        return await getattr(stub(self.channel), method)(request, metadata=metadata(), timeout=SECONDS)


@asynccontextmanager
async def serving(directory: Path, name: str, environ: dict[str, str]) -> AsyncIterator[Service]:
    """Run `zoomgate serve`, yield the running process, and stop it with SIGTERM at the end of the context."""
    log = directory / f"{name}.log"
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "zoomgate_server", "serve",
            "--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", f"--data-dir={directory / name}",
            env=environ, stdout=subprocess.PIPE, stderr=err,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        ready = re.fullmatch(r"zoomgate: ready grpc=(\S+) http=\S+\n", line)
        assert ready, log.read_text(encoding="utf-8")
        async with grpc.aio.insecure_channel(ready[1]) as channel:
            yield Service(channel, log)
    finally:
        if process.returncode is None:
            process.terminate()
        code = await process.wait()
    assert code == 0, log.read_text(encoding="utf-8")


async def test_two_processes_share_a_connection(tmp_path: Path, mongodb_uri: str) -> None:
    """Tokens stored by one process are used and refreshed by the other, and both processes report a disconnection."""
    key_file.create(tmp_path / "keys.json")
    (tmp_path / "callers.toml").write_text(CALLERS, encoding="utf-8")
    (tmp_path / "callers.toml").chmod(0o600)
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        environ = {
            "ZOOMGATE_STORE": mongodb_uri,
            "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
            "ZOOMGATE_CALLERS": str(tmp_path / "callers.toml"),
            "ZOOMGATE_CLIENT_ID": zoom.options.client_id,
            "ZOOMGATE_CLIENT_SECRET": zoom.options.client_secret,
            "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        }
        async with serving(tmp_path, "one", environ) as one, serving(tmp_path, "two", environ) as two:
            started = await one.call(
                AuthServiceStub, "BeginAuthorization", auth.BeginAuthorizationRequest(user_email=MONICA)
            )
            async with browser() as session:
                page = await consent(session, started.authorization_url, MONICA)
                assert page.url.query["outcome"] == "connected"
            first = await one.call(AuthServiceStub, "GetToken", auth.GetTokenRequest(user_email=MONICA))
            await two.call(AuthServiceStub, "RefreshToken", auth.RefreshTokenRequest(user_email=MONICA))
            second = await two.call(AuthServiceStub, "GetToken", auth.GetTokenRequest(user_email=MONICA))
            assert first != second
            created = await two.call(
                MeetingsServiceStub, "CreateMeeting", meetings.CreateMeetingRequest(user_email=MONICA)
            )
            assert created.meeting.id
            me = proxy.GetRequest(user_email=MONICA, url="/users/me")
            for service in (one, two):
                response = await service.call(ProxyServiceStub, "Get", me)
                assert json.loads(response.response.body)["email"] == MONICA
            await one.call(
                AuthServiceStub, "DeleteConnection", auth.DeleteConnectionRequest(user_email=MONICA)
            )
            for service in (one, two):
                await wait_until_disconnected(service)
        logs = one.log.read_text(encoding="utf-8") + two.log.read_text(encoding="utf-8")
    assert logs.count('"event":"store.opened"') == 2
    assert mongodb_uri not in logs
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"journal", "audit.jsonl"}


async def wait_until_disconnected(service: Service) -> None:
    """Wait until a process reports that the user is disconnected."""
    code: grpc.StatusCode | None = None
    while code is None:
        try:
            await service.call(AuthServiceStub, "GetToken", auth.GetTokenRequest(user_email=MONICA))
            await asyncio.sleep(0.01)
        except grpc.aio.AioRpcError as error:
            code = error.code()
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def run(directory: Path, store: str, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory until it exits, with the callers file of this module."""
    (directory / "callers.toml").write_text(CALLERS, encoding="utf-8")
    (directory / "callers.toml").chmod(0o600)
    settings = {
        "ZOOMGATE_CALLERS": "callers.toml",
        "ZOOMGATE_CLIENT_ID": "app",
        "ZOOMGATE_CLIENT_SECRET": "hush",
        "ZOOMGATE_KEYS": "keys.json",
        "ZOOMGATE_STORE": store,
    }
    return subprocess.run(
        [sys.executable, "-m", "zoomgate_server", *command],
        cwd=directory,
        env=settings | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("keys", "server", "remedy"), [(False, True, "zoomgate keys new"), (True, False, "could not be reached")]
)
def test_start_requires_a_key_ring_and_a_reachable_database(
    tmp_path: Path, mongodb_uri: str, keys: bool, server: bool, remedy: str
) -> None:
    """A missing key ring and an unreachable database are each reported by `serve` and `doctor`, and no key ring is created."""
    if keys:
        key_file.create(tmp_path / "keys.json")
    store = mongodb_uri if server else "mongodb://monica:hunter2@127.0.0.1:1/z?appName=hunter2"
    for command in (["serve", "--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"], ["doctor"]):
        result = run(tmp_path, store, command, ZOOMGATE_STORE_WAIT="0")
        output = result.stdout + result.stderr
        assert result.returncode == 1, output
        assert remedy in output
        assert "hunter2" not in output
        assert "Traceback" not in output
    assert (tmp_path / "keys.json").exists() is keys
    assert not (tmp_path / ".zoomgate").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["prune", "--dry-run", "--json"],
        ["keys", "list", "--json"],
        ["keys", "reencrypt", "--json"],
        ["store", "backup", "--json", "backup.db"],
        ["doctor", "--json"],
    ],
    ids=" ".join,
)
def test_json_output_contains_no_log_lines(tmp_path: Path, mongodb_uri: str, command: list[str]) -> None:
    """Standard output contains only JSON, so that scripts can parse the output."""
    key_file.create(tmp_path / "keys.json")
    result = run(tmp_path, mongodb_uri, command)
    assert [json.loads(line) for line in result.stdout.splitlines()], result.stderr
    assert "store.opened" not in result.stderr
