"""Tests for records that are corrupt, misplaced, or of a different version or key: only the record's user is affected."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo import MongoClient

from resilience.place import APP, Place, key
from support.harness import MONICA, OMAR, SECONDS, Harness, browser, consent, metadata, running, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.storage.mongodb import RECORDS
from zoomgate_server.storage.record_store import Kind, Query, Record
from zoomgate_server.watch import change_feed

CORRUPT = ("DATA_LOSS", "RECORD_UNREADABLE")
UNSUPPORTED_VERSION = ("INTERNAL", "RECORD_VERSION")
KEY_MISSING = ("INTERNAL", "KEY_UNAVAILABLE")
NOT_FOUND = ("NOT_FOUND", "ZOOM_NOT_CONNECTED")


def header_end(value: bytes) -> int:
    """Return the offset of the ciphertext in a value."""
    return 5 + int.from_bytes(value[1:5], "big")


def flipped(value: bytes, position: int) -> bytes:
    """Return a copy of a value in which one bit of the byte at a position is flipped."""
    changed = bytearray(value)
    changed[position] ^= 1
    return bytes(changed)


def in_header(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    """Return a function that replaces bytes in a value's plaintext header with other bytes of the same length."""

    def change(value: bytes) -> bytes:
        assert len(before) == len(after)
        assert value[: header_end(value)].count(before) == 1
        return value.replace(before, after, 1)

    return change


@dataclass(frozen=True)
class Fault:
    """A faulty variant of a record.

    Attributes:
        name: Description of the fault.
        apply: Function that returns Monica's faulty record, based on Monica's and Omar's records.
        error: Expected status code and error reason.
    """

    name: str
    apply: Callable[[Record, Record], Record]
    error: tuple[str, str] = CORRUPT


def of_value(change: Callable[[bytes], bytes]) -> Callable[[Record, Record], Record]:
    """Return a function for `Fault.apply` that changes only the value of the record."""
    return lambda mine, _: replace(mine, value=change(mine.value))


FAULTS = (
    Fault("empty", of_value(lambda _: b"")),
    Fault("version byte only", of_value(lambda value: value[:1])),
    Fault("truncated in the header", of_value(lambda value: value[:40])),
    Fault("truncated before the ciphertext", of_value(lambda value: value[: header_end(value)])),
    Fault("truncated in the ciphertext", of_value(lambda value: value[: header_end(value) + 20])),
    Fault("truncated at the end", of_value(lambda value: value[:-1])),
    Fault("appended byte", of_value(lambda value: value + b"\0")),
    Fault("flipped bit in the length", of_value(lambda value: flipped(value, 4))),
    Fault("flipped bit in the nonce", of_value(lambda value: flipped(value, header_end(value) + 5))),
    Fault(
        "flipped bit in the ciphertext",
        of_value(lambda value: flipped(value, header_end(value) + 40)),
    ),
    Fault("flipped bit in the tag", of_value(lambda value: flipped(value, -1))),
    Fault("version 0", of_value(lambda value: b"\0" + value[1:])),
    Fault("version 2", of_value(lambda value: b"\2" + value[1:]), UNSUPPORTED_VERSION),
    Fault("generation", of_value(in_header(b'"generation":1', b'"generation":2'))),
    Fault("lease", of_value(in_header(b'"lease":null', b'"lease":1234'))),
    Fault("cause", of_value(in_header(b'"cause":null', b'"cause":true'))),
    Fault(
        "header of a different user", lambda mine, other: replace(mine, value=_with_header_of(mine, other))
    ),
    Fault("value of a different user", lambda mine, other: replace(mine, value=other.value)),
    Fault("marked as disconnected", lambda mine, _: replace(mine, state="DISCONNECTED")),
    Fault("no state", lambda mine, _: replace(mine, state="")),
    Fault("version 4", of_value(lambda value: b"\4" + value[1:]), UNSUPPORTED_VERSION),
    Fault("version 255", of_value(lambda value: b"\xff" + value[1:]), UNSUPPORTED_VERSION),
    Fault("missing key", of_value(lambda value: flipped(value, header_end(value) + 1)), KEY_MISSING),
)

WRONG_FIELDS: tuple[dict[str, Any], ...] = (
    {"value": "text"},
    {"value": 7},
    {"value": 10**15},
    {"value": 1.5},
    {"state": b"ACTIVE"},
)
"""Fields with values of a wrong type."""


def _with_header_of(mine: Record, other: Record) -> bytes:
    return other.value[: header_end(other.value)] + mine.value[header_end(mine.value) :]


@pytest.fixture
async def user_records(zoomgate: Harness, place: Place) -> tuple[Record, Record]:
    """Connect Monica and Omar, and return their records."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    return await place.record(MONICA), await place.record(OMAR)


async def assert_calls_fail(zoomgate: Harness, error: tuple[str, str]) -> None:
    """Check that every call that requires Monica's record fails with the same error, including a call by Monica."""
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    calls = (
        (zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA), "service"),
        (zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA), "service"),
        (zoomgate.auth.CheckToken, auth.CheckTokenRequest(user_email=MONICA), "service"),
        (zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA), "service"),
        (zoomgate.proxy.Get, me, "service"),
        (zoomgate.meetings.GetMeeting, meetings.GetMeetingRequest(user_email=MONICA, meeting_id=1), "monica"),
        (zoomgate.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA), "admin"),
    )
    for method, request, caller in calls:
        refusal = await zoomgate.error_of(method, request, caller)
        assert refusal.short == error, method
        assert refusal.metadata["record"].startswith("user/")
        assert "sim-" not in refusal.message


async def assert_usable(zoomgate: Harness, user: str) -> None:
    """Check that the token of a user can be refreshed and used."""
    await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=user))
    request = proxy.GetRequest(user_email=user, url="/users/me")
    assert (await zoomgate.call(zoomgate.proxy.Get, request)).response.status == 200


async def assert_reported_and_unchanged(zoomgate: Harness, place: Place, error: tuple[str, str]) -> None:
    """Check that a faulty record affects only Monica, and that only a new consent replaces a corrupt record."""
    before, issued = await place.record(MONICA), zoomgate.stat("token.refresh_token.issued")
    await assert_calls_fail(zoomgate, error)
    await assert_usable(zoomgate, OMAR)
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    assert OMAR in [connection.user_email for connection in listed.connections]
    assert await place.record(MONICA) == before
    assert zoomgate.stat("token.refresh_token.issued") == issued + 1, "only Omar's token may be refreshed"
    if error == CORRUPT:
        await zoomgate.connect()
        await assert_usable(zoomgate, MONICA)
        assert (await place.record(MONICA)).state == "ACTIVE"
        return
    async with browser() as session:
        page = await consent(session, (await zoomgate.begin_authorization()).authorization_url, MONICA)
    assert page.url.query["outcome"] == "try_later"
    assert await place.record(MONICA) == before


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_faulty_record_affects_only_its_user(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record], fault: Fault
) -> None:
    """A faulty record is never reported as missing or as REAUTH_REQUIRED, and only a consent overwrites the record."""
    await place.put(fault.apply(*user_records))
    await assert_reported_and_unchanged(zoomgate, place, fault.error)


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=str)
async def test_field_of_a_wrong_type_is_reported_as_corruption(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record], fields: dict[str, Any]
) -> None:
    place.write_fields(MONICA, fields)
    await assert_reported_and_unchanged(zoomgate, place, CORRUPT)


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
@pytest.mark.parametrize("field", ["value", "state"])
async def test_missing_field_is_reported_as_corruption(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record], field: str
) -> None:
    """Only MongoDB is tested, since neither column can be NULL in SQLite."""
    place.write_fields(MONICA, {field: None})
    await assert_reported_and_unchanged(zoomgate, place, CORRUPT)


@pytest.mark.parametrize(
    "value", [None, b"?", f"{len(APP)}:{APP}:other@example.com", "other@example.com"], ids=str
)
async def test_record_with_a_corrupt_email_address_is_found_by_no_address(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record], value: object
) -> None:
    """Its user is not connected until the next consent, and a caller with a different address cannot use the record."""
    place.write_fields(MONICA, {place.email_field: value})
    for user in (MONICA, "other@example.com"):
        request = auth.GetConnectionRequest(user_email=user)
        error = await zoomgate.error_of(zoomgate.auth.GetConnection, request)
        assert error.short in ((CORRUPT, NOT_FOUND) if user != MONICA else (NOT_FOUND,))
    await assert_usable(zoomgate, OMAR)
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    assert [connection.user_email for connection in listed.connections] == [OMAR]
    await zoomgate.connect()
    await assert_usable(zoomgate, MONICA)


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
async def test_document_of_a_different_user_is_reported_as_corruption(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record]
) -> None:
    """A misplaced document never causes Zoomgate to use the token of a different user."""
    with MongoClient(place.uri) as client:
        records = client.get_default_database()[RECORDS]
        mine, other = (records.find_one({"subject": key(user).subject}) for user in (MONICA, OMAR))
        assert mine is not None
        assert other is not None
        own = {name: mine[name] for name in ("_id", "email_key")}
        records.replace_one({"_id": mine["_id"]}, other | own)
    await assert_calls_fail(zoomgate, CORRUPT)
    await assert_usable(zoomgate, OMAR)


OTHER_FIELDS: tuple[tuple[str, Any, bool], ...] = (
    ("app", None, False),
    ("app", "other", False),
    ("app", [APP], False),
    ("kind", None, False),
    ("kind", "other", False),
    ("subject", None, False),
    ("subject", 7, False),
    ("subject", [key(MONICA).subject], False),
    ("rev", None, True),
    ("rev", "7", True),
    ("rev", 0, True),
    ("rev", 7.5, True),
    ("key_id", None, True),
    ("key_id", {"a": 1}, True),
    ("changed_at", None, True),
    ("due_at", "later", True),
)
"""Unencrypted fields, each with an invalid value and with whether the record remains usable."""


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
@pytest.mark.parametrize(("field", "value", "usable"), OTHER_FIELDS, ids=str)
async def test_document_with_other_corrupt_fields(
    zoomgate: Harness,
    place: Place,
    user_records: tuple[Record, Record],
    field: str,
    value: object,
    usable: bool,
) -> None:
    """If a field of the record's key is corrupt, calls fail. With any other corrupt field, calls succeed, and the next write repairs it."""
    place.write_fields(MONICA, {field: value})
    if usable:
        await assert_usable(zoomgate, MONICA)
    else:
        await assert_calls_fail(zoomgate, CORRUPT)
        await zoomgate.connect()
        await assert_usable(zoomgate, MONICA)
    await assert_usable(zoomgate, OMAR)
    assert (await place.record(MONICA)).rev > 0
    changes, _ = await (await place.store()).changes(APP, Kind.USER, 0.0)
    assert {MONICA, OMAR} <= {change.user_email for change in changes}


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
async def test_document_without_a_valid_subject_does_not_shorten_pages(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record]
) -> None:
    """Callers take a page shorter than its limit for the last one, so an unreadable document is skipped and the page filled."""
    place.write_fields(MONICA, {"subject": [key(MONICA).subject]})
    page = await (await place.store()).page(APP, Kind.USER, Query(limit=1))
    assert [record.key for record in page] == [key(OMAR)]


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
async def test_document_without_a_valid_subject_blocks_neither_lists_nor_starts(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record]
) -> None:
    """A document without subject, key ID and state is omitted from pages and changes, and a service can start."""
    place.write_fields(MONICA, {"key_id": None, "state": 7, "subject": None})
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    assert [connection.user_email for connection in listed.connections] == [OMAR]
    changes, _ = await (await place.store()).changes(APP, Kind.USER, 0.0)
    assert [change.user_email for change in changes] == [OMAR]
    async with running(place.folder.with_name("next"), environ=place.environ) as other:
        await other.call(other.auth.GetConnection, auth.GetConnectionRequest(user_email=OMAR))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_invalid_utf8_is_reported_as_corruption(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record]
) -> None:
    """Invalid UTF-8, for example due to a flipped bit, affects only the record's user."""
    with closing(sqlite3.connect(place.file)) as connection, connection:
        connection.execute(
            "UPDATE record SET state = CAST(x'41ff' AS TEXT) WHERE subject = ?", (key(MONICA).subject,)
        )
    await assert_reported_and_unchanged(zoomgate, place, CORRUPT)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_row_with_other_corrupt_columns_is_usable(
    zoomgate: Harness, place: Place, user_records: tuple[Record, Record]
) -> None:
    """The token of the user can be refreshed, and a second service can start."""
    place.write_fields(MONICA, {"key_id": b"?", "changed_at": "never", "due_at": b"?"})
    async with running(place.folder.with_name("next"), environ=place.elsewhere()) as other:
        await other.call(other.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))
    await assert_usable(zoomgate, MONICA)
    await assert_usable(zoomgate, OMAR)


@pytest.mark.parametrize("timing", [Timing(feed=change_feed.Timing(poll_interval=0.01))], indirect=True)
@pytest.mark.parametrize(
    "fields", [{"changed_at": "never"}, {"changed_at": b"?"}, {"subject": b"?"}], ids=str
)
async def test_corrupt_row_does_not_block_watches(
    zoomgate: Harness,
    place: Place,
    user_records: tuple[Record, Record],
    fields: dict[str, Any],
    timing: Timing,
) -> None:
    """Other users can be listed and watched through a running and a newly started service, with and without a resume token."""
    initial = await watch_until_synced(zoomgate, auth.WatchConnectionsRequest())
    place.write_fields(MONICA, fields)
    refresh_request = auth.RefreshTokenRequest(user_email=OMAR)
    list_request = auth.ListConnectionsRequest(states=[Connection.STATE_ACTIVE])
    directory = place.folder.with_name("next")
    async with serving(zoomgate.simulator, directory, place.elsewhere(), timing=timing) as other:
        for harness in (zoomgate, other):
            for token in ("", initial[-1].resume_token):
                generation = (
                    await zoomgate.call(zoomgate.auth.RefreshToken, refresh_request)
                ).token.generation
                events = await watch_until_synced(harness, auth.WatchConnectionsRequest(resume_token=token))
                assert (OMAR, generation) in [
                    (event.connection.user_email, event.connection.generation) for event in events
                ]
            page = await harness.call(harness.auth.ListConnections, list_request, "admin")
            assert OMAR in [connection.user_email for connection in page.connections]


async def watch_until_synced(harness: Harness, request: auth.WatchConnectionsRequest) -> list[Any]:
    """Watch as a caller with access to Omar only, and return the events up to the first TYPE_SYNCED."""
    call = harness.auth.WatchConnections(request, metadata=metadata("omars"), timeout=SECONDS)
    events = []
    async for event in call:
        events.append(event)
        if event.type == auth.WatchConnectionsResponse.TYPE_SYNCED:
            break
    call.cancel()
    return events
