"""The rules of new and changed meetings, and their application.

They reject what Zoom documents as not allowed or as incomplete, and a schedule that Zoom would replace with a different one without an
error. Values that Zoom documents as without effect unless something else is set, such as `join_before_host` with `waiting_room`, are
accepted, so that what Zoom returns can be sent back.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.rules import schedule
from zoomgate_server.rpc.services.rules.checker import Checker
from zoomgate_server.rpc.services.rules.constraint import (
    COUNTRY,
    EMAIL,
    EMAIL_OR_NONE,
    TIME_ZONE,
    Characters,
    Entries,
    Form,
    Multiline,
    Numbers,
    Separable,
    Words,
)
from zoomgate_server.rpc.services.rules.rule import (
    UNKNOWN,
    Condition,
    Limit,
    LimitedWith,
    NeverWith,
    OnlyWith,
    Required,
    RequiredWith,
    Table,
    Values,
)
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.rpc.services.zoom_json import json_name

PATH = "meeting_details"

_CREATE = "https://developers.zoom.us/docs/api/meetings/#tag/meetings/POST/users/{userId}/meetings"
UPDATE = "https://developers.zoom.us/docs/api/meetings/#tag/meetings/PATCH/meetings/{meetingId}"

_SCHEDULED = "MEETING_TYPE_SCHEDULED"
_NO_FIXED_TIME = "MEETING_TYPE_RECURRING_NO_FIXED_TIME"
_FIXED_TIME = "MEETING_TYPE_RECURRING_FIXED_TIME"
_INSTANT = "MEETING_TYPE_INSTANT"
_WITH_CHAT = (_SCHEDULED, _NO_FIXED_TIME, _FIXED_TIME)
_RECURRENCE = "recurrence.type"
_EVERY = "recurrence.repeat_interval"
_UNMUTE = "settings.request_permission_to_unmute_participants"
_MUTE = "settings.allow_host_control_participant_mute_state"
_COUNTRIES = "settings.approved_or_denied_countries_or_regions"
_INTERPRETERS = "settings.language_interpretation.interpreters"
_SIGN_INTERPRETERS = "settings.sign_language_interpretation.interpreters"
_VIDEO_MANAGEMENT = "settings.auto_add_recording_to_video_management"
_WAITING_ROOM = "settings.waiting_room_options"

_LOCAL_TIME = Form(
    "a valid date and time without a time zone, from 1970 on", "2026-11-24T09:00:00", schedule.is_local_time
)
_LANGUAGES = Words(("US", "CN", "JP", "DE", "FR", "RU", "PT", "ES", "KR"))

PROPERTIES = Table(
    "Properties",
    "",
    _CREATE,
    (
        Limit("topic", Characters(200)),
        Limit("agenda", Characters(2000)),
        Limit("timezone", TIME_ZONE),
        Limit("local_start_time", _LOCAL_TIME),
        Limit("duration_minutes", Numbers(range(1, 1441), "1 to 1440 minutes")),
        Limit("password", Characters(10)),
        Limit("recurrence.monthly_day", Numbers(range(1, 32))),
        Limit("recurrence.end_times", Numbers(range(61), "1 to 60, or 0 for no end")),
        Limit("settings.jbh_time", Numbers((0, 5, 10, 15), "0, 5, 10 or 15 minutes")),
        Limit("settings.audio_conference_info", Characters(2048)),
        Limit("settings.authentication_exceptions[].email", EMAIL),
        Limit("settings.meeting_invitees[].email", EMAIL),
        Limit(f"{_INTERPRETERS}[].email", EMAIL),
        Limit(f"{_INTERPRETERS}[].interpreter_languages", Entries(2, exactly=True)),
        Limit(f"{_INTERPRETERS}[].languages", Entries(2, exactly=True)),
        Limit(f"{_INTERPRETERS}[].languages[]", _LANGUAGES),
        Limit(_SIGN_INTERPRETERS, Entries(20)),
        Limit(f"{_SIGN_INTERPRETERS}[].email", EMAIL),
        Limit(f"{_VIDEO_MANAGEMENT}.channels", Entries(5)),
        Required("recurrence.type", "TYPE_DAILY, TYPE_WEEKLY or TYPE_MONTHLY"),
        Required(f"{_WAITING_ROOM}.mode", "MODE_FOLLOW_SETTING or MODE_CUSTOM"),
        Required(f"{_VIDEO_MANAGEMENT}.enable", "true or false"),
        Required(f"{_VIDEO_MANAGEMENT}.channels[].channel_id", "the ID of the channel"),
    ),
)

COMBINATIONS = Table(
    "Combinations of properties",
    "A property that is not in a request, and whose value is not known, decides nothing.",
    _CREATE,
    (
        Condition(
            "type",
            "must not be MEETING_TYPE_PERSONAL_ROOM; send a different type, with settings.use_pmi for the personal room",
            lambda values: values.get("type") == pb.MEETING_TYPE_PERSONAL_ROOM,
        ),
        NeverWith("start_time", "type", (_INSTANT, _NO_FIXED_TIME)),
        NeverWith("local_start_time", "type", (_INSTANT, _NO_FIXED_TIME)),
        NeverWith("schedule_for", "type", (_INSTANT,)),
        OnlyWith("pre_schedule", "type", (_SCHEDULED, _NO_FIXED_TIME), if_true=True),
        OnlyWith("recurrence", "type", (_FIXED_TIME,)),
        LimitedWith(_EVERY, _RECURRENCE, ("TYPE_DAILY",), constraint=Numbers(range(1, 100))),
        LimitedWith(_EVERY, _RECURRENCE, ("TYPE_WEEKLY",), constraint=Numbers(range(1, 51))),
        LimitedWith(_EVERY, _RECURRENCE, ("TYPE_MONTHLY",), constraint=Numbers(range(1, 11))),
        OnlyWith("recurrence.weekly_days", _RECURRENCE, ("TYPE_WEEKLY",)),
        OnlyWith("recurrence.monthly_day", _RECURRENCE, ("TYPE_MONTHLY",)),
        OnlyWith("recurrence.monthly_week", _RECURRENCE, ("TYPE_MONTHLY",)),
        OnlyWith("recurrence.monthly_week_day", _RECURRENCE, ("TYPE_MONTHLY",)),
        RequiredWith("recurrence.monthly_week", "recurrence.monthly_week_day"),
        RequiredWith("recurrence.monthly_week_day", "recurrence.monthly_week"),
        NeverWith("recurrence.end_time", "recurrence.end_times"),
        OnlyWith("settings.continuous_meeting_chat.enable", "type", _WITH_CHAT, if_true=True),
        RequiredWith(f"{_WAITING_ROOM}.who_goes_to_waiting_room", f"{_WAITING_ROOM}.mode", ("MODE_CUSTOM",)),
        RequiredWith(f"{_COUNTRIES}.approved_list", f"{_COUNTRIES}.method", ("METHOD_APPROVE",)),
        RequiredWith(f"{_COUNTRIES}.denied_list", f"{_COUNTRIES}.method", ("METHOD_DENY",)),
        OnlyWith(_UNMUTE, _MUTE, (False,), if_true=True),
    ),
)

UNDOCUMENTED = Table(
    "Rules of Zoomgate",
    "Zoom does not document how it handles these values, or handles them without an error.",
    "",
    (
        Limit("agenda", Multiline()),
        Limit("recurrence.weekly_days", Entries(7)),
        Limit("settings.audio_conference_info", Multiline()),
        Limit("settings.alternative_hosts[]", Separable()),
        Limit("settings.authentication_domains[]", Separable()),
        Limit("settings.enforce_login_domains[]", Separable()),
        Limit("settings.contact_email", EMAIL_OR_NONE),
        Limit("settings.breakout_room.rooms[].participants[]", EMAIL),
        Limit(f"{_COUNTRIES}.approved_list[]", COUNTRY),
        Limit(f"{_COUNTRIES}.denied_list[]", COUNTRY),
        Limit("settings.global_dial_in_countries[]", COUNTRY),
        Limit("settings.additional_data_center_regions[]", COUNTRY),
        Limit(f"{_INTERPRETERS}[].interpreter_languages[]", Separable()),
        Required("settings.meeting_invitees[].email", "the email address of the invitee"),
        Required(f"{_INTERPRETERS}[].email", "the email address of the interpreter"),
        Required(f"{_SIGN_INTERPRETERS}[].email", "the email address of the interpreter"),
        Condition(
            f"{_INTERPRETERS}[].interpreter_languages",
            "is required; send the two languages",
            lambda values: "interpreter_languages" not in values and "languages" not in values,
        ),
        Condition(
            "local_start_time",
            "must be a time that the clocks in {zone} do not skip; send a time such as {start:%Y-%m-%dT%H:%M:%S}",
            schedule.is_skipped,
        ),
        Condition(
            "local_start_time",
            "must be in the years 1970 to 9999 in UTC; send a time in this range",
            schedule.is_out_of_range,
        ),
        NeverWith("recurrence.monthly_day", "recurrence.monthly_week"),
        NeverWith("recurrence.monthly_day", "recurrence.monthly_week_day"),
        Condition(
            "recurrence.end_time",
            "must not be before the start of the meeting, or in the past if the meeting is new; send a later time",
            schedule.ends_too_early,
        ),
    ),
)

FROM_UPDATES = Table(
    "Rules that Zoom documents for changes only",
    "They apply to new meetings as well. Without the recurrence, Zoom confirms changes of the schedule of a series without making them.",
    UPDATE,
    (
        Limit("settings.custom_keys", Entries(10)),
        Limit("settings.custom_keys[].key", Characters(64)),
        Limit("settings.custom_keys[].value", Characters(256)),
        RequiredWith("recurrence", "type", (_FIXED_TIME,)),
    ),
)

ON_CREATE = Table(
    "New meetings",
    "A meeting without `type` is a series if it has a `recurrence`, and otherwise a scheduled meeting.",
    _CREATE,
    (Required("tracking_fields[].field", "the label of the tracking field"),),
)

ON_UPDATE = Table(
    "Changes of meetings",
    "Only the properties that change are checked.",
    UPDATE,
    (RequiredWith("recurrence.weekly_days", _RECURRENCE, ("TYPE_WEEKLY",)),),
)

OF_OCCURRENCE = (
    "agenda",
    "start_time",
    "local_start_time",
    "timezone",
    "duration_minutes",
    "settings.host_video",
    "settings.participant_video",
    "settings.join_before_host",
    "settings.mute_upon_entry",
    "settings.waiting_room",
    "settings.watermark",
    "settings.auto_recording",
)
"""The properties that Zoom can change for a single occurrence. `timezone` is the zone of the start."""

_OF_WHOLE_MEETING = {
    prefix + field.name: f"{prefix}{ADDITIONAL}.{json_name(field)}"
    for prefix, descriptor in (
        ("", pb.MeetingDetails.DESCRIPTOR),
        ("settings.", pb.MeetingSettings.DESCRIPTOR),
    )
    for field in descriptor.fields
    if field.name != ADDITIONAL and prefix + field.name not in OF_OCCURRENCE
}
"""The other properties, and the settings as a whole. The values are their paths in `additional_fields`."""

_COMMON = (*PROPERTIES.rules, *COMBINATIONS.rules, *UNDOCUMENTED.rules, *FROM_UPDATES.rules)
_NEW = Checker(pb.MeetingDetails.DESCRIPTOR, (*_COMMON, *ON_CREATE.rules))
_CHANGED = Checker(pb.MeetingDetails.DESCRIPTOR, (*_COMMON, *ON_UPDATE.rules))


def check_new(details: pb.MeetingDetails, violations: Violations, *, default_zone: str, now: float) -> None:
    """Validate a new meeting, which has been completed.

    Args:
        default_zone: The time zone of a meeting without one.
        now: The current time in seconds since 1970. Zoom uses it for a start that is unset or in the past.
    """
    values: dict[str, Any] = {}
    _NEW.check_fields(details, f"{PATH}.", violations, values)
    schedule.check_additional(details, f"{PATH}.", violations)
    zone = schedule.zone(details.timezone if details.HasField("timezone") else default_zone)
    values.update(earliest=now, zone=zone, start=schedule.start(details, zone, default=now))
    _NEW.check_combinations(values, f"{PATH}.", violations)


def check_update(
    details: pb.MeetingDetails,
    violations: Violations,
    *,
    cleared: Iterable[Sequence[str]] = (),
    of_occurrence: bool,
) -> None:
    """Validate the changes of a meeting, or of one of its occurrences. What is neither set nor cleared keeps its value.

    Args:
        cleared: The paths of the properties to clear.
    """
    values: dict[str, Any] = {}
    _CHANGED.check_fields(details, f"{PATH}.", violations, values)
    schedule.check_additional(details, f"{PATH}.", violations)
    if of_occurrence:
        values = _check_occurrence(values | {".".join(names[:2]): "" for names in cleared}, violations)
    zone = schedule.zone(details.timezone)
    values.update(earliest=0.0, zone=zone, start=schedule.start(details, zone))
    _CHANGED.check_combinations(values, f"{PATH}.", violations)


def _check_occurrence(values: Values, violations: Violations) -> dict[str, Any]:
    """Reject properties of the whole meeting in a change of one occurrence, and return the other values."""
    accepted = {}
    for name, value in values.items():
        in_additional = _OF_WHOLE_MEETING.get(name)
        if in_additional is None or (name == "settings" and value is not UNKNOWN):
            accepted[name] = value
        else:
            violations.add(
                f"{PATH}.{in_additional if value is UNKNOWN else name}",
                "cannot change for a single occurrence; omit it, or omit occurrence_id",
            )
    return accepted
