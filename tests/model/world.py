"""A world in which histories of the shipped refresh core happen: one user, one Zoom, one store, one journal, up to three processes.

Each attempt is the generator that production runs. Its effects are answered here; a history, a plain list of actions, decides who runs
next, what fails, who is killed and when time moves. An action that does not fit the moment is skipped, so every list is a history.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import ModuleType
from typing import Any

from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import protocol as shipped
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.token_outcome import Issued, NotSent, Rejected, TokenOutcome, Unknown

USER = "monica@example.com"
PROCESSES = 3
BUDGET = {"crash": 2, "consent": 1, "disconnect": 1, "fault": 4, "jump": 1}
"""How often in one history; calm in between is what lets faults build on each other."""

Action = tuple[Any, ...]
History = Sequence[Action]


class Broken(AssertionError):
    """Something that must hold did not."""


class RotatingZoom:
    """Issues a new refresh token for the newest one; if tolerant, for the one before it too."""

    def __init__(self, *, tolerant: bool) -> None:
        self._names = count(1)
        self._tolerant = tolerant
        self.living = ""
        self._previous = ""
        self.consents = 0
        self.consent_of: dict[str, int] = {}

    def consent(self) -> str:
        """A person consents: what was issued before is dead."""
        self.consents += 1
        self._issue("")
        return self.living

    def _issue(self, spent: str) -> None:
        self._previous, self.living = spent, f"refresh-{next(self._names)}"
        self.consent_of[self.living] = self.consents

    def revoke(self) -> None:
        """The grant ends."""
        self._previous = self.living = ""

    def refresh(self, token: str) -> TokenOutcome:
        """Rotate."""
        if not token or (token != self.living and not (self._tolerant and token == self._previous)):
            return Rejected("invalid_grant", "Invalid Token!")
        self._issue(token)
        return Issued(f"access-{self.living}", self.living, "bearer", "", "", 3600.0)


def pair(refresh_token: str, now: float) -> TokenPair:
    """A pair as it is stored."""
    return TokenPair(f"access-{refresh_token}", refresh_token, "bearer", "", "", now + 3600, now)


def consented(refresh_token: str, grant: str, generation: int, now: float) -> ConnectionRecord:
    """A record as a consent writes it."""
    return ConnectionRecord(
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
        zoom_user_id="z1",
        zoom_account_id="a1",
    )


@dataclass(eq=False, slots=True)
class Attempt:
    """One asker, or one who goes on with an entry of the journal: a generator, paused at its next effect."""

    name: str
    protocol: Any
    effect: Any
    received: set[str]
    leased_at: float | None = None
    looked_at: float = 0.0
    verdict: Any = None


class World:
    """What the effects of attempts meet.

    Args:
        tolerant: Whether the token before the newest one works once more.
        journal: Whether this machine's disk takes the journal.
        core: The module of the protocol: the shipped one, or a mutant.
    """

    def __init__(self, *, tolerant: bool, journal: bool, core: ModuleType = shipped) -> None:
        self.core = core
        self.now = 1_000_000.0
        self.skew = 0.0
        self.tolerant = tolerant
        self.journal_works = journal
        self.zoom = RotatingZoom(tolerant=tolerant)
        self.record = replace(consented(self.zoom.consent(), "grant-0", 1, self.now), rev=1)
        self.newest_generation = 1
        self.stored_consent = self.zoom.consents
        self.attempts: list[Attempt] = []
        self.journal: dict[str, tuple[Any, Attempt | None]] = {}
        self.unreachable: set[str] = set()
        self.consenting: str | None = None
        self.gone = False
        self.left = dict(BUDGET)
        self._names = count(1)
        self._grants = count(1)

    # -- effects -----------------------------------------------------------------------------------------

    def answer(self, attempt: Attempt) -> Any:
        """Perform the effect that an attempt waits for."""
        core, effect = self.core, attempt.effect
        if isinstance(effect, core.Read):
            return core.Snapshot(self.record, self.now + self.skew, self.now)
        if isinstance(effect, core.Put):
            return self._put(attempt, effect.record)
        if isinstance(effect, core.Now):
            attempt.looked_at = self.now
            return self.now
        if isinstance(effect, core.ExchangeRefreshToken):
            self._check_prepaid(attempt)
            outcome = self.zoom.refresh(effect.refresh_token)
            if isinstance(outcome, Issued):
                attempt.received.add(outcome.refresh_token or "")
            return outcome
        if isinstance(effect, core.AppendJournal) and self.journal_works:
            self.journal[effect.issued.attempt_id] = (effect.issued, attempt)
        if isinstance(effect, core.DeleteJournal):
            self.journal.pop(effect.issued.attempt_id, None)
        return None

    def _put(self, attempt: Attempt, record: ConnectionRecord) -> int | None:
        if record.rev != self.record.rev:
            return None
        self._check_verdict(record)
        self.record = replace(record, rev=self.record.rev + 1)
        if record.lease is not None and record.lease.holder == attempt.name:
            attempt.leased_at = self.now
        if record.generation < self.newest_generation:
            raise Broken("a generation went back")
        self.newest_generation = record.generation
        if self.gone and record.state is not State.DISCONNECTED:
            raise Broken("a user who was disconnected came back")
        if any(self.zoom.consent_of[token] != self.stored_consent for token in self.kept()):
            raise Broken("a token of an earlier consent was stored")
        return self.record.rev

    def _check_prepaid(self, attempt: Attempt) -> None:
        """A token is spent only after a confirmed lease that covered the call when the attempt looked at its clock."""
        if attempt.leased_at is None:
            raise Broken("a token was spent without a lease")
        if attempt.looked_at - attempt.leased_at > shipped.LEASE_SECONDS - shipped.CALL_SECONDS:
            raise Broken("a token was spent under a lease that does not cover the call")

    def _check_verdict(self, record: ConnectionRecord) -> None:
        """Nobody is told to consent again while somebody young holds the living token."""
        if record.state is not State.REAUTH_REQUIRED or self.record.state is not State.ACTIVE or self.skew:
            return
        for holder in self.attempts:
            young = holder.leased_at is not None and self.now - holder.leased_at < shipped.GRACE_SECONDS
            if young and self.zoom.living in holder.received and record.grant == self.record.grant:
                raise Broken("consent was asked for while somebody held the living token")

    def step(self, attempt: Attempt, fault: str = "") -> None:
        """Let an attempt take its next step, perhaps with a fault."""
        core, effect = self.core, attempt.effect
        store = isinstance(effect, core.Read | core.Put)
        try:
            if isinstance(effect, core.ExchangeRefreshToken) and fault in (
                "request_lost",
                "answer_lost",
                "not_sent",
            ):
                self._check_prepaid(attempt)
                if fault == "answer_lost":
                    before = self.zoom.living
                    self.zoom.refresh(effect.refresh_token)
                    if self.zoom.living != before:
                        self.unreachable.add(self.zoom.living)
                lost: TokenOutcome = NotSent("injected") if fault == "not_sent" else Unknown("injected")
                attempt.effect = attempt.protocol.send(lost)
            elif store and fault in ("store_before", "store_after"):
                if fault == "store_after":
                    self.answer(attempt)
                attempt.effect = attempt.protocol.throw(StoreError("injected"))
            elif isinstance(effect, core.Put) and fault == "repeated":
                self.answer(
                    attempt
                )  # a driver repeats what it has no answer to, and finds its own write in the way
                attempt.effect = attempt.protocol.send(None)
            else:
                attempt.effect = attempt.protocol.send(self.answer(attempt))
        except StopIteration as end:
            attempt.verdict = end.value
            self.attempts.remove(attempt)

    # -- actions -----------------------------------------------------------------------------------------

    def act(self, action: Action) -> None:
        """Do what a history says, if it fits."""
        name, *arguments = action
        getattr(self, f"_{name}")(*arguments)

    def _attempt(self, who: int) -> Attempt | None:
        return self.attempts[who % len(self.attempts)] if self.attempts else None

    def _begin(self, name: str, protocol: Any, received: set[str]) -> Attempt:
        attempt = Attempt(name, protocol, next(protocol), received)
        self.attempts.append(attempt)
        return attempt

    def _ask(self) -> Attempt | None:
        if len(self.attempts) >= PROCESSES:
            return None
        name = f"attempt-{next(self._names)}"
        want = self.core.RefreshRequest(
            user_email=USER,
            seen_generation=self.record.generation,
            attempt_id=name,
            forced=False,
            forced_interval=0.0,
            max_refreshes=1_000_000,
        )
        return self._begin(name, self.core.refresh(want), set())

    def _run(self, who: int, steps: int) -> None:
        attempt = self._attempt(who)
        while attempt is not None and attempt.verdict is None and steps:
            self.step(attempt)
            steps -= 1

    def _run_to(self, who: int, brink: str) -> None:
        """Bring somebody to just before an effect."""
        attempt = self._attempt(who)
        for _ in range(12):
            if attempt is None or attempt.verdict is not None:
                return
            self.step(attempt)
            if type(attempt.effect).__name__ == brink:
                return

    def _fault(self, who: int, kind: str) -> None:
        attempt = self._attempt(who)
        if attempt is not None and self._take("fault"):
            self.step(attempt, kind)

    def _crash(self, who: int) -> None:
        """Kill a process: what it knew is gone, what it put into the journal waits.

        With a journal that works, only tokens whose entry was still being written may be lost.
        """
        attempt = self._attempt(who)
        if attempt is None or not self._take("crash"):
            return
        self.attempts.remove(attempt)
        mine = [name for name, (_, holder) in self.journal.items() if holder is attempt]
        for name in mine:
            self.journal[name] = (self.journal[name][0], None)
        if not self.journal_works or isinstance(attempt.effect, self.core.AppendJournal):
            self.unreachable |= attempt.received - self.kept()

    def _restart(self) -> None:
        """A new process of the machine goes on with what dead ones left."""
        for name, (won, holder) in list(self.journal.items()):
            if holder is None:
                resumed = self._begin(name, self.core.resume(won, 1_000_000), {won.tokens.refresh_token})
                self.journal[name] = (won, resumed)

    def _time(self, seconds: float) -> None:
        self.now += seconds

    def _jump(self, seconds: float) -> None:
        """The store's clock jumps, as when another server takes over."""
        if self._take("jump"):
            self.skew += seconds

    def _consent(self) -> None:
        """A person consents at Zoom; the record is still the one before."""
        if self.consenting is None and self._take("consent"):
            self.consenting = self.zoom.consent()

    def _consent_stored(self) -> None:
        if self.consenting is None:
            return
        grant = f"grant-{next(self._grants)}"
        fresh = consented(self.consenting, grant, self.record.generation + 1, self.now)
        self.record = replace(fresh, epoch=self.record.epoch, rev=self.record.rev + 1)
        self.newest_generation = self.record.generation
        self.stored_consent = self.zoom.consents
        self.consenting, self.gone = None, False

    def _disconnect(self) -> None:
        if self.consenting is not None or not self._take("disconnect"):
            return
        self.zoom.revoke()
        self.gone = True
        self.record = replace(
            self.record,
            state=State.DISCONNECTED,
            generation=self.record.generation + 1,
            tokens=None,
            alternate_pairs=(),
            pending=(),
            lease=None,
            commit_id="",
            rev=self.record.rev + 1,
        )
        self.newest_generation = self.record.generation

    def _take(self, what: str) -> bool:
        if not self.left[what]:
            return False
        self.left[what] -= 1
        return True

    # -- the end -----------------------------------------------------------------------------------------

    def kept(self) -> set[str]:
        """The refresh tokens that the record has."""
        pairs = (self.record.tokens, *self.record.alternate_pairs)
        return {pair.refresh_token for pair in pairs if pair is not None}

    def end(self) -> None:
        """Let everybody finish, let somebody ask again when all is calm, and look."""
        self._consent_stored()
        self._restart()
        self._finish(self.attempts)
        verdict = None
        for _ in range(6):
            self.now += shipped.GRACE_SECONDS + shipped.LEASE_SECONDS
            last = self._ask()
            assert last is not None
            self._finish([last])
            verdict = last.verdict
            if isinstance(verdict, self.core.Refreshed):
                break
        self._judge(verdict)

    def _finish(self, attempts: list[Attempt]) -> None:
        for _ in range(1000):
            for attempt in list(attempts):
                if attempt.verdict is None:
                    self.step(attempt)
            if all(attempt.verdict is not None for attempt in attempts):
                return
        raise Broken("somebody never ends")

    def _judge(self, verdict: Any) -> None:
        if self.gone:
            if not isinstance(verdict, self.core.NotRefreshable):
                raise Broken(f"a user who was disconnected got {type(verdict).__name__}")
        elif self.zoom.living not in self.unreachable:
            if not isinstance(verdict, self.core.Refreshed):
                raise Broken(f"avoidable loss: {type(verdict).__name__}")
            if self.record.state is not State.ACTIVE or self.zoom.living not in self.kept():
                raise Broken("the living token is not where it belongs")
        elif not isinstance(verdict, self.core.Refreshed):
            if self.record.state is not State.REAUTH_REQUIRED:
                raise Broken(f"a lost token did not end in a request for consent: {type(verdict).__name__}")
            certain = not self.skew and not self.tolerant  # else another's success may have ended the doubt
            if certain and self.record.cause is not Cause.OUTCOME_LOST:
                raise Broken(f"a lost token is called {self.record.cause}")
        if self.journal:
            raise Broken("the journal forgets nothing")


def happen(history: History, *, core: ModuleType = shipped) -> None:
    """Let a history happen. Its first action says what the world is like.

    Raises:
        Broken: Something that must hold did not.
    """
    (_, tolerant, journal), *actions = history
    world = World(tolerant=tolerant, journal=journal, core=core)
    for action in actions:
        world.act(action)
    world.end()


_ACTIONS: tuple[tuple[int, Callable[[random.Random], Action]], ...] = (
    (6, lambda _: ("ask",)),
    (8, lambda dice: ("run", dice.randrange(PROCESSES), dice.randint(1, 4))),
    (
        8,
        lambda dice: (
            "run_to",
            dice.randrange(PROCESSES),
            dice.choice(("ExchangeRefreshToken", "Put", "Read", "AppendJournal", "DeleteJournal")),
        ),
    ),
    (
        4,
        lambda dice: (
            "fault",
            dice.randrange(PROCESSES),
            dice.choice(
                ("request_lost", "answer_lost", "not_sent", "store_before", "store_after", "repeated")
            ),
        ),
    ),
    (2, lambda dice: ("crash", dice.randrange(PROCESSES))),
    (1, lambda _: ("restart",)),
    (5, lambda dice: ("time", dice.choice((10.0, 91.0, 300.0)))),
    (1, lambda dice: ("jump", dice.choice((-3600.0, 3600.0)))),
    (1, lambda _: ("consent",)),
    (2, lambda _: ("consent_stored",)),
    (1, lambda _: ("disconnect",)),
)
_WEIGHTS = [weight for weight, _ in _ACTIONS]
_MAKERS = [make for _, make in _ACTIONS]


def made_up(seed: int, longest: int = 40) -> list[Action]:
    """Make up the history of a seed: always the same."""
    dice = random.Random(seed)  # noqa: S311 - foretellable on purpose
    makers = dice.choices(_MAKERS, _WEIGHTS, k=dice.randint(3, longest))
    return [("world", dice.random() < 0.5, dice.random() < 0.8), *(make(dice) for make in makers)]


def fails(history: History, core: ModuleType = shipped) -> str:
    """Give what a history breaks, or an empty text."""
    try:
        happen(history, core=core)
    except Broken as broken:
        return str(broken)
    return ""


def shortest(history: History, core: ModuleType) -> list[Action]:
    """Leave out whatever a failing history does not need for failing."""
    kept = list(history)
    shrunk = True
    while shrunk:
        shrunk = False
        for size in (8, 4, 2, 1):
            index = 1
            while index < len(kept):
                shorter = kept[:index] + kept[index + size :]
                if len(shorter) < len(kept) and fails(shorter, core):
                    kept, shrunk = shorter, True
                else:
                    index += 1
    return kept
