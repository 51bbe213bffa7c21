"""Model tests for the refresher on an event loop with seeded scheduling (tests/model/loop.py, tests/model/shell.py).

Invariants for every seed:

* At the end, the record contains Zoom's valid refresh token, unless only the memory of a killed process contained the token.
* Each user has at most one attempt and one call to Zoom at a time.
* Every caller returns by its deadline, with a record or a documented error.
* An attempt never inherits the context of a caller.
* After a drain, no task remains.
"""

from pathlib import Path

import pytest

from model import shell
from model.mutants import REFRESHER_MUTANTS, Mutant

HISTORIES_PER_MUTANT = 200


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 1_000), marks=pytest.mark.slow)], ids=str
)
def test_invariants_hold_when_callers_cancel_and_the_process_shuts_down_or_is_killed(
    seeds: range, tmp_path: Path
) -> None:
    for seed in seeds:
        problem = shell.run_with_drain(seed)
        assert not problem, f"drain, seed {seed}: {problem}"
        problem = shell.run_with_kill(seed, tmp_path / str(seed))
        assert not problem, f"kill, seed {seed}: {problem}"


@pytest.mark.parametrize("mutant", REFRESHER_MUTANTS, ids=lambda mutant: mutant.name)
def test_seeds_detect_refresher_mutant(mutant: Mutant, tmp_path: Path) -> None:
    """The shipped refresher passes with all of these seeds."""
    module = mutant.module()
    assert any(
        shell.run_with_drain(seed, module) or shell.run_with_kill(seed, tmp_path / str(seed), module)
        for seed in range(HISTORIES_PER_MUTANT)
    )
