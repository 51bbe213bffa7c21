"""Supervisor of worker processes: reservation of shared ports, and start and restart of workers.

Workers are separate programs (`zoomgate worker`), not forks. Each worker has a separate event loop, gRPC server, and Zoom clients; the
supervisor does not import gRPC. The supervisor sends the configuration over the worker's standard input. This pipe stays open while the
supervisor runs; when the pipe closes, the worker shuts down gracefully. A worker sends a single message over its standard output: that the
worker is ready, or the reason why it cannot start.
"""

import asyncio
import contextlib
import os
import pickle
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import orjson

from zoomgate_server.app import listeners, otlp_exporters
from zoomgate_server.backoff import Backoff
from zoomgate_server.identity import Principal
from zoomgate_server.settings import Settings
from zoomgate_server.startup import ServiceAddresses, StartError
from zoomgate_server.telemetry import logs, metrics

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the metrics directory shared by the workers; the name is defined by prometheus_client."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - names in it are unpredictable
"""File system in memory. See shm_overview(7)."""

MAX_FAILED_STARTS = 5
"""Number of consecutive failed starts of a worker after which the service exits."""

MIN_RESTART_DELAY, MAX_RESTART_DELAY = 0.1, 30.0
"""Bounds of the delay, in seconds, before a worker is restarted. The delay doubles each time the worker exits early."""

STEADY_SECONDS = 60.0
"""Running time, in seconds, below which the exit of a worker is treated as early."""

_log = logs.get("zoomgate.workers")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Configuration of a worker.

    Attributes:
        settings: The settings, with the actual port numbers.
        anonymous: The principal of callers without a credential, or None.
        keys: Callers by the SHA-256 of their keys, in addition to those of the callers file.
        home_links: Links of the page at the root of the HTTP server, or None for no page.
        peers_serving: Whether other workers are serving while this worker starts.
    """

    settings: Settings
    anonymous: Principal | None
    keys: Mapping[str, Principal]
    home_links: Mapping[str, str] | None = None
    peers_serving: bool = False

    @classmethod
    def receive(cls, source: BinaryIO) -> "WorkerConfig":
        """Read the configuration sent by the supervisor, or raise `StartError` if the input is something else."""
        try:
            config = pickle.load(source)  # noqa: S301 - sent by the supervisor over a private pipe
        except Exception:  # noqa: BLE001 - invalid pickles raise any exception
            config = None
        if not isinstance(config, WorkerConfig):
            raise StartError("zoomgate worker is an internal command; run `zoomgate serve --workers` instead")
        return config


class ReadySignal:
    """The only message from a worker to the supervisor, sent over the worker's original standard output.

    Standard output is then redirected to the log: the supervisor stops reading the pipe after the message, so library output
    would eventually fill the pipe and block the worker.
    """

    def __init__(self) -> None:
        self._pipe = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def notify_ready(self, problem: str | None) -> None:
        """Report that the worker is ready, or the reason why it cannot start. Do nothing if the supervisor has exited."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, orjson.dumps({"problem": problem}) + b"\n")


async def supervise(
    settings: Settings,
    *,
    announce: Callable[[ServiceAddresses], None],
    anonymous: Principal | None = None,
    keys: Mapping[str, Principal] = {},
    home_links: Mapping[str, str] | None = None,
) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT, then shut down gracefully; see `WorkerConfig`.

    SIGHUP is forwarded to the workers.

    Args:
        announce: Called once all workers are serving.

    Raises:
        StartError: The service cannot start, or a worker could not be restarted.
    """
    async with contextlib.AsyncExitStack() as stack:
        grpc, http = stack.enter_context(listeners.reserved(settings))
        directory = stack.enter_context(_metrics_directory())
        bound = replace(settings, listen=grpc, http_listen=http)
        config = WorkerConfig(bound, anonymous, keys, home_links)
        metrics_only = replace(settings.opentelemetry, traces=False)  # each worker exports its spans
        otlp_exporters.start(metrics_only, stack, metrics.combined(directory))
        await _Workers(config, directory, announce).run()


@contextlib.contextmanager
def _metrics_directory() -> Iterator[Path]:
    """Create the directory of the workers' metrics: in shared memory if possible, since metrics are not worth a disk."""
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    try:
        directory = tempfile.TemporaryDirectory(
            prefix="zoomgate-metrics-", dir=parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise StartError(
            f"cannot create a directory for the workers' metrics in {parent or 'TMPDIR'} ({error.strerror}); free some space"
        ) from None
    with directory as name:
        yield Path(name)


class _Workers:
    """The worker processes, numbered from 1, and their state."""

    def __init__(
        self, config: WorkerConfig, directory: Path, announce: Callable[[ServiceAddresses], None]
    ) -> None:
        self._config = config
        self._count = config.settings.workers
        self._directory = directory
        self._announce = announce
        self._processes: dict[int, Process] = {}
        self._serving: set[int] = set()
        self._reload_when_ready: set[int] = set()
        self._announced = False
        self._first_is_ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._problem: str | None = None

    async def run(self) -> None:
        """Keep all workers running until a signal arrives, then wait for them to exit."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_workers)
        loop.add_signal_handler(signal.SIGHUP, self._reload_workers)
        await asyncio.gather(*(self._restart_loop(number) for number in range(1, self._count + 1)))
        if self._problem is not None:
            raise StartError(self._problem)

    def _stop_workers(self, problem: str | None = None) -> None:
        """Shut down all workers gracefully. Later signals do not interrupt the shutdown, since some tokens may not be stored yet."""
        self._problem = self._problem or problem
        self._stop.set()
        self._first_is_ready.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    def _reload_workers(self) -> None:
        """Forward SIGHUP to the workers. A worker that is starting receives it once it handles the signal."""
        for number, process in self._processes.items():
            if number in self._serving:
                _reload(process)
            else:
                self._reload_when_ready.add(number)

    async def _restart_loop(self, number: int) -> None:
        # the first worker starts alone and creates the store and the keys, so that problems are reported only once
        if number > 1:
            await self._first_is_ready.wait()
        failed_starts, backoff = 0, Backoff(MIN_RESTART_DELAY, MAX_RESTART_DELAY)
        while not self._stop.is_set():
            start_time = time.monotonic()
            problem = await self._run_one(number)
            if self._stop.is_set():
                return
            failed_starts = 0 if problem is None else failed_starts + 1
            if problem is not None and (failed_starts == MAX_FAILED_STARTS or not self._announced):
                context = f"a worker failed to start {failed_starts} times in a row: "
                self._stop_workers((context if self._announced else "") + problem)
                return
            if problem is None and time.monotonic() - start_time >= STEADY_SECONDS:
                backoff.reset()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), backoff.next_pause())

    async def _run_one(self, number: int) -> str | None:
        """Run one process until it exits. Return None if the process became ready, or the reason why it could not start."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "zoomgate_server",
                "worker",
                str(number),
                stdin=PIPE,
                stdout=PIPE,
                env=os.environ | {METRICS_DIRECTORY: str(self._directory)},
                start_new_session=True,  # Ctrl+C reaches only the supervisor, which then stops the workers
            )
        except OSError as error:
            return f"cannot start a worker process ({error.strerror}); free some resources and restart the service"
        self._processes[number] = process
        _log.info("worker.started", worker=number, pid=process.pid)
        if self._stop.is_set():
            process.terminate()
        try:
            problem = await self._await_ready(process)
            if problem is None:
                self._mark_ready(number)
                if number in self._reload_when_ready:
                    _reload(process)
            code = await process.wait()
        finally:
            del self._processes[number]
            self._serving.discard(number)
            self._reload_when_ready.discard(number)
            metrics.drop_gauges(number, self._directory)
        self._log_exit(number, process.pid, code, served=problem is None)
        if problem == "":
            return f"a worker exited before it could serve ({_exit_status(code)}); see its log"
        return problem

    async def _await_ready(self, process: Process) -> str | None:
        """Configure a worker. Return None once it is ready, the problem if it cannot start, or an empty string if it exits silently."""
        assert process.stdin is not None  # noqa: S101 - started with a pipe
        assert process.stdout is not None  # noqa: S101 - started with a pipe
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            config = replace(self._config, peers_serving=bool(self._serving))
            process.stdin.write(pickle.dumps(config))
            await process.stdin.drain()
        while line := await process.stdout.readline():
            # skip lines printed by libraries
            with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
                problem: str | None = orjson.loads(line)["problem"]
                return problem
        return ""

    def _mark_ready(self, number: int) -> None:
        self._first_is_ready.set()
        self._serving.add(number)
        if len(self._serving) == self._count and not self._announced and not self._stop.is_set():
            self._announced = True
            settings = self._config.settings
            self._announce(ServiceAddresses(str(settings.listen), str(settings.http_listen)))

    def _log_exit(self, number: int, pid: int, code: int, *, served: bool) -> None:
        if code == 0 or (self._stop.is_set() and not served):
            _log.info("worker.exited", worker=number, pid=pid)
            return
        status = _exit_status(code)
        _log.warning("worker.died", worker=number, pid=pid, exit=status)
        if self._stop.is_set() and self._problem is None:
            self._problem = f"a worker exited before its shutdown was complete ({status}); see its log"


def _reload(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGHUP)


def _exit_status(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
