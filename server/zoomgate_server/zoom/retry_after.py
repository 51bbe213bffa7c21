"""How long Zoom wants us to wait."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MIN_SECONDS = 1.0
MAX_SECONDS = 3600.0
DEFAULT_SECONDS = 2.0
"""Where Zoom says nothing: its per-second limits are over by then."""


def parse(value: str, wall: Callable[[], float]) -> float:
    """Read a `Retry-After` value: seconds, an HTTP date, or the ISO date that Zoom sends with daily limits.

    Total: anything else counts as absent. The result lies between 1 second and 1 hour.
    """
    text = value.strip()[:64]
    seconds = DEFAULT_SECONDS
    if text.isascii() and text.isdigit():
        seconds = float(text)
    elif text:
        when = _date(text)
        if when is not None:
            seconds = when.timestamp() - wall()
    return min(max(seconds, MIN_SECONDS), MAX_SECONDS)


def _date(text: str) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            when = read(text)
            when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
            when.timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return when
    return None
