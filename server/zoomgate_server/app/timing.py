"""The timing of all components, in one place so that a test can run the service with shorter times."""

from dataclasses import dataclass

from zoomgate_server.app import stores
from zoomgate_server.encryption import reloading_key_ring


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of each component."""

    store: stores.Timing = stores.Timing()
    key_ring: reloading_key_ring.Timing = reloading_key_ring.Timing()
