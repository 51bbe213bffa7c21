"""The timing of all components, in one place so that a test can run the service with shorter times."""

from dataclasses import dataclass

from zoomgate_server.app import stores
from zoomgate_server.encryption import reloading_key_ring
from zoomgate_server.watch import change_feed, watchers


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of each component."""

    store: stores.Timing = stores.Timing()
    key_ring: reloading_key_ring.Timing = reloading_key_ring.Timing()
    feed: change_feed.Timing = change_feed.Timing()
    watches: watchers.Timing = watchers.Timing()
