"""The simulator's options."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoom_simulator.field_types import is_timezone
from zoom_simulator.rules import Rules

GRANULAR_SCOPES = (
    "user:read:user",
    "meeting:write:meeting",
    "meeting:read:meeting",
    "meeting:update:meeting",
    "meeting:delete:meeting",
    "meeting:read:list_meetings",
    "meeting:update:status",
    "meeting:read:invitation",
    "meeting:read:past_meeting",
    "meeting:read:list_past_instances",
    "meeting:read:list_past_participants",
    "meeting:write:registrant",
    "meeting:read:list_registrants",
    "meeting:read:registrant",
    "meeting:update:registrant_status",
    "meeting:delete:registrant",
)
"""The scopes that a consent grants by default (https://developers.zoom.us/docs/integrations/oauth-scopes-granular/)."""

LOOPBACK_REDIRECTS = "*loopback*"
"""Placeholder in `redirect_uris` that allows any http URL with a loopback host."""

_MAX_TEXT_LENGTH = 200


def email_key(email: str) -> str:
    """Return an email address with A-Z in lower case. Two addresses with the same key are the same address."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in email)


@dataclass(frozen=True, slots=True)
class SimulatedUser:
    """A user of the simulator.

    Attributes:
        email: The email address; unique, ignoring the case of ASCII letters.
        user_id: Zoom's user ID; derived from the email address if empty.
        account_id: Zoom's account ID.
        timezone: IANA name of the default time zone of the user's meetings.
        licensed: Whether the user can schedule meetings; if not, scheduling fails with code 3161.

    Raises:
        ValueError: A field is invalid; the message starts with the name of the field and states the allowed values.
    """

    email: str
    user_id: str = ""
    account_id: str = "acc-North-Harbour"
    first_name: str = ""
    last_name: str = ""
    timezone: str = "UTC"
    licensed: bool = True

    def __post_init__(self) -> None:
        for violation in user_violations({name: getattr(self, name) for name in self.__slots__}).values():
            raise ValueError(violation)
        if not self.user_id:
            digest = hashlib.sha256(self.email.encode()).hexdigest()[:12]
            object.__setattr__(self, "user_id", f"u-{digest}")  # the dataclass is frozen

    @property
    def name(self) -> str:
        """The user's first and last name."""
        return f"{self.first_name} {self.last_name}".strip()

    @property
    def pmi(self) -> int:
        """The personal meeting ID, which has 10 digits; derived from the user ID."""
        return 4_000_000_000 + int(hashlib.sha256(self.user_id.encode()).hexdigest()[:7], 16)

    @property
    def zoom_type(self) -> int:
        """Zoom's type of the user: 2 for licensed, otherwise 1."""
        return 2 if self.licensed else 1


def user_violations(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return an error message for each invalid field of a user, by field name."""
    violations = {}
    for name, value in fields.items():
        if name == "licensed":
            if not isinstance(value, bool):
                violations[name] = "licensed must be true or false; for example licensed = true"
        elif not isinstance(value, str) or len(value) > _MAX_TEXT_LENGTH or not value.isprintable():
            violations[name] = (
                f'{name} must be text of at most {_MAX_TEXT_LENGTH} characters; for example {name} = "…"'
            )
    email, zone = fields.get("email"), fields.get("timezone", "UTC")
    name, _, domain = email.partition("@") if isinstance(email, str) else ("", "", "")
    if not name or not domain or " " in name + domain:
        violations["email"] = 'email must be an email address; for example email = "monica@example.com"'
    if "timezone" not in violations and not is_timezone(zone):
        violations["timezone"] = (
            f'timezone {zone!r} is unknown; use an IANA name, for example timezone = "Europe/Berlin"'
        )
    return violations


@dataclass(frozen=True, slots=True)
class Participant:
    """A person who joins a meeting.

    Attributes:
        name: The display name.
        email: Email address of a user or registrant; empty for a guest.

    Raises:
        ValueError: A field is not text, or the name is blank.
    """

    name: str
    email: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.email, str):
            raise ValueError("name and email of a participant must be text")
        if not self.name.strip():
            raise ValueError("name of a participant must not be blank")


@dataclass(frozen=True, slots=True)
class SeededInstance:
    """A past instance of a meeting that exists at startup.

    Attributes:
        start: When the instance started, in seconds since 1970.
        minutes: Its duration.
        participants: The participants besides the host.
    """

    start: float
    minutes: int
    participants: tuple[Participant, ...] = ()


@dataclass(frozen=True, slots=True)
class SeededMeeting:
    """A meeting that exists at startup.

    Attributes:
        owner: Email address of the owner.
        fields: The body of a request that creates a meeting. The body may contain `id`, and a start time in the past is preserved.
        registrants: The bodies of requests that add registrants.
        instances: The past instances.
    """

    owner: str
    fields: Mapping[str, Any]
    registrants: tuple[Mapping[str, Any], ...] = ()
    instances: tuple[SeededInstance, ...] = ()


DEFAULT_USERS = (
    SimulatedUser(
        "monica@example.com",
        "u-Monica-7Yc1",
        first_name="Monica",
        last_name="Reyes",
        timezone="Europe/Berlin",
    ),
    SimulatedUser("omar@example.com", "u-Omar-2Kd9", first_name="Omar", last_name="Haddad"),
    SimulatedUser("basil@example.com", "u-Basil-5Qx4", first_name="Basil", last_name="Stone", licensed=False),
)


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """The simulator's options.

    Attributes:
        host: The address to listen on.
        port: The port to listen on; 0 selects a free port.
        client_id: Client ID of the registered app. The value is public.
        client_secret: The app's client secret. The default value is public.
        redirect_uris: The allowed redirect URIs, compared exactly. `LOOPBACK_REDIRECTS` allows any URI with a loopback host.
        scopes: The scopes that a consent grants.
        users: The users of the initial state. An existing `state_file` has priority.
        meetings: The meetings of the initial state. An existing `state_file` has priority.
        access_token_seconds: Lifetime of an access token.
        refresh_token_seconds: Lifetime of an unused refresh token. Zoom documents "about 90 days", subject to change.
        daily_limits: Whether the limits per day of hosts and registrants apply; see `DailyLimit`.
        undocumented_fields: Whether meetings may contain fields and words that Zoom's documentation does not contain yet. By default, such
            fields are dropped and such words rejected.
        rules: The rules that Zoom's documentation leaves open; by default, what Zoom most likely does.
        seed: Seed for reproducible IDs, tokens and passwords; None for random values.
        frozen_clock: Time in seconds since 1970 at which the clock is frozen until it is advanced; None if the clock runs.
        webhook_url: The URL that receives events; if empty, no events are sent.
        webhook_secret: The app's secret token for signing events. The default value is public.
        state_file: The file that retains users, grants, tokens and meetings across restarts; None to store them in memory only.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    client_id: str = "zoomgate-dev"
    client_secret: str = field(default="zoomgate-dev-secret", repr=False)
    redirect_uris: tuple[str, ...] = (LOOPBACK_REDIRECTS,)
    scopes: tuple[str, ...] = GRANULAR_SCOPES
    users: tuple[SimulatedUser, ...] = DEFAULT_USERS
    meetings: tuple[SeededMeeting, ...] = ()
    access_token_seconds: int = 3600
    refresh_token_seconds: int = 90 * 86_400
    daily_limits: bool = True
    undocumented_fields: bool = False
    rules: Rules = Rules()
    seed: int | None = None
    frozen_clock: float | None = None
    webhook_url: str = ""
    webhook_secret: str = field(default="zoomgate-dev-webhook-secret", repr=False)
    state_file: Path | None = None
