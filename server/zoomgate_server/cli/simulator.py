"""`zoomgate simulator`: the simulated Zoom alone."""

import click

from zoom_simulator import start_options
from zoom_simulator.__main__ import run
from zoom_simulator.options import SimulatorOptions
from zoomgate_server.cli import simulator_switches
from zoomgate_server.cli.output import USAGE, fail
from zoomgate_server.settings import Address


@click.group(invoke_without_command=True)
@click.option(
    "--listen", default="127.0.0.1:8090", show_default=True, help="HOST:PORT; port 0 picks a free one."
)
@click.option(
    "--tolerance",
    type=click.IntRange(0, 1),
    default=0,
    show_default=True,
    help="Spent refresh tokens that work once more.",
)
@click.option(
    "--access-token-seconds",
    type=click.IntRange(1, 86_400),
    default=3600,
    show_default=True,
    help="Life of an access token.",
)
@click.option(
    "--whole-grant-revoke", is_flag=True, help="Revoking one token ends everything that the user granted."
)
@click.option("--seed", type=click.IntRange(0, start_options.MOST_SEED), help=start_options.SEED_HELP)
@click.option("--clock", metavar="MOMENT", help=start_options.CLOCK_HELP)
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
    """Start the simulated Zoom alone, or work the switches of one that runs.

    It is for this machine: it knows no real account and has no TLS.

    Example: zoomgate simulator --listen 127.0.0.1:8090
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    import asyncio  # noqa: PLC0415 - heavy for help

    address = simulator_address("--listen", listen)
    options = SimulatorOptions(
        host=address.host,
        port=address.port,
        tolerance=tolerance,
        access_token_seconds=access_token_seconds,
        whole_grant_revoke=whole_grant_revoke,
    )
    try:
        options = start_options.with_start(
            options, seed=seed, moment=clock, seed_file=seed_file, webhook_url=webhook_url
        )
    except start_options.WrongOption as wrong:
        fail(str(wrong), USAGE)
    try:
        asyncio.run(run(options))
    except OSError as error:
        fail(f"--listen: {listen} cannot be listened on ({error.strerror}): choose another port")


def simulator_address(option: str, text: str) -> Address:
    """Read where the simulator listens, or end with what is wrong: it has no TLS and knows its own secrets by heart."""
    try:
        address = Address.parse(text)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        fail(
            f"{option} is {text!r}: write 127.0.0.1:PORT, since the simulator is for this machine alone",
            USAGE,
        )
    return address


for _switch in (
    simulator_switches.fault,
    simulator_switches.expire,
    simulator_switches.event,
    simulator_switches.stats,
):
    simulator.add_command(_switch)
