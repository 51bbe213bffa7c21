"""Meetings in Zoom's format: creation, update, and what a caller sees of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from zoom_simulator import clock, meeting_rules, registrants
from zoom_simulator.field_types import parse_time
from zoom_simulator.meeting_fields import DEFAULT_SETTINGS
from zoom_simulator.occurrences import occurrences
from zoom_simulator.options import SimulatedUser
from zoom_simulator.past_meetings import Instance
from zoom_simulator.randomness import Randomness
from zoom_simulator.registrants import Registrant

_SERIES = 8
_TYPES_WITH_START = (2, _SERIES, 10)
_SCHEDULE = ("duration", "start_time", "timezone")
_NOT_COPIED = frozenset(
    {"default_password", "password", "schedule_for", "settings", "start_time"}
    | {"id", "uuid", "host_id", "host_email", "assistant_id", "status", "created_at", "creation_source"}
    | {"start_url", "join_url", "chat_join_url", "registration_url", "pmi", "occurrences"}
    | {"encrypted_password", "h323_password", "pstn_password"}
)
"""The fields of requests that are stored in a different way, and those that only responses contain."""


@dataclass(slots=True)
class Meeting:
    """A meeting.

    Attributes:
        owner: The host's user ID.
        body: The response body in Zoom's format.
        deleted: Whether the meeting is deleted; it can be recovered.
        scheduled_by: User ID of the user who scheduled the meeting for the host; empty if the host did.
        overrides: The agenda and settings of occurrences that were updated separately, by occurrence ID.
        registrants: The registrations, by registrant ID.
        instances: The instances that have started, oldest first.
    """

    owner: str
    body: dict[str, Any]
    deleted: bool = False
    scheduled_by: str = ""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    registrants: dict[str, Registrant] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)

    @classmethod
    def restored(cls, row: dict[str, Any]) -> "Meeting":
        """Return a meeting from its JSON representation."""
        return cls(
            **row
            | {
                "registrants": {key: Registrant(**each) for key, each in row["registrants"].items()},
                "instances": [Instance(**each) for each in row["instances"]],
            }
        )

    @property
    def number(self) -> int:
        """The meeting ID."""
        number: int = self.body["id"]
        return number

    def is_accessible_to(self, user: SimulatedUser) -> bool:
        """Return whether a user is the host or has scheduled the meeting for the host."""
        return user.user_id in (self.owner, self.scheduled_by)

    def occurrence(self, occurrence_id: str) -> dict[str, Any] | None:
        """Return an occurrence that is not deleted, or None."""
        for each in self.body.get("occurrences", ()):
            if each["occurrence_id"] == occurrence_id and each["status"] != "deleted":
                found: dict[str, Any] = each
                return found
        return None

    def set_host(self, host: SimulatedUser, scheduler: SimulatedUser) -> None:
        """Make a user the host of the meeting, which retains its ID and links."""
        self.owner = host.user_id
        self.body |= {"host_id": host.user_id, "host_email": host.email}
        self.scheduled_by = "" if scheduler.user_id == host.user_id else scheduler.user_id
        if self.scheduled_by:
            self.body["assistant_id"] = self.scheduled_by
        else:
            self.body.pop("assistant_id", None)

    @property
    def requires_registration(self) -> bool:
        """Whether participants must register."""
        return bool(self.body["settings"]["approval_type"] != 2)

    @property
    def registers_for_occurrences(self) -> bool:
        """Whether participants register for single occurrences of a series."""
        return "occurrences" in self.body and self.body["settings"].get("registration_type", 1) != 1

    def register(
        self, fields: dict[str, Any], occurrence_ids: Iterable[str], now: float, random: Randomness
    ) -> Registrant:
        """Add a registration, or update the one with the same email address.

        Args:
            fields: The fields of the request, as read with `registrants.REGISTRANT`.
            occurrence_ids: The occurrences to register for; if empty, all of them.
            now: Current time in seconds since 1970.
            random: Source of the ID and the link.
        """
        registrant = registrants.find(self.registrants.values(), fields["email"])
        if registrant is None:
            registrant = registrants.new_registrant(fields, now, random)
            self.registrants[registrant.registrant_id] = registrant
            registrant.occurrence_ids += occurrence_ids
        else:
            registrant.update(fields)
            registrant.occurrence_ids += [
                each for each in occurrence_ids if each not in registrant.occurrence_ids
            ]
        if self.body["settings"]["approval_type"] == 0 or fields.get("auto_approve"):
            registrant.set_status("approved", self.number, random)
        return registrant

    def unregister(self, registrant: Registrant, occurrence_id: str | None) -> None:
        """Delete a registration, or only its part for an occurrence of several."""
        remaining = [each for each in registrant.occurrence_ids if occurrence_id not in (None, each)]
        registrant.occurrence_ids = remaining
        if not remaining:
            del self.registrants[registrant.registrant_id]

    def start_instance(self, now: float) -> None:
        """Start an instance."""
        self.instances.append(Instance(self.body["uuid"], now))
        self.body["status"] = "started"

    def end_instance(self, now: float, random: Randomness) -> None:
        """End the live instance, if there is one. The next instance has a new UUID."""
        if self.body["status"] == "started":
            self.instances[-1].finish(now)
            self.body |= {"status": "waiting", "uuid": new_uuid(random)}

    def view(self, now: float, *, previous_occurrences: bool = False) -> dict[str, Any]:
        """Return the response body of the meeting, by default without occurrences that have ended."""
        if "occurrences" not in self.body or previous_occurrences:
            return self.body
        moment = datetime.fromtimestamp(now, UTC)
        return self.body | {
            "occurrences": [each for each in self.body["occurrences"] if end_of(each) > moment]
        }

    def view_of_occurrence(self, occurrence: dict[str, Any]) -> dict[str, Any]:
        """Return the response body of an occurrence."""
        own = self.overrides.get(occurrence["occurrence_id"], {})
        schedule = {name: occurrence[name] for name in ("start_time", "duration")}
        return self.body | own | schedule | {"settings": self.body["settings"] | own.get("settings", {})}


def new_meeting(
    body: dict[str, Any],
    host: SimulatedUser,
    number: int,
    now: float,
    random: Randomness,
    *,
    allow_past_start: bool = False,
) -> Meeting:
    """Create a meeting.

    Args:
        body: The fields of the request, as returned by `meeting_rules.read`.
        host: The host.
        number: The meeting ID.
        now: Current time in seconds since 1970.
        random: Source of the UUID, the links and the passcodes.
        allow_past_start: Preserve a start time in the past. By default, it is replaced by the current time, as in Zoom.
    """
    meeting = Meeting(
        host.user_id,
        {
            "uuid": new_uuid(random),
            "id": number,
            "host_id": host.user_id,
            "host_email": host.email,
            "topic": "Zoom Meeting",
            "type": 2,
            "status": "waiting",
            "duration": 60,
            "timezone": host.timezone,
            "created_at": clock.text(now),
            "start_url": f"https://example.zoom.us/s/{number}?zak={random.text(40)}",
            "chat_join_url": f"https://example.zoom.us/launch/jc/{number}",
            "pre_schedule": False,
            "creation_source": "open_api",
            "settings": dict(DEFAULT_SETTINGS),
        },
    )
    generated = f"{number % 899_999 + 100_000}" if body.get("default_password", True) else ""
    _apply(
        meeting,
        {"password": generated} | body,
        host,
        random,
        now,
        earliest=0.0 if allow_past_start else now,
    )
    return meeting


def update_meeting(
    meeting: Meeting, changes: dict[str, Any], host: SimulatedUser, now: float, random: Randomness
) -> None:
    """Update a meeting. As in Zoom, the schedule of a series is updated only together with its recurrence.

    Args:
        meeting: The meeting.
        changes: The fields of the request, as returned by `meeting_rules.read`.
        host: The host.
        now: Current time in seconds since 1970.
        random: Source of passcodes and links.
    """
    kind = changes.get("type", meeting.body["type"])
    if kind == meeting.body["type"] == _SERIES and "recurrence" not in changes:
        changes = {name: value for name, value in changes.items() if name not in _SCHEDULE}
    _apply(meeting, changes, host, random, now, earliest=now)


def update_occurrence(
    meeting: Meeting, occurrence: dict[str, Any], changes: dict[str, Any], now: float
) -> None:
    """Update an occurrence with the fields in `meeting_fields.OCCURRENCE`."""
    if start := _start(changes, meeting.body["timezone"], earliest=now):
        occurrence["start_time"] = start
    occurrence["duration"] = changes.get("duration", occurrence["duration"])
    own = meeting.overrides.setdefault(occurrence["occurrence_id"], {"settings": {}})
    own["settings"] |= changes.get("settings", {})
    if "agenda" in changes:
        own["agenda"] = changes["agenda"]


def end_of(row: Mapping[str, Any]) -> datetime:
    """Return the end of a meeting or an occurrence, at most the end of the year 9999."""
    try:
        return datetime.fromisoformat(row["start_time"]) + timedelta(minutes=row["duration"])
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def new_uuid(random: Randomness) -> str:
    """Return a random UUID of an instance. As in Zoom, it may contain slashes, also at the start or in sequence."""
    return random.octets(16).hex().upper()[:22].replace("A", "/") + "=="


def _apply(
    meeting: Meeting,
    changes: dict[str, Any],
    host: SimulatedUser,
    random: Randomness,
    now: float,
    *,
    earliest: float,
) -> None:
    """Apply the fields of a request, and update all that depends on them."""
    body = meeting.body
    body |= {name: value for name, value in changes.items() if name not in _NOT_COPIED}
    body["settings"] |= changes.get("settings", {})
    if start := _start(changes, body["timezone"], earliest=earliest):
        body["start_time"] = start
    elif body["type"] in _TYPES_WITH_START:
        body.setdefault("start_time", clock.text(now))
    meeting_rules.adjust(body)
    if body["type"] != _SERIES:
        body.pop("occurrences", None)
    elif "recurrence" in changes or "occurrences" not in body:
        body["occurrences"] = occurrences(body)
        meeting.overrides.clear()
    if "password" in changes:
        _set_passcode(body, changes["password"], random)
    _set_links(body, host, random)


def _start(fields: dict[str, Any], timezone: str, *, earliest: float) -> str | None:
    """Return the start time in UTC; None if it is missing or too early, which Zoom ignores."""
    start = parse_time(fields.get("start_time"), fields.get("timezone", timezone))
    return None if start is None or start.timestamp() < earliest else clock.text(start.timestamp())


def _set_passcode(body: dict[str, Any], passcode: str, random: Randomness) -> None:
    """Set the passcode and all that is derived from it; an empty one means that the meeting has none."""
    body |= dict.fromkeys(("password", "h323_password", "pstn_password"), passcode)
    body["encrypted_password"] = random.text(18) if passcode else ""


def _set_links(body: dict[str, Any], host: SimulatedUser, random: Randomness) -> None:
    """Set the links for participants and registrants, and the personal meeting ID if it is used."""
    body.pop("pmi", None)
    if body["settings"]["use_pmi"]:
        body["pmi"] = str(host.pmi)
    passcode = f"?pwd={body['encrypted_password']}" if body["encrypted_password"] else ""
    body["join_url"] = f"https://example.zoom.us/j/{body.get('pmi', body['id'])}{passcode}"
    if body["settings"]["approval_type"] == 2:
        body.pop("registration_url", None)
    elif "registration_url" not in body:
        body["registration_url"] = f"https://example.zoom.us/meeting/register/{random.text(18)}"
