"""Command `python -m zoom_simulator`, which runs the simulator without the service."""

import argparse
import asyncio
import signal
import sys

from zoom_simulator import start_options
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.server import Simulator

_SECONDS_PER_DAY = 86_400


async def run(options: SimulatorOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(options) as simulator:
        print(f"zoom_simulator: ready http={simulator.url.removeprefix('http://')}", flush=True)  # noqa: T201
        print(f"zoom_simulator: overview page: {simulator.page_url}", flush=True)  # noqa: T201
        await stop.wait()


def main() -> int:
    """Parse the arguments and serve.

    The exit code is 1 if the port is in use and 2 if an option is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="zoom_simulator",
        description="Zoom simulator for development and tests on the local machine.",
    )
    parser.add_argument("--listen", default="127.0.0.1:8090", help=start_options.LISTEN_HELP)
    parser.add_argument(
        "--tolerance",
        type=int,
        choices=(0, 1),
        default=0,
        help="Number of a user's most recently used refresh tokens that Zoom accepts a second time.",
    )
    parser.add_argument(
        "--access-token-seconds", type=int, default=3600, help="Lifetime of an access token, in seconds."
    )
    parser.add_argument(
        "--whole-grant-revoke",
        action="store_true",
        help="Revoke the user's whole grant when any of its tokens is revoked.",
    )
    parser.add_argument("--seed", type=int, help=start_options.SEED_HELP)
    parser.add_argument("--clock", metavar="TIME", help=start_options.CLOCK_HELP)
    parser.add_argument("--seed-file", metavar="FILE", help=start_options.SEED_FILE_HELP)
    parser.add_argument("--webhook-url", metavar="URL", help=start_options.WEBHOOK_HELP)
    arguments = parser.parse_args()
    try:
        host, port = start_options.parse_listen_address("--listen", arguments.listen)
        if not 1 <= arguments.access_token_seconds <= _SECONDS_PER_DAY:
            raise start_options.InvalidOption(
                f"--access-token-seconds is {arguments.access_token_seconds}; use 1 to {_SECONDS_PER_DAY}"
            )
        options = start_options.with_startup_options(
            SimulatorOptions(
                host=host,
                port=port,
                tolerance=arguments.tolerance,
                access_token_seconds=arguments.access_token_seconds,
                whole_grant_revoke=arguments.whole_grant_revoke,
            ),
            seed=arguments.seed,
            frozen_at=arguments.clock,
            seed_file=arguments.seed_file,
            webhook_url=arguments.webhook_url,
        )
    except start_options.InvalidOption as error:
        return _fail(str(error), 2)
    try:
        asyncio.run(run(options))
    except OSError as error:
        return _fail(
            f"cannot listen on {arguments.listen} ({error.strerror}); choose a different port with --listen",
            1,
        )
    return 0


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"zoom_simulator: {line}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
