"""Parsing of Zoom's `Retry-After` values."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MIN_SECONDS = 1.0
MAX_SECONDS = 3600.0
DEFAULT_SECONDS = 2.0
"""Delay, in seconds, if Zoom sends no valid value; longer than the period of Zoom's per-second limits."""

_DAY = 86_400.0


def parse(value: str, wall: Callable[[], float], *, daily: bool = False) -> float:
    """Parse a `Retry-After` value: seconds, an HTTP date, or the ISO date that Zoom sends with daily limits.

    Never raises; an invalid value is treated as absent. The result is between 1 second and 1 hour.

    Args:
        daily: Whether the value belongs to a daily limit. The result is at most a day then, and without a valid value, it lasts until the
            next midnight UTC, when Zoom resets daily limits.
    """
    text = value.strip()[:64]
    seconds, longest = (_DAY - wall() % _DAY, _DAY) if daily else (DEFAULT_SECONDS, MAX_SECONDS)
    if text.isascii() and text.isdigit():
        seconds = float(text)
    elif text:
        date = _date(text)
        if date is not None:
            seconds = date.timestamp() - wall()
    return min(max(seconds, MIN_SECONDS), longest)


def _date(text: str) -> datetime | None:
    for parse_date in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse_date(text)
            date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
            date.timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return date
    return None
