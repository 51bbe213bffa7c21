"""Tests for the exponential backoff."""

from zoomgate_server.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 5.0)
    assert [backoff.next_pause() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_first_pause_is_limited_too() -> None:
    assert Backoff(60.0, 5.0).next_pause() == 5.0


def test_pauses_restart_after_a_success() -> None:
    backoff = Backoff(0.5, 5.0)
    assert [backoff.next_pause() for _ in range(3)] == [0.5, 1.0, 2.0]
    backoff.reset()
    assert backoff.next_pause() == 0.5
