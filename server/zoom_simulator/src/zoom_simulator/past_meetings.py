"""Instances of meetings that have started, with their participants, in Zoom's format."""

from dataclasses import dataclass, field
from typing import Any

from zoom_simulator import clock

_FIRST_USER_ID, _USER_ID_STEP = 16_778_240, 1024


@dataclass(slots=True)
class Instance:
    """An instance of a meeting.

    Attributes:
        uuid: The meeting's UUID until the end of this instance.
        start: When the instance started, in seconds since 1970.
        end: When it ended; None while it is live.
        participants: The participants in Zoom's format.
    """

    uuid: str
    start: float
    end: float | None = None
    participants: list[dict[str, Any]] = field(default_factory=list)

    def join(self, name: str, email: str, now: float, *, user_id: str = "", registrant_id: str = "") -> None:
        """Add a participant.

        Args:
            name: The display name.
            email: The email address; Zoom shows it for users of the host's account and for registrants only.
            now: Current time in seconds since 1970.
            user_id: User ID of a user of the host's account; otherwise empty.
            registrant_id: ID of the registration; otherwise empty.
        """
        self.participants.append(
            {
                "id": user_id,
                "user_id": str(_FIRST_USER_ID + _USER_ID_STEP * len(self.participants)),
                "name": name,
                "user_email": email if user_id or registrant_id else "",
                "registrant_id": registrant_id,
                "join_time": clock.text(now),
                "leave_time": "",
                "duration": 0,
                "failover": False,
                "status": "in_meeting",
                "internal_user": bool(user_id),
            }
        )

    def finish(self, now: float) -> None:
        """End the instance for all participants."""
        self.end = now
        for participant in self.participants:
            participant["leave_time"] = clock.text(now)
            participant["duration"] = round(now - clock.parse(participant["join_time"]))

    def details(self, meeting: dict[str, Any], host_name: str) -> dict[str, Any]:
        """Return the response body of an instance that has ended."""
        end = self.start if self.end is None else self.end
        return {
            "id": meeting["id"],
            "uuid": self.uuid,
            "host_id": meeting["host_id"],
            "user_name": host_name,
            "user_email": meeting["host_email"],
            "dept": "",
            "topic": meeting["topic"],
            "type": meeting["type"],
            "start_time": clock.text(self.start),
            "end_time": clock.text(end),
            "duration": round((end - self.start) / 60),
            "total_minutes": round(sum(each["duration"] for each in self.participants) / 60),
            "participants_count": len(self.participants),
            "source": "Zoomgate",
            "has_meeting_summary": False,
        }
