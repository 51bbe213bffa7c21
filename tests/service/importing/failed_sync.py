"""The `zoomgate` command with a disk that cannot sync a results file: `python -m service.importing.failed_sync import …`."""

import errno
import os
from pathlib import Path

from zoomgate_server.cli import main


def reject_sync() -> None:
    """Let the sync of results files fail, as after an I/O error of the disk."""
    fsync = os.fsync

    def fail_for_results(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().suffixes[-2:] == [".results", ".jsonl"]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    os.fsync = fail_for_results


if __name__ == "__main__":
    reject_sync()
    main()
