"""How people connect: an authorization is begun, the person consents at Zoom, and what comes back is exchanged and stored.

Three things are compared before anything is stored: the state is one that we made, unused and young; whoever brings it back is who
began (a caller by its identity, a browser by its cookie); and the Zoom user who consented has the e-mail address that was asked for.
"""

import asyncio
import contextvars
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.authorization.browser_binding import binding_of, challenge_of, is_bound, start_url_of
from zoomgate_server.authorization.limits import STATE_SECONDS, PendingLimits
from zoomgate_server.authorization.pending import PendingAuthorization
from zoomgate_server.authorization.repository import AuthorizationRepository
from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.account_linking import AccountLinker, token_pair
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Origin
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    CodeRefused,
    FieldViolation,
    InvalidRequest,
    InvalidState,
    ReauthRequired,
    ZoomgateError,
    store_unavailable,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import (
    BadResponse,
    Rejected,
    issued_by,
)

_log = logs.get("zoomgate.authorizations")


@dataclass(frozen=True, slots=True)
class StartedAuthorization:
    """An authorization that somebody has to carry to a browser."""

    authorization_url: str = field(repr=False)
    state: str = field(repr=False)
    expire_at: float


@dataclass(frozen=True, slots=True)
class CompletedAuthorization:
    """An authorization that ended well.

    Attributes:
        user_email: Who is connected.
        options: What `begin` was given, as JSON.
        connection: The connection as it was stored.
    """

    user_email: str
    options: bytes
    connection: ConnectionRecord


@dataclass(frozen=True, slots=True)
class BrowserStart:
    """Where a browser goes to consent."""

    zoom_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BrowserResult:
    """How a consent in a browser ended, and where the browser goes.

    Attributes:
        location: A configured place with a ticket, or None for our own page.
        view: What lets this browser, and no other, see there whom it was about; empty if that could not be kept.
        failure: Why nothing was connected, or None.
    """

    location: str | None = field(repr=False)
    view: str = field(repr=False)
    failure: ZoomgateError | None


@dataclass(frozen=True, slots=True)
class BrowserView:
    """What a browser may see of the consent that it went through.

    Attributes:
        user_email: Whom it was for.
        scopes: What is granted now; empty without a connection that works.
    """

    user_email: str
    scopes: tuple[str, ...]


class Authorizations:
    """Begins and completes authorizations.

    Args:
        authorizations: Where states and tickets are.
        connections: Where the connections are.
        adoption: Stores what Zoom issued.
        oauth: Exchanges codes.
        discard: Ends a token pair that must not be kept.
        clock: Time.
        audit: Hears of every decision that matters.
        redirect_uri: What is registered at Zoom. If its path is `/oauth/callback` it is taken for this service's own callback.
        return_to: The places that a browser may be sent back to, by name.
        max_pending_per_user: Open authorizations of one user in this process.
        max_pending_per_caller: Open authorizations of one caller in this process.
    """

    def __init__(
        self,
        *,
        authorizations: AuthorizationRepository,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        discard: Callable[[TokenPair], None],
        clock: Clock,
        audit: AuditSink,
        redirect_uri: str,
        return_to: Mapping[str, str],
        max_pending_per_user: int,
        max_pending_per_caller: int,
    ) -> None:
        self._authorizations = authorizations
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._discard = discard
        self._clock = clock
        self._audit = audit
        self._return_to = dict(return_to)
        self._start_url = start_url_of(redirect_uri)
        self._pending = PendingLimits(clock, per_user=max_pending_per_user, per_caller=max_pending_per_caller)
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- begin -------------------------------------------------------------------------------------------

    async def begin(
        self, call: Call, user_email: str, options: bytes, return_to: str
    ) -> StartedAuthorization:
        """Make a state and give the address that the person opens.

        Raises:
            InvalidRequest: `return_to` names no configured place, or Zoom does not redirect to this service.
            ServerOverloaded: Too many authorizations of this caller or user are open.
            StoreUnavailable: The state could not be stored.
        """
        self._check_return_to(return_to)
        self._pending.add(call.principal.name, user_email)
        state = secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(32)
        try:
            now = await self._authorizations.create(
                state,
                lambda now: PendingAuthorization(
                    kind="authorization",
                    user_email=user_email,
                    code_verifier=verifier,
                    options=options,
                    initiated_by=call.principal.identity,
                    owner=_owner(call),
                    browser_key=secrets.token_bytes(32) if self._start_url else None,
                    return_to=return_to,
                    create_at=now,
                    expire_at=now + STATE_SECONDS,
                ),
            )
        except StoreError:
            raise store_unavailable() from None
        self._audit(AuditEvent.for_call(call, "authorization.started", "ok", user_email))
        url = (
            f"{self._start_url}?{urlencode({'ticket': state})}"
            if self._start_url
            else self._oauth.authorize_url(state, challenge_of(verifier))
        )
        return StartedAuthorization(url, state, now + STATE_SECONDS)

    async def peek_user(self, ticket: str) -> str:
        """Say whom a link is for. Nothing is used up, so that a preview of the link does no harm.

        Raises:
            InvalidState: The ticket is unknown, used or expired.
            StoreUnavailable: The store fails.
        """
        pending, _ = await self._find_for_browser(ticket)
        return pending.user_email

    async def start_in_browser(self, ticket: str, cookie: str) -> BrowserStart:
        """Send a browser on to Zoom, bound to its cookie. Opening the link twice is fine; nothing is used up.

        Raises:
            InvalidState: The ticket is unknown, used or expired.
            StoreUnavailable: The store fails.
        """
        pending, key = await self._find_for_browser(ticket)
        state = f"{ticket}.{binding_of(key, ticket, cookie)}"
        return BrowserStart(self._oauth.authorize_url(state, challenge_of(pending.code_verifier)))

    # -- complete ----------------------------------------------------------------------------------------

    async def complete(self, call: Call, code: str, state: str) -> CompletedAuthorization:
        """Exchange a code that Zoom sent to the caller's own page.

        Raises:
            InvalidState: The state is unknown, used, expired, begun by somebody else, or bound to a browser.
            CodeRefused, IdentityMismatch, AppCredentialsRejected, ZoomRateLimited, ZoomUnavailable, ZoomOutcomeUnknown,
            ZoomBadResponse, StoreUnavailable: As they say.
        """
        pending = await self._find(state, "authorization")
        if pending.browser_key is not None or pending.initiated_by != call.principal.identity:
            self._audit(
                AuditEvent.for_call(call, "authorization.rejected", "OTHER_CALLER", pending.user_email)
            )
            raise _invalid_state()
        await self._consume(state, pending)
        record = await self._exchange(
            code, pending.code_verifier, pending.user_email, _owner(call), call.principal.identity, call
        )
        return CompletedAuthorization(pending.user_email, pending.options, record)

    async def redeem(self, call: Call, ticket: str) -> CompletedAuthorization:
        """Give the result of an authorization that the callback completed, once, to the caller who began it.

        Raises:
            InvalidState, StoreUnavailable: As they say.
        """
        pending = await self._find(ticket, "ticket")
        if pending.initiated_by != call.principal.identity:
            self._audit(
                AuditEvent.for_call(call, "authorization.rejected", "OTHER_CALLER", pending.user_email)
            )
            raise _invalid_state()
        await self._consume(ticket, pending)
        try:
            record, _ = await self._connections.read(pending.user_email)
        except StoreError:
            raise store_unavailable() from None
        if record is None:
            raise _invalid_state()
        return CompletedAuthorization(pending.user_email, pending.options, record)

    async def callback(self, state: str, code: str, cookie: str) -> BrowserResult:
        """Take what Zoom sent to our own callback.

        Args:
            state: As it came back.
            code: As it came back, or empty when the person declined.
            cookie: The browser's cookie, or empty.

        Raises:
            InvalidState: Unknown, expired, used (`cause` is USED then), or opened in another browser than the one that started
                (OTHER_BROWSER).
            StoreUnavailable: The store fails; the state is not used up.
        """
        ticket, _, binding = state.partition(".")
        pending, key = await self._find_for_browser(ticket)
        if not is_bound(key, ticket, cookie, binding):
            self._audit(AuditEvent.unattended("authorization.rejected", "OTHER_BROWSER", pending.user_email))
            raise _invalid_state(cause="OTHER_BROWSER")
        await self._consume(ticket, pending, cause="USED")
        view = await self._save_result_view(pending, cookie)
        try:
            if not code:
                self._audit(AuditEvent.unattended("authorization.rejected", "DECLINED", pending.user_email))
                raise CodeRefused(
                    "The authorization was declined at Zoom: begin again if that was a mistake",
                    metadata={"zoom_code": "access_denied"},
                )
            await self._exchange(
                code, pending.code_verifier, pending.user_email, pending.owner, pending.initiated_by, None
            )
            return BrowserResult(await self._return_redirect(pending), view, None)
        except ZoomgateError as failure:
            return BrowserResult(None, view, failure)

    async def result_view(self, view: str, cookie: str) -> BrowserView:
        """Show a browser what it went through, for 10 minutes.

        Raises:
            InvalidState: The view is unknown, expired, or of another browser.
            StoreUnavailable: The store fails.
        """
        name, _, binding = view.partition(".")
        kept = await self._find(name, "view")
        if kept.browser_key is None or not is_bound(kept.browser_key, name, cookie, binding):
            raise _invalid_state(cause="OTHER_BROWSER")
        try:
            record, _ = await self._connections.read(kept.user_email)
        except StoreError:
            raise store_unavailable() from None
        if record is None or record.state is not State.ACTIVE or record.tokens is None:
            return BrowserView(kept.user_email, ())
        return BrowserView(kept.user_email, tuple(record.tokens.scopes))

    async def create_token(
        self, call: Call, user_email: str, code: str, *, state: str, code_verifier: str
    ) -> ConnectionRecord:
        """Exchange a code that the caller received by itself.

        Raises:
            InvalidState: A state was given that is not this caller's for this user.
            ZoomgateError: As `complete`.
        """
        if state:
            pending = await self._find(state, "authorization")
            if (
                pending.browser_key is not None
                or pending.initiated_by != call.principal.identity
                or pending.user_email != user_email
            ):
                self._audit(
                    AuditEvent.for_call(call, "authorization.rejected", "OTHER_CALLER", pending.user_email)
                )
                raise _invalid_state()
            await self._consume(state, pending)
            code_verifier = pending.code_verifier
        return await self._exchange(
            code, code_verifier, user_email, _owner(call), call.principal.identity, call
        )

    async def request_token(self, call: Call, user_email: str, refresh_token: str) -> ConnectionRecord:
        """Spend a refresh token that the caller brings and store the result.

        Raises:
            ReauthRequired: Zoom refuses the token.
            ZoomgateError: As `complete`.
        """
        return await self._run_shielded(
            self._import(call, user_email, refresh_token),
        )

    async def drain(self, seconds: float) -> bool:
        """Wait until what Zoom answered is stored, for at most so many seconds. False if something is not."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        return all(task.done() for task in self._tasks)  # one that has just ended may be in the set still

    # -- how ---------------------------------------------------------------------------------------------

    def _check_return_to(self, return_to: str) -> None:
        if not return_to:
            return
        if self._start_url is None:
            problem = "only works when Zoom redirects to this service's own /oauth/callback: leave it out"
        elif return_to not in self._return_to:
            known = ", ".join(sorted(self._return_to)) or "none is configured"
            problem = f"names no configured place: send one of ZOOMGATE_RETURN_TO ({known}), or leave it out"
        else:
            return
        raise InvalidRequest([FieldViolation("return_to", problem)])

    async def _find(self, state: str, kind: str) -> PendingAuthorization:
        pending = await self._look_up(state)
        if pending is None or pending.kind != kind:
            raise _invalid_state()
        return pending

    async def _find_for_browser(self, state: str) -> tuple[PendingAuthorization, bytes]:
        """Find an authorization that a browser may complete, and its key; a person is told whether it was used, callers are not."""
        pending = await self._look_up(state)
        if pending is not None and pending.kind == "used":
            raise _invalid_state(cause="USED")
        if pending is None or pending.kind != "authorization" or pending.browser_key is None:
            raise _invalid_state()
        return pending, pending.browser_key

    async def _look_up(self, state: str) -> PendingAuthorization | None:
        try:
            return await self._authorizations.find(state)
        except StoreError:
            raise store_unavailable() from None

    async def _consume(self, state: str, pending: PendingAuthorization, *, cause: str = "") -> None:
        """Use a state up: whoever does is the only one to go on. `cause` is told to all others."""
        try:
            taken = await self._authorizations.consume(state, pending)
        except StoreError:
            raise store_unavailable() from None
        if not taken:
            raise _invalid_state(cause)

    async def _exchange(
        self,
        code: str,
        verifier: str,
        user_email: str,
        owner: str | None,
        initiated_by: str,
        call: Call | None,
    ) -> ConnectionRecord:
        return await self._run_shielded(
            self._exchange_and_store(code, verifier, user_email, owner, initiated_by, call)
        )

    async def _exchange_and_store(
        self,
        code: str,
        verifier: str,
        user_email: str,
        owner: str | None,
        initiated_by: str,
        call: Call | None,
    ) -> ConnectionRecord:
        replaced = await self._account_linker.prepare(user_email)
        started = self._connections.now()
        outcome = await self._oauth.exchange_code(code, code_verifier=verifier or None)
        if isinstance(outcome, Rejected):
            if call is None:  # a call has its own line about that
                self._audit(AuditEvent.unattended("authorization.rejected", "CODE_REFUSED", user_email))
            raise CodeRefused(
                "Zoom refused the authorization code (used, older than 5 minutes, or made for another app): begin again",
                metadata={"zoom_code": outcome.code},
            )
        if isinstance(outcome, BadResponse) and outcome.issued is not None:
            self._discard(token_pair(outcome.issued, started))
        tokens = token_pair(issued_by(outcome), started)
        return await self._account_linker.link(
            tokens,
            replaced,
            origin=Origin.CONSENT,
            user_email=user_email,
            owner=owner,
            initiated_by=initiated_by,
            call=call,
        )

    async def _import(self, call: Call, user_email: str, refresh_token: str) -> ConnectionRecord:
        replaced = await self._account_linker.prepare(user_email)
        started = self._connections.now()
        outcome = await self._oauth.refresh(refresh_token)
        if isinstance(outcome, Rejected):
            self._audit(
                AuditEvent.for_call(call, "authorization.rejected", "ZOOM_REAUTH_REQUIRED", user_email)
            )
            raise ReauthRequired(
                "Zoom refuses this refresh token: let the person consent again",
                metadata={"cause": Cause.REJECTED.value, "zoom_code": outcome.code},
            )
        issued = issued_by(outcome)
        tokens = token_pair(replace(issued, refresh_token=issued.refresh_token or refresh_token), started)
        return await self._account_linker.link(
            tokens,
            replaced,
            origin=Origin.IMPORT,
            user_email=user_email,
            owner=_owner(call),
            initiated_by=call.principal.identity,
            call=call,
        )

    async def _save_result_view(self, pending: PendingAuthorization, cookie: str) -> str:
        """Keep for 10 minutes whom this browser connects; without the store the page says less, and that is all."""
        if pending.browser_key is None:
            return ""
        name = secrets.token_urlsafe(32)
        try:
            await self._authorizations.create(
                name,
                lambda now: replace(
                    pending,
                    kind="view",
                    code_verifier="",
                    options=b"{}",
                    create_at=now,
                    expire_at=now + STATE_SECONDS,
                ),
            )
        except StoreError:
            return ""
        return f"{name}.{binding_of(pending.browser_key, name, cookie)}"

    async def _return_redirect(self, pending: PendingAuthorization) -> str | None:
        """Make the ticket for the place that the browser goes back to."""
        place = self._return_to.get(pending.return_to)
        if place is None:
            return None
        ticket = secrets.token_urlsafe(32)
        try:
            await self._authorizations.create(
                ticket,
                lambda now: replace(
                    pending,
                    kind="ticket",
                    code_verifier="",
                    browser_key=None,
                    create_at=now,
                    expire_at=now + STATE_SECONDS,
                ),
            )
        except StoreError:
            raise store_unavailable() from None
        separator = "&" if urlsplit(place).query else "?"
        return f"{place}{separator}{urlencode({'ticket': ticket})}"

    async def _run_shielded(self, work: Coroutine[Any, Any, ConnectionRecord]) -> ConnectionRecord:
        """Run work that must end even if its caller leaves: a code and a refresh token work once."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return await asyncio.shield(task)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody does, it is no mistake


def _owner(call: Call) -> str | None:
    """The member that a connection made by this call belongs to, if a member is behind it."""
    member = call.principal.member
    return None if member is None else member.identity


def _invalid_state(cause: str = "") -> InvalidState:
    return InvalidState(
        "This authorization is unknown, was used, has expired, or belongs to somebody else: begin again",
        metadata={"cause": cause} if cause else {},
    )
