"""Tests for the end of an import: rows in progress complete first, since their tokens may be in use."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from service.importing.conftest import USERS
from service.importing.exports import as_csv, exported_user
from support.harness import Harness, caller_key
from zoom_simulator.testing import RunningSimulator
from zoomgate import AsyncClient
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.importing import formats
from zoomgate_server.cli.importing.importer import Importer
from zoomgate_server.cli.importing.results import Outcome, Results, ResultsFileError
from zoomgate_server.cli.importing.rows import InvalidRow, Row
from zoomgate_server.cli.importing.scan import scanned
from zoomgate_server.cli.importing.text import ImportFileError
from zoomgate_server.rate_limiter import RateLimiter
from zoomgate_server.storage.record_store import Record

FIRST, SECOND, THIRD, FOURTH = (user.email for user in USERS[:4])


class FullDisk(Results):
    """A results file on a disk that is full after the first row.

    Attributes:
        reached: Set when a result could not be written.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self.reached = asyncio.Event()

    def add(self, row: Row | InvalidRow, outcome: Outcome) -> None:
        """Write the first result."""
        if row.number > 1:
            self.reached.set()
            raise ResultsFileError("the disk is full")
        super().add(row, outcome)


async def fill_disk(results: Results, importer: Importer, run: asyncio.Task[None]) -> None:
    """Wait until the result of a row could not be written."""
    assert isinstance(results, FullDisk)
    await results.reached.wait()


async def damage_export(results: Results, importer: Importer, run: asyncio.Task[None]) -> None:
    """Do nothing: the export ends with an error."""


async def interrupt(results: Results, importer: Importer, run: asyncio.Task[None]) -> None:
    """Stop the import, as Ctrl+C does."""
    importer.stop()


async def cancel(results: Results, importer: Importer, run: asyncio.Task[None]) -> None:
    """Cancel the import."""
    run.cancel()


@pytest.mark.parametrize("end", [fill_disk, damage_export, interrupt, cancel])
async def test_rows_in_progress_complete_before_the_import_ends(
    end: Callable[[Results, Importer, asyncio.Task[None]], Awaitable[None]],
    tmp_path: Path,
    service: Harness,
    zoom: RunningSimulator,
) -> None:
    """Their outcome is then known to the service, and their tasks do not outlive the client."""
    path = tmp_path / "ZoomUsers.csv"
    path.write_text(as_csv(exported_user(zoom, user.email) for user in USERS[:4]))
    export = formats.velo_users(path, "userEmail")

    def read() -> Iterator[Row | InvalidRow]:
        yield from export.read()
        if end is damage_export:
            raise ImportFileError("the export cannot be read")

    results = (FullDisk if end is fill_disk else Results).open(tmp_path / "results", {"format": "velo-users"})
    all_sent, opened = asyncio.Event(), asyncio.Event()

    async def hold(proceed: Callable[..., Any], record: Record, rev: int) -> Any:
        """Hold the write of the last row until the gate is opened, and that of the second until all rows were sent."""
        if record.user_email == FOURTH:
            all_sent.set()
            await opened.wait()
        elif record.user_email == SECOND:
            await all_sent.wait()
        return await proceed(record, rev)

    async with AsyncClient(service.grpc_address, key=caller_key("service")) as client:
        importer = Importer(client, RateLimiter(1000), replace=False)
        with (
            contextlib.closing(results),
            service.store.intercept("put", hold),
            scanned(export, time.time()) as scan,
        ):
            run = asyncio.create_task(
                importer.run(replace(export, read=read), scan, results, lambda _rows: None)
            )
            await all_sent.wait()
            await end(results, importer, run)
            await stored_state(service, FIRST)  # meanwhile, an import that does not wait ends
            assert not run.done()
            opened.set()
            await asyncio.wait([run])
    assert run.cancelled() == (end is cancel)
    if end in (damage_export, interrupt):  # otherwise, the next run imports the rows again, without effect
        lines = (tmp_path / "results").read_text().splitlines()
        assert [json.loads(line).get("status") for line in lines[1:]] == ["stored"] * 4
    for user in (FIRST, SECOND, THIRD, FOURTH):
        assert await stored_state(service, user) == Connection.STATE_ACTIVE


async def stored_state(service: Harness, user: str) -> int:
    """Return the state of a user's connection."""
    response = await service.call(service.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
    state: int = response.connection.state
    return state
