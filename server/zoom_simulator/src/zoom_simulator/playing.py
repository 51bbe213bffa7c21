"""Playing of meetings: an instance starts, participants join, and it ends, at times of the simulator's clock."""

from collections.abc import Iterable

from zoom_simulator.meetings import Meeting
from zoom_simulator.options import Participant
from zoom_simulator.state import ZoomState

ACTIONS = ("play", "start", "join", "end")
PLAYED_MINUTES = 30


class Playing:
    """Starts and ends instances of meetings, as the host does in Zoom's client.

    All methods raise `ValueError` if the meeting is unknown or deleted, or has the wrong status.
    """

    def __init__(self, zoom: ZoomState) -> None:
        self._zoom = zoom

    def start(self, meeting_id: int) -> None:
        """Start an instance; the host joins."""
        meeting = self._meeting(meeting_id, "waiting")
        meeting.start_instance(self._zoom.wall())
        host = self._zoom.user_by_id(meeting.owner)
        email: str = meeting.body["host_email"]
        self.join(meeting_id, Participant((host and host.name) or email, email))

    def join(self, meeting_id: int, participant: Participant) -> None:
        """Add a participant to the live instance."""
        meeting = self._meeting(meeting_id, "started")
        self._zoom.join(meeting, meeting.instances[-1], participant, self._zoom.wall())

    def end(self, meeting_id: int) -> None:
        """End the live instance. The next instance has a new UUID."""
        self._meeting(meeting_id, "started").end_instance(self._zoom.wall(), self._zoom.random)

    def play(
        self,
        meeting_id: int,
        participants: Iterable[Participant] | None = None,
        minutes: float = PLAYED_MINUTES,
    ) -> None:
        """Play a whole instance: start it, let the participants join, move the clock forward, and end it.

        Args:
            meeting_id: The meeting ID.
            participants: The participants besides the host; by default the approved registrants.
            minutes: Duration of the instance. The clock moves forward by it, so access tokens may expire.

        Raises:
            ValueError: The meeting cannot be started, or the clock cannot move that far.
        """
        meeting = self._meeting(meeting_id, "waiting")
        self._zoom.wall.check_advance(minutes * 60)
        if participants is None:
            approved = [each for each in meeting.registrants.values() if each.body["status"] == "approved"]
            participants = [Participant(each.name, each.email) for each in approved]
        self.start(meeting_id)
        for participant in participants:
            self.join(meeting_id, participant)
        self._zoom.wall.advance(minutes * 60)
        self.end(meeting_id)

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
