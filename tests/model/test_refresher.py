"""The asyncio shell around the refresh core, on a loop whose every choice comes from a seed (tests/model/loop.py, shell.py).

At every seed: Zoom's living token is in the record in the end, or was in the memory of a process that was killed, and nowhere else; one
attempt, and one call of Zoom, at a time for each person; every caller ends by its deadline, with a record or a documented error; nothing
of a caller reaches an attempt; after a drain nobody is left.
"""

from pathlib import Path

import pytest

from model import shell
from model.mutants import OF_THE_SHELL, Mutant

HISTORIES = 1_000
OF_A_MUTANT = 200


def test_callers_may_leave_and_the_process_may_end(tmp_path: Path) -> None:
    """Neither cancelled callers nor failing stores, a drain at any moment or a death at any step lose a token or leave anybody waiting."""
    for seed in range(HISTORIES):
        problem = shell.drained(seed)
        assert not problem, f"drained, seed {seed}: {problem}"
        problem = shell.killed(seed, tmp_path / str(seed))
        assert not problem, f"killed, seed {seed}: {problem}"


@pytest.mark.parametrize("mutant", OF_THE_SHELL, ids=lambda mutant: mutant.name)
def test_the_seeds_find_mistakes(mutant: Mutant, tmp_path: Path) -> None:
    """A shell with one mistake breaks at one of the first seeds, all of which the shipped one survives."""
    module = mutant.module()
    assert any(
        shell.drained(seed, module) or shell.killed(seed, tmp_path / str(seed), module)
        for seed in range(OF_A_MUTANT)
    )
