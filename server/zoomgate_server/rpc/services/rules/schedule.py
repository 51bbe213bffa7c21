"""The schedule of a meeting: its start in its time zone, and the conditions that depend on it."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.rules.rule import Values
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.rpc.services.zoom_json import enum_words
from zoomgate_server.time_zone import is_time_zone

_LOCAL = re.compile(
    r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d", re.ASCII
)  # excludes hour 24, which only some Python versions accept


def check_additional(details: pb.MeetingDetails, path: str, violations: Violations) -> None:
    """Reject additional fields that determine the schedule. Only an unknown type has no field of its own."""
    _check_additional(details, path, violations, enum_words(pb.MeetingType.DESCRIPTOR).values())
    if details.HasField("recurrence"):
        types = enum_words(pb.Recurrence.Type.DESCRIPTOR).values()
        _check_additional(details.recurrence, f"{path}recurrence.", violations, types)


def _check_additional(
    message: pb.MeetingDetails | pb.Recurrence, path: str, violations: Violations, types: Collection[object]
) -> None:
    extra = message.additional_fields
    for name in ("start_time", "timezone", "type"):
        if name in extra and (name != "type" or extra[name] in types):
            violations.add(
                f"{path}{ADDITIONAL}.{name}",
                "determines the schedule, which could not be validated; set the field of the message instead",
            )


def zone(name: str) -> ZoneInfo | None:
    """Return a time zone, or None if the name is empty. The zone of an invalid name is UTC, so that other fields can be checked."""
    return ZoneInfo(name if is_time_zone(name) else "UTC") if name else None


def start(
    details: pb.MeetingDetails, known_zone: ZoneInfo | None, *, default: float | None = None
) -> datetime | None:
    """Return the start of a meeting, or None if it is unknown or invalid.

    Args:
        known_zone: The time zone of the meeting; None if it is unknown.
        default: The start of a meeting without one, in seconds since 1970.
    """
    try:
        match details.WhichOneof("start"):
            case "local_start_time":
                if known_zone is None or not is_local_time(details.local_start_time):
                    return None
                local = datetime.fromisoformat(details.local_start_time).replace(tzinfo=known_zone)
                return local.astimezone(UTC).astimezone(known_zone)
            case "start_time":
                return datetime.fromtimestamp(details.start_time.seconds, known_zone or UTC)
            case _:
                return None if default is None else datetime.fromtimestamp(default, known_zone or UTC)
    except (ValueError, OverflowError, OSError):
        return None  # outside the years 1970 to 9999, which is a violation already


def is_local_time(text: str) -> bool:
    """Return whether a string is a date and time without a time zone, from 1970 on."""
    try:
        return _LOCAL.fullmatch(text) is not None and datetime.fromisoformat(text).year >= 1970
    except ValueError:
        return False


def is_out_of_range(values: Values) -> bool:
    """Return whether a valid local start is outside the years 1970 to 9999 in UTC."""
    local = values.get("local_start_time")
    return (
        isinstance(local, str)
        and is_local_time(local)
        and values["start"] is None
        and values["zone"] is not None
    )


def is_skipped(values: Values) -> bool:
    """Return whether the local start is skipped by a clock change. Zones then return a different time after a conversion."""
    start, local = values["start"], values.get("local_start_time")
    return (
        start is not None
        and isinstance(local, str)
        and start.replace(tzinfo=None) != datetime.fromisoformat(local)
    )


def ends_too_early(values: Values) -> bool:
    """Return whether the recurrence ends before the start, if that is known, or before the earliest start that Zoom accepts."""
    start, end = values["start"], values.get("recurrence.end_time")
    if start is None or not isinstance(end, Timestamp):
        return False
    return end.seconds < max(int(start.timestamp()), int(values["earliest"]))
