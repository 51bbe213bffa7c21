"""Tests for the commands of docs/keys-and-backups.md, run in order."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from support.command_line import command, stdout_of
from support.harness import MONICA, OMAR, caller_key, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.encryption import key_file

PAGE = (Path(__file__).parents[2] / "docs/keys-and-backups.md").read_text()
OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}


def commands() -> list[str]:
    return [line.strip() for line in re.findall(r"^ *```sh\n(.+)\n *```$", PAGE, re.MULTILINE)]


async def test_documented_commands_succeed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All users' tokens can be refreshed after each command and after the backup is restored, which leaves nothing to adopt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    (tmp_path / "backups").mkdir()
    ring = Path("data/keys.json")
    lines = commands()
    assert [line.split()[1:3] for line in lines] == [
        ["keys", "list"],
        ["keys", "rotate"],
        ["keys", "rotate"],
        ["keys", "reencrypt"],
        ["keys", "retire"],
        ["keys", "rotate"],
        ["connections", "refresh"],
        ["store", "backup"],
        ["store", "restore"],
        ["store", "adopt"],
    ]

    async def run(line: str) -> str:
        minute_ago = time.time() - 60
        os.utime(ring, (minute_ago, minute_ago))
        line = line.replace("/backups/", f"{tmp_path}/backups/").replace("a6e9cc2c", first_key)
        return stdout_of(await command(*line.split()[1:], stdin="y\n"))

    async def refresh_all(harness: Any) -> None:
        for user in (MONICA, OMAR):
            await harness.call(harness.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))

    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, Path("data"), environ=OFTEN) as service:
            for user in (MONICA, OMAR):
                await service.connect(user)
            first_key = key_file.load(ring).primary_id
            monkeypatch.setenv("ZOOMGATE_SERVER", service.grpc_address)
            monkeypatch.setenv("ZOOMGATE_KEY", caller_key("service"))
            for line in lines[:8]:
                await run(line)
                if "backup" not in line:
                    await refresh_all(service)
            assert first_key not in key_file.load(ring).ids
        for path in Path("data").glob("zoomgate.db*"):
            path.unlink()
        for line in lines[8:]:
            await run(line)
        async with serving(zoom, Path("data"), environ=OFTEN) as service:
            await refresh_all(service)
