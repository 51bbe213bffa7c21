"""The consent flow for callers: an authorization is started, and its result is claimed.

Before the tokens are stored, three checks are made: the state was issued by this service, is unused and has not expired; the caller or
browser that returns the state also started the authorization (by the caller's identity or the browser's cookie); and the Zoom user who
consented has the requested email address.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from zoomgate_server.audit.event import Actor, AuditEvent, AuditSink
from zoomgate_server.authorization.browser_binding import challenge_of, start_url_of
from zoomgate_server.authorization.denial import denial
from zoomgate_server.authorization.limits import PendingLimits
from zoomgate_server.authorization.pending import AuthorizationKind, PendingAuthorization
from zoomgate_server.authorization.repository import AuthorizationRepository, invalid_state
from zoomgate_server.call_context import Call
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import InvalidRequest, InvalidState, NotConnected, ReauthRequired
from zoomgate_server.zoom.oauth import OAuthClient


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request to start an authorization.

    Attributes:
        user_email: The user to connect.
        zoom_email: The email address of the Zoom user who must consent, or empty for `user_email`.
        options: Options that are returned with the result, as JSON.
        return_to: Name of the page to which the browser is redirected afterwards, or empty.
    """

    user_email: str
    zoom_email: str
    options: str
    return_to: str


@dataclass(frozen=True, slots=True)
class StartedAuthorization:
    """A started authorization, which the user completes in a browser."""

    authorization_url: str = field(repr=False)
    state: str = field(repr=False)
    expire_at: float


@dataclass(frozen=True, slots=True)
class CompletedAuthorization:
    """A successful authorization. `options` are the options passed to `begin`, as JSON."""

    options: str
    connection: ConnectionRecord


class CallerFlow:
    """The operations of the consent flow for RPC callers.

    Args:
        redirect_uri: The redirect URI registered with Zoom. The path `/oauth/callback` identifies the service's own callback.
        return_to: URLs to which the browser may be redirected after the consent, by name.
    """

    def __init__(
        self,
        *,
        authorizations: AuthorizationRepository,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        limits: PendingLimits,
        audit: AuditSink,
        redirect_uri: str,
        return_to: Mapping[str, str],
    ) -> None:
        self._authorizations = authorizations
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._limits = limits
        self._audit = audit
        self._return_to = return_to
        self._start_url = start_url_of(redirect_uri)

    async def begin(self, call: Call, request: AuthorizationRequest) -> StartedAuthorization:
        """Start an authorization, and return the state and the URL that the user opens.

        Raises:
            InvalidRequest: `return_to` is not a configured name, or is set although Zoom does not redirect to this service's callback.
            ServerOverloaded: The caller or the user has too many pending authorizations.
            StoreError: The state could not be stored.
        """
        self._check_return_to(request.return_to)
        self._limits.add(call.principal.name, request.user_email)
        state = secrets.token_urlsafe(32)  # `initZoom` in clients/velo recognizes this form
        verifier = secrets.token_urlsafe(32)
        expire_at = await self._authorizations.create(
            state,
            PendingAuthorization(
                kind="authorization",
                user_email=request.user_email,
                zoom_email=request.zoom_email,
                code_verifier=verifier,
                options=request.options,
                initiated_by=call.principal.identity,
                owner=_owner(call),
                browser_key=secrets.token_urlsafe(32) if self._start_url else None,
                return_to=request.return_to,
            ),
        )
        details = {"zoom_email": request.zoom_email} if request.zoom_email else {}
        self._audit(
            AuditEvent(
                "authorization.started", "ok", request.user_email, Actor.of_call(call), details=details
            )
        )
        url = (
            f"{self._start_url}?{urlencode({'ticket': state})}"
            if self._start_url
            else self._oauth.authorize_url(state, challenge_of(verifier))
        )
        return StartedAuthorization(url, state, expire_at)

    async def get(self, call: Call, state: str) -> PendingAuthorization:
        """Return an authorization that the caller started.

        Raises:
            InvalidState: The state is unknown or expired, is a ticket, or was issued to a different caller.
            StoreError, RecordFault: The store failed.
        """
        pending = await self._authorizations.find(state)
        if pending is None or pending.kind in ("ticket", "redeemed", "view"):
            raise invalid_state()
        if pending.initiated_by != call.principal.identity:
            raise self._other_caller(call, pending)
        return pending

    async def complete(self, call: Call, code: str, state: str) -> CompletedAuthorization:
        """Exchange a code that Zoom sent to the caller's own page.

        Raises:
            InvalidState: The state is unknown, used, expired, issued to a different caller, or bound to a browser.
            ServerOverloaded: Too many codes are being exchanged; the state remains usable.
            ZoomgateError, StoreError: See `AccountLinker.link_code`.
        """

        async def complete() -> CompletedAuthorization:
            pending = await self._find_for(call, state, "authorization")
            async with self._authorizations.consuming(state, pending):
                record = await self._link(
                    call, pending.user_email, code, pending.code_verifier, pending.zoom_email
                )
            return CompletedAuthorization(pending.options, record)

        return await self._account_linker.in_slot(complete, call.deadline)

    async def redeem(self, call: Call, ticket: str) -> CompletedAuthorization:
        """Return the result of an authorization that the callback completed. The ticket is single-use, but remains usable after an error.

        Raises:
            InvalidState: The ticket is unknown, used, expired, or was issued to a different caller.
            NotConnected: The user was disconnected in the meantime.
            StoreError, RecordFault: The store failed.
        """
        pending = await self._find_for(call, ticket, "ticket")
        record, _ = await self._connections.find(pending.user_email)
        if record is None or record.state is State.DISCONNECTED:
            raise NotConnected
        await self._account_linker.tasks.shield(self._authorizations.consume(ticket, pending))
        return CompletedAuthorization(pending.options, record)

    async def decline(self, call: Call, state: str, error: str, description: str) -> None:
        """End an authorization with the error that Zoom sent to the caller's own page, and raise the error.

        Args:
            state: The state, or empty if Zoom returned none.

        Raises:
            AuthorizationDeclined: The user declined, or the app is not set up correctly.
            ZoomUnavailable: Zoom reports an outage.
            InvalidState: The state is unknown, used, expired, issued to a different caller, or bound to a browser.
            StoreError: The store failed; the state remains usable.
        """
        failure, reason = denial(error, description)
        if not state:
            self._audit_rejection(call, reason, "")
            raise failure

        async def end() -> None:
            pending = await self._find_for(call, state, "authorization")
            async with self._authorizations.consuming(state, pending):
                self._audit_rejection(call, reason, pending.user_email)
                raise failure

        await self._account_linker.tasks.shield(end())

    async def create_token(
        self, call: Call, user_email: str, code: str, *, state: str, code_verifier: str
    ) -> ConnectionRecord:
        """Exchange a code that the caller obtained itself.

        Raises:
            InvalidState: A state was passed that does not belong to this caller and user.
            ServerOverloaded: Too many codes are being exchanged; the state remains usable.
            ZoomgateError, StoreError: See `AccountLinker.link_code`.
        """

        async def create() -> ConnectionRecord:
            if not state:
                return await self._link(call, user_email, code, code_verifier)
            pending = await self._find_for(call, state, "authorization", user_email)
            async with self._authorizations.consuming(state, pending):
                return await self._link(call, user_email, code, pending.code_verifier, pending.zoom_email)

        return await self._account_linker.in_slot(create, call.deadline)

    async def request_token(self, call: Call, user_email: str, refresh_token: str) -> ConnectionRecord:
        """Exchange a refresh token that the caller supplied, and store the new token pair.

        Raises:
            ReauthRequired: Zoom rejected the token.
            ZoomgateError, StoreError: See `AccountLinker.link_code`.
        """
        try:
            return await self._account_linker.link_refresh_token(
                refresh_token, user_email=user_email, owner=_owner(call), call=call
            )
        except ReauthRequired:
            self._audit_rejection(call, "ZOOM_REAUTH_REQUIRED", user_email)
            raise

    async def _link(
        self, call: Call, user_email: str, code: str, code_verifier: str, zoom_email: str = ""
    ) -> ConnectionRecord:
        return await self._account_linker.link_code(
            code,
            code_verifier,
            user_email=user_email,
            zoom_email=zoom_email,
            owner=_owner(call),
            initiated_by=call.principal.identity,
            call=call,
        )

    def _audit_rejection(self, call: Call, reason: str, user_email: str) -> None:
        self._audit(AuditEvent("authorization.rejected", reason, user_email, Actor.of_call(call)))

    def _check_return_to(self, return_to: str) -> None:
        if not return_to:
            return
        if self._start_url is None:
            problem = "is only supported if Zoom redirects to this service's own /oauth/callback; omit it"
        elif return_to not in self._return_to:
            known = ", ".join(sorted(self._return_to)) or "none is configured"
            problem = f"is not a configured name; send one from ZOOMGATE_RETURN_TO ({known}), or omit it"
        else:
            return
        raise InvalidRequest.of("return_to", problem)

    async def _find_for(
        self, call: Call, state: str, kind: AuthorizationKind, user_email: str = ""
    ) -> PendingAuthorization:
        """Return an authorization or ticket that the caller may complete, for `user_email` if it is set."""
        pending = await self._authorizations.get(state, kind)
        if (
            pending.initiated_by != call.principal.identity
            or pending.browser_key is not None
            or user_email not in ("", pending.user_email)
        ):
            raise self._other_caller(call, pending)
        return pending

    def _other_caller(self, call: Call, pending: PendingAuthorization) -> InvalidState:
        """Record that a caller may not complete or see an authorization, and return the error."""
        self._audit_rejection(call, "OTHER_CALLER", pending.user_email)
        return invalid_state()


def _owner(call: Call) -> str | None:
    """Return the identity of the member on whose behalf the caller acts, or None. This member will own the new connection."""
    member = call.principal.member
    return None if member is None else member.identity
