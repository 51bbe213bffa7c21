"""Pauses before an interrupted stream is resumed, and which failures can be resumed."""

import random

import grpc

from zoomgate.errors import RateLimited, ZoomgateError

_INITIAL_BACKOFF, _MAX_BACKOFF = 0.1, 5.0
"""Initial and maximum delay in seconds before an interrupted stream is resumed. The delay doubles with each attempt and is
reset when data arrives. Up to 50% is added at random."""


class Backoff:
    """The delays before a stream is resumed. A stream that has received nothing is not resumed."""

    def __init__(self) -> None:
        self._next = 0.0

    def reset(self) -> None:
        """Start again with the initial delay, since data arrived."""
        self._next = _INITIAL_BACKOFF

    def pause_after(self, error: ZoomgateError) -> float:
        """Return the delay in seconds before the stream is resumed. Re-raise the error if resuming cannot succeed."""
        if not self._next or not is_temporary(error):
            raise error
        pause = max(self._next, error.retry_delay or 0.0)
        self._next = min(2 * self._next, _MAX_BACKOFF)
        return pause * random.uniform(1.0, 1.5)  # noqa: S311 - jitter, not security


def is_temporary(error: ZoomgateError) -> bool:
    """Return whether a later call can succeed.

    A stopping server may end a call with CANCELLED. A proxy whose upstream server is unreachable resets the stream, which gRPC reports as
    INTERNAL or UNKNOWN without a reason. An overloaded server returns a retry delay.
    """
    stream_reset = not error.reason and error.code() in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    )
    is_unavailable = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return stream_reset or is_unavailable or isinstance(error, RateLimited)
