"""The complete service, run in the test process: real ports, a real store in a directory, and the Zoom simulator."""

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from yarl import URL

from support.error_reasons import check_metadata
from support.faulty_store import FaultyStore
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.meetings_service_pb2_grpc import MeetingsServiceStub
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate.v1.registrants_service_pb2_grpc import RegistrantsServiceStub
from zoomgate_server import settings
from zoomgate_server.app import lifecycle, stores
from zoomgate_server.app.timing import Timing
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.clock import Clock, SystemClock
from zoomgate_server.connections import refresh_schedule
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.identity import Principal, Role, UserPatterns
from zoomgate_server.storage.record_store import RecordStore

MONICA, OMAR, BASIL = "monica@example.com", "omar@example.com", "basil@example.com"
SECONDS = 20.0


def service(name: str, **overrides: Any) -> Principal:
    """Return the principal of a service that may act for all users; `overrides` replaces some of its permissions."""
    permissions: dict[str, Any] = {
        "users": UserPatterns(everyone=True),
        "access_tokens": True,
        "refresh_tokens": True,
        "proxy_paths": ("/**",),
    } | overrides
    return Principal(name=name, roles=frozenset({Role.SERVICE}), subject=name, **permissions)


def member(email: str) -> Principal:
    """Return the principal of a member."""
    return Principal(name=email.partition("@")[0], roles=frozenset({Role.MEMBER}), email=email, subject=email)


ADMIN = Principal(name="admin", roles=frozenset({Role.ADMIN}), subject="admin")

CALLERS = {
    "service": service("service"),
    "blind": service("blind", access_tokens=False, refresh_tokens=False, proxy_paths=()),
    "narrow": service(
        "narrow",
        users=UserPatterns(addresses=frozenset({OMAR})),
        methods=frozenset({"AuthService.GetToken", "AuthService.ListConnections", "ProxyService.Get"}),
        proxy_paths=("/users/me", "/meetings/*"),
        refresh_tokens=False,
    ),
    "omars": service("omars", users=UserPatterns(addresses=frozenset({OMAR}))),
    "monica": member(MONICA),
    "omar": member(OMAR),
    "admin": ADMIN,
}
"""All callers of the tests by name; the key of a caller is `caller_key(name)`."""


def caller_key(name: str) -> str:
    """Return the key of a test caller."""
    return f"zgk_test-key-of-{name}-0123456789"


def metadata(caller: str = "service", member_token: str = "") -> tuple[tuple[str, str], ...]:
    """Return metadata with the credential of a caller, and optionally a forwarded member token."""
    entries = [("authorization", f"Bearer {caller_key(caller)}")] if caller else []
    if member_token:
        entries.append(("zoomgate-member-token", caller_key(member_token)))
    return tuple(entries)


def caller_entry(name: str, role: str, rights: str = "") -> str:
    """Return the entry of a test caller in a callers file; `rights` are further lines of the entry."""
    return f'[[callers]]\nname = "{name}"\nrole = "{role}"\nkey_sha256 = "{digest(caller_key(name))}"\n{rights}\n'


def write_callers(path: Path, *entries: str) -> None:
    """Write a callers file."""
    path.touch(mode=0o600)
    path.write_text("".join(entries), encoding="utf-8")


def issued(record: ConnectionRecord, then: float) -> ConnectionRecord:
    """Return a copy of the connection whose token pair was issued at `then`, with an access token lifetime of one hour."""
    assert record.tokens is not None
    pair = replace(record.tokens, obtained_at=then, access_expire_at=then + 3600.0)
    return replace(
        record,
        tokens=pair,
        refresh_time=then,
        access_expire_at=pair.access_expire_at,
        due_at=refresh_schedule.due_at(record.zoom_user_id, pair, time.time()),
    )


@dataclass
class Harness:
    """A running service.

    Attributes:
        simulator: The Zoom simulator.
        grpc_address: Address of the gRPC server as HOST:PORT.
        http_url: Base URL of the HTTP server.
        channel: A channel to the service.
        data_dir: The service's data directory.
        injected_store: The service's store; None if the service runs in another process.
    """

    simulator: Simulator
    grpc_address: str
    http_url: str
    channel: grpc.aio.Channel
    data_dir: Path
    injected_store: FaultyStore | None = None
    auth: AuthServiceStub = field(init=False)
    meetings: MeetingsServiceStub = field(init=False)
    registrants: RegistrantsServiceStub = field(init=False)
    proxy: ProxyServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.auth = AuthServiceStub(self.channel)
        self.meetings = MeetingsServiceStub(self.channel)
        self.registrants = RegistrantsServiceStub(self.channel)
        self.proxy = ProxyServiceStub(self.channel)

    @property
    def store(self) -> FaultyStore:
        """The service's store, which can fail on request."""
        assert self.injected_store is not None, "the service runs in another process"
        return self.injected_store

    def method(self, name: str) -> Any:
        """Return the stub method of an RPC, `Service.Method`."""
        service_name, _, method = name.partition(".")
        return getattr(getattr(self, service_name.removesuffix("Service").lower()), method)

    async def call(
        self,
        method: Any,
        request: Any,
        caller: str = "service",
        member_token: str = "",
        seconds: float = SECONDS,
    ) -> Any:
        """Call an RPC and return its response; for a stream, return the first response."""
        call = method(request, metadata=metadata(caller, member_token), timeout=seconds)
        if not isinstance(call, grpc.aio.UnaryStreamCall):
            return await call
        try:
            return await call.read()
        finally:
            call.cancel()

    async def error_of(
        self,
        method: Any,
        request: Any,
        caller: str = "service",
        member_token: str = "",
        seconds: float = SECONDS,
    ) -> "RpcError":
        """Call an RPC that must fail, and return the failure."""
        try:
            response = await self.call(method, request, caller, member_token, seconds)
        except grpc.aio.AioRpcError as error:
            return RpcError.of(error)
        raise AssertionError(f"the call succeeded: {response}")

    async def begin_authorization(self, user: str = MONICA, caller: str = "service", **fields: Any) -> Any:
        """Start an authorization."""
        return await self.call(
            self.auth.BeginAuthorization,
            auth.BeginAuthorizationRequest(user_email=user, **fields),
            caller,
        )

    async def connect(self, user: str = MONICA, caller: str = "service", **fields: Any) -> None:
        """Connect a user in a browser. The Zoom user with the address `zoom_email` consents, if it is set."""
        authorization = await self.begin_authorization(user, caller, **fields)
        async with browser() as session:
            consenting = fields.get("zoom_email", user)
            page = await consent(session, authorization.authorization_url, consenting)
        assert page.url.query.get("outcome", "connected") == "connected", page.url

    def stat(self, name: str) -> int:
        """Return the value of one of the simulator's counters."""
        return self.simulator.zoom.counters[name]


@dataclass(frozen=True)
class RpcError:
    """The status of a failed call."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    violations: dict[str, str]
    retry_after: float | None
    details: tuple[str, ...]

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "RpcError":
        """Parse the status of a failed call, whose metadata must be as documented."""
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        status = rpc_status.from_call(error)
        detail_types = []
        for detail in status.details if status is not None else ():
            detail_types.append(detail.type_url.rpartition(".")[2])
            for message in (info, bad, retry):
                if detail.Is(message.DESCRIPTOR):
                    detail.Unpack(message)
        if info.reason:
            check_metadata(info.reason, dict(info.metadata))
        return cls(
            code=error.code(),
            reason=info.reason,
            message=error.details() or "",
            metadata=dict(info.metadata),
            violations={row.field: row.description for row in bad.field_violations},
            retry_after=retry.retry_delay.ToTimedelta().total_seconds()
            if "RetryInfo" in detail_types
            else None,
            details=tuple(detail_types),
        )

    @property
    def short(self) -> tuple[str, str]:
        """The status code and the error reason."""
        return self.code.name, self.reason


@asynccontextmanager
async def running(
    data_dir: Path,
    *,
    simulator: SimulatorOptions | None = None,
    environ: dict[str, str] | None = None,
    callers: dict[str, Principal] | None = None,
    anonymous: Principal | None = None,
    zoom_api_url: str = "",
    options: Sequence[tuple[str, Any]] = (),
    timing: Timing = Timing(),
    clock: Clock = SystemClock(),
    reload: asyncio.Event | None = None,
) -> AsyncIterator[Harness]:
    """Run a simulator and a service on free ports."""
    async with (
        Simulator(simulator or SimulatorOptions(port=0)) as zoom,
        serving(
            zoom, data_dir, environ, callers, anonymous, zoom_api_url, options, timing, clock, reload
        ) as harness,
    ):
        yield harness


@asynccontextmanager
async def serving(
    zoom: Simulator,
    data_dir: Path,
    environ: dict[str, str] | None = None,
    callers: dict[str, Principal] | None = None,
    anonymous: Principal | None = None,
    zoom_api_url: str = "",
    options: Sequence[tuple[str, Any]] = (),
    timing: Timing = Timing(),
    clock: Clock = SystemClock(),
    reload: asyncio.Event | None = None,
) -> AsyncIterator[Harness]:
    """Run a service on free ports with an existing simulator."""
    loaded = settings.load(
        {
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_CONNECT_RPC": "on",
            "ZOOMGATE_DATA_DIR": str(data_dir),
            "ZOOMGATE_CLIENT_ID": zoom.options.client_id,
            "ZOOMGATE_CLIENT_SECRET": zoom.options.client_secret,
            "ZOOMGATE_ZOOM_API_URL": zoom_api_url or zoom.api_url,
            "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        }
        | (environ or {})
    )
    keys = {digest(caller_key(name)): principal for name, principal in (callers or CALLERS).items()}
    opened: list[FaultyStore] = []

    async def open_store(*args: Any) -> tuple[RecordStore, KeyRing]:
        store, key_ring = await stores.open_store(*args)
        opened.append(FaultyStore(store))
        return opened[0], key_ring

    async with (
        lifecycle.run(
            loaded,
            extra_keys=keys,
            anonymous=anonymous,
            open_store=open_store,
            timing=timing,
            clock=clock,
            reload=reload,
        ) as started,
        grpc.aio.insecure_channel(started.grpc, options=list(options)) as channel,
    ):
        yield Harness(zoom, started.grpc, f"http://{started.http}", channel, data_dir, opened[0])


def browser() -> aiohttp.ClientSession:
    """Return a browser session with cookies."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


def hidden_fields(page: str) -> dict[str, str]:
    """Return the hidden fields of a form."""
    fields = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page)
    return {html.unescape(name): html.unescape(value) for name, value in fields}


async def consent_form(session: aiohttp.ClientSession, url: str) -> tuple[str, dict[str, str]]:
    """Follow an authorization link to Zoom's consent page. Return the form's target and hidden fields."""
    async with session.get(url) as first:
        match = re.search(r'href="(/oauth/continue[^"]+)"', await first.text())
    if match:
        url = str(first.url.join(URL(html.unescape(match.group(1)), encoded=True)))
    async with session.get(url) as page:
        text = await page.text()
        assert page.status == 200, text
        return str(page.url.with_query(None)), hidden_fields(text)


async def consent(
    session: aiohttp.ClientSession, url: str, user: str, decision: str = "allow"
) -> aiohttp.ClientResponse:
    """Follow an authorization link, select a user, and allow or deny access. Return the last page."""
    action, fields = await consent_form(session, url)
    async with session.post(action, data=fields | {"user": user, "decision": decision}) as last:
        await last.read()
        return last
