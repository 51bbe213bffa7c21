"""Tests for the validation of meeting requests."""

import pytest

from zoomgate.v1.meetings_service_pb2 import GetMeetingRequest
from zoomgate_server.errors import InvalidRequest
from zoomgate_server.rpc.services import meeting_validation


@pytest.mark.parametrize("meeting_id", [1, 10**12])
def test_meeting_id_within_the_range_is_accepted(meeting_id: int) -> None:
    meeting_validation.check_target(GetMeetingRequest(user_email="monica@example.com", meeting_id=meeting_id))


@pytest.mark.parametrize("meeting_id", [0, -1, 10**12 + 1, 2**63 - 1])
def test_meeting_id_outside_the_range_is_rejected(meeting_id: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        meeting_validation.check_target(
            GetMeetingRequest(user_email="monica@example.com", meeting_id=meeting_id)
        )
    assert [violation.field for violation in error.value.violations] == ["meeting_id"]
