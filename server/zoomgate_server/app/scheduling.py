"""The scheduling class of a serving process."""

import os

from zoomgate_server.telemetry import logs

_log = logs.get("zoomgate.app")


def use_batch_class() -> None:
    """Change the scheduling class of this thread, and of the threads and processes that it starts, from SCHED_OTHER to SCHED_BATCH.

    The threads of gRPC wake each other several times per call. In this class, a thread that wakes up does not interrupt the running one
    (sched(7)), which saves context switches. A class that the platform has chosen is not changed.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        _log.info("service.scheduling_class_refused", problem=error.strerror)
