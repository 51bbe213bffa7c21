"""Validation of meeting requests. Reports every invalid field (rules: https://developers.zoom.us/docs/api/meetings/)."""

import re
from collections.abc import Container, Mapping

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.validation import Violations

MAX_ENTRIES = 1000
"""Maximum number of entries of a repeated field without an entry in `_LISTS`. It bounds the work for a request; Zoom documents none."""

_LIMITS = {
    "topic": 200,
    "agenda": 2000,
    "password": 10,
    "audio_conference_info": 2048,
    "CustomKey.key": 64,
    "CustomKey.value": 256,
}
"""Maximum number of characters, where Zoom documents one, by field name or `Message.field`."""

_LISTS = {
    "interpreter_languages": 2,
    "custom_keys": 10,
    "weekly_days": 7,
    "SignLanguageInterpretation.interpreters": 20,
}
"""Maximum number of entries of repeated fields, where Zoom documents one, by field name or `Message.field`."""

_NUMBERS: Mapping[str, tuple[Container[int], str]] = {
    "MeetingDetails.duration_minutes": (range(1, 1441), "1 to 1440 minutes"),
    "MeetingSettings.jbh_time": ((0, 5, 10, 15), "0, 5, 10 or 15 minutes"),
    "Recurrence.end_times": (range(61), "1 to 60, or 0 for no end"),
    "Recurrence.monthly_day": (range(1, 32), "1 to 31"),
}
"""The allowed numbers of integer fields, and what to send instead."""

_SEPARATED = frozenset(
    {
        "alternative_hosts",
        "authentication_domains",
        "enforce_login_domains",
        "interpreter_languages",
        "languages",
    }
)
_MULTILINE = frozenset({"agenda", "audio_conference_info"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_EXCEPT_NEWLINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_YEAR_10000 = 253_402_300_800


def check_details(details: pb.MeetingDetails, path: str, violations: Violations) -> None:
    """Validate a meeting's details."""
    check_fields(details, path, violations)
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
    for index, tracking in enumerate(details.tracking_fields):
        if not tracking.field:
            violations.add(
                f"{path}.tracking_fields[{index}].field", "is required; send the label of the tracking field"
            )


def check_fields(message: Message, path: str, violations: Violations) -> None:
    """Validate the lengths, characters, numbers and times of all fields, independently of each other."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}"
        if field.name == ADDITIONAL:
            continue
        if field.is_repeated and len(value) > (limit := _limit(_LISTS, message, field.name) or MAX_ENTRIES):
            violations.add(name, f"has {len(value)} entries; send at most {limit}")
            continue
        for index, item in enumerate(value if field.is_repeated else (value,)):
            item_path = f"{name}[{index}]" if field.is_repeated else name
            if isinstance(item, str):
                _check_text(field.name, item, _limit(_LIMITS, message, field.name), item_path, violations)
            elif field.enum_type is not None:
                _check_enum(field.enum_type, item, item_path, violations)
            elif (name_in_message := f"{message.DESCRIPTOR.name}.{field.name}") in _NUMBERS:
                allowed, advice = _NUMBERS[name_in_message]
                if item not in allowed:
                    violations.add(item_path, f"is {item}; send {advice}")
            elif isinstance(item, Timestamp):
                _check_time(item, item_path, violations)
            elif isinstance(item, Message):
                check_fields(item, item_path, violations)


def _limit(limits: Mapping[str, int], message: Message, name: str) -> int | None:
    """Return the limit of a field, or None if there is none."""
    return limits.get(f"{message.DESCRIPTOR.name}.{name}", limits.get(name))


def _check_text(name: str, text: str, limit: int | None, path: str, violations: Violations) -> None:
    if limit is not None and len(text) > limit:
        violations.add(path, f"has {len(text)} characters; send at most {limit}")
    elif (_CONTROL_EXCEPT_NEWLINES if name in _MULTILINE else _CONTROL).search(text):
        violations.add(path, "contains control characters; remove these characters")
    elif name in _SEPARATED and not text.strip():
        violations.add(path, "is empty; omit it")
    elif name in _SEPARATED and ("," in text or ";" in text):
        violations.add(path, "contains a comma or semicolon; send each value as a separate entry")


def _check_enum(descriptor: EnumDescriptor, number: int, path: str, violations: Violations) -> None:
    if number not in descriptor.values_by_number:
        names = ", ".join(value.name for value in descriptor.values if value.number)
        violations.add(path, f"is {number}, which is not a value of the enum; send one of {names}")


def _check_time(time: Timestamp, path: str, violations: Violations) -> None:
    if not (0 <= time.seconds < _YEAR_10000 and 0 <= time.nanos < 10**9):
        violations.add(path, "is not a valid time in the years 1970 to 9999; send a time in this range")
