"""Zoom's rate limits (https://developers.zoom.us/docs/api/rate-limits/)."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum

from zoom_simulator import clock
from zoom_simulator.errors import ErrorResponse


class DailyLimit(Enum):
    """A limit per day (UTC) for one host or registrant: the number of requests, and what is limited."""

    MEETING_CHANGES = (100, "Meeting Create/Update API requests permitted for this particular user")
    REGISTRATIONS = (3, "Registration API requests permitted for this particular registrant")
    REGISTRANT_STATUSES = (10, "Registrant Status API requests permitted for this particular registrant")

    def exceeded(self) -> ErrorResponse:
        """Return Zoom's response after the last permitted request of the day. Only its message shows that it is a daily limit."""
        number, what = self.value
        message = (
            f"You have exceeded the daily rate limit ({number}) of {what}."
            " You may resume these requests at GMT 00:00:00."
        )
        headers = {
            "X-RateLimit-Category": "Light",
            "X-RateLimit-Limit": "6000",
            "X-RateLimit-Remaining": "5893",
        }
        return ErrorResponse(429, {"code": 429, "message": message}, message.rstrip("."), headers)


class DailyLimits:
    """The counters of the daily limits.

    Attributes:
        counts: The number of requests on the current day, by the limit's name and the host or registrant.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self.day = ""
        self.counts: Counter[str] = Counter()

    def count(self, limit: DailyLimit, *subjects: str) -> None:
        """Count a request for each host or registrant.

        Raises:
            ErrorResponse: The limit of one of them is reached; nothing is counted.
        """
        today = clock.text(self._wall())[:10]
        if today != self.day:
            self.day = today
            self.counts.clear()
        keys = [f"{limit.name}:{subject}" for subject in subjects]
        if any(self.counts[key] >= limit.value[0] for key in keys):
            raise limit.exceeded()
        self.counts.update(keys)


def account_limit_exceeded(now: float, *, daily: bool) -> ErrorResponse:
    """Return Zoom's response to too many requests of an account, per second or per day."""
    headers = {
        "X-RateLimit-Category": "Light",
        "X-RateLimit-Type": "Daily-limit" if daily else "QPS",
        "X-RateLimit-Remaining": "0",
    }
    if daily:
        tomorrow = (datetime.fromtimestamp(now, UTC) + timedelta(days=1)).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        headers["Retry-After"] = clock.text(tomorrow.timestamp())
        message = (
            "You have reached the daily limit of this API; see the response header for when to try again."
        )
    else:
        message = "You have reached the maximum per-second rate limit for this API. Try again later."
    return ErrorResponse(429, {"code": 429, "message": message}, message.rstrip("."), headers)
