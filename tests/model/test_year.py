"""A year of upkeep in virtual time (tests/model/year.py): nobody's grant dies, and Zoom never hears of too many at once."""

import pytest

from model.year import DAYS, PER_MINUTE, PROCESSES, year
from support.toolchain import IN_CI

USERS = 10_000 if IN_CI else 300
"""All of them in CI, which takes a minute; elsewhere few, for whom a year has as many looks. `make year` has them all, too."""


@pytest.mark.timeout(600)
def test_nobody_is_lost_in_a_year() -> None:
    """People who never call stay connected over restarts, outages of Zoom and the store, and weeks without a service; nobody storms."""
    found = year(USERS)
    assert (found.died, found.doubled, found.connected) == (0, 0, USERS)
    assert found.oldest < 75
    assert found.per_minute <= PROCESSES * (PER_MINUTE + 1)
    assert found.ahead > USERS * DAYS / 60


@pytest.mark.timeout(600)
def test_the_year_finds_a_service_that_keeps_nobody_alive() -> None:
    """Without upkeep most people who never call are lost in the same year."""
    assert year(50, per_minute=0).died > 25
