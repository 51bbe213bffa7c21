"""The `zoomgate` command with short pauses and timeouts: `python -m service.importing.hurried import …`."""

from zoomgate_server.cli import cli
from zoomgate_server.importing.importer import Timing

if __name__ == "__main__":
    cli(obj=Timing(first_pause=0.01, max_pause=0.05, store_timeout=2.0, revocation_timeout=0.2))
