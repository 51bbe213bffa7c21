"""Probe of the rules that Zoom's documentation leaves open, with one test user of a Zoom app.

The probe sends as few requests as possible, and concludes each rule from the tokens that are valid after them. The results have the form
of the simulator's `Rules`, so that every answer can be tested against a simulator with that rule.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules
from zoomgate_server.authorization.browser_binding import challenge_of
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.request import Target, ZoomRequest
from zoomgate_server.zoom.token_outcome import Issued, Rejected, Revoked

SETTLE_SECONDS = 5.0
"""Time that Zoom has for applying a change before its effect is read."""

_TIMEOUT = 30.0
_INVALID_TOKEN = 124
"""Zoom's code for an access token that is missing, invalid or expired (https://developers.zoom.us/docs/api/errors/)."""

Consent = Callable[[str], Awaitable[str]]
"""Lets a user consent at a URL, and returns the URL to which Zoom then redirects the browser."""


class ProbeError(Exception):
    """A rule cannot be determined. The message is one sentence for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class Passcodes:
    """Whether Zoom generates a passcode for a meeting without `password`.

    Attributes:
        by_default: If `default_password` is not set either.
        without_default: If `default_password` is false.
    """

    by_default: bool
    without_default: bool


class Probe:
    """A probe of one app and one user, whose authorizations of the app it ends.

    Args:
        settle: See `SETTLE_SECONDS`.
    """

    def __init__(
        self, zoom: ZoomClient, oauth: OAuthClient, consent: Consent, settle: float = SETTLE_SECONDS
    ) -> None:
        self._zoom = zoom
        self._oauth = oauth
        self._consent = consent
        self._settle = settle

    async def authorize(self) -> Issued:
        """Let the user consent, and exchange the code."""
        state, verifier = secrets.token_urlsafe(16), secrets.token_urlsafe(48)
        callback = await self._consent(self._oauth.authorize_url(state, challenge_of(verifier)))
        query = {name: values[-1] for name, values in parse_qs(urlsplit(callback.strip()).query).items()}
        if query.get("state") != state or "code" not in query:
            raise ProbeError(
                "the address contains no code for this consent; repeat the probe, and allow access"
            )
        outcome = await self._oauth.exchange_code(query["code"], code_verifier=verifier)
        if not isinstance(outcome, Issued):
            raise ProbeError(
                f"Zoom did not accept the code ({outcome}); check the app's credentials and redirect URI"
            )
        return outcome

    async def refresh(self, tokens: Issued) -> Issued | None:
        """Return new tokens, or None if Zoom rejects the refresh token."""
        await asyncio.sleep(self._settle)
        outcome = await self._oauth.refresh(tokens.refresh_token or "")
        if isinstance(outcome, Issued):
            return replace(outcome, refresh_token=outcome.refresh_token or tokens.refresh_token)
        if isinstance(outcome, Rejected):
            return None
        raise ProbeError(
            f"Zoom neither accepted nor rejected a refresh token ({outcome}); repeat the probe later"
        )

    async def revoke(self, token: str) -> None:
        """Revoke a token."""
        outcome = await self._oauth.revoke(token)
        if not isinstance(outcome, Revoked):
            raise ProbeError(f"Zoom did not confirm a revocation ({outcome}); repeat the probe later")

    async def accepts(self, tokens: Issued) -> bool:
        """Return whether an access token is valid."""
        await asyncio.sleep(self._settle)
        status, body = await self._call(tokens, "GET", "/users/me")
        if status == 200:
            return True
        if status == 401 or body.get("code") == _INVALID_TOKEN:
            return False
        raise ProbeError(
            f"`GET /users/me` failed with status {status}; add the scope user:read:user to the app"
        )

    async def passcodes(self, tokens: Issued) -> Passcodes:
        """Create and delete two meetings."""
        return Passcodes(
            await self._has_passcode(tokens), await self._has_passcode(tokens, default_password=False)
        )

    async def tokens_and_consents(self, tokens: Issued) -> tuple[Rules, Issued, Issued]:
        """Determine all rules except that of revocations.

        Args:
            tokens: Tokens of a new consent.

        Returns:
            The rules, the latest tokens of an earlier grant, and those of the latest one.
        """
        first = await self._require_refresh(tokens)
        overlapping = await self.accepts(tokens)
        reused = await self.refresh(tokens)
        latest = reused or await self.refresh(first)
        if reused is not None:
            reuse = RefreshTokenReuse.TOLERATED
        elif latest is not None:
            reuse = RefreshTokenReuse.REJECTED
        else:
            reuse = RefreshTokenReuse.ENDS_GRANT
        earlier = latest or await self.authorize()
        current = await self.authorize()
        survivor = await self.refresh(earlier)
        rules = Rules(reuse, overlapping, concurrent_grants=survivor is not None)
        return rules, survivor or earlier, current

    async def revocation(self, earlier: Issued, current: Issued) -> Revocation:
        """Determine what a revocation ends: first a token of the earlier grant is revoked, then one of the current grant."""
        await self.revoke(earlier.access_token)
        refreshed = await self.refresh(current)
        if refreshed is None:
            return Revocation.USER
        await self.revoke(refreshed.access_token)
        return Revocation.GRANT if await self.refresh(refreshed) is None else Revocation.TOKEN

    async def _require_refresh(self, tokens: Issued) -> Issued:
        refreshed = await self.refresh(tokens)
        if refreshed is None:
            raise ProbeError("Zoom rejected a new refresh token; check that the app issues refresh tokens")
        return refreshed

    async def _has_passcode(self, tokens: Issued, **fields: object) -> bool:
        start = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
        body = {"topic": "Zoomgate probe", "type": 2, "start_time": start, "duration": 15, **fields}
        status, meeting = await self._call(tokens, "POST", "/users/me/meetings", body)
        if status != 201:
            raise ProbeError(
                f"creating a meeting failed with status {status}; add the scope meeting:write:meeting to the app"
            )
        status, _ = await self._call(tokens, "DELETE", f"/meetings/{meeting['id']}")
        if status != 204:
            raise ProbeError(
                f"meeting {meeting['id']} could not be deleted (status {status}); delete it, and add the scope meeting:delete:meeting"
            )
        return bool(meeting.get("password"))

    async def _call(
        self, tokens: Issued, method: str, path: str, body: dict[str, object] | None = None
    ) -> tuple[int, dict[str, Any]]:
        encoded = None if body is None else json.dumps(body).encode()
        request = ZoomRequest(
            method, Target(path), body=encoded, content_type="application/json" if body else None
        )
        response = await self._zoom.send(request, tokens.access_token, timeout=_TIMEOUT)
        try:
            parsed = json.loads(response.body or b"{}")
        except ValueError:
            parsed = None
        return response.status, parsed if isinstance(parsed, dict) else {}
