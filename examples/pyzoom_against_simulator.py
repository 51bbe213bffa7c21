"""A client library of somebody else's, pyzoom, makes its calls to the simulated Zoom instead of the real one.

`pip install pyzoom`, then `python examples/pyzoom_against_simulator.py API_URL ACCESS_TOKEN`. docs/simulator.md says where to get both.
"""

import sys

from pyzoom import ZoomClient, err


def main(api_url: str, access_token: str) -> None:
    """Schedule a meeting, read it, change it, find it in the list, and delete it."""
    zoom = ZoomClient(access_token, "", base_url=api_url)
    meeting = zoom.meetings.create_meeting(
        "From pyzoom", start_time="2030-01-07T09:00:00", duration_min=45, timezone="Europe/Berlin"
    )
    print("created", meeting.topic, meeting.join_url.partition("?")[0])
    print("read", zoom.meetings.get_meeting(meeting.id).duration, "minutes")
    zoom.raw.patch(f"/meetings/{meeting.id}", body={"topic": "Renamed"})
    print("listed", [found.topic for found in zoom.meetings.list_meetings().meetings])
    zoom.meetings.delete_meeting(meeting.id)
    try:
        zoom.meetings.get_meeting(meeting.id)
    except err.NotFound as error:
        print("gone", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
