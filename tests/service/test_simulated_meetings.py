"""Tests for the typed RPCs against the Zoom simulator: meetings from their creation to the list of their participants."""

import pytest

from support.harness import MONICA, OMAR, Harness
from zoom_simulator import Participant
from zoomgate.v1 import meeting_pb2
from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1 import registrants_service_pb2 as registrants_pb
from zoomgate.v1.registrant_pb2 import Registrant


async def create(zoomgate: Harness, **details: object) -> meeting_pb2.Meeting:
    """Create a meeting of a new user."""
    await zoomgate.connect()
    request = pb.CreateMeetingRequest(
        user_email=MONICA, meeting_details=meeting_pb2.MeetingDetails(**details)
    )  # type: ignore[arg-type]
    created: pb.CreateMeetingResponse = await zoomgate.call(zoomgate.meetings.CreateMeeting, request)
    return created.meeting


async def get(zoomgate: Harness, meeting_id: int) -> meeting_pb2.Meeting:
    request = pb.GetMeetingRequest(user_email=MONICA, meeting_id=meeting_id)
    found: pb.GetMeetingResponse = await zoomgate.call(zoomgate.meetings.GetMeeting, request)
    return found.meeting


async def test_update_changes_and_clears_properties(zoomgate: Harness) -> None:
    meeting = await create(
        zoomgate,
        topic="Review",
        agenda="Plan",
        settings=meeting_pb2.MeetingSettings(alternative_hosts=[OMAR], host_video=True),
    )
    request = pb.UpdateMeetingRequest(
        user_email=MONICA, meeting_id=meeting.id, meeting_details={"duration_minutes": 15}
    )
    request.update_mask.paths.extend(["duration_minutes", "agenda", "settings.alternative_hosts"])
    response = (await zoomgate.call(zoomgate.meetings.UpdateMeeting, request)).response
    assert (response.status, response.body) == (204, b"")
    updated = await get(zoomgate, meeting.id)
    assert (updated.topic, updated.agenda, updated.duration_minutes) == ("Review", "", 15)
    assert list(updated.settings.alternative_hosts) == []
    assert updated.settings.host_video


async def test_all_pages_of_a_list_contain_each_meeting_once(zoomgate: Harness) -> None:
    created = [(await create(zoomgate, topic=f"Review {number}")).id for number in range(5)]
    listed: list[int] = []
    request = pb.ListMeetingsRequest(user_email=MONICA, page_size=2)
    while True:
        page = await zoomgate.call(zoomgate.meetings.ListMeetings, request)
        assert page.total_size == 5
        listed += [meeting.id for meeting in page.meetings]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sorted(listed) == sorted(created)


async def test_expired_page_token_of_zoom_is_invalid(zoomgate: Harness) -> None:
    for _ in range(2):
        await create(zoomgate)
    request = pb.ListMeetingsRequest(user_email=MONICA, page_size=1)
    request.page_token = (await zoomgate.call(zoomgate.meetings.ListMeetings, request)).next_page_token
    zoomgate.simulator.zoom.wall.advance(16 * 60)
    error = await zoomgate.error_of(zoomgate.meetings.ListMeetings, request)
    assert error.short == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")


async def test_deleted_meeting_is_recovered(zoomgate: Harness) -> None:
    meeting = await create(zoomgate)
    target = {"user_email": MONICA, "meeting_id": meeting.id}
    await zoomgate.call(zoomgate.meetings.DeleteMeeting, pb.DeleteMeetingRequest(**target))
    await zoomgate.call(zoomgate.meetings.RecoverMeeting, pb.RecoverMeetingRequest(**target))
    assert (await get(zoomgate, meeting.id)).id == meeting.id


async def test_invitation_contains_the_link(zoomgate: Harness) -> None:
    meeting = await create(zoomgate)
    request = pb.GetMeetingInvitationRequest(user_email=MONICA, meeting_id=meeting.id)
    found = await zoomgate.call(zoomgate.meetings.GetMeetingInvitation, request)
    assert meeting.join_url in found.invitation


async def test_ended_meeting_has_instances_and_participants(zoomgate: Harness) -> None:
    """The instance is found by its UUID."""
    meeting = await create(zoomgate, topic="Review")
    zoomgate.simulator.playing.start(meeting.id)
    zoomgate.simulator.playing.join(meeting.id, [Participant("Omar", OMAR)])
    end = pb.EndMeetingRequest(user_email=MONICA, meeting_id=meeting.id)
    assert (await zoomgate.call(zoomgate.meetings.EndMeeting, end)).response.status == 204
    request = pb.ListPastInstancesRequest(user_email=MONICA, meeting_id=meeting.id)
    (instance,) = (await zoomgate.call(zoomgate.meetings.ListPastInstances, request)).instances
    past = await zoomgate.call(
        zoomgate.meetings.GetPastMeeting,
        pb.GetPastMeetingRequest(user_email=MONICA, meeting_uuid=instance.uuid),
    )
    assert (past.past_meeting.topic, past.past_meeting.participants_count) == ("Review", 2)
    listed = await zoomgate.call(
        zoomgate.meetings.ListPastParticipants,
        pb.ListPastParticipantsRequest(user_email=MONICA, meeting_uuid=instance.uuid),
    )
    assert {participant.user_email for participant in listed.participants} == {MONICA, OMAR}


async def test_registration_is_approved_and_deleted(zoomgate: Harness) -> None:
    approval = meeting_pb2.MeetingSettings.APPROVAL_TYPE_MANUAL
    meeting = await create(zoomgate, settings=meeting_pb2.MeetingSettings(approval_type=approval))
    target = {"user_email": MONICA, "meeting_id": meeting.id}
    added = await zoomgate.call(
        zoomgate.registrants.AddRegistrant,
        registrants_pb.AddRegistrantRequest(**target, registrant={"email": OMAR, "first_name": "Omar"}),
    )
    assert (added.meeting_id, added.join_url) == (meeting.id, "")
    change = registrants_pb.UpdateRegistrantStatusRequest(
        **target,
        action=registrants_pb.UpdateRegistrantStatusRequest.ACTION_APPROVE,
        registrants=[{"id": added.registrant_id}],
    )
    await zoomgate.call(zoomgate.registrants.UpdateRegistrantStatus, change)
    listed = await zoomgate.call(
        zoomgate.registrants.ListRegistrants, registrants_pb.ListRegistrantsRequest(**target)
    )
    (registrant,) = listed.registrants
    assert (registrant.email, registrant.status) == (OMAR, Registrant.STATUS_APPROVED)
    one = {**target, "registrant_id": added.registrant_id}
    found = await zoomgate.call(
        zoomgate.registrants.GetRegistrant, registrants_pb.GetRegistrantRequest(**one)
    )
    assert found.registrant == registrant
    deletion = registrants_pb.DeleteRegistrantRequest(**one)
    await zoomgate.call(zoomgate.registrants.DeleteRegistrant, deletion)
    error = await zoomgate.error_of(zoomgate.registrants.DeleteRegistrant, deletion)
    assert error.short == ("NOT_FOUND", "REGISTRANT_NOT_FOUND")


@pytest.mark.parametrize("method", ["GetMeetingInvitation", "GetPastMeeting", "EndMeeting", "RecoverMeeting"])
async def test_unknown_meeting_is_not_found(zoomgate: Harness, method: str) -> None:
    await zoomgate.connect()
    request = getattr(pb, f"{method}Request")(user_email=MONICA, meeting_id=1)
    error = await zoomgate.error_of(getattr(zoomgate.meetings, method), request)
    assert error.short == ("NOT_FOUND", "MEETING_NOT_FOUND")


async def test_new_registration_for_an_unknown_meeting_is_not_found(zoomgate: Harness) -> None:
    await zoomgate.connect()
    request = registrants_pb.AddRegistrantRequest(
        user_email=MONICA, meeting_id=1, registrant={"email": OMAR, "first_name": "Omar"}
    )
    error = await zoomgate.error_of(zoomgate.registrants.AddRegistrant, request)
    assert error.short == ("NOT_FOUND", "MEETING_NOT_FOUND")


@pytest.mark.parametrize(
    ("rpc", "fields", "text"),
    [
        ("GetMeeting", {"meeting_id": 5}, "no such meeting in Zoom; check the meeting ID"),
        ("GetMeeting", {"occurrence_id": "5"}, "or the meeting no such occurrence; check the IDs"),
        ("DeleteMeeting", {"occurrence_id": "5"}, "or the meeting no such occurrence; check the IDs"),
        ("RecoverMeeting", {}, "no such deleted meeting to recover"),
        ("EndMeeting", {"meeting_id": 5}, "no such meeting in Zoom to end"),
        ("GetPastMeeting", {}, "no ended instance of this meeting"),
        ("GetPastMeeting", {"meeting_uuid": "unknown=="}, "no ended instance of this meeting"),
        ("ListPastInstances", {}, "no ended instance of this meeting"),
        ("ListPastParticipants", {}, "no ended instance of this meeting"),
    ],
)
async def test_error_names_what_is_missing(
    zoomgate: Harness, rpc: str, fields: dict[str, object], text: str
) -> None:
    """Zoom reports missing meetings, occurrences and instances in the same way."""
    meeting = await create(zoomgate)
    target = {} if "meeting_uuid" in fields else {"meeting_id": meeting.id}
    request = getattr(pb, f"{rpc}Request")(user_email=MONICA, **target | fields)
    error = await zoomgate.error_of(getattr(zoomgate.meetings, rpc), request)
    assert error.short == ("NOT_FOUND", "MEETING_NOT_FOUND")
    assert text in error.message


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("GetMeeting", ["meeting_id"]),
        ("ListPastInstances", ["meeting_id"]),
        ("GetPastMeeting", ["meeting_id", "meeting_uuid"]),
        ("ListPastParticipants", ["meeting_id", "meeting_uuid"]),
    ],
)
async def test_error_names_every_field_that_selects_a_meeting(
    zoomgate: Harness, rpc: str, fields: list[str]
) -> None:
    request = getattr(pb, f"{rpc}Request")(user_email=MONICA)
    error = await zoomgate.error_of(getattr(zoomgate.meetings, rpc), request)
    assert list(error.violations) == fields
