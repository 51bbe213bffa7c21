"""Tests for the commands and the Python code of docs/meetings.md, run in order."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.command_line import command
from support.harness import MONICA, Harness, caller_key, running

PAGE = (Path(__file__).parents[2] / "docs/meetings.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path / "data") as started:
        await started.connect()
        yield started


async def run(harness: Harness, line: str) -> str:
    """Run a command, and return its output."""
    environ = {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": caller_key("service")}
    result = await command(*shlex.split(line)[1:], environ=environ)
    assert result.exit_code == 0, (line, result.output)
    return str(result.stdout)


async def play(harness: Harness, meeting_id: int | str, action: str = "play") -> None:
    """Let a meeting take place in the simulator, or only start."""
    request = {"meeting": int(meeting_id), "action": action}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{harness.simulator.url}/_sim/play", json=request) as response,
    ):
        assert response.status == 200, await response.text()


async def test_commands_of_the_page_work_in_order(harness: Harness) -> None:
    """Each placeholder stands for the ID that an earlier command has printed."""
    ids: dict[str, str] = {}
    for kind, code in BLOCKS:
        for line in code.splitlines() if kind == "sh" else ():
            if " past " in line:
                await play(harness, ids["MEETING"])
            elif " end " in line:
                await play(harness, ids["MEETING"], "start")
            output = await run(harness, re.sub(r"\b[A-Z]{4,}\b", lambda match: ids[match.group()], line))
            if " create " in line:
                (ids["MEETING"],) = re.findall(r"^id +(\d+)$", output, re.MULTILINE)
            elif " get " in line and "OCCURRENCE" in output:
                ids["OCCURRENCE"] = output.splitlines()[-1].split()[0]
            elif "registrants list" in line:
                ids["REGISTRANT"] = output.splitlines()[1].split()[0]
            elif " list " in line:
                assert "Weekly review" in output or "Monthly review" in output
            elif " participants " in line:
                assert MONICA in output
    assert set(ids) == {"MEETING", "OCCURRENCE", "REGISTRANT"}


async def test_python_code_of_the_page_works_in_order(harness: Harness) -> None:
    names: dict[str, Any] = {"print": lambda *_: None}
    for kind, code in BLOCKS:
        if kind != "python":
            continue
        if "get_past_meeting" in code:
            await play(harness, names["meeting"].id)
        elif "end_meeting" in code:
            await play(harness, names["series"].id, "start")
        client = f'Client("{harness.grpc_address}", key="{caller_key("service")}")'
        await asyncio.to_thread(exec, code.replace('Client("127.0.0.1:50051")', client), names)
    names["zoomgate"].close()
    assert len(names["series"].occurrences) == 8
    assert names["series"].duration_minutes == 30
    assert names["participant"].user_email == MONICA
