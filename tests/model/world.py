"""A simulated world for the refresh protocol: one user, one Zoom simulator, one store, one journal and up to three processes.

Each attempt runs the production generator, and this module performs its effects. A history is a list of actions that determines
which attempt runs next, what fails, which process is killed and when time passes. An action that is impossible in the current state is
skipped, so every list of actions is a valid history.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import ModuleType
from typing import Any

from zoomgate_server.connections.lifecycle import effects
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import protocol as shipped
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.token_outcome import Issued, NotSent, Rejected, TokenOutcome, Unknown

USER, ZOOM_USER = "monica@example.com", "z1"
TIMING = shipped.Timing()
PROCESSES = 3
BUDGET = {"crash": 2, "consent": 1, "disconnect": 1, "fault": 4, "jump": 1}
"""Maximum number of occurrences of each disturbance per history. The limits make longer chains of dependent faults more likely."""

Action = tuple[Any, ...]
History = Sequence[Action]


class InvariantViolation(AssertionError):
    """Violation of an invariant."""


class RotatingZoom:
    """A token endpoint that accepts the latest refresh token and, if tolerant, also the previous one."""

    def __init__(self, *, tolerant: bool) -> None:
        self._names = count(1)
        self._tolerant = tolerant
        self.valid = ""
        self._previous = ""
        self.consents = 0
        self.consent_of: dict[str, int] = {}

    def consent(self) -> str:
        """Issue a token for a new consent, which invalidates all earlier tokens."""
        self.consents += 1
        self._issue("")
        return self.valid

    def _issue(self, exchanged: str) -> None:
        self._previous, self.valid = exchanged, f"refresh-{next(self._names)}"
        self.consent_of[self.valid] = self.consents

    def revoke(self) -> None:
        """Invalidate all tokens."""
        self._previous = self.valid = ""

    def refresh(self, token: str) -> TokenOutcome:
        """Exchange a refresh token."""
        if not token or (token != self.valid and not (self._tolerant and token == self._previous)):
            return Rejected("invalid_grant")
        self._issue(token)
        return Issued(f"access-{self.valid}", self.valid, "", 3600.0)


def pair(refresh_token: str, now: float) -> TokenPair:
    """Return a token pair."""
    return TokenPair(f"access-{refresh_token}", refresh_token, "", now + 3600, now)


def consented_record(refresh_token: str, grant: str, generation: int, now: float) -> ConnectionRecord:
    """Return the record that is stored after a consent."""
    return ConnectionRecord(
        zoom_user_id=ZOOM_USER,
        user_email=USER,
        state=State.ACTIVE,
        grant=grant,
        generation=generation,
        create_time=now,
        consent_time=now,
        update_time=now,
        refresh_time=now,
        access_expire_at=now + 3600,
        tokens=pair(refresh_token, now),
        zoom_account_id="a1",
    )


@dataclass(eq=False, slots=True)
class Attempt:
    """A refresh or the recovery of a journal entry, as a generator that is paused at its next effect.

    Attributes:
        received: The refresh tokens that Zoom issued to the attempt.
        leased_at: Time when the attempt last wrote its lease, or None if it has written none.
        checked_at: Time when the attempt last read the clock.
        exchanges: Number of calls to Zoom.
        store_faults: Number of injected store failures.
    """

    name: str
    protocol: Any
    effect: Any
    received: set[str]
    leased_at: float | None = None
    checked_at: float = 0.0
    exchanges: int = 0
    store_faults: int = 0
    verdict: Any = None


class World:
    """The environment in which the effects of attempts are performed.

    Args:
        tolerant: Whether Zoom also accepts the previous refresh token.
        journal: Whether the journal can be written.
        protocol: The shipped protocol module or a mutant.
    """

    def __init__(self, *, tolerant: bool, journal: bool, protocol: ModuleType = shipped) -> None:
        self.protocol = protocol
        self.config = protocol.Config(forced_interval=0.0, max_refreshes=1_000_000)
        self.now = 1_000_000.0
        self.skew = 0.0
        self.tolerant = tolerant
        self.journal_works = journal
        self.zoom = RotatingZoom(tolerant=tolerant)
        self.record = replace(consented_record(self.zoom.consent(), "grant-0", 1, self.now), rev=1)
        self.newest_generation = 1
        self.stored_consent = self.zoom.consents
        self.attempts: list[Attempt] = []
        self.journal: dict[str, tuple[Any, Attempt | None]] = {}
        self.lost_tokens: set[str] = set()
        self.written_tokens: set[str] = set()
        self.unstored_consent: str | None = None
        self.disconnected = False
        self.budget = dict(BUDGET)
        self._names = count(1)
        self._grants = count(1)

    # -- effects -----------------------------------------------------------------------------------------

    def perform(self, attempt: Attempt) -> Any:
        """Perform the next effect of an attempt and return its result."""
        effect = attempt.effect
        if isinstance(effect, effects.Read):
            return effects.Snapshot(self.record, self.now + self.skew, self.now)
        if isinstance(effect, effects.Put):
            return self._put(attempt, effect.record)
        if isinstance(effect, effects.Now):
            attempt.checked_at = self.now
            return self.now
        if isinstance(effect, effects.ExchangeRefreshToken):
            self._check_lease(attempt)
            outcome = self.zoom.refresh(effect.refresh_token)
            if isinstance(outcome, Issued):
                attempt.received.add(outcome.refresh_token or "")
            return outcome
        if isinstance(effect, effects.AppendJournal) and self.journal_works:
            self.journal[effect.entry.entry_id] = (effect.entry, attempt)
        if isinstance(effect, effects.DeleteJournal):
            if effect.entry.tokens.refresh_token not in self.written_tokens:
                raise InvariantViolation("a journal entry was deleted before its tokens were stored")
            self.journal.pop(effect.entry.entry_id, None)
        return None

    def _put(self, attempt: Attempt, record: ConnectionRecord) -> int | None:
        if record.rev != self.record.rev:
            return None
        self._check_reauth(record)
        self.record = replace(record, rev=self.record.rev + 1)
        pairs = (*record.pairs, *record.superseded_pairs, *record.pairs_to_revoke)
        self.written_tokens.update(pair.refresh_token for pair in pairs)
        if record.lease is not None and record.lease.holder == attempt.name:
            attempt.leased_at = self.now
        if record.generation < self.newest_generation:
            raise InvariantViolation("the generation decreased")
        self.newest_generation = record.generation
        if self.disconnected and record.state is not State.DISCONNECTED:
            raise InvariantViolation("a disconnected user became connected without a consent")
        if any(self.zoom.consent_of[token] != self.stored_consent for token in self.stored_tokens()):
            raise InvariantViolation("a token of an earlier consent was stored")
        return self.record.rev

    def _check_lease(self, attempt: Attempt) -> None:
        """Check that a token is exchanged only while a confirmed lease is held, and that the lease does not expire during the call."""
        attempt.exchanges += 1
        if attempt.leased_at is None:
            raise InvariantViolation("a token was exchanged without a lease")
        if attempt.checked_at - attempt.leased_at > TIMING.lease - TIMING.call:
            raise InvariantViolation("a token was exchanged under a lease that does not cover the call")

    def _check_reauth(self, record: ConnectionRecord) -> None:
        """Check that no record is changed to require consent while an attempt within its grace period holds the valid token."""
        if record.state is not State.REAUTH_REQUIRED or self.record.state is not State.ACTIVE or self.skew:
            return
        for holder in self.attempts:
            in_grace = holder.leased_at is not None and self.now - holder.leased_at < TIMING.grace
            if in_grace and self.zoom.valid in holder.received and record.grant == self.record.grant:
                raise InvariantViolation("consent was required while an attempt held the valid token")

    def step(self, attempt: Attempt, fault: str = "") -> None:
        """Perform the next effect of an attempt, optionally with a fault."""
        effect = attempt.effect
        store = isinstance(effect, effects.Read | effects.Put)
        try:
            if isinstance(effect, effects.ExchangeRefreshToken) and fault in (
                "request_lost",
                "response_lost",
                "not_sent",
            ):
                self._check_lease(attempt)
                if fault == "response_lost":
                    previous = self.zoom.valid
                    self.zoom.refresh(effect.refresh_token)
                    if self.zoom.valid != previous:
                        self.lost_tokens.add(self.zoom.valid)
                lost: TokenOutcome = NotSent("injected") if fault == "not_sent" else Unknown("injected")
                attempt.effect = attempt.protocol.send(lost)
            elif store and fault in ("store_before", "store_after"):
                if fault == "store_after":
                    self.perform(attempt)
                attempt.store_faults += 1
                attempt.effect = attempt.protocol.throw(StoreError("injected"))
            elif isinstance(effect, effects.Read) and fault == "store_empty":
                # the store was replaced by an empty one, until it is restored
                attempt.store_faults += 1
                attempt.effect = attempt.protocol.send(effects.Snapshot(None, self.now + self.skew, self.now))
            elif isinstance(effect, effects.Put) and fault == "write_retried":
                # the driver repeats a write whose response was lost; the second write conflicts with the first
                self.perform(attempt)
                attempt.store_faults += 1
                attempt.effect = attempt.protocol.send(None)
            else:
                attempt.effect = attempt.protocol.send(self.perform(attempt))
        except (StopIteration, StoreError) as end:
            attempt.verdict = end.value if isinstance(end, StopIteration) else end
            self.attempts.remove(attempt)
            self._check_orphaned_lease(attempt)

    def _check_orphaned_lease(self, attempt: Attempt) -> None:
        """Check that a single store failure before the call to Zoom leaves no lease, which would block the user until it expires."""
        gave_up = isinstance(attempt.verdict, StoreError) and not attempt.exchanges
        lease = self.record.lease
        if gave_up and attempt.store_faults == 1 and lease is not None and lease.holder == attempt.name:
            raise InvariantViolation("an attempt gave up although it held the lease")

    # -- actions -----------------------------------------------------------------------------------------

    def act(self, action: Action) -> None:
        """Perform an action of a history, if it is possible."""
        name, *arguments = action
        getattr(self, f"_{name}")(*arguments)

    def _attempt(self, index: int) -> Attempt | None:
        return self.attempts[index % len(self.attempts)] if self.attempts else None

    def _start(self, name: str, protocol: Any, received: set[str]) -> Attempt:
        attempt = Attempt(name, protocol, next(protocol), received)
        self.attempts.append(attempt)
        return attempt

    def _request(self) -> Attempt | None:
        if len(self.attempts) >= PROCESSES:
            return None
        name = f"attempt-{next(self._names)}"
        request = self.protocol.RefreshRequest(
            zoom_user_id=ZOOM_USER,
            seen_generation=self.record.generation,
            attempt_id=name,
            forced=False,
            config=self.config,
        )
        return self._start(name, self.protocol.refresh(request), set())

    def _run(self, index: int, steps: int) -> None:
        attempt = self._attempt(index)
        while attempt is not None and attempt.verdict is None and steps:
            self.step(attempt)
            steps -= 1

    def _run_to(self, index: int, effect: str) -> None:
        """Run an attempt until just before an effect."""
        attempt = self._attempt(index)
        for _ in range(12):
            if attempt is None or attempt.verdict is not None:
                return
            self.step(attempt)
            if type(attempt.effect).__name__ == effect:
                return

    def _fault(self, index: int, kind: str) -> None:
        attempt = self._attempt(index)
        if attempt is not None and self._use_budget("fault"):
            self.step(attempt, kind)

    def _crash(self, index: int) -> None:
        """Kill the process of an attempt. Its memory is lost, and its journal entries remain.

        If the journal works, only a token whose journal entry was still being written may be lost.
        """
        attempt = self._attempt(index)
        if attempt is None or not self._use_budget("crash"):
            return
        self.attempts.remove(attempt)
        own_entries = [name for name, (_, holder) in self.journal.items() if holder is attempt]
        for name in own_entries:
            self.journal[name] = (self.journal[name][0], None)
        if not self.journal_works or isinstance(attempt.effect, effects.AppendJournal):
            self.lost_tokens |= attempt.received - self.stored_tokens()

    def _restart(self) -> None:
        """Start a process that resumes the journal entries of killed processes."""
        for name, (entry, holder) in list(self.journal.items()):
            if holder is None:
                resumed = self._start(
                    name, self.protocol.commit(entry, self.config), {entry.tokens.refresh_token}
                )
                self.journal[name] = (entry, resumed)

    def _time(self, seconds: float) -> None:
        self.now += seconds

    def _jump(self, seconds: float) -> None:
        """Move the store's clock, as after a failover of the store to another server."""
        if self._use_budget("jump"):
            self.skew += seconds

    def _consent(self) -> None:
        """Issue a token for a new consent at Zoom. The record is updated in a later action."""
        if self.unstored_consent is None and self._use_budget("consent"):
            self.unstored_consent = self.zoom.consent()

    def _store_consent(self) -> None:
        if self.unstored_consent is None:
            return
        grant = f"grant-{next(self._grants)}"
        record = consented_record(self.unstored_consent, grant, self.record.generation + 1, self.now)
        self.record = replace(record, epoch=self.record.epoch, rev=self.record.rev + 1)
        self.newest_generation = self.record.generation
        self.stored_consent = self.zoom.consents
        self.unstored_consent, self.disconnected = None, False

    def _disconnect(self) -> None:
        if self.unstored_consent is not None or not self._use_budget("disconnect"):
            return
        self.zoom.revoke()
        self.disconnected = True
        self.record = replace(
            self.record,
            state=State.DISCONNECTED,
            generation=self.record.generation + 1,
            tokens=None,
            alternate_pairs=(),
            pending_attempts=(),
            lease=None,
            commit_id="",
            rev=self.record.rev + 1,
        )
        self.newest_generation = self.record.generation

    def _use_budget(self, kind: str) -> bool:
        if not self.budget[kind]:
            return False
        self.budget[kind] -= 1
        return True

    # -- outcome -----------------------------------------------------------------------------------------

    def stored_tokens(self) -> set[str]:
        """Return the refresh tokens in the record."""
        return {pair.refresh_token for pair in self.record.pairs}

    def finish(self) -> None:
        """Finish all attempts, refresh again without disturbances, and check the result."""
        self._store_consent()
        self._restart()
        self._finish(self.attempts)
        verdict = None
        for _ in range(6):
            self.now += TIMING.grace + TIMING.lease
            last = self._request()
            assert last is not None
            self._finish([last])
            verdict = last.verdict
            if isinstance(verdict, self.protocol.TokenAvailable):
                break
        self._check_outcome(verdict)

    def _finish(self, attempts: list[Attempt]) -> None:
        for _ in range(1000):
            for attempt in list(attempts):
                if attempt.verdict is None:
                    self.step(attempt)
            if all(attempt.verdict is not None for attempt in attempts):
                return
        raise InvariantViolation("an attempt never finishes")

    def _check_outcome(self, verdict: Any) -> None:
        if self.disconnected:
            if not isinstance(verdict, self.protocol.NotRefreshable):
                raise InvariantViolation(f"a disconnected user got {type(verdict).__name__}")
        elif self.zoom.valid not in self.lost_tokens:
            if not isinstance(verdict, self.protocol.TokenAvailable):
                raise InvariantViolation(f"avoidable loss: {type(verdict).__name__}")
            if self.record.state is not State.ACTIVE or self.zoom.valid not in self.stored_tokens():
                raise InvariantViolation("the valid token is not in the record")
        elif not isinstance(verdict, self.protocol.TokenAvailable):
            if self.record.state is not State.REAUTH_REQUIRED:
                raise InvariantViolation(
                    f"a lost token did not lead to a required consent: {type(verdict).__name__}"
                )
            # with a skewed clock or a tolerant Zoom, another attempt may have removed the pending attempt, so the cause may differ
            certain = not self.skew and not self.tolerant
            if certain and self.record.cause is not Cause.OUTCOME_LOST:
                raise InvariantViolation(f"the cause of a lost token is {self.record.cause}")
        if self.journal:
            raise InvariantViolation("journal entries were not deleted")


def run_history(history: History, *, protocol: ModuleType = shipped) -> None:
    """Run a history. Its first action sets the properties of the world.

    Raises:
        InvariantViolation: An invariant does not hold.
    """
    (_, tolerant, journal), *actions = history
    world = World(tolerant=tolerant, journal=journal, protocol=protocol)
    for action in actions:
        world.act(action)
    world.finish()


_ACTIONS: tuple[tuple[int, Callable[[random.Random], Action]], ...] = (
    (6, lambda _: ("request",)),
    (8, lambda rng: ("run", rng.randrange(PROCESSES), rng.randint(1, 4))),
    (
        8,
        lambda rng: (
            "run_to",
            rng.randrange(PROCESSES),
            rng.choice(("ExchangeRefreshToken", "Put", "Read", "AppendJournal", "DeleteJournal")),
        ),
    ),
    (
        4,
        lambda rng: (
            "fault",
            rng.randrange(PROCESSES),
            rng.choice(
                (
                    "request_lost",
                    "response_lost",
                    "not_sent",
                    "store_before",
                    "store_after",
                    "store_empty",
                    "write_retried",
                )
            ),
        ),
    ),
    (2, lambda rng: ("crash", rng.randrange(PROCESSES))),
    (1, lambda _: ("restart",)),
    (5, lambda rng: ("time", rng.choice((10.0, 91.0, 300.0)))),
    (1, lambda rng: ("jump", rng.choice((-3600.0, 3600.0)))),
    (1, lambda _: ("consent",)),
    (2, lambda _: ("store_consent",)),
    (1, lambda _: ("disconnect",)),
)
_WEIGHTS = [weight for weight, _ in _ACTIONS]
_MAKERS = [make for _, make in _ACTIONS]


def generate_history(seed: int, max_actions: int = 40) -> list[Action]:
    """Return the history that is determined by a seed."""
    rng = random.Random(seed)  # noqa: S311 - deterministic on purpose
    makers = rng.choices(_MAKERS, _WEIGHTS, k=rng.randint(3, max_actions))
    return [("world", rng.random() < 0.5, rng.random() < 0.8), *(make(rng) for make in makers)]


def violation_of(history: History, protocol: ModuleType = shipped) -> str:
    """Return the invariant that a history violates, or an empty string."""
    try:
        run_history(history, protocol=protocol)
    except InvariantViolation as violation:
        return str(violation)
    return ""


def shrink(history: History, protocol: ModuleType) -> list[Action]:
    """Return a failing history without the actions that are not needed for the failure."""
    shortest = list(history)
    shrunk = True
    while shrunk:
        shrunk = False
        for size in (8, 4, 2, 1):
            index = 1
            while index < len(shortest):
                shorter = shortest[:index] + shortest[index + size :]
                if len(shorter) < len(shortest) and violation_of(shorter, protocol):
                    shortest, shrunk = shorter, True
                else:
                    index += 1
    return shortest
