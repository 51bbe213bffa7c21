"""`zoomgate serve`: the service, from its settings."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import click

from zoomgate_server import app, logs, settings
from zoomgate_server.cli import setting_options
from zoomgate_server.cli.output import fail


@click.command()
@setting_options
def serve(overrides: Mapping[str, str]) -> None:
    """Start the service from its settings. Every caller needs a key (zoomgate callers add).

    Example: ZOOMGATE_CONFIG=zoomgate.toml zoomgate serve
    """
    loaded = load(overrides)
    missing = []
    if not loaded.client_id:
        missing.append(
            "ZOOMGATE_CLIENT_ID is required: set it to your Zoom app's client id, or try everything without one with `zoomgate run`"
        )
    if loaded.callers_path is None:
        missing.append(
            "ZOOMGATE_CALLERS is required: make the file with `zoomgate callers add NAME --role service --users '*'`"
        )
    if missing:
        fail("\n".join(missing))
    run_forever(app.serve(loaded, announce=ready))


def load(overrides: Mapping[str, str], environ: Mapping[str, str] | None = None) -> settings.Settings:
    """Read the settings and set up the logs, or end with everything that is wrong."""
    try:
        loaded = settings.load(
            os.environ if environ is None else environ, overrides, terminal=sys.stderr.isatty()
        )
    except settings.SettingsError as error:
        fail("\n".join(error.problems))
    logs.configure(loaded.log_level, loaded.log_format)
    return loaded


def ready(started: app.Started) -> None:
    """Print the line that programs wait for."""
    click.echo(f"zoomgate: ready grpc={started.grpc} http={started.http}")
    sys.stdout.flush()


def run_forever(service: Coroutine[Any, Any, None]) -> None:
    """Run a service until it ends, or end with why it cannot start."""
    try:
        _runner()(service)
    except app.StartError as error:
        fail(str(error))


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run
    return uvloop.run
