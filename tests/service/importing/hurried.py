"""The `zoomgate` command with short pauses and timeouts: `python -m service.importing.hurried import …`."""

from zoomgate_server.cli import import_runner, main
from zoomgate_server.importing import importer

if __name__ == "__main__":
    importer.FIRST_PAUSE_SECONDS, importer.LONGEST_PAUSE_SECONDS = 0.01, 0.05
    importer.STORE_TIMEOUT_SECONDS = 2.0
    import_runner.REVOKE_SECONDS = 0.2
    main()
