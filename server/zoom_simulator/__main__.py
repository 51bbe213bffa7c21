"""Runs the simulator alone: `python -m zoom_simulator --listen 127.0.0.1:8090`."""

import argparse
import asyncio
import signal
import sys

from zoom_simulator.options import SimulatorOptions
from zoom_simulator.server import Simulator


async def run(options: SimulatorOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(options) as simulator:
        print(f"zoom_simulator: ready http={simulator.url.removeprefix('http://')}", flush=True)  # noqa: T201
        await stop.wait()


def main() -> int:
    """Read the arguments and serve; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="zoom_simulator", description="A small Zoom that behaves, for development and tests."
    )
    parser.add_argument("--listen", default="127.0.0.1:8090", help="HOST:PORT, port 0 picks a free one")
    parser.add_argument(
        "--tolerance", type=int, choices=(0, 1), default=0, help="spent refresh tokens that work once more"
    )
    parser.add_argument("--access-token-seconds", type=int, default=3600, help="life of an access token")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    try:
        options = SimulatorOptions(
            host=host,
            port=int(port),
            tolerance=arguments.tolerance,
            access_token_seconds=arguments.access_token_seconds,
        )
        asyncio.run(run(options))
    except (OSError, ValueError) as error:
        print(f"zoom_simulator: cannot listen on {arguments.listen}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
