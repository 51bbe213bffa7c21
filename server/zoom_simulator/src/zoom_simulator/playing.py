"""Playing of meetings: an instance starts, participants join, and it ends, at times of the simulator's clock."""

from collections.abc import Iterable

from zoom_simulator.meetings import Meeting
from zoom_simulator.options import Participant
from zoom_simulator.state import ZoomState

ACTIONS = {"play": ("participants", "minutes"), "start": (), "join": ("participants",), "end": ()}
"""The actions, with their options."""

PLAYED_MINUTES = 30


class Playing:
    """Starts and ends instances of meetings, as the host does in Zoom's client.

    All methods raise `ValueError` if the meeting is unknown or deleted, or has the wrong status.
    """

    def __init__(self, zoom: ZoomState) -> None:
        self._zoom = zoom

    def start(self, meeting_id: int) -> list[str]:
        """Start an instance, and return the name of the host, who joins."""
        meeting = self._meeting(meeting_id, "waiting")
        meeting.start_instance(self._zoom.wall())
        host = self._zoom.user_by_id(meeting.owner)
        email: str = meeting.body["host_email"]
        return self.join(meeting_id, [Participant((host and host.name) or email, email)])

    def join(self, meeting_id: int, participants: Iterable[Participant] | None = None) -> list[str]:
        """Add participants to the live instance, by default the approved registrants, and return their names."""
        meeting = self._meeting(meeting_id, "started")
        if participants is None:
            participants = _approved(meeting)
        names = []
        for participant in participants:
            self._zoom.join(meeting, meeting.instances[-1], participant, self._zoom.wall())
            names.append(participant.name)
        return names

    def end(self, meeting_id: int) -> None:
        """End the live instance. The next instance has a new UUID."""
        self._meeting(meeting_id, "started").end_instance(self._zoom.wall(), self._zoom.random)

    def play(
        self,
        meeting_id: int,
        participants: Iterable[Participant] | None = None,
        minutes: float = PLAYED_MINUTES,
    ) -> list[str]:
        """Play a whole instance: start it, let the participants join, move the clock forward, and end it.

        Returns the names of all who joined.

        Args:
            meeting_id: The meeting ID.
            participants: The participants besides the host; by default the approved registrants.
            minutes: Duration of the instance. The clock moves forward by it, so access tokens may expire.

        Raises:
            ValueError: The meeting cannot be started, or the clock cannot move that far.
        """
        self._meeting(meeting_id, "waiting")
        if not minutes >= 0:  # also rejects NaN
            raise ValueError("minutes must be 0 or more")
        self._zoom.wall.check_advance(minutes * 60)
        names = self.start(meeting_id) + self.join(meeting_id, participants)
        self._zoom.wall.advance(minutes * 60)
        self.end(meeting_id)
        return names

    def _meeting(self, meeting_id: int, status: str) -> Meeting:
        meeting = self._zoom.meetings.get(meeting_id)
        if meeting is None or meeting.deleted:
            raise ValueError("meeting is unknown or deleted; use the ID of an existing meeting")
        if meeting.body["status"] != status:
            raise ValueError(
                "meeting has already started; end it first"
                if status == "waiting"
                else "meeting has not started; start it first"
            )
        return meeting


def _approved(meeting: Meeting) -> list[Participant]:
    """Return the approved registrants of a meeting, without those who have joined the live instance."""
    joined = {each["registrant_id"] for each in meeting.instances[-1].participants}
    return [
        Participant(each.name or each.email, each.email)
        for each in meeting.registrants.values()
        if each.body["status"] == "approved" and each.registrant_id not in joined
    ]
