"""Conversion of meetings between Zoom's JSON and protobuf messages (https://developers.zoom.us/docs/api/meetings/)."""

from typing import Any

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import MappingRules, MessageConverter
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom import tolerant_json
from zoomgate_server.zoom.request import ZoomResponse

CONVENTIONS = MappingRules(
    names={
        "Meeting.create_time": "created_at",
        "Meeting.duration_minutes": "duration",
        "MeetingDetails.duration_minutes": "duration",
        "MeetingDetails.local_start_time": "start_time",
        "MeetingSettings.authentication_exceptions": "authentication_exception",
        "Occurrence.duration_minutes": "duration",
        "Recurrence.end_time": "end_date_time",
    },
    output_only=frozenset(
        {
            "MeetingSettings.ContinuousMeetingChat.channel_id",
            "MeetingSettings.Invitee.internal_user",
            "TrackingField.visible",
        }
    ),
    separators={
        "MeetingSettings.alternative_hosts": ";",
        "MeetingSettings.authentication_domains": ",",
        "MeetingSettings.enforce_login_domains": ",",
        "MeetingSettings.LanguageInterpretation.Interpreter.interpreter_languages": ",",
        "MeetingSettings.LanguageInterpretation.Interpreter.languages": ",",
        "Recurrence.weekly_days": ",",
    },
    enums={
        "MeetingType": {
            "INSTANT": 1,
            "SCHEDULED": 2,
            "RECURRING_NO_FIXED_TIME": 3,
            "PERSONAL_ROOM": 4,
            "RECURRING_FIXED_TIME": 8,
            "SCREEN_SHARE_ONLY": 10,
        },
        "MeetingStatus": {"WAITING": "waiting", "STARTED": "started"},
        "CreationSource": {"OTHER": "other", "OPEN_API": "open_api", "WEB_PORTAL": "web_portal"},
        "Recurrence.Type": {"DAILY": 1, "WEEKLY": 2, "MONTHLY": 3},
        "DayOfWeek": {
            "SUNDAY": 1,
            "MONDAY": 2,
            "TUESDAY": 3,
            "WEDNESDAY": 4,
            "THURSDAY": 5,
            "FRIDAY": 6,
            "SATURDAY": 7,
        },
        "WeekOfMonth": {"FIRST": 1, "SECOND": 2, "THIRD": 3, "FOURTH": 4, "LAST": -1},
        "Occurrence.Status": {"AVAILABLE": "available", "DELETED": "deleted"},
        "MeetingSettings.ApprovalType": {"AUTOMATIC": 0, "MANUAL": 1, "NONE": 2},
        "MeetingSettings.RegistrationType": {
            "ALL_OCCURRENCES": 1,
            "EACH_OCCURRENCE": 2,
            "CHOSEN_OCCURRENCES": 3,
        },
        "MeetingSettings.Audio": {
            "BOTH": "both",
            "TELEPHONY": "telephony",
            "VOIP": "voip",
            "THIRD_PARTY": "thirdParty",
        },
        "MeetingSettings.AutoRecording": {"LOCAL": "local", "CLOUD": "cloud", "NONE": "none"},
        "MeetingSettings.EncryptionType": {"ENHANCED": "enhanced_encryption", "END_TO_END": "e2ee"},
        "MeetingSettings.CalendarType": {"OUTLOOK": 1, "GOOGLE": 2},
        "MeetingSettings.SummaryRecipients": {
            "HOST": 1,
            "ALL_HOSTS": 2,
            "INVITEES_IN_ORGANIZATION": 3,
            "ALL_INVITEES": 4,
        },
        "MeetingSettings.QuestionAskers": {
            "ALL": 1,
            "ALL_SINCE_JOINING": 2,
            "HOST": 3,
            "ORGANIZATION": 4,
            "ORGANIZATION_SINCE_JOINING": 5,
        },
        "MeetingSettings.WaitingRoomOptions.Mode": {"FOLLOW_SETTING": "follow_setting", "CUSTOM": "custom"},
        "MeetingSettings.WaitingRoomOptions.Participants": {
            "EVERYONE": "everyone",
            "NOT_IN_ACCOUNT": "users_not_in_account",
            "NOT_IN_ACCOUNT_OR_ALLOWED_DOMAINS": "users_not_in_account_or_whitelisted_domains",
            "NOT_INVITED": "users_not_on_invite",
        },
        "MeetingSettings.QuestionAndAnswer.Visibility": {"ANSWERED": "answered", "ALL": "all"},
        "MeetingSettings.DialInNumber.Type": {"TOLL": "toll", "TOLL_FREE": "tollfree"},
        "MeetingSettings.Resource.Type": {"WHITEBOARD": "whiteboard"},
        "MeetingSettings.Resource.PermissionLevel": {
            "EDITOR": "editor",
            "COMMENTER": "commenter",
            "VIEWER": "viewer",
        },
        "MeetingSettings.CountryRestriction.Method": {"APPROVE": "approve", "DENY": "deny"},
    },
)
"""All differences between Zoom's JSON and the messages."""

_MEETING = MessageConverter(pb.Meeting.DESCRIPTOR, CONVENTIONS)
_DETAILS = MessageConverter(pb.MeetingDetails.DESCRIPTOR, CONVENTIONS)


def meeting(response: ZoomResponse) -> pb.Meeting | None:
    """Parse a meeting in a Zoom response. Return None if the body is not a JSON object with a meeting ID."""
    try:
        data = tolerant_json.loads(response.body)
    except ValueError:
        return None
    parsed = pb.Meeting(**_MEETING.fields(data)) if data.__class__ is dict else None
    return parsed if parsed is not None and parsed.id > 0 else None


def details(message: pb.MeetingDetails, path: str, violations: Violations) -> dict[str, Any]:
    """Return a meeting's details as JSON for Zoom. All enum values must be known."""
    return _DETAILS.json(message, path, violations)
