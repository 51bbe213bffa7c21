"""The interface to the system clocks; components receive it through their constructors."""

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Wall time for timestamps that are stored or shown, and monotonic time for intervals."""

    def wall(self) -> float:
        """Return the Unix time in seconds; the value may jump."""
        ...

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment, including suspends of the machine; the value never decreases."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    wall = staticmethod(time.time)
    # Linux stops CLOCK_MONOTONIC, and thus time.monotonic and the timers of the event loop, while a machine is suspended
    monotonic = staticmethod(
        partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )
