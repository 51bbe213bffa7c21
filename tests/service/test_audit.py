"""The audit trail of a running service: a line for each decision, before its answer, without a secret."""

import asyncio
import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from conftest import SECRETS
from support.harness import BASIL, MONICA, OMAR, Harness, browser, consent, consent_form, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import meetings_service_pb2 as meetings_pb
from zoomgate.v1 import proxy_service_pb2 as proxy_pb
from zoomgate_server.audit import trail
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import Record, StoreError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.zoom.client import ZoomClient

SHAPE = ["time", "action", "outcome", "principal", "role", "on_behalf_of", "user", "method", "request_id"]
OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}


@pytest.fixture(autouse=True)
def _look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the file's name before each line."""
    monkeypatch.setattr(trail, "FILE_CHECK_INTERVAL", 0.0)


def lines(data_dir: Path, action: str = "") -> list[dict[str, Any]]:
    """What the trail of a data folder tells, of one action or all."""
    text = (data_dir / "audit.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if action in ("", line["action"])]


def get(user: str = MONICA) -> pb.GetTokenRequest:
    return pb.GetTokenRequest(user_email=user)


async def last(zoomgate: Harness, action: str) -> dict[str, Any]:
    """The newest line of an action, without what changes from run to run."""
    line = lines(zoomgate.data_dir, action)[-1]
    return {key: value for key, value in line.items() if key not in ("time", "request_id")}


async def test_a_token_that_is_given_has_a_line(zoomgate: Harness) -> None:
    """GetToken, RefreshToken, RequestToken and CreateToken tell who got whose token, by its fingerprint, when the answer arrives."""
    await zoomgate.connect()
    zoom = zoomgate.simulator.zoom
    brought = zoom.exchange(zoom.issue_code(zoom.users[OMAR], "http://x/"), "http://x/", "")["refresh_token"]
    code = zoom.issue_code(zoom.users[BASIL], f"{zoomgate.http_url}/oauth/callback")
    requests: list[tuple[Any, Any, str]] = [
        (zoomgate.auth.GetToken, get(), MONICA),
        (zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA), MONICA),
        (zoomgate.auth.RequestToken, pb.RequestTokenRequest(user_email=OMAR, refresh_token=brought), OMAR),
        (zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=BASIL, code=code), BASIL),
    ]
    marks = []
    for method, request, user in requests:
        token = (await zoomgate.call(method, request)).token
        line = await last(zoomgate, "token.returned")
        marks.append((line["access_fingerprint"], line["refresh_fingerprint"]))
        assert re.fullmatch(r"[0-9a-f]{16}", marks[-1][0])
        assert line == {
            "action": "token.returned",
            "outcome": "ok",
            "principal": "service",
            "role": "service",
            "on_behalf_of": "",
            "user": user,
            "method": f"AuthService.{method._method.decode().rpartition('/')[2]}",
            "generation": token.generation,
            "access_fingerprint": marks[-1][0],
            "refresh_fingerprint": marks[-1][1],
        }
    assert len(set(sum(marks, ()))) == 2 * len(marks)
    await zoomgate.call(zoomgate.auth.GetToken, get())
    again = await last(zoomgate, "token.returned")
    assert (again["access_fingerprint"], again["refresh_fingerprint"]) == marks[1]
    assert len(lines(zoomgate.data_dir, "token.returned")) == 5


async def test_a_caller_without_refresh_tokens_got_none(zoomgate: Harness) -> None:
    """The line has the fingerprint of a refresh token only if the caller got one; `success` alone is no token."""
    await zoomgate.connect(OMAR)
    await zoomgate.call(zoomgate.auth.GetToken, get(OMAR), "narrow")
    line = await last(zoomgate, "token.returned")
    assert (line["principal"], "refresh_fingerprint" in line) == ("narrow", False)
    code = zoomgate.simulator.zoom.issue_code(
        zoomgate.simulator.zoom.users[MONICA], f"{zoomgate.http_url}/oauth/callback"
    )
    await zoomgate.call(
        zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=MONICA, code=code), "blind"
    )
    assert len(lines(zoomgate.data_dir, "token.returned")) == 1


async def test_the_life_of_a_connection_is_told(tmp_path: Path) -> None:
    """Begun, stored, refreshed, consent needed, ended: by whom, about whom, and with which tokens."""
    async with running(tmp_path / "data", environ=OFTEN) as zoomgate:
        await zoomgate.connect()
        made, begun, stored = lines(zoomgate.data_dir)
        assert (made["action"], made["principal"]) == ("keys.created", "zoomgate")
        assert (begun["action"], begun["principal"], begun["user"]) == (
            "authorization.started",
            "service",
            MONICA,
        )
        assert (stored["action"], stored["principal"], stored["generation"]) == (
            "connection.stored",
            "browser",
            1,
        )
        assert stored["details"] == {"origin": "consent", "initiated_by": "key|service"}
        await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        refreshed = await last(zoomgate, "connection.refreshed")
        given = await last(zoomgate, "token.returned")
        assert (refreshed["principal"], refreshed["user"], refreshed["generation"]) == ("zoomgate", MONICA, 2)
        assert refreshed["access_fingerprint"] == given["access_fingerprint"] != stored["access_fingerprint"]
        zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
        await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        needed = await last(zoomgate, "connection.reauth_required")
        assert (needed["outcome"], needed["user"]) == ("REVOKED", MONICA)
        await zoomgate.call(
            zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA), "admin"
        )
        ended = await last(zoomgate, "connection.disconnected")
        assert (ended["principal"], ended["role"], ended["user"]) == ("admin", "admin", MONICA)


async def test_a_consent_that_led_to_nothing_is_told(zoomgate: Harness) -> None:
    """Declined, opened in another browser, given by somebody else: whom it was for, and what became of the tokens."""
    begun = await zoomgate.begin()
    async with browser() as session:
        await consent(session, begun.authorization_url, MONICA, "deny")
    assert await last(zoomgate, "authorization.rejected") == {
        "action": "authorization.rejected",
        "outcome": "DECLINED",
        "principal": "browser",
        "role": "",
        "on_behalf_of": "",
        "user": MONICA,
        "method": "",
    }
    begun = await zoomgate.begin()
    async with browser() as mine, browser() as other:
        action, fields = await consent_form(mine, begun.authorization_url)
        async with mine.post(
            action, data=fields | {"user": MONICA, "decision": "allow"}, allow_redirects=False
        ) as answer:
            back = answer.headers["Location"]
        async with other.get(back):
            assert (await last(zoomgate, "authorization.rejected"))["outcome"] == "OTHER_BROWSER"
    await zoomgate.connect(OMAR)
    begun = await zoomgate.begin(MONICA)
    async with browser() as session:
        await consent(session, begun.authorization_url, OMAR)
    wrong = await last(zoomgate, "connection.stored")
    moved_in = await last(zoomgate, "connection.relinked")
    assert (wrong["outcome"], wrong["user"]) == ("IDENTITY_MISMATCH", MONICA)
    assert (moved_in["user"], moved_in["generation"]) == (OMAR, 2)
    assert wrong["access_fingerprint"] == moved_in["access_fingerprint"]


async def test_a_refresh_token_that_zoom_refuses_is_told(zoomgate: Harness) -> None:
    """Who tries tokens that are none is named, as who tries codes is."""
    brought = pb.RequestTokenRequest(user_email=OMAR, refresh_token="sim-rt-never-issued")
    await zoomgate.refusal(zoomgate.auth.RequestToken, brought)
    line = await last(zoomgate, "authorization.rejected")
    assert (line["outcome"], line["principal"], line["user"]) == ("ZOOM_REAUTH_REQUIRED", "service", OMAR)


async def test_a_state_of_somebody_else_is_told(tmp_path: Path) -> None:
    """Who brings a state that another caller began is named, with whom it was about."""
    page = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1/done"}
    async with running(tmp_path / "data", environ=page) as zoomgate:
        state = (await zoomgate.begin(caller="blind")).state
        wanted = pb.CompleteAuthorizationRequest(code="code-of-somebody", state=state)
        await zoomgate.refusal(zoomgate.auth.CompleteAuthorization, wanted)
        line = await last(zoomgate, "authorization.rejected")
        assert (line["outcome"], line["principal"], line["user"]) == ("OTHER_CALLER", "service", MONICA)
        line = await last(zoomgate, "call.rejected")
        assert (line["outcome"], line["method"]) == ("INVALID_STATE", "AuthService.CompleteAuthorization")


async def test_a_person_with_a_new_address_is_told(zoomgate: Harness) -> None:
    """When a Zoom user consents under another address, the connection of the one before ends with a line."""
    await zoomgate.connect()
    users = zoomgate.simulator.zoom.users
    users["monika@example.com"] = replace(users[MONICA], email="monika@example.com")
    await zoomgate.connect("monika@example.com")
    line = await last(zoomgate, "connection.unlinked")
    assert (line["user"], line["principal"], line["generation"]) == (MONICA, "zoomgate", 1)


@pytest.mark.parametrize("what", ["not confirmed", "refused", "overtaken"])
async def test_a_person_with_a_new_address_is_told_once(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever the store makes of the first write that ends the earlier connection, it is told when it has ended, and not before."""
    await zoomgate.connect()
    users = zoomgate.simulator.zoom.users
    users["monika@example.com"] = replace(users[MONICA], email="monika@example.com")
    put, first = SqliteStore.put, True

    async def putting(self: SqliteStore, record: Record, if_rev: int) -> int | None:
        nonlocal first
        if record.state != "DISCONNECTED" or not first:
            return await put(self, record, if_rev)
        first = False
        if what == "overtaken":
            return None
        if what == "not confirmed":
            await put(self, record, if_rev)
        raise StoreError("injected")

    monkeypatch.setattr(SqliteStore, "put", putting)
    await zoomgate.connect("monika@example.com")
    assert not first
    told = [(line["user"], line["generation"]) for line in lines(zoomgate.data_dir, "connection.unlinked")]
    assert told == [(MONICA, 1)]


async def test_a_consent_that_a_later_one_overtook_is_told_as_such(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that were given up for those of a later consent are not told as stored."""
    send, asked, go_on = ZoomClient.send, asyncio.Event(), asyncio.Event()

    async def sending(self: ZoomClient, *arguments: Any, **named: Any) -> Any:
        answer = await send(self, *arguments, **named)
        if not asked.is_set():
            asked.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(ZoomClient, "send", sending)
    zoom, back = zoomgate.simulator.zoom, f"{zoomgate.http_url}/oauth/callback"

    async def consented() -> None:
        request = pb.CreateTokenRequest(user_email=MONICA, code=zoom.issue_code(zoom.users[MONICA], back))
        await zoomgate.call(zoomgate.auth.CreateToken, request, "blind")

    first = asyncio.create_task(consented())
    await asked.wait()
    await consented()
    go_on.set()
    await first
    told = [
        (line["outcome"], line.get("generation")) for line in lines(zoomgate.data_dir, "connection.stored")
    ]
    assert told == [("ok", 1), ("SUPERSEDED", None)]


async def test_a_consent_that_was_stored_and_refreshed_before_the_store_said_so_is_told_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may use a connection before the process that stored it knows that it is there."""
    async with running(tmp_path / "data", environ=OFTEN) as zoomgate:
        put, first = SqliteStore.put, True

        async def putting(self: SqliteStore, record: Record, if_rev: int) -> int | None:
            nonlocal first
            rev = await put(self, record, if_rev)
            if record.state == "ACTIVE" and first:
                first = False
                await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
                raise StoreError("injected")
            return rev

        monkeypatch.setattr(SqliteStore, "put", putting)
        zoom = zoomgate.simulator.zoom
        code = zoom.issue_code(zoom.users[MONICA], f"{zoomgate.http_url}/oauth/callback")
        await zoomgate.call(zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=MONICA, code=code))
        assert not first
        (line,) = lines(zoomgate.data_dir, "connection.stored")
        assert (line["outcome"], "generation" in line) == ("ok", False)


async def test_refusals_are_told(zoomgate: Harness) -> None:
    """Unknown and missing keys, foreign users, methods and members, and forbidden paths and headers have lines with who and from where."""
    cases: list[tuple[Any, Any, str, str, str, str]] = [
        (zoomgate.auth.GetToken, get(), "nobody", "", "CALLER_UNAUTHENTICATED", ""),
        (zoomgate.auth.GetToken, get(), "", "", "CALLER_UNAUTHENTICATED", ""),
        (zoomgate.auth.GetToken, get(), "service", "nobody", "CALLER_UNAUTHENTICATED", "service"),
        (zoomgate.auth.GetToken, get(), "narrow", "", "CALLER_NOT_ALLOWED", "narrow"),
        (zoomgate.auth.GetToken, get(), "admin", "", "CALLER_NOT_ALLOWED", "admin"),
        (
            zoomgate.proxy.Get,
            proxy_pb.GetRequest(user_email=OMAR, url="/users"),
            "narrow",
            "",
            "CALLER_NOT_ALLOWED",
            "narrow",
        ),
        (
            zoomgate.proxy.Get,
            proxy_pb.GetRequest(user_email=OMAR, url="/users/%2e%2e/x"),
            "service",
            "",
            "INVALID_PATH",
            "service",
        ),
    ]
    for method, request, caller, forwarded, reason, name in cases:
        assert (await zoomgate.refusal(method, request, caller, forwarded)).reason == reason
        line = await last(zoomgate, "call.rejected")
        assert (line["outcome"], line["principal"]) == (reason, name)
        assert line["details"]["peer"].startswith("ipv4:127.0.0.1:")
    told = lines(zoomgate.data_dir, "call.rejected")
    assert len(told) == len(cases)
    assert [line["user"] for line in told] == ["", "", "", MONICA, "", OMAR, OMAR]


async def test_who_is_behind_a_service_is_told(zoomgate: Harness) -> None:
    """A call on behalf of a member names both."""
    await zoomgate.connect()
    await zoomgate.call(
        zoomgate.auth.DeleteConnection,
        pb.DeleteConnectionRequest(user_email=MONICA),
        "service",
        "monica",
    )
    line = await last(zoomgate, "connection.disconnected")
    assert (line["principal"], line["on_behalf_of"]) == ("service", "monica")


async def test_lines_have_one_shape_and_hold_no_secret(tmp_path: Path) -> None:
    """Every line begins with the same fields, carries the request's id and a time, and has nothing that looks like a secret."""
    async with running(tmp_path / "data", environ=OFTEN) as zoomgate:
        await zoomgate.connect()
        metadata = (
            ("authorization", "Bearer zgk_test-key-of-service-0123456789"),
            ("x-request-id", "mine-7"),
        )
        await zoomgate.auth.GetToken(get(), metadata=metadata, timeout=10)
        await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        await zoomgate.refusal(zoomgate.auth.GetToken, get(), "nobody")
        tokens = [token for grant in zoomgate.simulator.zoom.access_tokens for token in (grant,)]
    text = (tmp_path / "data/audit.jsonl").read_text()
    assert not SECRETS.search(text)
    assert tokens
    assert not [token for token in tokens if token in text]
    told = lines(tmp_path / "data")
    for line in told:
        assert list(line)[: len(SHAPE)] == SHAPE
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["action"] in trail.ACTIONS
    assert told[3]["request_id"] == "mine-7"
    assert (tmp_path / "data/audit.jsonl").stat().st_mode & 0o777 == 0o600


async def test_many_refusals_do_not_fill_the_disk(tmp_path: Path) -> None:
    """Of a flood of unknown keys 30 have a line, and one line says how many more there were; another caller's refusals keep theirs."""
    async with running(tmp_path / "data") as zoomgate:
        floods = [zoomgate.refusal(zoomgate.auth.GetToken, get(), "nobody") for _ in range(200)]
        await asyncio.gather(*floods, zoomgate.refusal(zoomgate.auth.GetToken, get(), "narrow"))
    told = lines(tmp_path / "data", "call.rejected")
    unknown = [line for line in told if line["outcome"] == "CALLER_UNAUTHENTICATED"]
    assert len(told) - len(unknown) == 1
    assert len(unknown) == trail.REJECTIONS_PER_MINUTE + 1
    assert unknown[-1]["details"] == {"suppressed": 200 - trail.REJECTIONS_PER_MINUTE}


@pytest.mark.parametrize("required", ["on", "off"])
async def test_without_room_no_token_is_given_unless_chosen_otherwise(tmp_path: Path, required: str) -> None:
    """While the disk is full tokens are kept back, valid ones too, and all else goes on; with room again all is well, no line is torn."""
    async with running(tmp_path / "data", environ={"ZOOMGATE_AUDIT_REQUIRED": required}) as zoomgate:
        await zoomgate.connect()
        await zoomgate.call(zoomgate.auth.GetToken, get())
        size = (tmp_path / "data/audit.jsonl").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # room for a part of a line
        try:
            if required == "off":
                await zoomgate.call(zoomgate.auth.GetToken, get())
            else:
                refusal = await zoomgate.refusal(zoomgate.auth.GetToken, get())
                assert refusal.short == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
                assert refusal.retry_after
            listed = await zoomgate.call(
                zoomgate.proxy.Get, proxy_pb.GetRequest(user_email=MONICA, url="/users/me")
            )
            assert listed.response.status == 200
            assert (await zoomgate.refusal(zoomgate.auth.GetToken, get(), "nobody")).code is (
                grpc.StatusCode.UNAUTHENTICATED
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await zoomgate.call(zoomgate.auth.GetToken, get())
        async with browser() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
            assert "zoomgate_audit_failures_total 2.0" in await page.text()
    whole, torn = [], 0
    for text in (tmp_path / "data/audit.jsonl").read_text().splitlines():
        try:
            whole.append(json.loads(text)["action"])
        except ValueError:
            torn += 1
    assert (whole[-2:], torn) == (["token.returned", "token.returned"], 1)


async def test_a_refresh_without_room_is_kept(tmp_path: Path) -> None:
    """A token that was refreshed while its hand-out could not be written is stored, and given later."""
    async with running(tmp_path / "data", environ=OFTEN | {"ZOOMGATE_AUDIT": "/dev/full"}) as zoomgate:
        await zoomgate.connect()
        refusal = await zoomgate.refusal(
            zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA)
        )
        assert refusal.reason == "AUDIT_UNAVAILABLE"
        shown = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
        assert shown.connection.generation == 2


async def test_a_file_that_was_rotated_is_left(zoomgate: Harness) -> None:
    """After a rename the next line is in a new file, of mode 0600, and after a removal too."""
    await zoomgate.connect()
    path = zoomgate.data_dir / "audit.jsonl"
    before = len(lines(zoomgate.data_dir))
    path.rename(path.with_suffix(".jsonl.1"))
    await zoomgate.call(zoomgate.auth.GetToken, get())
    assert [line["action"] for line in lines(zoomgate.data_dir)] == ["token.returned"]
    assert len(path.with_suffix(".jsonl.1").read_text().splitlines()) == before
    path.unlink()
    await zoomgate.call(zoomgate.auth.GetToken, get())
    assert [line["action"] for line in lines(zoomgate.data_dir)] == ["token.returned"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_is_gone_gives_no_token(tmp_path: Path) -> None:
    """Where the trail's folder was moved away and none can be made in its place, tokens are kept back until it is there again."""
    (tmp_path / "trail").mkdir()
    environ = {"ZOOMGATE_AUDIT": str(tmp_path / "trail/audit.jsonl")}
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        await zoomgate.connect()
        (tmp_path / "trail").rename(tmp_path / "away")
        assert (await zoomgate.refusal(zoomgate.auth.GetToken, get())).reason == "AUDIT_UNAVAILABLE"
        (tmp_path / "trail").mkdir()
        await zoomgate.call(zoomgate.auth.GetToken, get())


@pytest.mark.parametrize("place", ["missing/audit.jsonl", "folder", "pipe", "data"])
async def test_a_trail_that_cannot_be_written_refuses_the_start(tmp_path: Path, place: str) -> None:
    """A folder that is not there, a folder in its place, and a pipe are named with what to do, at the start."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartError, match=r"^ZOOMGATE_AUDIT: cannot write to .* \(.+\); set a writable file"):
        async with running(tmp_path / "data", environ={"ZOOMGATE_AUDIT": str(tmp_path / place)}):
            pass


async def test_calls_that_give_no_token_have_no_line(zoomgate: Harness) -> None:
    """Meetings, the proxy and looking at connections leave the trail as it is."""
    await zoomgate.connect()
    before = len(lines(zoomgate.data_dir))
    await zoomgate.call(zoomgate.meetings.CreateMeeting, meetings_pb.CreateMeetingRequest(user_email=MONICA))
    await zoomgate.call(zoomgate.proxy.Get, proxy_pb.GetRequest(user_email=MONICA, url="/users/me"))
    await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert len(lines(zoomgate.data_dir)) == before


async def test_the_documented_lines_are_the_ones_that_are_written(tmp_path: Path) -> None:
    """Each example of the page about a connection or a token has the fields that the service writes for it."""
    page = (Path(__file__).parents[2] / "docs/audit.md").read_text(encoding="utf-8")
    examples = {line["action"]: line for line in map(json.loads, re.findall(r"^\{.+\}$", page, re.MULTILINE))}
    async with running(tmp_path / "data", environ=OFTEN) as zoomgate:
        await test_a_consent_that_led_to_nothing_is_told(zoomgate)
        await test_a_person_with_a_new_address_is_told(zoomgate)
        refresh = pb.RefreshTokenRequest(user_email=OMAR)
        await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
        zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[OMAR])
        await zoomgate.refusal(zoomgate.auth.RefreshToken, refresh)
        await zoomgate.call(
            zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR), "admin"
        )
        await zoomgate.refusal(zoomgate.auth.GetToken, get(), "nobody")
    written = {line["action"]: line for line in lines(tmp_path / "data")}
    for action, line in written.items():
        assert list(examples[action]) == list(line), action
        assert list(examples[action].get("details", {})) == list(line.get("details", {})), action
    assert set(written) == {
        action
        for action in trail.ACTIONS
        if action.startswith(("token.", "authorization.", "connection.", "call.", "keys.created"))
    } - {"connection.expired", "connection.pruned"}  # those take months
