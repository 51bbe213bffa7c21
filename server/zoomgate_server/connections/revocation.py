"""Revocation of token pairs with Zoom."""

from zoomgate_server.connections.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import Revoked


class Revoker:
    """Client that revokes token pairs.

    Attributes:
        tasks: The running revocations of unused pairs.
    """

    def __init__(self, oauth: OAuthClient, limit: ConcurrencyLimit) -> None:
        self._oauth = oauth
        self._limit = limit
        self.tasks = TaskSet()

    async def revoke(self, pair: TokenPair) -> bool:
        """Revoke both tokens of a pair as background work. Return whether Zoom confirmed both revocations."""
        async with self._limit.background, self._limit.slot():
            outcomes = [
                await self._oauth.revoke(token) for token in (pair.access_token, pair.refresh_token) if token
            ]
        return all(isinstance(outcome, Revoked) for outcome in outcomes)

    def revoke_unused(self, pair: TokenPair) -> None:
        """Revoke a pair that no record contains, in the background and without a retry."""
        self.tasks.spawn(self.revoke(pair))
