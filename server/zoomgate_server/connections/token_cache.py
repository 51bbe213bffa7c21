"""Access tokens in memory, so that the hot path needs no store and no cipher."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from zoomgate_server.connections.token_pair import TokenPair


class Seen(NamedTuple):
    """How far a user's connection had come when this process saw it last.

    Attributes:
        grant: The consent.
        generation: Which pair of the user it was.
        consent_time: When the person consented, by the store's clock.
    """

    grant: str
    generation: int
    consent_time: float

    def precedes(self, other: "Seen") -> bool:
        """Tell whether this is an earlier state than another; a later consent may begin at a lower generation, in a store set back."""
        return self.generation < other.generation and (
            self.grant == other.grant or self.consent_time <= other.consent_time
        )


@dataclass(frozen=True, slots=True)
class CachedToken:
    """A token that this process may use.

    Attributes:
        tokens: The pair.
        seen: The consent it comes from, and which pair of the user it is.
        rev: Revision of the record it was read from.
        owner: The identity that the connection belongs to, or None.
        expires: Reading of the monotonic clock at which the access token expires.
    """

    tokens: TokenPair = field(repr=False)
    seen: Seen
    rev: int
    owner: str | None
    expires: float

    @property
    def generation(self) -> int:
        """Which pair of the user it is."""
        return self.seen.generation


class TokenCache:
    """The tokens of the users who called lately, and how far the connections of others had come.

    Nothing older than what was here once comes back: not from a slow reader, not from a store that was set back.

    Args:
        capacity: Tokens at most, and as many users of whom only that is known; who was put in first goes first.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._tokens: OrderedDict[str, CachedToken] = OrderedDict()
        self._without_token: OrderedDict[str, Seen] = OrderedDict()
        self._used: set[str] = set()
        self._handed_out: set[str] = set()

    def get(self, user_email: str) -> CachedToken | None:
        """Give the user's token, valid or not, if there is one."""
        return self._tokens.get(user_email)

    def note_use(self, user_email: str) -> None:
        """Note that a call of this process used the user's token."""
        self._used.add(user_email)

    def note_issued(self, user_email: str) -> None:
        """Note that somebody outside has the user's token."""
        self._handed_out.add(user_email)

    def in_use(self) -> list[tuple[str, CachedToken]]:
        """List the tokens, with whose they are, that calls of this process have used and that nobody outside has."""
        return [
            (user_email, self._tokens[user_email])
            for user_email in self._used - self._handed_out
            if user_email in self._tokens
        ]

    def is_in_use(self, user_email: str, token: CachedToken) -> bool:
        """Tell whether a token of that list would be in it still."""
        return self._tokens.get(user_email) is token and user_email not in self._handed_out

    def seen(self, user_email: str) -> Seen | None:
        """Say how far the user's connection had come, if that is known."""
        kept = self._tokens.get(user_email)
        return self._without_token.get(user_email) if kept is None else kept.seen

    def put(self, user_email: str, token: CachedToken) -> CachedToken | None:
        """Keep a token unless a newer one was here.

        Returns:
            What counts: the token, or the newer one; None if that is gone.
        """
        seen = self.seen(user_email)
        if seen is not None and token.seen.precedes(seen):
            return self._tokens.get(user_email)
        self._without_token.pop(user_email, None)
        if seen != token.seen:
            self._used.discard(user_email)
            self._handed_out.discard(user_email)
        self._tokens[user_email] = token
        self._tokens.move_to_end(user_email)
        if len(self._tokens) > self._capacity:
            self._remember(*self._tokens.popitem(last=False))
        return token

    def drop(self, user_email: str, *, unless_rev: int | None = None) -> None:
        """Forget the user's token, unless it comes from this revision of the record."""
        kept = self._tokens.get(user_email)
        if kept is not None and kept.rev != unless_rev:
            self._remember(user_email, self._tokens.pop(user_email))

    def _remember(self, user_email: str, token: CachedToken) -> None:
        """Remember of a token that goes how far the connection had come."""
        self._used.discard(user_email)
        self._without_token[user_email] = token.seen
        if len(self._without_token) > self._capacity:
            forgotten, _ = self._without_token.popitem(last=False)
            self._handed_out.discard(forgotten)
