"""A thread with its own SQLite connection and a queue of operations, so that the event loop never waits for a disk."""

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from zoomgate_server.storage.record_store import StoreError

MAX_QUICK_OPERATIONS = 64
"""Maximum number of quick operations whose results are returned together."""

_T = TypeVar("_T")


@dataclass(slots=True)
class _Job:
    """An operation in the queue.

    Attributes:
        is_quick: Returns whether the operation will take almost no time.
    """

    operation: Callable[[], Any]
    is_quick: Callable[[], bool]
    done: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        """Run the operation."""
        try:
            self.result = self.operation()
        except BaseException as error:  # noqa: BLE001 - raised by `done`
            self.error = error

    def finish(self) -> None:
        """Return the result to the caller, unless the caller is canceled."""
        if self.done.done():
            return
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(self.error)


class SqliteThread:
    """A thread that runs operations on a connection in the order of their arrival, created with `start`.

    Args:
        executor: An executor with a single thread, which has opened the connection.
        queue_timeout: Maximum time that an operation waits for earlier operations, in seconds.
    """

    def __init__(
        self, connection: sqlite3.Connection, executor: ThreadPoolExecutor, queue_timeout: float
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._queue_timeout = queue_timeout
        self._closed = False
        self._jobs: deque[_Job] = deque()
        self._is_working = False

    @classmethod
    async def start(cls, connect: Callable[[], sqlite3.Connection], queue_timeout: float) -> "SqliteThread":
        """Start a thread, and open its connection.

        Raises:
            RuntimeError: No thread can be started.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(executor, connect)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(connection, executor, queue_timeout)

    async def run(
        self, operation: Callable[[sqlite3.Connection], _T], is_quick: Callable[[], bool] = lambda: False
    ) -> _T:
        """Run an operation. The operation continues if the caller is canceled.

        Args:
            is_quick: Returns whether the operation will take almost no time, called before it starts.

        Raises:
            StoreError: The operation was not started, because the store is closed or earlier operations take too long.
        """
        if self._closed:
            raise StoreError("the store is closed")
        job = self._enqueue(lambda: operation(self._connection), is_quick)
        timer = asyncio.get_running_loop().call_later(self._queue_timeout, self._expire, job)
        try:
            result: _T = await job.done
        finally:
            timer.cancel()
        return result

    async def close(self) -> None:
        """Wait for running operations, and close the connection."""
        if self._closed:
            return
        self._closed = True
        await asyncio.shield(self._enqueue(self._connection.close).done)
        self._executor.shutdown(wait=True)

    def _enqueue(self, operation: Callable[[], Any], is_quick: Callable[[], bool] = lambda: False) -> _Job:
        job = _Job(operation, is_quick, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if not self._is_working:
            self._work()
        return job

    def _expire(self, job: _Job) -> None:
        """Fail an operation that has not started yet."""
        with contextlib.suppress(ValueError):  # the operation has started, and will complete
            self._jobs.remove(job)
            job.error = StoreError("SQLite is too slow; earlier operations are still waiting for its file")
            job.finish()

    def _work(self) -> None:
        """Run the queued operations on the thread."""
        self._is_working = bool(self._jobs)
        if self._is_working:
            self._executor.submit(self._run_jobs, asyncio.get_running_loop())

    def _run_jobs(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one operation, and the quick operations behind it in the queue.

        Waking the event loop takes longer than a quick operation, so the results are returned together.
        """
        finished: list[_Job] = []
        # `_expire` may remove jobs at any time
        with contextlib.suppress(IndexError):
            while not finished or (len(finished) <= MAX_QUICK_OPERATIONS and self._jobs[0].is_quick()):
                job = self._jobs.popleft()
                job.run()
                finished.append(job)
        loop.call_soon_threadsafe(self._return_results, finished)

    def _return_results(self, finished: list[_Job]) -> None:
        for job in finished:
            job.finish()
        self._work()
