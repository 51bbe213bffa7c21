"""Use pyzoom, a third-party client library, with the Zoom simulator.

Run `pip install pyzoom`, then `python examples/pyzoom_against_simulator.py API_URL ACCESS_TOKEN` (see docs/simulator.md).
"""

import sys

from pyzoom import ZoomClient, err


def main(api_url: str, access_token: str) -> None:
    """Create, read, update, list and delete a meeting."""
    zoom = ZoomClient(access_token, "", base_url=api_url)
    meeting = zoom.meetings.create_meeting(
        "From pyzoom", start_time="2030-01-07T09:00:00", duration_min=45, timezone="Europe/Berlin"
    )
    print("created", meeting.topic, meeting.join_url.partition("?")[0])
    print("read", zoom.meetings.get_meeting(meeting.id).duration, "minutes")
    zoom.raw.patch(f"/meetings/{meeting.id}", body={"topic": "Renamed"})
    print("listed", [listed.topic for listed in zoom.meetings.list_meetings().meetings])
    zoom.meetings.delete_meeting(meeting.id)
    try:
        zoom.meetings.get_meeting(meeting.id)
    except err.NotFound as error:
        print("deleted", error)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/pyzoom_against_simulator.py API_URL ACCESS_TOKEN")
    main(*sys.argv[1:])
