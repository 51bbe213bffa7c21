"""Benchmark of the rules of meetings, with a meeting that has every property: `python -m bench.meeting_rules`."""

import timeit
from pathlib import Path

from zoomgate.v1.meeting_pb2 import MeetingDetails
from zoomgate_server.rpc.services.meeting_completion import completed
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.rpc.services.rules import meeting_rules
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom.request import ZoomResponse

CALLS = 2000
EXAMPLES = Path(__file__).parents[1] / "tests/contract/golden/meetings/examples.zoom.json"
"""A meeting with the values of the examples in Zoom's documentation."""

NOW = 1_893_456_000.0  # 2030-01-01T00:00:00Z


def full_details() -> MeetingDetails:
    """Return the details of a meeting with every property."""
    response = MeetingsService.GetMeeting.read(ZoomResponse(200, (), EXAMPLES.read_bytes()))
    assert response is not None
    sendable = {*MeetingDetails.DESCRIPTOR.fields_by_name}
    return MeetingDetails(
        **{field.name: value for field, value in response.meeting.ListFields() if field.name in sendable}
    )


def rounds(count: int) -> list[float]:
    """Return, per round, the microseconds of the completion and the check of a new meeting."""
    details = full_details()

    def check() -> None:
        violations = Violations()
        complete = completed(details, default_zone="UTC", now=NOW)
        meeting_rules.check_new(complete, violations, default_zone="UTC", now=NOW)
        violations.raise_if_any()

    return [timeit.timeit(check, number=CALLS) / CALLS * 1e6 for _ in range(count)]


if __name__ == "__main__":
    for microseconds in rounds(7):
        print(f"{microseconds:6.1f} us")
