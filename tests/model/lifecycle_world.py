"""A simulated world for the lifecycle of connections: two replicas with journals, one store, and Zoom.

Each task runs a production generator, and this module performs its effects. A history is a list of numbers (the tape): every decision, such
as which task runs next, what fails, which replica is killed and when time passes, consumes a number. Zero is always the plain choice, and
an empty rest of the tape reads as zeros, so every list of numbers is a valid history.

At the end of a history the disturbances stop, journals are replayed and revocations are due. Then the invariants are checked.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from model.lifecycle_calls import CHANGE_DELAY, TOKEN_REJECTED, Caller, ZoomCaller
from model.lifecycle_mutants import Protocols
from zoomgate_server.audit.event import ZOOMGATE, Actor, AuditEvent
from zoomgate_server.connections.exchange_mark import ExchangeMark
from zoomgate_server.connections.lifecycle.effects import (
    Protocol,
    Read,
    Snapshot,
    ZoomUser,
)
from zoomgate_server.connections.lifecycle.exchange import LinkRequest
from zoomgate_server.connections.lifecycle.linking import LinkContext
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import protocol as refresh_protocol
from zoomgate_server.connections.token_journal import Entry, Origin
from zoomgate_server.connections.token_pair import NO_PAIR, TokenPair
from zoomgate_server.errors import KeyUnavailable, RecordFault, ZoomgateError, ZoomUnavailable
from zoomgate_server.storage.record_store import StoreError, UserEmailTaken
from zoomgate_server.zoom.request import ZoomResponse
from zoomgate_server.zoom.token_outcome import Issued, Rejected, TokenOutcome, Unknown

ACTOR = Actor("caller")
A, B, C = "a@example.com", "b@example.com", "c@example.com"
SHIPPED = Protocols()
TIMING = refresh_protocol.Timing()
CONFIG = refresh_protocol.Config(forced_interval=0.0, max_refreshes=1_000_000)
DAY, MONTH, ACCESS_SECONDS = 86_400.0, 30 * 86_400.0, 3600.0
STORE_EFFECTS = {"Find", "Read", "Put", "ReadMark", "PutMark", "DeleteMark"}
ZOOM_EFFECTS = {"ExchangeCode", "ExchangeRefreshToken", "ReadZoomUser", "Revoke", "CallZoom"}
LOST_CALLS = {"ReadZoomUser": ZoomUnavailable("lost"), "CallZoom": ZoomUnavailable("lost"), "Revoke": False}
"""What a task receives if Zoom does not respond. For the other effects, the outcome is unknown."""

ISSUING = {"ExchangeCode", "ExchangeRefreshToken"}


class InvariantViolation(AssertionError):
    """Violation of an invariant. The arguments are its name and a description.

    Attributes:
        world: The world, with the tape and the trace of the history.
    """

    world: "World"


@dataclass(frozen=True, slots=True)
class ZoomRules:
    """How Zoom behaves where its documentation leaves it open.

    Attributes:
        reuse: What a used refresh token does: `rejected`, `tolerated` (the previous token still works), or `ends` its grant.
        refresh_ends_access: Whether a refresh invalidates the old access token.
        consent_ends_grants: Whether a consent ends the user's earlier grants.
        revoke: What a revocation ends: the `token`, its `grant`, or everything of the `user`.
        ahead: Seconds by which Zoom's clock is ahead of the store's.
    """

    reuse: str
    refresh_ends_access: bool
    consent_ends_grants: bool
    revoke: str
    ahead: float


@dataclass(eq=False, slots=True)
class Grant:
    """A grant at Zoom, and what the service knows about it.

    Attributes:
        ours: Whether the service has sent a code or token of the grant.
        registered_with: The Zoom user of the record in which the exchange that delivered the grant must be registered.
        marked_at: When this exchange was marked.
        stored: Whether a record has contained a pair of the grant.
        mismatch: Whether a different user consented than was requested.
        lost: Whether no process received the latest pair, or only a process that was killed before it was in the journal.
        excused: Whether a documented loss applies to the grant.
        ended: Whether an event of Zoom has ended the connection of the grant, which Zoom may still accept.
    """

    zoom_user_id: str
    alive: bool = True
    refresh_token: str = ""
    previous: str = ""
    access_tokens: dict[str, float] = field(default_factory=dict)
    registered_with: str = ""
    marked_at: float = -1.0
    ours: bool = False
    delivered: bool = False
    stored: bool = False
    mismatch: bool = False
    lost: bool = False
    excused: bool = False
    ended: bool = False


@dataclass(eq=False, slots=True)
class Task:
    """A running protocol, paused at its next effect.

    Attributes:
        held: Refresh tokens that the task received and that are neither in a journal nor in a record.
        call: State of a call to Zoom: None, `sent`, or the response.
        access: State of an access to the store: None, the time at which it began, or the result.
        epoch: The number of the attempt that a refresh has added to the record.
        found_zoom_user_id: The Zoom user of the record that the task found last, in which an exchange is registered. Empty without one.
        found_holder: The record that had the address of the subject when the task read it by its Zoom user.
        zoom_email: The address of the Zoom user whom Zoom has reported last.
        fingerprint: The fingerprint of the mark that the task has written.
        clock_read_at: When the task last read the clock, to check whether its lease covers a call.
        has_waited: Whether the task has slept since its pair is in the journal, or since Zoom has last identified its user.
        has_retried: Whether the task tries again to link a pair that is in the journal. Its mark must show the pair.
        is_deferred: Whether the task has left its pair in the journal for a later task.
        has_audited_pair: Whether the task has audited what became of its pair.
        unaudited: The addresses whose connection the task has ended, with the number of audit events before. The end must be audited.
    """

    name: str
    replica: int
    protocol: Any
    subject: str = ""
    effect: Any = None
    wake_at: float | None = None
    call: Any = None
    access: Any = None
    epoch: int = 0
    found_zoom_user_id: str = ""
    found_holder: ConnectionRecord | None = None
    zoom_email: str = ""
    fingerprint: str = ""
    clock_read_at: float = 0.0
    is_deferred: bool = False
    has_audited_pair: bool = False
    has_waited: bool = False
    has_retried: bool = False
    unaudited: list[tuple[str, int]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    issued: set[str] = field(default_factory=set)
    verdict: Any = None
    done: bool = False
    expected_email: str = ""
    is_explicit: bool = False
    marked_at: float = -1.0


class World:
    """The environment in which the effects of tasks are performed.

    Args:
        tape: The decisions of the history. None to draw them with `seed`.

    Attributes:
        interrupt: Called in places of a written history where other tasks may run.
        before_effect: Called before each effect of a task.
        effects: The number of effects so far.
        replica: The replica on which tasks start. None to draw it.
        forgotten_at: When a refresh last removed a different attempt from the record of a Zoom user.
        address_times: When the latest consent that was stored under the address of a Zoom user's record was marked.
    """

    def __init__(self, tape: list[int] | None, seed: int = 0, protocols: Protocols = SHIPPED) -> None:
        self.tape = tape
        self.protocols = protocols
        self.drawn: list[int] = []
        self._random = random.Random(seed)  # noqa: S311 - deterministic on purpose
        self.now = 1_000_000.0
        self.trace: list[str] = []
        self.calm = False
        self.disturbances: frozenset[str] = frozenset()
        self.interrupt: Callable[[], None] | None = None
        self.before_effect: Callable[[Task], None] | None = None
        self.effects = 0
        self.replica: int | None = None
        self.supplied: TokenPair | None = None
        self.records: dict[str, ConnectionRecord] = {}
        self.marks: dict[str, ExchangeMark] = {}
        self.journals: list[dict[str, Entry]] = [{}, {}]
        self.claims: dict[str, Task] = {}
        self.up = [True, True]
        self.tasks: list[Task] = []
        self.callers: list[ZoomCaller | None] = [None, None]
        self.previous_versions: list[tuple[float, ConnectionRecord]] = []
        self.grants: list[Grant] = []
        self.grant_of: dict[str, Grant] = {}
        self.codes: dict[str, str | None] = {}
        self.rejected_codes: set[str] = set()
        self.sent: dict[str, tuple[str, bool]] = {}
        self.marks_lost_at = float("-inf")
        self.unmarked: set[str] = set()
        self.emails = {"z1": A, "z2": B}
        self.previous_emails: set[str] = set()
        self.disconnections: list[tuple[str, str, float]] = []
        self.displaced: set[str] = set()
        self.forgotten_at: dict[str, float] = {}
        self.address_times: dict[str, float] = {}
        self.renamed: list[str] = []
        self.audited: list[str] = []
        self.events: list[tuple[str, float, int, Cause]] = []
        self.requests: list[LinkRequest] = []
        self.consents: list[tuple[str, str, str, str]] = []
        self.away: tuple[dict[str, ConnectionRecord], dict[str, ExchangeMark]] | None = None
        self.backup: tuple[dict[str, ConnectionRecord], dict[str, ExchangeMark]] = ({}, {})
        self.backup_at = self.now
        self.rolled_back = False
        self.empty = (float("inf"), 0.0)
        self.missing_key: tuple[int, str] | None = None
        self.disturbed = False
        self.faults, self.crashes = 3, 2
        self.burst: list[str] = []
        self.jumped_at = -1.0
        self._names = count(1)
        self._times = count(1)
        self._revs = count(1)
        self.rules = ZoomRules(
            ("rejected", "tolerated", "ends", "ends")[self.draw(4)],
            refresh_ends_access=bool(self.draw(2)),
            consent_ends_grants=self.draw(3) != 2,
            revoke=("user", "grant", "token", "user")[self.draw(4)],
            ahead=(0.0, -30.0, 30.0)[self.draw(3)],
        )
        self.skews = (0.0, (0.0, 3.0, -3.0)[self.draw(3)])

    # -- decisions ---------------------------------------------------------------------------------------

    def draw(self, limit: int) -> int:
        """Return the next number of the tape, between 0 and `limit` - 1."""
        if self.tape is None:
            number = int(self._random.random() * limit)
        else:
            position = len(self.drawn)
            number = self.tape[position] % limit if position < len(self.tape) else 0
        self.drawn.append(number)
        return number

    def happens(self, percent: int) -> bool:
        """Decide whether something happens. The plain choice is that it does not."""
        return self.draw(100) >= 100 - percent

    def log(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now - 1_000_000:8.0f}s  {text}")

    def fail(self, invariant: str, text: str) -> None:
        """Report a violation."""
        self.log(f"=> {invariant}: {text}")
        raise InvariantViolation(invariant, text)

    # -- Zoom --------------------------------------------------------------------------------------------

    def issue(self, grant: Grant) -> Issued:
        """Issue the next pair of a grant."""
        number = next(self._names)
        access, token = f"access-{number}", f"refresh-{number}"
        if self.rules.refresh_ends_access:
            grant.access_tokens = {}
        grant.access_tokens[access] = self.now + ACCESS_SECONDS
        grant.previous, grant.refresh_token, grant.lost = grant.refresh_token, token, False
        self.grant_of[access] = self.grant_of[token] = grant
        return Issued(access, token, "", ACCESS_SECONDS)

    def consent_at_zoom(self, zoom_user_id: str) -> tuple[Grant, Issued]:
        """Create a grant for a consent."""
        if self.rules.consent_ends_grants:
            for grant in self.grants:
                if grant.zoom_user_id == zoom_user_id:
                    grant.alive = False
        grant = Grant(zoom_user_id)
        self.grants.append(grant)
        return grant, self.issue(grant)

    def owner_of(self, pair: TokenPair) -> Grant:
        """Return the grant that a pair is known to belong to. The refresh token of an imported pair may belong to a different one."""
        return self.grant_of[pair.refresh_token if pair.is_exchanged else pair.access_token]

    def accepts(self, refresh_token: str) -> bool:
        """Return whether Zoom accepts a refresh token."""
        grant = self.grant_of.get(refresh_token)
        tolerated = grant is not None and self.rules.reuse == "tolerated" and refresh_token == grant.previous
        return grant is not None and grant.alive and (refresh_token == grant.refresh_token or tolerated)

    def _accepts_access_token(self, access_token: str) -> bool:
        grant = self.grant_of[access_token]
        return grant.alive and grant.access_tokens.get(access_token, 0) > self.now

    def _respond(self, task: Task) -> Any:
        """Process a request at Zoom, and return the response."""
        effect = task.effect
        match type(effect).__name__:
            case "ExchangeCode":
                is_repeatable = self._present(task, effect.code)
                zoom_user_id, self.codes[effect.code] = self.codes.get(effect.code), None
                if zoom_user_id is None:
                    self._end_grant_of_used_code(task, effect.code, is_repeatable=is_repeatable)
                    self.rejected_codes.add(effect.code)  # it may be sent again
                    return Rejected("invalid_grant")
                grant, issued = self.consent_at_zoom(zoom_user_id)
                self.grant_of[effect.code] = grant
                grant.ours, grant.registered_with, grant.marked_at = (
                    True,
                    task.found_zoom_user_id,
                    task.marked_at,
                )
                return issued
            case "ExchangeRefreshToken":
                return self._refresh(task, effect.refresh_token)
            case "ReadZoomUser":
                task.zoom_email, task.has_waited = "", False
                if self.burst and not self.calm:
                    return ZoomUnavailable("503") if self.burst.pop() == "503" else None
                if not self._accepts_access_token(effect.access_token):
                    return None
                grant = self.grant_of[effect.access_token]
                zoom_user_id = grant.zoom_user_id
                task.zoom_email = self.emails[zoom_user_id]
                grant.mismatch |= task.expected_email not in ("", self.emails[zoom_user_id])
                reported_at = float(int(self.now + self.rules.ahead)) if next(self._times) % 3 else None
                return ZoomUser(zoom_user_id, self.emails[zoom_user_id], "account", reported_at)
            case "CallZoom":
                accepts = self._accepts_access_token(effect.access_token)
                return ZoomResponse(200, (), b"{}") if accepts else TOKEN_REJECTED
            case _:
                return self._revoke(task, effect.pair)

    def _refresh(self, task: Task, token: str) -> TokenOutcome:
        is_repeatable = token in self.unmarked or self.sent.get(token, ("", False))[1]
        is_repeatable = self._present(task, token) or is_repeatable
        if task.name.startswith("refresh of a call"):
            self._expect_user_of_imported_pair(task, token)
        if task.name.startswith("import") and task.zoom_email not in ("", task.expected_email):
            self.fail("I4", f"{task.name} sends {token}, although it belongs to a different user")
        grant = self.grant_of.get(token)
        if grant is not None and self.accepts(token):
            if not grant.ours:
                grant.ours, grant.registered_with, grant.marked_at = (
                    True,
                    task.found_zoom_user_id,
                    task.marked_at,
                )
            # documented: of two pairs that were issued for a supplied token, the earlier one may be stored last
            grant.excused = grant.excused or (token == grant.previous and token in self.sent)
            return self.issue(grant)
        if grant is not None and grant.alive and self.rules.reuse == "ends":
            # documented: an empty store does not show that a record has held a token
            is_repeatable = is_repeatable or task.marked_at >= self.empty[0]
            is_repeatable = is_repeatable or self._is_result_out_of_reach(task, token)
            is_lost = grant.lost or grant.excused or is_repeatable or self._is_out_of_reach(grant)
            is_excused = is_lost or self._is_superseded(grant) or self.rolled_back or self._stood_still()
            if grant.ours and not is_excused:
                self.fail(
                    "I5",
                    f"{task.name} sends {token} again, and Zoom ends a grant although no response was lost",
                )
            grant.alive, grant.excused = False, True
        self._forget_outcome(task)  # a rejected token may be sent again
        return Rejected("invalid_grant")

    def _expect_user_of_imported_pair(self, task: Task, token: str) -> None:
        for record in self.records.values():
            if any(pair.refresh_token == token and not pair.is_exchanged for pair in record.pairs):
                task.expected_email = record.user_email

    def _forget_outcomes(self, task: Task) -> None:
        """Note that what the task has sent may be sent again."""
        self.sent |= {secret: (task.name, True) for secret in self.sent if self.sent[secret][0] == task.name}

    def _end_grant_of_used_code(self, task: Task, code: str, *, is_repeatable: bool) -> None:
        """End the grant of a code that is sent again, as RFC 6749 recommends."""
        grant = self.grant_of.get(code)
        if grant is not None and grant.alive and self.rules.reuse == "ends":
            if not (grant.lost or grant.excused or is_repeatable or self.rolled_back or self._stood_still()):
                self.fail("I5", f"{task.name} sends {code} again, and Zoom ends its grant")
            grant.alive, grant.excused = False, True

    def _is_out_of_reach(self, grant: Grant) -> bool:
        """Return whether the latest pair waits in the journal of a replica that is down, or waited for an empty store (documented)."""
        return any(
            entry.tokens.refresh_token == grant.refresh_token
            for replica, journal in enumerate(self.journals)
            for entry in journal.values()
            if not self.up[replica] or self.empty[1]
        )

    def _is_result_out_of_reach(self, task: Task, secret: str) -> bool:
        """Return whether what Zoom issued for a code or token is in the journal of a replica that is down (documented).

        If it is also in the record of the address, the record shows that.
        """
        return any(
            entry.fingerprint == _fingerprint(secret)
            and not (self._is_stored(entry) and entry.user_email == task.subject)
            for replica, journal in enumerate(self.journals)
            for entry in journal.values()
            if not self.up[replica]
        )

    def _is_superseded(self, grant: Grant) -> bool:
        """Return whether the pairs of a grant are only revoked, since a later grant or a different user has replaced it (documented)."""
        record = self.records.get(grant.zoom_user_id)
        if record is None or any(self.owner_of(pair) is grant for pair in record.pairs):
            return False
        return any(
            self.owner_of(pair) is grant for pair in (*record.superseded_pairs, *record.pairs_to_revoke)
        )

    def _stood_still(self) -> bool:
        return self.jumped_at >= 0

    def _present(self, task: Task, secret: str) -> bool:
        """Check that a supplied code or token is sent only once, unless the outcome is unknown. Return whether it may be sent again."""
        if secret not in self.sent:
            return False
        sender, unknown = self.sent[secret]
        # Zoom can only reject it again
        is_dead = secret in self.grant_of and not self.grant_of[secret].alive
        if secret in self.codes:
            # documented: its mark was in a store that was replaced
            unknown, is_repeatable = secret in self.rejected_codes, self.marks_lost_at > float("-inf")
        else:
            unknown = unknown or self._is_result_out_of_reach(task, secret)
            # documented: the process stood still between the check of its mark and the call
            is_late = self.now - task.clock_read_at > TIMING.call
            # documented: the mark was lost or has expired
            is_mark_lost = task.marked_at - self.skews[task.replica] <= self.marks_lost_at
            is_repeatable = is_late or is_mark_lost or secret in self.unmarked
        if sender and not (unknown or is_dead or is_repeatable or self._stood_still()):
            self.fail("I5", f"{task.name} sends {secret}, which {sender} has sent")
        self.sent[secret] = (task.name, is_repeatable)
        return is_repeatable

    def _is_stored(self, entry: Entry) -> bool:
        """Return whether the record of the address contains the pair of an entry."""
        record = self.holder_of(entry.user_email)
        return record is not None and entry.tokens in _all_pairs(record)

    def _forget_outcome(self, task: Task) -> None:
        """Note that the outcome of the task's call is unknown to it."""
        secret = getattr(task.effect, "code", getattr(task.effect, "refresh_token", ""))
        if secret in self.sent:
            self.sent[secret] = (self.sent[secret][0], True)

    def _revoke(self, task: Task, pair: TokenPair) -> bool:
        origin = self.owner_of(pair)
        if self.rules.revoke == "user":
            ended = [
                grant for grant in self.grants if grant.zoom_user_id == origin.zoom_user_id and grant.alive
            ]
        elif self.rules.revoke == "grant":
            ended = [origin] if origin.alive else []
        else:
            ended = [origin] if origin.alive and pair.refresh_token == origin.refresh_token else []
            origin.access_tokens.pop(pair.access_token, None)
        for grant in ended:
            self._check_revocation(task, grant)
            grant.alive = False
        return True

    def _check_revocation(self, task: Task, grant: Grant) -> None:
        """Check that only grants of disconnected users, and of users nobody has connected, are revoked."""
        if not grant.ours or grant.lost or grant.excused:
            return
        if self.now - task.clock_read_at > TIMING.call:
            return  # documented: the process stood still between the check of its lease and the call
        since_backup = self.rolled_back and grant.marked_at >= self.backup_at
        if self.away is not None or since_backup or self.empty[0] <= grant.marked_at <= self.empty[1]:
            return  # documented: decisions and consents in an empty store, and consents since the backup
        record = self.records.get(grant.zoom_user_id)
        if (
            grant.ended
            or grant.zoom_user_id in self.displaced
            or (grant.mismatch and not _is_connected(record))
        ):
            return
        clock_difference = 2 * abs(
            self.skews[1]
        )  # within this time, a disconnection and a consent have no order
        if any(
            at >= grant.marked_at - clock_difference and zoom_user_id == grant.zoom_user_id
            for _, zoom_user_id, at in self.disconnections
        ):
            return
        forgotten_at = self.forgotten_at.get(grant.zoom_user_id, 0.0)
        if not grant.stored and (self._stood_still() or forgotten_at > grant.marked_at + TIMING.grace):
            return  # documented: a refresh more than three minutes later forgets the exchange
        if not grant.stored and self.now - grant.marked_at > DAY:
            return  # documented: an exchange without an outcome delays a revocation for only a day
        if not grant.stored and grant.registered_with != grant.zoom_user_id:
            return  # documented: an exchange whose Zoom user is not known yet
        self.fail(
            "I2", f"{task.name} revokes (per {self.rules.revoke}) a valid grant of {grant.zoom_user_id}"
        )

    # -- the store ---------------------------------------------------------------------------------------

    def holder_of(self, user_email: str) -> ConnectionRecord | None:
        """Return the record with an address."""
        return next((record for record in self.records.values() if record.user_email == user_email), None)

    def _access_store(self, task: Task, began: float) -> Any:
        effect = task.effect
        if type(effect).__name__ in ("Find", "Read") and task.has_waited and task in self.claims.values():
            task.has_retried = True
        match type(effect).__name__:
            case "Find":
                record = self.holder_of(effect.user_email)
                task.found_zoom_user_id = "" if record is None else record.zoom_user_id
                return self._snapshot(task, began, record)
            case "Read":
                record = self.records.get(effect.zoom_user_id)
                if record is not None and record.user_email == task.subject:
                    task.found_holder = record
                return self._snapshot(task, began, record)
            case "Put":
                return self._put(task, effect.record)
            case "ReadMark":
                snapshot = self._snapshot(task, began, None)
                return replace(snapshot, mark=self.marks.get(effect.fingerprint))
            case "PutMark":
                mark = effect.mark
                stored = self.marks.get(mark.fingerprint)
                if (stored.rev if stored else 0) != mark.rev:
                    return None
                if stored is not None and stored.marked_at + TIMING.lease <= mark.marked_at:
                    self._note_overtaken_exchange(task, mark.fingerprint)
                task.fingerprint = mark.fingerprint
                self.marks[mark.fingerprint] = replace(mark, rev=next(self._revs))
                if not (
                    mark.delivered or mark.zoom_user_id
                ):  # otherwise, the mark may be that of a later exchange
                    task.marked_at = mark.marked_at
                self.log(f"{task.name} marks {mark.fingerprint[:12]}{' delivered' if mark.delivered else ''}")
                return self.marks[mark.fingerprint].rev
            case _:
                stored = self.marks.get(effect.mark.fingerprint)
                if stored is None or stored.rev != effect.mark.rev:
                    return False
                del self.marks[effect.mark.fingerprint]
                return True

    def _note_overtaken_exchange(self, task: Task, fingerprint: str) -> None:
        """Excuse that a code or token is sent again. Documented: an exchange or import that takes longer than its mark may be overtaken."""
        others = [other for other in self.tasks if other.fingerprint == fingerprint and other is not task]
        for secret, (sender, _) in self.sent.items():
            if _fingerprint(secret) == fingerprint and any(
                ((other.name == sender or other.name.startswith("replay")) and not other.has_retried)
                or other.name.startswith("import")
                for other in others
            ):
                self.unmarked.add(secret)

    def _snapshot(self, task: Task, began: float, record: ConnectionRecord | None) -> Snapshot:
        store_now, monotonic = self.now + self.skews[task.replica], began + task.replica * 5000.0
        if record is None:
            return Snapshot(None, store_now, monotonic)
        if (task.replica, record.zoom_user_id) == self.missing_key:
            self.log(f"the key of {record.zoom_user_id} is missing for {task.name}")
            raise KeyUnavailable("injected")
        return Snapshot(record, store_now, monotonic, record.rev, record.generation)

    def _put(self, task: Task, record: ConnectionRecord) -> int | None:
        stored = self.records.get(record.zoom_user_id)
        if (stored.rev if stored else 0) != record.rev:
            return None
        other = self.holder_of(record.user_email) if record.user_email else None
        if other is not None and other.zoom_user_id != record.zoom_user_id:
            raise UserEmailTaken(other.zoom_user_id)
        if stored is not None and stored.lease is not None and record.lease not in (None, stored.lease):
            # documented: a refresh that takes longer than its lease may be overtaken
            self.unmarked |= {pair.refresh_token for pair in stored.pairs}
        self._check_write(task, stored, record)
        if stored is not None and task.name.startswith("refresh"):
            if record.lease not in (None, stored.lease):
                task.epoch = record.lease.epoch
            attempts = {attempt.epoch for attempt in record.pending_attempts} | {task.epoch}
            if any(attempt.epoch not in attempts for attempt in stored.pending_attempts):
                self.forgotten_at[record.zoom_user_id] = self.now
        written = self.records[record.zoom_user_id] = replace(record, rev=next(self._revs))
        if stored is not None:
            self.previous_versions.append((self.now, stored))
        for caller in filter(None, self.callers):
            caller.change(written)
        self.log(
            f"{task.name} writes {record.zoom_user_id} {record.user_email or '-'} {record.state}"
            f" tokens={[p.refresh_token for p in record.pairs]} superseded={[p.refresh_token for p in record.superseded_pairs]}"
            f" revoke={[p.refresh_token for p in record.pairs_to_revoke]} lease={record.lease and record.lease.holder}"
            f" pending={[a.epoch for a in record.pending_attempts]}"
        )
        return written.rev

    def _check_write(self, task: Task, stored: ConnectionRecord | None, record: ConnectionRecord) -> None:
        self._check_pairs(task, stored, record)
        if stored is not None and record.generation < stored.generation:
            self.fail("I6", f"the generation of {record.zoom_user_id} decreased")
        if stored is not None and stored.user_email and not record.user_email:
            if stored.zoom_email and 0 <= task.marked_at < self.address_times.get(record.zoom_user_id, 0.0):
                self.fail("I4", f"{task.name} takes {stored.user_email} from a later consent")
            self.renamed = [address for address in self.renamed if address != stored.user_email]  # taken
        if _is_connected(record):
            self.renamed = [
                address for address in self.renamed if address != record.user_email
            ]  # in use again
        if stored is not None and _is_connected(record):
            self._check_link(task, stored, record)
        if stored is not None and _is_connected(stored) and not _is_connected(record):
            task.unaudited.append((stored.user_email, len(self.audited)))
            if not record.user_email:
                self.displaced.add(record.zoom_user_id)
            elif record.cause is Cause.REVOKED:
                self.disconnections.append((record.user_email, record.zoom_user_id, record.update_time))
            elif record.cause is Cause.USER_DEACTIVATED:
                for pair in (*stored.pairs, *stored.superseded_pairs):
                    self.owner_of(pair).ended = True

    def _check_pairs(self, task: Task, stored: ConnectionRecord | None, record: ConnectionRecord) -> None:
        for pair in (*record.pairs, *record.superseded_pairs, *record.pairs_to_revoke):
            grant = self.owner_of(pair)
            grant.stored = True
            grant.excused = grant.excused or self.away is not None  # documented: written to an empty store
            if grant.zoom_user_id != record.zoom_user_id:
                self.fail("I6", f"{record.zoom_user_id} contains a pair of {grant.zoom_user_id}")
            holder = self.holder_of(task.subject)
            if pair.refresh_token in task.issued and (stored is None or pair not in _all_pairs(stored)):
                self._check_decision(task, grant, stored, record)
            if (
                pair in record.pairs_to_revoke
                and holder is not None
                and holder.zoom_user_id != record.zoom_user_id
            ):
                grant.mismatch = True

    def _check_decision(
        self, task: Task, grant: Grant, stored: ConnectionRecord | None, record: ConnectionRecord
    ) -> None:
        """Check where a link stores its pair."""
        if self.away is not None:
            return  # documented: decisions in an empty store
        email, keeps = task.zoom_email, _is_connected(stored)
        # the address may have become free since the task read the record that had it
        is_lost = any(
            holder is not None
            and holder.zoom_user_id != record.zoom_user_id
            and bool(holder.zoom_email or task.is_explicit)
            and holder.address_time > task.marked_at
            for holder in (self.holder_of(task.subject), task.found_holder)
        )
        if not _is_connected(record):
            grant.mismatch |= is_lost
            ended = any(
                zoom_user_id == record.zoom_user_id and at >= task.marked_at
                for _, zoom_user_id, at in self.disconnections
            )
            if email == task.expected_email and not (ended or is_lost):
                self.fail("I4", f"{task.name} does not connect {record.zoom_user_id}")
            return
        keeps_address = keeps and stored is not None and stored.user_email == record.user_email
        is_requested = email == task.expected_email or not task.is_explicit
        if (
            record.user_email == task.subject
            and email == (record.zoom_email or task.subject)
            and is_requested
        ):
            earlier = self.address_times.get(record.zoom_user_id, 0.0) if keeps_address else 0.0
            self.address_times[record.zoom_user_id] = max(earlier, task.marked_at)
        if keeps_address and stored is not None:
            requested = email == task.expected_email and stored.user_email not in (task.subject, email)
            if requested and not (stored.zoom_email or is_lost):
                self.fail("I4", f"{task.name} does not rename {stored.user_email}")
        elif email != (record.zoom_email or record.user_email):
            self.fail("I4", f"{task.name} connects {record.user_email} with the pair of {email}")

    def _check_link(self, task: Task, stored: ConnectionRecord, record: ConnectionRecord) -> None:
        """Check that a pair was requested under the record's address, and is not older than a disconnection."""
        email = self.emails[record.zoom_user_id]
        if not _is_connected(stored):
            if (
                stored.cause is Cause.REVOKED
                and stored.user_email
                and 0 <= task.marked_at <= stored.update_time
            ):
                self.fail("I4", f"{task.name} connects {record.zoom_user_id}, whose disconnection was later")
        elif stored.user_email != record.user_email:
            if self.away is None:
                self.renamed.append(stored.user_email)
            task.unaudited.append((stored.user_email, len(self.audited)))
            if stored.zoom_email or (stored.user_email == email and email not in self.previous_emails):
                self.fail("I4", f"{task.name} renames {stored.user_email}, which is still the user's address")
        elif stored.owner != record.owner and task.subject != record.user_email:
            self.fail("I4", f"{task.name} for {task.subject} changes the owner of {record.user_email}")

    # -- tasks -------------------------------------------------------------------------------------------

    def start(
        self,
        name: str,
        protocol: Any,
        subject: str = "",
        replica: int | None = None,
        *,
        entry: Entry | None = None,
    ) -> Task:
        """Start a protocol on a replica. The entry names the user whom a link is requested for."""
        if replica is None:
            replica = self.replica
        chosen = self.draw(2) if replica is None else replica
        if not self.up[chosen]:
            chosen = 1 - chosen
        if not self.up[chosen]:
            self.restart(chosen)
        task = Task(f"{name}#{next(self._names)}", chosen, protocol, subject)
        if entry is not None:
            task.expected_email = entry.zoom_email or entry.user_email
            task.is_explicit = entry.zoom_email != ""
        self.tasks.append(task)
        self.log(f"{task.name} starts on replica {chosen}")
        self._advance(task, None)
        return task

    def _advance(self, task: Task, result: Any, error: Exception | None = None) -> None:
        task.call = task.access = None
        error = result if isinstance(result, ZoomgateError) else error
        try:
            task.effect = task.protocol.send(result) if error is None else task.protocol.throw(error)
        except StopIteration as end:
            self._finish(task, end.value)
        except (StoreError, UserEmailTaken, ZoomgateError) as failure:
            self._finish(task, failure)

    def _finish(self, task: Task, verdict: Any) -> None:
        task.done, task.verdict = True, verdict
        self.log(f"{task.name} ends: {type(verdict).__name__} {getattr(verdict, 'result', '')}")
        self.tasks.remove(task)
        continues = verdict == "killed" or task.is_deferred
        for address, count_before in () if continues else task.unaudited:
            if address not in self.audited[count_before:]:
                self.fail("I9", f"{task.name} does not audit the end of {address}")
        if task.name.startswith("disconnect") and verdict is None:
            self.fail("I4", f"{task.name} disconnects nobody")
        match verdict:
            case (outcome, ConnectionRecord(zoom_user_id=zoom_user_id)) if outcome == "near_consent":
                self.refresh(zoom_user_id, replica=task.replica)
        for entry_id, holder in list(self.claims.items()):
            if holder is task:
                del self.claims[entry_id]

    def is_ready(self, task: Task) -> bool:
        """Return whether a task can run now."""
        return task.wake_at is None or task.wake_at <= self.now

    def step(self, task: Task) -> None:
        """Perform the next effect of a task, or a part of it."""
        if task.done:
            return
        if task.call is None and task.access is None:
            effect = task.effect
            self.effects += 1
            if self.before_effect is not None:
                self.before_effect(task)
            if task.done or task.effect is not effect:
                return
        self.now += (0.2, 0.2, 1.0, 4.0)[self.draw(4)]
        name = type(task.effect).__name__
        if name == "Sleep":
            if task.wake_at is None:
                task.wake_at = self.now + task.effect.seconds
            else:
                task.wake_at, task.has_waited = None, True
                self._advance(task, None)
        elif name in ZOOM_EFFECTS:
            self._call_zoom(task, name)
        elif name in STORE_EFFECTS:
            self._call_store(task, name)
        else:
            self._advance(task, self._perform(task, name))

    def run(self, task: Task, until: str = "") -> None:
        """Run a task until its next effect has a name, or until it sleeps or ends."""
        if self.interrupt is not None and self.draw(3) == 2:
            self.interrupt()
        while not task.done and type(task.effect).__name__ != until and self.is_ready(task):
            self.step(task)

    def fail_store(self, task: Task) -> None:
        """Let a task's access to the store fail."""
        if type(task.effect).__name__ in STORE_EFFECTS and not task.done:
            self._advance(task, *self._fail_access(task, "before"))

    def lose_confirmation(self, task: Task) -> None:
        """Let a task access the store, and receive an error."""
        if type(task.effect).__name__ in STORE_EFFECTS and not task.done:
            self._try_access(task, self.now)
            self._advance(task, *self._fail_access(task, "after"))

    def _fail_access(self, task: Task, when: str) -> tuple[None, StoreError]:
        """Return what a task receives from an access to the store that fails."""
        name = type(task.effect).__name__
        self.disturbed = True
        self.log(f"the store fails {when} {name} of {task.name}")
        if name in ("ReadMark", "PutMark") and not task.has_audited_pair:
            # documented: the mark does not show that a pair is waiting
            self.unmarked |= {secret for secret in self.sent if self.sent[secret][0] == task.name}
        return None, StoreError("injected")

    def lose_request(self, task: Task) -> None:
        """Let a task's request to Zoom be lost."""
        name = type(task.effect).__name__
        if name in ZOOM_EFFECTS and not task.done:
            self._lose_call(task, name, "the request is lost")

    def lose_response(self, task: Task) -> None:
        """Let Zoom's response to a task's request be lost."""
        name = type(task.effect).__name__
        if name in ZOOM_EFFECTS and not task.done:
            task.call = (self._respond(task),)
            self._lose_call(task, name, "the response is lost")

    def run_all(self, until: str = "") -> None:
        """Run all tasks until their next effect has a name, or until they sleep or end."""
        while tasks := [
            task for task in self.tasks if self.is_ready(task) and type(task.effect).__name__ != until
        ]:
            self.run(tasks[0], until)

    def run_through_pauses(self, task: Task) -> None:
        """Run a task until it ends. Time passes while the task sleeps."""
        while not task.done:
            self.now = max(self.now, task.wake_at or 0.0)
            self.step(task)

    def _perform(self, task: Task, name: str) -> Any:
        journal = self.journals[task.replica]
        match name:
            case "Now":
                task.clock_read_at = self.now
                return self.now + task.replica * 5000.0
            case "AppendJournal":
                entry = task.effect.entry
                journal[entry.entry_id] = entry
                self.claims[entry.entry_id] = task
                self.grant_of[entry.tokens.refresh_token].delivered = True
                task.held, task.has_waited = [], False
            case "DeleteJournal":
                entry = task.effect.entry
                if entry.origin is not Origin.REFRESH and not task.has_audited_pair:
                    self.fail("I9", f"{task.name} deletes {entry.entry_id} without an audit event")
                journal.pop(task.effect.entry.entry_id, None)
                self.claims.pop(task.effect.entry.entry_id, None)
            case "ReleaseJournal":
                self.claims.pop(task.effect.entry.entry_id, None)
                task.is_deferred = True
            case "DropToken":
                caller = self.callers[task.replica]
                if caller is not None:
                    caller.access_tokens.drop(task.effect.user_email)
            case "Audit":
                event = task.effect.event
                task.has_audited_pair = task.has_audited_pair or event.action == "connection.stored"
                if event.action != "connection.stored":
                    self.audited.append(event.user_email)
        return None

    def _call_store(self, task: Task, name: str) -> None:
        if self.calm and name == "Read" and self._waits_for_a_lost_record(task):
            task.protocol.close()
            self._finish(task, "killed")
            return
        choice = 0 if self.calm or task.access is not None else self.draw(100)
        if task.access is None:
            task.access = self.now
            if 84 <= choice < 88 and "slow calls" in self.disturbances:
                return  # the request is slow
        if isinstance(task.access, float):
            failure = (
                0
                if choice < 96 or not self.faults or "store failures" not in self.disturbances
                else 1 + (choice >= 98)
            )
            self.faults -= bool(failure)
            if failure != 1:
                task.access = self._try_access(task, task.access)
            if failure:
                task.access = self._fail_access(task, "before" if failure == 1 else "after")
            if 88 <= choice < 92 and "slow calls" in self.disturbances:
                return  # the response is slow
        self._advance(task, *task.access)

    def _waits_for_a_lost_record(self, task: Task) -> bool:
        """Discard the journal entry of a refresh if its record was lost (documented), for which the refresh would wait for 30 days."""
        journal = self.journals[task.replica]
        lost = [
            entry_id
            for entry_id, entry in journal.items()
            if self.claims.get(entry_id) is task
            and entry.origin is Origin.REFRESH
            and entry.zoom_user_id not in self.records
            and (self.rolled_back or self.grant_of[entry.tokens.refresh_token].excused)
        ]
        for entry_id in lost:
            self.grant_of[journal[entry_id].tokens.refresh_token].excused = True
            del journal[entry_id]
        return bool(lost)

    def _try_access(self, task: Task, began: float) -> tuple[Any, Exception | None]:
        try:
            return self._access_store(task, began), None
        except (UserEmailTaken, RecordFault) as error:
            return None, error

    def _call_zoom(self, task: Task, name: str) -> None:
        if task.call is None:
            task.call = "sent"
            self.log(f"{task.name} sends {name} {_secret(task.effect)}")
            if (
                not self.calm
                and "slow calls" in self.disturbances
                and self.happens(85 if name == "Revoke" else 40)
            ):
                return
        if task.call == "sent":
            if not self.calm and "lost calls" in self.disturbances and self.faults and self.happens(5):
                self._lose_call(task, name, "the request is lost")
                return
            if (
                name == "ReadZoomUser"
                and "unidentified users" in self.disturbances
                and not (self.calm or self.burst)
                and self.happens(20)
            ):
                self.burst = [("503", "401")[self.draw(2)]] * (1 + self.draw(4))
            task.call = (self._respond(task),)
            self.log(f"  Zoom responds to {task.name}: {_describe(task.call[0])}")
            if not self.calm and "lost calls" in self.disturbances and self.faults and self.happens(5):
                self._lose_call(task, name, "the response is lost")
                return
            if not self.calm and "slow calls" in self.disturbances and self.happens(40):
                return
        (response,) = task.call
        if name in ISSUING and isinstance(response, Issued):
            task.held.append(response.refresh_token or "")
            if task.expected_email and not task.name.startswith("refresh"):
                task.issued.add(response.refresh_token or "")
        self._advance(task, response)

    def _lose_call(self, task: Task, name: str, text: str) -> None:
        self.faults -= 1
        self.disturbed = True
        self.log(f"  {text} ({task.name})")
        self._lose_response(task)
        self._advance(task, LOST_CALLS.get(name, Unknown("injected")))

    def _lose_response(self, task: Task) -> None:
        self._forget_outcome(task)
        if isinstance(task.call, tuple) and isinstance(task.call[0], Issued):
            self.grant_of[task.call[0].access_token].lost = True

    # -- disturbances ------------------------------------------------------------------------------------

    def crash(self, replica: int) -> None:
        """Kill a replica. What only its memory contained is lost."""
        self.log(f"replica {replica} is killed")
        self.up[replica], self.disturbed = False, True
        # documented: the pair may be in the journal of a killed replica for longer than the mark counts
        waiting = {
            entry.fingerprint for entry in self.journals[replica].values() if not self._is_stored(entry)
        }
        fingerprints = {entry.fingerprint for entry in self.journals[replica].values()}
        for secret, (sender, _) in self.sent.items():
            if _fingerprint(secret) in waiting:
                self.sent[secret] = (sender, True)
        for task in [task for task in self.tasks if task.replica == replica]:
            # documented: the mark of an import does not show that the pair is in the journal
            if task.name.startswith("import") and task.fingerprint in fingerprints:
                self.unmarked |= {token for token in self.sent if _fingerprint(token) == task.fingerprint}
            self._lose_response(task)
            for token in task.held if type(task.effect).__name__ in ("Now", "AppendJournal") else ():
                if self.grant_of[token].refresh_token == token:
                    self.grant_of[token].lost = True
                self._forget_outcomes(task)  # documented: nobody knows that Zoom has issued a pair
            task.protocol.close()
            self._finish(task, "killed")
        caller, self.callers[replica] = self.callers[replica], None
        if caller is not None:
            caller.abandon()

    def restart(self, replica: int) -> None:
        """Start a replica again, which replays its journal."""
        self.up[replica] = True
        self.log(f"replica {replica} starts")
        self.recover(replica)

    def jump(self, seconds: float) -> None:
        """Let all processes stand still for a time. Calls under way time out."""
        self.disturbed = True
        if seconds > TIMING.call:
            self.jumped_at = self.now
            for task in [task for task in self.tasks if task.call == "sent"]:
                if self.draw(2):
                    task.call = (self._respond(task),)
                self._lose_response(task)
                self._timeout(task)
        self.now += seconds
        self.log(f"{seconds:.0f} s pass")

    def pause(self, seconds: float) -> None:
        """Let time pass before the next effect."""
        if seconds:
            self.disturbed = True
            self.now += seconds
            self.log(f"{seconds:.0f} s pass")

    def _timeout(self, task: Task) -> None:
        task.call = (LOST_CALLS.get(type(task.effect).__name__, Unknown("timeout")),)

    def empty_store(self) -> None:
        """Let a running service see an empty store for a while."""
        if self.away is None:
            self.away, self.disturbed = (self.records, self.marks), True
            self.empty = (min(self.empty[0], self.now - 10.0), self.empty[1])
            self._replace_store({}, {}, "the store is empty")

    def return_store(self) -> None:
        """Let the store return."""
        if self.away is not None:
            self._replace_store(*self.away, "the store is back")
            self.away, self.empty = None, (self.empty[0], self.now + 10.0)

    def back_up(self) -> None:
        """Back up the store."""
        if self.away is None and not self.rolled_back:
            self.backup, self.backup_at = (dict(self.records), dict(self.marks)), self.now - 10.0
            self.log("backup")

    def restore_backup(self) -> None:
        """Restore an older state of the store while the service is running.

        Documented: connections whose pair was replaced since the backup need a new consent.
        """
        if self.away is not None or self.rolled_back:
            return
        self.rolled_back = self.disturbed = True
        records, marks = self.backup
        kept = {entry.tokens.refresh_token for journal in self.journals for entry in journal.values()}
        kept |= {token for task in self.tasks for token in task.held}
        kept -= {pair.refresh_token for record in self.records.values() for pair in _all_pairs(record)}
        kept |= {pair.refresh_token for record in records.values() for pair in _all_pairs(record)}
        for grant in self.grants:
            if grant.stored and grant.refresh_token not in kept:
                grant.excused = True
        self._replace_store(
            {key: replace(record, rev=next(self._revs)) for key, record in records.items()},
            {key: replace(mark, rev=next(self._revs)) for key, mark in marks.items()},
            "the backup is restored",
        )

    def _replace_store(
        self, records: dict[str, ConnectionRecord], marks: dict[str, ExchangeMark], text: str
    ) -> None:
        """Let the service see a different store. Documented: it lacks marks, and the change feed does not report the difference."""
        self.log(text)
        self.previous_versions += [(float("inf"), record) for record in self.records.values()]
        self.records, self.marks = records, marks
        self.unmarked |= set(self.sent)
        self.marks_lost_at, self.renamed, self.address_times = self.now, [], {}
        for task in self.tasks:
            task.unaudited = []

    # -- actors ------------------------------------------------------------------------------------------

    def context(self, skips: Callable[[ConnectionRecord], bool] | None = None) -> LinkContext:
        """Return the context of linking."""
        return LinkContext(actor=ACTOR, seen_generation=lambda _: 0, skips=skips)

    def consent(
        self, address: str, zoom_user_id: str, *, zoom_email: str = "", owner: str = "key|o1"
    ) -> Task:
        """Let a Zoom user consent for an address, and exchange the code."""
        code = f"code-{next(self._names)}"
        self.consents.append((address, zoom_user_id, zoom_email, owner))
        self.codes[code] = zoom_user_id
        self.sent[code] = ("", False)
        self.log(f"{zoom_user_id} ({self.emails[zoom_user_id]}) consents for {address} {zoom_email}")
        draft = Entry(
            entry_id=f"holder-{code}",
            origin=Origin.CONSENT,
            user_email=address,
            tokens=NO_PAIR,
            zoom_email=zoom_email,
            fingerprint=_fingerprint(code),
            owner=owner,
        )
        request = LinkRequest(draft, self.context(), code)
        self.requests.append(request)
        return self.start("consent", self.protocols.exchange.exchange(request), address, entry=draft)

    def rename(self, zoom_user_id: str, address: str) -> None:
        """Change the email address of a Zoom user. A Zoom user who has the address receives the previous one in exchange."""
        previous = self.emails[zoom_user_id]
        exchanged = {user: previous for user, email in self.emails.items() if email == address}
        self.previous_emails |= {previous, *(address for _ in exchanged)}
        self.emails |= exchanged | {zoom_user_id: address}

    def remove_app(self, zoom_user_id: str) -> None:
        """Let a Zoom user remove the app, which ends all grants of the user."""
        self.log(f"{zoom_user_id} removes the app")
        for grant in self.grants:
            grant.alive = grant.alive and grant.zoom_user_id != zoom_user_id

    def add_event(self, zoom_user_id: str, cause: Cause) -> None:
        """Let an event happen, which Zoom delivers later, possibly twice."""
        self.log(f"{zoom_user_id}: {cause}")
        self.events.append((zoom_user_id, self.now + self.rules.ahead, 1 + self.draw(2), cause))

    def repeat(self) -> None:
        """Send the latest code or token again, as a caller does whose call has timed out."""
        if self.requests:
            request = self.requests[-1]
            draft = replace(request.draft, entry_id=f"holder-{next(self._names)}")
            protocol = self.protocols.exchange.exchange(replace(request, draft=draft))
            name = "import" if request.context.skips else "repetition"
            self.start(name, protocol, draft.user_email, entry=draft)

    def supply(self, address: str, pair: TokenPair, *, is_import: bool) -> Task:
        """Let a caller supply a pair of a different system."""
        skips = _is_connected_or_ended if is_import else None
        draft = Entry(
            entry_id=f"holder-{next(self._names)}",
            origin=Origin.IMPORT,
            user_email=address,
            tokens=replace(pair, is_exchanged=False)
            if is_import
            else replace(NO_PAIR, refresh_token=pair.refresh_token),
            fingerprint=_fingerprint(pair.refresh_token),
            owner="key|o1",
        )
        request = LinkRequest(draft, self.context(skips))
        self.requests.append(request)
        name = "import" if is_import else "request"
        return self.start(name, self.protocols.exchange.exchange(request), address, entry=draft)

    def refresh(self, zoom_user_id: str, replica: int | None = None) -> Task:
        """Refresh a connection."""
        record = self.records.get(zoom_user_id)
        request = refresh_protocol.RefreshRequest(
            zoom_user_id=zoom_user_id,
            seen_generation=record.generation if record else 0,
            attempt_id=f"refresh-attempt-{next(self._names)}",
            forced=False,
            config=CONFIG,
        )
        task = self.start("refresh", self.protocols.protocol.refresh(request), zoom_user_id, replica)
        if record is not None and not all(pair.is_exchanged for pair in record.pairs):
            task.expected_email = record.user_email
        return task

    def call(self, address: str, owner: str = "", replica: int | None = None) -> None:
        """Call Zoom's API for a user, on behalf of a member or, without an owner, of a service."""
        replica = self.draw(2) if replica is None else replica
        if not self.up[replica]:
            return
        caller = self.callers[replica] or ZoomCaller(self, replica)
        self.callers[replica] = caller
        self.log(f"{owner or 'a service'} calls Zoom for {address} on replica {replica}")
        caller.call(Caller(address, owner, self.now))

    def check_call(self, caller: Caller, access_token: str, previous: str) -> None:
        """Check that a call carries the token of the address's connection, and in a repetition of the same Zoom user."""
        zoom_user_id = self.grant_of[access_token].zoom_user_id
        if previous and self.grant_of[previous].zoom_user_id != zoom_user_id:
            self.fail("I10", f"a call for {caller.user_email} is repeated with a token of {zoom_user_id}")
        versions = [
            record for until, record in self.previous_versions if until >= caller.started_at - CHANGE_DELAY
        ]
        if not self._stood_still() and not any(
            record.state is State.ACTIVE
            and record.user_email == caller.user_email
            and caller.owner in ("", record.owner)
            and any(pair.access_token == access_token for pair in record.pairs)
            for record in (*self.records.values(), *versions)
        ):
            self.fail("I10", f"a call for {caller.user_email} carries {access_token} of {zoom_user_id}")

    def disconnect(self, address: str) -> Task:
        """Disconnect a user on behalf of a caller."""
        return self.start(
            "disconnect", self.protocols.ending.disconnect(address, ACTOR, lambda _: None), address
        )

    def end_overdue(self) -> None:
        """End the connections that need a consent, as the retention does."""
        for zoom_user_id in list(self.records):
            self.start("retention", self._end_overdue(zoom_user_id), zoom_user_id)

    def _end_overdue(self, zoom_user_id: str) -> Protocol[None]:
        snapshot: Snapshot = yield Read(zoom_user_id)
        record = snapshot.record
        if record is None or record.state is not State.REAUTH_REQUIRED:
            return
        tombstone = self.protocols.decisions.end(record, Cause.REVOKED, snapshot.store_now)
        event = AuditEvent("connection.expired", "ok", record.user_email, ZOOMGATE)
        yield from self.protocols.ending.write_tombstone(tombstone, event)

    def end_by_event(self, zoom_user_id: str, happened_at: float, cause: Cause) -> Task:
        """Deliver an event of Zoom."""
        self.log(f"event: {cause} {zoom_user_id}")
        protocol = self.protocols.ending.end_by_event(zoom_user_id, cause, happened_at)
        return self.start("event", protocol, zoom_user_id)

    def sweep(self) -> list[Task]:
        """Revoke what is due."""
        tasks = []
        for record in list(self.records.values()):
            if record.pairs_to_revoke:
                holder = f"sweep-{next(self._names)}"
                protocol = self.protocols.revocation.revoke(record.zoom_user_id, holder, TIMING)
                tasks.append(self.start("revoke", protocol, record.zoom_user_id))
        return tasks

    def expire(self) -> None:
        """Apply the retention."""
        for record in list(self.records.values()):
            if record.expire_at is not None and record.expire_at < self.now and not record.pairs_to_revoke:
                del self.records[record.zoom_user_id]
        for mark in list(self.marks.values()):
            if mark.marked_at + MONTH < self.now:
                del self.marks[mark.fingerprint]

    def recover(self, replica: int) -> None:
        """Replay the entries of a journal that no task holds."""
        for entry in list(self.journals[replica].values()):
            if entry.entry_id in self.claims:
                continue
            if entry.origin is Origin.REFRESH:
                protocol: Any = self.protocols.protocol.commit(entry, CONFIG)
            else:
                protocol = self.protocols.linking.link(entry, LinkContext(ZOOMGATE, lambda _: 0))
            linked = None if entry.origin is Origin.REFRESH else entry
            task = self.start("replay", protocol, entry.user_email, replica, entry=linked)
            if linked is not None:
                task.issued.add(entry.tokens.refresh_token)
                task.marked_at, task.fingerprint = entry.marked_at, entry.fingerprint
            if not task.done and entry.entry_id in self.journals[replica]:
                self.claims[entry.entry_id] = task

    # -- the end of a history ----------------------------------------------------------------------------

    def settle(self) -> None:
        """Run all tasks without disturbances until none is left."""
        for _ in range(4000):
            if not self.tasks:
                return
            ready = [task for task in self.tasks if self.is_ready(task)]
            if ready:
                self.step(ready[self.draw(len(ready))])
            else:
                self.now = min(task.wake_at for task in self.tasks if task.wake_at is not None) + 0.1
        self.fail(
            "I8", f"tasks never end: {[(task.name, type(task.effect).__name__) for task in self.tasks]}"
        )

    def finish(self) -> None:
        """End all disturbances, let time pass, and check the result."""
        self.calm, self.burst, self.missing_key = True, [], None
        self.return_store()
        self.log("--- calm")
        for replica in (0, 1):
            if not self.up[replica]:
                self.restart(replica)
        self.settle()
        for zoom_user_id, happened_at, _, cause in self.events:
            self.end_by_event(zoom_user_id, happened_at, cause)
            self.settle()
        for pause in (100.0, 200.0, DAY, 100.0):
            for replica in (0, 1):
                self.recover(replica)
            self.settle()
            self.sweep()
            self.settle()
            if pause == DAY and not self.disturbed:
                self._check_revoked()
            self.now += pause
            for record in list(self.records.values()):
                if record.state is State.ACTIVE:
                    self.refresh(record.zoom_user_id)
                    self.settle()
        self.check()

    def _check_revoked(self) -> None:
        """Check that nothing delays a revocation if nothing was lost."""
        for record in self.records.values():
            if record.pairs_to_revoke:
                self.fail("I7", f"the pairs of {record.zoom_user_id} were not revoked without delay")

    def check(self) -> None:
        """Check what must hold when everything has settled."""
        for grant in self.grants:
            if not (grant.alive and grant.ours) or grant.lost or grant.excused:
                continue
            record = self.records.get(grant.zoom_user_id)
            ended = any(
                zoom_user_id == grant.zoom_user_id and at >= grant.marked_at
                for _, zoom_user_id, at in self.disconnections
            )
            if _is_connected(record):
                assert record is not None
                usable = record.state is State.ACTIVE and any(
                    self.accepts(pair.refresh_token) for pair in record.pairs
                )
                superseded = (self.rolled_back or not self.rules.consent_ends_grants) and any(
                    self.owner_of(pair) is grant for pair in record.superseded_pairs
                )
                if not usable and not superseded:  # documented: superseded pairs are never used
                    self.fail(
                        "I1", f"{grant.zoom_user_id} has a valid grant, and its record is {record.state}"
                    )
            elif grant.mismatch or ended or grant.ended or grant.zoom_user_id in self.displaced:
                self.fail("I3", f"a grant of {grant.zoom_user_id}, which has no connection, was not revoked")
            elif grant.delivered:
                self.fail("I1", f"{grant.zoom_user_id} has a valid grant and no connection")
        self._check_leftovers()

    def _check_leftovers(self) -> None:
        """Check that nothing waits any more."""
        for replica, journal in enumerate(self.journals):
            if journal:
                self.fail("I1", f"entries remain in the journal of replica {replica}: {list(journal)}")
        for address in () if self.rolled_back else self.renamed:
            if self.holder_of(address) is None:
                self.fail("I9", f"{address}, which was renamed, has no tombstone")
        for record in self.records.values():
            if record.pending_attempts and record.state is State.DISCONNECTED and record.pairs_to_revoke:
                self.fail("I7", f"{record.zoom_user_id} waits for attempts that have ended")


def prepare(world: World, start: int) -> TokenPair | None:
    """Connect a user, unless `start` is 3 or more. Return a pair of a different system, if there is one.

    If `start` is 4, its refresh token belongs to a different user than its access token.
    """
    supplied = None
    if start >= 3 or not world.rules.consent_ends_grants:
        _, issued = world.consent_at_zoom("z1")
        supplied = TokenPair.from_response(issued, world.now)
        if start == 4:
            _, other = world.consent_at_zoom("z2")
            supplied = replace(supplied, refresh_token=other.refresh_token)
        world.sent[supplied.refresh_token] = ("", False)
        world.supplied = supplied
    if start < 3:
        grant, issued = world.consent_at_zoom("z1")
        grant.ours = grant.delivered = grant.stored = True
        grant.marked_at = world.now - 100
        tokens = TokenPair.from_response(issued, world.now)
        if start == 2:
            tokens = replace(tokens, access_expire_at=world.now - 1)
            grant.access_tokens = {}
        world.records["z1"] = ConnectionRecord(
            zoom_user_id="z1",
            user_email=A,
            state=State.ACTIVE,
            grant="grant-0",
            generation=1,
            create_time=world.now - 100,
            consent_time=world.now - 100,
            update_time=world.now - 100,
            refresh_time=world.now - 100,
            access_expire_at=tokens.access_expire_at,
            tokens=tokens,
            owner="key|o1",
            rev=next(world._revs),
        )
    return supplied


def _is_connected(record: ConnectionRecord | None) -> bool:
    return record is not None and record.state is not State.DISCONNECTED


def _all_pairs(record: ConnectionRecord) -> tuple[TokenPair, ...]:
    return (*record.pairs, *record.superseded_pairs, *record.pairs_to_revoke)


def _is_connected_or_ended(record: ConnectionRecord) -> bool:
    return record.state is not State.REAUTH_REQUIRED


def _fingerprint(secret: str) -> str:
    return f"{secret}-fingerprint".ljust(64, "-")


def _secret(effect: Any) -> str:
    pair = getattr(effect, "pair", None)
    if pair is not None:
        return str(pair.refresh_token)
    return str(getattr(effect, "code", getattr(effect, "refresh_token", getattr(effect, "access_token", ""))))


def _describe(response: Any) -> str:
    if isinstance(response, Issued):
        return f"issues {response.refresh_token}"
    return f"{type(response).__name__} {getattr(response, 'user_id', '')}"
