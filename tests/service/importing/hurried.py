"""`zoomgate` as the command starts it, which is patient with Zoom for a moment only: `python -m service.importing.hurried import …`."""

from zoomgate_server.cli import import_runner, main
from zoomgate_server.importing import importer

if __name__ == "__main__":
    importer.FIRST_PAUSE_SECONDS, importer.MOST_PAUSE_SECONDS = 0.01, 0.05
    importer.STORE_SECONDS = 2.0
    import_runner.REVOKE_SECONDS = 0.2
    main()
