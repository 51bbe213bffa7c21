"""Tests for a store with records of a later release, and with many users."""

import asyncio
import sqlite3
import time
import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from pymongo import MongoClient

from resilience.place import APP, Place
from support.harness import MONICA, Harness, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import record
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.mongodb import RECORDS
from zoomgate_server.watch import change_feed


def write_record_of_unknown_kind(place: Place) -> None:
    """Write a record of a kind that this release does not know."""
    if place.uri:
        with MongoClient(place.uri) as client:
            name = {"app": APP, "kind": "future", "subject": "x"}
            document = {
                "_id": name,
                "value": b"?",
                "rev": 1,
                "state": "",
                "key_id": "",
                "changed_at": time.time(),
            }
            client.get_default_database()[RECORDS].insert_one(document)
        return
    with closing(sqlite3.connect(place.file)) as connection, connection:
        connection.execute(
            "INSERT INTO record (app, kind, subject, value, rev, state, key_id, changed_at) VALUES (?,?,?,?,?,?,?,?)",
            (APP, "future", "x", b"?", 1, "", "", time.time()),
        )


@pytest.mark.parametrize("timing", [Timing(feed=change_feed.Timing(poll_interval=0.01))], indirect=True)
async def test_records_of_unknown_kinds_are_ignored(zoomgate: Harness, place: Place, tmp_path: Path) -> None:
    """Changes of connections by other processes are still received, although the store contains records of a later release."""
    await zoomgate.connect()
    write_record_of_unknown_kind(place)
    async with serving(zoomgate.simulator, tmp_path / "other", place.elsewhere()) as other:
        request = auth.GetTokenRequest(user_email=MONICA)
        await zoomgate.call(zoomgate.auth.GetToken, request)
        await other.call(other.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
        code = grpc.StatusCode.OK
        while code is grpc.StatusCode.OK:
            await asyncio.sleep(0.01)
            try:
                await zoomgate.call(zoomgate.auth.GetToken, request)
            except grpc.aio.AioRpcError as error:
                code = error.code()
        assert code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_ten_thousand_users_are_listed_in_bounded_memory(zoomgate: Harness, place: Place) -> None:
    """The pages together contain each user once, sorted by address, and the service never holds more than one page in memory."""
    await zoomgate.connect()
    envelope = Envelope(app=APP, keys=key_file.load(Path(place.environ["ZOOMGATE_KEYS"])))
    monica = record.decode(envelope, await place.record(MONICA))
    users = [f"user-{number:05}@example.com" for number in range(10_000)]
    with closing(sqlite3.connect(place.file)) as connection, connection:
        for user in users:
            row = record.encode(envelope, replace(monica, user_email=user, zoom_user_id=user[::-1]))
            connection.execute(
                "INSERT INTO record (app, kind, subject, value, rev, state, key_id, user_email, changed_at)"
                " VALUES (?, 'user', ?, ?, 1, ?, ?, ?, 1.0)",
                (APP, row.key.subject, row.value, row.state, row.key_id, user),
            )
    request, pages, listed = auth.ListConnectionsRequest(page_size=1000), 0, []
    tracemalloc.start()
    while pages == 0 or request.page_token:
        page = await zoomgate.call(zoomgate.auth.ListConnections, request, "admin")
        pages += 1
        listed += [connection.user_email for connection in page.connections]
        request.page_token = page.next_page_token
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pages, listed) == (11, [MONICA, *users])
    assert peak < 16_000_000
