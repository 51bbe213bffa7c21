"""Model tests for the refresh protocol: histories of pauses, faults, crashes, consents and clock jumps (tests/model/world.py).

At the end of each history, the disturbances stop and the token is refreshed once more. Then the record must contain Zoom's valid refresh
token. The only exception is a token that no process received, or that was received only by processes that were killed before the token was
in the journal. In this case, the connection must require consent, with the cause that a response was lost.
"""

import pytest

from model import counterexamples
from model.mutants import MUTANTS, Mutant
from model.world import generate_history, run_history, shipped, shrink, violation_of


@pytest.mark.parametrize(
    "seeds", [range(4_000), pytest.param(range(4_000, 40_000), marks=pytest.mark.slow)], ids=str
)
def test_generated_histories_violate_no_invariant(seeds: range) -> None:
    """Every run uses the same histories."""
    for seed in seeds:
        history = generate_history(seed)
        violation = violation_of(history)
        assert not violation, f"seed {seed}: {violation}\n{shrink(history, shipped)}"


@pytest.mark.parametrize("name", counterexamples.REGRESSIONS)
def test_histories_of_fixed_bugs_violate_no_invariant(name: str) -> None:
    run_history(counterexamples.REGRESSIONS[name])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_counterexample_detects_protocol_mutant(mutant: Mutant) -> None:
    """The shipped protocol passes the counterexample of each mutant."""
    history = counterexamples.BY_MUTANT[mutant.name]
    assert violation_of(history, mutant.module())
    assert not violation_of(history)
