"""Schedule a weekly meeting at 9:00, read it, and delete it."""

import os
import sys
from datetime import date, datetime, time, timedelta

from zoomgate import Client, ConsentRequired, InvalidRequest
from zoomgate.v1.meeting_pb2 import DayOfWeek, MeetingDetails, MeetingType, Recurrence


def next_monday() -> date:
    """Return the date of the next Monday."""
    today = date.today()  # noqa: DTZ011 - the local date is intended
    return today + timedelta(days=7 - today.weekday())


def main(user_email: str) -> None:
    """Create, read and delete a meeting of the user."""
    details = MeetingDetails(
        topic="Weekly review",
        type=MeetingType.MEETING_TYPE_RECURRING_FIXED_TIME,
        # keeps the meeting at 9:00 local time when daylight saving time changes, unlike `start_time`
        local_start_time=datetime.combine(next_monday(), time(9)).isoformat(),
        timezone="Europe/Berlin",
        duration_minutes=45,
        recurrence=Recurrence(
            type=Recurrence.Type.TYPE_WEEKLY,
            weekly_days=[DayOfWeek.DAY_OF_WEEK_MONDAY],
            end_times=8,
        ),
    )
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    with Client(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        try:
            meeting = zoomgate.meetings.create_meeting(user_email=user_email, meeting_details=details).meeting
        except ConsentRequired:
            sys.exit(f"{user_email} must connect Zoom first; run connect_account.py")
        except InvalidRequest as error:
            violations = [
                f"{violation.field}: {violation.description}" for violation in error.field_violations
            ]
            sys.exit("\n".join([error.message, *violations]))
        print(f"{meeting.topic}: {meeting.join_url}")
        stored = zoomgate.meetings.get_meeting(user_email=user_email, meeting_id=meeting.id).meeting
        for occurrence in stored.occurrences:
            print(f"  {occurrence.start_time.ToDatetime():%a %Y-%m-%d %H:%M} UTC")
        zoomgate.meetings.delete_meeting(user_email=user_email, meeting_id=meeting.id)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/schedule_meeting.py EMAIL")
    main(*sys.argv[1:])
