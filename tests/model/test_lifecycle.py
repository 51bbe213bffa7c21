"""Model tests for the lifecycle of connections: histories of consents, disconnections, events and faults (tests/model/lifecycle_world.py).

Invariants, which hold under every rule that Zoom's documentation leaves open:

* I1: At the end, every valid grant is in a connection that uses it, and no journal entry is left.
* I2: Only the grants of disconnected users, and of users nobody has connected, are revoked.
* I3: The grants of disconnected users are revoked.
* I4: A connection has the address and the owner of the consent that created it, and does not return after a disconnection.
* I5: A code or refresh token is sent only once, unless its outcome is unknown.
* I6: A record contains only the pairs of its Zoom user, and its generation never decreases.
* I7: A revocation waits only for exchanges that may still deliver a pair.
* I8: Every protocol ends.
* I9: What becomes of a pair or connection is in the audit trail, and a previous address has a tombstone.
"""

import pytest

from model import lifecycle_counterexamples, lifecycle_holes
from model.lifecycle_holes import Hole
from model.lifecycle_mutants import MUTANTS, Mutant, Protocols, load
from model.lifecycle_world import SHIPPED, shrink, sparse, tape_of, violation_of

HISTORIES = 2_500
"""Number of histories per test."""


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(number * HISTORIES, marks=[pytest.mark.slow] if number >= 16 else [])
        for number in range(16 + 160)
    ],
)
def test_generated_histories_violate_no_invariant(first: int) -> None:
    """Every run uses the same histories."""
    for seed in range(first, first + HISTORIES):
        violation = violation_of(None, seed)
        if violation is not None:
            invariant, text = violation.args
            pytest.fail(
                f"seed {seed}: {invariant}: {text}\n{sparse(shrink(violation.world.drawn, invariant))}"
            )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_counterexample_detects_lifecycle_mutant(mutant: Mutant) -> None:
    """The shipped protocols pass the counterexample of each mutant."""
    name = lifecycle_counterexamples.BY_HISTORY.get(mutant.name)
    if name is not None:
        with pytest.raises(AssertionError):
            run_hole(getattr(lifecycle_holes, name), load(mutant))
        return
    tape = tape_of(lifecycle_counterexamples.BY_MUTANT[mutant.name])
    assert violation_of(tape, protocols=load(mutant))
    assert not violation_of(tape)


@pytest.mark.parametrize("hole", lifecycle_holes.HOLES, ids=lambda hole: hole.__name__)
def test_written_history_violates_no_invariant(hole: Hole) -> None:
    """The history runs under every combination of Zoom's rules."""
    run_hole(hole)


def run_hole(hole: Hole, protocols: Protocols = SHIPPED) -> None:
    """Run a written history under every combination of Zoom's rules, and check the invariants at the end."""
    for world in lifecycle_holes.worlds(protocols):
        hole(world)
        world.finish()
