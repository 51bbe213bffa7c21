"""Validation of meeting requests. Reports every invalid field (rules: https://developers.zoom.us/docs/api/meetings/)."""

import re
from collections.abc import Container, Mapping
from datetime import datetime
from functools import cache
from zoneinfo import available_timezones

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate.v1.meetings_service_pb2 import DeleteMeetingRequest, GetMeetingRequest
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.validation import Violations

MAX_MEETING_ID = 10**12
"""Zoom documents IDs as int64 with more than ten digits."""

MAX_TEXT = 2048
"""Maximum number of characters of a string without an entry in `_LIMITS`."""

MAX_ENTRIES = 100
"""Maximum number of entries of a repeated field without an entry in `_LISTS`."""

_LIMITS = {
    "topic": 200,
    "agenda": 2000,
    "password": 10,
    "schedule_for": 254,
    "template_id": 128,
    "field": 200,
    "value": 1000,
    "contact_name": 200,
    "contact_email": 254,
    "email": 254,
    "key": 64,
    "CustomKey.value": 256,
}
"""Maximum number of characters by field name, or by `Message.field` where messages differ."""

_LISTS = {
    "tracking_fields": 50,
    "global_dial_in_countries": 300,
    "additional_data_center_regions": 50,
    "meeting_invitees": 1000,
    "approved_list": 300,
    "denied_list": 300,
    "participants": 500,
    "interpreter_languages": 2,
    "custom_keys": 10,
    "weekly_days": 7,
    "SignLanguageInterpretation.interpreters": 20,
}
"""Maximum number of entries of repeated fields, by field name or `Message.field`."""

_NUMBERS: Mapping[str, tuple[Container[int], str]] = {
    "MeetingDetails.duration_minutes": (range(1, 1441), "1 to 1440 minutes"),
    "MeetingSettings.jbh_time": ((0, 5, 10, 15), "0, 5, 10 or 15 minutes"),
    "Recurrence.end_times": (range(61), "1 to 60, or 0 for no end"),
    "Recurrence.monthly_day": (range(1, 32), "1 to 31"),
    "Recurrence.monthly_week": ((-1, 1, 2, 3, 4), "1 to 4, or -1 for the last week"),
    "Recurrence.monthly_week_day": (range(1, 8), "1 (Sunday) to 7 (Saturday)"),
}
"""The allowed numbers of integer fields, and what to send instead."""

_SEPARATED = frozenset({"alternative_hosts", "authentication_domains", "interpreter_languages"})
_MULTILINE = frozenset({"agenda", "audio_conference_info"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_EXCEPT_NEWLINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PASSWORD = re.compile(r"[A-Za-z0-9@*_-]{0,10}", re.ASCII)
_OCCURRENCE = re.compile(r"[0-9]{1,20}", re.ASCII)
_LOCAL = re.compile(
    r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d", re.ASCII
)  # excludes hour 24, which only some Python versions accept
_YEAR_10000 = 253_402_300_800
_INTERVALS = {
    pb.Recurrence.TYPE_DAILY: 99,
    pb.Recurrence.TYPE_WEEKLY: 50,
    pb.Recurrence.TYPE_MONTHLY: 10,
}


def check_target(request: GetMeetingRequest | DeleteMeetingRequest) -> str:
    """Validate the fields that identify a meeting: user, meeting ID and occurrence ID. Return the user's canonical address."""
    violations = Violations()
    user_email = violations.user_email(request.user_email)
    if not 1 <= request.meeting_id <= MAX_MEETING_ID:
        violations.add(
            "meeting_id",
            f"must be 1 to {MAX_MEETING_ID}; send the meeting's numeric ID, without spaces or dashes",
        )
    if request.occurrence_id and not _OCCURRENCE.fullmatch(request.occurrence_id):
        violations.add(
            "occurrence_id",
            "must be at most 20 digits; send the occurrence_id from the meeting's occurrences",
        )
    violations.raise_if_any()
    return user_email


def check_details(details: pb.MeetingDetails, path: str, violations: Violations) -> None:
    """Validate a meeting's details."""
    _check_fields(details, path, violations)
    if details.HasField("password") and not _PASSWORD.fullmatch(details.password):
        violations.add(f"{path}.password", "is invalid; send at most 10 characters of a-z A-Z 0-9 @ - _ *")
    if details.HasField("timezone") and details.timezone not in _timezones():
        violations.add(f"{path}.timezone", "must be an IANA time zone; send a name such as Europe/Berlin")
    _check_start(details, path, violations)
    if details.type == pb.MEETING_TYPE_PERSONAL_ROOM:
        violations.add(
            f"{path}.type",
            "can only be returned by Zoom; send a different type, and set settings.use_pmi to use the personal room",
        )
    if details.type == pb.MEETING_TYPE_INSTANT and details.schedule_for:
        violations.add(
            f"{path}.schedule_for",
            "cannot be combined with MEETING_TYPE_INSTANT; omit it or send a different type",
        )
    if details.type == pb.MEETING_TYPE_RECURRING_FIXED_TIME and not details.HasField("recurrence"):
        violations.add(
            f"{path}.recurrence",
            "is required for MEETING_TYPE_RECURRING_FIXED_TIME; set the recurrence of the meeting",
        )
    if details.HasField("recurrence"):
        _check_recurrence(details.recurrence, f"{path}.recurrence", violations)
    for index, tracking in enumerate(details.tracking_fields):
        if not tracking.field:
            violations.add(
                f"{path}.tracking_fields[{index}].field", "is required; send the label of the tracking field"
            )


def _check_fields(message: Message, path: str, violations: Violations) -> None:
    """Validate the lengths, characters, numbers and times of all fields, independently of each other."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}"
        if field.name == ADDITIONAL:
            continue
        if field.is_repeated and len(value) > (limit := _limit(_LISTS, message, field.name, MAX_ENTRIES)):
            violations.add(name, f"has {len(value)} entries; send at most {limit}")
            continue
        for index, item in enumerate(value if field.is_repeated else (value,)):
            item_path = f"{name}[{index}]" if field.is_repeated else name
            if isinstance(item, str):
                _check_text(
                    field.name, item, _limit(_LIMITS, message, field.name, MAX_TEXT), item_path, violations
                )
            elif field.enum_type is not None:
                _check_enum(field.enum_type, item, item_path, violations)
            elif (name_in_message := f"{message.DESCRIPTOR.name}.{field.name}") in _NUMBERS:
                allowed, advice = _NUMBERS[name_in_message]
                if item not in allowed:
                    violations.add(item_path, f"is {item}; send {advice}")
            elif isinstance(item, Timestamp):
                _check_time(item, item_path, violations)
            elif isinstance(item, Message):
                _check_fields(item, item_path, violations)


def _limit(limits: Mapping[str, int], message: Message, name: str, default: int) -> int:
    """Return the limit of a field."""
    return limits.get(f"{message.DESCRIPTOR.name}.{name}", limits.get(name, default))


def _check_text(name: str, text: str, limit: int, path: str, violations: Violations) -> None:
    if len(text) > limit:
        violations.add(path, f"has {len(text)} characters; send at most {limit}")
    elif (_CONTROL_EXCEPT_NEWLINES if name in _MULTILINE else _CONTROL).search(text):
        violations.add(path, "contains control or text direction characters; remove these characters")
    elif name in _SEPARATED and ("," in text or ";" in text):
        violations.add(path, "contains a comma or semicolon; send each value as a separate entry")


def _check_enum(descriptor: EnumDescriptor, number: int, path: str, violations: Violations) -> None:
    if number not in descriptor.values_by_number:
        names = ", ".join(value.name for value in descriptor.values if value.number)
        violations.add(path, f"is {number}, which is not a value of the enum; send one of {names}")


def _check_time(time: Timestamp, path: str, violations: Violations) -> None:
    if not 0 <= time.seconds < _YEAR_10000:
        violations.add(path, "is outside the years 1970 to 9999; send a time in this range")
    elif time.nanos:
        violations.add(path, "has fractional seconds, which Zoom does not store; send whole seconds")


def _check_start(details: pb.MeetingDetails, path: str, violations: Violations) -> None:
    if details.WhichOneof("start") != "local_start_time":
        return
    try:
        if not _LOCAL.fullmatch(details.local_start_time):
            raise ValueError
        datetime.fromisoformat(details.local_start_time)
    except ValueError:
        violations.add(
            f"{path}.local_start_time",
            "must be a valid date and time without a time zone; send a value such as 2026-11-24T09:00:00",
        )


def _check_recurrence(recurrence: pb.Recurrence, path: str, violations: Violations) -> None:
    max_interval = _INTERVALS.get(recurrence.type)
    if recurrence.type == pb.Recurrence.TYPE_UNSPECIFIED:
        violations.add(f"{path}.type", "is required; send TYPE_DAILY, TYPE_WEEKLY or TYPE_MONTHLY")
    if (
        max_interval is not None
        and recurrence.HasField("repeat_interval")
        and not 1 <= recurrence.repeat_interval <= max_interval
    ):
        violations.add(
            f"{path}.repeat_interval",
            f"is {recurrence.repeat_interval}; send 1 to {max_interval} with this type",
        )
    if any(not 1 <= day <= 7 for day in recurrence.weekly_days):
        violations.add(f"{path}.weekly_days", "contains an invalid day; send 1 (Sunday) to 7 (Saturday)")
    if recurrence.HasField("end_times") and recurrence.HasField("end_time"):
        violations.add(f"{path}.end_time", "cannot be combined with end_times; send only one of them")


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones()) | {"UTC"}
