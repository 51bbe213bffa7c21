"""The fields of a meeting that a caller may set (https://developers.zoom.us/docs/api/meetings/#tag/meetings/post/users/{userId}/meetings)."""

from zoom_simulator.field_types import (
    FLAG,
    LANGUAGES,
    TIME,
    TIMEZONE,
    WEEKDAYS,
    FieldType,
    ListOf,
    Record,
    choice,
    email,
    integer,
    text,
)

MAX_OCCURRENCES = 60

_RECURRENCE = Record(
    {
        "end_date_time": TIME,
        "end_times": integer(0, MAX_OCCURRENCES),
        "monthly_day": integer(1, 31),
        "monthly_week": choice(-1, 1, 2, 3, 4),
        "monthly_week_day": integer(1, 7),
        "repeat_interval": integer(1, 99),
        "type": choice(1, 2, 3),
        "weekly_days": WEEKDAYS,
    },
    required=("type",),
)

_FLAGS = (
    "allow_host_control_participant_mute_state",
    "allow_multiple_devices",
    "alternative_host_manage_cloud_recording",
    "alternative_host_manage_meeting_summary",
    "alternative_host_update_polls",
    "alternative_hosts_email_notification",
    "auto_start_ai_companion_questions",
    "auto_start_meeting_summary",
    "close_registration",
    "cn_meeting",
    "device_testing",
    "disable_participant_video",
    "email_in_attendee_report",
    "email_notification",
    "enforce_login",
    "focus_mode",
    "host_save_video_order",
    "host_video",
    "in_meeting",
    "internal_meeting",
    "join_before_host",
    "meeting_authentication",
    "mute_upon_entry",
    "participant_focused_meeting",
    "participant_video",
    "private_meeting",
    "push_change_to_calendar",
    "registrants_confirmation_email",
    "registrants_email_notification",
    "request_permission_to_unmute_participants",
    "show_join_info",
    "show_share_button",
    "use_pmi",
    "waiting_room",
    "watermark",
)
_TEXTS = (
    "alternative_hosts",
    "authentication_domains",
    "authentication_name",
    "authentication_option",
    "contact_email",
    "contact_name",
    "enforce_login_domains",
    "summary_template_id",
)

SETTINGS: dict[str, FieldType] = {
    **dict.fromkeys(_FLAGS, FLAG),
    **dict.fromkeys(_TEXTS, text()),
    "additional_data_center_regions": ListOf(text()),
    "approval_type": choice(0, 1, 2),
    "approved_or_denied_countries_or_regions": Record(
        {
            "approved_list": ListOf(text()),
            "denied_list": ListOf(text()),
            "enable": FLAG,
            "method": choice("approve", "deny"),
        }
    ),
    "audio": choice("both", "telephony", "voip", "thirdParty"),
    "audio_conference_info": text(2048),
    "authentication_exception": ListOf(Record({"email": email(), "name": text(), "join_url": text()})),
    "auto_add_recording_to_video_management": Record(
        {
            "enable": FLAG,
            "channels": ListOf(
                Record({"channel_id": text(), "name": text()}, required=("channel_id",)), maximum=5
            ),
        },
        required=("enable",),
    ),
    "auto_recording": choice("local", "cloud", "none"),
    "breakout_room": Record(
        {"enable": FLAG, "rooms": ListOf(Record({"name": text(), "participants": ListOf(text())}))}
    ),
    "calendar_type": choice(1, 2),
    "continuous_meeting_chat": Record(
        {
            "enable": FLAG,
            "auto_add_invited_external_users": FLAG,
            "auto_add_meeting_participants": FLAG,
        }
    ),
    "custom_keys": ListOf(Record({"key": text(64), "value": text(256)}), maximum=10),
    "encryption_type": choice("enhanced_encryption", "e2ee"),
    "global_dial_in_countries": ListOf(text()),
    "global_dial_in_numbers": ListOf(
        Record(
            {
                "city": text(),
                "country": text(),
                "country_name": text(),
                "number": text(),
                "type": choice("toll", "tollfree"),
            }
        )
    ),
    "jbh_time": choice(0, 5, 10, 15),
    "language_interpretation": Record(
        {
            "enable": FLAG,
            "interpreters": ListOf(
                Record({"email": email(), "languages": LANGUAGES, "interpreter_languages": LANGUAGES})
            ),
        }
    ),
    "meeting_invitees": ListOf(Record({"email": email()})),
    "question_and_answer": Record(
        {
            "enable": FLAG,
            "allow_submit_questions": FLAG,
            "allow_anonymous_questions": FLAG,
            "question_visibility": choice("answered", "all"),
            "attendees_can_comment": FLAG,
            "attendees_can_upvote": FLAG,
        }
    ),
    "registration_type": choice(1, 2, 3),
    "resources": ListOf(
        Record(
            {
                "resource_type": choice("whiteboard"),
                "resource_id": text(),
                "permission_level": choice("editor", "commenter", "viewer"),
            }
        )
    ),
    "sign_language_interpretation": Record(
        {
            "enable": FLAG,
            "interpreters": ListOf(Record({"email": email(), "sign_language": text()}), maximum=20),
        }
    ),
    "waiting_room_options": Record(
        {
            "mode": choice("follow_setting", "custom"),
            "who_goes_to_waiting_room": choice(
                "everyone",
                "users_not_in_account",
                "users_not_in_account_or_whitelisted_domains",
                "users_not_on_invite",
            ),
        },
        required=("mode",),
    ),
    "who_can_ask_questions": choice(1, 2, 3, 4, 5),
    "who_will_receive_summary": choice(1, 2, 3, 4),
}

MEETING = Record(
    {
        "agenda": text(2000),
        "default_password": FLAG,
        "duration": integer(1, 1440),
        "password": text(10),
        "pre_schedule": FLAG,
        "recurrence": _RECURRENCE,
        "schedule_for": text(),
        "settings": Record(SETTINGS),
        "start_time": TIME,
        "template_id": text(),
        "timezone": TIMEZONE,
        "topic": text(200),
        "tracking_fields": ListOf(Record({"field": text(), "value": text()}, required=("field",))),
        "type": choice(1, 2, 3, 8, 10),
    }
)

OCCURRENCE = Record(
    {
        "agenda": MEETING.fields["agenda"],
        "duration": MEETING.fields["duration"],
        "start_time": MEETING.fields["start_time"],
        "timezone": MEETING.fields["timezone"],
        "settings": Record(
            {
                name: SETTINGS[name]
                for name in (
                    "auto_recording",
                    "host_video",
                    "join_before_host",
                    "mute_upon_entry",
                    "participant_video",
                    "waiting_room",
                    "watermark",
                )
            }
        ),
    }
)
"""The fields that an update of a single occurrence changes."""

DEFAULT_SETTINGS: dict[str, object] = {
    "host_video": False,
    "participant_video": False,
    "cn_meeting": False,
    "in_meeting": False,
    "join_before_host": False,
    "jbh_time": 0,
    "mute_upon_entry": False,
    "watermark": False,
    "use_pmi": False,
    "approval_type": 2,
    "audio": "both",
    "auto_recording": "none",
    "enforce_login": False,
    "alternative_hosts": "",
    "registrants_email_notification": True,
    "waiting_room": False,
    "meeting_authentication": False,
    "encryption_type": "enhanced_encryption",
    "device_testing": False,
    "breakout_room": {"enable": False},
}
