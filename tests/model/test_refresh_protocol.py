"""The shipped refresh core, driven through histories of pauses, faults, crashes, consents and clocks that jump (tests/histories).

In the end of each the world becomes calm and somebody asks once more: if Zoom's living token ever reached somebody who was not killed
before the journal had it, the record must hold it; else the person must be asked to consent, and told that an answer was lost.
"""

import pytest

from model import counterexamples
from model.mutants import MUTANTS, Mutant
from model.world import fails, happen, made_up, shipped, shortest

HISTORIES = 40_000


def test_the_core_survives_whatever_happens() -> None:
    """None of so many made-up histories, always the same ones, loses a token or brings back what was ended."""
    for seed in range(HISTORIES):
        history = made_up(seed)
        problem = fails(history)
        assert not problem, f"seed {seed}: {problem}\n{shortest(history, shipped)}"


@pytest.mark.parametrize("name", counterexamples.OF_THE_CORE)
def test_what_once_broke_the_core_does_so_no_more(name: str) -> None:
    """A history that broke an earlier core is survived."""
    happen(counterexamples.OF_THE_CORE[name])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_histories_find_mistakes(mutant: Mutant) -> None:
    """A core with one mistake breaks in its stored history, which the shipped core survives."""
    history = counterexamples.OF_MUTANTS[mutant.name]
    assert fails(history, mutant.module())
    assert not fails(history)
