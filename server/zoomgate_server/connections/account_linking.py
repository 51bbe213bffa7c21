"""Account linking: verifying which user the tokens belong to, and storing the tokens as that user's connection.

The tokens come from an authorization code or from a refresh token that a caller supplied. No other copy of the tokens exists, so the tokens
stay in the journal until they are stored in a record or can safely be discarded.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

import orjson

from zoomgate_server.audit.event import BROWSER, ZOOMGATE, Actor, AuditEvent, AuditSink
from zoomgate_server.backoff import Backoff
from zoomgate_server.call_context import Call
from zoomgate_server.connections.disconnection import make_tombstone
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import schedule
from zoomgate_server.connections.repository import ConnectionRepository, PreviousConnection
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    IdentityMismatch,
    KeyUnavailable,
    ReauthRequired,
    RecordUnreadable,
    RecordVersionUnsupported,
    ZoomBadResponse,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import StoreError, ZoomUserTaken
from zoomgate_server.telemetry import logs
from zoomgate_server.user_email import InvalidUserEmail, canonical_email
from zoomgate_server.zoom import endpoints, retry_after
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import Rejected, issued_or_raise

VERIFICATION_TIMEOUT = 15.0
"""Timeout in seconds for reading the consenting user's profile from Zoom."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
"""Minimum and maximum pause in seconds between attempts to access a failing store (exponential backoff)."""

SUPERSEDED = "SUPERSEDED"
"""Audit outcome for tokens that were discarded because of a later consent or a disconnection."""

_RETRYABLE_RECORD_ERRORS = (KeyUnavailable, RecordVersionUnsupported)
_TRANSIENT_ZOOM_ERRORS = (ZoomUnavailable, ZoomRateLimited, ZoomOutcomeUnknown, AppCredentialsRejected)
_log = logs.get("zoomgate.account_linking")


class AccountLinker:
    """Verification and storage of token pairs from consents and imports.

    Args:
        drop_token: Removes a user's token from the cache.
        seen_generation: Returns the latest generation of a user's connection that this process has seen, or 0. After a store rollback, the
            stored generation is lower.
        revoke_unused: Revokes a token pair that no record contains.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        journal: TokenJournal,
        drop_token: Callable[[str], None],
        seen_generation: Callable[[str], int],
        oauth: OAuthClient,
        zoom: ZoomClient,
        revoke_unused: Callable[[TokenPair], None],
        audit: AuditSink,
    ) -> None:
        self._connections = connections
        self._journal = journal
        self._drop_token = drop_token
        self._seen_generation = seen_generation
        self._oauth = oauth
        self._zoom = zoom
        self._revoke_unused = revoke_unused
        self._audit = audit

    async def prepare(self, user_email: str) -> PreviousConnection:
        """Read the connection that a new token pair will replace.

        Call this method before exchanging a code or refresh token, so that no single-use token is lost if the store or key is unavailable.

        Raises:
            StoreError: The store failed.
            KeyUnavailable: The key of the user's record is not in the key ring.
            RecordVersionUnsupported: A newer release wrote the user's record.
        """
        previous, _ = await self._connections.read_previous(user_email)
        return previous

    async def link(
        self,
        tokens: TokenPair,
        previous: PreviousConnection,
        *,
        origin: Origin,
        user_email: str,
        owner: str | None,
        initiated_by: str,
        call: Call | None,
    ) -> ConnectionRecord:
        """Verify that Zoom issued the tokens to this user, and store the tokens as the user's connection.

        Args:
            previous: The result of `prepare`, called before the tokens were issued.
            owner: Identity of the member that will own the connection, or None.
            initiated_by: Identity of the caller that started the authorization or import.
            call: The current call, or None if a browser completed the authorization.

        Raises:
            IdentityMismatch: Zoom issued the tokens to a different user.
            ZoomUnavailable, ZoomRateLimited, ZoomOutcomeUnknown: Zoom did not confirm which user the tokens belong to. Imported tokens stay
                in the journal and are stored later; the tokens of a consent are revoked, since the user can consent again.
            ZoomBadResponse: Zoom's user profile response is invalid.
            KeyUnavailable: The key of the user's record is not in the key ring.
            RecordVersionUnsupported: A newer release wrote the user's record.
        """
        entry = Entry(
            entry_id=uuid4().hex,
            origin=origin,
            user_email=user_email,
            grant=previous.record.grant if previous.record else "",
            generation=previous.generation,
            tokens=tokens,
            owner=owner,
            initiated_by=initiated_by,
        )
        record = await self._link(entry, call, previous, unless_superseded=False)
        if record is None:
            raise AssertionError("linking without a superseded check returned no record")
        return record

    async def link_imported(
        self,
        tokens: TokenPair,
        previous: PreviousConnection,
        *,
        entry_id: str,
        user_email: str,
        call: Call,
        issued_now: bool,
    ) -> ConnectionRecord | None:
        """Store a token pair from another system, unless the user consented or was disconnected in the meantime.

        An existing connection keeps its owner, unless it is disconnected.

        Args:
            previous: The result of `prepare`, called before the tokens were issued.
            entry_id: See `Entry`; must be the same each time the same pair is imported.
            issued_now: Whether Zoom issued the pair during this import, so that no other copy exists. Other pairs are never revoked.

        Returns:
            The connection, or None if a newer consent or a disconnection took precedence.

        Raises:
            ZoomgateError: Same as `link`. ZoomBadResponse contains the `http_status` of Zoom's response.
        """
        record = previous.record
        entry = Entry(
            entry_id=entry_id,
            origin=Origin.IMPORT,
            user_email=user_email,
            grant=record.grant if record else "",
            generation=previous.generation,
            tokens=tokens,
            owner=record.owner if record and record.state is not State.DISCONNECTED else None,
            initiated_by=call.principal.identity,
        )
        if issued_now:
            return await self._link(entry, call, previous, unless_superseded=True)
        zoom_user = await self._zoom_user_of(tokens)
        if zoom_user.email != user_email:
            self._audit(_stored_event(call, "IDENTITY_MISMATCH", entry, entry.generation, resumed=False))
            raise IdentityMismatch("Zoom issued these tokens to a user with a different email address")
        stored = await self._store(entry, zoom_user, previous, unless_superseded=True, revocable=False)
        if stored is not None and stored.was_committed(entry.entry_id):
            self._audit_stored(entry, stored, call, resumed=False)
        return stored

    async def _link(
        self, entry: Entry, call: Call | None, previous: PreviousConnection, *, unless_superseded: bool
    ) -> ConnectionRecord | None:
        """Append the tokens to the journal, then verify and store the tokens (see `_store`).

        The journal entry is deleted once the tokens are stored or discarded, and released for a later attempt if a retry can succeed.
        """
        is_journaled = await self._journal.append(entry)
        try:
            record = await self._verify_and_store(entry, call, previous, unless_superseded=unless_superseded)
        except (*_RETRYABLE_RECORD_ERRORS, *_TRANSIENT_ZOOM_ERRORS) as error:
            is_retryable = entry.origin is Origin.IMPORT or isinstance(error, _RETRYABLE_RECORD_ERRORS)
            if not (is_journaled and is_retryable):
                await self._discard_entry(entry)
                raise
            await self._journal.release(entry.entry_id)
            if isinstance(error, _RETRYABLE_RECORD_ERRORS):
                raise
            raise ZoomUnavailable(
                "Zoom accepted the refresh token but could not identify the user yet. The connection is created"
                " automatically later; do not send this refresh token again",
                retry_after=5.0,
            ) from None
        except IdentityMismatch:
            await self._journal.delete(entry.entry_id)
            raise
        except ZoomgateError:
            await self._discard_entry(entry)
            raise
        except Exception:
            await self._journal.release(entry.entry_id)  # journal recovery stores the tokens
            raise
        await self._journal.delete(entry.entry_id)
        return record

    async def resume(self, entry: Entry) -> None:
        """Store or discard the tokens of a journal entry that a crashed process left behind or that was deferred.

        Raises:
            StoreError, ZoomgateError: The store, a key or Zoom is unavailable; the caller releases the entry, and retries later.
        """
        try:
            current = await self.prepare(entry.user_email)
            # Do not refresh in the next two cases: a refresh could invalidate the stored tokens or the newer consent.
            if current.record is not None and current.record.was_committed(entry.entry_id):
                # The crashed process may have stopped before it wrote the audit event; a duplicate event is better than a missing one.
                self._audit_stored(entry, current.record, None, resumed=True)
            elif self._is_superseded(current, entry):
                self._audit_stored(entry, None, None, resumed=True)
            else:
                entry = await self._renew_if_stale(entry)
                await self._verify_and_store(entry, None, current, unless_superseded=True)
        except (*_RETRYABLE_RECORD_ERRORS, *_TRANSIENT_ZOOM_ERRORS):
            raise
        except IdentityMismatch:
            pass  # the tokens are stored in the connection of their user, or revoked
        except ZoomgateError as error:
            _log.error(
                "account_linking.abandoned",
                user=entry.user_email,
                entry=entry.entry_id,
                error=type(error).__name__,
            )
            # After a rejection, nothing is revoked: Zoom might apply the revocation of invalid tokens to the user's valid grant.
            if not isinstance(error, ReauthRequired):
                self._revoke_unused(entry.tokens)
        await self._journal.delete(entry.entry_id)

    async def _discard_entry(self, entry: Entry) -> None:
        """Revoke the tokens of an entry that will not be stored, and delete the entry."""
        self._revoke_unused(entry.tokens)
        await self._journal.delete(entry.entry_id)

    async def _renew_if_stale(self, entry: Entry) -> Entry:
        """Return the entry. If the access token expires too soon to verify the user, refresh the entry's tokens first."""
        now = self._connections.now()
        if entry.tokens.access_expire_at - now > VERIFICATION_TIMEOUT:
            return entry
        outcome = await self._oauth.refresh(entry.tokens.refresh_token)
        if isinstance(outcome, Rejected):
            raise ReauthRequired(
                "Zoom rejected a refresh token from the journal", metadata={"cause": Cause.REJECTED.value}
            )
        issued = issued_or_raise(outcome)
        tokens = TokenPair.from_response(issued, now, previous=entry.tokens.refresh_token)
        renewed = replace(entry, tokens=tokens)
        await self._journal.append(renewed)  # replaces the entry whose refresh token was just exchanged
        return renewed

    async def _verify_and_store(
        self, entry: Entry, call: Call | None, previous: PreviousConnection, *, unless_superseded: bool
    ) -> ConnectionRecord | None:
        """Verify which user the tokens belong to, and store the tokens. Return None if the tokens were superseded (see `_store`)."""
        zoom_user = await self._zoom_user_of(entry.tokens)
        if zoom_user.email != entry.user_email:
            await self._relink_to_actual_user(entry, zoom_user)
            self._audit(
                _stored_event(call, "IDENTITY_MISMATCH", entry, entry.generation, resumed=unless_superseded)
            )
            raise IdentityMismatch(
                "The Zoom user who consented has a different email address than the requested user"
            )
        record = await self._store(entry, zoom_user, previous, unless_superseded=unless_superseded)
        self._audit_stored(entry, record, call, resumed=unless_superseded)
        return record

    def _audit_stored(
        self, entry: Entry, record: ConnectionRecord | None, call: Call | None, *, resumed: bool
    ) -> None:
        """Audit the storage of an entry's tokens, or their replacement by a later consent or disconnection."""
        outcome, generation = SUPERSEDED, 0
        if record is not None and record.was_committed(entry.entry_id):
            outcome, generation = "ok", _stored_generation(record, entry)
        self._audit(_stored_event(call, outcome, entry, generation, resumed=resumed))

    async def _zoom_user_of(self, tokens: TokenPair) -> "_ZoomUser":
        """Read the Zoom user to whom an access token was issued."""
        response = await self._zoom.send(
            endpoints.current_user(), tokens.access_token, timeout=VERIFICATION_TIMEOUT
        )
        if response.status == 429 or response.status >= 500:
            raise ZoomUnavailable(
                "Zoom could not identify the consenting user; start a new authorization",
                retry_after=retry_after.parse(response.header("retry-after"), self._connections.now),
            )
        if response.status != 200:
            raise ZoomBadResponse(
                "Zoom did not identify the consenting user; add the scope user:read:user to the app",
                metadata={"http_status": str(response.status)},
            )
        return _parse_zoom_user(response.body)

    async def _relink_to_actual_user(self, entry: Entry, zoom_user: "_ZoomUser") -> None:
        """Store the pair in the connection of the Zoom user who actually consented, or revoke the pair if there is none.

        A new consent invalidates the tokens that are stored for this user under any address (Zoom error code 4741).
        """
        record = await self._connection_of(zoom_user)
        if record is None:
            self._revoke_unused(entry.tokens)
            return
        relinked = replace(
            entry,
            user_email=record.user_email,
            grant=record.grant,
            generation=record.generation,
            owner=record.owner,
            initiated_by=record.initiated_by,
        )
        previous = PreviousConnection(record, record.rev, record.generation)
        stored = await self._store(relinked, zoom_user, previous, unless_superseded=True)
        if stored is None or not stored.was_committed(entry.entry_id):
            return
        details = _origin_details(entry)
        event = AuditEvent("connection.relinked", "ok", stored.user_email, ZOOMGATE, details=details)
        self._audit(_with_tokens(event, entry.tokens, _stored_generation(stored, entry)))

    async def _connection_of(self, zoom_user: "_ZoomUser") -> ConnectionRecord | None:
        """Return the connection of a Zoom user, retrying until the store responds, because no other copy of the tokens exists."""
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                record, _ = await self._connections.find(zoom_user.user_id)
                return record
            except StoreError:
                await _wait_for_store(zoom_user.email, backoff)
            except RecordUnreadable:
                return None

    async def _store(
        self,
        entry: Entry,
        zoom_user: "_ZoomUser",
        previous: PreviousConnection | None,
        *,
        unless_superseded: bool,
        revocable: bool = True,
    ) -> ConnectionRecord | None:
        """Write the connection, retrying until the store accepts the write, because no other copy of the tokens exists.

        Args:
            previous: The connection to replace, as read earlier. After a conflict or a failure, the connection is read again.
            unless_superseded: Return None, and write nothing, if a consent or disconnection happened after the tokens were requested. Set
                for entries from the journal, whose record may have changed long ago.
            revocable: See `_is_superseded`.
        """
        grant = uuid4().hex
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                current = previous or await self.prepare(entry.user_email)
                previous, now = None, self._connections.now()
                if current.record is not None and current.record.was_committed(entry.entry_id):
                    return current.record
                if unless_superseded and self._is_superseded(current, entry, revocable=revocable):
                    return None
                if current.record is not None and _has_newer_consent(current.record, entry):
                    return current.record
                record = ConnectionRecord(
                    user_email=entry.user_email,
                    rev=current.rev,
                    state=State.ACTIVE,
                    grant=grant,
                    generation=max(current.generation, self._seen_generation(entry.user_email)) + 1,
                    epoch=current.record.epoch if current.record else 0,
                    commit_id=entry.entry_id,
                    create_time=_create_time(current.record, now),
                    consent_time=now,
                    update_time=now,
                    refresh_time=entry.tokens.obtained_at,
                    access_expire_at=entry.tokens.access_expire_at,
                    tokens=entry.tokens,
                    owner=entry.owner,
                    zoom_user_id=zoom_user.user_id,
                    zoom_account_id=zoom_user.account_id,
                    initiated_by=entry.initiated_by,
                    due_at=schedule.due_at(entry.user_email, entry.tokens, now),
                )
                rev = await self._connections.write(record)
                if rev is not None:
                    self._drop_token(entry.user_email)
                    return replace(record, rev=rev)
            except ZoomUserTaken as conflict:
                await self._unlink_previous_address(conflict.subject)
            except StoreError:
                await _wait_for_store(entry.user_email, backoff)

    def _is_superseded(self, current: PreviousConnection, entry: Entry, *, revocable: bool = True) -> bool:
        """Return whether the user consented or was disconnected after the tokens of an entry were requested.

        After a disconnection, the entry's tokens are revoked, unless another system also has them (`revocable` is False). After a newer
        consent, no revocation is needed, since Zoom has already invalidated the tokens.
        """
        if current.record is None:
            return False
        if current.record.state is not State.DISCONNECTED:
            return current.record.grant != entry.grant
        if current.generation == entry.generation:
            return False
        if revocable:
            self._revoke_unused(entry.tokens)
        return True

    async def _unlink_previous_address(self, user_email: str) -> None:
        """Disconnect the connection that is stored under the Zoom user's previous email address, retrying until the store responds."""
        tombstone: ConnectionRecord | None = None
        generation, backoff = 0, Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                current, now = await self._connections.read_previous(user_email)
                record = current.record
                if tombstone is not None and record == replace(tombstone, rev=current.rev):
                    break  # an earlier, unconfirmed write succeeded
                if current.rev == 0 or (record is not None and record.state is State.DISCONNECTED):
                    return
                generation = 0 if record is None else record.generation
                tombstone = make_tombstone(
                    record or _placeholder_for_unreadable(user_email, current, now), now, revoke=False
                )
                if await self._connections.write(tombstone) is not None:
                    break
            except StoreError:
                await _wait_for_store(user_email, backoff)
        self._drop_token(user_email)
        self._audit(AuditEvent("connection.unlinked", "ok", user_email, ZOOMGATE, generation))


async def _wait_for_store(user_email: str, backoff: Backoff) -> None:
    _log.warning("account_linking.store_failed", user=user_email)
    await asyncio.sleep(backoff.next_pause())


def _placeholder_for_unreadable(user_email: str, current: PreviousConnection, now: float) -> ConnectionRecord:
    """Return a placeholder connection for a record that cannot be decrypted. A tombstone is created from the placeholder."""
    return ConnectionRecord(
        user_email=user_email,
        rev=current.rev,
        state=State.ACTIVE,
        grant=uuid4().hex,
        generation=current.generation,
        create_time=now,
        consent_time=now,
        update_time=now,
        refresh_time=now,
    )


@dataclass(frozen=True, slots=True)
class _ZoomUser:
    """The consenting user as reported by Zoom.

    Attributes:
        email: The address in canonical form; empty, and so different from every user's address, if Zoomgate does not accept the address.
    """

    email: str
    user_id: str
    account_id: str


def _parse_zoom_user(body: bytes) -> _ZoomUser:
    """Parse Zoom's user profile response. Reject a response without an email address or user ID."""
    try:
        data = orjson.loads(body)
        fields = data["email"], data["id"], data.get("account_id") or ""
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        fields = "", "", ""
    email, user_id, account_id = fields
    is_valid = all(isinstance(value, str) and len(value) <= 512 for value in fields)
    if not (is_valid and email and user_id):
        raise ZoomBadResponse(
            "Zoom did not identify the consenting user", metadata={"length": str(len(body))}
        )
    try:
        return _ZoomUser(canonical_email(email), user_id, account_id)
    except InvalidUserEmail:
        return _ZoomUser("", user_id, account_id)


def _stored_generation(record: ConnectionRecord, entry: Entry) -> int:
    """Return the connection's generation if the entry's tokens are the current tokens, otherwise 0."""
    return record.generation if record.commit_id == entry.entry_id else 0


def _has_newer_consent(record: ConnectionRecord, entry: Entry) -> bool:
    """Return whether the record's consent is newer than the entry's. A newer consent has invalidated the entry's tokens."""
    tokens = record.tokens
    return (
        tokens is not None and record.grant != entry.grant and tokens.obtained_at > entry.tokens.obtained_at
    )


def _create_time(current: ConnectionRecord | None, now: float) -> float:
    """Return the creation time of the connection. A disconnected user who connects again gets a new creation time."""
    return now if current is None or current.state is State.DISCONNECTED else current.create_time


def _stored_event(
    call: Call | None, outcome: str, entry: Entry, generation: int, *, resumed: bool
) -> AuditEvent:
    """Return the `connection.stored` audit event of tokens from a call, a browser or the journal."""
    without_call = ZOOMGATE if resumed else BROWSER
    actor = without_call if call is None else Actor.of_call(call)
    details = _origin_details(entry)
    event = AuditEvent("connection.stored", outcome, entry.user_email, actor, details=details)
    return _with_tokens(event, entry.tokens, generation)


def _origin_details(entry: Entry) -> dict[str, str | int]:
    return {"origin": entry.origin.value, "initiated_by": entry.initiated_by}


def _with_tokens(event: AuditEvent, tokens: TokenPair, generation: int) -> AuditEvent:
    return event.with_tokens(generation, tokens.access_token, tokens.refresh_token)
