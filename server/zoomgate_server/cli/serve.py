"""Command `zoomgate serve`, which starts the service."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import click

from zoomgate_server import settings
from zoomgate_server.app import file_descriptors, scheduling
from zoomgate_server.cli import event_loop, privileges
from zoomgate_server.cli.output import fail
from zoomgate_server.cli.setting_options import setting_options
from zoomgate_server.identity import Principal
from zoomgate_server.startup import ServiceAddresses, StartError
from zoomgate_server.telemetry import logs


@click.command()
@setting_options
def serve(overrides: Mapping[str, str]) -> None:
    """Start the service. Every caller needs a key (`zoomgate callers add`).

    Example: ZOOMGATE_CONFIG=zoomgate.toml zoomgate serve
    """
    loaded = load(overrides)
    missing = []
    if not loaded.client_id:
        missing.append(
            "ZOOMGATE_CLIENT_ID is required; set it to the client ID of your Zoom app, or run `zoomgate run` to use the Zoom simulator"
        )
    if loaded.callers is None:
        missing.append(
            "ZOOMGATE_CALLERS is required; create the file with `zoomgate callers add NAME --role service --users '*'`"
        )
    if missing:
        fail("\n".join(missing))
    run_forever(serve_with(loaded, announce=ready), loaded)


def load(overrides: Mapping[str, str], environ: Mapping[str, str] | None = None) -> settings.Settings:
    """Read the settings, become the owner of their files, and configure the logs; exit with all problems if the settings are invalid."""
    try:
        loaded = privileges.load_settings(os.environ if environ is None else environ, overrides)
    except settings.SettingsError as error:
        fail("\n".join(error.problems))
    logs.configure(loaded.log_level, loaded.log_format)
    return loaded


async def serve_with(
    loaded: settings.Settings,
    *,
    announce: Callable[[ServiceAddresses], None],
    anonymous: Principal | None = None,
    keys: Mapping[str, Principal] = {},
    home_links: Mapping[str, str] | None = None,
) -> None:
    """Serve in the current process, or in worker processes if the setting for workers is greater than 1; see `lifecycle.serve`."""
    file_descriptors.raise_limit(file_descriptors.needed(loaded))  # worker processes inherit the limit
    if loaded.workers > 1:
        from zoomgate_server.app import supervisor  # noqa: PLC0415 - needed only with workers

        await supervisor.supervise(
            loaded, announce=announce, anonymous=anonymous, keys=keys, home_links=home_links
        )
        return
    from zoomgate_server.app import lifecycle  # noqa: PLC0415 - with workers, this process does not load gRPC

    service = functools.partial(
        lifecycle.run, loaded, anonymous=anonymous, extra_keys=keys, home_links=home_links
    )
    await lifecycle.serve(service, announce)


def ready(started: ServiceAddresses) -> None:
    """Print the ready line for supervising programs."""
    click.echo(f"zoomgate: ready grpc={started.grpc} http={started.http}")
    sys.stdout.flush()


def run_forever(service: Coroutine[Any, Any, None], loaded: settings.Settings) -> None:
    """Run the service until it stops; exit with an error message if the service cannot start."""
    if loaded.batch_scheduling:
        scheduling.use_batch_class()  # before any thread starts; worker processes inherit the class
    try:
        with logs.written_in_background(), event_loop.service_signals():
            (event_loop.run if loaded.workers == 1 else asyncio.run)(service)
    except StartError as error:
        fail(str(error))
