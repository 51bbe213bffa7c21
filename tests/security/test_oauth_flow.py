"""Tests for forged, repeated and malformed consents, and for consents of different users."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from yarl import URL

from security.memory import allocations_of
from security.row import without_remedy
from support.harness import MONICA, OMAR, Harness, RpcError, browser, consent_form, running
from support.raw_upstream import Endless, RawUpstream, http_response, raw_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import disconnection, journal_recovery

pytestmark = pytest.mark.asyncio(loop_scope="module")

ME = http_response("200 OK", b'{"id":"u","email":"monica@example.com","account_id":"a"}')
TOKENS = {"access_token": "a-token", "refresh_token": "r-token", "token_type": "bearer", "expires_in": 3600}

LOST, BAD = ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN"), ("INTERNAL", "ZOOM_BAD_RESPONSE")
REJECTED, APP_ERROR = ("INVALID_ARGUMENT", "CODE_REFUSED"), ("INTERNAL", "APP_CREDENTIALS_REJECTED")
RATE_LIMITED = ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")


def tokens(**changes: object) -> bytes:
    """Return a successful response of the token endpoint."""
    return http_response("200 OK", json.dumps(TOKENS | changes).encode())


def error(status: str, **fields: object) -> bytes:
    """Return an error response of the token endpoint."""
    return http_response(status, json.dumps(fields).encode())


EXCHANGES = {
    "no access token": (tokens(access_token=None), LOST),
    "an empty access token": (tokens(access_token=""), LOST),
    "an access token with a line break": (tokens(access_token="a\r\nHost: evil.com"), LOST),
    "an access token with non-ASCII characters": (tokens(access_token="ü"), LOST),
    "an access token of megabytes": (tokens(access_token="a" * 1_000_000), LOST),
    "an access token that is an object": (tokens(access_token={}), LOST),
    "a refresh token with a null byte": (tokens(refresh_token="r\x00"), LOST),
    "a refresh token that is a number": (tokens(refresh_token=7), LOST),
    "different token type": (tokens(token_type="mac"), BAD),
    "a list": (http_response("200 OK", b"[]"), LOST),
    "truncated JSON": (http_response("200 OK", b'{"access_token":"a'), LOST),
    "an HTML page": (http_response("200 OK", b"<html></html>"), LOST),
    "an empty body": (http_response("200 OK", b""), LOST),
    "deeply nested JSON": (http_response("200 OK", b"[" * 60_000), LOST),
    "invalid UTF-8": (http_response("200 OK", b'{"access_token":"\xff"}'), LOST),
    "not HTTP": (b"\x16\x03\x01 hello\r\n\r\n", LOST),
    "a truncated body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", LOST),
    "a truncated gzip body": (
        http_response("200 OK", gzip.compress(tokens())[:-9], "Content-Encoding: gzip"),
        LOST,
    ),
    "a gzip bomb": (
        http_response("200 OK", gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"),
        LOST,
    ),
    "endless chunks": (
        Endless(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"
        ),
        LOST,
    ),
    "an outage": (error("503 Unavailable"), LOST),
    "a used code": (error("400 Bad Request", reason="Invalid authorization code", code=4734), REJECTED),
    "a code of a different app": (error("400 Bad Request", code=4733), REJECTED),
    "invalid_grant": (error("400 Bad Request", error="invalid_grant"), REJECTED),
    "a redirect URI mismatch": (
        error("400 Bad Request", reason="Redirect URI mismatch", code=4709),
        ("INTERNAL", "REDIRECT_URI_REFUSED"),
    ),
    "a wrong secret": (error("401 Unauthorized", error="invalid_client"), APP_ERROR),
    "a redirect": (http_response("302 Found", b"", "Location: https://evil.com/oauth/token"), APP_ERROR),
    "too many requests": (
        http_response("429 Too Many Requests", b"", "Retry-After: 9999999999"),
        RATE_LIMITED,
    ),
}
"""Responses of the token endpoint to an authorization code, each with the resulting error for the caller."""

FOREIGN_APIS = {
    "another host": "https://evil.com",
    "a host with Zoom's name as a prefix": "https://api.zoom.us.evil.com",
    "Zoom's name as the user": "https://api.zoom.us@evil.com",
    "plain http": "http://api.zoom.us",
    "another port": "https://api.zoom.us:8443",
    "a vanity URL": "https://acme.zoom.us",
    "a new region": "https://api-jp.zoom.us",
    "capitals": "HTTPS://API.ZOOM.US",
    "null": None,
    "a list": ["https://api.zoom.us"],
    "an invalid URL": "https://[",
}
"""API URLs in a token response that differ from the configured one."""

OTHER_USERS = {
    "another user": b'{"id":"u","email":"omar@example.com"}',
    "a homoglyph address": '{"id":"u","email":"m\u043enica@example.com"}'.encode(),
    "an empty address": b'{"id":"u","email":""}',
}
"""Responses of Zoom's API with the profile of a different user."""

UNIDENTIFIED = {
    "no user": b"{}",
    "an address in a list": b'{"id":"u","email":["monica@example.com"]}',
    "no ID": b'{"email":"monica@example.com"}',
    "an ID that is an object": b'{"id":{},"email":"monica@example.com"}',
    "an overlong ID": b'{"id":"' + b"u" * 1000 + b'","email":"monica@example.com"}',
    "a damaged ID": rb'{"id":"u\ud83d","email":"monica@example.com"}',
    "an HTML page": b"<html></html>",
}
"""Responses of Zoom's API that do not name the consenting user."""

Site = tuple[Harness, RawUpstream, RawUpstream]
TIMING = Timing(
    disconnections=disconnection.Timing(retry_interval=0.05),
    recovery=journal_recovery.Timing(poll_interval=0.05, first_pause=0.05),
)


@asynccontextmanager
async def sites(directory: Path) -> AsyncIterator[Site]:
    """Run a service whose redirect URI is a page of the caller's application.

    Scripted HTTP servers replace Zoom's OAuth server and API.
    """
    async with raw_upstream() as oauth, raw_upstream() as api:
        environ = {
            "ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done",
            "ZOOMGATE_ZOOM_OAUTH_URL": f"http://127.0.0.1:{oauth.port}/oauth",
            "ZOOMGATE_MAX_PENDING_PER_USER": "1000",
        }
        async with running(directory, environ=environ, zoom_api_url=api.url, timing=TIMING) as zoomgate:
            oauth.close_after_response = True
            yield zoomgate, oauth, api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Yield a service that the tests of this module share."""
    async with sites(tmp_path_factory.mktemp("data")) as shared:
        yield shared


async def complete(zoomgate: Harness, code: str = "", user: str = MONICA) -> RpcError:
    """Start an authorization, check that completing it with a code fails, and check that the state cannot be used again."""
    started = await zoomgate.begin_authorization(user)
    request = auth.CompleteAuthorizationRequest(code=code or uuid4().hex, state=started.state)
    refusal = await zoomgate.error_of(zoomgate.auth.CompleteAuthorization, request)
    repeated = await zoomgate.error_of(zoomgate.auth.CompleteAuthorization, request)
    assert repeated.short == ("INVALID_ARGUMENT", "INVALID_STATE"), "the state was accepted twice"
    return refusal


async def connected(zoomgate: Harness) -> bool:
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    return bool(listed.connections)


@pytest.mark.parametrize("name", EXCHANGES)
async def test_invalid_token_response_creates_no_connection(site: Site, name: str) -> None:
    """Nothing is stored, no foreign host is called, and the state is consumed."""
    zoomgate, oauth, api = site
    response, expected = EXCHANGES[name]
    oauth.responses, api.responses = [response], [ME]
    oauth.requests.clear()
    api.requests.clear()
    with allocations_of(16):
        refusal = await complete(zoomgate)
    assert refusal.short == expected
    assert without_remedy([refusal]) == []
    assert "evil.com" not in refusal.message
    assert [line.split()[:2] for line in oauth.lines()] == [["POST", "/oauth/token"]]
    assert api.requests == []
    assert not await connected(zoomgate)


@pytest.mark.parametrize("name", OTHER_USERS)
async def test_only_the_requested_user_is_connected(site: Site, name: str) -> None:
    """If Zoom names a different user, the tokens are revoked."""
    zoomgate, oauth, api = site
    oauth.responses = [tokens(), http_response("200 OK", b"{}")]
    api.responses = [http_response("200 OK", OTHER_USERS[name])]
    oauth.requests.clear()
    assert (await complete(zoomgate)).short == ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")
    assert not await connected(zoomgate)
    async with asyncio.timeout(20):
        while len(oauth.requests) < 3:
            await asyncio.sleep(0.01)
    assert [line.split()[1] for line in oauth.lines()] == ["/oauth/token", "/oauth/revoke", "/oauth/revoke"]


@pytest.mark.parametrize("name", UNIDENTIFIED)
async def test_nobody_is_connected_until_zoom_names_the_user(tmp_path: Path, name: str) -> None:
    """The tokens are neither returned nor revoked, and the user is connected once Zoom names the user."""
    async with sites(tmp_path) as (zoomgate, oauth, api):
        oauth.responses = [tokens()]
        api.responses = [http_response("200 OK", UNIDENTIFIED[name])]
        assert (await complete(zoomgate)).short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
        assert not await connected(zoomgate)
        api.responses = [ME]
        async with asyncio.timeout(20):
            while not await connected(zoomgate):
                await asyncio.sleep(0.01)
        assert [line.split()[1] for line in oauth.lines()] == ["/oauth/token"]


async def test_zoom_user_with_a_kelvin_sign_is_a_different_user(site: Site) -> None:
    """Unicode's lower case of the Kelvin sign is the letter k. Therefore, an address is not folded before it is known to be ASCII."""
    zoomgate, oauth, api = site
    oauth.responses = [tokens(), http_response("200 OK", b"{}")]
    api.responses = [http_response("200 OK", '{"id":"u","email":"\u212aate@example.com"}'.encode())]
    assert (await complete(zoomgate, user="kate@example.com")).reason == "IDENTITY_MISMATCH"
    assert not await connected(zoomgate)


async def test_address_of_the_zoom_user_may_be_in_upper_case(tmp_path: Path) -> None:
    async with raw_upstream() as api, running(tmp_path, zoom_api_url=api.url) as zoomgate:
        api.responses = [http_response("200 OK", b'{"id":"u","email":"MONICA@Example.com"}')]
        await zoomgate.connect()
        listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
        assert [connection.user_email for connection in listed.connections] == [MONICA]


@pytest.mark.parametrize("name", FOREIGN_APIS)
@pytest.mark.parametrize("consent", [True, False], ids=["consent", "supplied refresh token"])
async def test_foreign_api_url_in_a_token_response_is_ignored(
    tmp_path: Path, name: str, consent: bool
) -> None:
    """The tokens are stored, because the code or previous refresh token is no longer valid, and are sent to the configured API only."""
    async with raw_upstream() as oauth, raw_upstream() as api:
        environ = {"ZOOMGATE_ZOOM_OAUTH_URL": f"http://127.0.0.1:{oauth.port}/oauth"}
        async with running(tmp_path, environ=environ, zoom_api_url=api.url) as zoomgate:
            oauth.close_after_response, api.responses = True, [ME]
            oauth.responses = [
                tokens(access_token="first", api_url=FOREIGN_APIS[name]),
                tokens(access_token="second", refresh_token="next", api_url=FOREIGN_APIS[name]),
            ]
            if consent:
                code = auth.CreateTokenRequest(user_email=MONICA, code="c")
                stored = await zoomgate.call(zoomgate.auth.CreateToken, code)
            else:
                supplied = auth.RequestTokenRequest(user_email=MONICA, refresh_token="supplied")
                stored = await zoomgate.call(zoomgate.auth.RequestToken, supplied)
            assert stored.token.access_token == "first"
            assert [line.split()[1] for line in api.lines()] == ["/v2/users/me"]
            refresh = auth.RefreshTokenRequest(user_email=MONICA)
            assert (await zoomgate.call(zoomgate.auth.RefreshToken, refresh)).token.access_token == "second"
            assert [request.rpartition(b"&")[2] for request in oauth.requests[1:]] == [
                b"refresh_token=r-token"
            ]


@pytest.mark.parametrize("value", [rb'"Jo \ud83d"', b"NaN", b"1e999", b"[" * 2000 + b"]" * 2000])
async def test_unreadable_value_in_a_response_costs_no_consent(tmp_path: Path, value: bytes) -> None:
    """The values are in fields that are not used."""
    async with sites(tmp_path) as (zoomgate, oauth, api):
        oauth.responses = [
            http_response(
                "200 OK",
                b'{"access_token":"a-token","refresh_token":"r-token","token_type":"bearer","expires_in":NaN,"x":%b}'
                % value,
            )
        ]
        api.responses = [
            http_response("200 OK", b'{"first_name":%b,"id":"u","email":"monica@example.com"}' % value)
        ]
        stored = await zoomgate.call(
            zoomgate.auth.CreateToken, auth.CreateTokenRequest(user_email=MONICA, code="c")
        )
        assert stored.token.access_token == "a-token"


STATES = {
    "unknown": "unknown",
    "null bytes": "\x00" * 43,
    "non-ASCII characters": "ü" * 43,
    "a MongoDB operator": '{"$gt":""}',
    "a path": "../../state",
    "SQL": "' OR '1'='1",
    "a trailing dot": "a" * 43 + ".",
}


@pytest.mark.parametrize("name", STATES)
async def test_forged_state_is_rejected_before_any_call_to_zoom(site: Site, name: str) -> None:
    """The error for a forged state is the same as for the state of a different caller."""
    zoomgate, oauth, _ = site
    oauth.requests.clear()
    started = await zoomgate.begin_authorization(OMAR)
    forged = STATES[name]
    refusals = [
        await zoomgate.error_of(zoomgate.auth.CompleteAuthorization, request, caller)
        for caller, request in (
            ("service", auth.CompleteAuthorizationRequest(code="c", state=forged)),
            ("service", auth.CompleteAuthorizationRequest(ticket=forged)),
            ("service", auth.CompleteAuthorizationRequest(ticket=started.state)),
            ("service", auth.CompleteAuthorizationRequest(code="c", state=started.state + "x")),
            ("service", auth.CompleteAuthorizationRequest(code="c", state=started.state.swapcase())),
            ("blind", auth.CompleteAuthorizationRequest(code="c", state=started.state)),
        )
    ]
    refusals.append(
        await zoomgate.error_of(
            zoomgate.auth.CreateToken,
            auth.CreateTokenRequest(user_email=MONICA, code="c", state=started.state),
        )
    )
    assert {refusal.short for refusal in refusals} == {("INVALID_ARGUMENT", "INVALID_STATE")}
    assert len({refusal.message for refusal in refusals}) == 1
    assert without_remedy(refusals) == []
    assert oauth.requests == []


async def test_concurrent_calls_with_one_state_exchange_the_code_once(site: Site) -> None:
    zoomgate, oauth, api = site
    oauth.responses, api.responses = [error("400 Bad Request", code=4734)], [ME]
    oauth.requests.clear()
    started = await zoomgate.begin_authorization()
    request = auth.CompleteAuthorizationRequest(code=uuid4().hex, state=started.state)
    refusals = await asyncio.gather(
        *(zoomgate.error_of(zoomgate.auth.CompleteAuthorization, request) for _ in range(20))
    )
    assert sorted(refusal.reason for refusal in refusals) == ["CODE_REFUSED"] + ["INVALID_STATE"] * 19
    assert len(oauth.requests) == 1


async def test_special_characters_in_a_code_do_not_change_the_form(site: Site) -> None:
    zoomgate, oauth, _ = site
    oauth.responses = [error("400 Bad Request", code=4734)]
    oauth.requests.clear()
    await complete(zoomgate, "c&redirect_uri=https://evil.com\r\nX: y\x00ü")
    head, _, form = oauth.requests[0].partition(b"\r\n\r\n")
    assert b"X: y" not in head
    fields = URL(f"?{form.decode()}").query
    assert fields["code"] == "c&redirect_uri=https://evil.com\r\nX: y\x00ü"
    assert fields.getall("redirect_uri") == ["http://127.0.0.1:9/zoom-done"]


async def test_pending_authorizations_per_caller_are_limited(tmp_path: Path) -> None:
    """A caller that has reached its limit does not prevent other callers from starting authorizations."""
    async with running(tmp_path, environ={"ZOOMGATE_MAX_PENDING_PER_CALLER": "5"}) as zoomgate:
        for number in range(5):
            await zoomgate.begin_authorization(f"u{number}@example.com")
        for number in range(5, 50):
            request = auth.BeginAuthorizationRequest(user_email=f"u{number}@example.com")
            refusal = await zoomgate.error_of(zoomgate.auth.BeginAuthorization, request)
            assert refusal.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
            assert refusal.metadata["limit"] == "pending_authorizations_per_caller"
        await zoomgate.begin_authorization(MONICA, "monica")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """Yield a service that receives Zoom's redirects at its own callback URL."""
    async with running(
        tmp_path_factory.mktemp("data"), environ={"ZOOMGATE_MAX_PENDING_PER_USER": "1000"}
    ) as zoomgate:
        yield zoomgate


PATHS = {
    "no state": ("/oauth/callback?code=x", 200, "app_added"),
    "an empty state": ("/oauth/callback?state=&code=x", 200, "app_added"),
    "two empty states": ("/oauth/callback?state=&state=&code=x", 400, "bad_request"),
    "two states": ("/oauth/callback?state=x&state=y&code=x", 400, "bad_request"),
    "two codes": ("/oauth/callback?state=x&code=x&code=y", 400, "bad_request"),
    "two codes, one escaped": ("/oauth/callback?state=x&code=x&%63ode=y", 400, "bad_request"),
    "a code and an error": ("/oauth/callback?state=x&code=x&error=y", 400, "bad_request"),
    "neither code nor error": ("/oauth/callback?state=x", 400, "bad_request"),
    "a code that is too long": (f"/oauth/callback?state=x&code={'c' * 2049}", 400, "bad_request"),
    "a state that is too long": (f"/oauth/callback?code=x&state={'s' * 2049}", 400, "bad_request"),
    "no ticket": ("/oauth/start", 400, "bad_request"),
    "two tickets": ("/oauth/start?ticket=x&ticket=y", 400, "bad_request"),
    "an unknown state": ("/oauth/callback?state=x&code=x", 400, "link_expired"),
    "a state with null bytes": ("/oauth/callback?state=%00.%00&code=%00", 400, "link_expired"),
    "a state with invalid UTF-8": ("/oauth/callback?state=%FF.%FE&code=%FF", 400, "link_expired"),
    "markup": (
        "/oauth/callback?state=%3Cb%3E&error=%3Cscript%3E&error_description=%3Cscript%3Ealert(1)%3C/script%3E",
        400,
        "link_expired",
    ),
    "an unknown ticket": ("/oauth/start?ticket=x", 400, "link_expired"),
    "a ticket with a line break": ("/oauth/start?ticket=%0d%0aSet-Cookie:%20a=b", 400, "link_expired"),
    "an unknown outcome": ("/oauth/result?outcome=%3Cscript%3E", 400, "%3Cscript%3E"),
}


@pytest.mark.parametrize("name", PATHS)
async def test_malformed_url_shows_a_page_without_its_content(front: Harness, name: str) -> None:
    """The service does not send an authorization code to Zoom."""
    path, status, outcome = PATHS[name]
    async with browser() as session, session.get(URL(front.http_url + path, encoded=True)) as page:
        text = await page.text()
        assert (page.status, page.url.query["outcome"]) == (
            status,
            URL(f"?o={outcome}", encoded=True).query["o"],
        )
        for response in (page, *page.history):
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert "Set-Cookie" not in response.headers
    assert "<script" not in text
    assert "alert(1)" not in text
    assert front.stat("token.authorization_code.refused") == 0


async def callback_of(front: Harness, session: object, user: str = MONICA) -> URL:
    """Consent in Zoom, and return the URL of the redirect, which contains the code and the state."""
    started = await front.begin_authorization(user)
    action, fields = await consent_form(session, started.authorization_url)  # type: ignore[arg-type]
    async with session.post(  # type: ignore[attr-defined]
        action, data=fields | {"user": user, "decision": "allow"}, allow_redirects=False
    ) as response:
        return URL(response.headers["Location"])


@pytest.mark.parametrize(
    "forge",
    [
        lambda state: state.partition(".")[0],
        lambda state: state.partition(".")[0] + ".",
        lambda state: state.partition(".")[0] + ".ü",
        lambda state: state.partition(".")[0] + "." + "\x00" * 43,
        lambda state: state[:-1] + ("A" if state[-1] != "A" else "E"),
        lambda state: state + ".x",
        lambda state: state + "=",
    ],
    ids=["no binding", "empty", "non-ASCII characters", "null bytes", "modified", "two bindings", "longer"],
)
async def test_forged_binding_is_rejected_and_the_link_still_works(front: Harness, forge: object) -> None:
    async with browser() as session:
        callback_url = await callback_of(front, session)
        forged = callback_url.update_query(state=forge(callback_url.query["state"]))  # type: ignore[operator]
        async with session.get(forged) as page:
            assert (page.status, page.url.query["outcome"]) == (400, "other_browser")
        async with session.get(callback_url) as page:
            assert (page.status, page.url.query["outcome"]) == (200, "connected")


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "a" * 44, "a" * 5000, "../../x"])
async def test_callback_with_a_different_cookie_is_rejected(front: Harness, cookie: str) -> None:
    """Nothing is stored, and the original browser can still use the callback URL."""
    async with browser() as own_browser, browser() as other:
        callback_url = await callback_of(front, own_browser)
        headers = {"Cookie": f"zoomgate-browser={cookie}"} if cookie else {}
        async with other.get(callback_url, headers=headers) as page:
            assert (page.status, page.url.query["outcome"]) == (400, "other_browser")
        async with own_browser.get(callback_url) as page:
            assert (page.status, page.url.query["outcome"]) == (200, "connected")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /oauth/callback?state=x&code=" + b"c" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /oauth/callback?state=x&code=y HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET /oauth/callback HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET /oauth/callback HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /oauth/callback?a=\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /oauth/callback HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"CONNECT evil.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02 hello\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=[
        "a code of 10 KB",
        "a header of 10 KB",
        "two Content-Length headers",
        "a space before the colon",
        "a null byte",
        "a POST request",
        "a CONNECT request",
        "TLS",
        "HTTP/2",
    ],
)
async def test_invalid_http_request_is_rejected(front: Harness, request_bytes: bytes) -> None:
    """The service responds with a 4xx status or closes the connection, and stays healthy."""
    url = URL(front.http_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_bytes)
    async with asyncio.timeout(20):
        first = await reader.read(12)
    writer.close()
    assert first[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.0 4")
    async with browser() as session, session.get(front.http_url + "/readyz") as page:
        assert page.status == 200
