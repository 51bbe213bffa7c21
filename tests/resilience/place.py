"""Direct access to the SQLite file or MongoDB database of a service."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from zoom_simulator.options import DEFAULT_USERS
from zoomgate_server.storage.mongodb import RECORDS, MongoStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore
from zoomgate_server.storage.sqlite import SqliteStore

APP = "loopback|zoomgate-dev"
ZOOM_USER_IDS = {user.email: user.user_id for user in DEFAULT_USERS}


def key(user: str) -> RecordKey:
    """Return the key of the connection of a simulated user."""
    return RecordKey(APP, Kind.USER, ZOOM_USER_IDS[user])


@dataclass
class Place:
    """Direct access to the store of a service.

    Attributes:
        folder: The data directory of the service.
        environ: Settings of all services that use the store.
    """

    folder: Path
    environ: dict[str, str]
    _store: RecordStore | None = None

    @property
    def uri(self) -> str:
        """The address of the database, or an empty string for a file."""
        return self.environ.get("ZOOMGATE_STORE", "")

    @property
    def file(self) -> Path:
        """The path of the SQLite file."""
        return self.folder / "zoomgate.db"

    @property
    def email_field(self) -> str:
        """The name of the column or field with a connection's email address."""
        return "email_key" if self.uri else "user_email"

    def elsewhere(self) -> dict[str, str]:
        """Return the settings of a service with a different data directory and the same store."""
        return self.environ if self.uri else self.environ | {"ZOOMGATE_STORE": f"sqlite:///{self.file}"}

    async def store(self) -> RecordStore:
        """Return the store, opened independently of the service."""
        if self._store is None:
            opened: RecordStore = (
                await MongoStore.open(self.uri) if self.uri else await SqliteStore.open(self.file, time.time)
            )
            self._store = opened
        return self._store

    async def record(self, user: str) -> Record:
        """Return the record of a user."""
        record, _ = await (await self.store()).get(key(user))
        assert record is not None
        return record

    async def put(self, record: Record) -> Record:
        """Overwrite a record, which must exist in the store."""
        store = await self.store()
        before, _ = await store.get(record.key)
        assert before is not None
        rev = await store.put(record, before.rev)
        assert rev is not None
        return replace(record, rev=rev)

    def write_fields(self, user: str, fields: dict[str, Any]) -> None:
        """Write fields of a user's record directly to the database. None removes a field in MongoDB and sets a column to NULL in SQLite."""
        if self.uri:
            with MongoClient(self.uri) as client:
                change = {"$set": {name: value for name, value in fields.items() if value is not None}}
                removed = {name: "" for name, value in fields.items() if value is None}
                change |= {"$unset": removed} if removed else {}
                result = client.get_default_database()[RECORDS].update_one(
                    {"subject": key(user).subject}, change
                )
                assert result.matched_count == 1
            return
        with closing(sqlite3.connect(self.file)) as connection, connection:
            for name, value in fields.items():
                statement = f"UPDATE record SET {name} = ? WHERE subject = ?"  # noqa: S608 - names come from the tests
                connection.execute(statement, (value, key(user).subject))

    async def close(self) -> None:
        """Close the store if it is open."""
        if self._store is not None:
            await self._store.close()
