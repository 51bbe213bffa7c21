"""Where a service keeps its records: a SQLite file or a MongoDB database."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from zoomgate_server.storage.mongodb import RECORDS, MongoStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore
from zoomgate_server.storage.sqlite import SqliteStore

APP = "loopback|zoomgate-dev"


@dataclass
class Place:
    """The store beside a service.

    Attributes:
        folder: The data folder.
        environ: Settings of every service that uses the store.
    """

    folder: Path
    environ: dict[str, str]
    _store: RecordStore | None = None

    @property
    def uri(self) -> str:
        """Address of the database; empty for a file."""
        return self.environ.get("ZOOMGATE_STORE", "")

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / "zoomgate.db"

    def elsewhere(self) -> dict[str, str]:
        """Settings of a service that has another data folder and this store."""
        return self.environ if self.uri else self.environ | {"ZOOMGATE_STORE": f"sqlite:///{self.file}"}

    async def store(self) -> RecordStore:
        """The store, opened by somebody else."""
        if self._store is None:
            opened: RecordStore = (
                await MongoStore.open(self.uri) if self.uri else await SqliteStore.open(self.file, time.time)
            )
            self._store = opened
        return self._store

    async def record(self, user: str) -> Record:
        """A person's record."""
        record, _ = await (await self.store()).get(RecordKey(APP, Kind.USER, user))
        assert record is not None
        return record

    async def put(self, record: Record) -> Record:
        """Write something over a person's record; it has to be there."""
        before = await self.record(record.key.subject)
        rev = await (await self.store()).put(record, before.rev)
        assert rev is not None
        return replace(record, rev=rev)

    def write_fields(self, user: str, fields: dict[str, Any]) -> None:
        """Write fields of a person's record past the store; None takes one away where there are fields to take away."""
        if self.uri:
            with MongoClient(self.uri) as client:
                change = {"$set": {name: value for name, value in fields.items() if value is not None}}
                gone = {name: "" for name, value in fields.items() if value is None}
                change |= {"$unset": gone} if gone else {}
                found = client.get_default_database()[RECORDS].update_one({"subject": user}, change)
                assert found.matched_count == 1
            return
        with closing(sqlite3.connect(self.file)) as connection, connection:
            for name, value in fields.items():
                connection.execute(f"UPDATE record SET {name} = ? WHERE subject = ?", (value, user))  # noqa: S608 - names of the tests

    async def close(self) -> None:
        """Close what was opened."""
        if self._store is not None:
            await self._store.close()
