"""In-memory cache of access tokens, so that most calls need neither the store nor decryption."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from zoomgate_server.connections.token_pair import TokenPair


class ConnectionVersion(NamedTuple):
    """A version of a user's connection.

    Attributes:
        consent_time: When the user consented, on the store's clock.
    """

    grant: str
    generation: int
    consent_time: float

    def precedes(self, other: "ConnectionVersion") -> bool:
        """Return whether this version is older than `other`.

        A version with a later consent is never considered older, even if its generation is lower because of a store rollback.
        """
        return self.generation < other.generation and (
            self.grant == other.grant or self.consent_time <= other.consent_time
        )


@dataclass(frozen=True, slots=True)
class CachedToken:
    """A token pair in the cache.

    Attributes:
        seen: The version of the connection that the pair belongs to.
        rev: Revision of the record that the pair was read from.
        owner: Identity of the member that owns the connection, or None.
        expires: Reading of the monotonic clock at which the access token expires.
    """

    tokens: TokenPair = field(repr=False)
    seen: ConnectionVersion
    rev: int
    owner: str | None
    expires: float

    @property
    def generation(self) -> int:
        """The generation of the pair."""
        return self.seen.generation


class TokenCache:
    """Cache of recently used tokens, and of the last seen versions of other connections.

    A newer version of a connection is never replaced by an older version, neither after a slow read nor after a store rollback.

    Args:
        capacity: Maximum number of cached tokens, and also of other users whose last seen version is stored. The oldest entry is evicted
            first.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._tokens: OrderedDict[str, CachedToken] = OrderedDict()
        self._without_token: OrderedDict[str, ConnectionVersion] = OrderedDict()
        self._used: set[str] = set()
        self._issued_to_callers: set[str] = set()

    def get(self, user_email: str) -> CachedToken | None:
        """Return the user's token, valid or not, or None."""
        return self._tokens.get(user_email)

    def note_use(self, user_email: str) -> None:
        """Record that a call by this process used the user's token."""
        self._used.add(user_email)

    def note_issued(self, user_email: str) -> None:
        """Record that the user's token was returned to a caller."""
        self._issued_to_callers.add(user_email)

    def in_use(self) -> list[tuple[str, CachedToken]]:
        """Return users and tokens that calls by this process have used, excluding tokens that were returned to a caller."""
        return [
            (user_email, self._tokens[user_email])
            for user_email in self._used - self._issued_to_callers
            if user_email in self._tokens
        ]

    def is_in_use(self, user_email: str, token: CachedToken) -> bool:
        """Return whether a token from `in_use` is still cached and has not been returned to a caller since."""
        return self._tokens.get(user_email) is token and user_email not in self._issued_to_callers

    def seen(self, user_email: str) -> ConnectionVersion | None:
        """Return the last seen version of the user's connection, if known."""
        cached = self._tokens.get(user_email)
        return self._without_token.get(user_email) if cached is None else cached.seen

    def put(self, user_email: str, token: CachedToken) -> CachedToken | None:
        """Store a token unless a newer one has been seen.

        Returns:
            The token to use: `token`, or the newer cached token. None if a newer token has been seen but is no longer cached.
        """
        seen = self.seen(user_email)
        if seen is not None and token.seen.precedes(seen):
            return self._tokens.get(user_email)
        self._without_token.pop(user_email, None)
        if seen != token.seen:
            self._used.discard(user_email)
            self._issued_to_callers.discard(user_email)
        self._tokens[user_email] = token
        self._tokens.move_to_end(user_email)
        if len(self._tokens) > self._capacity:
            self._store_version(*self._tokens.popitem(last=False))
        return token

    def drop(self, user_email: str, *, unless_rev: int | None = None) -> None:
        """Remove the user's token, unless the token was read from the revision `unless_rev` of the record."""
        cached = self._tokens.get(user_email)
        if cached is not None and cached.rev != unless_rev:
            self._store_version(user_email, self._tokens.pop(user_email))

    def _store_version(self, user_email: str, token: CachedToken) -> None:
        """Store the version of a removed token."""
        self._used.discard(user_email)
        self._without_token[user_email] = token.seen
        if len(self._without_token) > self._capacity:
            evicted, _ = self._without_token.popitem(last=False)
            self._issued_to_callers.discard(evicted)
