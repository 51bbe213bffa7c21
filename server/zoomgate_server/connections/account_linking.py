"""Tokens that Zoom issued for a code or for a refresh token that a caller brought: whose are they, and into which record do they go?

They exist nowhere else, so they are in the journal until a record has them or it is clear that nobody should.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

import orjson

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.call_context import Call
from zoomgate_server.connections.disconnection import make_tombstone
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import schedule
from zoomgate_server.connections.repository import ConnectionRepository, Replaceable
from zoomgate_server.connections.token_cache import TokenCache
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
    store_unavailable,
)
from zoomgate_server.storage.record_store import StoreError, ZoomUserTaken
from zoomgate_server.telemetry import logs
from zoomgate_server.zoom import endpoints
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import (
    Issued,
    Rejected,
    issued_by,
)

VERIFICATION_TIMEOUT = 15.0
"""How long reading back who consented may take."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
"""Pauses between two tries to reach a store that fails: each twice as long as the one before."""

SUPERSEDED = "SUPERSEDED"
"""Outcome, in the audit trail, of tokens that were given up since a later consent or an end came first."""

_RECORD_ERRORS = (KeyUnavailable, RecordVersionUnsupported)
_TRANSIENT_ZOOM_ERRORS = (ZoomUnavailable, ZoomRateLimited, ZoomOutcomeUnknown, AppCredentialsRejected)
_log = logs.get("zoomgate.account_linking")


class AccountLinker:
    """Stores tokens as connections.

    Args:
        connections: Where the connections are.
        journal: Keeps tokens until a connection has them.
        cache: Tokens in memory.
        oauth: Renews tokens that lay in the journal for too long.
        zoom: Says whose tokens they are.
        discard: Ends a token pair that must not be kept.
        audit: Hears of every decision that matters.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        journal: TokenJournal,
        cache: TokenCache,
        oauth: OAuthClient,
        zoom: ZoomClient,
        discard: Callable[[TokenPair], None],
        audit: AuditSink,
    ) -> None:
        self._connections = connections
        self._journal = journal
        self._cache = cache
        self._oauth = oauth
        self._zoom = zoom
        self._discard = discard
        self._audit = audit

    async def prepare(self, user_email: str) -> Replaceable:
        """Find out before a code or a refresh token is spent that the store and the key of the user's record are at hand.

        Raises:
            StoreUnavailable, KeyUnavailable, RecordVersionUnsupported: They are not.
        """
        try:
            replaced, _ = await self._connections.read_replaceable(user_email)
        except StoreError:
            raise store_unavailable() from None
        return replaced

    async def link(
        self,
        tokens: TokenPair,
        replaced: Replaceable,
        *,
        origin: Origin,
        user_email: str,
        owner: str | None,
        initiated_by: str,
        call: Call | None,
    ) -> ConnectionRecord:
        """Find out whose tokens these are, and store them if they are the user's.

        Args:
            tokens: What Zoom issued.
            replaced: What `prepare` found before that.
            origin: What brought them.
            user_email: Whose they are to be.
            owner: The member whose connection it becomes, or None.
            begun_by: Identity of the caller who began it.
            call: The call that brought them, or None for a browser.

        Raises:
            IdentityMismatch: They are somebody else's.
            ZoomUnavailable, ZoomRateLimited, ZoomOutcomeUnknown: Zoom does not say whose they are. Tokens that a caller brought are
                stored later then; a person who consented can do so again.
            ZoomBadResponse, KeyUnavailable, RecordVersionUnsupported: As they say.
        """
        entry = Entry(
            entry_id=uuid4().hex,
            origin=origin,
            user_email=user_email,
            grant=replaced.record.grant if replaced.record else "",
            generation=replaced.generation,
            tokens=tokens,
            owner=owner,
            initiated_by=initiated_by,
        )
        record = await self._link(entry, call, fenced=False)
        if record is None:
            raise AssertionError("only what is fenced can be superseded")
        return record

    async def link_imported(
        self,
        tokens: TokenPair,
        replaced: Replaceable,
        *,
        entry_id: str,
        user_email: str,
        initiated_by: str,
        issued_now: bool,
    ) -> ConnectionRecord | None:
        """Store a pair that is imported from a file, unless the person consented or was disconnected meanwhile.

        A connection that it takes the place of keeps its owner.

        Args:
            tokens: The pair.
            replaced: What `prepare` found before.
            entry_id: As in `Entry`; the same every time that this row is imported.
            user_email: Whose they are to be.
            begun_by: Who imports.
            issued_now: Whether Zoom issued them for a token of the file, so that they exist nowhere else. Others are left alone if they
                are not the user's.

        Returns:
            The connection, or None if another one came in between, which stays.

        Raises:
            ZoomgateError: As `adopt`. ZoomBadResponse has the `http_status` of Zoom's answer.
        """
        record = replaced.record
        entry = Entry(
            entry_id=entry_id,
            origin=Origin.IMPORT,
            user_email=user_email,
            grant=record.grant if record else "",
            generation=replaced.generation,
            tokens=tokens,
            owner=record.owner if record and record.state is not State.DISCONNECTED else None,
            initiated_by=initiated_by,
        )
        if issued_now:
            return await self._link(entry, None, fenced=True, found=replaced)
        person = await self._zoom_user_of(tokens)
        if person.email != user_email:
            raise IdentityMismatch("These tokens are of a Zoom user with another e-mail address")
        stored = await self._store(entry, person, fenced=True, found=replaced)
        if stored is not None and stored.was_committed(entry.entry_id):
            self._audit(_stored_event(None, "ok", entry, _generation(stored, entry), resumed=True))
        return stored

    async def _link(
        self, entry: Entry, call: Call | None, *, fenced: bool, found: Replaceable | None = None
    ) -> ConnectionRecord | None:
        """Keep tokens in the journal until they are stored, or it is clear that nobody should have them; the rest as in `_store`."""
        kept = await self._journal.append(entry)
        try:
            record = await self._verify_and_store(entry, call, fenced=fenced, found=found)
        except (*_RECORD_ERRORS, *_TRANSIENT_ZOOM_ERRORS) as error:
            passing = entry.origin is Origin.IMPORT or isinstance(error, _RECORD_ERRORS)
            if not (kept and passing):
                await self._discard_entry(entry)
                raise
            await self._journal.release(entry.entry_id)
            if isinstance(error, _RECORD_ERRORS):
                raise
            raise ZoomUnavailable(
                "Zoom took the refresh token and does not say just now whose it is: the connection appears once it does;"
                " do not send this token again",
                retry_after=5.0,
            ) from None
        except IdentityMismatch:
            await self._journal.delete(entry.entry_id)
            raise
        except ZoomgateError:
            await self._discard_entry(entry)
            raise
        await self._journal.delete(entry.entry_id)
        return record

    async def resume(self, entry: Entry) -> bool:
        """Go on with tokens that a process which died left in the journal, or that wait there for Zoom or for a key.

        Returns:
            Whether they are settled: stored, or of no use any more. Else they wait on.
        """
        try:
            current, _ = await self._connections.read_replaceable(entry.user_email)
            # Zoom is not asked then: it could end what is stored, or the newer consent
            if current.record is not None and current.record.was_committed(entry.entry_id):
                # who was killed may not have told so: twice is better than never
                self._audit(
                    _stored_event(None, "ok", entry, _generation(current.record, entry), resumed=True)
                )
                await self._journal.delete(entry.entry_id)
                return True
            if self._is_superseded(current, entry):
                self._audit(_stored_event(None, SUPERSEDED, entry, 0, resumed=True))
                await self._journal.delete(entry.entry_id)
                return True
            entry = await self._renew_if_stale(entry)
            await self._verify_and_store(entry, None, fenced=True)
        except (StoreError, *_RECORD_ERRORS, *_TRANSIENT_ZOOM_ERRORS) as error:
            _log.warning(
                "account_linking.deferred",
                user=entry.user_email,
                entry=entry.entry_id,
                error=type(error).__name__,
            )
            await self._journal.release(entry.entry_id)
            return False
        except IdentityMismatch:
            await self._journal.delete(entry.entry_id)
        except ZoomgateError as error:
            _log.error(
                "account_linking.abandoned",
                user=entry.user_email,
                entry=entry.entry_id,
                error=type(error).__name__,
            )
            if isinstance(error, ReauthRequired):  # dead tokens; to revoke them could end what is alive
                await self._journal.delete(entry.entry_id)
            else:
                await self._discard_entry(entry)
        else:
            await self._journal.delete(entry.entry_id)
        return True

    async def _discard_entry(self, entry: Entry) -> None:
        """Give tokens up for which there is no record to go into."""
        self._discard(entry.tokens)
        await self._journal.delete(entry.entry_id)

    async def _renew_if_stale(self, entry: Entry) -> Entry:
        """Give an entry whose access token can be asked whose it is; an old one is renewed first."""
        now = self._connections.now()
        if entry.tokens.access_expire_at - now > VERIFICATION_TIMEOUT:
            return entry
        outcome = await self._oauth.refresh(entry.tokens.refresh_token)
        if isinstance(outcome, Rejected):
            raise ReauthRequired(
                "Zoom refuses a refresh token of the journal", metadata={"cause": Cause.REJECTED.value}
            )
        issued = issued_by(outcome)
        tokens = token_pair(
            replace(issued, refresh_token=issued.refresh_token or entry.tokens.refresh_token), now
        )
        renewed = replace(entry, tokens=tokens)
        await self._journal.append(renewed)  # in the place of the spent ones
        return renewed

    async def _verify_and_store(
        self, entry: Entry, call: Call | None, *, fenced: bool, found: Replaceable | None = None
    ) -> ConnectionRecord | None:
        """Find out whose tokens these are and store them; None if the record took another way meanwhile (see `_store`)."""
        person = await self._zoom_user_of(entry.tokens)
        if person.email != entry.user_email:
            await self._relink_to_actual_user(entry, person)
            self._audit(_stored_event(call, "IDENTITY_MISMATCH", entry, entry.generation, resumed=fenced))
            raise IdentityMismatch(
                "The person who consented at Zoom has another e-mail address than the user that was asked for"
            )
        record = await self._store(entry, person, fenced=fenced, found=found)
        if record is not None and record.was_committed(entry.entry_id):
            self._audit(_stored_event(call, "ok", entry, _generation(record, entry), resumed=fenced))
        else:
            self._audit(_stored_event(call, SUPERSEDED, entry, 0, resumed=fenced))
        return record

    async def _zoom_user_of(self, tokens: TokenPair) -> "_ZoomUser":
        """Ask Zoom who consented."""
        response = await self._zoom.send(
            endpoints.current_user(), tokens.access_token, timeout=VERIFICATION_TIMEOUT
        )
        if response.status == 429 or response.status >= 500:
            raise ZoomUnavailable("Zoom could not say who consented just now: begin again", retry_after=2.0)
        if response.status != 200:
            raise ZoomBadResponse(
                "Zoom did not say who consented: the app needs the scope user:read:user",
                metadata={"http_status": str(response.status)},
            )
        return _parse_zoom_user(response.body)

    async def _relink_to_actual_user(self, entry: Entry, person: "_ZoomUser") -> None:
        """Somebody else consented: keep the pair if a connection of that person needs it, else revoke it.

        If that person is connected already, under whatever address, this consent has ended their stored tokens (Zoom's code 4741), so the
        new pair belongs there.
        """
        record = await self._connection_of(person)
        if record is None:
            self._discard(entry.tokens)
            return
        theirs = replace(
            entry,
            user_email=record.user_email,
            grant=record.grant,
            generation=record.generation,
            owner=record.owner,
            initiated_by=record.initiated_by,
        )
        stored = await self._store(theirs, person, fenced=True)
        if stored is None or not stored.was_committed(entry.entry_id):
            return
        event = AuditEvent.unattended(
            "connection.relinked",
            "ok",
            stored.user_email,
            principal="zoomgate",
            details=_origin_details(entry),
        )
        self._audit(_with_tokens(event, entry.tokens, _generation(stored, entry)))

    async def _connection_of(self, person: "_ZoomUser") -> ConnectionRecord | None:
        """Find the connection that a Zoom user has; goes on until the store has answered, since the tokens exist nowhere else."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                record, _ = await self._connections.find(person.user_id)
                return record
            except StoreError:
                pause = await _wait_for_store(person.email, pause)
            except RecordUnreadable:
                return None

    async def _store(
        self, entry: Entry, person: "_ZoomUser", *, fenced: bool, found: Replaceable | None = None
    ) -> ConnectionRecord | None:
        """Write the connection; goes on until the store has taken it, since the tokens exist nowhere else.

        Args:
            entry: The tokens.
            person: Whose they are.
            fenced: Whether the record may have moved on long ago, as for an entry that was found in the journal: then a consent or an
                end that came after the tokens stays, and the answer is None.
            found: What was read a moment ago, to spare the first read; None reads.
        """
        grant = uuid4().hex
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                if found is None:
                    current, now = await self._connections.read_replaceable(entry.user_email)
                else:
                    current, now, found = found, self._connections.now(), None
                if current.record is not None and current.record.was_committed(entry.entry_id):
                    return current.record
                if fenced and self._is_superseded(current, entry):
                    return None
                if current.record is not None and _is_later(current.record, entry):
                    return current.record
                seen = self._cache.seen(entry.user_email)  # more than is stored if the store was set back
                record = ConnectionRecord(
                    user_email=entry.user_email,
                    rev=current.rev,
                    state=State.ACTIVE,
                    grant=grant,
                    generation=max(current.generation, seen.generation if seen else 0) + 1,
                    epoch=current.record.epoch if current.record else 0,
                    commit_id=entry.entry_id,
                    create_time=_create_time(current.record, now),
                    consent_time=now,
                    update_time=now,
                    refresh_time=entry.tokens.obtained_at,
                    access_expire_at=entry.tokens.access_expire_at,
                    tokens=entry.tokens,
                    owner=entry.owner,
                    zoom_user_id=person.user_id,
                    zoom_account_id=person.account_id,
                    initiated_by=entry.initiated_by,
                    due_at=schedule.due_at(entry.user_email, entry.tokens, now),
                )
                rev = await self._connections.write(record)
                if rev is not None:
                    self._cache.drop(entry.user_email)
                    return replace(record, rev=rev)
            except ZoomUserTaken as taken:
                await self._unlink_previous_address(taken.subject)
            except StoreError:
                pause = await _wait_for_store(entry.user_email, pause)

    def _is_superseded(self, current: Replaceable, entry: Entry) -> bool:
        """Tell whether an entry came too late; tokens of a connection that was ended are ended too."""
        if not _was_replaced(current, entry):
            return False
        if current.record is not None and current.record.state is State.DISCONNECTED:
            self._discard(entry.tokens)  # else they ended with the newer consent
        return True

    async def _unlink_previous_address(self, user_email: str) -> None:
        """End the connection that the same Zoom user has under an earlier address; goes on until the store has answered, as `_store`."""
        tombstone: ConnectionRecord | None = None
        generation, pause = 0, FIRST_PAUSE_SECONDS
        while True:
            try:
                current, now = await self._connections.read_replaceable(user_email)
                record = current.record
                if tombstone is not None and record == replace(tombstone, rev=current.rev):
                    break  # the store had taken it, and could not say so
                if current.rev == 0 or (record is not None and record.state is State.DISCONNECTED):
                    return
                generation = 0 if record is None else record.generation
                tombstone = make_tombstone(
                    record or _is_unreadable(user_email, current, now), now, revoke=False
                )
                if await self._connections.write(tombstone) is not None:
                    break
            except StoreError:
                pause = await _wait_for_store(user_email, pause)
        self._cache.drop(user_email)
        event = AuditEvent.unattended("connection.unlinked", "ok", user_email, principal="zoomgate")
        self._audit(event._replace(generation=generation))


async def _wait_for_store(user_email: str, pause: float) -> float:
    """Wait before a store that failed is asked again; gives the pause after that."""
    _log.warning("account_linking.store_failed", user=user_email)
    await asyncio.sleep(pause)
    return min(2 * pause, LONGEST_PAUSE_SECONDS)


def _is_unreadable(user_email: str, found: Replaceable, now: float) -> ConnectionRecord:
    """What is known of a connection whose record cannot be opened: nothing but that it is in the way."""
    return ConnectionRecord(
        user_email=user_email,
        rev=found.rev,
        state=State.ACTIVE,
        grant=uuid4().hex,
        generation=found.generation,
        create_time=now,
        consent_time=now,
        update_time=now,
        refresh_time=now,
    )


@dataclass(frozen=True, slots=True)
class _ZoomUser:
    """Who consented, as Zoom says."""

    email: str
    user_id: str
    account_id: str


def token_pair(issued: Issued, started: float) -> TokenPair:
    """Give the pair that Zoom issued to a request which began at a time of the store's clock."""
    return TokenPair(
        access_token=issued.access_token,
        refresh_token=issued.refresh_token or "",
        token_type=issued.token_type,
        scope=issued.scope,
        api_url=issued.api_url,
        access_expire_at=started + issued.expires_in,
        obtained_at=started,
    )


def _parse_zoom_user(body: bytes) -> _ZoomUser:
    """Read Zoom's description of a user.

    Raises:
        ZoomBadResponse: It lacks what identifies a person.
    """
    try:
        data = orjson.loads(body)
        person = _ZoomUser(data["email"].lower(), data["id"], data.get("account_id") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        person = _ZoomUser("", "", "")
    if not all(
        isinstance(value, str) and len(value) <= 512
        for value in (person.email, person.user_id, person.account_id)
    ):
        person = _ZoomUser("", "", "")
    if not person.email or not person.user_id:
        raise ZoomBadResponse("Zoom did not say who consented", metadata={"length": str(len(body))})
    return person


def _generation(record: ConnectionRecord, entry: Entry) -> int:
    """Give the generation that a connection has by the tokens of an entry; 0 if it has later ones by now."""
    return record.generation if record.commit_id == entry.entry_id else 0


def _was_replaced(current: Replaceable, entry: Entry) -> bool:
    """Tell whether somebody consented or ended the connection after the tokens of an entry were asked for."""
    if current.record is None:
        return False
    if current.record.state is State.DISCONNECTED:
        return current.generation != entry.generation
    return current.record.grant != entry.grant


def _is_later(record: ConnectionRecord, entry: Entry) -> bool:
    """Tell whether a consent that was stored meanwhile is the later one: at Zoom it has ended the tokens of the entry."""
    tokens = record.tokens
    return (
        tokens is not None and record.grant != entry.grant and tokens.obtained_at > entry.tokens.obtained_at
    )


def _create_time(current: ConnectionRecord | None, now: float) -> float:
    """When the person first connected: a connection that was ended begins anew."""
    return now if current is None or current.state is State.DISCONNECTED else current.create_time


def _stored_event(
    call: Call | None, outcome: str, entry: Entry, generation: int, *, resumed: bool
) -> AuditEvent:
    """Describe what became of tokens that a call, a browser, or the journal brought."""
    details = _origin_details(entry)
    if call is not None:
        event = AuditEvent.for_call(call, "connection.stored", outcome, entry.user_email, details=details)
    else:
        event = AuditEvent.unattended(
            "connection.stored",
            outcome,
            entry.user_email,
            principal="zoomgate" if resumed else "browser",
            details=details,
        )
    return _with_tokens(event, entry.tokens, generation)


def _origin_details(entry: Entry) -> dict[str, str | int]:
    return {"origin": entry.origin.value, "initiated_by": entry.initiated_by}


def _with_tokens(event: AuditEvent, tokens: TokenPair, generation: int) -> AuditEvent:
    return event.with_tokens(generation, tokens.access_token, tokens.refresh_token)
