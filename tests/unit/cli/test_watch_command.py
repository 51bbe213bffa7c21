"""`zoomgate connections watch`, through a running service."""

import asyncio
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

from support.harness import MONICA, Harness, key_of, running
from zoomgate_server.cli import cli

ZOOMGATE = str(Path(sys.executable).with_name("zoomgate"))


async def watched(harness: Harness, arguments: Sequence[str], lines: int) -> tuple[int, list[str], str]:
    """Watch until so many lines were printed, connect somebody meanwhile, and press Ctrl-C; gives exit code, lines and messages."""
    command = [ZOOMGATE, "connections", "watch", "--server", harness.grpc_address, *arguments]
    environ = os.environ | {"ZOOMGATE_KEY": key_of("service")}
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
    "users", [(), (MONICA,), (MONICA, "o'brien@example.com")], ids=["everybody", "one", "quoted"]
)
async def test_what_happens_is_shown_until_ctrl_c(tmp_path: Path, users: tuple[str, ...]) -> None:
    """A line for each event; Ctrl-C ends it cleanly and says how to go on."""
    async with running(tmp_path / "data") as harness:
        code, printed, messages = await watched(harness, users, 1)
        assert code == 0
        assert MONICA in printed[0]
        assert "active" in printed[0]
        _, _, go_on = messages.partition("go on with: ")
        words = shlex.split(go_on)
        where = words.index("--resume-token")
        assert words[:where] == ["zoomgate", "connections", "watch", *users]
        assert words[where + 2 :] == ["--server", harness.grpc_address]


async def test_events_are_json_for_programs(tmp_path: Path) -> None:
    """With --json each event is a document of the contract."""
    async with running(tmp_path / "data") as harness:
        code, printed, messages = await watched(harness, ["--json"], 2)
        assert messages.strip().endswith("--json")
        assert code == 0
        events = [json.loads(line) for line in printed]
        assert all(event["resumeToken"] for event in events)
        assert MONICA in {event.get("connection", {}).get("userEmail") for event in events}


async def test_before_anything_was_told_it_says_to_begin_again(tmp_path: Path) -> None:
    """Without a token there is none in the command that goes on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            *(ZOOMGATE, "connections", "watch", "--server", address),
            env=os.environ | {"ZOOMGATE_KEY": key_of("service")},
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                process.send_signal(signal.SIGINT)
                _, messages = await process.communicate()
    assert process.returncode == 0
    assert messages.decode().strip() == f"go on with: zoomgate connections watch --server {address}"


async def test_an_event_that_was_not_printed_comes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a line leaves its event to the next run."""

    class Interrupted(io.StringIO):
        def write(self, _: str) -> int:
            raise KeyboardInterrupt

    async with running(tmp_path / "data") as harness:
        await harness.connect()
        monkeypatch.setenv("ZOOMGATE_KEY", key_of("service"))
        monkeypatch.setattr(sys, "stdout", Interrupted())
        await asyncio.to_thread(
            cli, ["connections", "watch", "--server", harness.grpc_address], standalone_mode=False
        )
    said = f"go on with: zoomgate connections watch --server {harness.grpc_address}"
    assert capsys.readouterr().err.strip() == said
