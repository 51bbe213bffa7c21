"""The service over MongoDB, in processes of its own that share nothing but the database and the key ring."""

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

from support.harness import MONICA, SECONDS, browser, consent, key_of, metadata
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceStub
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.encryption import key_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CALLERS = f"""
[[callers]]
name = "service"
role = "service"
key_sha256 = "{digest(key_of("service"))}"
users = ["*"]
access_tokens = true
proxy_paths = ["/**"]
"""


@dataclass
class Service:
    """A running process."""

    channel: grpc.aio.Channel
    log: Path

    async def call(self, stub: Any, method: str, request: Any) -> Any:
        """Call an RPC."""
        return await getattr(stub(self.channel), method)(request, metadata=metadata(), timeout=SECONDS)


@asynccontextmanager
async def serving(folder: Path, name: str, environ: dict[str, str]) -> AsyncIterator[Service]:
    """Run `zoomgate serve` until it has stopped by SIGTERM."""
    log = folder / f"{name}.log"
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "zoomgate_server", "serve",
            "--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", f"--data-dir={folder / name}",
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


async def test_two_processes_keep_one_persons_connection(tmp_path: Path, mongodb_uri: str) -> None:
    """Connected at one process, a person is refreshed and has meetings at the other, and is disconnected at both."""
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
            begun = await one.call(
                AuthServiceStub, "BeginAuthorization", auth.BeginAuthorizationRequest(user_email=MONICA)
            )
            async with browser() as session:
                page = await consent(session, begun.authorization_url, MONICA)
                assert page.url.query["outcome"] == "connected"
            first = await one.call(AuthServiceStub, "GetToken", auth.GetTokenRequest(user_email=MONICA))
            await two.call(AuthServiceStub, "RefreshToken", auth.RefreshTokenRequest(user_email=MONICA))
            second = await two.call(AuthServiceStub, "GetToken", auth.GetTokenRequest(user_email=MONICA))
            assert first != second
            made = await two.call(
                MeetingsServiceStub, "CreateMeeting", meetings.CreateMeetingRequest(user_email=MONICA)
            )
            assert made.meeting.id
            me = proxy.GetRequest(user_email=MONICA, url="/users/me")
            for service in (one, two):
                answer = await service.call(ProxyServiceStub, "Get", me)
                assert json.loads(answer.response.body)["email"] == MONICA
            await one.call(
                AuthServiceStub, "DeleteConnection", auth.DeleteConnectionRequest(user_email=MONICA)
            )
            for service in (one, two):
                await disconnected(service)
        logs = one.log.read_text(encoding="utf-8") + two.log.read_text(encoding="utf-8")
    assert logs.count('"event":"store.opened"') == 2
    assert mongodb_uri not in logs
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"journal", "audit.jsonl"}


async def disconnected(service: Service) -> None:
    """Wait until a process has heard of a disconnect."""
    answer: grpc.StatusCode | None = None
    while answer is None:
        try:
            await service.call(AuthServiceStub, "GetToken", auth.GetTokenRequest(user_email=MONICA))
            await asyncio.sleep(0.01)
        except grpc.aio.AioRpcError as error:
            answer = error.code()
    assert answer is grpc.StatusCode.FAILED_PRECONDITION


def run(folder: Path, store: str, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the callers of this module, to its end."""
    (folder / "callers.toml").write_text(CALLERS, encoding="utf-8")
    (folder / "callers.toml").chmod(0o600)
    settings = {
        "ZOOMGATE_CALLERS": "callers.toml",
        "ZOOMGATE_CLIENT_ID": "app",
        "ZOOMGATE_CLIENT_SECRET": "hush",
        "ZOOMGATE_KEYS": "keys.json",
        "ZOOMGATE_STORE": store,
    }
    return subprocess.run(
        [sys.executable, "-m", "zoomgate_server", *command],
        cwd=folder,
        env=settings | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("keys", "server", "remedy"), [(False, True, "zoomgate keys new"), (True, False, "could not be reached")]
)
def test_without_keys_or_a_database_nothing_starts(
    tmp_path: Path, mongodb_uri: str, keys: bool, server: bool, remedy: str
) -> None:
    """A missing key ring and a database that is not there are each one sentence, of `doctor` too, and no ring is made."""
    if keys:
        key_file.create(tmp_path / "keys.json")
    store = mongodb_uri if server else "mongodb://monica:hunter2@127.0.0.1:1/z?appName=hunter2"
    for command in (["serve", "--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"], ["doctor"]):
        ended = run(tmp_path, store, command, ZOOMGATE_STORE_WAIT="0")
        shown = ended.stdout + ended.stderr
        assert ended.returncode == 1, shown
        assert remedy in shown
        assert "hunter2" not in shown
        assert "Traceback" not in shown
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
def test_commands_print_what_was_asked_for_alone(
    tmp_path: Path, mongodb_uri: str, command: list[str]
) -> None:
    """What a script reads from standard output is JSON and nothing else: lines of the log are not among it."""
    key_file.create(tmp_path / "keys.json")
    ended = run(tmp_path, mongodb_uri, command)
    assert [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr
    assert "store.opened" not in ended.stderr
