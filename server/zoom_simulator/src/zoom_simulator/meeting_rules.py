"""Rules for the combination of fields of a meeting (https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zoom_simulator.errors import ApiError, InvalidFields
from zoom_simulator.field_types import Record, read_fields
from zoom_simulator.meeting_fields import MEETING

_COUNTRIES = "settings.approved_or_denied_countries_or_regions"
_MAX_INTERVALS = {1: 99, 2: 50, 3: 10}
"""The maximum number of days, weeks or months between two occurrences, by the type of the recurrence."""


class _Fields:
    """The fields of a meeting by their paths. A field is None if it, or the object that contains it, is absent."""

    def __init__(self, meeting: Mapping[str, Any]) -> None:
        self._meeting = meeting

    def __getitem__(self, path: str) -> Any:
        value: Any = self._meeting
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def has(self, *paths: str) -> bool:
        """Return whether all of these fields are present."""
        return all(self[path] is not None for path in paths)


class _Rule(NamedTuple):
    """A rule that a request must obey: the field that its violation names, when it is broken, and the error message."""

    field: str
    is_broken: Callable[[_Fields], bool]
    message: str


class _Adjustment(NamedTuple):
    """A field that Zoom replaces or, with None, drops without an error."""

    field: str
    applies: Callable[[_Fields], bool]
    value: object = None


_RULES = (
    _Rule(
        "recurrence.repeat_interval",
        lambda meeting: (
            (meeting["recurrence.repeat_interval"] or 1) > _MAX_INTERVALS.get(meeting["recurrence.type"], 99)
        ),
        "The value is too large for the type of the recurrence.",
    ),
    _Rule(
        "recurrence.end_date_time",
        lambda meeting: meeting.has("recurrence.end_times", "recurrence.end_date_time"),
        "The field cannot be used with end_times.",
    ),
    _Rule(
        "recurrence.monthly_week_day",
        lambda meeting: meeting.has("recurrence.monthly_week") and not meeting["recurrence.monthly_week_day"],
        "The field is required with monthly_week.",
    ),
    _Rule(
        "recurrence.monthly_week",
        lambda meeting: meeting.has("recurrence.monthly_week_day") and not meeting["recurrence.monthly_week"],
        "The field is required with monthly_week_day.",
    ),
    _Rule(
        "settings.waiting_room_options.who_goes_to_waiting_room",
        lambda meeting: (
            meeting["settings.waiting_room_options.mode"] == "custom"
            and not meeting.has("settings.waiting_room_options.who_goes_to_waiting_room")
        ),
        "The field is required with the mode custom.",
    ),
    _Rule(
        f"{_COUNTRIES}.approved_list",
        lambda meeting: (
            meeting[f"{_COUNTRIES}.method"] == "approve" and not meeting[f"{_COUNTRIES}.approved_list"]
        ),
        "The field is required with the method approve.",
    ),
    _Rule(
        f"{_COUNTRIES}.denied_list",
        lambda meeting: (
            meeting[f"{_COUNTRIES}.method"] == "deny" and not meeting[f"{_COUNTRIES}.denied_list"]
        ),
        "The field is required with the method deny.",
    ),
    _Rule(
        "settings.request_permission_to_unmute_participants",
        lambda meeting: (
            meeting["settings.request_permission_to_unmute_participants"] is True
            and meeting["settings.allow_host_control_participant_mute_state"] is True
        ),
        "The field cannot be used with allow_host_control_participant_mute_state.",
    ),
)

_TYPES_OF_FIELDS = (
    ("schedule_for", (2, 3, 8, 10), "You cannot schedule an instant meeting for others."),
    ("pre_schedule", (2, 3), "Only meetings of type 2 and 3 can be prescheduled."),
)
"""Fields that Zoom rejects for other types of meetings, with its message."""

_ADJUSTMENTS = (
    _Adjustment("start_time", lambda meeting: meeting["type"] not in (2, 8, 10)),
    _Adjustment("recurrence", lambda meeting: meeting["type"] != 8),
    _Adjustment("settings.registration_type", lambda meeting: meeting["type"] != 8),
    _Adjustment("settings.use_pmi", lambda meeting: meeting["type"] not in (2, 3), False),
    _Adjustment("settings.join_before_host", lambda meeting: bool(meeting["settings.waiting_room"]), False),
    _Adjustment("settings.join_before_host", lambda meeting: meeting["type"] not in (2, 3, 8), False),
    _Adjustment("settings.continuous_meeting_chat", lambda meeting: meeting["type"] in (1, 10)),
)


def read(body: object, record: Record = MEETING, *, undocumented: bool = False) -> dict[str, Any]:
    """Return the fields of a meeting in a request body, as Zoom stores them; see `read_fields`.

    Raises:
        InvalidFields: Fields are invalid, each on its own or together.
    """
    accepted = read_fields(body, record, undocumented=undocumented)
    fields = _Fields(accepted)
    if violations := {rule.field: rule.message for rule in _RULES if rule.is_broken(fields)}:
        raise InvalidFields(violations)
    return accepted


def check_type(body: Mapping[str, Any], kind: int) -> None:
    """Check the fields that Zoom rejects for a type of meeting.

    Raises:
        ApiError: A field is rejected.
    """
    for field, kinds, message in _TYPES_OF_FIELDS:
        if body.get(field) and kind not in kinds:
            raise ApiError(400, 3000, message)


def adjust(meeting: dict[str, Any]) -> None:
    """Replace or drop the fields of a complete meeting that do not apply to it, as Zoom does without an error."""
    fields = _Fields(meeting)
    for name, value in [(each.field, each.value) for each in _ADJUSTMENTS if each.applies(fields)]:
        section, _, leaf = name.rpartition(".")
        target = meeting[section] if section else meeting
        if value is None:
            target.pop(leaf, None)
        else:
            target[leaf] = value
