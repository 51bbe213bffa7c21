"""Several processes that serve together: this one takes the ports, starts the others, and starts again what ends.

The processes that serve are called workers. They are programs of their own (`zoomgate worker`), not forks: each has its event loop, its
gRPC server and its clients, and nothing of gRPC's is in this process. A worker is told over its standard input what to serve; that pipe
stays open, and its end tells the worker that this process is gone. Over its standard output the worker says once that it serves, or why it
cannot.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import orjson

from zoomgate_server.app import listeners
from zoomgate_server.identity import Principal
from zoomgate_server.settings import Settings
from zoomgate_server.startup import Started, StartError
from zoomgate_server.telemetry import logs, metrics

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that tells a worker where the metrics of all are; the name is prometheus_client's."""

FAILED_STARTS = 5
"""Starts in a row that a worker may fail at before the whole service ends."""

LEAST_PAUSE, MOST_PAUSE = 0.1, 30.0
"""Seconds between a worker's end and the next start; doubled from one to the other while workers keep ending soon."""

STEADY_SECONDS = 60.0
"""A worker that served for so long did not end soon."""

_log = logs.get("zoomgate.workers")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker serves.

    Attributes:
        settings: With the ports that were found.
        anonymous: Who calls without a credential are from, or None.
        keys: Keys beside those of the callers file: SHA-256 as 64 hex digits, and whose it is.
        others_serve: Whether other workers serve while this one starts.
    """

    settings: Settings
    anonymous: Principal | None
    keys: Sequence[tuple[str, Principal]]
    others_serve: bool = False

    @classmethod
    def receive(cls, source: BinaryIO) -> "WorkerConfig":
        """Read what the process that started this one wants.

        Raises:
            StartError: There is nothing of that kind.
        """
        try:
            found = pickle.load(source)  # noqa: S301 - from the process that started this one, over a pipe that only both have
        except Exception:  # noqa: BLE001 - damaged ones raise anything
            found = None
        if not isinstance(found, WorkerConfig):
            raise StartError("This command is started by `zoomgate serve --workers`, not by people: use that")
        return found


class ReadySignal:
    """What a worker says to the process that started it, once, on the standard output that it was started with.

    From then on what a library prints goes to the log: nobody reads the pipe after the word, and it would be full at some time.
    """

    def __init__(self) -> None:
        self._pipe = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def notify_ready(self, problem: str | None) -> None:
        """Say that it serves now, or why it cannot. If the one who started it is gone there is nobody to tell."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, orjson.dumps({"problem": problem}) + b"\n")


async def supervise(
    settings: Settings,
    *,
    announce: Callable[[Started], None],
    anonymous: Principal | None = None,
    keys: Sequence[tuple[str, Principal]] = (),
) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT, then let them drain.

    Args:
        settings: Everything that can be set.
        announce: Called once all workers serve.
        anonymous: See `Assignment`.
        keys: See `Assignment`.

    Raises:
        StartError: The service cannot start, or a worker that ended could not be started again.
    """
    with (
        listeners.reserved(settings.listen, settings.http_listen) as (grpc, http),
        tempfile.TemporaryDirectory(prefix="zoomgate-metrics-", ignore_cleanup_errors=True) as folder,
    ):
        assignment = WorkerConfig(replace(settings, listen=grpc, http_listen=http), anonymous, tuple(keys))
        await _Workers(assignment, Path(folder), announce).run()


class _Workers:
    """The workers and what is known of them; they are numbered from 1.

    Args:
        assignment: What each of them serves.
        folder: Of their metrics.
        announce: Called once all of them serve.
    """

    def __init__(self, assignment: WorkerConfig, folder: Path, announce: Callable[[Started], None]) -> None:
        self._assignment = assignment
        self._count = assignment.settings.workers
        self._folder = folder
        self._announce = announce
        self._processes: dict[int, Process] = {}
        self._serving: set[int] = set()
        self._announced = False
        self._first = asyncio.Event()
        self._stop = asyncio.Event()
        self._problem: str | None = None

    async def run(self) -> None:
        """Keep all of them running until a signal, then wait for their end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        await asyncio.gather(*(self._restart_loop(number) for number in range(1, self._count + 1)))
        if self._problem is not None:
            raise StartError(self._problem)

    def _end(self, problem: str | None = None) -> None:
        """Tell all workers to drain; more signals change nothing, since a worker that drains may have an answer of Zoom's to store."""
        self._problem = self._problem or problem
        self._stop.set()
        self._first.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def _restart_loop(self, number: int) -> None:
        """Run a worker, and another one in its place whenever it ends."""
        if number > 1:  # in an empty folder the first makes store and keys, and says alone what is wrong
            await self._first.wait()
        failed, soon = 0, 0
        while not self._stop.is_set():
            began = time.monotonic()
            problem = await self._run_one(number)
            if self._stop.is_set():
                return
            failed = 0 if problem is None else failed + 1
            if problem is not None and (failed == FAILED_STARTS or not self._announced):
                again = f"A worker could not be started again, {failed} times in a row: "
                self._end((again if self._announced else "") + problem)
                return
            soon = soon + 1 if problem is not None or time.monotonic() - began < STEADY_SECONDS else 0
            pause = min(MOST_PAUSE, LEAST_PAUSE * 2 ** min(soon, 20))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_one(self, number: int) -> str | None:
        """Run one process to its end; gives why it did not come to serve, or None if it did."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "zoomgate_server",
                "worker",
                str(number),
                stdin=PIPE,
                stdout=PIPE,
                env=os.environ | {METRICS_FOLDER: str(self._folder)},
                start_new_session=True,  # Ctrl-C is for this process; it tells the workers
            )
        except OSError as error:
            return f"A worker process cannot be started ({error.strerror}): make room for it and start again"
        self._processes[number] = process
        _log.info("worker.started", worker=number, pid=process.pid)
        if self._stop.is_set():
            process.terminate()
        try:
            problem = await self._await_ready(process)
            if problem is None:
                self._is_ready(number)
            code = await process.wait()
        finally:
            del self._processes[number]
            self._serving.discard(number)
            metrics.drop_gauges(number, self._folder)
        self._log_exit(number, process.pid, code, served=problem is None)
        return (
            problem
            if problem != ""
            else f"A worker ended before it could serve ({_end_of(code)}): see its log"
        )

    async def _await_ready(self, process: Process) -> str | None:
        """Tell a worker what to serve and wait for its word: None once it serves, empty if it ended without one."""
        assert process.stdin is not None  # noqa: S101 - as it was started
        assert process.stdout is not None  # noqa: S101 - as it was started
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            assignment = replace(self._assignment, others_serve=bool(self._serving))
            process.stdin.write(pickle.dumps(assignment))
            await process.stdin.drain()
        while line := await process.stdout.readline():
            with contextlib.suppress(
                orjson.JSONDecodeError, KeyError, TypeError
            ):  # a library printed something
                problem: str | None = orjson.loads(line)["problem"]
                return problem
        return ""

    def _is_ready(self, number: int) -> None:
        self._first.set()
        self._serving.add(number)
        if len(self._serving) == self._count and not self._announced and not self._stop.is_set():
            self._announced = True
            settings = self._assignment.settings
            self._announce(Started(str(settings.listen), str(settings.http_listen)))

    def _log_exit(self, number: int, pid: int, code: int, *, served: bool) -> None:
        if code == 0 or (self._stop.is_set() and not served):
            _log.info("worker.exited", worker=number, pid=pid)
            return
        _log.warning("worker.died", worker=number, pid=pid, exit=_end_of(code))
        if self._stop.is_set():
            self._problem = (
                self._problem or f"A worker was not done when it ended ({_end_of(code)}): see its log"
            )


def _end_of(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
