"""What else may be in the store: rows of a release to come, and very many people."""

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
from zoomgate_server.connections import record
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.mongodb import RECORDS
from zoomgate_server.watch import change_feed


def write_row_of_another_kind(place: Place) -> None:
    """Write what a later release might keep beside connections."""
    if place.uri:
        with MongoClient(place.uri) as client:
            name = {"app": APP, "kind": "to come", "subject": "x"}
            row = {"_id": name, "value": b"?", "rev": 1, "state": "", "key_id": "", "changed_at": time.time()}
            client.get_default_database()[RECORDS].insert_one(row)
        return
    with closing(sqlite3.connect(place.file)) as connection, connection:
        connection.execute(
            "INSERT INTO record (app, kind, subject, value, rev, state, key_id, changed_at) VALUES (?,?,?,?,?,?,?,?)",
            (APP, "to come", "x", b"?", 1, "", "", time.time()),
        )


async def test_rows_of_another_kind_are_none_of_ours(
    zoomgate: Harness, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that keeps more than this one may share the store: this one goes on hearing of what others change."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 0.01)
    await zoomgate.connect()
    write_row_of_another_kind(place)
    async with serving(zoomgate.simulator, tmp_path / "other", place.elsewhere()) as other:
        wanted = auth.GetTokenRequest(user_email=MONICA)
        await zoomgate.call(zoomgate.auth.GetToken, wanted)
        await other.call(other.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
        code = grpc.StatusCode.OK
        while code is grpc.StatusCode.OK:
            await asyncio.sleep(0.01)
            try:
                await zoomgate.call(zoomgate.auth.GetToken, wanted)
            except grpc.aio.AioRpcError as error:
                code = error.code()
        assert code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_ten_thousand_people_are_listed_in_bounded_memory(zoomgate: Harness, place: Place) -> None:
    """Page after page, each person once, in order; the service never holds more than a page."""
    await zoomgate.connect()
    envelope = Envelope(app=APP, keys=key_file.load(Path(place.environ["ZOOMGATE_KEYS"])))
    monica = record.decode(envelope, await place.record(MONICA))
    people = [f"person-{number:05}@example.com" for number in range(10_000)]
    with closing(sqlite3.connect(place.file)) as connection, connection:
        for person in people:
            row = record.encode(envelope, replace(monica, user_email=person, zoom_user_id=person))
            connection.execute(
                "INSERT INTO record (app, kind, subject, value, rev, state, key_id, zoom_user_id, changed_at)"
                " VALUES (?, 'user', ?, ?, 1, ?, ?, ?, 1.0)",
                (APP, person, row.value, row.state, row.key_id, person),
            )
    request, pages, found = auth.ListConnectionsRequest(page_size=1000), 0, []
    tracemalloc.start()
    while pages == 0 or request.page_token:
        page = await zoomgate.call(zoomgate.auth.ListConnections, request, "admin")
        pages += 1
        found += [shown.user_email for shown in page.connections]
        request.page_token = page.next_page_token
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pages, found) == (11, [MONICA, *people])
    assert peak < 16_000_000
