"""Tests for proactive refresh over a year of virtual time (tests/model/year.py): no grant expires, and the load on Zoom is limited."""

import pytest

from model.year import DAYS, PER_MINUTE, PROCESSES, year

USERS = 10_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_connection_is_lost_in_a_year() -> None:
    """Idle users stay connected through restarts, outages of Zoom and the store, and weeks of downtime, without refresh bursts."""
    result = year(USERS)
    assert (result.expired, result.exchanged_twice, result.connected) == (0, 0, USERS)
    assert result.oldest < 75
    assert result.per_minute <= PROCESSES * (PER_MINUTE + 1)
    assert result.proactive > USERS * DAYS / 60


def test_most_idle_grants_expire_without_proactive_refresh() -> None:
    """The simulation detects a service that lets idle grants expire."""
    assert year(50, per_minute=0).expired > 25
