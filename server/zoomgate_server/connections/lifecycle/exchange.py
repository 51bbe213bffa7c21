"""The protocol that exchanges an authorization code, or a refresh token of a different system, for a pair and links the pair.

Before the code or token is sent to Zoom, a mark is stored (see `exchange_mark`), and the exchange is registered in the record of the user's
address. The registration delays a revocation of earlier pairs, which Zoom might apply to the new grant as well; and while a revocation is
running, the exchange waits.
"""

from dataclasses import dataclass, field, replace

from zoomgate_server.connections.exchange_mark import ExchangeMark
from zoomgate_server.connections.lifecycle import decisions, linking
from zoomgate_server.connections.lifecycle.decisions import Linked, LinkResult
from zoomgate_server.connections.lifecycle.effects import (
    POLL_SECONDS,
    AppendJournal,
    ExchangeCode,
    ExchangeRefreshToken,
    Find,
    Protocol,
    Put,
    PutMark,
    Read,
    ReadMark,
    Sleep,
    Snapshot,
)
from zoomgate_server.connections.lifecycle.linking import LinkContext
from zoomgate_server.connections.lifecycle.token_request import send
from zoomgate_server.connections.record import Cause, ConnectionRecord
from zoomgate_server.connections.token_journal import Entry
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    CONNECTION_PENDING,
    ReauthRequired,
    RecordFault,
    RefreshInProgress,
    ScopeMissing,
    ZoomgateError,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.token_outcome import (
    DEFAULT_EXPIRES_IN,
    Issued,
    NotSent,
    Rejected,
    TokenOutcome,
    Unknown,
    code_refused,
    error_for,
)

USED_CODE = "invalid_grant"
"""The error code of Zoom for a code that was used."""


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """A code or pair to link to a user.

    Attributes:
        draft: The journal entry of the exchange, with the pair of a different system, whose access token may be empty or expired. For a
            code, the pair is empty.
        code: The authorization code, or empty.
    """

    draft: Entry
    context: LinkContext
    code: str = field(default="", repr=False)
    code_verifier: str = field(default="", repr=False)


def exchange(request: LinkRequest) -> Protocol[Linked]:
    """Exchange a code or refresh token and link the pair; or link a pair of a different system, if its access token is still valid.

    Raises:
        RefreshInProgress: A different attempt is exchanging the same code or token.
        StoreError: The store failed; nothing was sent.
        ZoomgateError: The code or token was not sent or not accepted; or the pair waits in the journal, and is linked later.
    """
    while True:
        linked = yield from _exchange_once(request)
        if linked is not None:
            return linked
        yield Sleep(POLL_SECONDS)


def _exchange_once(request: LinkRequest) -> Protocol[Linked | None]:
    """Exchange and link. Return None if a revocation of the user's pairs is running: a later attempt writes a new mark for its call."""
    marked = yield from _acquire_mark(request)
    if isinstance(marked, Linked):
        return marked
    draft = replace(request.draft, marked_at=marked.store_now)
    try:
        entry = yield from _register(request, draft)
    except (StoreError, ZoomgateError):
        yield from linking.release(draft)
        raise
    if not isinstance(entry, Entry):
        return entry
    token = draft.tokens.refresh_token
    response = yield from send(
        ExchangeCode(request.code, request.code_verifier) if request.code else ExchangeRefreshToken(token),
        marked.monotonic,
        request.context.timing,
    )
    outcome = response.outcome or NotSent("the time for the exchange is over")
    if isinstance(outcome, Issued):
        tokens = TokenPair.from_response(outcome, marked.time_at(response.sent_at), previous=token)
        return (yield from _link(replace(entry, tokens=tokens), request.context))
    if not isinstance(outcome, Unknown):
        yield from linking.release(entry)
    elif not request.code:
        yield from linking.release(draft)  # only a repetition can show whether Zoom has used the token
    raise _error_for(request, outcome)


def _acquire_mark(request: LinkRequest) -> Protocol[Snapshot | Linked]:
    """Write the mark, and return the snapshot on which the write was based. If a record contains the pair already, return the record."""
    holder, fingerprint = request.draft.entry_id, request.draft.fingerprint
    has_failed = False
    while True:
        found: Snapshot = yield ReadMark(fingerprint)
        mark, now = found.mark, found.store_now
        if mark is not None and mark.holder != holder:
            if mark.zoom_user_id:
                stored: Snapshot = yield Read(mark.zoom_user_id)
                if stored.record is not None and request.code and stored.record.grant != mark.holder:
                    # a later authorization has replaced its connection
                    raise _error_for(request, Rejected(USED_CODE))
                if stored.record is not None:
                    return Linked(stored.record, LinkResult.KNOWN)
            if mark.delivered:
                raise _not_identified()
            if mark.marked_at + request.context.timing.lease > now:
                raise RefreshInProgress(
                    "This code or refresh token is being exchanged; retry in a moment", retry_after=1.0
                )
            if request.code:
                raise error_for(Unknown("the response to an earlier exchange of this code was lost"))
        new = ExchangeMark(fingerprint, holder, now, rev=0 if mark is None else mark.rev)
        try:
            if (yield PutMark(new)) is not None:
                return found
        except StoreError:
            if has_failed:
                raise
            has_failed = True


def _register(request: LinkRequest, draft: Entry) -> Protocol[Linked | Entry | None]:
    """Register the exchange in the record of the address, and return the entry with the registration.

    Return what became of the pair instead if no exchange is needed, or None if a revocation of the user's pairs is running.
    """
    snapshot: Snapshot = yield Find(draft.user_email, replaceable=True)
    linked = _from_record(request, snapshot.record)
    if linked is None:
        linked = yield from _link_unexchanged(request, draft, snapshot)
    if linked is not None:
        if linked.result is not LinkResult.LINKED:
            is_known = linked.result is LinkResult.KNOWN
            yield from linking.release(draft, linked.record.zoom_user_id if is_known else "")
        return linked
    while True:
        record = snapshot.record
        if record is None:
            return draft
        if decisions.is_revoking(record, snapshot.store_now, request.context.timing):
            return None
        registered = decisions.register(record, snapshot.store_now)
        if (yield Put(registered)) is not None:
            return replace(draft, registered_with=registered.zoom_user_id, epoch=registered.epoch)
        snapshot = yield Find(draft.user_email, replaceable=True)


def _from_record(request: LinkRequest, record: ConnectionRecord | None) -> Linked | None:
    """Return what became of the pair if the record of the address makes an exchange unnecessary."""
    if record is None:
        return None
    is_held = not request.code and record.has_held(request.draft.tokens.refresh_token)
    if is_held or request.draft.fingerprint in record.used_token_digests:
        return Linked(record, LinkResult.KNOWN)
    if request.context.skips is not None and request.context.skips(record):
        return Linked(record, LinkResult.SKIPPED)
    return None


def _link_unexchanged(request: LinkRequest, draft: Entry, snapshot: Snapshot) -> Protocol[Linked | None]:
    """Link an imported pair as it is. Return None if its access token is not valid, so that the refresh token must be exchanged."""
    pair, now = draft.tokens, draft.marked_at
    if pair.access_expire_at - now <= linking.VERIFICATION_SECONDS:
        return None
    obtained_at = pair.obtained_at if 0 < pair.obtained_at < now else now
    expire_at = min(pair.access_expire_at, now + DEFAULT_EXPIRES_IN)
    tokens = replace(pair, obtained_at=obtained_at, access_expire_at=expire_at)
    return (yield from linking.link(replace(draft, tokens=tokens), request.context, snapshot))


def _link(entry: Entry, context: LinkContext) -> Protocol[Linked]:
    """Link the pair that Zoom issued."""
    yield AppendJournal(entry)
    try:
        linked = yield from linking.link(entry, context)
    except (ScopeMissing, RecordFault) as error:
        error.metadata |= CONNECTION_PENDING
        raise
    except ZoomgateError as error:
        raise _not_identified(type(error).__name__) from error
    if linked is None:
        raise _reauth_required()
    return linked


def _not_identified(internal: str = "") -> ZoomUnavailable:
    return ZoomUnavailable(
        "Zoom accepted the code or refresh token but has not identified the user yet. The connection is created automatically"
        " later; do not send the code or token again",
        metadata=CONNECTION_PENDING,
        retry_after=5.0,
        internal=internal,
    )


def _error_for(request: LinkRequest, outcome: TokenOutcome) -> ZoomgateError:
    """Return the error for a code or token for which Zoom issued no pair."""
    if not isinstance(outcome, Rejected):
        return error_for(outcome)
    return code_refused(outcome) if request.code else _reauth_required()


def _reauth_required() -> ReauthRequired:
    return ReauthRequired(
        "Zoom rejected this authorization; ask the user to consent again",
        metadata={"cause": Cause.REJECTED.value},
    )
