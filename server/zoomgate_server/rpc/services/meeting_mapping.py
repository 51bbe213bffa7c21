"""Conversion of meetings between Zoom's JSON and protobuf messages (https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Iterable, Sequence
from typing import Any

from zoomgate.v1 import meetings_service_pb2 as pb
from zoomgate.v1.meeting_pb2 import MeetingDetails
from zoomgate_server.rpc.services.json_mapping import MappingRules, MessageConverter
from zoomgate_server.rpc.services.response_mapping import list_reader, message_reader
from zoomgate_server.rpc.services.validation import Violations

CONVENTIONS = MappingRules(
    names={
        "AddRegistrantResponse.meeting_id": "id",
        "ListMeetingsResponse.total_size": "total_records",
        "ListPastInstancesResponse.instances": "meetings",
        "ListPastParticipantsResponse.total_size": "total_records",
        "ListRegistrantsResponse.total_size": "total_records",
        "Meeting.create_time": "created_at",
        "Meeting.duration_minutes": "duration",
        "MeetingDetails.duration_minutes": "duration",
        "MeetingDetails.local_start_time": "start_time",
        "MeetingSettings.authentication_exceptions": "authentication_exception",
        "Occurrence.duration_minutes": "duration",
        "Participant.duration_seconds": "duration",
        "PastMeeting.duration_minutes": "duration",
        "Recurrence.end_time": "end_date_time",
    },
    unsent=frozenset(
        {
            "AddRegistrantRequest.meeting_id",
            "AddRegistrantRequest.occurrence_ids",
            "AddRegistrantRequest.user_email",
            "MeetingSettings.ContinuousMeetingChat.channel_id",
            "MeetingSettings.Invitee.internal_user",
            "Registrant.create_time",
            "Registrant.id",
            "Registrant.join_url",
            "Registrant.participant_pin_code",
            "Registrant.status",
            "TrackingField.visible",
            "UpdateRegistrantStatusRequest.meeting_id",
            "UpdateRegistrantStatusRequest.occurrence_id",
            "UpdateRegistrantStatusRequest.user_email",
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
        "PastMeeting.Type": {
            "PRESCHEDULED": 0,
            "INSTANT": 1,
            "SCHEDULED": 2,
            "RECURRING_NO_FIXED_TIME": 3,
            "PERSONAL_ROOM": 4,
            "PERSONAL_AUDIO_CONFERENCE": 7,
            "RECURRING_FIXED_TIME": 8,
        },
        "Participant.Status": {"IN_MEETING": "in_meeting", "IN_WAITING_ROOM": "in_waiting_room"},
        "Registrant.Status": {"PENDING": "pending", "APPROVED": "approved", "DENIED": "denied"},
        "Registrant.PurchasingTimeFrame": {
            "UNSPECIFIED": "",
            "WITHIN_A_MONTH": "Within a month",
            "1_TO_3_MONTHS": "1-3 months",
            "4_TO_6_MONTHS": "4-6 months",
            "MORE_THAN_6_MONTHS": "More than 6 months",
            "NO_TIMEFRAME": "No timeframe",
        },
        "Registrant.RoleInPurchaseProcess": {
            "UNSPECIFIED": "",
            "DECISION_MAKER": "Decision Maker",
            "EVALUATOR": "Evaluator/Recommender",
            "INFLUENCER": "Influencer",
            "NOT_INVOLVED": "Not involved",
        },
        "AddRegistrantRequest.Language": {
            "ENGLISH": "en-US",
            "GERMAN": "de-DE",
            "SPANISH": "es-ES",
            "FRENCH": "fr-FR",
            "JAPANESE": "jp-JP",
            "PORTUGUESE": "pt-PT",
            "RUSSIAN": "ru-RU",
            "CHINESE_SIMPLIFIED": "zh-CN",
            "CHINESE_TRADITIONAL": "zh-TW",
            "KOREAN": "ko-KO",
            "ITALIAN": "it-IT",
            "VIETNAMESE": "vi-VN",
            "POLISH": "pl-PL",
            "TURKISH": "Tr-TR",
        },
        "UpdateRegistrantStatusRequest.Action": {"APPROVE": "approve", "DENY": "deny", "CANCEL": "cancel"},
    },
)
"""All differences between Zoom's JSON and the messages."""

_DETAILS = MessageConverter(MeetingDetails.DESCRIPTOR, CONVENTIONS)

created_meeting = message_reader(pb.CreateMeetingResponse, CONVENTIONS, field="meeting", required="id")
meeting = message_reader(pb.GetMeetingResponse, CONVENTIONS, field="meeting", required="id")
past_meeting = message_reader(pb.GetPastMeetingResponse, CONVENTIONS, field="past_meeting", required="uuid")
invitation = message_reader(pb.GetMeetingInvitationResponse, CONVENTIONS, required="invitation")
meetings = list_reader(pb.ListMeetingsResponse, CONVENTIONS, items="meetings")
past_instances = list_reader(pb.ListPastInstancesResponse, CONVENTIONS, items="meetings")
past_participants = list_reader(pb.ListPastParticipantsResponse, CONVENTIONS, items="participants")


def details(message: MeetingDetails, path: str, violations: Violations) -> dict[str, Any]:
    """Return a meeting's details as JSON for Zoom. All enum values must be known."""
    return _DETAILS.json(message, violations, f"{path}.")


def changes(
    message: MeetingDetails, cleared: Iterable[Sequence[str]], path: str, violations: Violations
) -> dict[str, Any]:
    """Return changed details as JSON for Zoom, with empty values at the cleared paths."""
    data = details(message, path, violations)
    for names in cleared:
        _DETAILS.clear(data, names)
    return data
