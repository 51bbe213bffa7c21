"""Command `zoomgate simulator`, which runs the Zoom simulator without the service."""

import click

from zoom_simulator import start_options
from zoom_simulator.__main__ import run
from zoom_simulator.options import SimulatorOptions
from zoomgate_server.cli import simulator_controls
from zoomgate_server.cli.output import USAGE, fail
from zoomgate_server.settings import Address


@click.group(invoke_without_command=True)
@click.option(
    "--listen",
    default="127.0.0.1:8090",
    show_default=True,
    help="Loopback HOST:PORT to listen on; port 0 selects a free port.",
)
@click.option(
    "--tolerance",
    type=click.IntRange(0, 1),
    default=0,
    show_default=True,
    help="Number of a user's most recently used refresh tokens that Zoom accepts a second time.",
)
@click.option(
    "--access-token-seconds",
    type=click.IntRange(1, 86_400),
    default=3600,
    show_default=True,
    help="Lifetime of an access token, in seconds.",
)
@click.option(
    "--whole-grant-revoke",
    is_flag=True,
    help="Revoke the user's whole grant when any of its tokens is revoked.",
)
@click.option("--seed", type=click.IntRange(0, start_options.MAX_SEED), help=start_options.SEED_HELP)
@click.option("--clock", metavar="TIME", help=start_options.CLOCK_HELP)
@click.option("--seed-file", metavar="FILE", help=start_options.SEED_FILE_HELP)
@click.option("--webhook-url", metavar="URL", help=start_options.WEBHOOK_HELP)
def simulator(
    listen: str,
    tolerance: int,
    access_token_seconds: int,
    whole_grant_revoke: bool,
    seed: int | None,
    clock: str | None,
    seed_file: str | None,
    webhook_url: str | None,
) -> None:
    """Start only the Zoom simulator, or control a running simulator.

    The simulator listens on loopback addresses only, since it has no TLS. It has no access to real accounts.

    Example: zoomgate simulator --listen 127.0.0.1:8090
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    import asyncio  # noqa: PLC0415 - keeps help fast

    address = simulator_address("--listen", listen)
    options = SimulatorOptions(
        host=address.host,
        port=address.port,
        tolerance=tolerance,
        access_token_seconds=access_token_seconds,
        whole_grant_revoke=whole_grant_revoke,
    )
    try:
        options = start_options.with_startup_options(
            options, seed=seed, frozen_at=clock, seed_file=seed_file, webhook_url=webhook_url
        )
    except start_options.InvalidOption as error:
        fail(str(error), USAGE)
    try:
        asyncio.run(run(options))
    except OSError as error:
        fail(f"cannot listen on {listen} ({error.strerror}); choose a different port with --listen")


def simulator_address(option: str, text: str) -> Address:
    """Parse the simulator's address, or exit with an error.

    Only loopback addresses are accepted, because the simulator has no TLS and its secrets are public.
    """
    try:
        address = Address.parse(text)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        fail(
            f"{option} is {text!r}; use 127.0.0.1:PORT, because the simulator must not be reachable from other machines",
            USAGE,
        )
    return address


for _command in (
    simulator_controls.fault,
    simulator_controls.expire,
    simulator_controls.event,
    simulator_controls.stats,
):
    simulator.add_command(_command)
