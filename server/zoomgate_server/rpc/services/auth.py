"""The AuthService RPCs."""

import re
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Any

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer
from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server.audit.event import Actor, AuditEvent, AuditSink
from zoomgate_server.authorization.caller_flow import AuthorizationRequest, CallerFlow
from zoomgate_server.call_context import MAX_USERS, Call, current_access_check, current_call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.access_tokens import AccessToken, AccessTokens
from zoomgate_server.connections.connection_import import ConnectionImporter, ImportOutcome, ImportRequest
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.connections.queries import ConnectionQueries
from zoomgate_server.errors import InvalidRequest
from zoomgate_server.rpc.services import callback_parameters, connection_mapping, json_value
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.resume_token import ResumeTokens
from zoomgate_server.rpc.services.validation import Violations, parse_user_email
from zoomgate_server.watch.watchers import EventType, Watchers
from zoomgate_server.zoom.token_outcome import MAX_TOKEN, is_token

DEFAULT_MIN_VALIDITY_SECONDS = 60.0
MAX_MIN_VALIDITY_SECONDS = 600.0
MAX_OPTIONS_BYTES = 8 * 1024
MAX_OPTIONS_DEPTH = 16
MAX_SCOPE = 16 * 1024
MAX_EXPIRES_IN = 365 * 24 * 3600
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_STATES = 100
_YEAR_10000 = 253_402_300_800
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)

_IMPORT_OUTCOMES = {
    outcome: pb.ImportConnectionResponse.Outcome.Value(f"OUTCOME_{outcome}") for outcome in ImportOutcome
}
_AUTHORIZATION_STATES = {
    "succeeded": pb.GetAuthorizationResponse.STATE_SUCCEEDED,
    "failed": pb.GetAuthorizationResponse.STATE_FAILED,
}
_ERROR_REASONS = {name.removeprefix("ERROR_REASON_"): number for name, number in ErrorReason.items()}
"""The reasons by the names that are stored, of which a newer version may store others."""

_EVENT_TYPES = {kind: pb.WatchConnectionsResponse.Type.Value(f"TYPE_{kind}") for kind in EventType}

NOT_LOGGED_IN = "Member is not logged in"
EMAIL_MISMATCH = "Email addresses do not match"


class AuthService(AuthServiceServicer):
    """The AuthService: authorizations, tokens and connections. Only validates requests and builds responses.

    Args:
        audit: Function that records an audit event. Called before a token is returned; if recording fails, no token is returned.
    """

    def __init__(
        self,
        *,
        authorizations: CallerFlow,
        importer: ConnectionImporter,
        access_tokens: AccessTokens,
        queries: ConnectionQueries,
        disconnector: Disconnector,
        watchers: Watchers,
        page_tokens: PageTokens,
        required_scopes: Collection[str],
        clock: Clock,
        audit: AuditSink,
    ) -> None:
        self._authorizations = authorizations
        self._importer = importer
        self._access_tokens = access_tokens
        self._queries = queries
        self._disconnector = disconnector
        self._watches = watchers
        self._page_tokens = page_tokens
        self._connection = partial(connection_mapping.connection, required_scopes=required_scopes)
        self._clock = clock
        self._audit = audit

    async def BeginAuthorization(
        self, request: pb.BeginAuthorizationRequest, context: Any
    ) -> pb.BeginAuthorizationResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        zoom_email = (
            violations.user_email(request.zoom_email, field="zoom_email") if request.zoom_email else ""
        )
        violations.text("return_to", request.return_to, limit=64)
        options = _options(request, violations)
        violations.raise_if_any()
        started = await self._authorizations.begin(
            current_call.get(),
            AuthorizationRequest(
                user_email, "" if zoom_email == user_email else zoom_email, options, request.return_to
            ),
        )
        return pb.BeginAuthorizationResponse(
            authorization_url=started.authorization_url,
            state=started.state,
            expire_time=connection_mapping.timestamp(started.expire_at),
        )

    async def CompleteAuthorization(
        self, request: pb.CompleteAuthorizationRequest, context: Any
    ) -> pb.CompleteAuthorizationResponse:
        violations = Violations()
        returned = callback_parameters.read(request, violations)
        violations.raise_if_any()
        call = current_call.get()
        if returned.error:
            await self._authorizations.decline(
                call, returned.state, returned.error, returned.error_description
            )
        completed = await (
            self._authorizations.redeem(call, returned.ticket)
            if returned.ticket
            else self._authorizations.complete(call, returned.code, returned.state)
        )
        return pb.CompleteAuthorizationResponse(
            user_email=completed.connection.user_email,
            options=orjson.loads(completed.options),
            connection=self._connection(completed.connection),
        )

    async def GetAuthorization(
        self, request: pb.GetAuthorizationRequest, context: Any
    ) -> pb.GetAuthorizationResponse:
        violations = Violations()
        violations.text("state", request.state, limit=callback_parameters.MAX_STATE, required=True)
        violations.raise_if_any()
        pending = await self._authorizations.get(current_call.get(), request.state)
        return pb.GetAuthorizationResponse(
            state=_AUTHORIZATION_STATES.get(pending.kind, pb.GetAuthorizationResponse.STATE_PENDING),
            error_reason=_ERROR_REASONS.get(pending.error_reason, ErrorReason.ERROR_REASON_UNSPECIFIED),
            error_message=pending.error_message,
            expire_time=connection_mapping.timestamp(pending.expire_at),
        )

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        violations.text("code", request.code, limit=callback_parameters.MAX_CODE, required=True)
        violations.text("state", request.state, limit=callback_parameters.MAX_STATE)
        if request.code_verifier and not _VERIFIER.fullmatch(request.code_verifier):
            violations.add(
                "code_verifier",
                "must be 43 to 128 letters, digits and - . _ ~ (RFC 7636); send the code verifier of your authorization request",
            )
        if request.code_verifier and request.state:
            violations.add(
                "code_verifier",
                "cannot be combined with state; send only state, because Zoomgate stores the code verifier with the state",
            )
        violations.raise_if_any()
        call = current_call.get()
        record = await self._authorizations.create_token(
            call, user_email, request.code, state=request.state, code_verifier=request.code_verifier
        )
        if call.principal.member is not None or not call.principal.access_tokens:
            return pb.CreateTokenResponse(success=True)
        token = await self._access_tokens.issue(call, record, DEFAULT_MIN_VALIDITY_SECONDS)
        return pb.CreateTokenResponse(success=True, token=self._token(call, user_email, token))

    async def GetToken(self, request: pb.GetTokenRequest, context: Any) -> pb.GetTokenResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        min_validity = DEFAULT_MIN_VALIDITY_SECONDS
        if request.HasField("min_validity"):
            min_validity = request.min_validity.seconds + request.min_validity.nanos / 1e9
            if not 0 <= min_validity <= MAX_MIN_VALIDITY_SECONDS:
                violations.add(
                    "min_validity",
                    "must be 0 to 600 seconds; send at most 600, because a longer validity cannot be guaranteed",
                )
        violations.raise_if_any()
        call = current_call.get()
        token = await self._access_tokens.get_token(call, user_email, min_validity)
        return pb.GetTokenResponse(token=self._token(call, user_email, token))

    async def RefreshToken(self, request: pb.RefreshTokenRequest, context: Any) -> pb.RefreshTokenResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        violations.text("refresh_token", request.refresh_token, limit=MAX_TOKEN)
        violations.raise_if_any()
        call = current_call.get()
        token = await self._access_tokens.refresh_token(call, user_email, request.refresh_token)
        return pb.RefreshTokenResponse(token=self._token(call, user_email, token))

    async def RequestToken(self, request: pb.RequestTokenRequest, context: Any) -> pb.RequestTokenResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        violations.text("refresh_token", request.refresh_token, limit=MAX_TOKEN, required=True)
        violations.raise_if_any()
        call = current_call.get()
        record = await self._authorizations.request_token(call, user_email, request.refresh_token)
        token = await self._access_tokens.issue(call, record, DEFAULT_MIN_VALIDITY_SECONDS)
        return pb.RequestTokenResponse(token=self._token(call, user_email, token))

    async def ImportConnection(
        self, request: pb.ImportConnectionRequest, context: Any
    ) -> pb.ImportConnectionResponse:
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        for name, token in (("refresh_token", request.refresh_token), ("access_token", request.access_token)):
            if (token or name == "refresh_token") and not is_token(token):
                violations.add(
                    name,
                    f"must be 1 to {MAX_TOKEN} visible ASCII characters; send the token as Zoom issued it",
                )
        violations.text("scope", request.scope, limit=MAX_SCOPE)
        expire_at, updated_at = _import_times(request, violations)
        violations.raise_if_any()
        result = await self._importer.import_connection(
            current_call.get(),
            ImportRequest(
                user_email=user_email,
                refresh_token=request.refresh_token,
                access_token=request.access_token,
                expire_at=expire_at,
                updated_at=updated_at,
                scope=request.scope,
                replace=request.replace,
            ),
        )
        return pb.ImportConnectionResponse(
            outcome=_IMPORT_OUTCOMES[result.outcome],
            connection=None if result.connection is None else self._connection(result.connection),
        )

    async def CheckToken(self, request: pb.CheckTokenRequest, context: Any) -> pb.CheckTokenResponse:
        now = self._clock.wall()
        match request.WhichOneof("subject"):
            case "facts":
                violations = Violations()
                _check_facts(request.facts, violations)
                violations.raise_if_any()
                updated = _seconds(request.facts.update_time)
                return _token_status(updated + request.facts.expires_in - now, now)
            case "user_email":
                user_email = parse_user_email(request.user_email)
            case _:
                raise InvalidRequest.of("subject", "is required; send facts or user_email")
        stored = await self._access_tokens.peek(current_call.get(), user_email)
        return _token_status(stored.expires - self._clock.monotonic(), now)

    async def ValidateUser(self, request: pb.ValidateUserRequest, context: Any) -> pb.ValidateUserResponse:
        user_email = parse_user_email(request.user_email)
        member = current_call.get().principal.member
        if member is None:
            return pb.ValidateUserResponse(valid=False, reason=NOT_LOGGED_IN)
        valid = member.email == user_email
        return pb.ValidateUserResponse(valid=valid, reason="" if valid else EMAIL_MISMATCH)

    async def GetConnection(self, request: pb.GetConnectionRequest, context: Any) -> pb.GetConnectionResponse:
        user_email = parse_user_email(request.user_email)
        record = await self._queries.get(current_call.get(), user_email)
        return pb.GetConnectionResponse(connection=self._connection(record))

    async def ListConnections(
        self, request: pb.ListConnectionsRequest, context: Any
    ) -> pb.ListConnectionsResponse:
        call = current_call.get()
        limit = request.page_size or DEFAULT_PAGE_SIZE
        violations = Violations()
        numbers = set(request.states[:MAX_STATES])
        if len(request.states) > MAX_STATES:
            violations.add("states", f"has {len(request.states)} entries; send each state once")
        filters = (call.principal.identity, *sorted(map(str, numbers)))
        if not 1 <= limit <= MAX_PAGE_SIZE:
            violations.add(
                "page_size",
                f"is {limit}; send 1 to {MAX_PAGE_SIZE}, or 0 for the default of {DEFAULT_PAGE_SIZE}",
            )
        states = connection_mapping.states(numbers)
        if len(states) < len(numbers):
            violations.add(
                "states",
                "contains an unknown or unspecified state; send STATE_ACTIVE, STATE_REAUTH_REQUIRED or STATE_DISCONNECTED",
            )
        after = ""
        with violations.collecting():
            after = self._page_tokens.read(request.page_token, *filters)
        violations.raise_if_any()
        page = await self._queries.page(call, states, after, limit)
        return pb.ListConnectionsResponse(
            connections=[self._connection(record) for record in page.connections],
            next_page_token="" if page.after is None else self._page_tokens.make(page.after, *filters),
            unreadable_users=page.unreadable_users,
        )

    async def DeleteConnection(
        self, request: pb.DeleteConnectionRequest, context: Any
    ) -> pb.DeleteConnectionResponse:
        user_email = parse_user_email(request.user_email)
        record = await self._disconnector.disconnect(current_call.get(), user_email)
        return pb.DeleteConnectionResponse(connection=self._connection(record))

    async def WatchConnections(
        self, request: pb.WatchConnectionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchConnectionsResponse]:
        principal = current_call.get().principal
        violations = Violations()
        if len(request.user_emails) > MAX_USERS:
            violations.add(
                "user_emails",
                f"has {len(request.user_emails)} entries; send at most {MAX_USERS}, or none to watch all users",
            )
        user_emails = [
            violations.user_email(user_email, f"user_emails[{index}]")
            for index, user_email in enumerate(request.user_emails[:MAX_USERS])
        ]
        tokens = ResumeTokens(self._page_tokens, principal.identity, user_emails)
        position = None
        with violations.collecting():
            position = tokens.read(request.resume_token)
        violations.raise_if_any()
        events = self._watches.watch(
            names=user_emails,
            is_visible=principal.can_view,
            permit=current_access_check.get(),
            position=position,
            heartbeat=request.heartbeat,
        )
        async for event in events:
            yield pb.WatchConnectionsResponse(
                type=_EVENT_TYPES[event.type],
                connection=None if event.record is None else self._connection(event.record),
                resume_token=tokens.make(event.position),
                unreadable_count=event.unreadable_count,
            )

    def _token(self, call: Call, user_email: str, token: AccessToken) -> pb.Token:
        """Record the return of a token in the audit trail, and return the token as a message."""
        with_refresh_token = call.principal.refresh_tokens
        refresh_token = token.tokens.refresh_token if with_refresh_token else ""
        event = AuditEvent("token.returned", "ok", user_email, Actor.of_call(call))
        self._audit(event.with_tokens(token.generation, token.tokens.access_token, refresh_token))
        return connection_mapping.token(token, self._clock, refresh_token=with_refresh_token)


def _options(request: pb.BeginAuthorizationRequest, violations: Violations) -> str:
    """Return the options as JSON. Adds violations to `violations`."""
    if request.options.ByteSize() > 4 * MAX_OPTIONS_BYTES:
        violations.add("options", f"is too large; send at most {MAX_OPTIONS_BYTES} bytes as JSON")
        return "{}"
    options: dict[str, Any] = {}
    with violations.collecting("options"):
        options = json_value.plain_struct(request.options, max_depth=MAX_OPTIONS_DEPTH)
    encoded = orjson.dumps(options)
    if len(encoded) > MAX_OPTIONS_BYTES:
        violations.add("options", f"has {len(encoded)} bytes as JSON; send at most {MAX_OPTIONS_BYTES}")
    return encoded.decode()


def _check_facts(facts: pb.CheckTokenRequest.Facts, violations: Violations) -> None:
    _check_expires_in("facts.expires_in", facts.expires_in, violations)
    if not facts.HasField("update_time"):
        violations.add("facts.update_time", "is required; send the time at which Zoom issued the token")
    else:
        _check_time("facts.update_time", facts.update_time, violations)


def _import_times(request: pb.ImportConnectionRequest, violations: Violations) -> tuple[float, float]:
    """Return when the access token expires and when the pair was updated, each 0 if unknown."""
    _check_expires_in("expires_in", request.expires_in, violations)
    _check_time("update_time", request.update_time, violations)
    _check_time("expire_time", request.expire_time, violations)
    if request.expires_in and request.HasField("expire_time"):
        violations.add("expires_in", "cannot be combined with expire_time; send only one of them")
    elif request.expires_in and not request.HasField("update_time"):
        violations.add("expires_in", "requires update_time; send the time at which Zoom issued the token")
    updated_at = _seconds(request.update_time)
    expire_at = updated_at + request.expires_in if request.expires_in else _seconds(request.expire_time)
    return expire_at, updated_at


def _check_expires_in(field: str, value: int, violations: Violations) -> None:
    if not 0 <= value <= MAX_EXPIRES_IN:
        violations.add(field, f"must be 0 to {MAX_EXPIRES_IN} seconds; send the expires_in value from Zoom")


def _check_time(field: str, time: Timestamp, violations: Violations) -> None:
    # a Timestamp cannot represent years after 9999
    if not 0 <= time.seconds < _YEAR_10000 - MAX_EXPIRES_IN:
        violations.add(field, "must be between the years 1970 and 9998; send a time in that range")


def _seconds(time: Timestamp) -> float:
    """Return a time in seconds since 1970, or 0 if it is not set."""
    return time.seconds + time.nanos / 1e9


def _token_status(remaining: float, now: float) -> pb.CheckTokenResponse:
    seconds = max(0.0, remaining)
    return pb.CheckTokenResponse(
        expired=remaining <= 0,
        expire_time=connection_mapping.timestamp(now + remaining),
        remaining=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1000) * 1_000_000),
    )
