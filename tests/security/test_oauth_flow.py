"""What comes back from consents: forged, repeated, foreign and malformed."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from yarl import URL

from security.memory import allocations_of
from security.row import without_remedy
from support.harness import MONICA, OMAR, Harness, Refusal, browser, consent_form, running
from support.raw_upstream import Endless, RawUpstream, answer, raw_upstream
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.asyncio(loop_scope="module")

ME = answer("200 OK", b'{"id":"u","email":"monica@example.com","account_id":"a"}')
TOKENS = {"access_token": "a-token", "refresh_token": "r-token", "token_type": "bearer", "expires_in": 3600}

LOST, BAD = ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN"), ("INTERNAL", "ZOOM_BAD_RESPONSE")
REFUSED, OURS = ("INVALID_ARGUMENT", "CODE_REFUSED"), ("INTERNAL", "APP_CREDENTIALS_REJECTED")
BUSY = ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")


def tokens(**changes: object) -> bytes:
    """An answer of the token endpoint."""
    return answer("200 OK", json.dumps(TOKENS | changes).encode())


def error(status: str, **words: object) -> bytes:
    """A refusal of the token endpoint."""
    return answer(status, json.dumps(words).encode())


EXCHANGES = {
    "no access token": (tokens(access_token=None), LOST),
    "an empty access token": (tokens(access_token=""), LOST),
    "an access token with a line break": (tokens(access_token="a\r\nHost: evil.com"), LOST),
    "an access token of other letters": (tokens(access_token="ü"), LOST),
    "an access token of megabytes": (tokens(access_token="a" * 1_000_000), LOST),
    "an access token that is an object": (tokens(access_token={}), LOST),
    "a refresh token with a zero": (tokens(refresh_token="r\x00"), LOST),
    "a refresh token that is a number": (tokens(refresh_token=7), LOST),
    "a token of another kind": (tokens(token_type="mac"), BAD),
    "a list": (answer("200 OK", b"[]"), LOST),
    "half of the JSON": (answer("200 OK", b'{"access_token":"a'), LOST),
    "a page": (answer("200 OK", b"<html></html>"), LOST),
    "nothing": (answer("200 OK", b""), LOST),
    "100 000 levels": (answer("200 OK", b"[" * 60_000), LOST),
    "no text": (answer("200 OK", b'{"access_token":"\xff"}'), LOST),
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", LOST),
    "half of the length": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", LOST),
    "half of what was compressed": (
        answer("200 OK", gzip.compress(tokens())[:-9], "Content-Encoding: gzip"),
        LOST,
    ),
    "a bomb": (answer("200 OK", gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"), LOST),
    "endless chunks": (
        Endless(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"
        ),
        LOST,
    ),
    "an outage": (error("503 Unavailable"), LOST),
    "a used code": (error("400 Bad Request", reason="Invalid authorization code", code=4734), REFUSED),
    "a code of another app": (error("400 Bad Request", code=4733), REFUSED),
    "a code that OAuth refuses": (error("400 Bad Request", error="invalid_grant"), REFUSED),
    "another redirect address": (error("400 Bad Request", reason="Redirect URI mismatch", code=4709), OURS),
    "a wrong secret": (error("401 Unauthorized", error="invalid_client"), OURS),
    "a redirect": (answer("302 Found", b"", "Location: https://evil.com/oauth/token"), OURS),
    "too many requests": (answer("429 Too Many Requests", b"", "Retry-After: 9999999999"), BUSY),
}
"""What the token endpoint answers to a code, and what the caller hears."""

FOREIGN_APIS = {
    "of somebody else": "https://evil.com",
    "whose name begins like Zoom's": "https://api.zoom.us.evil.com",
    "with Zoom's name as its user": "https://api.zoom.us@evil.com",
    "over plain http": "http://api.zoom.us",
    "on another port": "https://api.zoom.us:8443",
    "that is a list": ["https://api.zoom.us"],
    "that is no address": "https://[",
}
"""What a token answer may name as the address of Zoom's API, and is none."""

PEOPLE = {
    "somebody else": (b'{"id":"u","email":"omar@example.com"}', ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")),
    "somebody whose address looks alike": (
        '{"id":"u","email":"m\u043enica@example.com"}'.encode(),
        ("FAILED_PRECONDITION", "IDENTITY_MISMATCH"),
    ),
    "nobody": (b"{}", BAD),
    "somebody without an address": (b'{"id":"u","email":""}', BAD),
    "somebody with an address in a list": (b'{"id":"u","email":["monica@example.com"]}', BAD),
    "somebody without an id": (b'{"email":"monica@example.com"}', BAD),
    "somebody with an id that is an object": (b'{"id":{},"email":"monica@example.com"}', BAD),
    "somebody with an endless id": (
        b'{"id":"' + b"u" * 1000 + b'","email":"monica@example.com"}',
        BAD,
    ),
    "a page": (b"<html></html>", BAD),
}
"""Who consented, as Zoom's API tells, and what the caller hears."""

Site = tuple[Harness, RawUpstream, RawUpstream]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A service whose codes come back to a page of the caller's, with bare sockets for Zoom's OAuth and for its API."""
    async with raw_upstream() as oauth, raw_upstream() as api:
        environ = {
            "ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done",
            "ZOOMGATE_ZOOM_OAUTH_URL": f"http://127.0.0.1:{oauth.port}/oauth",
            "ZOOMGATE_MAX_PENDING_PER_USER": "1000",
        }
        async with running(
            tmp_path_factory.mktemp("data"), environ=environ, zoom_api_url=api.url
        ) as zoomgate:
            oauth.close_after_answer = True
            yield zoomgate, oauth, api


async def complete(zoomgate: Harness, code: str = "c") -> Refusal:
    """Begin, and bring a code back that must be refused."""
    begun = await zoomgate.begin()
    wanted = auth.CompleteAuthorizationRequest(code=code, state=begun.state)
    refusal = await zoomgate.refusal(zoomgate.auth.CompleteAuthorization, wanted)
    again = await zoomgate.refusal(zoomgate.auth.CompleteAuthorization, wanted)
    assert again.short == ("INVALID_ARGUMENT", "INVALID_STATE"), "the state worked twice"
    return refusal


async def connected(zoomgate: Harness) -> bool:
    listed = await zoomgate.call(zoomgate.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
    return bool(listed.connections)


@pytest.mark.parametrize("name", EXCHANGES)
async def test_what_is_no_token_connects_nobody(site: Site, name: str) -> None:
    """Each answer of the token endpoint has its outcome; nothing is stored, no foreign address is called, and the state is used up."""
    zoomgate, oauth, api = site
    given, expected = EXCHANGES[name]
    oauth.answers, api.answers = [given], [ME]
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


@pytest.mark.parametrize("name", PEOPLE)
async def test_only_who_was_asked_for_is_connected(site: Site, name: str) -> None:
    """If Zoom tells of somebody else, or of nobody, the tokens are revoked and nothing is stored."""
    zoomgate, oauth, api = site
    body, expected = PEOPLE[name]
    oauth.answers = [tokens(), answer("200 OK", b"{}")]
    api.answers = [answer("200 OK", body)]
    oauth.requests.clear()
    assert (await complete(zoomgate)).short == expected
    assert not await connected(zoomgate)
    async with asyncio.timeout(20):
        while len(oauth.requests) < 3:
            await asyncio.sleep(0.01)
    assert [line.split()[1] for line in oauth.lines()] == ["/oauth/token", "/oauth/revoke", "/oauth/revoke"]


@pytest.mark.parametrize("name", FOREIGN_APIS)
async def test_a_consent_with_a_foreign_api_is_refused_and_revoked(site: Site, name: str) -> None:
    """Nothing is stored, the address is neither called nor repeated, and the tokens end at Zoom, since nothing keeps them."""
    zoomgate, oauth, api = site
    oauth.answers = [tokens(api_url=FOREIGN_APIS[name]), answer("200 OK", b"{}")]
    oauth.requests.clear()
    api.requests.clear()
    refusal = await complete(zoomgate)
    assert refusal.short == BAD
    assert without_remedy([refusal]) == []
    assert "evil.com" not in refusal.message
    assert api.requests == []
    assert not await connected(zoomgate)
    async with asyncio.timeout(20):
        while len(oauth.requests) < 3:
            await asyncio.sleep(0.01)
    assert sorted(request.rpartition(b"\r\n")[2] for request in oauth.requests[1:]) == [
        b"token=a-token",
        b"token=r-token",
    ]


async def test_a_refresh_with_a_foreign_api_keeps_its_tokens(tmp_path: Path) -> None:
    """The refresh token before is spent, so the new ones are stored and used, and the foreign address is forgotten."""
    async with raw_upstream() as oauth, raw_upstream() as api:
        environ = {"ZOOMGATE_ZOOM_OAUTH_URL": f"http://127.0.0.1:{oauth.port}/oauth"}
        async with running(tmp_path, environ=environ, zoom_api_url=api.url) as zoomgate:
            oauth.close_after_answer, api.answers = True, [ME]
            oauth.answers = [
                tokens(access_token="first", api_url="https://evil.com"),
                tokens(access_token="second", refresh_token="next", api_url="https://evil.com"),
            ]
            brought = auth.RequestTokenRequest(user_email=MONICA, refresh_token="brought")
            assert (await zoomgate.call(zoomgate.auth.RequestToken, brought)).token.access_token == "first"
            again = auth.RefreshTokenRequest(user_email=MONICA)
            assert (await zoomgate.call(zoomgate.auth.RefreshToken, again)).token.access_token == "second"
            assert [request.rpartition(b"&")[2] for request in oauth.requests] == [
                b"refresh_token=brought",
                b"refresh_token=r-token",
            ]


STATES = {
    "unknown": "unknown",
    "of zeros": "\x00" * 43,
    "of other letters": "ü" * 43,
    "with an operator": '{"$gt":""}',
    "with a path": "../../state",
    "with SQL": "' OR '1'='1",
    "too long by one dot": "a" * 43 + ".",
}


@pytest.mark.parametrize("name", STATES)
async def test_forged_states_exchange_nothing(site: Site, name: str) -> None:
    """A state or ticket that was not made here is refused before Zoom is asked, in the same words as one of somebody else."""
    zoomgate, oauth, _ = site
    oauth.requests.clear()
    begun = await zoomgate.begin(OMAR)
    forged = STATES[name]
    refusals = [
        await zoomgate.refusal(zoomgate.auth.CompleteAuthorization, request, caller)
        for caller, request in (
            ("service", auth.CompleteAuthorizationRequest(code="c", state=forged)),
            ("service", auth.CompleteAuthorizationRequest(ticket=forged)),
            ("service", auth.CompleteAuthorizationRequest(ticket=begun.state)),
            ("service", auth.CompleteAuthorizationRequest(code="c", state=begun.state + "x")),
            ("service", auth.CompleteAuthorizationRequest(code="c", state=begun.state.swapcase())),
            ("blind", auth.CompleteAuthorizationRequest(code="c", state=begun.state)),
        )
    ]
    refusals.append(
        await zoomgate.refusal(
            zoomgate.auth.CreateToken,
            auth.CreateTokenRequest(user_email=MONICA, code="c", state=begun.state),
        )
    )
    assert {refusal.short for refusal in refusals} == {("INVALID_ARGUMENT", "INVALID_STATE")}
    assert len({refusal.message for refusal in refusals}) == 1
    assert without_remedy(refusals) == []
    assert oauth.requests == []


async def test_of_many_who_bring_one_state_one_wins(site: Site) -> None:
    """A code is sent to Zoom once, however often its state comes at the same time."""
    zoomgate, oauth, api = site
    oauth.answers, api.answers = [error("400 Bad Request", code=4734)], [ME]
    oauth.requests.clear()
    begun = await zoomgate.begin()
    wanted = auth.CompleteAuthorizationRequest(code="c", state=begun.state)
    refusals = await asyncio.gather(
        *(zoomgate.refusal(zoomgate.auth.CompleteAuthorization, wanted) for _ in range(20))
    )
    assert sorted(refusal.reason for refusal in refusals) == ["CODE_REFUSED"] + ["INVALID_STATE"] * 19
    assert len(oauth.requests) == 1


async def test_codes_stay_values(site: Site) -> None:
    """A code with the form's own separators and line breaks stays one value of the form."""
    zoomgate, oauth, _ = site
    oauth.answers = [error("400 Bad Request", code=4734)]
    oauth.requests.clear()
    await complete(zoomgate, "c&redirect_uri=https://evil.com\r\nX: y\x00ü")
    head, _, form = oauth.requests[0].partition(b"\r\n\r\n")
    assert b"X: y" not in head
    fields = URL(f"?{form.decode()}").query
    assert fields["code"] == "c&redirect_uri=https://evil.com\r\nX: y\x00ü"
    assert fields.getall("redirect_uri") == ["http://127.0.0.1:9/zoom-done"]


async def test_floods_of_links_are_limited_per_caller(tmp_path: Path) -> None:
    """A caller who begins for ever more users reaches a limit that others do not feel."""
    async with running(tmp_path, environ={"ZOOMGATE_MAX_PENDING_PER_CALLER": "5"}) as zoomgate:
        for number in range(5):
            await zoomgate.begin(f"u{number}@example.com")
        for number in range(5, 50):
            wanted = auth.BeginAuthorizationRequest(user_email=f"u{number}@example.com")
            refusal = await zoomgate.refusal(zoomgate.auth.BeginAuthorization, wanted)
            assert refusal.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
            assert refusal.metadata["limit"] == "pending_authorizations_per_caller"
        await zoomgate.begin(MONICA, "monica")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """A service whose own callback takes what browsers bring."""
    async with running(
        tmp_path_factory.mktemp("data"), environ={"ZOOMGATE_MAX_PENDING_PER_USER": "1000"}
    ) as zoomgate:
        yield zoomgate


PATHS = {
    "no state": ("/oauth/callback?code=x", 400, "bad_request"),
    "an empty state": ("/oauth/callback?state=&code=x", 400, "bad_request"),
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
    "a state of zeros": ("/oauth/callback?state=%00.%00&code=%00", 400, "link_expired"),
    "a state that is no UTF-8": ("/oauth/callback?state=%FF.%FE&code=%FF", 400, "link_expired"),
    "markup": (
        "/oauth/callback?state=%3Cb%3E&error=%3Cscript%3E&error_description=%3Cscript%3Ealert(1)%3C/script%3E",
        400,
        "link_expired",
    ),
    "an unknown ticket": ("/oauth/start?ticket=x", 400, "link_expired"),
    "a ticket with a line break": ("/oauth/start?ticket=%0d%0aSet-Cookie:%20a=b", 400, "link_expired"),
    "a page that nobody wrote": ("/oauth/result?outcome=%3Cscript%3E", 400, "%3Cscript%3E"),
}


@pytest.mark.parametrize("name", PATHS)
async def test_malformed_addresses_lead_to_clean_pages(front: Harness, name: str) -> None:
    """What is no answer of Zoom's ends at a page of ours that repeats nothing of it, and is not exchanged."""
    path, status, outcome = PATHS[name]
    async with browser() as session, session.get(URL(front.http_url + path, encoded=True)) as page:
        text = await page.text()
        assert (page.status, page.url.query["outcome"]) == (
            status,
            URL(f"?o={outcome}", encoded=True).query["o"],
        )
        for answered in (page, *page.history):
            assert answered.headers["Cache-Control"] == "no-store"
            assert answered.headers["Referrer-Policy"] == "no-referrer"
            assert "Set-Cookie" not in answered.headers
    assert "<script" not in text
    assert "alert(1)" not in text
    assert front.stat("token.authorization_code.refused") == 0


async def callback_of(front: Harness, session: object, user: str = MONICA) -> URL:
    """Consent up to the redirect that brings code and state back."""
    begun = await front.begin(user)
    action, fields = await consent_form(session, begun.authorization_url)  # type: ignore[arg-type]
    async with session.post(  # type: ignore[attr-defined]
        action, data=fields | {"user": user, "decision": "allow"}, allow_redirects=False
    ) as answered:
        return URL(answered.headers["Location"])


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
    ids=["no binding", "an empty one", "other letters", "zeros", "a changed one", "two", "a longer one"],
)
async def test_a_forged_binding_is_refused_and_the_link_still_works(front: Harness, forge: object) -> None:
    """Whoever has the state but not the browser's binding gets nowhere; the person whose link it is does."""
    async with browser() as session:
        back = await callback_of(front, session)
        forged = back.update_query(state=forge(back.query["state"]))  # type: ignore[operator]
        async with session.get(forged) as page:
            assert (page.status, page.url.query["outcome"]) == (400, "other_browser")
        async with session.get(back) as page:
            assert (page.status, page.url.query["outcome"]) == (200, "connected")


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "a" * 44, "a" * 5000, "../../x"])
async def test_another_browsers_cookie_is_refused(front: Harness, cookie: str) -> None:
    """A callback in a browser with no cookie, a made-up one or somebody else's stores nothing, and the right browser still can."""
    async with browser() as mine, browser() as other:
        back = await callback_of(front, mine)
        headers = {"Cookie": f"zoomgate-browser={cookie}"} if cookie else {}
        async with other.get(back, headers=headers) as page:
            assert (page.status, page.url.query["outcome"]) == (400, "other_browser")
        async with mine.get(back) as page:
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
        "two lengths",
        "a space before the colon",
        "a zero",
        "a form",
        "a tunnel",
        "TLS",
        "HTTP/2",
    ],
)
async def test_what_is_no_request_is_refused_by_the_http_front(front: Harness, request_bytes: bytes) -> None:
    """Broken and unwanted HTTP is answered with a 4xx or a closed connection, and health stays what it was."""
    url = URL(front.http_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_bytes)
    async with asyncio.timeout(20):
        first = await reader.read(12)
    writer.close()
    assert first[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.0 4")
    async with browser() as session, session.get(front.http_url + "/readyz") as page:
        assert page.status == 200
