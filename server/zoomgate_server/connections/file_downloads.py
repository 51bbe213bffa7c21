"""Downloads of files with a user's access token, which resume after the connection to Zoom was lost."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.access_tokens import AccessToken, AccessTokens
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.errors import (
    CallerNotAllowed,
    DownloadNotResumable,
    ZoomBadResponse,
    ZoomgateError,
    ZoomResponseTooLarge,
    ZoomUnavailable,
)
from zoomgate_server.zoom.client import outage_on_timeout, unavailable
from zoomgate_server.zoom.file_client import FileClient, FileRequest, FileResponse, Interrupted


class Cause(StrEnum):
    """Why the rest of a download cannot be delivered."""

    FILE_CHANGED = "FILE_CHANGED"
    RANGES_NOT_SUPPORTED = "RANGES_NOT_SUPPORTED"
    NO_ETAG = "NO_ETAG"
    ACCESS_EXPIRED = "ACCESS_EXPIRED"


_START_AGAIN = "discard the part that you have, and start again with offset 0"
_EXPLANATIONS = {
    Cause.FILE_CHANGED: f"the file changed or was deleted since the download started; {_START_AGAIN}",
    Cause.RANGES_NOT_SUPPORTED: f"the server of the file does not support ranges; {_START_AGAIN}",
    Cause.NO_ETAG: f"the connection to Zoom was lost, and the file has no strong ETag; {_START_AGAIN}",
    Cause.ACCESS_EXPIRED: "the URL no longer gives access to it; request a new download URL from Zoom, and continue with offset and etag",
}
_TIMEOUT = 408
_NO_ACCESS = (401, 403)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of downloads, in seconds.

    Attributes:
        headers: Maximum time until the headers of a response have arrived.
        pauses: The pauses before the attempts to resume a download; the attempts start again whenever one receives data.
    """

    headers: float = 30.0
    pauses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)


class FileDownloads:
    """Downloads of files on behalf of users. `limit` bounds the memory of their buffers."""

    def __init__(
        self,
        *,
        access_tokens: AccessTokens,
        zoom_calls: ZoomCalls,
        files: FileClient,
        limit: ConcurrencyLimit,
        clock: Clock,
        timing: Timing = Timing(),
    ) -> None:
        self._access_tokens = access_tokens
        self._zoom_calls = zoom_calls
        self._files = files
        self._limit = limit
        self._clock = clock
        self._timing = timing

    async def read(
        self, call: Call, user_email: str, request: FileRequest, *, permit: Callable[[str], bool]
    ) -> AsyncGenerator[FileResponse | bytes, None]:
        """Yield the response, and then the bytes of its body as the consumer needs them.

        Args:
            permit: Returns whether the caller may still act for the user. Called before each part.

        Raises:
            DownloadNotResumable: The rest of the file cannot be delivered.
            ServerOverloaded: Too many downloads are running.
            ZoomUnavailable: The file could not be requested, or all attempts to resume the download failed.
            ZoomgateError, StoreError: See `FileClient.open`, `ZoomCalls.send_with` and `AccessTokens.check_connected`.
        """
        async with self._limit.slot(self._deadline(call)):
            user = await self._access_tokens.for_call(
                call._replace(deadline=self._deadline(call)), user_email
            )
            response = await self._open(call, user_email, request)
            try:
                yield response
                if not response.is_file:
                    if response.body:
                        yield response.body
                    return
                request = replace(request, etag=response.etag)
                size, pauses = response.size, iter(self._timing.pauses)
                while True:
                    try:
                        while chunk := await response.read():
                            if not permit(user_email):
                                raise CallerNotAllowed(internal="the caller may no longer act for the user")
                            await self._access_tokens.check_connected(call, user_email, user.zoom_user_id)
                            request = replace(request, offset=request.offset + len(chunk))
                            if size is not None and request.offset > size:
                                raise _bad_response(response, "more bytes than the size of the file")
                            pauses = iter(self._timing.pauses)
                            yield chunk
                        if size is None or request.offset == size:
                            return
                    except Interrupted:
                        pass
                    response.close()
                    response = await self._resume(call, user_email, request, size, pauses)
            finally:
                response.close()

    async def _resume(
        self, call: Call, user_email: str, request: FileRequest, size: int | None, pauses: Iterator[float]
    ) -> FileResponse:
        """Request the rest of a file until an attempt succeeds or no attempts are left."""
        if not request.etag:
            raise _not_resumable(Cause.NO_ETAG)
        for pause in pauses:
            await asyncio.sleep(pause)
            try:
                response = await self._open(call, user_email, request)
            except ZoomUnavailable:
                continue
            except ZoomResponseTooLarge as error:  # the body of a failure
                status = int(error.metadata["http_status"])
            else:
                if response.is_file:
                    if response.size not in (None, size):
                        response.close()
                        raise _bad_response(response, "the rest of a file of a different size")
                    return response
                status = response.status
            if status < 500 and status != _TIMEOUT:
                raise _not_resumable(Cause.ACCESS_EXPIRED if status in _NO_ACCESS else Cause.FILE_CHANGED)
        raise unavailable()

    async def _open(self, call: Call, user_email: str, request: FileRequest) -> FileResponse:
        """Request a file or its rest, and check that the response contains what was requested."""
        limited = call._replace(deadline=self._deadline(call))
        send = functools.partial(self._send, limited, request)
        with outage_on_timeout(limited.deadline < call.deadline):
            response = await self._zoom_calls.send_with(limited, user_email, request.as_zoom_request(), send)
        if failure := _mismatch(request, response):
            response.close()
            raise failure
        return response

    async def _send(self, call: Call, request: FileRequest, token: AccessToken) -> FileResponse:
        timeout = call.deadline - self._clock.monotonic()
        return await self._files.open(request, token.tokens.access_token, timeout=timeout)

    def _deadline(self, call: Call) -> float:
        return min(call.deadline, self._clock.monotonic() + self._timing.headers)


def _mismatch(request: FileRequest, response: FileResponse) -> ZoomgateError | None:
    """Return the error for a response with other bytes than those requested, or None."""
    if not response.is_file:
        return None
    if request.etag and response.etag != request.etag:
        return _not_resumable(Cause.FILE_CHANGED)
    if response.status == 200:
        return _not_resumable(Cause.RANGES_NOT_SUPPORTED) if request.offset else None
    if not request.offset:
        return _bad_response(response, "a part of the file instead of the whole file")
    return _not_resumable(Cause.RANGES_NOT_SUPPORTED) if response.offset != request.offset else None


def _bad_response(response: FileResponse, content: str) -> ZoomBadResponse:
    return ZoomBadResponse(
        f"Zoom returned {content}; report the problem to the operator",
        metadata={"http_status": str(response.status)},
    )


def _not_resumable(cause: Cause) -> DownloadNotResumable:
    return DownloadNotResumable(
        f"The rest of the file cannot be downloaded, because {_EXPLANATIONS[cause]}",
        metadata={"cause": cause.value},
    )
