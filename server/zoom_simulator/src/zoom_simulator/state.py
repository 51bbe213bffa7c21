"""The simulated state: users, grants, tokens and meetings."""

import hashlib
from base64 import urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from zoom_simulator import meetings
from zoom_simulator.clock import Clock
from zoom_simulator.errors import ApiError, TokenError
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser, SimulatorOptions
from zoom_simulator.randomness import Randomness
from zoom_simulator.request_log import log_reason

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
        access_token_revoked: Whether the access token was revoked individually.
        previous_refresh_token: The refresh token that was replaced by the latest token pair; empty for the first pair.
        generation: Number of token pairs issued so far.
        revoked: Whether all tokens of the grant are invalid.
    """

    user: SimulatedUser
    scope: str
    access_token: str = ""
    access_token_expires: float = 0.0
    access_token_revoked: bool = False
    refresh_token: str = ""
    refresh_token_expires: float = 0.0
    previous_refresh_token: str = ""
    generation: int = 0
    revoked: bool = False

    @property
    def access_token_valid(self) -> bool:
        """Whether the access token has not been revoked. It may have expired."""
        return not (self.revoked or self.access_token_revoked)


class ZoomState:
    """The state of the simulator.

    Args:
        wall: The underlying clock, in seconds since 1970. The simulator's clock follows it unless frozen.
    """

    def __init__(self, options: SimulatorOptions, wall: Callable[[], float]) -> None:
        self.options = options
        self.wall = Clock(wall, options.frozen_clock)
        self.random = Randomness(options.seed)
        self.users: dict[str, SimulatedUser] = {}
        self.codes: dict[str, Code] = {}
        self.grants: dict[str, Grant] = {}
        self.refresh_tokens: dict[str, Grant] = {}
        self._grants_by_access_token: dict[str, Grant] = {}
        self._replaced_tokens: deque[tuple[str, str]] = deque()
        self.meetings: dict[int, Meeting] = {}
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
            self.counters,
        ):
            collection.clear()
        self.wall.reset()
        self.random.reset()
        self.users.update({user.email: user for user in self.options.users})
        self._latest_meeting = _MEETING_ID_BASE
        for seeded in self.options.meetings:
            self.schedule(self.users[seeded.owner], dict(seeded.fields), seeded=True)

    @property
    def access_tokens(self) -> dict[str, Grant]:
        """The access tokens that have not been replaced or revoked."""
        return {grant.access_token: grant for grant in self.grants.values() if grant.access_token_valid}

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
        """Exchange an authorization code for tokens; the new grant revokes the user's previous one.

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
        previous = self.grants.get(stored.user.email)
        if previous is not None:
            self.revoke_grant(previous)
            self._retain_replaced_tokens(previous)
        revoked = "" if previous is None else "; the user's previous grant was revoked"
        log_reason(f"code exchanged: first token pair of this grant{revoked}")
        self.grants[stored.user.email] = grant
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
        if grant.revoked:
            if self.grants.get(grant.user.email) is not grant:
                raise TokenError("refresh token was revoked by a later consent of the same user", 4741)
            raise TokenError("refresh token belongs to a revoked grant", 4735)
        tolerated = token == grant.previous_refresh_token and self.options.tolerance > 0
        if token != grant.refresh_token and not tolerated:
            raise TokenError(
                "refresh token was already used (rotation); a refresh token can be used only once"
            )
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
        """Revoke an access token, or the whole grant of a refresh token, and return whether the token was known.

        With `SimulatorOptions.whole_grant_revoke`, revoking an access token revokes the whole grant too.
        """
        grant = self._grants_by_access_token.get(token)
        if grant is not None and token == grant.access_token and grant.access_token_valid:
            grant.access_token_revoked = True
            whole_grant = self.options.whole_grant_revoke
        else:
            grant = self.refresh_tokens.get(token)
            whole_grant = True
        if grant is None:
            log_reason("token is unknown or already revoked; Zoom reports success")
            return False
        log_reason("access token revoked; the grant remains valid", user=grant.user.email)
        if whole_grant:
            self.revoke_grant(grant)
            log_reason("token revoked together with the whole grant")
        return True

    def revoke_grant(self, grant: Grant) -> None:
        """Revoke a grant and all of its tokens."""
        grant.revoked = True

    def apply_event(self, event: str, user: SimulatedUser) -> bool:
        """Apply the effects of a Zoom event to a user.

        Return False if the event removes the app, but the user has no active grant.
        """
        grant = self.grants.get(user.email)
        if event == "app_deauthorized" and (grant is None or grant.revoked):
            return False
        if event in ("user.deleted", "user.deactivated"):
            del self.users[user.email]
        # a user who leaves the account retains the grant
        if grant is not None and event != "user.disassociated":
            self.revoke_grant(grant)
        return True

    def expire(self, email: str | None) -> int:
        """Expire the access tokens of one user, or of all users, and return their number."""
        grants = [grant for grant in self.access_tokens.values() if email in (None, grant.user.email)]
        for grant in grants:
            grant.access_token_expires = self.wall()
        return len(grants)

    def authenticate(self, token: str) -> Grant:
        """Return the grant of an access token.

        Raises:
            ApiError: The access token is unknown, expired or revoked.
        """
        grant = self._grants_by_access_token.get(token)
        if grant is None:
            raise ApiError(401, 124, "Invalid access token.", reason="unknown access token")
        log_reason("", user=grant.user.email)
        if token != grant.access_token:
            reason = "access token was replaced by a newer one (refresh)"
        elif grant.access_token_revoked:
            reason = "access token was revoked"
        elif grant.revoked and self.grants.get(grant.user.email) is not grant:
            reason = "access token was revoked by a later consent of the same user"
        elif grant.revoked:
            reason = "access token belongs to a revoked grant"
        elif self.wall() >= grant.access_token_expires:
            raise ApiError(
                401, 124, "Access token is expired.", reason="access token has expired; refresh it"
            )
        else:
            return grant
        raise ApiError(401, 124, "Invalid access token.", reason=reason)

    def rename(self, email: str, new_email: str) -> SimulatedUser:
        """Change a user's email address. ID, grants and meetings are retained.

        Raises:
            KeyError: No user has this address.
            ValueError: The new address is in use or invalid.
        """
        old = self.users[email]
        if new_email in self.users:
            raise ValueError("email is already in use")
        user = replace(old, email=new_email)
        del self.users[email]
        self.users[new_email] = user
        for code in self.codes.values():
            if code.user == old:
                code.user = user
        if email in self.grants:
            self.grants[new_email] = self.grants.pop(email)
        for grant in self.refresh_tokens.values():
            if grant.user == old:
                grant.user = user
        for meeting in self.meetings.values():
            if meeting.owner == user.user_id:
                meeting.body["host_email"] = new_email
        return user

    def _issue(self, grant: Grant) -> dict[str, Any]:
        if grant.refresh_token:
            self._retain_replaced_tokens(grant)
        now = self.wall()
        grant.access_token = f"sim-at-{self.random.text(48)}"
        grant.access_token_expires = now + self.options.access_token_seconds
        grant.access_token_revoked = False
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
            del self._grants_by_access_token[access_token]
            self.refresh_tokens.pop(refresh_token, None)  # None if it was used twice

    # -- meetings ----------------------------------------------------------------------------------------

    def schedule(self, user: SimulatedUser, body: dict[str, Any], *, seeded: bool = False) -> Meeting:
        """Create a meeting with an unused 11-digit ID.

        The body must have been validated by `meeting_rules.violations`. A seeded meeting, which exists at startup, may specify an ID and
        a start time in the past.
        """
        number = body.get("id") if seeded else None
        if number is None:
            self._latest_meeting += 7
            while self._latest_meeting in self.meetings:
                self._latest_meeting += 7
            number = self._latest_meeting
        meeting = meetings.new_meeting(body, user, number, self.wall(), self.random, allow_past_start=seeded)
        self.meetings[number] = meeting
        return meeting


def _verify_pkce(verifier: str, challenge: str, method: str) -> bool:
    if method == "S256":
        digest = hashlib.sha256(verifier.encode()).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
    return verifier == challenge
