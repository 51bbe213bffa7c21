"""`zoomgate connections watch`, through a running service."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import MONICA, Harness, key_of, running

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
        process.send_signal(signal.SIGINT)
        messages = (await process.stderr.read()).decode()
        return await process.wait(), printed, messages


@pytest.mark.parametrize("users", [(), (MONICA,)], ids=["everybody", "one"])
async def test_what_happens_is_shown_until_ctrl_c(tmp_path: Path, users: tuple[str, ...]) -> None:
    """A line for each event; Ctrl-C ends it cleanly and says how to go on."""
    async with running(tmp_path / "data") as harness:
        code, printed, messages = await watched(harness, users, 1)
        assert code == 0
        assert MONICA in printed[0]
        assert "active" in printed[0]
        assert " ".join(("go on with: zoomgate connections watch", *users, "--resume-token ")) in messages


async def test_events_are_json_for_programs(tmp_path: Path) -> None:
    """With --json each event is a document of the contract."""
    async with running(tmp_path / "data") as harness:
        code, printed, _ = await watched(harness, ["--json"], 2)
        assert code == 0
        events = [json.loads(line) for line in printed]
        assert all(event["resumeToken"] for event in events)
        assert MONICA in {event.get("connection", {}).get("userEmail") for event in events}
