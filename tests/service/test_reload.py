"""Tests for the reload of the callers file and the key file. The certificate is tested in tests/security/test_tls.py."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.captured_logs import LogStream
from support.harness import MONICA, Harness, caller_entry, caller_key, running, write_callers
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app import reloadable_files
from zoomgate_server.app.timing import Timing
from zoomgate_server.cli.caller_key import digest
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
    timing = Timing(
        key_ring=reloading_key_ring.Timing(poll_interval=3600.0),
        files=reloadable_files.Timing(poll_interval=3600.0),
    )
    request = asyncio.Event()
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


@dataclass
class Watched:
    """A service that checks its callers file all the time."""

    harness: Harness
    file: Path
    log: LogStream

    async def reload(self) -> dict[str, Any]:
        """Wait for the next reload, and return its log entry."""
        start = len(self.log.getvalue())
        while True:
            await asyncio.sleep(0)
            for line in self.log.getvalue()[start:].splitlines():
                entry: dict[str, Any] = json.loads(line)
                if entry["event"].startswith("files."):
                    return entry

    async def reason(self, caller: str) -> str:
        """Return the reason with which a call of a caller fails."""
        call = self.harness.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)
        return (await self.harness.error_of(*call, caller)).reason

    async def is_invalid(self) -> bool:
        """Return whether the metrics report an invalid file."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.harness.http_url}/metrics") as response,
        ):
            return "zoomgate_callers_file_invalid 1.0" in await response.text()


@pytest.fixture
async def watched(tmp_path: Path, log: LogStream) -> AsyncIterator[Watched]:
    """Return a running service with the caller `first`."""
    file = tmp_path / "callers.toml"
    write_callers(file, caller_entry("first", "service", SERVICE))
    timing = Timing(files=reloadable_files.Timing(poll_interval=0.0))
    async with running(tmp_path / "data", environ={"ZOOMGATE_CALLERS": str(file)}, timing=timing) as harness:
        yield Watched(harness, file, log)


async def test_changed_callers_apply_without_a_signal(watched: Watched) -> None:
    write_callers(watched.file, caller_entry("second", "service", SERVICE))
    entry = await watched.reload()
    assert (entry["event"], entry["level"], entry["loaded"]) == ("files.reloaded", "info", ["callers"])
    assert [await watched.reason(name) for name in ("first", "second")] == [UNAUTHENTICATED, NOT_CONNECTED]


async def test_both_keys_of_a_rotated_caller_are_valid(watched: Watched) -> None:
    """The caller keeps its rights under either key."""
    digests = [digest(caller_key(name)) for name in ("first", "second")]
    write_callers(
        watched.file,
        f'[[callers]]\nname = "first"\nrole = "service"\nkey_sha256 = {json.dumps(digests)}\n{SERVICE}\n',
    )
    await watched.reload()
    assert [await watched.reason(name) for name in ("first", "second")] == [NOT_CONNECTED, NOT_CONNECTED]


@pytest.mark.parametrize("change", ["invalid", "missing", "pipe", "writable", "deeply nested", "long number"])
async def test_invalid_callers_file_leaves_the_previous_callers_in_use(watched: Watched, change: str) -> None:
    """The log and the metrics report it, until the file is corrected."""
    assert not await watched.is_invalid()
    text = watched.file.read_text()
    match change:
        case "missing":
            watched.file.unlink()
        case "pipe":
            watched.file.unlink()
            os.mkfifo(watched.file, 0o600)
        case "writable":
            watched.file.chmod(0o666)
        case "invalid":
            watched.file.write_text("name =")
        case "deeply nested":
            watched.file.write_text("callers = " + "[" * 100_000)
        case "long number":
            watched.file.write_text("callers = " + "9" * 100_000)
    entry = await watched.reload()
    assert (entry["event"], entry["level"]) == ("files.reload_failed", "warning")
    assert entry["problems"][0].startswith("ZOOMGATE_CALLERS: ")
    assert await watched.reason("first") == NOT_CONNECTED
    assert await watched.is_invalid()
    watched.file.unlink(missing_ok=True)
    write_callers(watched.file, text)
    assert (await watched.reload())["event"] == "files.reloaded"
    assert not await watched.is_invalid()


async def test_empty_callers_file_rejects_every_caller(watched: Watched) -> None:
    """The last caller can be removed; a warning is logged."""
    watched.file.write_text("")
    assert (await watched.reload())["event"] == "files.reloaded"
    assert await watched.reason("first") == UNAUTHENTICATED
    events = [json.loads(line) for line in watched.log.getvalue().splitlines()]
    assert [event["level"] for event in events if event["event"] == "callers_file.empty"] == ["warning"]
