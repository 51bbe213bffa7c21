"""The driver of the lifecycle protocols: it performs their effects one after another, and decides nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from zoomgate_server.audit.event import AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections.exchange_mark import ExchangeMarkRepository
from zoomgate_server.connections.lifecycle import effects
from zoomgate_server.connections.lifecycle.linking import VERIFICATION_SECONDS
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    RecordUnreadable,
    ScopeMissing,
    ZoomBadResponse,
    ZoomgateError,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import Record, StoreError, UserEmailTaken
from zoomgate_server.user_email import InvalidUserEmail, canonical_email
from zoomgate_server.zoom import endpoints, response_headers, tolerant_json
from zoomgate_server.zoom import errors as zoom_errors
from zoomgate_server.zoom.client import ZoomClient, outage_on_timeout
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.request import ZoomResponse
from zoomgate_server.zoom.token_outcome import Revoked

MAX_PROFILE_FIELD = 512
"""Maximum length of a field in Zoom's user profile."""

_Verdict = TypeVar("_Verdict")


class EffectDriver:
    """The driver of the lifecycle protocols.

    Args:
        drop_token: Removes the token of an email address from the cache.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        marks: ExchangeMarkRepository,
        journal: TokenJournal,
        oauth: OAuthClient,
        zoom: ZoomClient,
        clock: Clock,
        audit: AuditSink,
        drop_token: Callable[[str], None],
    ) -> None:
        self._connections = connections
        self._marks = marks
        self._journal = journal
        self._oauth = oauth
        self._zoom = zoom
        self._clock = clock
        self._audit = audit
        self._drop_token = drop_token

    async def run(
        self,
        protocol: effects.Protocol[_Verdict],
        entry_id: str = "",
        perform: Callable[[effects.Effect], Awaitable[Any]] | None = None,
    ) -> _Verdict:
        """Run a protocol and return its verdict, or raise its error.

        Args:
            entry_id: The protocol's journal entry, which is left to any process if the protocol fails unexpectedly.
            perform: Performs the effects instead of `EffectDriver.perform`.
        """
        try:
            return await self._run(protocol, perform or self.perform)
        except (StoreError, ZoomgateError):
            raise
        except Exception:
            await self._journal.release(entry_id)
            raise

    async def _run(
        self, protocol: effects.Protocol[_Verdict], perform: Callable[[effects.Effect], Awaitable[Any]]
    ) -> _Verdict:
        result: Any = None
        failure: Exception | None = None
        while True:
            try:
                effect = protocol.send(result) if failure is None else protocol.throw(failure)
            except StopIteration as end:
                verdict: _Verdict = end.value
                return verdict
            result, failure = None, None
            try:
                result = await perform(effect)
            except (StoreError, ZoomgateError, UserEmailTaken) as error:
                failure = error

    async def perform(self, effect: effects.Effect) -> Any:  # noqa: C901, PLR0912 - one case for each effect
        """Perform an effect and return its result."""
        match effect:
            case effects.Now():
                return self._clock.monotonic()
            case effects.Sleep(seconds):
                return await asyncio.sleep(seconds)
            case effects.Audit(event):
                return self._audit(event)
            case effects.DropToken(user_email):
                return self._drop_token(user_email)
            case effects.AppendJournal(entry):
                return await self._journal.append(entry)
            case effects.DeleteJournal(entry):
                return await self._journal.delete(entry.entry_id)
            case effects.ReleaseJournal(entry):
                return await self._journal.release(entry.entry_id)
            case effects.Find(user_email, replaceable):
                return await self._snapshot(
                    self._connections.find_encrypted, user_email, replaceable=replaceable
                )
            case effects.Read(zoom_user_id, replaceable):
                return await self._snapshot(
                    self._connections.read_encrypted, zoom_user_id, replaceable=replaceable
                )
            case effects.Put(record):
                return await self._connections.write(record)
            case effects.ReadMark(fingerprint):
                before = self._clock.monotonic()
                mark, store_now = await self._marks.read(fingerprint)
                return effects.Snapshot(None, store_now, before, mark=mark)
            case effects.PutMark(mark):
                return await self._marks.write(mark)
            case effects.DeleteMark(mark):
                return await self._marks.delete(mark)
            case effects.ExchangeCode(code, code_verifier):
                return await self._oauth.exchange_code(code, code_verifier=code_verifier or None)
            case effects.ExchangeRefreshToken(refresh_token):
                return await self._oauth.refresh(refresh_token)
            case effects.ReadZoomUser(access_token):
                return await self._read_zoom_user(access_token)
            case effects.Revoke(pair):
                return await self._revoke(pair)

    async def _snapshot(
        self, read: Callable[[str], Awaitable[tuple[Record | None, float]]], key: str, *, replaceable: bool
    ) -> effects.Snapshot:
        before = self._clock.monotonic()
        record, store_now = await read(key)
        if record is None:
            return effects.Snapshot(None, store_now, before)
        try:
            opened = self._connections.open(record)
        except RecordUnreadable:
            if not replaceable:
                raise
            # the stored generation is unknown, and smaller than the time in seconds
            return effects.Snapshot(
                None, store_now, before, record.rev, int(store_now), user_email=record.user_email or ""
            )
        return effects.Snapshot(opened, store_now, before, opened.rev, opened.generation)

    async def _read_zoom_user(self, access_token: str) -> effects.ZoomUser | None:
        request = endpoints.current_user()
        with outage_on_timeout(True):
            response = await self._zoom.send(request, access_token, timeout=VERIFICATION_SECONDS)
        zoom_user = _parse_zoom_user(response) if response.status == 200 else None
        if zoom_user is not None or zoom_errors.is_token_rejected(response):
            return zoom_user
        error = zoom_errors.error_for(request, response, self._connections.now)
        if not isinstance(error, ZoomBadResponse | ZoomRateLimited | ZoomUnavailable):
            raise ScopeMissing(
                "Zoom did not identify the user; add the scope user:read:user to the app and have the user consent again",
                metadata={"scopes": "user:read:user", **error.metadata},
            )
        # a daily limit may be raised before it is reset
        error.retry_after = error.retry_after and min(error.retry_after, response_headers.MAX_SECONDS)
        raise error

    async def _revoke(self, pair: TokenPair) -> bool:
        # the refresh token of a pair that was not exchanged might belong to a different user
        tokens = (pair.access_token, pair.refresh_token if pair.is_exchanged else "")
        # both at the same time, since the lease of a revocation covers the duration of one call
        outcomes = await asyncio.gather(*(self._oauth.revoke(token) for token in tokens if token))
        return all(isinstance(outcome, Revoked) for outcome in outcomes)


def _parse_zoom_user(response: ZoomResponse) -> effects.ZoomUser | None:
    """Parse Zoom's user profile response. Return None if it does not identify a user.

    An address that is not canonical becomes empty, so that it differs from every user's address.
    """
    reported_at = response_headers.parse_date(response.header("date"))
    try:
        data = tolerant_json.loads(response.body)
        user_id, email, account_id = data["id"], data["email"], data.get("account_id") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        user_id = email = account_id = ""
    values = (user_id, email, account_id)
    if (
        not all(isinstance(value, str) and len(value) <= MAX_PROFILE_FIELD for value in values)
        or not user_id
        or "\ufffd" in user_id  # a damaged ID must not equal the ID of a different user
    ):
        return None
    try:
        return effects.ZoomUser(user_id, canonical_email(email), account_id, reported_at)
    except InvalidUserEmail:
        return effects.ZoomUser(user_id, "", account_id, reported_at)
