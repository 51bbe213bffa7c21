"""Downloads to files, and the parsing of pages: what both clients do with the streams of ProxyService."""

import asyncio
import errno
import io
import json
import os
import secrets
import select
import stat
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import grpc

from zoomgate._methods import check_timeout
from zoomgate._requests import build
from zoomgate._resumption import Backoff
from zoomgate.errors import DeadlineExceeded, UnexpectedStatus, ZoomgateError
from zoomgate.v1.proxy_service_pb2 import (
    DownloadHead,
    DownloadRequest,
    DownloadResponse,
    ListPagesRequest,
    ZoomResponse,
)

Query = Mapping[str, str] | Iterable[tuple[str, str]]
"""Query parameters. Pairs may repeat a name."""

MAX_ATTEMPTS = 10
"""Number of consecutive attempts to resume a download that receive no data, after which it fails."""

_FILE = (200, 206)
"""The statuses with which a server returns a file or a part of it."""

_TIMEOUT = 408

_POLL_SECONDS = 0.1
"""Interval at which a FIFO without a reader is opened again, and at which the deadline is checked if a FIFO or device accepts no bytes."""


class Transfer:
    """A download in progress: what was received, and the request for the rest.

    Attributes:
        head: The start of the first response.
        received: The number of bytes received.
        is_complete: Whether the whole file was received.
    """

    def __init__(self, user_email: str, url: str, timeout: float | None) -> None:
        self._user_email = user_email
        self._url = url
        self._deadline = None if timeout is None else time.monotonic() + check_timeout(timeout)
        self._backoff = Backoff()
        self._attempts = 0
        self.head = DownloadHead()
        self.received = 0
        self.is_complete = False

    @property
    def size(self) -> int | None:
        """The size of the whole file in bytes, or None if it is unknown."""
        return self.head.size if self.head.HasField("size") else None

    @property
    def timeout(self) -> float | None:
        """The time left in seconds, or None for no limit."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def poll_interval(self) -> float:
        """Return the time in seconds to wait for a FIFO or device before the next attempt. Raise `DeadlineExceeded` if none is left."""
        if self.timeout == 0.0:
            raise DeadlineExceeded(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the FIFO or device did not accept the file in time"
            )
        return _POLL_SECONDS

    def request(self) -> DownloadRequest:
        """Return the request for the rest of the file."""
        return DownloadRequest(
            user_email=self._user_email, url=self._url, offset=self.received, etag=self.head.etag
        )

    def accept(self, response: DownloadResponse) -> bytes:
        """Return the bytes of a response, if any. Raise `UnexpectedStatus` if they are the body of a failure."""
        if response.HasField("head"):
            if not self.head.status:
                self.head.CopyFrom(response.head)
            elif response.head.status not in _FILE:
                raise unexpected_status(response.head.status)
            self._backoff.reset()
            return b""
        if self.head.status not in _FILE:
            raise unexpected_status(self.head.status, response.chunk)
        self.received += len(response.chunk)
        self._attempts = 0
        return response.chunk

    def end(self) -> None:
        """Record that the stream has ended without an error.

        Raises:
            UnexpectedStatus: It was a failure without a body.
            ZoomgateError: The number of bytes is not the size of the file.
        """
        if self.head.status not in _FILE:
            raise unexpected_status(self.head.status)
        if self.size not in (None, self.received):
            raise ZoomgateError(
                grpc.StatusCode.DATA_LOSS, f"received {self.received} bytes of a file of {self.size} bytes"
            )
        self.is_complete = True

    def pause_after(self, error: ZoomgateError) -> float:
        """Return the delay in seconds before the download is resumed. Re-raise the error if resuming cannot succeed."""
        self._attempts += 1
        status = error.http_status if isinstance(error, UnexpectedStatus) else None
        is_final = status is not None and status != _TIMEOUT and status < 500
        if is_final or not self.head.etag or self._attempts > MAX_ATTEMPTS:
            raise error
        pause = self._backoff.pause_after(error)
        if self.timeout is not None and pause >= self.timeout:
            raise error
        return pause


class _Stream(io.FileIO):
    """A FIFO or a terminal or other character device that was opened in non-blocking mode."""


_Output: TypeAlias = BinaryIO | _Stream


@contextmanager
def opened(file: str | os.PathLike[str] | BinaryIO, transfer: Transfer) -> Generator[_Output, None, None]:
    """Yield a file to write to.

    If `file` is the path of a regular file or of no file, a temporary file in the same directory replaces it after the block has ended
    without an error, and is deleted otherwise. The mode of the replaced file is kept, and a symbolic link keeps its place. Devices and
    FIFOs are written directly, a FIFO once it has a reader.
    """
    if not isinstance(file, str | os.PathLike):
        yield file
        return
    path = Path(file)
    if _is_stream(file):
        while (stream := _open_stream(file)) is None:
            time.sleep(transfer.poll_interval())
        with stream:
            yield stream
        return
    if path.exists() and not path.is_file():
        with path.open("wb") as output:
            yield output
        return
    path = path.resolve()
    temporary = path.with_name(f".zoomgate-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as output:
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            yield output
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@asynccontextmanager
async def opened_async(
    file: str | os.PathLike[str] | BinaryIO, transfer: Transfer
) -> AsyncGenerator[_Output, None]:
    """Asyncio variant of `opened`, which blocks the event loop neither without a reader nor while a canceled write is in progress."""
    async with AsyncExitStack() as stack:
        if _is_stream(file):
            while (stream := _open_stream(file)) is None:  # noqa: ASYNC110 - no event reports a reader
                await asyncio.sleep(transfer.poll_interval())
            yield stack.enter_context(stream)
        else:
            manager = opened(file, transfer)
            output = manager.__enter__()
            stack.push_async_exit(lambda *error: asyncio.to_thread(manager.__exit__, *error))
            yield output


def _is_stream(file: str | os.PathLike[str] | BinaryIO) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(file, str | os.PathLike) and (Path(file).is_fifo() or Path(file).is_char_device())


def _open_stream(path: str | os.PathLike[str]) -> _Stream | None:
    """Open a FIFO or a character device. Return None if it is a FIFO without a reader."""
    try:
        return _Stream(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb")
    except OSError as error:
        if error.errno == errno.ENXIO and Path(path).is_fifo():
            return None
        raise


def write(file: _Output, data: bytes, transfer: Transfer) -> None:
    """Write all bytes to a file, and wait while a FIFO or device accepts none.

    Raises:
        OSError: The file accepts no bytes.
        DeadlineExceeded: The FIFO or device accepted no more bytes until the deadline.
    """
    while data := _write_available(file, data):
        _wait_for_reader(file, transfer)


async def write_async(file: _Output, data: bytes, transfer: Transfer) -> None:
    """Asyncio variant of `write`. A FIFO or device is written in the event loop, so that it is not closed during a write."""
    if not isinstance(file, _Stream):
        await asyncio.to_thread(write, file, data, transfer)
        return
    while data := _write_available(file, data):
        await asyncio.to_thread(_wait_for_reader, file, transfer)


def _write_available(file: _Output, data: bytes) -> bytes:
    """Write bytes to a file. Return those that a FIFO or device does not accept yet."""
    while data:
        count = file.write(data)  # an unbuffered file may accept fewer at a time
        if not count:
            if isinstance(file, _Stream):
                break
            raise BlockingIOError(errno.EAGAIN, "the file accepts no bytes; open it in blocking mode")
        data = data[count:]
    return data


def _wait_for_reader(file: _Output, transfer: Transfer) -> None:
    """Wait until a FIFO or device may accept bytes, but not longer than the interval at which the deadline is checked."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    poll.poll(transfer.poll_interval() * 1000)


def pages_request(
    user_email: str, url: str, query: Query, max_pages: int, max_items: int
) -> ListPagesRequest:
    """Return the request for a list."""
    pairs = query.items() if isinstance(query, Mapping) else query
    fields = {
        "user_email": user_email,
        "url": url,
        "query": [{"name": name, "value": value} for name, value in pairs],
        "max_pages": max_pages,
        "max_items": max_items,
    }
    return build(ListPagesRequest, fields)


def parse_page(response: ZoomResponse) -> dict[str, Any]:
    """Return a page as parsed JSON.

    Raises:
        UnexpectedStatus: The response is a failure.
        ZoomgateError: The body is not a JSON object.
    """
    if not 200 <= response.status < 300:
        raise unexpected_status(response.status, response.body)
    try:
        page = json.loads(response.body)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict):
        raise ZoomgateError(
            grpc.StatusCode.INTERNAL,
            "a page of the list is not a JSON object; report the problem to the operator",
            reason="ZOOM_BAD_RESPONSE",
            metadata={"http_status": str(response.status)},
        )
    return page


def unexpected_status(status: int, body: bytes = b"") -> UnexpectedStatus:
    """Return the error for a failure of Zoom, with Zoom's error code and message if the body has them."""
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        error = None
    error = error if isinstance(error, dict) else {}
    code, text = error.get("code", error.get("errorCode")), error.get("message", error.get("errorMessage"))
    metadata = {"http_status": str(status)}
    if isinstance(code, int):
        metadata["zoom_code"] = str(code)
    message = f"Zoom responded with HTTP status {status}"
    if isinstance(text, str):
        metadata["zoom_message"] = text
        message += f": {text}"
    return UnexpectedStatus(grpc.StatusCode.UNKNOWN, message, metadata=metadata)
