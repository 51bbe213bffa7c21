"""Command `zoomgate worker`, which runs one worker process. Only the supervisor starts this command."""

import asyncio
import functools
import os
import shutil
import signal
import sys
from pathlib import Path

import click

from zoomgate_server.app import lifecycle
from zoomgate_server.app import supervisor as worker_supervisor
from zoomgate_server.cli import event_loop
from zoomgate_server.cli.output import fail
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry import logs, metrics

_log = logs.get("zoomgate.workers")


@click.command(hidden=True)
@click.argument("number", type=int)
def worker(number: int) -> None:
    """Run a worker process. `zoomgate serve` and `zoomgate run` start this command; do not run it directly."""
    ready_signal = worker_supervisor.ReadySignal()
    try:
        config = worker_supervisor.WorkerConfig.receive(sys.stdin.buffer)
    except StartError as error:
        fail(str(error))
    logs.configure(config.settings.log_level, config.settings.log_format)
    metrics_directory = Path(os.environ[worker_supervisor.METRICS_DIRECTORY])
    metrics.share(number, metrics_directory)
    try:
        with logs.written_in_background(), event_loop.service_signals():
            event_loop.run(_serve(number, config, ready_signal, metrics_directory))
    except StartError as error:
        ready_signal.notify_ready(str(error))
        raise SystemExit(1) from None


async def _serve(
    number: int,
    config: worker_supervisor.WorkerConfig,
    ready_signal: worker_supervisor.ReadySignal,
    folder: Path,
) -> None:
    """Serve until a signal is received or the parent process exits."""
    loop = asyncio.get_running_loop()
    supervisor = sys.stdin.fileno()
    supervisor_lost = False

    def on_supervisor_exit() -> None:
        nonlocal supervisor_lost
        supervisor_lost = True
        loop.remove_reader(supervisor)
        _log.warning("worker.supervisor_lost")
        signal.raise_signal(signal.SIGTERM)

    # once the configuration has been read, the pipe becomes readable only when the supervisor exits
    loop.add_reader(supervisor, on_supervisor_exit)
    try:
        service = functools.partial(
            lifecycle.run,
            config.settings,
            anonymous=config.anonymous,
            extra_keys=config.keys,
            home_links=config.home_links,
            shared_metrics=folder,
            peers_serving=config.peers_serving,
            counts_connections=number == 1,
        )
        await lifecycle.serve(service, lambda _: ready_signal.notify_ready(None))
    finally:
        if supervisor_lost:
            shutil.rmtree(folder, ignore_errors=True)
