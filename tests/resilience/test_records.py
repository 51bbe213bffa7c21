"""A record that is damaged, moved, relabelled, or of another version or key: one person hears of it, and the record stays as it is."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo import MongoClient

from resilience.place import APP, Place
from support.harness import MONICA, OMAR, SECONDS, Harness, browser, consent, metadata, running, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.storage.mongodb import RECORDS
from zoomgate_server.storage.record_store import Kind, Record
from zoomgate_server.watch import change_feed

DAMAGED = ("DATA_LOSS", "RECORD_UNREADABLE")
UNSUPPORTED_VERSION = ("INTERNAL", "RECORD_VERSION")
KEY_MISSING = ("INTERNAL", "KEY_UNAVAILABLE")


def header_end(value: bytes) -> int:
    """Where the sealed part begins."""
    return 5 + int.from_bytes(value[1:5], "big")


def flipped(value: bytes, place: int) -> bytes:
    """A value with one bit changed."""
    changed = bytearray(value)
    changed[place] ^= 1
    return bytes(changed)


def in_header(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    """Change something in the readable part, to text of the same length."""

    def change(value: bytes) -> bytes:
        assert len(before) == len(after)
        assert value[: header_end(value)].count(before) == 1
        return value.replace(before, after, 1)

    return change


@dataclass(frozen=True)
class Fault:
    """What is wrong with a record.

    Attributes:
        name: In words.
        of: Monica's value or record as it is now, from her own record and Omar's.
        answer: Code and reason.
    """

    name: str
    of: Callable[[Record, Record], Record]
    answer: tuple[str, str] = DAMAGED


def of_value(change: Callable[[bytes], bytes]) -> Callable[[Record, Record], Record]:
    """Change the value alone."""
    return lambda mine, _: replace(mine, value=change(mine.value))


FAULTS = (
    Fault("empty", of_value(lambda _: b"")),
    Fault("version alone", of_value(lambda value: value[:1])),
    Fault("cut in the header", of_value(lambda value: value[:40])),
    Fault("cut before the sealed part", of_value(lambda value: value[: header_end(value)])),
    Fault("cut in the sealed part", of_value(lambda value: value[: header_end(value) + 20])),
    Fault("cut at the end", of_value(lambda value: value[:-1])),
    Fault("longer", of_value(lambda value: value + b"\0")),
    Fault("bit in the length", of_value(lambda value: flipped(value, 4))),
    Fault("bit in the nonce", of_value(lambda value: flipped(value, header_end(value) + 5))),
    Fault("bit in the ciphertext", of_value(lambda value: flipped(value, header_end(value) + 40))),
    Fault("bit in the tag", of_value(lambda value: flipped(value, -1))),
    Fault("version 0", of_value(lambda value: b"\0" + value[1:])),
    Fault("version 2", of_value(lambda value: b"\2" + value[1:]), UNSUPPORTED_VERSION),
    Fault("generation", of_value(in_header(b'"generation":1', b'"generation":2'))),
    Fault("lease", of_value(in_header(b'"lease":null', b'"lease":1234'))),
    Fault("cause", of_value(in_header(b'"cause":null', b'"cause":true'))),
    Fault("header of another person", lambda mine, other: replace(mine, value=_with_header(mine, other))),
    Fault("value of another person", lambda mine, other: replace(mine, value=other.value)),
    Fault("said to be ended", lambda mine, _: replace(mine, state="DISCONNECTED")),
    Fault("without a state", lambda mine, _: replace(mine, state="")),
    Fault("another Zoom user", lambda mine, _: replace(mine, zoom_user_id="somebody")),
    Fault("no Zoom user", lambda mine, _: replace(mine, zoom_user_id=None)),
    Fault("version 4", of_value(lambda value: b"\4" + value[1:]), UNSUPPORTED_VERSION),
    Fault("version 255", of_value(lambda value: b"\xff" + value[1:]), UNSUPPORTED_VERSION),
    Fault("key", of_value(lambda value: flipped(value, header_end(value) + 1)), KEY_MISSING),
)

WRONG_FIELDS: tuple[dict[str, Any], ...] = (
    {"value": "text"},
    {"value": 7},
    {"value": 10**15},
    {"value": 1.5},
    {"state": b"ACTIVE"},
    {"zoom_user_id": b"x"},
)
"""Fields of a type that they do not have."""


def _with_header(mine: Record, other: Record) -> bytes:
    return other.value[: header_end(other.value)] + mine.value[header_end(mine.value) :]


@pytest.fixture
async def people(zoomgate: Harness, place: Place) -> tuple[Record, Record]:
    """The records of two people who are connected."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    return await place.record(MONICA), await place.record(OMAR)


async def must_hear(zoomgate: Harness, answer: tuple[str, str]) -> None:
    """Every call about Monica that needs her record fails in the same way, and spends nothing; a member's calls too."""
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
        refusal = await zoomgate.refusal(method, request, caller)
        assert refusal.short == answer, method
        assert refusal.metadata["record"].startswith("user/")
        assert "sim-" not in refusal.message


async def must_work(zoomgate: Harness, user: str) -> None:
    """A person's token is given, refreshed and used."""
    await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=user))
    request = proxy.GetRequest(user_email=user, url="/users/me")
    assert (await zoomgate.call(zoomgate.proxy.Get, request)).response.status == 200


async def must_be_told_of_and_left(zoomgate: Harness, place: Place, answer: tuple[str, str]) -> None:
    """A fault of Monica's record: she alone hears of it, nothing is written or spent, and a consent heals what nobody can read."""
    before, issued = await place.record(MONICA), zoomgate.stat("token.refresh_token.issued")
    await must_hear(zoomgate, answer)
    await must_work(zoomgate, OMAR)
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    assert OMAR in [connection.user_email for connection in listed.connections]
    assert await place.record(MONICA) == before
    assert zoomgate.stat("token.refresh_token.issued") == issued + 1, "Omar's alone"
    if answer == DAMAGED:
        await zoomgate.connect()
        await must_work(zoomgate, MONICA)
        assert (await place.record(MONICA)).state == "ACTIVE"
        return
    async with browser() as session:
        page = await consent(session, (await zoomgate.begin()).authorization_url, MONICA)
    assert page.url.query["outcome"] == "try_later"
    assert await place.record(MONICA) == before


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_one_person_hears_of_a_fault(
    zoomgate: Harness, place: Place, people: tuple[Record, Record], fault: Fault
) -> None:
    """Never absent, never REAUTH_REQUIRED, never written over by anything but a consent."""
    await place.put(fault.of(*people))
    await must_be_told_of_and_left(zoomgate, place, fault.answer)


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=str)
async def test_a_field_of_another_type_is_damage(
    zoomgate: Harness, place: Place, people: tuple[Record, Record], fields: dict[str, Any]
) -> None:
    """Whatever somebody wrote into a column."""
    place.write_fields(MONICA, fields)
    await must_be_told_of_and_left(zoomgate, place, DAMAGED)


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
@pytest.mark.parametrize("field", ["value", "state", "zoom_user_id"])
async def test_a_field_that_is_missing_is_damage(
    zoomgate: Harness, place: Place, people: tuple[Record, Record], field: str
) -> None:
    """Documents may lack any field; a row of SQLite lacks none but the last, which is a fault of the first table."""
    place.write_fields(MONICA, {field: None})
    await must_be_told_of_and_left(zoomgate, place, DAMAGED)


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
async def test_another_persons_document_under_this_persons_name_is_damage(
    zoomgate: Harness, place: Place, people: tuple[Record, Record]
) -> None:
    """A whole document in the wrong place, or the wrong one from the driver, never lets one person act with another's token."""
    with MongoClient(place.uri) as client:
        records = client.get_default_database()[RECORDS]
        mine, other = (records.find_one({"subject": user}) for user in (MONICA, OMAR))
        assert mine is not None
        assert other is not None
        other["zoom_user_claim"] = mine["zoom_user_claim"]
        records.replace_one({"_id": mine["_id"]}, other | {"_id": mine["_id"]})
    await must_hear(zoomgate, DAMAGED)
    await must_work(zoomgate, OMAR)


BESIDE: tuple[tuple[str, Any, bool], ...] = (
    ("app", None, False),
    ("app", "another", False),
    ("app", [APP], False),
    ("kind", None, False),
    ("kind", "another", False),
    ("subject", None, False),
    ("subject", 7, False),
    ("subject", [MONICA], False),
    ("rev", None, True),
    ("rev", "7", True),
    ("rev", 0, True),
    ("rev", 7.5, True),
    ("key_id", None, True),
    ("key_id", {"a": 1}, True),
    ("changed_at", None, True),
    ("due_at", "later", True),
)
"""Fields beside the sealed value, what is wrong with them, and whether the record can be used all the same."""


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
@pytest.mark.parametrize(("field", "value", "usable"), BESIDE, ids=str)
async def test_a_document_whose_other_fields_are_damaged(
    zoomgate: Harness, place: Place, people: tuple[Record, Record], field: str, value: object, usable: bool
) -> None:
    """One that no longer says whose it is is damage; whatever else is wrong, its person is served, and the next write puts it right."""
    place.write_fields(MONICA, {field: value})
    if usable:
        await must_work(zoomgate, MONICA)
    else:
        await must_hear(zoomgate, DAMAGED)
        await zoomgate.connect()
        await must_work(zoomgate, MONICA)
    await must_work(zoomgate, OMAR)
    assert (await place.record(MONICA)).rev > 0
    changes, _ = await (await place.store()).changes(APP, Kind.USER, 0.0)
    assert {MONICA, OMAR} <= {change.key.subject for change in changes}


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
async def test_a_document_that_is_nobodys_ends_no_page_early(
    zoomgate: Harness, place: Place, people: tuple[Record, Record]
) -> None:
    """Whoever goes through people page by page comes to those behind it: a page is shorter only when there are no more."""
    place.write_fields(MONICA, {"subject": [MONICA]})
    page = await (await place.store()).page(APP, Kind.USER, limit=1)
    assert [record.key.subject for record in page] == [OMAR]


@pytest.mark.parametrize("place", ["mongodb"], indirect=True)
async def test_a_document_that_is_nobodys_holds_up_neither_lists_nor_starts(
    zoomgate: Harness, place: Place, people: tuple[Record, Record]
) -> None:
    """Without a subject, a key id and a state it is left out of pages and of what changed, and a service starts beside it."""
    place.write_fields(MONICA, {"key_id": None, "state": 7, "subject": None})
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    assert [connection.user_email for connection in listed.connections] == [OMAR]
    changes, _ = await (await place.store()).changes(APP, Kind.USER, 0.0)
    assert [change.key.subject for change in changes if change.key.kind is Kind.USER] == [OMAR]
    async with running(place.folder.with_name("next"), environ=place.environ) as other:
        await other.call(other.auth.GetConnection, auth.GetConnectionRequest(user_email=OMAR))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("column", ["state", "zoom_user_id"])
async def test_text_that_is_none_is_damage(
    zoomgate: Harness, place: Place, people: tuple[Record, Record], column: str
) -> None:
    """A flipped bit may leave bytes in a row that are no UTF-8: that is one person's damage, and nobody else's."""
    with closing(sqlite3.connect(place.file)) as connection, connection:
        connection.execute(
            f"UPDATE record SET {column} = CAST(x'41ff' AS TEXT) WHERE subject = ?",  # noqa: S608 - names of the test
            (MONICA,),
        )
    await must_be_told_of_and_left(zoomgate, place, DAMAGED)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_a_row_whose_other_columns_are_damaged(
    zoomgate: Harness, place: Place, people: tuple[Record, Record]
) -> None:
    """Its person is served and can be refreshed, and a service starts beside it."""
    place.write_fields(MONICA, {"key_id": b"?", "changed_at": "never", "due_at": b"?"})
    async with running(place.folder.with_name("next"), environ=place.elsewhere()) as other:
        await other.call(other.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))
    await must_work(zoomgate, MONICA)
    await must_work(zoomgate, OMAR)


@pytest.mark.parametrize(
    "fields", [{"changed_at": "never"}, {"changed_at": b"?"}, {"subject": b"?"}], ids=str
)
async def test_a_damaged_row_holds_up_nobody_who_watches(
    zoomgate: Harness,
    place: Place,
    people: tuple[Record, Record],
    fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others are listed and told of, at a service that runs and at one that starts, from the beginning and behind a token."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 0.01)
    begun = await events_of(zoomgate, auth.WatchConnectionsRequest())
    place.write_fields(MONICA, fields)
    refreshed = auth.RefreshTokenRequest(user_email=OMAR)
    listed = auth.ListConnectionsRequest(states=[Connection.STATE_ACTIVE])
    folder = place.folder.with_name("next")
    async with serving(zoomgate.simulator, folder, place.elsewhere()) as other:
        for harness in (zoomgate, other):
            for token in ("", begun[-1].resume_token):
                generation = (await zoomgate.call(zoomgate.auth.RefreshToken, refreshed)).token.generation
                told = await events_of(harness, auth.WatchConnectionsRequest(resume_token=token))
                assert (OMAR, generation) in [
                    (event.connection.user_email, event.connection.generation) for event in told
                ]
            page = await harness.call(harness.auth.ListConnections, listed, "admin")
            assert OMAR in [connection.user_email for connection in page.connections]


async def events_of(harness: Harness, request: auth.WatchConnectionsRequest) -> list[Any]:
    """What a service that may act for some people is told up to the first TYPE_SYNCED."""
    call = harness.auth.WatchConnections(request, metadata=metadata("omars"), timeout=SECONDS)
    events = []
    async for event in call:
        events.append(event)
        if event.type == auth.WatchConnectionsResponse.TYPE_SYNCED:
            break
    call.cancel()
    return events
