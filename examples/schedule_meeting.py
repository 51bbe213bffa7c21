"""Schedules a weekly meeting at 9 o'clock, reads it back, and deletes it."""

import os
import sys
from datetime import date, datetime, time, timedelta

from zoomgate import Client, ConsentRequired, InvalidRequest
from zoomgate.v1.meeting_pb2 import MeetingDetails, MeetingType, Recurrence


def next_monday() -> date:
    """Give the Monday that comes next."""
    today = date.today()  # noqa: DTZ011 - the person's own day
    return today + timedelta(days=7 - today.weekday())


def main(user_email: str) -> None:
    """Schedule, read and delete."""
    details = MeetingDetails(
        topic="Weekly review",
        type=MeetingType.MEETING_TYPE_RECURRING_FIXED_TIME,
        # a local time stays 9 o'clock when the clocks change; `start_time` would stay the same moment
        local_start_time=datetime.combine(next_monday(), time(9)).isoformat(),
        timezone="Europe/Berlin",
        duration_minutes=45,
        recurrence=Recurrence(
            type=Recurrence.Type.TYPE_WEEKLY,
            weekly_days=[2],  # Zoom counts from Sunday, 1
            end_times=8,
        ),
    )
    server = os.environ.get("ZOOMGATE_SERVER", "127.0.0.1:50051")
    with Client(server, key=os.environ.get("ZOOMGATE_KEY", "")) as zoomgate:
        try:
            meeting = zoomgate.meetings.create_meeting(user_email=user_email, meeting_details=details).meeting
        except ConsentRequired:
            sys.exit(f"{user_email} has to connect Zoom first: run connect_account.py")
        except InvalidRequest as error:
            sys.exit("\n".join(f"{row.field}: {row.description}" for row in error.field_violations))
        print(f"{meeting.topic}: {meeting.join_url}")
        found = zoomgate.meetings.get_meeting(user_email=user_email, meeting_id=meeting.id).meeting
        for occurrence in found.occurrences:
            print(f"  {occurrence.start_time.ToDatetime():%a %Y-%m-%d %H:%M} UTC")
        zoomgate.meetings.delete_meeting(user_email=user_email, meeting_id=meeting.id)


if __name__ == "__main__":
    main(sys.argv[1])
