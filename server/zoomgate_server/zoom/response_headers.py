"""The headers of Zoom's responses: which of them callers receive, and the parsing of `Retry-After` values and dates."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MIN_SECONDS = 1.0
MAX_SECONDS = 3600.0
DEFAULT_SECONDS = 2.0
"""Delay, in seconds, if Zoom sends no valid value; longer than the period of Zoom's per-second limits."""

FORWARDED = frozenset(
    {
        "content-type",
        "content-language",
        "date",
        "etag",
        "last-modified",
        "retry-after",
        "x-zm-trackingid",
        "x-ratelimit-category",
        "x-ratelimit-type",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    }
)
"""The headers of every response that callers receive, in lower case."""

_DAY = 86_400.0


def select(headers: Mapping[str, str], names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the headers with these lower-case names, in lower case.

    Invalid UTF-8 is replaced: aiohttp escapes invalid bytes as surrogates, which cannot be encoded.
    """
    return tuple(
        (
            lower,
            value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        )
        for name, value in headers.items()
        if (lower := name.lower()) in names
    )


def parse_retry_after(value: str, wall: Callable[[], float], *, daily: bool = False) -> float:
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
    elif (time := parse_date(text)) is not None:
        seconds = time - wall()
    return min(max(seconds, MIN_SECONDS), longest)


def parse_date(text: str) -> float | None:
    """Parse an HTTP or ISO date. Return seconds since 1970, or None if the date is invalid."""
    for parse_text in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse_text(text)
            return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None
