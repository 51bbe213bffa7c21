"""Tests for the reload of the callers file and the key file on SIGHUP. The certificate is tested in tests/security/test_tls.py."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import LogStream
from support.harness import MONICA, Harness, caller_entry, running, write_callers
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.encryption import key_file, reloading_key_ring

SERVICE = 'users = ["*"]'
CHECK = pb.CheckTokenRequest(user_email=MONICA)
NOT_CONNECTED, UNAUTHENTICATED = "ZOOM_NOT_CONNECTED", "CALLER_UNAUTHENTICATED"


@dataclass
class Reloadable:
    """A service with a callers file and a key file, which reloads them only on request."""

    harness: Harness
    folder: Path
    request: asyncio.Event
    log: LogStream

    async def reload(self) -> dict[str, Any]:
        """Reload all files, and return the only log entry of the reload."""
        start = len(self.log.getvalue())
        self.request.set()
        while self.request.is_set() or not (entries := self._entries(start)):
            await asyncio.sleep(0)
        (entry,) = entries
        return entry

    def _entries(self, start: int) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.log.getvalue()[start:].splitlines()]
        return [entry for entry in entries if entry["event"].startswith("files.")]

    async def reason(self, caller: str) -> str:
        """Return the reason with which a call of a caller fails."""
        return (
            await self.harness.error_of(
                self.harness.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA), caller
            )
        ).reason


@pytest.fixture
async def service(tmp_path: Path, log: LogStream) -> AsyncIterator[Reloadable]:
    """Return a running service with the caller `first` and without TLS."""
    write_callers(tmp_path / "callers.toml", caller_entry("first", "service", SERVICE))
    timing, request = Timing(key_ring=reloading_key_ring.Timing(poll_interval=3600.0)), asyncio.Event()
    environ = {"ZOOMGATE_CALLERS": str(tmp_path / "callers.toml"), "ZOOMGATE_AUDIT": str(tmp_path / "audit")}
    async with running(tmp_path / "data", environ=environ, timing=timing, reload=request) as harness:
        yield Reloadable(harness, tmp_path, request, log)


async def test_changed_callers_apply_after_a_reload(service: Reloadable) -> None:
    """A new caller is accepted, a removed caller is rejected, and the audit trail contains the reload."""
    assert [await service.reason(name) for name in ("first", "second")] == [NOT_CONNECTED, UNAUTHENTICATED]
    write_callers(service.folder / "callers.toml", caller_entry("second", "service", SERVICE))
    assert [await service.reason(name) for name in ("first", "second")] == [NOT_CONNECTED, UNAUTHENTICATED]
    entry = await service.reload()
    assert (entry["event"], entry["level"], entry["loaded"]) == (
        "files.reloaded",
        "info",
        ["keys", "callers"],
    )
    assert [await service.reason(name) for name in ("first", "second")] == [UNAUTHENTICATED, NOT_CONNECTED]
    assert await service.reason("admin") == NOT_CONNECTED  # not in the file
    lines = [json.loads(line) for line in (service.folder / "audit").read_text().splitlines()]
    (audited,) = [line for line in lines if line["action"] == "callers.reloaded"]
    assert audited["details"]["file"] == str(service.folder / "callers.toml")


async def test_changed_keys_apply_after_a_reload(service: Reloadable) -> None:
    """The next connection is encrypted with the new primary key, without waiting for the next check of the file."""
    path = service.folder / "data" / "keys.json"
    new_id = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), new_id)
    assert (await service.reload())["loaded"] == ["keys", "callers"]
    stored = []

    async def record_key(put: Callable[..., Any], record: Any, if_rev: int) -> Any:
        stored.append(record.key_id)
        return await put(record, if_rev)

    with service.harness.store.intercept("put", record_key):
        await service.harness.connect()
    assert set(stored) == {new_id}


async def test_unusable_files_are_reported_and_leave_the_previous_content_in_use(service: Reloadable) -> None:
    for _ in range(2):  # reported again, although the files have not changed
        write_callers(service.folder / "callers.toml", "name =")
        (service.folder / "data" / "keys.json").write_text("{}")
        entry = await service.reload()
        assert (entry["event"], entry["level"], entry["loaded"]) == ("files.reload_failed", "warning", [])
        keys, callers = entry["problems"]
        assert "keys.json" in keys
        assert callers.startswith("ZOOMGATE_CALLERS: ")
        assert await service.reason("first") == NOT_CONNECTED
    await service.harness.connect()
