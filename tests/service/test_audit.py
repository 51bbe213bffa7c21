"""Tests for the audit trail of a running service: one line per event, written before the response and without secrets."""

import asyncio
import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from yarl import URL

from conftest import SECRETS
from support.captured_logs import capture_logs
from support.harness import BASIL, MONICA, OMAR, Harness, browser, consent, consent_form, metadata, running
from zoom_simulator import SimulatedUser
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import meetings_service_pb2 as meetings_pb
from zoomgate.v1 import proxy_service_pb2 as proxy_pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.audit import trail
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import Record, StoreError

COMMON_FIELDS = [
    "time",
    "action",
    "outcome",
    "principal",
    "role",
    "on_behalf_of",
    "user",
    "method",
    "request_id",
]
UNLIMITED_REFRESHES = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}


CHECK_BEFORE_EACH_LINE = Timing(audit=trail.Timing(file_check_interval=0.0))
"""Makes the service check before each line whether the file was renamed."""


def lines(data_dir: Path, action: str = "") -> list[dict[str, Any]]:
    """Return the entries of the audit trail in a data directory, optionally only those of one action."""
    text = (data_dir / "audit.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [line for line in rows if action in ("", line["action"])]


def get_token(user: str = MONICA) -> pb.GetTokenRequest:
    return pb.GetTokenRequest(user_email=user)


async def last_line(zoomgate: Harness, action: str) -> dict[str, Any]:
    """Return the newest line of an action, without time and request ID."""
    line = lines(zoomgate.data_dir, action)[-1]
    return {key: value for key, value in line.items() if key not in ("time", "request_id")}


async def test_returned_tokens_are_audited(zoomgate: Harness) -> None:
    """The line for GetToken, RefreshToken, RequestToken and CreateToken contains the caller, the user and the fingerprints."""
    await zoomgate.connect()
    zoom = zoomgate.simulator.zoom
    own_token = zoom.exchange(zoom.issue_code(zoom.users[OMAR], "http://x/"), "http://x/", "")[
        "refresh_token"
    ]
    code = zoom.issue_code(zoom.users[BASIL], f"{zoomgate.http_url}/oauth/callback")
    requests: list[tuple[Any, Any, str]] = [
        (zoomgate.auth.GetToken, get_token(), MONICA),
        (zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA), MONICA),
        (zoomgate.auth.RequestToken, pb.RequestTokenRequest(user_email=OMAR, refresh_token=own_token), OMAR),
        (zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=BASIL, code=code), BASIL),
    ]
    fingerprints = []
    for method, request, user in requests:
        token = (await zoomgate.call(method, request)).token
        line = await last_line(zoomgate, "token.returned")
        fingerprints.append((line["access_fingerprint"], line["refresh_fingerprint"]))
        assert re.fullmatch(r"[0-9a-f]{16}", fingerprints[-1][0])
        assert line == {
            "action": "token.returned",
            "outcome": "ok",
            "principal": "service",
            "role": "service",
            "on_behalf_of": "",
            "user": user,
            "method": f"AuthService.{method._method.decode().rpartition('/')[2]}",
            "generation": token.generation,
            "access_fingerprint": fingerprints[-1][0],
            "refresh_fingerprint": fingerprints[-1][1],
        }
    assert len(set(sum(fingerprints, ()))) == 2 * len(fingerprints)
    await zoomgate.call(zoomgate.auth.GetToken, get_token())
    repeated = await last_line(zoomgate, "token.returned")
    assert (repeated["access_fingerprint"], repeated["refresh_fingerprint"]) == fingerprints[1]
    assert len(lines(zoomgate.data_dir, "token.returned")) == 5


async def test_only_returned_refresh_tokens_are_audited(zoomgate: Harness) -> None:
    """An audit line contains a refresh token's fingerprint only if the token was returned. Calls that return no token write no line."""
    await zoomgate.connect(OMAR)
    await zoomgate.call(zoomgate.auth.GetToken, get_token(OMAR), "narrow")
    line = await last_line(zoomgate, "token.returned")
    assert (line["principal"], "refresh_fingerprint" in line) == ("narrow", False)
    code = zoomgate.simulator.zoom.issue_code(
        zoomgate.simulator.zoom.users[MONICA], f"{zoomgate.http_url}/oauth/callback"
    )
    await zoomgate.call(
        zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=MONICA, code=code), "blind"
    )
    assert len(lines(zoomgate.data_dir, "token.returned")) == 1


async def test_life_of_a_connection_is_audited(tmp_path: Path) -> None:
    """Each event is recorded with the principal, the user and the fingerprints of the tokens."""
    async with running(tmp_path / "data", environ=UNLIMITED_REFRESHES) as zoomgate:
        await zoomgate.connect()
        created, started, stored = lines(zoomgate.data_dir)
        assert (created["action"], created["principal"]) == ("keys.created", "zoomgate")
        assert (started["action"], started["principal"], started["user"]) == (
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
        refreshed = await last_line(zoomgate, "connection.refreshed")
        returned = await last_line(zoomgate, "token.returned")
        assert (refreshed["principal"], refreshed["user"], refreshed["generation"]) == ("zoomgate", MONICA, 2)
        assert (
            refreshed["access_fingerprint"] == returned["access_fingerprint"] != stored["access_fingerprint"]
        )
        zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
        await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        reauth = await last_line(zoomgate, "connection.reauth_required")
        assert (reauth["outcome"], reauth["user"]) == ("REVOKED", MONICA)
        await zoomgate.call(
            zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA), "admin"
        )
        disconnected = await last_line(zoomgate, "connection.disconnected")
        assert (disconnected["principal"], disconnected["role"], disconnected["user"]) == (
            "admin",
            "admin",
            MONICA,
        )


async def test_failed_consents_are_audited(zoomgate: Harness) -> None:
    """Cases: a consent that is declined, fails, is completed in a different browser, or is given by a different user and relinked."""
    authorization = await zoomgate.begin_authorization()
    async with browser() as session:
        await consent(session, authorization.authorization_url, MONICA, "deny")
    assert await last_line(zoomgate, "authorization.rejected") == {
        "action": "authorization.rejected",
        "outcome": "DECLINED",
        "principal": "browser",
        "role": "",
        "on_behalf_of": "",
        "user": MONICA,
        "method": "",
    }
    authorization = await zoomgate.begin_authorization()
    async with browser() as session:
        async with session.get(
            authorization.authorization_url.replace("/start", "/continue"), allow_redirects=False
        ) as page:
            state = URL(page.headers["Location"]).query["state"]
        callback = URL(f"{zoomgate.http_url}/oauth/callback").with_query(state=state, error="server_error")
        async with session.get(callback):
            assert (await last_line(zoomgate, "authorization.rejected"))["outcome"] == "ZOOM_UNAVAILABLE"
    authorization = await zoomgate.begin_authorization()
    async with browser() as first, browser() as other:
        action, fields = await consent_form(first, authorization.authorization_url)
        async with first.post(
            action, data=fields | {"user": MONICA, "decision": "allow"}, allow_redirects=False
        ) as response:
            callback = response.headers["Location"]
        async with other.get(callback):
            assert (await last_line(zoomgate, "authorization.rejected"))["outcome"] == "OTHER_BROWSER"
    await zoomgate.connect(OMAR)
    authorization = await zoomgate.begin_authorization(MONICA)
    async with browser() as session:
        await consent(session, authorization.authorization_url, OMAR)
    mismatch = await last_line(zoomgate, "connection.stored")
    relinked = await last_line(zoomgate, "connection.relinked")
    assert (mismatch["outcome"], mismatch["user"]) == ("IDENTITY_MISMATCH", MONICA)
    assert (relinked["user"], relinked["generation"]) == (OMAR, 2)
    assert mismatch["access_fingerprint"] == relinked["access_fingerprint"]


async def test_refresh_token_rejected_by_zoom_is_audited(zoomgate: Harness) -> None:
    """The audit line contains the caller that sent the refresh token."""
    request = pb.RequestTokenRequest(user_email=OMAR, refresh_token="sim-rt-never-issued")
    await zoomgate.error_of(zoomgate.auth.RequestToken, request)
    line = await last_line(zoomgate, "authorization.rejected")
    assert (line["outcome"], line["principal"], line["user"]) == ("ZOOM_REAUTH_REQUIRED", "service", OMAR)


async def test_state_of_another_caller_is_audited(tmp_path: Path) -> None:
    """The audit line contains the caller that sent the state, and the user for whom consent was requested."""
    page = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1/done"}
    async with running(tmp_path / "data", environ=page) as zoomgate:
        state = (await zoomgate.begin_authorization(caller="blind")).state
        request = pb.CompleteAuthorizationRequest(code="code-of-another-user", state=state)
        await zoomgate.error_of(zoomgate.auth.CompleteAuthorization, request)
        line = await last_line(zoomgate, "authorization.rejected")
        assert (line["outcome"], line["principal"], line["user"]) == ("OTHER_CALLER", "service", MONICA)
        line = await last_line(zoomgate, "call.rejected")
        assert (line["outcome"], line["method"]) == ("INVALID_STATE", "AuthService.CompleteAuthorization")


async def test_changed_email_address_is_audited(zoomgate: Harness) -> None:
    """If a Zoom user consents under a new address, the audit line contains the previous address, which is disconnected.

    The generation is that of the consent.
    """
    await zoomgate.connect()
    users = zoomgate.simulator.zoom.users
    users["monika@example.com"] = replace(users[MONICA], email="monika@example.com")
    await zoomgate.connect("monika@example.com")
    line = await last_line(zoomgate, "connection.unlinked")
    assert (line["user"], line["principal"], line["generation"]) == (MONICA, "zoomgate", 2)


@contextmanager
def failing_disconnection(zoomgate: Harness, failure: str) -> Iterator[None]:
    """Make the first write of a disconnection fail."""
    first = True

    async def failing_put(put: Any, record: Record, if_rev: int) -> int | None:
        nonlocal first
        if record.state != "DISCONNECTED" or not first:
            rev: int | None = await put(record, if_rev)
            return rev
        first = False
        if failure == "conflict":
            return None
        if failure == "not confirmed":
            await put(record, if_rev)
        raise StoreError("injected")

    with zoomgate.store.intercept("put", failing_put):
        yield
    assert not first


FAILURES = pytest.mark.parametrize("failure", ["not confirmed", "not written", "conflict"])


@FAILURES
async def test_changed_email_address_is_audited_once(zoomgate: Harness, failure: str) -> None:
    """One line is written for the previous address, even if the first write that disconnects the address fails."""
    await zoomgate.connect()
    users = zoomgate.simulator.zoom.users
    users["monika@example.com"] = replace(users[MONICA], email="monika@example.com")
    with failing_disconnection(zoomgate, failure):
        await zoomgate.connect("monika@example.com")
    rows = [(line["user"], line["generation"]) for line in lines(zoomgate.data_dir, "connection.unlinked")]
    assert rows == [(MONICA, 2)]


@FAILURES
async def test_reassigned_email_address_is_audited_once(zoomgate: Harness, failure: str) -> None:
    """A different Zoom user connects under the address. One line with the outcome `ok` is written for the Zoom user who had it before."""
    await zoomgate.connect()
    zoom = zoomgate.simulator.zoom
    zoom.rename(MONICA, "monica.former@example.com")
    zoom.users[MONICA] = SimulatedUser(MONICA, "u-New-Monica")
    with failing_disconnection(zoomgate, failure):
        await zoomgate.connect()
    rows = [
        (line["user"], line["generation"])
        for line in lines(zoomgate.data_dir, "connection.unlinked")
        if line["outcome"] == "ok"
    ]
    assert rows == [(MONICA, 1)]


async def test_mistaken_consent_is_audited_as_a_mismatch_although_its_write_is_not_confirmed(
    zoomgate: Harness,
) -> None:
    await zoomgate.connect(OMAR)
    unconfirmed = 1

    async def unconfirmed_put(put: Any, record: Record, if_rev: int) -> int | None:
        nonlocal unconfirmed
        rev: int | None = await put(record, if_rev)
        if record.state == "ACTIVE" and unconfirmed:
            unconfirmed -= 1
            raise StoreError("injected")
        return rev

    authorization = await zoomgate.begin_authorization(MONICA)
    with zoomgate.store.intercept("put", unconfirmed_put):
        async with browser() as session:
            await consent(session, authorization.authorization_url, OMAR)
    assert not unconfirmed
    mismatch = await last_line(zoomgate, "connection.stored")
    relinked = await last_line(zoomgate, "connection.relinked")
    assert (mismatch["outcome"], mismatch["user"]) == ("IDENTITY_MISMATCH", MONICA)
    assert (relinked["user"], relinked["generation"]) == (OMAR, 2)


async def test_superseded_consent_is_audited(zoomgate: Harness) -> None:
    """Tokens discarded in favor of a later consent are recorded as SUPERSEDED, not as stored. Both calls succeed."""
    is_verified, proceed = asyncio.Event(), asyncio.Event()

    async def delay_first_write(put: Any, record: Record, if_rev: int) -> Any:
        """Delay the write with which the first consent is stored."""
        if record.user_email == MONICA and not is_verified.is_set():
            is_verified.set()
            await proceed.wait()
        return await put(record, if_rev)

    zoom, redirect_uri = zoomgate.simulator.zoom, f"{zoomgate.http_url}/oauth/callback"

    async def create_token() -> None:
        code = zoom.issue_code(zoom.users[MONICA], redirect_uri)
        request = pb.CreateTokenRequest(user_email=MONICA, code=code)
        await zoomgate.call(zoomgate.auth.CreateToken, request, "blind")

    with zoomgate.store.intercept("put", delay_first_write):
        first = asyncio.create_task(create_token())
        await is_verified.wait()
        await create_token()
        proceed.set()
        await first
    rows = [
        (line["outcome"], line.get("generation")) for line in lines(zoomgate.data_dir, "connection.stored")
    ]
    assert rows == [("ok", 1), ("SUPERSEDED", None)]


async def test_consent_refreshed_before_its_write_is_confirmed_is_audited_as_stored(tmp_path: Path) -> None:
    """The store has written the connection but fails to confirm the write, and the connection is refreshed in the meantime."""
    async with running(tmp_path / "data", environ=UNLIMITED_REFRESHES) as zoomgate:
        first = True

        async def unconfirmed_put(put: Any, record: Record, if_rev: int) -> int | None:
            nonlocal first
            rev: int | None = await put(record, if_rev)
            if record.state == "ACTIVE" and first:
                first = False
                await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
                raise StoreError("injected")
            return rev

        zoom = zoomgate.simulator.zoom
        code = zoom.issue_code(zoom.users[MONICA], f"{zoomgate.http_url}/oauth/callback")
        create = pb.CreateTokenRequest(user_email=MONICA, code=code)
        with zoomgate.store.intercept("put", unconfirmed_put):
            await zoomgate.call(zoomgate.auth.CreateToken, create)
        assert not first
        (line,) = lines(zoomgate.data_dir, "connection.stored")
        assert (line["outcome"], "generation" in line) == ("ok", False)


async def test_rejected_calls_are_audited(zoomgate: Harness) -> None:
    """The line contains the caller and its network address. Cases: unknown or missing key, user or method not allowed, forbidden path."""
    cases: list[tuple[Any, Any, str, str, str, str]] = [
        (zoomgate.auth.GetToken, get_token(), "unknown", "", "CALLER_UNAUTHENTICATED", ""),
        (zoomgate.auth.GetToken, get_token(), "", "", "CALLER_UNAUTHENTICATED", ""),
        (zoomgate.auth.GetToken, get_token(), "service", "unknown", "CALLER_UNAUTHENTICATED", "service"),
        (zoomgate.auth.GetToken, get_token(), "narrow", "", "CALLER_NOT_ALLOWED", "narrow"),
        (zoomgate.auth.GetToken, get_token(), "admin", "", "CALLER_NOT_ALLOWED", "admin"),
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
        assert (await zoomgate.error_of(method, request, caller, forwarded)).reason == reason
        line = await last_line(zoomgate, "call.rejected")
        assert (line["outcome"], line["principal"]) == (reason, name)
        assert line["details"]["peer"].startswith("ipv4:127.0.0.1:")
    rows = lines(zoomgate.data_dir, "call.rejected")
    assert len(rows) == len(cases)
    assert [line["user"] for line in rows] == ["", "", "", MONICA, "", OMAR, OMAR]


async def test_missing_permission_is_logged_and_audited_but_not_returned(zoomgate: Harness) -> None:
    """The cause names the key of the callers file that does not allow the call."""
    token, users = zoomgate.auth.GetToken, proxy_pb.GetRequest(user_email=OMAR, url="/users")
    moved = pb.ImportConnectionRequest(user_email=OMAR, refresh_token="sim-rt-of-another-system")
    read, check = pb.GetConnectionRequest(user_email=MONICA), pb.CheckTokenRequest(user_email=MONICA)
    cases = [
        (token, get_token(), "", "", "missing authorization metadata"),
        (token, get_token(), "unknown", "", "unknown key"),
        (token, get_token(), "narrow", "", f"users of narrow does not include {MONICA}"),
        (zoomgate.auth.CheckToken, check, "narrow", "", "methods of narrow does not include AuthService.CheckToken"),
        (token, get_token(), "blind", "", "access_tokens of blind is not true"),
        (zoomgate.auth.ImportConnection, moved, "blind", "", "refresh_tokens of blind is not true"),
        (token, get_token(), "admin", "", "role of admin does not allow AuthService.GetToken"),
        (zoomgate.proxy.Get, users, "narrow", "", "proxy_paths of narrow does not include the path"),
        (zoomgate.auth.GetConnection, read, "omar", "", f"email of omar does not include {MONICA}"),
        (zoomgate.auth.GetConnection, read, "service", "omar", f"the call is on behalf of {OMAR}"),
        (zoomgate.auth.GetConnection, read, "omars", "monica", f"users of omars does not include {MONICA}"),
        (token, get_token(), "service", "monica", "role of monica does not allow AuthService.GetToken"),
        (zoomgate.auth.GetConnection, read, "admin", "monica", "role of admin is not service"),
    ]  # fmt: skip
    for method, request, caller, forwarded, cause in cases:
        with capture_logs() as log:
            error = await zoomgate.error_of(method, request, caller, forwarded)
        assert error.reason in ("CALLER_NOT_ALLOWED", "CALLER_UNAUTHENTICATED")
        assert cause not in str(error)
        assert [line["cause"] for line in log if line["event"] == "rpc.rejected"] == [cause]
        assert (await last_line(zoomgate, "call.rejected"))["details"]["cause"] == cause


async def test_call_on_behalf_of_a_member_is_audited_with_both(zoomgate: Harness) -> None:
    await zoomgate.connect()
    await zoomgate.call(
        zoomgate.auth.DeleteConnection,
        pb.DeleteConnectionRequest(user_email=MONICA),
        "service",
        "monica",
    )
    line = await last_line(zoomgate, "connection.disconnected")
    assert (line["principal"], line["on_behalf_of"]) == ("service", "monica")


async def test_call_in_the_name_of_a_member_is_audited_with_the_address(zoomgate: Harness) -> None:
    await zoomgate.connect()
    await zoomgate.auth.DeleteConnection(
        pb.DeleteConnectionRequest(user_email=MONICA),
        metadata=(*metadata(), ("zoomgate-member-email", MONICA)),
        timeout=20,
    )
    line = await last_line(zoomgate, "connection.disconnected")
    assert (line["principal"], line["role"], line["on_behalf_of"]) == ("service", "service", MONICA)


async def test_lines_have_common_fields_and_no_secrets(tmp_path: Path) -> None:
    """Every line starts with the same fields, including a time and the request ID, and contains no secret."""
    async with running(tmp_path / "data", environ=UNLIMITED_REFRESHES) as zoomgate:
        await zoomgate.connect()
        metadata = (
            ("authorization", "Bearer zgk_test-key-of-service-0123456789"),
            ("x-request-id", "mine-7"),
        )
        await zoomgate.auth.GetToken(get_token(), metadata=metadata, timeout=10)
        await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        await zoomgate.error_of(zoomgate.auth.GetToken, get_token(), "unknown")
        tokens = [token for grant in zoomgate.simulator.zoom.access_tokens for token in (grant,)]
    text = (tmp_path / "data/audit.jsonl").read_text()
    assert not SECRETS.search(text)
    assert tokens
    assert not [token for token in tokens if token in text]
    rows = lines(tmp_path / "data")
    for line in rows:
        assert list(line)[: len(COMMON_FIELDS)] == COMMON_FIELDS
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["action"] in trail.ACTIONS
    assert rows[3]["request_id"] == "mine-7"
    assert (tmp_path / "data/audit.jsonl").stat().st_mode & 0o777 == 0o600


async def test_rejections_are_rate_limited(tmp_path: Path) -> None:
    """For 200 calls with an unknown key, 30 lines are written, and one more line counts the remaining calls.

    Rejected calls of a different caller are still recorded.
    """
    async with running(tmp_path / "data") as zoomgate:
        floods = [zoomgate.error_of(zoomgate.auth.GetToken, get_token(), "unknown") for _ in range(200)]
        await asyncio.gather(*floods, zoomgate.error_of(zoomgate.auth.GetToken, get_token(), "narrow"))
    rows = lines(tmp_path / "data", "call.rejected")
    unknown = [line for line in rows if line["outcome"] == "CALLER_UNAUTHENTICATED"]
    assert len(rows) - len(unknown) == 1
    assert len(unknown) == trail.REJECTIONS_PER_MINUTE + 1
    assert unknown[-1]["details"] == {"suppressed": 200 - trail.REJECTIONS_PER_MINUTE}


@pytest.mark.parametrize("required", ["on", "off"])
async def test_full_disk_blocks_tokens_if_auditing_is_required(tmp_path: Path, required: str) -> None:
    """While the disk is full, no token is returned, and all other calls succeed. Later entries are complete and on separate lines."""
    async with running(tmp_path / "data", environ={"ZOOMGATE_AUDIT_REQUIRED": required}) as zoomgate:
        await zoomgate.connect()
        await zoomgate.call(zoomgate.auth.GetToken, get_token())
        size = (tmp_path / "data/audit.jsonl").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # space for part of a line
        try:
            if required == "off":
                await zoomgate.call(zoomgate.auth.GetToken, get_token())
            else:
                rejection = await zoomgate.error_of(zoomgate.auth.GetToken, get_token())
                assert rejection.short == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
                assert rejection.retry_after
            proxied = await zoomgate.call(
                zoomgate.proxy.Get, proxy_pb.GetRequest(user_email=MONICA, url="/users/me")
            )
            assert proxied.response.status == 200
            assert (await zoomgate.error_of(zoomgate.auth.GetToken, get_token(), "unknown")).code is (
                grpc.StatusCode.UNAUTHENTICATED
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await zoomgate.call(zoomgate.auth.GetToken, get_token())
        async with browser() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
            assert "zoomgate_audit_failures_total 2.0" in await page.text()
    complete, incomplete = [], 0
    for text in (tmp_path / "data/audit.jsonl").read_text().splitlines():
        try:
            complete.append(json.loads(text)["action"])
        except ValueError:
            incomplete += 1
    assert (complete[-2:], incomplete) == (["token.returned", "token.returned"], 1)


async def test_refreshed_token_is_stored_although_it_cannot_be_audited(tmp_path: Path) -> None:
    """The refreshed token is not returned to the caller, but it is stored."""
    async with running(
        tmp_path / "data", environ=UNLIMITED_REFRESHES | {"ZOOMGATE_AUDIT": "/dev/full"}
    ) as zoomgate:
        await zoomgate.connect()
        rejection = await zoomgate.error_of(
            zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA)
        )
        assert rejection.reason == "AUDIT_UNAVAILABLE"
        response = await zoomgate.call(
            zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)
        )
        assert response.connection.generation == 2


async def test_new_file_is_created_after_a_rotation(tmp_path: Path) -> None:
    """After a rename or a removal, the next line is written to a new file with mode 0600."""
    async with running(tmp_path / "data", timing=CHECK_BEFORE_EACH_LINE) as zoomgate:
        await zoomgate.connect()
        path = zoomgate.data_dir / "audit.jsonl"
        before = len(lines(zoomgate.data_dir))
        path.rename(path.with_suffix(".jsonl.1"))
        await zoomgate.call(zoomgate.auth.GetToken, get_token())
        assert [line["action"] for line in lines(zoomgate.data_dir)] == ["token.returned"]
        assert len(path.with_suffix(".jsonl.1").read_text().splitlines()) == before
        path.unlink()
        await zoomgate.call(zoomgate.auth.GetToken, get_token())
        assert [line["action"] for line in lines(zoomgate.data_dir)] == ["token.returned"]
        assert path.stat().st_mode & 0o777 == 0o600


async def test_missing_directory_blocks_tokens(tmp_path: Path) -> None:
    """If the directory of the trail is renamed, no token is returned until the directory exists again."""
    (tmp_path / "trail").mkdir()
    environ = {"ZOOMGATE_AUDIT": str(tmp_path / "trail/audit.jsonl")}
    async with running(tmp_path / "data", environ=environ, timing=CHECK_BEFORE_EACH_LINE) as zoomgate:
        await zoomgate.connect()
        (tmp_path / "trail").rename(tmp_path / "away")
        assert (await zoomgate.error_of(zoomgate.auth.GetToken, get_token())).reason == "AUDIT_UNAVAILABLE"
        (tmp_path / "trail").mkdir()
        await zoomgate.call(zoomgate.auth.GetToken, get_token())


@pytest.mark.parametrize("path", ["missing/audit.jsonl", "directory", "pipe", "data"])
async def test_start_fails_if_the_trail_cannot_be_written(tmp_path: Path, path: str) -> None:
    """The error contains the path and a remedy if the path is in a missing directory, is a directory, or is a pipe."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        StartError, match=r"^ZOOMGATE_AUDIT: cannot write to .* \(.+\); set it to a writable file"
    ):
        async with running(tmp_path / "data", environ={"ZOOMGATE_AUDIT": str(tmp_path / path)}):
            pass


async def test_calls_that_return_no_token_are_not_audited(zoomgate: Harness) -> None:
    """Meeting calls, proxy calls and connection reads write no line."""
    await zoomgate.connect()
    before = len(lines(zoomgate.data_dir))
    await zoomgate.call(zoomgate.meetings.CreateMeeting, meetings_pb.CreateMeetingRequest(user_email=MONICA))
    await zoomgate.call(zoomgate.proxy.Get, proxy_pb.GetRequest(user_email=MONICA, url="/users/me"))
    await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert len(lines(zoomgate.data_dir)) == before


async def test_documented_examples_match_the_written_lines(tmp_path: Path) -> None:
    """Each example in docs/audit.md about a connection or token has the fields that the service writes."""
    page = (Path(__file__).parents[2] / "docs/audit.md").read_text(encoding="utf-8")
    examples = {line["action"]: line for line in map(json.loads, re.findall(r"^\{.+\}$", page, re.MULTILINE))}
    async with running(tmp_path / "data", environ=UNLIMITED_REFRESHES) as zoomgate:
        await test_failed_consents_are_audited(zoomgate)
        await test_changed_email_address_is_audited(zoomgate)
        refresh = pb.RefreshTokenRequest(user_email=OMAR)
        await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
        zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[OMAR])
        await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)
        await zoomgate.call(
            zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR), "admin"
        )
        await zoomgate.error_of(zoomgate.auth.GetToken, get_token(), "unknown")
    written = {line["action"]: line for line in lines(tmp_path / "data")}
    for action, line in written.items():
        assert list(examples[action]) == list(line), action
        assert list(examples[action].get("details", {})) == list(line.get("details", {})), action
    assert set(written) == {
        action
        for action in trail.ACTIONS
        if action.startswith(("token.", "authorization.", "connection.", "call.", "keys.created"))
    } - {"connection.expired", "connection.pruned"}  # these events occur only after months
