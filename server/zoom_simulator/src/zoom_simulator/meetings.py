"""Creation and update of meetings in Zoom's format."""

from dataclasses import dataclass
from typing import Any

from zoom_simulator import clock, meeting_rules
from zoom_simulator.options import SimulatedUser
from zoom_simulator.randomness import Randomness


@dataclass(slots=True)
class Meeting:
    """A meeting, represented by its owner's user ID and its response body in Zoom's format."""

    owner: str
    body: dict[str, Any]
    deleted: bool = False


def new_meeting(
    body: dict[str, Any],
    user: SimulatedUser,
    number: int,
    now: float,
    random: Randomness,
    *,
    allow_past_start: bool = False,
) -> Meeting:
    """Create a meeting.

    Args:
        body: The request body, already validated by `meeting_rules.violations`.
        user: The owner.
        number: The meeting ID.
        now: Current time in seconds since 1970.
        random: Source of the UUID and passwords.
        allow_past_start: Preserve a start time in the past. By default, it is replaced by the current time, as in Zoom.
    """
    kind, duration = body.get("type", 2), body.get("duration", 60)
    password = body.get("password", f"{number % 899_999 + 100_000}")
    encrypted = random.text(18)
    meeting: dict[str, Any] = {
        "uuid": _uuid(random),
        "id": number,
        "host_id": user.user_id,
        "host_email": user.email,
        "topic": "Zoom Meeting",
        "status": "waiting",
        "duration": duration,
        "timezone": user.timezone,
        "created_at": clock.text(now),
        "start_url": f"https://example.zoom.us/s/{number}?zak={random.text(40)}",
        "join_url": f"https://example.zoom.us/j/{number}?pwd={encrypted}",
        "chat_join_url": f"https://example.zoom.us/launch/jc/{number}",
        "encrypted_password": encrypted,
        "h323_password": password,
        "pstn_password": password,
        "pre_schedule": False,
        "creation_source": "open_api",
        **_writable_fields(body),
        "type": kind,
        "password": password,
        "settings": {**_DEFAULT_SETTINGS, **body.get("settings", {})},
    }
    meeting.pop("schedule_for", None)
    meeting.pop("start_time", None)
    if kind in (2, 8, 10):
        earliest = 0.0 if allow_past_start and "start_time" in body else now
        meeting["start_time"] = meeting_rules.start_time(body, user.timezone, earliest)
    if kind == 8:
        meeting["occurrences"] = meeting_rules.occurrences(body, meeting["start_time"], duration)
    return Meeting(user.user_id, meeting)


def update_meeting(
    meeting: dict[str, Any], occurrence: dict[str, Any] | None, body: dict[str, Any], zone: str, now: float
) -> None:
    """Update a meeting, or one of its occurrences, in place.

    The body must have been validated by `meeting_rules.violations`. For an occurrence, only the start time and the duration can be
    updated. `zone` is the owner's time zone. `now` is in seconds since 1970.
    """
    start = body.get("start_time")
    if start is not None:
        zoned = {"start_time": start, "timezone": body.get("timezone", meeting["timezone"])}
        (meeting if occurrence is None else occurrence)["start_time"] = meeting_rules.start_time(
            zoned, zone, now
        )
    if occurrence is not None:
        occurrence["duration"] = body.get("duration", occurrence["duration"])
        return
    settings = {**meeting.get("settings", {}), **body.get("settings", {})}
    changes = {name: value for name, value in _writable_fields(body).items() if name != "start_time"}
    meeting.update(changes, settings=settings)


def _writable_fields(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that a caller may set."""
    return {name: value for name, value in body.items() if name not in _READ_ONLY_FIELDS}


def _uuid(random: Randomness) -> str:
    """Return a random meeting UUID. As in Zoom, a UUID may contain slashes, even at the start."""
    return random.octets(16).hex().upper()[:22].replace("A", "/", 1) + "=="


_READ_ONLY_FIELDS = frozenset(
    {
        "id",
        "uuid",
        "host_id",
        "host_email",
        "status",
        "created_at",
        "start_url",
        "join_url",
        "chat_join_url",
        "encrypted_password",
        "h323_password",
        "pstn_password",
        "pmi",
        "occurrences",
        "creation_source",
    }
)
_DEFAULT_SETTINGS: dict[str, Any] = {
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
    "waiting_room": True,
    "meeting_authentication": False,
    "encryption_type": "enhanced_encryption",
    "device_testing": False,
    "breakout_room": {"enable": False},
}
