"""Access tokens in memory, so that the hot path needs no store and no cipher."""

from collections import OrderedDict
from dataclasses import dataclass, field

from zoomgate_server.tokens.token import TokenPair


@dataclass(frozen=True, slots=True)
class CachedToken:
    """A token that this process may use.

    Attributes:
        tokens: The pair.
        grant: The consent it comes from.
        generation: Which pair of the user it is.
        rev: Revision of the record it was read from.
        owner: The identity that the connection belongs to, or None.
        expires: Reading of the monotonic clock at which the access token expires.
    """

    tokens: TokenPair = field(repr=False)
    grant: str
    generation: int
    rev: int
    owner: str | None
    expires: float


class TokenCache:
    """The tokens of the users who called lately.

    A slow reader cannot put an older generation over a newer one.

    Args:
        capacity: Users at most; who was put in first goes first.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._tokens: OrderedDict[str, CachedToken] = OrderedDict()

    def get(self, user_email: str) -> CachedToken | None:
        """Give the user's token, valid or not, if there is one."""
        return self._tokens.get(user_email)

    def put(self, user_email: str, token: CachedToken) -> None:
        """Keep a token unless a newer generation is kept already."""
        kept = self._tokens.get(user_email)
        if kept is not None and kept.generation > token.generation:
            return
        self._tokens[user_email] = token
        self._tokens.move_to_end(user_email)
        if len(self._tokens) > self._capacity:
            self._tokens.popitem(last=False)

    def drop(self, user_email: str, *, unless_rev: int | None = None) -> None:
        """Forget the user's token, unless it comes from this revision of the record."""
        kept = self._tokens.get(user_email)
        if kept is not None and kept.rev != unless_rev:
            del self._tokens[user_email]

    def clear(self) -> None:
        """Forget every token."""
        self._tokens.clear()
