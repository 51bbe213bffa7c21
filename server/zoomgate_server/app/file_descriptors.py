"""The limit on open files of a process. Every connection needs a file descriptor."""

import contextlib
import resource

from zoomgate_server.settings import Settings
from zoomgate_server.telemetry import logs

RESERVE = 1000
"""Number of file descriptors for the connections of callers and browsers, for the store, the journal and the logs."""

_log = logs.get("zoomgate.app")


def needed(settings: Settings) -> int:
    """Return the number of file descriptors that a process needs at its concurrency limits."""
    return (
        settings.max_concurrent_refreshes
        + settings.max_concurrent_exchanges
        + settings.max_concurrent_zoom_calls
        + settings.max_concurrent_downloads
        + RESERVE
    )


def available(wanted: int) -> int:
    """Return the wanted number of file descriptors, or the hard limit if it is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def raise_limit(wanted: int) -> None:
    """Raise the soft limit to the wanted number, or to the hard limit if it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = available(wanted)
    with contextlib.suppress(ValueError):  # the system allows fewer than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        _log.warning("service.file_descriptors_limited", limit=limit, wanted=wanted)
