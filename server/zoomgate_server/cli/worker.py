"""`zoomgate worker`: one of several processes that serve together. `zoomgate serve` and `zoomgate run` start it."""

import asyncio
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
from zoomgate_server.rpc.middleware.authentication import StaticKey
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry import logs, metrics

_log = logs.get("zoomgate.workers")


@click.command(hidden=True)
@click.argument("number", type=int)
def worker(number: int) -> None:
    """Serve together with others; started by `zoomgate serve`, not by people."""
    word = worker_supervisor.ReadySignal()
    try:
        assignment = worker_supervisor.WorkerConfig.receive(sys.stdin.buffer)
    except StartError as error:
        fail(str(error))
    logs.configure(assignment.settings.log_level, assignment.settings.log_format)
    metrics.share(number)
    try:
        event_loop.run(_work(assignment, word, Path(os.environ[worker_supervisor.METRICS_FOLDER])))
    except StartError as error:
        word.notify_ready(str(error))
        raise SystemExit(1) from None
    # everything is done, and a second signal would only make it look as if it were not
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


async def _work(
    assignment: worker_supervisor.WorkerConfig, word: worker_supervisor.ReadySignal, folder: Path
) -> None:
    """Serve until a signal, or until the process that started this one is gone."""
    loop = asyncio.get_running_loop()
    supervisor = sys.stdin.fileno()
    alone = False

    def supervisor_gone() -> None:
        nonlocal alone
        alone = True
        loop.remove_reader(supervisor)
        _log.warning("worker.supervisor_lost")
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(supervisor, supervisor_gone)  # nothing more comes from there but the end
    try:
        await lifecycle.serve(
            assignment.settings,
            announce=lambda _: word.notify_ready(None),
            anonymous=assignment.anonymous,
            extra_keys=[StaticKey(sha256, whose) for sha256, whose in assignment.keys],
            shared_metrics=folder,
            peers_serving=assignment.peers_serving,
        )
    finally:
        if alone:
            shutil.rmtree(folder, ignore_errors=True)
