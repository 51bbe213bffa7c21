"""Zoom's meetings and ours: the table of names, words and numbers (https://developers.zoom.us/docs/api/meetings/)."""

from typing import Any

import orjson
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.errors import FieldViolation, ZoomBadResponse
from zoomgate_server.rpc.services.json_mapping import Conventions, Plan


def _numbers(enum: Any, prefix: str, **words: int | str) -> dict[int, int | str]:
    """Pair the numbers of an enum with Zoom's words or numbers, by the names behind the prefix."""
    wrapper: EnumTypeWrapper = enum
    return {wrapper.Value(f"{prefix}_{name}"): word for name, word in words.items()}


_Settings = pb.MeetingSettings
CONVENTIONS = Conventions(
    names={
        "Meeting.create_time": "created_at",
        "Meeting.duration_minutes": "duration",
        "MeetingDetails.duration_minutes": "duration",
        "MeetingDetails.local_start_time": "start_time",
        "MeetingSettings.authentication_exceptions": "authentication_exception",
        "Occurrence.duration_minutes": "duration",
        "Recurrence.end_time": "end_date_time",
    },
    separators={
        "MeetingSettings.alternative_hosts": ";",
        "MeetingSettings.authentication_domains": ",",
        "MeetingSettings.LanguageInterpretation.Interpreter.interpreter_languages": ",",
        "Recurrence.weekly_days": ",",
    },
    enums={
        "MeetingType": _numbers(
            pb.MeetingType,
            "MEETING_TYPE",
            INSTANT=1,
            SCHEDULED=2,
            RECURRING_NO_FIXED_TIME=3,
            PERSONAL_ROOM=4,
            RECURRING_FIXED_TIME=8,
            SCREEN_SHARE_ONLY=10,
        ),
        "MeetingStatus": _numbers(pb.MeetingStatus, "MEETING_STATUS", WAITING="waiting", STARTED="started"),
        "CreationSource": _numbers(
            pb.CreationSource, "CREATION_SOURCE", OTHER="other", OPEN_API="open_api", WEB_PORTAL="web_portal"
        ),
        "Recurrence.Type": _numbers(pb.Recurrence.Type, "TYPE", DAILY=1, WEEKLY=2, MONTHLY=3),
        "Occurrence.Status": _numbers(
            pb.Occurrence.Status, "STATUS", AVAILABLE="available", DELETED="deleted"
        ),
        "MeetingSettings.ApprovalType": _numbers(
            _Settings.ApprovalType, "APPROVAL_TYPE", AUTOMATIC=0, MANUAL=1, NONE=2
        ),
        "MeetingSettings.RegistrationType": _numbers(
            _Settings.RegistrationType,
            "REGISTRATION_TYPE",
            ALL_OCCURRENCES=1,
            EACH_OCCURRENCE=2,
            CHOSEN_OCCURRENCES=3,
        ),
        "MeetingSettings.Audio": _numbers(
            _Settings.Audio,
            "AUDIO",
            BOTH="both",
            TELEPHONY="telephony",
            VOIP="voip",
            THIRD_PARTY="thirdParty",
        ),
        "MeetingSettings.AutoRecording": _numbers(
            _Settings.AutoRecording, "AUTO_RECORDING", LOCAL="local", CLOUD="cloud", NONE="none"
        ),
        "MeetingSettings.EncryptionType": _numbers(
            _Settings.EncryptionType, "ENCRYPTION_TYPE", ENHANCED="enhanced_encryption", END_TO_END="e2ee"
        ),
        "MeetingSettings.CalendarType": _numbers(
            _Settings.CalendarType, "CALENDAR_TYPE", OUTLOOK=1, GOOGLE=2
        ),
        "MeetingSettings.WaitingRoomOptions.Mode": _numbers(
            _Settings.WaitingRoomOptions.Mode, "MODE", FOLLOW_SETTING="follow_setting", CUSTOM="custom"
        ),
        "MeetingSettings.CountryRestriction.Method": _numbers(
            _Settings.CountryRestriction.Method, "METHOD", APPROVE="approve", DENY="deny"
        ),
    },
)
"""Everything in which Zoom's JSON differs from the contract."""

_MEETING = Plan(pb.Meeting.DESCRIPTOR, CONVENTIONS)
_DETAILS = Plan(pb.MeetingDetails.DESCRIPTOR, CONVENTIONS)


def meeting(body: bytes) -> pb.Meeting:
    """Read Zoom's description of a meeting.

    Raises:
        ZoomBadResponse: It is no JSON object with the number of a meeting.
    """
    try:
        data = orjson.loads(body)
        found = pb.Meeting(**_MEETING.fields(data)) if data.__class__ is dict else None
    except (orjson.JSONDecodeError, RecursionError, ValueError, TypeError):
        found = None
    if found is None or found.id <= 0:
        raise ZoomBadResponse(
            "Zoom's description of the meeting cannot be understood", metadata={"length": str(len(body))}
        )
    return found


def details(message: pb.MeetingDetails, path: str, violations: list[FieldViolation]) -> dict[str, Any]:
    """Give what Zoom takes for a meeting's details; enums must be known ones."""
    return _DETAILS.json(message, path, violations)
