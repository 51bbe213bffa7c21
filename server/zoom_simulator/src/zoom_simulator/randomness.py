"""The source of tokens, codes and IDs."""

import random
import secrets
from base64 import urlsafe_b64encode


class Randomness:
    """A source of random values: cryptographically secure without a seed, reproducible with a seed.

    Args:
        seed: Seed for reproducible values. They are predictable, so use a seed only in tests.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._seeded = self._generator()

    def octets(self, count: int) -> bytes:
        """Return `count` random bytes."""
        return secrets.token_bytes(count) if self._seeded is None else self._seeded.randbytes(count)

    def text(self, count: int) -> str:
        """Return `count` random bytes, encoded as letters, digits, `-` and `_`."""
        return urlsafe_b64encode(self.octets(count)).rstrip(b"=").decode()

    def reset(self) -> None:
        """Restart the sequence of a seeded source."""
        self._seeded = self._generator()

    def _generator(self) -> random.Random | None:
        return None if self._seed is None else random.Random(self._seed)  # noqa: S311 - must be reproducible
