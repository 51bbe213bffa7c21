"""What a simulator can be told before it starts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoom_simulator import meeting_rules

GRANULAR_SCOPES = (
    "user:read:user",
    "meeting:write:meeting",
    "meeting:read:meeting",
    "meeting:update:meeting",
    "meeting:delete:meeting",
    "meeting:read:list_meetings",
    "meeting:update:status",
    "meeting:read:invitation",
)
"""What a consent grants unless told otherwise (https://developers.zoom.us/docs/integrations/oauth-scopes-granular/)."""

LOOPBACK_REDIRECTS = "*loopback*"
"""Stands for any http address of this machine in `redirect_uris`."""

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class SimulatedUser:
    """Somebody with an account at the simulated Zoom.

    Attributes:
        email: Unique.
        user_id: Zoom's id; made from the address if left out.
        account_id: Zoom's id of the account.
        first_name: For display.
        last_name: For display.
        timezone: IANA name; meetings without one use it.
        licensed: Without a licence the user cannot schedule (code 3161).

    Raises:
        ValueError: A field cannot be; the text begins with its name and says what to write.
    """

    email: str
    user_id: str = ""
    account_id: str = "acc-North-Harbour"
    first_name: str = ""
    last_name: str = ""
    timezone: str = "UTC"
    licensed: bool = True

    def __post_init__(self) -> None:
        for problem in user_problems({name: getattr(self, name) for name in self.__slots__}).values():
            raise ValueError(problem)
        if not self.user_id:
            made = hashlib.sha256(self.email.encode()).hexdigest()[:12]
            object.__setattr__(self, "user_id", f"u-{made}")  # frozen for everybody else


def user_problems(fields: Mapping[str, Any]) -> dict[str, str]:
    """Say what is wrong with the fields of a user, by name, and what to write instead."""
    found = {}
    for name, value in fields.items():
        if name == "licensed":
            if not isinstance(value, bool):
                found[name] = "licensed must be true or false: write licensed = true"
        elif not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
            found[name] = f'{name} must be text of at most {_LONGEST} characters: write {name} = "…"'
    email, zone = fields.get("email"), fields.get("timezone", "UTC")
    name, _, domain = email.partition("@") if isinstance(email, str) else ("", "", "")
    if not name or not domain or " " in name + domain:
        found["email"] = 'email must be an address: write email = "monica@example.com"'
    if "timezone" not in found and not meeting_rules.is_timezone(zone):
        found["timezone"] = f'timezone {zone!r} is unknown: write an IANA name, timezone = "Europe/Berlin"'
    return found


@dataclass(frozen=True, slots=True)
class SeededMeeting:
    """A meeting that is there from the start.

    Attributes:
        owner: E-mail address of the user whose it is.
        fields: As in a request that schedules a meeting; `id` may be given, and a past start stays past.
    """

    owner: str
    fields: Mapping[str, Any]


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
    """How the simulator behaves.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        client_id: The registered app. A public value: this is no real Zoom.
        client_secret: Its secret, as public.
        redirect_uris: Addresses that may follow a consent, compared exactly; `LOOPBACK_REDIRECTS` allows this machine.
        scopes: What a consent grants.
        users: Who has an account.
        meetings: Which meetings there are at the start.
        access_token_seconds: Life of an access token.
        refresh_token_seconds: Life of a refresh token that is not used; Zoom says "about 90 days", and that it may change.
        tolerance: How many spent refresh tokens still work once more: 0 (as Zoom's current tokens) or 1 (as its older ones).
        whole_grant_revoke: Revoking one token ends everything that the user granted to the app.
        seed: Makes ids, tokens and passwords the same every time; None makes them unguessable.
        standing_clock: Seconds since 1970 at which the clock stands until it is moved; None lets it run.
        webhook_url: Where events go, such as that the app was removed; nowhere if it is empty.
        webhook_secret: The app's secret token, by which events are signed; public unless another one is given.
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
    tolerance: int = 0
    whole_grant_revoke: bool = False
    seed: int | None = None
    standing_clock: float | None = None
    webhook_url: str = ""
    webhook_secret: str = field(default="zoomgate-dev-webhook-secret", repr=False)
