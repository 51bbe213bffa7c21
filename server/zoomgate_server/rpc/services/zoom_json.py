"""The differences between Zoom's JSON and the messages (https://developers.zoom.us/docs/api/meetings/).

Fields and enums are named `Message.field`, or `Outer.Inner.field` in nested messages.
"""

from collections.abc import Mapping

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

_NAMES: Mapping[str, str] = {
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
}
"""The JSON keys of fields whose names differ."""

OUTPUT_ONLY = frozenset(
    {
        "MeetingSettings.ContinuousMeetingChat.channel_id",
        "MeetingSettings.Invitee.internal_user",
        "Registrant.create_time",
        "Registrant.id",
        "Registrant.join_url",
        "Registrant.participant_pin_code",
        "Registrant.status",
        "TrackingField.visible",
    }
)
"""The fields that Zoom accepts in no request."""

INLINED = frozenset({"AddRegistrantRequest.registrant"})
"""The fields with a message whose properties Zoom expects beside those of the message that contains it."""

SEPARATORS: Mapping[str, str] = {
    "MeetingSettings.alternative_hosts": ";",
    "MeetingSettings.authentication_domains": ",",
    "MeetingSettings.enforce_login_domains": ";",
    "MeetingSettings.LanguageInterpretation.Interpreter.interpreter_languages": ",",
    "MeetingSettings.LanguageInterpretation.Interpreter.languages": ",",
    "Recurrence.weekly_days": ",",
}
"""The separators of repeated fields that JSON represents as a single string. Duplicates are sent once."""

_ENUMS: Mapping[str, Mapping[str, int | str]] = {
    "MeetingType": {
        "INSTANT": 1,
        "SCHEDULED": 2,
        "RECURRING_NO_FIXED_TIME": 3,
        "PERSONAL_ROOM": 4,
        "RECURRING_FIXED_TIME": 8,
        "SCREEN_SHARE_ONLY": 10,
    },
    "ListMeetingsRequest.Type": {
        "SCHEDULED": "scheduled",
        "LIVE": "live",
        "UPCOMING": "upcoming",
        "UPCOMING_MEETINGS": "upcoming_meetings",
        "PREVIOUS_MEETINGS": "previous_meetings",
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
    "MeetingSettings.QuestionPermission": {
        "ALL": 1,
        "ALL_SINCE_JOINING": 2,
        "HOST": 3,
        "ORGANIZATION": 4,
        "ORGANIZATION_SINCE_JOINING": 5,
    },
    "MeetingSettings.WaitingRoomOptions.Mode": {"FOLLOW_SETTING": "follow_setting", "CUSTOM": "custom"},
    "MeetingSettings.WaitingRoomOptions.Audience": {
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
}
"""The JSON values of each enum, by the names of the enum values without their common prefix."""


def short_name(descriptor: FieldDescriptor | EnumDescriptor) -> str:
    """Return the name of a field or enum as used in these tables."""
    return descriptor.full_name.removeprefix("zoomgate.v1.")


def json_name(field: FieldDescriptor) -> str:
    """Return the JSON key of a field."""
    return _NAMES.get(short_name(field), field.name)


def enum_words(enum: EnumDescriptor) -> dict[int, int | str]:
    """Return the JSON values of an enum by number."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    words = _ENUMS[short_name(enum)]
    return {enum.values_by_name[prefix + name].number: word for name, word in words.items()}
