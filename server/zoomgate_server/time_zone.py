"""The time zones that settings and requests may contain."""

from functools import cache
from zoneinfo import available_timezones

_NOT_ZONES = frozenset({"Factory", "localtime"})
"""Files of the tz database without a zone of their own: a clock that was never set, and the zone of the machine that reads the file."""


def is_time_zone(name: str) -> bool:
    """Return whether a name is an IANA time zone, such as `Europe/Berlin`."""
    return name == "UTC" or name in _names()  # UTC, the most frequent one, needs no list


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones()) - _NOT_ZONES
