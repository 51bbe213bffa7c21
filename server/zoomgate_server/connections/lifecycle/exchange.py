"""The protocol that exchanges an authorization code, or a refresh token of a different system, for a pair and links the pair.

Before the code or token is sent to Zoom, a mark is stored (see `exchange_mark`), and the exchange is registered in the record of the user's
address. The registration delays a revocation of earlier pairs, which Zoom might apply to the new grant as well; and while a revocation is
running, the exchange waits.
"""

from dataclasses import dataclass, field, replace

from zoomgate_server.connections.exchange_mark import ExchangeMark
from zoomgate_server.connections.lifecycle import decisions, linking
from zoomgate_server.connections.lifecycle.decisions import LinkResult
from zoomgate_server.connections.lifecycle.effects import (
    POLL_SECONDS,
    AppendJournal,
    DeleteMark,
    ExchangeCode,
    ExchangeRefreshToken,
    Find,
    Now,
    Protocol,
    Put,
    PutMark,
    Read,
    ReadMark,
    Sleep,
    Snapshot,
)
from zoomgate_server.connections.lifecycle.linking import LinkContext, Linked, Skipped, Waiting, Worthless
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry, Origin
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import RecordFault, ZoomUnavailable
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.token_outcome import (
    DEFAULT_EXPIRES_IN,
    Issued,
    NotSent,
    Rejected,
    TokenOutcome,
    Unknown,
)

UNKNOWN_RETRIES = 2
"""Number of retries with the same refresh token after a lost response. Codes are never sent again."""

UNKNOWN_PAUSE_SECONDS = 2.0

USED_CODE = "invalid_grant"
"""The error code of Zoom for a code that was used."""


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """A code or pair to link to a user.

    Attributes:
        zoom_email: The email address of the Zoom user, if it differs from `user_email`; otherwise empty.
        holder: Unique ID of the attempt, 32 hexadecimal digits, which becomes the ID of the commit and of the grant.
        fingerprint: Keyed fingerprint of the code or refresh token.
        code: The authorization code, or empty.
        pair: The pair of a different system, or None. Its access token may be empty or expired.
        owner: Identity of the member that will own the connection, or None.
        initiated_by: Identity of the caller that started the authorization or import.
    """

    user_email: str
    origin: Origin
    holder: str
    fingerprint: str
    context: LinkContext
    zoom_email: str = ""
    code: str = field(default="", repr=False)
    code_verifier: str = field(default="", repr=False)
    pair: TokenPair | None = None
    owner: str | None = None
    initiated_by: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """The verdict that the code or refresh token is not sent, because the record holds or has held its pair."""

    record: ConnectionRecord


@dataclass(frozen=True, slots=True)
class InProgress:
    """The verdict that a different attempt is exchanging the same code or token. Retry in `retry_after` seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The verdict that Zoom issued no pair."""

    outcome: TokenOutcome


Verdict = linking.Verdict | Known | InProgress | Failed


@dataclass(frozen=True, slots=True)
class _Revoking:
    """A revocation of the user's pairs is running, so that nothing was sent."""


def exchange(request: LinkRequest) -> Protocol[Verdict]:
    """Exchange a code or refresh token and link the pair; or link a pair of a different system, if its access token is still valid.

    A `StoreError` or `RecordFault` means that nothing was sent.
    """
    while True:
        verdict = yield from _exchange_once(request)
        if not isinstance(verdict, _Revoking):
            return verdict
        yield Sleep(POLL_SECONDS)


def _exchange_once(request: LinkRequest) -> Protocol[Verdict | _Revoking]:
    """Exchange and link, unless a revocation of the user's pairs is running. A later attempt writes a new mark, which covers the call."""
    marked = yield from _acquire_mark(request)
    if not isinstance(marked, Snapshot):
        return marked
    verdict: Verdict | None = yield from _check_record(request)
    if verdict is None:
        # if the store fails, the mark remains, since the pair may have been stored
        verdict = yield from _link_unexchanged(request, marked)
        if verdict is not None and not (isinstance(verdict, Linked) and verdict.result is LinkResult.LINKED):
            yield from _release(request)
    if verdict is not None:
        return verdict
    try:
        registered = yield from _register(request)
    except (StoreError, RecordFault):
        yield from _release(request)
        raise
    if isinstance(registered, _Revoking):
        return registered
    outcome, sent_at = yield from _send(request, marked)
    if isinstance(outcome, Issued):
        previous = "" if request.pair is None else request.pair.refresh_token
        tokens = TokenPair.from_response(outcome, marked.time_at(sent_at), previous=previous)
        entry = _entry(request, tokens, marked.store_now)
        if registered is not None:
            entry = replace(entry, registered_with=registered.zoom_user_id, epoch=registered.epoch)
        yield AppendJournal(entry)
        return (yield from linking.link(entry, request.context))
    if not isinstance(outcome, Unknown):
        yield from _release(request, registered)
    elif request.pair is not None:
        yield from _release(request)  # only a repetition can show whether Zoom has used the token
    return Failed(outcome)


def _acquire_mark(request: LinkRequest) -> Protocol[Snapshot | Verdict]:
    """Write the mark, and return the snapshot on which the write was based. Return a verdict if the code or token must not be sent."""
    while True:
        found: Snapshot = yield ReadMark(request.fingerprint)
        mark, now = found.mark, found.store_now
        if mark is not None and mark.holder != request.holder:
            if mark.zoom_user_id:
                stored: Snapshot = yield Read(mark.zoom_user_id)
                if stored.record is not None and request.code and stored.record.grant != mark.holder:
                    return Failed(Rejected(USED_CODE))  # a later authorization has replaced its connection
                if stored.record is not None:
                    return Known(stored.record)
            if mark.delivered:
                return Waiting(
                    ZoomUnavailable("Zoom has not identified the user of the earlier exchange yet")
                )
            remaining = mark.marked_at + request.context.timing.lease - now
            if remaining > 0:
                return InProgress(min(remaining, POLL_SECONDS))
            if request.code:
                return Failed(Unknown("the response to an earlier exchange of this code was lost"))
        new = ExchangeMark(request.fingerprint, request.holder, now, rev=0 if mark is None else mark.rev)
        try:
            if (yield PutMark(new)) is not None:
                return found
        except StoreError:
            found = yield ReadMark(request.fingerprint)
            if found.mark is None or replace(found.mark, rev=new.rev) != new:
                raise
            return replace(found, store_now=now)


def _check_record(request: LinkRequest) -> Protocol[Known | Skipped | None]:
    """Return the verdict if the record of the address makes an exchange unnecessary."""
    try:
        found: Snapshot = yield Find(request.user_email, replaceable=True)
        verdict = _known(request, found.record)
        if isinstance(verdict, Known):
            yield from linking.settle_mark(request.fingerprint, verdict.record.zoom_user_id)
    except (StoreError, RecordFault):
        yield from _release(request)
        raise
    if isinstance(verdict, Skipped):
        yield from _release(request)
    return verdict


def _known(request: LinkRequest, record: ConnectionRecord | None) -> Known | Skipped | None:
    """Return the verdict if the record of the address makes an exchange unnecessary."""
    if record is None:
        return None
    is_held = request.pair is not None and record.has_held(request.pair.refresh_token)
    if is_held or request.fingerprint in record.used_token_digests:
        return Known(record)
    if request.context.skips is not None and request.context.skips(record):
        return Skipped(record)
    return None


def _link_unexchanged(request: LinkRequest, marked: Snapshot) -> Protocol[linking.Verdict | None]:
    """Link an imported pair as it is. Return None if its access token is not valid, so that the refresh token must be exchanged."""
    pair, now = request.pair, marked.store_now
    if pair is None or pair.access_expire_at - now <= linking.VERIFICATION_SECONDS:
        return None
    obtained_at = pair.obtained_at if 0 < pair.obtained_at < now else now
    expire_at = min(pair.access_expire_at, now + DEFAULT_EXPIRES_IN)
    tokens = replace(pair, obtained_at=obtained_at, access_expire_at=expire_at)
    verdict = yield from linking.link(_entry(request, tokens, now), request.context)
    return None if isinstance(verdict, Worthless) else verdict


def _register(request: LinkRequest) -> Protocol[ConnectionRecord | _Revoking | None]:
    """Register the exchange in the record of the address, and return the record as written, or None if no record has the address."""
    while True:
        snapshot: Snapshot = yield Find(request.user_email, replaceable=True)
        record = snapshot.record
        if record is None:
            return None
        if decisions.is_revoking(record, snapshot.store_now, request.context.timing):
            return _Revoking()
        registered = decisions.register(record, snapshot.store_now)
        if (yield Put(registered)) is not None:
            return registered


def _release(request: LinkRequest, registered: ConnectionRecord | None = None) -> Protocol[None]:
    """Delete the request's mark and registration. A failure only delays a repetition, or a revocation."""
    try:
        if registered is not None:
            yield from linking.unregister(registered.zoom_user_id, registered.epoch)
        found: Snapshot = yield ReadMark(request.fingerprint)
        if found.mark is not None and found.mark.holder == request.holder and not found.mark.zoom_user_id:
            yield DeleteMark(found.mark)
    except (StoreError, RecordFault):
        return


def _send(request: LinkRequest, marked: Snapshot) -> Protocol[tuple[TokenOutcome, float]]:
    """Send the code or token to Zoom while the mark is valid. Return the outcome, and when the latest request was sent."""
    timing = request.context.timing
    outcome: TokenOutcome = NotSent("the time for the exchange is over")
    for attempt in range(1 if request.pair is None else 1 + UNKNOWN_RETRIES):
        if attempt:
            yield Sleep(UNKNOWN_PAUSE_SECONDS)
        now: float = yield Now()
        if not timing.allows_call(marked.monotonic, now):
            break
        if request.pair is None:
            outcome = yield ExchangeCode(request.code, request.code_verifier)
        else:
            outcome = yield ExchangeRefreshToken(request.pair.refresh_token)
        if not isinstance(outcome, Unknown):
            break
    return outcome, now


def _entry(request: LinkRequest, tokens: TokenPair, marked_at: float) -> Entry:
    return Entry(
        entry_id=request.holder,
        origin=request.origin,
        user_email=request.user_email,
        grant=request.holder,
        generation=0,
        tokens=tokens,
        zoom_email=request.zoom_email,
        fingerprint=request.fingerprint,
        marked_at=marked_at,
        owner=request.owner,
        initiated_by=request.initiated_by,
    )
