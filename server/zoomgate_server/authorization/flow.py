"""The consent flow: an authorization is started, the user consents in Zoom, and the returned code is exchanged for tokens.

Before the tokens are stored, three checks are made: the state was issued by this service, is unused and has not expired; the caller or
browser that returns the state also started the authorization (by the caller's identity or the browser's cookie); and the Zoom user who
consented has the requested email address.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from zoomgate_server.audit.event import BROWSER, Actor, AuditEvent, AuditSink
from zoomgate_server.authorization.browser_binding import binding_of, challenge_of, is_bound, start_url_of
from zoomgate_server.authorization.limits import PendingLimits
from zoomgate_server.authorization.pending import AuthorizationKind, PendingAuthorization
from zoomgate_server.authorization.repository import AuthorizationRepository
from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Origin
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    CodeRefused,
    InvalidRequest,
    InvalidState,
    ReauthRequired,
    ZoomgateError,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import BadResponse, Rejected, issued_or_raise


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the consent flow, in seconds.

    Attributes:
        browser_wait: Maximum time for which a browser waits while too many codes are being exchanged.
    """

    browser_wait: float = 10.0


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


@dataclass(frozen=True, slots=True)
class BrowserResult:
    """The outcome of a consent in a browser, and the page to show next.

    Attributes:
        location: The configured return URL with a ticket, or None for the service's own result page.
        view: Token with which only this browser can read the result; empty if it could not be stored.
        failure: The error that prevented the connection, or None.
    """

    location: str | None = field(repr=False)
    view: str = field(repr=False)
    failure: ZoomgateError | StoreError | None


@dataclass(frozen=True, slots=True)
class BrowserView:
    """The result of a consent, as displayed in the user's browser. `scopes` is empty without an active connection."""

    user_email: str
    scopes: tuple[str, ...]


class Authorizations:
    """The operations of the consent flow, for RPC callers and for browsers.

    Args:
        redirect_uri: The redirect URI registered with Zoom. The path `/oauth/callback` identifies the service's own callback.
        return_to: URLs to which the browser may be redirected after the consent, by name.

    Attributes:
        tasks: The running exchanges. They complete even if the call is canceled, because a code or refresh token can be used only once.
    """

    def __init__(
        self,
        *,
        authorizations: AuthorizationRepository,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        revoke_unused: Callable[[TokenPair], None],
        limit: ConcurrencyLimit,
        clock: Clock,
        audit: AuditSink,
        redirect_uri: str,
        return_to: Mapping[str, str],
        max_pending_per_user: int,
        max_pending_per_caller: int,
        timing: Timing = Timing(),
    ) -> None:
        self._authorizations = authorizations
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._revoke_unused = revoke_unused
        self._limit = limit
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._return_to = return_to
        self._start_url = start_url_of(redirect_uri)
        self._pending = PendingLimits(clock, per_user=max_pending_per_user, per_caller=max_pending_per_caller)
        self.tasks = TaskSet()

    async def begin(self, call: Call, user_email: str, options: str, return_to: str) -> StartedAuthorization:
        """Start an authorization, and return the state and the URL that the user opens.

        Raises:
            InvalidRequest: `return_to` is not a configured name, or is set although Zoom does not redirect to this service's callback.
            ServerOverloaded: The caller or the user has too many pending authorizations.
            StoreError: The state could not be stored.
        """
        self._check_return_to(return_to)
        self._pending.add(call.principal.name, user_email)
        state = secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(32)
        expire_at = await self._authorizations.create(
            state,
            PendingAuthorization(
                kind="authorization",
                user_email=user_email,
                code_verifier=verifier,
                options=options,
                initiated_by=call.principal.identity,
                owner=_owner(call),
                browser_key=secrets.token_urlsafe(32) if self._start_url else None,
                return_to=return_to,
            ),
        )
        self._audit(AuditEvent("authorization.started", "ok", user_email, Actor.of_call(call)))
        url = (
            f"{self._start_url}?{urlencode({'ticket': state})}"
            if self._start_url
            else self._oauth.authorize_url(state, challenge_of(verifier))
        )
        return StartedAuthorization(url, state, expire_at)

    async def peek_user(self, ticket: str) -> str:
        """Return the user for whom a link was created. The link is not consumed, so link previews do not invalidate it.

        Raises:
            InvalidState: The ticket is unknown, used or expired.
            StoreError: The store failed.
        """
        pending, _ = await self._find_for_browser(ticket)
        return pending.user_email

    async def start_in_browser(self, ticket: str, cookie: str) -> str:
        """Return Zoom's consent URL, with a state that is bound to the browser's cookie.

        The link is not consumed and can be opened repeatedly.

        Raises:
            InvalidState: The ticket is unknown, used or expired.
            StoreError: The store failed.
        """
        pending, key = await self._find_for_browser(ticket)
        state = f"{ticket}.{binding_of(key, ticket, cookie)}"
        return self._oauth.authorize_url(state, challenge_of(pending.code_verifier))

    async def complete(self, call: Call, code: str, state: str) -> CompletedAuthorization:
        """Exchange a code that Zoom sent to the caller's own page.

        Raises:
            InvalidState: The state is unknown, used, expired, issued to a different caller, or bound to a browser.
            ServerOverloaded: Too many codes are being exchanged; the state remains usable.
            CodeRefused: Zoom rejected the code.
            IdentityMismatch: A different Zoom user consented.
            AppCredentialsRejected, ZoomRateLimited, ZoomUnavailable, ZoomOutcomeUnknown, ZoomBadResponse: The call to Zoom failed.
            StoreError: The store failed.
        """
        return await self.tasks.shield(self._complete(call, code, state))

    async def redeem(self, call: Call, ticket: str) -> CompletedAuthorization:
        """Return the result of an authorization that the callback completed. The ticket is single-use.

        Raises:
            InvalidState: The ticket is unknown, used, expired, or was issued to a different caller.
            StoreError: The store failed.
        """
        pending = await self._consume_for(call, ticket, "ticket")
        record, _ = await self._connections.read(pending.user_email)
        if record is None:
            raise _invalid_state()
        return CompletedAuthorization(pending.options, record)

    async def callback(self, state: str, code: str, cookie: str) -> BrowserResult:
        """Process a redirect from Zoom to the service's own callback.

        Args:
            code: The returned code, or empty if the user declined.
            cookie: The browser's cookie, or empty.

        Raises:
            InvalidState: The state is unknown, expired, already used (cause USED), or bound to a different browser (cause OTHER_BROWSER).
            ServerOverloaded: Too many codes are being exchanged; the state remains usable.
            StoreError: The store failed; the state remains usable.
        """
        ticket, _, binding = state.partition(".")
        pending, key = await self._find_for_browser(ticket)
        if not is_bound(key, ticket, cookie, binding):
            self._audit_rejection(BROWSER, "OTHER_BROWSER", pending.user_email)
            raise _invalid_state(cause="OTHER_BROWSER")
        async with self._limit.slot(self._clock.monotonic() + self._timing.browser_wait):
            await self._consume(ticket, pending, cause="USED")
            return await self._finish_in_browser(pending, code, key, cookie)

    async def _finish_in_browser(
        self, pending: PendingAuthorization, code: str, key: str, cookie: str
    ) -> BrowserResult:
        """Exchange the code of a consumed authorization, and return the page to show next."""
        view = await self._save_result_view(pending, key, cookie)
        try:
            if not code:
                self._audit_rejection(BROWSER, "DECLINED", pending.user_email)
                raise CodeRefused(
                    "The user declined the authorization in Zoom; if that was a mistake, start a new authorization",
                    metadata={"zoom_code": "access_denied"},
                )
            await self.tasks.shield(
                self._exchange_and_store(
                    code,
                    pending.code_verifier,
                    pending.user_email,
                    owner=pending.owner,
                    initiated_by=pending.initiated_by,
                )
            )
            return BrowserResult(await self._return_redirect(pending), view, None)
        except (ZoomgateError, StoreError) as failure:
            return BrowserResult(None, view, failure)

    async def result_view(self, view: str, cookie: str) -> BrowserView:
        """Return the result for the browser in which the user consented. The result is available for 10 minutes.

        Raises:
            InvalidState: The view is unknown, expired, or belongs to a different browser.
            StoreError: The store failed.
        """
        name, _, binding = view.partition(".")
        result = await self._find(name, "view")
        if result.browser_key is None or not is_bound(result.browser_key, name, cookie, binding):
            raise _invalid_state(cause="OTHER_BROWSER")
        record, _ = await self._connections.read(result.user_email)
        if record is None or record.state is not State.ACTIVE or record.tokens is None:
            return BrowserView(result.user_email, ())
        return BrowserView(result.user_email, record.tokens.scopes)

    async def create_token(
        self, call: Call, user_email: str, code: str, *, state: str, code_verifier: str
    ) -> ConnectionRecord:
        """Exchange a code that the caller obtained itself.

        Raises:
            InvalidState: A state was passed that does not belong to this caller and user.
            ZoomgateError: See `complete`.
        """
        return await self.tasks.shield(self._create_token(call, user_email, code, state, code_verifier))

    async def request_token(self, call: Call, user_email: str, refresh_token: str) -> ConnectionRecord:
        """Exchange a refresh token that the caller supplied, and store the new token pair.

        Raises:
            ReauthRequired: Zoom rejected the token.
            ZoomgateError: See `complete`.
        """
        return await self.tasks.shield(self._request_token(call, user_email, refresh_token))

    def _audit_rejection(self, actor: Actor, reason: str, user_email: str) -> None:
        self._audit(AuditEvent("authorization.rejected", reason, user_email, actor))

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

    async def _find(self, state: str, kind: str) -> PendingAuthorization:
        pending = await self._authorizations.find(state)
        if pending is None or pending.kind != kind:
            raise _invalid_state()
        return pending

    async def _find_for_browser(self, state: str) -> tuple[PendingAuthorization, str]:
        """Return an authorization that a browser may complete, and the key of the browser binding.

        If the link was already used, the InvalidState error has the cause USED. Errors of RPC calls do not include this cause.
        """
        pending = await self._authorizations.find(state)
        if pending is not None and pending.kind == "used":
            raise _invalid_state(cause="USED")
        if pending is None or pending.kind != "authorization" or pending.browser_key is None:
            raise _invalid_state()
        return pending, pending.browser_key

    async def _consume(self, state: str, pending: PendingAuthorization, *, cause: str = "") -> None:
        """Mark a state as used. If it was already used, raise InvalidState with this `cause`."""
        if not await self._authorizations.consume(state, pending):
            raise _invalid_state(cause)

    async def _consume_for(
        self, call: Call, state: str, kind: AuthorizationKind, user_email: str = ""
    ) -> PendingAuthorization:
        """Find and consume an authorization or ticket that was issued to the caller, for `user_email` if it is set."""
        pending = await self._find(state, kind)
        if (
            pending.browser_key is not None
            or pending.initiated_by != call.principal.identity
            or pending.user_email != (user_email or pending.user_email)
        ):
            self._audit_rejection(Actor.of_call(call), "OTHER_CALLER", pending.user_email)
            raise _invalid_state()
        await self._consume(state, pending)
        return pending

    async def _complete(self, call: Call, code: str, state: str) -> CompletedAuthorization:
        async with self._limit.slot(call.deadline):
            pending = await self._consume_for(call, state, "authorization")
            record = await self._exchange_for(call, code, pending.code_verifier, pending.user_email)
        return CompletedAuthorization(pending.options, record)

    async def _create_token(
        self, call: Call, user_email: str, code: str, state: str, code_verifier: str
    ) -> ConnectionRecord:
        async with self._limit.slot(call.deadline):
            if state:
                pending = await self._consume_for(call, state, "authorization", user_email)
                code_verifier = pending.code_verifier
            return await self._exchange_for(call, code, code_verifier, user_email)

    async def _exchange_for(self, call: Call, code: str, verifier: str, user_email: str) -> ConnectionRecord:
        identity = call.principal.identity
        return await self._exchange_and_store(
            code, verifier, user_email, owner=_owner(call), initiated_by=identity, call=call
        )

    async def _exchange_and_store(
        self,
        code: str,
        verifier: str,
        user_email: str,
        *,
        owner: str | None,
        initiated_by: str,
        call: Call | None = None,
    ) -> ConnectionRecord:
        previous = await self._account_linker.prepare(user_email)
        started = self._connections.now()
        outcome = await self._oauth.exchange_code(code, code_verifier=verifier or None)
        if isinstance(outcome, Rejected):
            if call is None:  # for a call, the middleware audits the rejection
                self._audit_rejection(BROWSER, "CODE_REFUSED", user_email)
            raise CodeRefused(
                "Zoom rejected the authorization code (used, older than 5 minutes, or for a different app); start a new authorization",
                metadata={"zoom_code": outcome.code},
            )
        if isinstance(outcome, BadResponse) and outcome.issued is not None:
            self._revoke_unused(TokenPair.from_response(outcome.issued, started))
        tokens = TokenPair.from_response(issued_or_raise(outcome), started)
        return await self._account_linker.link(
            tokens,
            previous,
            origin=Origin.CONSENT,
            user_email=user_email,
            owner=owner,
            initiated_by=initiated_by,
            call=call,
        )

    async def _request_token(self, call: Call, user_email: str, refresh_token: str) -> ConnectionRecord:
        async with self._limit.slot(call.deadline):
            return await self._import(call, user_email, refresh_token)

    async def _import(self, call: Call, user_email: str, refresh_token: str) -> ConnectionRecord:
        previous = await self._account_linker.prepare(user_email)
        started = self._connections.now()
        outcome = await self._oauth.refresh(refresh_token)
        if isinstance(outcome, Rejected):
            self._audit_rejection(Actor.of_call(call), "ZOOM_REAUTH_REQUIRED", user_email)
            raise ReauthRequired(
                "Zoom rejected this refresh token; ask the user to consent again",
                metadata={"cause": Cause.REJECTED.value, "zoom_code": outcome.code},
            )
        issued = issued_or_raise(outcome)
        tokens = TokenPair.from_response(issued, started, previous=refresh_token)
        return await self._account_linker.link(
            tokens,
            previous,
            origin=Origin.IMPORT,
            user_email=user_email,
            owner=_owner(call),
            initiated_by=call.principal.identity,
            call=call,
        )

    async def _save_result_view(self, pending: PendingAuthorization, key: str, cookie: str) -> str:
        """Store the details for the result page for 10 minutes. If the store fails, the page is shown without these details."""
        try:
            name = await self._create_copy(pending, kind="view", options="{}")
        except StoreError:
            return ""
        return f"{name}.{binding_of(key, name, cookie)}"

    async def _return_redirect(self, pending: PendingAuthorization) -> str | None:
        """Return the requested return URL with a new ticket, or None if no return URL was requested."""
        return_url = self._return_to.get(pending.return_to)
        if return_url is None:
            return None
        ticket = await self._create_copy(pending, kind="ticket", browser_key=None)
        separator = "&" if urlsplit(return_url).query else "?"
        return f"{return_url}{separator}{urlencode({'ticket': ticket})}"

    async def _create_copy(self, pending: PendingAuthorization, **changes: Any) -> str:
        """Store a changed copy of an authorization (a ticket or a view) for 10 minutes, and return its name."""
        name = secrets.token_urlsafe(32)
        await self._authorizations.create(name, replace(pending, code_verifier="", **changes))
        return name


def _owner(call: Call) -> str | None:
    """Return the identity of the member on whose behalf the caller acts, or None. This member will own the new connection."""
    member = call.principal.member
    return None if member is None else member.identity


def _invalid_state(cause: str = "") -> InvalidState:
    return InvalidState(
        "This authorization is unknown, already used, expired, or belongs to a different caller; start a new authorization",
        metadata={"cause": cause} if cause else {},
    )
