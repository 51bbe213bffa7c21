"""Exponential backoff."""


class Backoff:
    """Pauses between attempts, in seconds. Each pause is twice as long as the previous one, up to `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next_pause(self) -> float:
        """Return the length of the next pause, in seconds."""
        pause = min(self._next, self._longest)
        self._next = 2 * pause
        return pause

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self._next = self._first
