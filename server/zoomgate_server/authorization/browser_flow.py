"""The consent flow in the user's browser: the start page, Zoom's redirect to the callback, and the result page."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from zoomgate_server.audit.event import BROWSER, AuditEvent, AuditSink
from zoomgate_server.authorization.browser_binding import binding_of, challenge_of, is_bound
from zoomgate_server.authorization.denial import denial
from zoomgate_server.authorization.pending import PendingAuthorization
from zoomgate_server.authorization.repository import AuthorizationRepository, invalid_state
from zoomgate_server.clock import Clock
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.record import State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import CodeRefused, ZoomgateError
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.oauth import OAuthClient


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the consent flow in browsers, in seconds.

    Attributes:
        slot_wait: Maximum time for which a browser waits while too many codes are being exchanged.
    """

    slot_wait: float = 10.0


@dataclass(frozen=True, slots=True)
class BrowserResult:
    """The outcome of a consent in a browser, and the page to show next.

    Attributes:
        return_url: The configured URL to which the browser returns, or empty for the service's own result page.
        ticket: Ticket with which the caller redeems a success at the return URL; empty if it could not be stored.
        view: Token with which only this browser can read the result page; empty if it could not be stored.
        failure: The error that prevented the connection, or None.
    """

    return_url: str
    ticket: str = field(default="", repr=False)
    view: str = field(default="", repr=False)
    failure: ZoomgateError | StoreError | None = None


@dataclass(frozen=True, slots=True)
class BrowserView:
    """The result of a consent, as displayed in the user's browser.

    Attributes:
        zoom_email: The email address of the Zoom user who had to consent, or empty for `user_email`.
        scopes: The granted scopes, or None without an active connection.
        is_new: Whether there is an active connection that is not older than the consent.
    """

    user_email: str
    zoom_email: str
    scopes: tuple[str, ...] | None = None
    is_new: bool = False


class BrowserFlow:
    """The operations of the consent flow for browsers.

    Args:
        return_to: URLs to which the browser may be redirected after the consent, by name.
    """

    def __init__(
        self,
        *,
        authorizations: AuthorizationRepository,
        connections: ConnectionRepository,
        account_linker: AccountLinker,
        oauth: OAuthClient,
        clock: Clock,
        audit: AuditSink,
        return_to: Mapping[str, str],
        timing: Timing = Timing(),
    ) -> None:
        self._authorizations = authorizations
        self._connections = connections
        self._account_linker = account_linker
        self._oauth = oauth
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._return_to = return_to

    async def peek(self, ticket: str) -> PendingAuthorization:
        """Return the authorization of a link. The link is not consumed, so link previews do not invalidate it.

        Raises:
            InvalidState: The ticket is unknown, used or expired.
            StoreError: The store failed.
        """
        pending, _ = await self._find(ticket)
        return pending

    async def start(self, ticket: str, cookie: str) -> str:
        """Return Zoom's consent URL, with a state that is bound to the browser's cookie.

        The link is not consumed and can be opened repeatedly.

        Raises:
            InvalidState: The ticket is unknown, used or expired.
            StoreError: The store failed.
        """
        pending, key = await self._find(ticket)
        state = f"{ticket}.{binding_of(key, ticket, cookie)}"
        return self._oauth.authorize_url(state, challenge_of(pending.code_verifier))

    async def callback(self, state: str, code: str, error: str, cookie: str) -> BrowserResult:
        """Process a redirect from Zoom to the service's own callback.

        Args:
            code: The returned code, or empty if Zoom returned an error.
            error: The returned error, or empty.
            cookie: The browser's cookie, or empty.

        Raises:
            InvalidState: The state is unknown, expired, already used (cause USED), or bound to a different browser (cause OTHER_BROWSER).
                If a concurrent request uses the state, this error is the failure of the result.
            StoreError: The store failed; the state remains usable.
        """
        ticket, _, binding = state.partition(".")
        pending, key = await self._find(ticket)
        if not is_bound(key, ticket, cookie, binding):
            self._audit_rejection("OTHER_BROWSER", pending)
            raise invalid_state("OTHER_BROWSER")
        result = BrowserResult(self._return_to.get(pending.return_to, ""))
        finish = partial(self._finish, result, ticket, pending, code, error, key, cookie)
        try:
            return await self._account_linker.in_slot(
                finish, self._clock.monotonic() + self._timing.slot_wait
            )
        # nothing was used, or a concurrent request used the state
        except (ZoomgateError, StoreError) as failure:
            return replace(result, failure=failure)

    async def result_view(self, view: str, cookie: str) -> BrowserView:
        """Return the result for the browser in which the user consented. The result is available for 10 minutes.

        Raises:
            InvalidState: The view is unknown, expired, or belongs to a different browser.
            StoreError: The store failed.
        """
        name, _, binding = view.partition(".")
        result = await self._authorizations.get(name, "view")
        if result.browser_key is None or not is_bound(result.browser_key, name, cookie, binding):
            raise invalid_state("OTHER_BROWSER")
        record, _ = await self._connections.find(result.user_email)
        if record is None or record.state is not State.ACTIVE or record.tokens is None:
            return BrowserView(result.user_email, result.zoom_email)
        is_new = record.consent_time >= result.create_at
        return BrowserView(result.user_email, result.zoom_email, record.tokens.scopes, is_new)

    async def _finish(
        self,
        result: BrowserResult,
        ticket: str,
        pending: PendingAuthorization,
        code: str,
        error: str,
        key: str,
        cookie: str,
    ) -> BrowserResult:
        try:
            async with self._authorizations.consuming(ticket, pending, cause="USED"):
                if not result.return_url:
                    result = replace(result, view=await self._save_view(pending, key, cookie))
                await self._link(pending, code, error)
        except (ZoomgateError, StoreError) as failure:
            return replace(result, failure=failure)
        if result.return_url:
            result = replace(result, ticket=await self._create_copy(pending, kind="ticket", browser_key=None))
        return result

    async def _link(self, pending: PendingAuthorization, code: str, error: str) -> None:
        if error:
            failure, outcome = denial(error)
            self._audit_rejection(outcome, pending)
            raise failure
        try:
            await self._account_linker.link_code(
                code,
                pending.code_verifier,
                user_email=pending.user_email,
                zoom_email=pending.zoom_email,
                owner=pending.owner,
                initiated_by=pending.initiated_by,
                call=None,
            )
        except CodeRefused:  # for a call, the middleware audits the rejection
            self._audit_rejection("CODE_REFUSED", pending)
            raise

    def _audit_rejection(self, reason: str, pending: PendingAuthorization) -> None:
        self._audit(AuditEvent("authorization.rejected", reason, pending.user_email, BROWSER))

    async def _find(self, ticket: str) -> tuple[PendingAuthorization, str]:
        """Return an authorization that a browser may complete, and the key of the browser binding.

        If the link was already used, the InvalidState error has the cause USED. Errors of RPC calls do not include this cause.
        """
        pending = await self._authorizations.find(ticket)
        if pending is not None and pending.is_used:
            raise invalid_state("USED")
        if pending is None or pending.kind != "authorization" or pending.browser_key is None:
            raise invalid_state()
        return pending, pending.browser_key

    async def _save_view(self, pending: PendingAuthorization, key: str, cookie: str) -> str:
        """Store the details for the result page for 10 minutes, and return the token of the view, or an empty string."""
        name = await self._create_copy(pending, kind="view", options="{}")
        return name and f"{name}.{binding_of(key, name, cookie)}"

    async def _create_copy(self, pending: PendingAuthorization, **changes: Any) -> str:
        """Store a changed copy of an authorization (a ticket or a view) for 10 minutes, and return its name.

        If the store fails, return an empty string: the outcome for the user does not depend on the copy.
        """
        name = secrets.token_urlsafe(32)
        try:
            await self._authorizations.create(name, replace(pending, code_verifier="", **changes))
        except StoreError:
            return ""
        return name
