"""Downloads to files, and the parsing of pages: what both clients do with the streams of ProxyService."""

import json
import os
import secrets
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import grpc

from zoomgate._requests import build
from zoomgate._resumption import Backoff
from zoomgate.errors import UnexpectedStatus, ZoomgateError
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


class Transfer:
    """A download in progress: what was received, and the request for the rest.

    Attributes:
        head: The start of the first response.
        received: The number of bytes received.
        is_complete: Whether the whole file was received.
    """

    def __init__(self, user_email: str, url: str) -> None:
        self._user_email = user_email
        self._url = url
        self._backoff = Backoff()
        self._attempts = 0
        self.head = DownloadHead()
        self.received = 0
        self.is_complete = False

    @property
    def size(self) -> int | None:
        """The size of the whole file in bytes, or None if it is unknown."""
        return self.head.size if self.head.HasField("size") else None

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
            elif not 200 <= response.head.status < 300:
                raise unexpected_status(response.head.status)
            self._backoff.reset()
            return b""
        if not 200 <= self.head.status < 300:
            raise unexpected_status(self.head.status, response.chunk)
        self.received += len(response.chunk)
        self._attempts = 0
        return response.chunk

    def end(self) -> None:
        """Record that the stream has ended without an error. Raise `UnexpectedStatus` if it was a failure without a body."""
        if not 200 <= self.head.status < 300:
            raise unexpected_status(self.head.status)
        self.is_complete = True

    def pause_after(self, error: ZoomgateError, *, closed: bool) -> float:
        """Return the delay in seconds before the download is resumed. Re-raise the error if resuming cannot succeed."""
        self._attempts += 1
        if isinstance(error, UnexpectedStatus) or not self.head.etag or self._attempts > MAX_ATTEMPTS:
            raise error
        return self._backoff.pause_after(error, closed=closed)


@contextmanager
def opened(file: str | os.PathLike[str] | BinaryIO) -> Generator[BinaryIO, None, None]:
    """Yield a file to write to.

    If `file` is a path, a temporary file in the same directory gets the name after the block has ended without an error, and is deleted
    otherwise.
    """
    if not isinstance(file, str | os.PathLike):
        yield file
        return
    path = Path(file)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as output:
            yield output
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Return a page as parsed JSON. Raise `UnexpectedStatus` if it is a failure."""
    if not 200 <= response.status < 300:
        raise unexpected_status(response.status, response.body)
    page: dict[str, Any] = json.loads(response.body)
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
