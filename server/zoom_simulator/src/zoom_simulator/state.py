"""The simulated state: users, grants, tokens and meetings."""

import hashlib
from base64 import urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from zoom_simulator import meeting_rules, meetings, registrants
from zoom_simulator.clock import Clock
from zoom_simulator.errors import ApiError, TokenError
from zoom_simulator.field_types import read_fields
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import (
    LOOPBACK_REDIRECTS,
    Participant,
    SeededMeeting,
    SimulatedUser,
    SimulatorOptions,
    email_key,
)
from zoom_simulator.past_meetings import Instance
from zoom_simulator.randomness import Randomness
from zoom_simulator.rate_limits import DailyLimit, DailyLimits
from zoom_simulator.request_log import log_reason
from zoom_simulator.rules import RefreshTokenReuse, Revocation

CODE_SECONDS = 300.0
"""Lifetime of an authorization code (error 4733 in https://developers.zoom.us/docs/integrations/oauth-error-messages/)."""

RETAINED_TOKENS = 10_000
"""Number of replaced token pairs that are remembered to explain why their tokens are rejected."""

_MEETING_ID_BASE = 81_234_567_890


@dataclass(slots=True)
class Code:
    """An authorization code."""

    user: SimulatedUser
    redirect_uri: str
    challenge: str
    challenge_method: str
    expires: float
    scope: str


@dataclass(slots=True)
class Grant:
    """A user's consent to the app, with its latest token pair.

    Attributes:
        scope: The granted scopes, separated by spaces.
        access_token: The latest access token.
        access_tokens: The expiry of each access token that has not been replaced or revoked, in seconds since 1970.
        previous_refresh_token: The refresh token that was replaced by the latest token pair; empty for the first pair.
        generation: Number of token pairs issued so far.
        revoked: Whether all tokens of the grant are invalid.
        superseded: Whether a later consent of the user revoked the grant.
    """

    user: SimulatedUser
    scope: str
    access_token: str = ""
    access_tokens: dict[str, float] = field(default_factory=dict)
    refresh_token: str = ""
    refresh_token_expires: float = 0.0
    previous_refresh_token: str = ""
    generation: int = 0
    revoked: bool = False
    superseded: bool = False


class UnknownUser(KeyError):
    """An error for an email address that no user has."""


class ZoomState:
    """The state of the simulator.

    Args:
        wall: The underlying clock, in seconds since 1970. The simulator's clock follows it unless frozen.

    Attributes:
        users: The users by the keys of their email addresses; see `email_key`.
        grants: Each user's latest grant, by the same key.
        redirect_uri: The redirect URI of the app, used for consents without a browser.
    """

    def __init__(self, options: SimulatorOptions, wall: Callable[[], float]) -> None:
        self.options = options
        configured = (uri for uri in options.redirect_uris if uri != LOOPBACK_REDIRECTS)
        self.redirect_uri = next(configured, "http://127.0.0.1/")
        self.wall = Clock(wall, options.frozen_clock)
        self.random = Randomness(options.seed)
        self.users: dict[str, SimulatedUser] = {}
        self.codes: dict[str, Code] = {}
        self.grants: dict[str, Grant] = {}
        self.refresh_tokens: dict[str, Grant] = {}
        self._grants_by_access_token: dict[str, Grant] = {}
        self._replaced_tokens: deque[tuple[str, str]] = deque()
        self.meetings: dict[int, Meeting] = {}
        self._limits = DailyLimits(self.wall)
        self.counters: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Restore the initial users, meetings, clock and seed, and delete all grants and tokens."""
        for collection in (
            self.users,
            self.codes,
            self.grants,
            self.refresh_tokens,
            self._grants_by_access_token,
            self._replaced_tokens,
            self.meetings,
            self._limits.counts,
            self.counters,
        ):
            collection.clear()
        self.wall.reset()
        self.random.reset()
        self.users.update({email_key(user.email): user for user in self.options.users})
        self._latest_meeting = _MEETING_ID_BASE
        for seeded in self.options.meetings:
            self._add_seeded(seeded)

    def snapshot(self) -> dict[str, Any]:
        """Return the users, grants, tokens, meetings and advances of the clock, for `restore`. Authorization codes are omitted."""
        grants = {
            id(grant): grant
            for by_key in (self.grants, self.refresh_tokens, self._grants_by_access_token)
            for grant in by_key.values()
        }
        numbers = {key: number for number, key in enumerate(grants)}

        def references(by_key: dict[str, Grant]) -> dict[str, int]:
            return {key: numbers[id(grant)] for key, grant in by_key.items()}

        return {
            "users": list(self.users.values()),
            "all_grants": list(grants.values()),
            "grants": references(self.grants),
            "refresh_tokens": references(self.refresh_tokens),
            "access_tokens": references(self._grants_by_access_token),
            "replaced_tokens": list(self._replaced_tokens),
            "meetings": list(self.meetings.values()),
            "latest_meeting": self._latest_meeting,
            "limits": [self._limits.day, self._limits.counts],
            "clock_ahead": self.wall.ahead,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Replace the state by a snapshot that was encoded as JSON.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, IndexError: The snapshot is invalid; the state is incomplete.
        """
        users = [SimulatedUser(**row) for row in snapshot["users"]]
        grants = [Grant(**row | {"user": SimulatedUser(**row["user"])}) for row in snapshot["all_grants"]]

        def referenced(name: str) -> dict[str, Grant]:
            return {key: grants[number] for key, number in snapshot[name].items()}

        self.users = {email_key(user.email): user for user in users}
        self.grants = referenced("grants")
        self.refresh_tokens = referenced("refresh_tokens")
        self._grants_by_access_token = referenced("access_tokens")
        self._replaced_tokens = deque((access, refresh) for access, refresh in snapshot["replaced_tokens"])
        restored = [Meeting.restored(row) for row in snapshot["meetings"]]
        self.meetings = {meeting.number: meeting for meeting in restored}
        self._limits.day, counts = snapshot["limits"]
        self._limits.counts.update(counts)
        self._latest_meeting = int(snapshot["latest_meeting"])
        self.wall.advance(snapshot["clock_ahead"])

    @property
    def access_tokens(self) -> dict[str, Grant]:
        """The access tokens that have not been replaced or revoked."""
        return {
            token: grant
            for token, grant in self._grants_by_access_token.items()
            if token in grant.access_tokens
        }

    # -- users -------------------------------------------------------------------------------------------

    def user(self, email: str) -> SimulatedUser:
        """Return the user with an email address, ignoring the case of ASCII letters.

        Raises:
            UnknownUser: No user has this address.
        """
        try:
            return self.users[email_key(email)]
        except KeyError:
            raise UnknownUser(email) from None

    def user_by_id(self, user_id: str) -> SimulatedUser | None:
        """Return the user with a user ID, or None."""
        return next((user for user in self.users.values() if user.user_id == user_id), None)

    def token_user(self, token: str) -> SimulatedUser | None:
        """Return the user of an access token, refresh token or authorization code, or None if it is not remembered."""
        owner = (
            self._grants_by_access_token.get(token) or self.refresh_tokens.get(token) or self.codes.get(token)
        )
        return None if owner is None else owner.user

    def add_user(self, user: SimulatedUser) -> None:
        """Add a user.

        Raises:
            ValueError: The email address or the user ID is in use.
        """
        key = email_key(user.email)
        if key in self.users:
            raise ValueError("email is already in use; rename or delete its user first")
        if any(user.user_id == other.user_id for other in self.users.values()):
            raise ValueError("user_id is already in use; set a different user_id")
        self.users[key] = user
        self.grants.pop(key, None)  # the grant of a deleted user with this address

    def rename(self, email: str, new_email: str) -> SimulatedUser:
        """Change a user's email address. ID, grants and meetings are retained.

        Raises:
            UnknownUser: No user has this address.
            ValueError: The new address is in use or invalid.
        """
        old = self.user(email)
        user = replace(old, email=new_email)
        key, new_key = email_key(email), email_key(new_email)
        if new_key in self.users and new_key != key:
            raise ValueError("email is already in use; rename or delete its user first")
        del self.users[key]
        self.users[new_key] = user
        grant = self.grants.pop(key, None)
        self.grants.pop(new_key, None)  # the grant of a deleted user with this address
        if grant is not None:
            self.grants[new_key] = grant
        for code in self.codes.values():
            if code.user == old:
                code.user = user
        for grant in self._grants_of(old):
            grant.user = user
        for meeting in self.meetings.values():
            if meeting.owner == user.user_id:
                meeting.body["host_email"] = new_email
        return user

    # -- consent -----------------------------------------------------------------------------------------

    def issue_code(
        self, user: SimulatedUser, redirect_uri: str, *, challenge: str = "", challenge_method: str = "plain"
    ) -> str:
        """Issue an authorization code for a consent."""
        for old in [old for old, code in self.codes.items() if self.wall() >= code.expires + CODE_SECONDS]:
            del self.codes[old]
        code = self.random.text(24)
        self.codes[code] = Code(
            user,
            redirect_uri,
            challenge,
            challenge_method or "plain",
            self.wall() + CODE_SECONDS,
            " ".join(self.options.scopes),
        )
        return code

    def exchange(self, code: str, redirect_uri: str, verifier: str) -> dict[str, Any]:
        """Exchange an authorization code for tokens.

        Unless `Rules.concurrent_grants` is set, the new grant revokes the user's previous one.

        Raises:
            TokenError: The code, the redirect URI or the code verifier is invalid.
        """
        stored = self.codes.pop(code, None)
        if stored is None:
            raise TokenError("the code is unknown or already used; a code can be used only once", 4734)
        log_reason("", user=stored.user.email)
        if self.wall() >= stored.expires:
            raise TokenError(
                f"the code has expired; codes are valid for {CODE_SECONDS / 60:.0f} minutes", 4733
            )
        if redirect_uri != stored.redirect_uri:
            raise TokenError("redirect_uri differs from the one in the authorization request", 4709)
        if stored.challenge and not _verify_pkce(verifier, stored.challenge, stored.challenge_method):
            raise TokenError(
                "code verifier mismatch: code_verifier does not match the code_challenge of the authorization request (PKCE)",
                message="Code verifier mismatch",
            )
        grant = Grant(stored.user, stored.scope)
        key = email_key(stored.user.email)
        previous = self.grants.get(key)
        reason = "code exchanged: first token pair of this grant"
        if previous is not None and not self.options.rules.concurrent_grants:
            self.revoke_grant(previous)
            previous.superseded = True
            self._retain_replaced_tokens(previous)
            reason += "; the user's previous grant was revoked"
        log_reason(reason)
        self.grants[key] = grant
        return self._issue(grant)

    # -- tokens ------------------------------------------------------------------------------------------

    def refresh(self, token: str) -> dict[str, Any]:
        """Exchange a refresh token for a new token pair.

        Raises:
            TokenError: The refresh token is unknown, used, expired or revoked.
        """
        grant = self.refresh_tokens.get(token)
        if grant is None:
            raise TokenError(
                "unknown refresh token: it was never issued, or it was used so long ago that it is no longer remembered"
            )
        log_reason("", user=grant.user.email)
        if grant.superseded:
            raise TokenError("refresh token was revoked by a later consent of the same user", 4741)
        if grant.revoked:
            raise TokenError("refresh token belongs to a revoked grant", 4735)
        reuse = self.options.rules.refresh_token_reuse
        tolerated = token == grant.previous_refresh_token and reuse is RefreshTokenReuse.TOLERATED
        if token != grant.refresh_token and not tolerated:
            consequence = "a refresh token can be used only once"
            if reuse is RefreshTokenReuse.ENDS_GRANT:
                self.revoke_grant(grant)
                consequence = "the whole grant was revoked"
            raise TokenError(f"refresh token was already used (rotation); {consequence}")
        if self.wall() >= grant.refresh_token_expires:
            raise TokenError("refresh token expired: it was not used in time")
        if tolerated:
            del self.refresh_tokens[token]
        issued = self._issue(grant)
        log_reason(
            f"used refresh token accepted once more (tolerance): generation {grant.generation} issued"
            if tolerated
            else f"refresh token rotated: generation {grant.generation} issued, the previous one is no longer valid"
        )
        return issued

    def revoke(self, token: str) -> bool:
        """Revoke a token as `Rules.revocation` states, and return whether the token was known."""
        revocation = self.options.rules.revocation
        access_token_only = revocation is Revocation.TOKEN and token in self._grants_by_access_token
        grant = self._grants_by_access_token.get(token) or self.refresh_tokens.get(token)
        if grant is None or (access_token_only and token not in grant.access_tokens):
            log_reason("token is unknown or already revoked; Zoom reports success")
            return False
        log_reason("", user=grant.user.email)
        if access_token_only:
            del grant.access_tokens[token]
            log_reason("access token revoked; the grant remains valid")
        elif revocation is Revocation.USER:
            self.revoke_user(grant.user)
            log_reason("token revoked together with all grants of the user")
        else:
            self.revoke_grant(grant)
            log_reason("token revoked together with the whole grant")
        return True

    def revoke_grant(self, grant: Grant) -> None:
        """Revoke a grant and all of its tokens."""
        grant.revoked = True
        grant.access_tokens.clear()

    def revoke_user(self, user: SimulatedUser) -> bool:
        """Revoke all grants of a user, and return whether any was active."""
        active = [grant for grant in self._grants_of(user) if not grant.revoked]
        for grant in active:
            self.revoke_grant(grant)
        return bool(active)

    def apply_event(self, event: str, user: SimulatedUser) -> bool:
        """Apply the effects of a Zoom event to a user.

        Return False if the event removes the app, but the user has no active grant.
        """
        if event in ("user.deleted", "user.deactivated"):
            del self.users[email_key(user.email)]
        # a user who leaves the account retains the grants
        revoked = event != "user.disassociated" and self.revoke_user(user)
        return revoked or event != "app_deauthorized"

    def expire(self, email: str | None) -> int:
        """Expire the access tokens of one user, or of all users, and return their number.

        Raises:
            UnknownUser: No user has this address.
        """
        user = None if email is None else self.user(email)
        tokens = [
            (token, grant)
            for token, grant in self.access_tokens.items()
            if user is None or grant.user.user_id == user.user_id
        ]
        for token, grant in tokens:
            grant.access_tokens[token] = self.wall()
        return len(tokens)

    def authenticate(self, token: str) -> Grant:
        """Return the grant of an access token.

        Raises:
            ApiError: The access token is unknown, expired or revoked.
        """
        grant = self._grants_by_access_token.get(token)
        if grant is None:
            raise ApiError(401, 124, "Invalid access token.", reason="unknown access token")
        log_reason("", user=grant.user.email)
        if grant.superseded:
            reason = "access token was revoked by a later consent of the same user"
        elif grant.revoked:
            reason = "access token belongs to a revoked grant"
        elif token not in grant.access_tokens:
            replaced = token != grant.access_token and not self.options.rules.overlapping_access_tokens
            reason = (
                "access token was replaced by a newer one (refresh)"
                if replaced
                else "access token was revoked"
            )
        elif self.wall() >= grant.access_tokens[token]:
            raise ApiError(
                401, 124, "Access token is expired.", reason="access token has expired; refresh it"
            )
        else:
            return grant
        raise ApiError(401, 124, "Invalid access token.", reason=reason)

    def _issue(self, grant: Grant) -> dict[str, Any]:
        if grant.refresh_token:
            self._retain_replaced_tokens(grant)
        if not self.options.rules.overlapping_access_tokens:
            grant.access_tokens.clear()
        now = self.wall()
        grant.access_token = f"sim-at-{self.random.text(48)}"
        grant.access_tokens[grant.access_token] = now + self.options.access_token_seconds
        grant.previous_refresh_token = grant.refresh_token
        grant.refresh_token = f"sim-rt-{self.random.text(48)}"
        grant.refresh_token_expires = now + self.options.refresh_token_seconds
        grant.generation += 1
        self._grants_by_access_token[grant.access_token] = grant
        self.refresh_tokens[grant.refresh_token] = grant
        return {
            "access_token": grant.access_token,
            "token_type": "bearer",
            "refresh_token": grant.refresh_token,
            "expires_in": self.options.access_token_seconds,
            "scope": grant.scope,
            "api_url": "https://api.zoom.us",
        }

    def _retain_replaced_tokens(self, grant: Grant) -> None:
        """Retain the token pair of a grant after its replacement, and delete the oldest of more than `RETAINED_TOKENS`."""
        self._replaced_tokens.append((grant.access_token, grant.refresh_token))
        if len(self._replaced_tokens) > RETAINED_TOKENS:
            access_token, refresh_token = self._replaced_tokens.popleft()
            self._grants_by_access_token.pop(access_token).access_tokens.pop(access_token, None)
            self.refresh_tokens.pop(refresh_token, None)  # None if it was used twice

    def _grants_of(self, user: SimulatedUser) -> list[Grant]:
        """Return the remembered grants of a user, one for each of their refresh tokens."""
        return [grant for grant in self.refresh_tokens.values() if grant.user.user_id == user.user_id]

    # -- meetings ----------------------------------------------------------------------------------------

    def schedule(self, caller: SimulatedUser, body: dict[str, Any]) -> Meeting:
        """Create a meeting with an unused 11-digit ID.

        Args:
            caller: The user of the token.
            body: The fields of the request, as returned by `meeting_rules.read`.

        Raises:
            ErrorResponse: The meeting is rejected.
        """
        meeting_rules.check_type(body, body.get("type", 2))
        host = self._scheduled_host(caller, body) or caller
        if not host.licensed:
            raise ApiError(
                400,
                3161,
                "Your account or service plan does not allow you to host meetings.",
                reason=f"meeting rejected: {host.email} has no license",
            )
        self.count(DailyLimit.MEETING_CHANGES, host.user_id)
        meeting = meetings.new_meeting(body, host, self._unused_number(), self.wall(), self.random)
        meeting.set_host(host, caller)
        self.meetings[meeting.number] = meeting
        return meeting

    def reschedule(
        self, caller: SimulatedUser, meeting: Meeting, occurrence: dict[str, Any] | None, body: dict[str, Any]
    ) -> None:
        """Update a meeting or an occurrence of it.

        Args:
            caller: The user of the token.
            meeting: The meeting.
            occurrence: The occurrence; None for the whole meeting.
            body: The fields of the request, as returned by `meeting_rules.read`.

        Raises:
            ErrorResponse: The update is rejected.
        """
        meeting_rules.check_type(body, body.get("type", meeting.body["type"]))
        new_host = self._scheduled_host(caller, body)
        self.count(DailyLimit.MEETING_CHANGES, meeting.owner)
        if occurrence is not None:
            meetings.update_occurrence(meeting, occurrence, body, self.wall())
            return
        if new_host is not None:
            meeting.set_host(new_host, caller)
        host = self.user_by_id(meeting.owner) or caller
        meetings.update_meeting(meeting, body, host, self.wall(), self.random)

    def join(self, meeting: Meeting, instance: Instance, participant: Participant, now: float) -> None:
        """Add a participant, who may be a user or registrant, to an instance of a meeting."""
        user = self.users.get(email_key(participant.email))
        registrant = registrants.find(meeting.registrants.values(), participant.email)
        instance.join(
            participant.name,
            participant.email,
            now,
            user_id=user.user_id if user else "",
            registrant_id=registrant.registrant_id if registrant else "",
        )

    def count(self, limit: DailyLimit, *subjects: str) -> None:
        """Count a request of hosts or registrants against a daily limit.

        Raises:
            ErrorResponse: The limit is reached.
        """
        if self.options.daily_limits:
            self._limits.count(limit, *subjects)

    def _scheduled_host(self, caller: SimulatedUser, body: dict[str, Any]) -> SimulatedUser | None:
        """Return the user in `schedule_for`, who must belong to the caller's account."""
        name = body.get("schedule_for")
        if not name:
            return None
        host = self.users.get(email_key(name)) or self.user_by_id(name)
        if host is None:
            raise ApiError(400, 300, "You can not schedule a meeting for this user.")
        if host.account_id != caller.account_id:
            raise ApiError(400, 3000, f"You cannot schedule a meeting for {name}")
        return host

    def _add_seeded(self, seeded: SeededMeeting) -> None:
        """Add a meeting that exists at startup."""
        host = self.user(seeded.owner)
        number = seeded.fields.get("id") or self._unused_number()
        now, body = self.wall(), meeting_rules.read(seeded.fields)
        meeting = meetings.new_meeting(body, host, number, now, self.random, allow_past_start=True)
        self.meetings[number] = meeting
        for registrant in seeded.registrants:
            meeting.register(read_fields(registrant, registrants.REGISTRANT), [], now, self.random)
        for played in sorted(seeded.instances, key=lambda each: each.start):
            instance = Instance(meetings.new_uuid(self.random), played.start)
            for participant in (Participant(host.name or host.email, host.email), *played.participants):
                self.join(meeting, instance, participant, played.start)
            instance.finish(played.start + 60 * played.minutes)
            meeting.instances.append(instance)

    def _unused_number(self) -> int:
        self._latest_meeting += 7
        while self._latest_meeting in self.meetings:
            self._latest_meeting += 7
        return self._latest_meeting


def _verify_pkce(verifier: str, challenge: str, method: str) -> bool:
    if method == "S256":
        digest = hashlib.sha256(verifier.encode()).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
    return verifier == challenge
