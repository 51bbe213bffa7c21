"""The shipped refresh core, driven through histories of pauses, faults, crashes and consents that Hypothesis makes up.

Each attempt is the generator that production runs. Here its effects are answered by a store of one record and by a Zoom that rotates
refresh tokens; the history decides who runs next, what fails, who crashes and when time moves. In the end the world becomes calm and
somebody asks once more: if Zoom's living token ever reached somebody who did not crash, the record must hold it.
"""

from dataclasses import replace
from itertools import count

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zoomgate_server.refresh import core
from zoomgate_server.tokens.connection_record import ConnectionRecord, State
from zoomgate_server.tokens.store import StoreError
from zoomgate_server.tokens.token import TokenPair
from zoomgate_server.zoom.token_outcome import Issued, Refused, TokenOutcome, Unknown

USER = "monica@example.com"


class RotatingZoom:
    """Issues a new refresh token for the newest one; if tolerant, for the one before it too."""

    def __init__(self, *, tolerant: bool) -> None:
        self._names = count(1)
        self._tolerant = tolerant
        self.living = ""
        self._previous = ""

    def consent(self) -> str:
        self._previous, self.living = "", f"refresh-{next(self._names)}"
        return self.living

    def revoke(self) -> None:
        self._previous = self.living = ""

    def refresh(self, token: str) -> TokenOutcome:
        if token != self.living and not (self._tolerant and token == self._previous):
            return Refused("invalid_grant", "Invalid Token!")
        self._previous, self.living = token, f"refresh-{next(self._names)}"
        return Issued(
            access_token=f"access-{self.living}",
            refresh_token=self.living,
            token_type="bearer",
            scope="",
            api_url="",
            expires_in=3600.0,
        )


def pair(refresh_token: str, now: float) -> TokenPair:
    return TokenPair(
        access_token=f"access-{refresh_token}",
        refresh_token=refresh_token,
        token_type="bearer",
        scope="",
        api_url="",
        access_expire_at=now + 3600,
        obtained_at=now,
    )


def consented(refresh_token: str, grant: str, generation: int, now: float) -> ConnectionRecord:
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


class Attempt:
    """One asker: the shipped generator, paused at its next effect."""

    def __init__(self, name: str, seen_generation: int) -> None:
        self.protocol = core.refresh(
            core.Attempted(
                user_email=USER,
                seen_generation=seen_generation,
                attempt_id=name,
                forced=False,
                forced_interval=0.0,
                max_refreshes=1_000_000,
            )
        )
        self.effect: core.Effect = next(self.protocol)
        self.received: set[str] = set()
        self.verdict: core.Verdict | None = None


class Histories(RuleBasedStateMachine):
    """Askers, one record, one Zoom."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.names = count(1)
        self.attempts: list[Attempt] = []
        self.lost = False
        self.gone = False
        self.budget = {"crash": 2, "consent": 1, "disconnect": 1, "fault": 4}
        self.zoom = RotatingZoom(tolerant=False)
        self.record = consented(self.zoom.consent(), "grant-0", 1, self.now)
        self.newest_generation = 1

    @initialize(tolerant=st.booleans())
    def begin(self, tolerant: bool) -> None:
        self.zoom = RotatingZoom(tolerant=tolerant)
        self.record = replace(consented(self.zoom.consent(), "grant-0", 1, self.now), rev=1)

    # -- the world that effects meet ---------------------------------------------------------------------

    def answer(self, attempt: Attempt) -> core.Answer:
        match attempt.effect:
            case core.Read():
                return core.Snapshot(self.record, self.now, self.now)
            case core.Put(record):
                if record.rev != self.record.rev:
                    return None
                self.record = replace(record, rev=self.record.rev + 1)
                return self.record.rev
            case core.Now():
                return self.now
            case core.Spend(token):
                outcome = self.zoom.refresh(token)
                if isinstance(outcome, Issued):
                    attempt.received.add(outcome.refresh_token or "")
                return outcome
            case core.Sleep():
                return None

    def step(self, attempt: Attempt, fault: str = "none") -> None:
        store = isinstance(attempt.effect, core.Read | core.Put)
        try:
            if isinstance(attempt.effect, core.Spend) and fault == "request_lost":
                attempt.effect = attempt.protocol.send(Unknown("lost"))
            elif isinstance(attempt.effect, core.Spend) and fault == "answer_lost":
                before = self.zoom.living
                self.zoom.refresh(attempt.effect.refresh_token)
                self.lost = self.lost or self.zoom.living != before
                attempt.effect = attempt.protocol.send(Unknown("lost"))
            elif store and fault in ("store_before", "store_after"):
                if fault == "store_after":
                    self.answer(attempt)
                attempt.effect = attempt.protocol.throw(StoreError("injected"))
            else:
                attempt.effect = attempt.protocol.send(self.answer(attempt))
        except StopIteration as end:
            attempt.verdict = end.value
            self.attempts.remove(attempt)

    # -- what can happen ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.attempts) < 3)
    @rule()
    def somebody_asks(self) -> None:
        self.attempts.append(Attempt(f"attempt-{next(self.names)}", self.record.generation))

    @precondition(lambda self: self.attempts)
    @rule(who=st.integers(0, 2), steps=st.integers(1, 4))
    def run(self, who: int, steps: int) -> None:
        attempt = self.attempts[who % len(self.attempts)]
        for _ in range(steps):
            if attempt.verdict is None:
                self.step(attempt)

    @precondition(lambda self: self.attempts)
    @rule(who=st.integers(0, 2), brink=st.sampled_from([core.Spend, core.Put, core.Read]))
    def run_to_the_brink(self, who: int, brink: type) -> None:
        attempt = self.attempts[who % len(self.attempts)]
        for _ in range(12):
            if attempt.verdict is not None:
                break
            self.step(attempt)
            if isinstance(attempt.effect, brink):
                break

    @precondition(lambda self: self.attempts and self.budget["fault"])
    @rule(
        who=st.integers(0, 2),
        fault=st.sampled_from(["request_lost", "answer_lost", "store_before", "store_after"]),
    )
    def run_with_a_fault(self, who: int, fault: str) -> None:
        self.budget["fault"] -= 1
        self.step(self.attempts[who % len(self.attempts)], fault)

    @precondition(lambda self: self.attempts and self.budget["crash"])
    @rule(who=st.integers(0, 2))
    def crash(self, who: int) -> None:
        self.budget["crash"] -= 1
        attempt = self.attempts.pop(who % len(self.attempts))
        if self.zoom.living in attempt.received and self.zoom.living not in self.kept():
            self.lost = True

    @rule(seconds=st.sampled_from([10.0, 91.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.budget["consent"])
    @rule()
    def the_person_consents_again(self) -> None:
        self.budget["consent"] -= 1
        self.lost = self.gone = False
        fresh = consented(self.zoom.consent(), "grant-1", self.record.generation + 1, self.now)
        self.record = replace(fresh, epoch=self.record.epoch, rev=self.record.rev + 1)

    @precondition(lambda self: self.budget["disconnect"])
    @rule()
    def the_person_disconnects(self) -> None:
        self.budget["disconnect"] -= 1
        self.zoom.revoke()
        self.gone, self.lost = True, False
        self.record = replace(
            self.record,
            state=State.DISCONNECTED,
            generation=self.record.generation + 1,
            tokens=None,
            spares=(),
            pending=(),
            lease=None,
            commit_id="",
            rev=self.record.rev + 1,
        )

    # -- what must hold ----------------------------------------------------------------------------------

    def kept(self) -> set[str]:
        pairs = (self.record.tokens, *self.record.spares)
        return {pair.refresh_token for pair in pairs if pair is not None}

    @invariant()
    def generations_never_go_back(self) -> None:
        assert self.record.generation >= self.newest_generation
        self.newest_generation = self.record.generation

    @invariant()
    def the_disconnected_stay_so(self) -> None:
        if self.gone:
            assert self.record.state is State.DISCONNECTED

    def teardown(self) -> None:
        for _ in range(1000):
            for attempt in list(self.attempts):
                self.step(attempt)
        assert not self.attempts, "somebody never ends"
        verdict: core.Verdict | None = None
        for _ in range(6):
            self.now += core.GRACE_SECONDS + core.LEASE_SECONDS
            last = Attempt(f"attempt-{next(self.names)}", self.record.generation)
            self.attempts.append(last)
            for _ in range(1000):
                if last.verdict is None:
                    self.step(last)
            verdict = last.verdict
            if isinstance(verdict, core.Usable):
                break
        if self.gone:
            assert isinstance(verdict, core.Ended)
        elif self.lost:
            assert isinstance(verdict, core.Usable) or self.record.state is State.REAUTH_REQUIRED
        else:
            assert isinstance(verdict, core.Usable), f"avoidable loss: {verdict}"
            assert self.record.state is State.ACTIVE
            assert self.zoom.living in self.kept()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=600,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
