"""AuthService over the domain: `authorizations.py` and `connections.py`."""

import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration

from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer
from zoomgate_server import user_email as addresses
from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.authorization.flow import Authorizations, CompletedAuthorization
from zoomgate_server.call_context import Call, current_call, current_permit
from zoomgate_server.clock import Clock
from zoomgate_server.connections.access_tokens import AccessToken, AccessTokens
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.connections.queries import ConnectionQueries
from zoomgate_server.errors import InvalidPageToken, InvalidRequest, InvalidResumeToken
from zoomgate_server.rpc.services import connection_mapping, json_value
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.resume_token import ResumeTokens
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.watch.watchers import EventType, Watchers

DEFAULT_MIN_VALIDITY_SECONDS = 60.0
MAX_MIN_VALIDITY_SECONDS = 600.0
MAX_OPTIONS_BYTES = 8 * 1024
MAX_OPTIONS_DEPTH = 16
MAX_CODE = 2048
MAX_STATE = 512
MAX_TOKEN = 8 * 1024
MAX_EXPIRES_IN = 365 * 24 * 3600
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_STATES = 100
MAX_WATCHED = 1000
_YEAR_10000 = 253_402_300_800
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)

_EVENT_TYPES = {kind: pb.WatchConnectionsResponse.Type.Value(f"TYPE_{kind}") for kind in EventType}

NOT_LOGGED_IN = "Member is not logged in"
NOT_THE_SAME = "Email addresses do not match"


class AuthService(AuthServiceServicer):
    """Connects people and hands out tokens; every rule of the fields is here, every decision below.

    Args:
        authorizations: Begins and completes.
        connections: Access tokens.
        queries: Reads of connections.
        endings: Ends.
        watches: Tells of changes.
        page_tokens: Makes page tokens.
        clock: Time.
        audit: Hears of every token before it is handed out; what it raises keeps the token back.
    """

    def __init__(
        self,
        *,
        authorizations: Authorizations,
        connections: AccessTokens,
        queries: ConnectionQueries,
        disconnector: Disconnector,
        watches: Watchers,
        page_tokens: PageTokens,
        clock: Clock,
        audit: AuditSink,
    ) -> None:
        self._authorizations = authorizations
        self._connections = connections
        self._queries = queries
        self._disconnector = disconnector
        self._watches = watches
        self._page_tokens = page_tokens
        self._clock = clock
        self._audit = audit

    async def BeginAuthorization(
        self, request: pb.BeginAuthorizationRequest, context: Any
    ) -> pb.BeginAuthorizationResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.text("return_to", request.return_to, limit=64)
        options = _options(request, wrong)
        wrong.raise_if_any()
        begun = await self._authorizations.begin(
            current_call.get(), request.user_email, options, request.return_to
        )
        return pb.BeginAuthorizationResponse(
            authorization_url=begun.authorization_url,
            state=begun.state,
            expire_time=connection_mapping.timestamp(begun.expire_at),
        )

    async def CompleteAuthorization(
        self, request: pb.CompleteAuthorizationRequest, context: Any
    ) -> pb.CompleteAuthorizationResponse:
        wrong = Violations()
        wrong.text("code", request.code, limit=MAX_CODE)
        wrong.text("state", request.state, limit=MAX_STATE)
        wrong.text("ticket", request.ticket, limit=MAX_STATE)
        if request.ticket and (request.code or request.state):
            wrong.add("ticket", "cannot be combined: send either ticket alone, or code and state")
        elif not request.ticket:
            for field, value in (("code", request.code), ("state", request.state)):
                if not value:
                    wrong.add(field, "is required without a ticket: send what Zoom's redirect carried")
        wrong.raise_if_any()
        call = current_call.get()
        completed = await (
            self._authorizations.redeem(call, request.ticket)
            if request.ticket
            else self._authorizations.complete(call, request.code, request.state)
        )
        return _completed(completed)

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.text("code", request.code, limit=MAX_CODE, required=True)
        wrong.text("state", request.state, limit=MAX_STATE)
        if request.code_verifier and not _VERIFIER.fullmatch(request.code_verifier):
            wrong.add(
                "code_verifier",
                "must be 43 to 128 letters, digits and - . _ ~ (RFC 7636): send the one of your authorization request",
            )
        if request.code_verifier and request.state:
            wrong.add(
                "code_verifier", "cannot be combined with state: send state alone, its verifier is kept here"
            )
        wrong.raise_if_any()
        call = current_call.get()
        record = await self._authorizations.create_token(
            call, request.user_email, request.code, state=request.state, code_verifier=request.code_verifier
        )
        if call.principal.member is not None or not call.principal.access_tokens:
            return pb.CreateTokenResponse(success=True)
        given = self._connections.issued_to_caller(request.user_email, record)
        return pb.CreateTokenResponse(success=True, token=self._token(call, request.user_email, given))

    async def GetToken(self, request: pb.GetTokenRequest, context: Any) -> pb.GetTokenResponse:
        min_validity = DEFAULT_MIN_VALIDITY_SECONDS
        if not addresses.is_canonical(request.user_email) or request.HasField("min_validity"):
            wrong = Violations()
            wrong.user_email(request.user_email)
            if request.HasField("min_validity"):
                min_validity = request.min_validity.seconds + request.min_validity.nanos / 1e9
                if not 0 <= min_validity <= MAX_MIN_VALIDITY_SECONDS:
                    wrong.add(
                        "min_validity",
                        "must be 0 to 600 seconds: send no more, since a token cannot be promised for longer",
                    )
            wrong.raise_if_any()
        call = current_call.get()
        given = await self._connections.get_token(call, request.user_email, min_validity)
        return pb.GetTokenResponse(token=self._token(call, request.user_email, given))

    async def RefreshToken(self, request: pb.RefreshTokenRequest, context: Any) -> pb.RefreshTokenResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.text("refresh_token", request.refresh_token, limit=MAX_TOKEN)
        wrong.raise_if_any()
        call = current_call.get()
        given = await self._connections.refresh_token(call, request.user_email, request.refresh_token)
        return pb.RefreshTokenResponse(token=self._token(call, request.user_email, given))

    async def RequestToken(self, request: pb.RequestTokenRequest, context: Any) -> pb.RequestTokenResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.text("refresh_token", request.refresh_token, limit=MAX_TOKEN, required=True)
        wrong.raise_if_any()
        call = current_call.get()
        record = await self._authorizations.request_token(call, request.user_email, request.refresh_token)
        given = self._connections.issued_to_caller(request.user_email, record)
        return pb.RequestTokenResponse(token=self._token(call, request.user_email, given))

    async def CheckToken(self, request: pb.CheckTokenRequest, context: Any) -> pb.CheckTokenResponse:
        wrong = Violations()
        now = self._clock.wall()
        match request.WhichOneof("subject"):
            case "facts":
                _check_facts(request.facts, wrong)
                wrong.raise_if_any()
                updated = request.facts.update_time.seconds + request.facts.update_time.nanos / 1e9
                return _verdict(updated + request.facts.expires_in - now, now)
            case "user_email":
                wrong.user_email(request.user_email)
            case _:
                wrong.add("subject", "is required: send facts or user_email")
        wrong.raise_if_any()
        stored = await self._connections.peek(current_call.get(), request.user_email)
        return _verdict(stored.remaining, now)

    async def ValidateUser(self, request: pb.ValidateUserRequest, context: Any) -> pb.ValidateUserResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.raise_if_any()
        member = current_call.get().principal.member
        if member is None:
            return pb.ValidateUserResponse(valid=False, reason=NOT_LOGGED_IN)
        valid = member.email == request.user_email
        return pb.ValidateUserResponse(valid=valid, reason="" if valid else NOT_THE_SAME)

    async def GetConnection(self, request: pb.GetConnectionRequest, context: Any) -> pb.GetConnectionResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.raise_if_any()
        record = await self._queries.get(current_call.get(), request.user_email)
        return pb.GetConnectionResponse(connection=connection_mapping.connection(record))

    async def ListConnections(
        self, request: pb.ListConnectionsRequest, context: Any
    ) -> pb.ListConnectionsResponse:
        call = current_call.get()
        limit = request.page_size or DEFAULT_PAGE_SIZE
        wrong = Violations()
        numbers = set(request.states[:MAX_STATES])
        if len(request.states) > MAX_STATES:
            wrong.add("states", f"has {len(request.states)} entries: send each state once")
        filters = (call.principal.identity, *sorted(map(str, numbers)))
        if not 1 <= limit <= MAX_PAGE_SIZE:
            wrong.add("page_size", f"is {limit}: send 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
        try:
            states = connection_mapping.states(numbers)
        except KeyError:
            wrong.add(
                "states",
                "has an unknown or unspecified state: send STATE_ACTIVE, STATE_REAUTH_REQUIRED or STATE_DISCONNECTED",
            )
        try:
            after = self._page_tokens.read(request.page_token, *filters)
        except InvalidPageToken as invalid:
            if not wrong:
                raise
            wrong.add("page_token", invalid.violations[0].description)
        wrong.raise_if_any()
        page = await self._queries.page(call, states, after, limit)
        return pb.ListConnectionsResponse(
            connections=[connection_mapping.connection(record) for record in page.connections],
            next_page_token="" if page.after is None else self._page_tokens.make(page.after, *filters),
        )

    async def DeleteConnection(
        self, request: pb.DeleteConnectionRequest, context: Any
    ) -> pb.DeleteConnectionResponse:
        wrong = Violations()
        wrong.user_email(request.user_email)
        wrong.raise_if_any()
        record = await self._disconnector.disconnect(current_call.get(), request.user_email)
        return pb.DeleteConnectionResponse(connection=connection_mapping.connection(record))

    async def WatchConnections(
        self, request: pb.WatchConnectionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchConnectionsResponse]:
        principal = current_call.get().principal
        names = request.user_emails[:MAX_WATCHED]
        wrong = Violations()
        if len(request.user_emails) > MAX_WATCHED:
            wrong.add(
                "user_emails",
                f"has {len(request.user_emails)} entries: send at most {MAX_WATCHED}, or none for everybody",
            )
        for index, name in enumerate(names):
            wrong.user_email(name, f"user_emails[{index}]")
        tokens = ResumeTokens(self._page_tokens, principal.identity, names)
        position = None
        try:
            position = tokens.read(request.resume_token)
        except InvalidResumeToken as invalid:
            if not wrong:
                raise
            wrong.add("resume_token", invalid.violations[0].description)
        wrong.raise_if_any()
        events = self._watches.watch(
            names=names, is_visible=principal.oversees, permit=current_permit.get(), position=position
        )
        async for event in events:
            yield pb.WatchConnectionsResponse(
                type=_EVENT_TYPES[event.type],
                connection=None if event.record is None else connection_mapping.connection(event.record),
                resume_token=tokens.make(event.position),
            )

    def _token(self, call: Call, user_email: str, given: AccessToken) -> pb.Token:
        """Hand a token out. Its line is in the audit trail first."""
        whole = call.principal.refresh_tokens
        tokens = given.tokens
        self._audit(
            AuditEvent.for_call(
                call,
                "token.returned",
                "ok",
                user_email,
                generation=given.generation,
                access_token=tokens.access_token,
                refresh_token=tokens.refresh_token if whole else "",
            )
        )
        return connection_mapping.token(given, self._clock.wall(), refresh_token=whole)


def _options(request: pb.BeginAuthorizationRequest, wrong: Violations) -> bytes:
    """Give the options as JSON."""
    if not request.HasField("options"):
        return b"{}"
    if request.options.ByteSize() > 4 * MAX_OPTIONS_BYTES:
        wrong.add("options", f"is too large: send at most {MAX_OPTIONS_BYTES} bytes as JSON")
        return b"{}"
    try:
        options = json_value.plain_struct(request.options, max_depth=MAX_OPTIONS_DEPTH)
    except InvalidRequest as invalid:
        for violation in invalid.violations:
            wrong.add(f"options{violation.field}", violation.description)
        return b"{}"
    encoded = orjson.dumps(options)
    if len(encoded) > MAX_OPTIONS_BYTES:
        wrong.add("options", f"has {len(encoded)} bytes as JSON: send at most {MAX_OPTIONS_BYTES}")
    return encoded


def _completed(completed: CompletedAuthorization) -> pb.CompleteAuthorizationResponse:
    options = struct_pb2.Struct()
    options.update(orjson.loads(completed.options))
    return pb.CompleteAuthorizationResponse(
        user_email=completed.user_email,
        options=options,
        connection=connection_mapping.connection(completed.connection),
    )


def _check_facts(facts: pb.CheckTokenRequest.Facts, wrong: Violations) -> None:
    if not 0 <= facts.expires_in <= MAX_EXPIRES_IN:
        wrong.add("facts.expires_in", f"must be 0 to {MAX_EXPIRES_IN} seconds: send Zoom's expires_in")
    if not facts.HasField("update_time"):
        wrong.add("facts.update_time", "is required: send when Zoom issued the token")
    elif (
        not 0 <= facts.update_time.seconds < _YEAR_10000 - MAX_EXPIRES_IN
    ):  # a Timestamp ends with the year 9999
        wrong.add("facts.update_time", "must lie between 1970 and 9998: send when Zoom issued the token")


def _verdict(remaining: float, now: float) -> pb.CheckTokenResponse:
    left = max(0.0, remaining)
    return pb.CheckTokenResponse(
        expired=remaining <= 0,
        expire_time=connection_mapping.timestamp(now + remaining),
        remaining=Duration(seconds=int(left), nanos=int(left % 1 * 1000) * 1_000_000),
    )
