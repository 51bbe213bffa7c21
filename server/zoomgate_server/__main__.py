"""Entry point of the `zoomgate` command and of `python -m zoomgate_server`."""

from zoomgate_server.cli import main

if __name__ == "__main__":
    main()
