"""Where tokens, codes and ids come from."""

import random
import secrets
from base64 import urlsafe_b64encode


class Randomness:
    """Unguessable unless a seed is given; with one the same values come in the same order, every time.

    Args:
        seed: A number for values that anybody can foretell. It is meant for tests alone, like the whole simulator.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._foretold = self._generator()

    def octets(self, count: int) -> bytes:
        """Give so many bytes."""
        return secrets.token_bytes(count) if self._foretold is None else self._foretold.randbytes(count)

    def text(self, count: int) -> str:
        """Give so many bytes, as letters, digits, `-` and `_`."""
        return urlsafe_b64encode(self.octets(count)).rstrip(b"=").decode()

    def reset(self) -> None:
        """Begin again, if there is a seed."""
        self._foretold = self._generator()

    def _generator(self) -> random.Random | None:
        return None if self._seed is None else random.Random(self._seed)  # noqa: S311 - foretelling is its purpose
