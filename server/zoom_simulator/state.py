"""Who has an account, what they granted, and which tokens live."""

import hashlib
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from zoom_simulator import meetings
from zoom_simulator.clock import Clock
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser, SimulatorOptions
from zoom_simulator.randomness import Randomness
from zoom_simulator.request_log import because

CODE_SECONDS = 300.0
"""Life of an authorization code (https://developers.zoom.us/docs/integrations/oauth-error-messages/, 4733)."""

REMEMBERED = 10
"""How many spent refresh tokens of a grant, and how many ended grants of a user, are told from unknown ones."""

_ENDED = 200
"""How many ended access tokens are told from unknown ones, for whoever wonders why they are refused."""

_BEFORE_THE_FIRST_MEETING = 81_234_567_890


class TokenRefused(Exception):
    """The token endpoint refuses. Carries what its answer says."""

    def __init__(self, status: int, error: str, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.body = {"reason": reason, "error": error} | ({"code": code} if code is not None else {})


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
    """What one user granted to the app by the latest consent.

    Attributes:
        user: Who.
        scope: What, separated by spaces.
        living: The refresh token that works.
        expires: When it dies unless it is used.
        generation: How many refresh tokens were issued so far; all but the living one are spent.
        spent: Those of them that are remembered, the latest first.
        access: Its access tokens that were not ended by a newer one.
        ended: Whether nothing of it works any more.
        earlier: The same user's earlier grants, the latest first.
    """

    user: SimulatedUser
    scope: str
    living: str = ""
    expires: float = 0.0
    generation: int = 0
    spent: list[str] = field(default_factory=list)
    access: list[str] = field(default_factory=list)
    ended: bool = False
    earlier: list["Grant"] = field(default_factory=list)


@dataclass(slots=True)
class Access:
    """An access token."""

    grant: Grant
    expires: float


class ZoomState:
    """Everything that the simulated Zoom knows.

    Args:
        options: How it behaves.
        wall: Seconds since 1970, followed unless the options make the clock stand still.
    """

    def __init__(self, options: SimulatorOptions, wall: Callable[[], float]) -> None:
        self.options = options
        self.wall = Clock(wall, options.standing_clock)
        self.random = Randomness(options.seed)
        self.users: dict[str, SimulatedUser] = {}
        self.codes: dict[str, Code] = {}
        self.grants: dict[str, Grant] = {}
        self.refresh_tokens: dict[str, Grant] = {}
        self.access_tokens: dict[str, Access] = {}
        self._ended_access: dict[str, tuple[str, str]] = {}  # user and why, by token
        self.meetings: dict[int, Meeting] = {}
        self.counters: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Make everything as it was at the start: users of the options, no grants and tokens, the clock, the seed."""
        for kept in (
            self.users,
            self.codes,
            self.grants,
            self.refresh_tokens,
            self.access_tokens,
            self._ended_access,
            self.meetings,
            self.counters,
        ):
            kept.clear()
        self.wall.reset()
        self.random.reset()
        self.users.update({user.email: user for user in self.options.users})
        self._latest_meeting = _BEFORE_THE_FIRST_MEETING
        for seeded in self.options.meetings:
            self.schedule(self.users[seeded.owner], dict(seeded.fields), seeded=True)

    # -- consent -----------------------------------------------------------------------------------------

    def issue_code(
        self, user: SimulatedUser, redirect_uri: str, *, challenge: str = "", challenge_method: str = "plain"
    ) -> str:
        """Issue a code after a consent."""
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
        """Exchange a code for tokens; a new grant ends the user's earlier one."""
        found = self.codes.pop(code, None)
        if found is None:
            because("the code is unknown or was used before: it works once")
            raise TokenRefused(400, "invalid_grant", "Invalid authorization code", 4734)
        because("the code is exchanged", user=found.user.email)
        if self.wall() >= found.expires:
            because(f"the code is expired: it works for {CODE_SECONDS / 60:.0f} minutes")
            raise TokenRefused(400, "invalid_grant", "Authorization code expired", 4733)
        if redirect_uri != found.redirect_uri:
            because("redirect_uri is not the one of the authorization request")
            raise TokenRefused(400, "invalid_request", "Redirect URI mismatch", 4709)
        if found.challenge and not _proves(verifier, found.challenge, found.challenge_method):
            because(
                "code verifier mismatch: code_verifier does not prove the code_challenge of the consent (PKCE)"
            )
            raise TokenRefused(400, "invalid_grant", "Code verifier mismatch")
        grant = Grant(found.user, found.scope)
        earlier = self.grants.get(found.user.email)
        if earlier is not None:
            earlier.ended = True
            grant.earlier = [earlier, *earlier.earlier]
            earlier.earlier = []
            for forgotten in grant.earlier[REMEMBERED:]:
                self._forget([forgotten.living, *forgotten.spent])
            del grant.earlier[REMEMBERED:]
        ended = "" if earlier is None else "; it ended what the user granted before"
        because(f"code of a fresh consent: first tokens of this grant{ended}")
        self.grants[found.user.email] = grant
        return self._issue(grant)

    # -- tokens ------------------------------------------------------------------------------------------

    def refresh(self, token: str) -> dict[str, Any]:
        """Rotate a refresh token."""
        grant = self.refresh_tokens.get(token)
        if grant is None:
            because(
                "refresh token is unknown: it was never issued, or is spent for so long that it is forgotten"
            )
            raise TokenRefused(400, "invalid_grant", "Invalid Token!")
        because("", user=grant.user.email)
        if grant.ended:
            if self.grants.get(grant.user.email) is not grant:
                because("refresh token was ended by a later consent of the same user")
                raise TokenRefused(
                    400, "invalid_grant", "The token was revoked by a later authorization", 4741
                )
            because("refresh token belongs to a grant that was revoked")
            raise TokenRefused(400, "invalid_grant", "Invalid Token!", 4735)
        if token != grant.living and token not in grant.spent[: self.options.tolerance]:
            because("refresh token was spent before (rotation): each one works once")
            raise TokenRefused(400, "invalid_grant", "Invalid Token!")
        if self.wall() >= grant.expires:
            because("refresh token died: nobody used it for too long")
            raise TokenRefused(400, "invalid_grant", "Invalid Token!")
        tolerated = token in grant.spent
        if tolerated:
            grant.spent.remove(token)
            self._forget([token])
        issued = self._issue(grant)
        because(
            f"spent refresh token worked once more (tolerance): generation {grant.generation} was issued"
            if tolerated
            else f"refresh token rotated: generation {grant.generation} was issued, the one before is spent"
        )
        return issued

    def revoke(self, token: str) -> bool:
        """End a token, or all of its grant; tells whether it was known."""
        access = self.access_tokens.pop(token, None)
        grant = access.grant if access is not None else self.refresh_tokens.get(token)
        if grant is None:
            because("token is unknown or ended already, which Zoom calls a success")
            return False
        because("access token revoked; the grant lives on", user=grant.user.email)
        if access is not None:
            self._note_ended(token, grant, "access token was revoked")
        if self.options.whole_grant_revoke or access is None:
            self.end(grant)
            because("token revoked, and with it everything that the user granted")
        return True

    def end(self, grant: Grant) -> None:
        """End a grant and every token of it."""
        grant.ended = True
        self._end_access(grant, "access token belongs to a grant that was revoked")

    def happen(self, event: str, user: SimulatedUser) -> bool:
        """Let Zoom's own part of an event happen; false if the app, which is to be removed, has no grant of the user."""
        grant = self.grants.get(user.email)
        if event == "app_deauthorized" and (grant is None or grant.ended):
            return False
        if event in ("user.deleted", "user.deactivated"):
            del self.users[user.email]
        if (
            grant is not None and event != "user.disassociated"
        ):  # who leaves an account keeps what they granted
            self.end(grant)
        return True

    def expire(self, email: str | None) -> int:
        """Make access tokens expire now, of one user or of all; says how many."""
        count = 0
        for access in self.access_tokens.values():
            if email in (None, access.grant.user.email):
                access.expires = self.wall()
                count += 1
        return count

    def bearer(self, token: str) -> Grant | str:
        """Give the grant behind an access token, or Zoom's words for why it is refused."""
        access = self.access_tokens.get(token)
        if access is None:
            user, why = self._ended_access.get(token, ("", "access token is unknown"))
            because(why, user=user)
            return "Invalid access token."
        because("", user=access.grant.user.email)
        if access.grant.ended:
            because("access token was ended by a later consent of the same user")
            return "Invalid access token."
        if self.wall() >= access.expires:
            because("access token is expired: it needs a refresh")
            return "Access token is expired."
        return access.grant

    def rename(self, email: str, new_email: str) -> SimulatedUser:
        """Give a user another address; id, grants and meetings stay theirs.

        Raises:
            KeyError: Nobody has the address.
            ValueError: Somebody has the new one, or it is none.
        """
        before = self.users[email]
        if new_email in self.users:
            raise ValueError("email belongs to somebody already")
        user = replace(before, email=new_email)
        del self.users[email]
        self.users[new_email] = user
        for code in self.codes.values():
            if code.user == before:
                code.user = user
        if email in self.grants:
            self.grants[new_email] = grant = self.grants.pop(email)
            for each in (grant, *grant.earlier):
                each.user = user
        for meeting in self.meetings.values():
            if meeting.owner == user.user_id:
                meeting.body["host_email"] = new_email
        return user

    def _issue(self, grant: Grant) -> dict[str, Any]:
        self._end_access(grant, "access token was ended by a newer one (refresh)")
        if grant.living:
            grant.spent.insert(0, grant.living)
            self._forget(grant.spent[REMEMBERED:])
            del grant.spent[REMEMBERED:]
        access, refresh = f"sim-at-{self.random.text(48)}", f"sim-rt-{self.random.text(48)}"
        grant.living, grant.expires = refresh, self.wall() + self.options.refresh_token_seconds
        grant.generation += 1
        self.refresh_tokens[refresh] = grant
        self.access_tokens[access] = Access(grant, self.wall() + self.options.access_token_seconds)
        grant.access.append(access)
        return {
            "access_token": access,
            "token_type": "bearer",
            "refresh_token": refresh,
            "expires_in": self.options.access_token_seconds,
            "scope": grant.scope,
            "api_url": "https://api.zoom.us",
        }

    def _end_access(self, grant: Grant, why: str) -> None:
        for token in grant.access:
            if self.access_tokens.pop(token, None) is not None:  # else it was revoked by itself
                self._note_ended(token, grant, why)
        grant.access.clear()

    def _note_ended(self, token: str, grant: Grant, why: str) -> None:
        self._ended_access[token] = (grant.user.email, why)
        while len(self._ended_access) > _ENDED:
            del self._ended_access[next(iter(self._ended_access))]

    def _forget(self, tokens: list[str]) -> None:
        """Drop refresh tokens that are refused anyway; Zoom's answer to them is the one to unknown tokens."""
        for token in tokens:
            self.refresh_tokens.pop(token, None)

    # -- meetings ----------------------------------------------------------------------------------------

    def schedule(self, user: SimulatedUser, body: dict[str, Any], *, seeded: bool = False) -> Meeting:
        """Schedule a meeting under an unused id of 11 digits.

        Args:
            user: Whose it is.
            body: What was asked for, checked by `meeting_rules.problems`.
            seeded: It is there from the start: it may bring its id, and its start may be past.
        """
        number = body.get("id") if seeded else None
        if number is None:
            self._latest_meeting += 7
            while self._latest_meeting in self.meetings:
                self._latest_meeting += 7
            number = self._latest_meeting
        meeting = meetings.new(body, user, number, self.wall(), self.random, past=seeded)
        self.meetings[number] = meeting
        return meeting


def _proves(verifier: str, challenge: str, method: str) -> bool:
    if method == "S256":
        digest = hashlib.sha256(verifier.encode()).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
    return verifier == challenge
