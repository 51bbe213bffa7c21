"""Tests for `zoomgate connections watch` with a running service."""

import asyncio
import contextlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.harness import MONICA, Harness, caller_key, running
from zoomgate_server.cli import cli

ZOOMGATE = str(Path(sys.executable).with_name("zoomgate"))


async def watch_until_interrupted(
    harness: Harness, arguments: Sequence[str], lines: int
) -> tuple[int, list[str], str]:
    """Watch while a user connects, and send SIGINT after some lines; return the exit code, the lines and standard error."""
    command = [ZOOMGATE, "connections", "watch", "--server", harness.grpc_address, *arguments]
    environ = os.environ | {"ZOOMGATE_KEY": caller_key("service")}
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await harness.connect()
        printed = [(await process.stdout.readline()).decode() for _ in range(lines)]
        if "--json" not in arguments:
            assert b"waiting for changes" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        messages = (await process.stderr.read()).decode()
        return await process.wait(), printed, messages


@pytest.mark.parametrize(
    "users", [(), (MONICA,), (MONICA, "o'brien@example.com")], ids=["all", "one", "quoted"]
)
async def test_events_are_printed_until_interrupted(tmp_path: Path, users: tuple[str, ...]) -> None:
    """Each event is one line; an interruption exits with 0 and prints the command to continue."""
    async with running(tmp_path / "data") as harness:
        code, printed, messages = await watch_until_interrupted(harness, users, 1)
        assert code == 0
        assert MONICA in printed[0]
        assert "active" in printed[0]
        _, _, resume_command = messages.partition("Continue with: ")
        words = shlex.split(resume_command)
        index = words.index("--resume-token")
        assert words[:index] == ["zoomgate", "connections", "watch", *users]
        assert words[index + 2 :] == ["--server", harness.grpc_address]


async def test_events_can_be_printed_as_json(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as harness:
        code, printed, messages = await watch_until_interrupted(harness, ["--json"], 2)
        assert messages.strip().endswith("--json")
        assert code == 0
        events = [json.loads(line) for line in printed]
        assert all(event["resumeToken"] for event in events)
        assert MONICA in {event.get("connection", {}).get("userEmail") for event in events}


async def test_resume_command_has_no_token_before_the_first_event(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            *(ZOOMGATE, "connections", "watch", "--server", address),
            env=os.environ | {"ZOOMGATE_KEY": caller_key("service")},
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                process.send_signal(signal.SIGINT)
                _, messages = await process.communicate()
    assert process.returncode == 0
    assert messages.decode().strip() == f"Continue with: zoomgate connections watch --server {address}"


async def test_event_that_was_not_printed_is_sent_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption while a line is printed does not advance the resume token."""

    class Interrupted(io.StringIO):
        def write(self, _: str) -> int:
            raise KeyboardInterrupt

    async with running(tmp_path / "data") as harness:
        await harness.connect()
        monkeypatch.setenv("ZOOMGATE_KEY", caller_key("service"))
        with contextlib.redirect_stdout(Interrupted()):
            await asyncio.to_thread(
                cli, ["connections", "watch", "--server", harness.grpc_address], standalone_mode=False
            )
    expected = f"Continue with: zoomgate connections watch --server {harness.grpc_address}"
    assert capsys.readouterr().err.strip() == expected
