"""The `zoomgate` command with short pauses: `python -m service.importing.hurried import …`."""

from zoomgate_server.cli import cli
from zoomgate_server.cli.importing.importer import Timing

if __name__ == "__main__":
    cli(obj=Timing(first_pause=0.01, max_pause=0.05))
