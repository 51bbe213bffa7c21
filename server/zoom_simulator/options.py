"""What a simulator can be told before it starts."""

from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class SimulatedUser:
    """Somebody with an account at the simulated Zoom.

    Attributes:
        email: Unique.
        user_id: Zoom's id.
        account_id: Zoom's id of the account.
        first_name: For display.
        last_name: For display.
        timezone: IANA name; meetings without one use it.
        licensed: Without a licence the user cannot schedule (code 3161).
    """

    email: str
    user_id: str
    account_id: str = "acc-North-Harbour"
    first_name: str = ""
    last_name: str = ""
    timezone: str = "UTC"
    licensed: bool = True


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
        access_token_seconds: Life of an access token.
        tolerance: How many spent refresh tokens still work once more: 0 (as Zoom's current tokens) or 1 (as its older ones).
        whole_grant_revoke: Revoking one token ends everything that the user granted to the app.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    client_id: str = "zoomgate-dev"
    client_secret: str = field(default="zoomgate-dev-secret", repr=False)
    redirect_uris: tuple[str, ...] = (LOOPBACK_REDIRECTS,)
    scopes: tuple[str, ...] = GRANULAR_SCOPES
    users: tuple[SimulatedUser, ...] = DEFAULT_USERS
    access_token_seconds: int = 3600
    tolerance: int = 0
    whole_grant_revoke: bool = False
