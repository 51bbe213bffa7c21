"""Account linking: the exchange of codes and refresh tokens of callers and browsers, and the storage of the pairs as connections."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar
from uuid import uuid4

from zoomgate_server.audit.event import BROWSER, ZOOMGATE, Actor
from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.exchange_mark import fingerprint_of
from zoomgate_server.connections.lifecycle import decisions, exchange, linking
from zoomgate_server.connections.lifecycle.decisions import Linked, LinkResult
from zoomgate_server.connections.lifecycle.effects import POLL_SECONDS, LeaseTiming
from zoomgate_server.connections.lifecycle.exchange import LinkRequest
from zoomgate_server.connections.lifecycle.linking import LinkContext
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry, Origin
from zoomgate_server.connections.token_pair import NO_PAIR, TokenPair
from zoomgate_server.errors import (
    IdentityMismatch,
    NotConnected,
    OtherUserConnected,
    RefreshInProgress,
    ZoomUserAlreadyConnected,
)
from zoomgate_server.telemetry.background_tasks import TaskSet

_Result = TypeVar("_Result")


class AccountLinker:
    """Exchange of codes and refresh tokens, and storage of the pairs.

    Args:
        key: Key of the fingerprints of codes and tokens; the same in all processes that use the store.
        seen_generation: Returns the latest generation of a Zoom user's connection that this process has seen, or 0. After a store rollback,
            the stored generation is lower.

    Attributes:
        tasks: The running exchanges, and other operations that use a state or ticket. They complete even if the call is canceled, because a
            code, refresh token, state or ticket can be used only once.
    """

    def __init__(
        self,
        driver: EffectDriver,
        *,
        clock: Clock,
        key: bytes,
        limit: ConcurrencyLimit,
        seen_generation: Callable[[str], int],
        timing: LeaseTiming,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._key = key
        self._limit = limit
        self._seen_generation = seen_generation
        self._timing = timing
        self.tasks = TaskSet()

    async def link_code(
        self,
        code: str,
        code_verifier: str,
        *,
        user_email: str,
        zoom_email: str,
        owner: str | None,
        initiated_by: str,
        call: Call | None,
    ) -> ConnectionRecord:
        """Exchange an authorization code, and store the pair as the user's connection. To be called within `in_slot`.

        Args:
            zoom_email: The email address of the Zoom user who must have consented; empty for `user_email`.
            owner: Identity of the member that will own the connection, or None.
            initiated_by: Identity of the caller that started the authorization.
            call: The current call, or None if a browser completed the authorization.

        Raises:
            CodeRefused: Zoom rejected the code.
            CallerNotAllowed: The code was exchanged earlier, and the connection belongs to a different member.
            IdentityMismatch: A different Zoom user consented.
            ZoomUserAlreadyConnected: The Zoom user is connected under a different address, where the pair was stored.
            NotConnected: The user was disconnected during the exchange.
            RefreshInProgress: A different call is exchanging the same code.
            ZoomUnavailable: Zoom was not reached; or Zoom did not identify the user yet, and the connection is created automatically later.
            AppCredentialsRejected, ScopeMissing, ZoomRateLimited, ZoomOutcomeUnknown, ZoomBadResponse: The call to Zoom failed.
            StoreError, RecordFault: The store failed before the code was sent.
        """
        draft = Entry(
            entry_id=uuid4().hex,
            origin=Origin.CONSENT,
            user_email=user_email,
            tokens=NO_PAIR,
            zoom_email=zoom_email,
            fingerprint=fingerprint_of(self._key, "code", code),
            owner=owner,
            initiated_by=initiated_by,
        )
        context = LinkContext(_actor(call), self._seen_generation, timing=self._timing)
        request = LinkRequest(draft, context, code, code_verifier)
        record = connected(user_email, await self._driver.run(exchange.exchange(request), draft.entry_id))
        if call is not None:
            check_owner(call, record.owner)
        return record

    async def link_refresh_token(
        self, refresh_token: str, *, user_email: str, owner: str | None, call: Call
    ) -> ConnectionRecord:
        """Exchange a refresh token that a caller supplied, and store the pair as the user's connection.

        A refresh token that the connection has held already is not sent to Zoom; the connection is returned as it is.

        Raises:
            ReauthRequired: Zoom rejected the refresh token.
            ServerOverloaded: Too many exchanges are running; nothing was sent.
            ZoomgateError, StoreError: See `link_code`.
        """
        request = self.request_for(replace(NO_PAIR, refresh_token=refresh_token), user_email, owner, call)
        record = connected(user_email, await self.run(request, call.deadline))
        check_owner(call, record.owner)
        return record

    def request_for(
        self,
        pair: TokenPair,
        user_email: str,
        owner: str | None,
        call: Call,
        skips: Callable[[ConnectionRecord], bool] | None = None,
    ) -> LinkRequest:
        """Return the request to link a pair that a caller supplied.

        Args:
            skips: For an import, whether a record must not be replaced.
        """
        draft = Entry(
            entry_id=uuid4().hex,
            origin=Origin.IMPORT,
            user_email=user_email,
            tokens=pair,
            fingerprint=fingerprint_of(self._key, "refresh_token", pair.refresh_token),
            owner=owner,
            initiated_by=call.principal.identity,
        )
        return LinkRequest(draft, LinkContext(_actor(call), self._seen_generation, skips, self._timing))

    async def run(self, request: LinkRequest, deadline: float) -> Linked:
        """Exchange and link, in a slot. While a different attempt exchanges the same token, wait for its result.

        Args:
            deadline: Reading of the monotonic clock until which to wait.
        """
        while True:
            protocol = partial(self._driver.run, exchange.exchange(request), request.draft.entry_id)
            try:
                return await self.in_slot(protocol, deadline)
            except RefreshInProgress:
                if self._clock.monotonic() + POLL_SECONDS >= deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def in_slot(self, operation: Callable[[], Awaitable[_Result]], deadline: float) -> _Result:
        """Perform an operation that exchanges a code or refresh token, even if the current call is canceled.

        Args:
            deadline: Reading of the monotonic clock until which the operation waits for a slot.

        Raises:
            ServerOverloaded: Too many exchanges are running; the operation was not started.
        """
        return await self.tasks.shield(self._in_slot(operation, deadline))

    async def resume(self, entry: Entry) -> None:
        """Store the pair of a journal entry that a crashed process left behind or that was deferred.

        Raises:
            ZoomgateError: The pair cannot be stored yet, and the entry stays in the journal.
        """
        context = LinkContext(ZOOMGATE, self._seen_generation, timing=self._timing)
        await self._driver.run(linking.link(entry, context), entry.entry_id)

    async def _in_slot(self, operation: Callable[[], Awaitable[_Result]], deadline: float) -> _Result:
        async with self._limit.slot(deadline):
            return await operation()


def _actor(call: Call | None) -> Actor:
    return BROWSER if call is None else Actor.of_call(call)


def connected(user_email: str, linked: Linked) -> ConnectionRecord:
    """Return the connection in which a pair was stored for a user, or raise the error for callers."""
    record, is_connected = linked.record, decisions.is_connected(linked.record)
    if linked.result is LinkResult.ZOOM_USER_ALREADY_CONNECTED:
        raise already_connected()
    if linked.result is LinkResult.IDENTITY_MISMATCH:
        raise _identity_mismatch(OtherUserConnected if is_connected else IdentityMismatch)
    if not is_connected:
        raise NotConnected(
            "The user was disconnected in the meantime; call BeginAuthorization and have the user consent"
        )
    if record.user_email != user_email:
        raise _identity_mismatch()
    return record


def already_connected() -> ZoomUserAlreadyConnected:
    """Return the error for a pair of a Zoom user who is connected under a different address."""
    return ZoomUserAlreadyConnected(
        "This Zoom user is connected under a different email address; use that address, or disconnect it first"
    )


def _identity_mismatch(kind: type[IdentityMismatch] = IdentityMismatch) -> IdentityMismatch:
    return kind("The Zoom user who consented has a different email address than requested")
