"""The unary RPCs over HTTP, with JSON or binary messages: the Connect protocol (https://connectrpc.com/docs/protocol/).

A request passes through the same stages as a gRPC call. Only POST and uncompressed messages are supported.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
import orjson
from aiohttp import web
from google.protobuf import any as any_message
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from multidict import CIMultiDict

from zoomgate_server.errors import ShuttingDown
from zoomgate_server.rpc import json_request
from zoomgate_server.rpc.middleware.access_log import REQUEST_ID
from zoomgate_server.rpc.middleware.error_status import status_of
from zoomgate_server.rpc.middleware.pipeline import Handler, Method, Pipeline

Metadata = tuple[tuple[str, str], ...]

VERSION_HEADER = "Connect-Protocol-Version"
TIMEOUT_HEADER = "Connect-Timeout-Ms"

_DETAILS = "grpc-status-details-bin"
_TIMEOUT = re.compile(r"[0-9]{1,10}", re.ASCII)
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""The HTTP statuses of error codes; 500 for all others (https://connectrpc.com/docs/protocol/#error-codes)."""

_DETAIL_TYPES = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        error_details_pb2.BadRequest,
        error_details_pb2.ErrorInfo,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.QuotaFailure,
        error_details_pb2.RetryInfo,
    )
}
_PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": f"Authorization, Content-Type, {VERSION_HEADER}, {TIMEOUT_HEADER}, X-Request-Id",
    "Access-Control-Max-Age": "7200",
}
"""The headers of a response to a preflight request (https://connectrpc.com/docs/cors/)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of requests, in seconds.

    Attributes:
        read_timeout: Maximum time to read the body of a request.
    """

    read_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class _Codec:
    """An encoding of messages."""

    decode: Callable[[type[Message], bytes], Message]
    encode: Callable[[Message], bytes]


_CODECS = {
    "application/json": _Codec(
        json_request.parse, lambda message: orjson.dumps(json_format.MessageToDict(message))
    ),
    "application/proto": _Codec(
        lambda kind, body: kind.FromString(body), lambda message: message.SerializeToString()
    ),
}
"""The codecs by content type."""


class _Context:
    """What the stages and services use of the context of a gRPC call."""

    def __init__(self, metadata: Metadata, client: str, timeout: float | None) -> None:
        self.status = status_pb2.Status()
        self._metadata = metadata
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None else self._loop.time() + timeout
        self._initial: tuple[tuple[str, Any], ...] = ()
        self._trailing: tuple[tuple[str, Any], ...] = ()
        self._code: grpc.StatusCode | None = None

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - self._loop.time()

    def peer(self) -> str:
        return f"http:{self._client}"

    def code(self) -> grpc.StatusCode | None:
        return self._code

    async def send_initial_metadata(self, metadata: Iterable[tuple[str, Any]]) -> None:
        self._initial = tuple(metadata)

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, Any]]) -> None:
        self._trailing = tuple(metadata)

    def trailing_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._trailing

    async def abort(
        self, code: grpc.StatusCode, _details: str, trailing_metadata: Iterable[tuple[str, Any]]
    ) -> None:
        self._code = code
        self._trailing = tuple(trailing_metadata)
        self.status = status_pb2.Status.FromString(dict(self._trailing)[_DETAILS])
        raise grpc.aio.AbortError

    def headers(self) -> CIMultiDict[str]:
        """Return the headers that contain the metadata of the response, without those that only gRPC clients understand."""
        headers = CIMultiDict(self._initial)
        for name, value in self._trailing:
            if name == REQUEST_ID:
                headers.add(name, value)
            if not name.startswith("grpc-"):
                headers.add(f"Trailer-{name}", value)
        return headers


class ConnectEndpoint:
    """HTTP endpoint for the unary RPCs of a pipeline.

    Args:
        is_known_caller: Returns whether the metadata of a call contains a valid credential. The bodies of other calls are not read.
        max_request_bytes: Maximum size of a request message.
        allowed_origins: The origins of web pages whose scripts may call the RPCs.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        is_known_caller: Callable[[Metadata], bool],
        max_request_bytes: int,
        allowed_origins: Sequence[str] = (),
        timing: Timing = Timing(),
    ) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}
        for unary in pipeline.unary:
            name = unary.request.DESCRIPTOR.full_name
            self._handlers[unary.path] = {
                content_type: pipeline.compose(
                    Method(unary.path, partial(codec.decode, unary.request), False, name, "connectrpc"),
                    unary.behavior,
                )
                for content_type, codec in _CODECS.items()
            }
        self._is_known_caller = is_known_caller
        self._max_request_bytes = max_request_bytes
        self._allowed_origins = frozenset(allowed_origins)
        self._timing = timing
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def handle(self, request: web.Request, client: str) -> web.Response:
        """Respond to a request for `/package.Service/Method`. `client` is the address of the sender."""
        origin = request.headers.get("Origin", "")
        is_allowed = origin in self._allowed_origins
        if request.method == "OPTIONS":
            response = web.Response(status=204, headers=_PREFLIGHT_HEADERS if is_allowed else None)
        else:
            response = await self._respond(request, client)
        if self._allowed_origins:
            response.headers["Vary"] = "Origin"
        if is_allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "X-Request-Id"
        return response

    async def stop(self, seconds: float) -> None:
        """Reject new requests, and wait for the running ones, at most for the given time."""
        self._is_closing = True
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()

    async def _respond(self, request: web.Request, client: str) -> web.Response:
        handlers = self._handlers.get(request.path)
        if handlers is None:
            return web.Response(status=404, text="There is no unary RPC at this path.\n")
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST"})
        content_type = request.content_type.lower()
        if content_type not in handlers:
            return web.Response(status=415, headers={"Accept-Post": ", ".join(handlers)})
        if self._is_closing:
            return _error(status_of(ShuttingDown("This server is shutting down; retry", retry_after=1.0)))
        metadata = tuple((name.lower(), value) for name, value in request.headers.items())
        is_known = self._is_known_caller(metadata)
        try:
            timeout = _timeout(request)
            body = await self._read(request) if is_known else b""
        except _Rejected as rejected:
            return _without_rest_of_body(_error(rejected.status))
        context = _Context(metadata, client, timeout)
        # in a task, so that the context variables of a call do not remain for the next request of the connection
        task = asyncio.create_task(_run(handlers[content_type], body, context))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            message = await asyncio.wait_for(task, timeout)
        except grpc.aio.AbortError:
            response = _error(context.status, context.headers())
            return response if is_known else _without_rest_of_body(response)
        except TimeoutError:
            text = "The deadline has passed; the call may have taken effect"
            return _error(_status(grpc.StatusCode.DEADLINE_EXCEEDED, text), context.headers())
        return web.Response(
            body=_CODECS[content_type].encode(message),
            content_type=content_type,
            headers=context.headers(),
        )

    async def _read(self, request: web.Request) -> bytes:
        """Read the body."""
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            text = f"The encoding {encoding[:20]!r} is not supported; send the message uncompressed"
            raise _Rejected(_status(grpc.StatusCode.UNIMPLEMENTED, text))
        too_large = _status(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"The request is larger than {self._max_request_bytes} bytes; send less",
        )
        if (request.content_length or 0) > self._max_request_bytes:
            raise _Rejected(too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self._timing.read_timeout):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self._max_request_bytes:
                        raise _Rejected(too_large)
        except TimeoutError:
            text = f"The request did not arrive within {self._timing.read_timeout:.0f} seconds; send it again"
            raise _Rejected(_status(grpc.StatusCode.DEADLINE_EXCEEDED, text)) from None
        return bytes(body)


class _Rejected(Exception):
    """A request that is not a request of the protocol."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def _without_rest_of_body(response: web.Response) -> web.Response:
    """Close the connection after the response, because the body of the request is not read."""
    response.force_close()
    return response


async def _run(handler: Handler, body: bytes, context: _Context) -> Any:
    return await handler(body, context)


def _timeout(request: web.Request) -> float | None:
    """Return the time that the caller waits, in seconds, or None if it is unlimited."""
    if request.headers.get(VERSION_HEADER, "1") != "1":
        raise _Rejected(_status(grpc.StatusCode.INVALID_ARGUMENT, f"{VERSION_HEADER} must be 1"))
    value = request.headers.get(TIMEOUT_HEADER)
    if value is None:
        return None
    if not _TIMEOUT.fullmatch(value):
        text = f"{TIMEOUT_HEADER} must be a number of milliseconds with at most 10 digits"
        raise _Rejected(_status(grpc.StatusCode.INVALID_ARGUMENT, text))
    return int(value) / 1000


def _status(code: grpc.StatusCode, message: str) -> status_pb2.Status:
    """Return the status of a request that did not become a call. Like an error of the gRPC library, it has no details."""
    return status_pb2.Status(code=code.value[0], message=message)


def _error(status: status_pb2.Status, headers: CIMultiDict[str] | None = None) -> web.Response:
    """Return the response for an error."""
    code = _CODES[status.code]
    # Connect spells this code differently than gRPC
    name = "canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower()
    body = {"code": name, "message": status.message, "details": [_detail(item) for item in status.details]}
    return web.Response(
        status=_HTTP_STATUS.get(code, 500),
        body=orjson.dumps(body),
        content_type="application/json",
        headers=headers,
    )


def _detail(packed: Any) -> dict[str, Any]:
    """Return a detail of an error. `debug` is its JSON form, for callers without the message types of the details."""
    name = packed.type_url.rpartition("/")[2]
    detail = {"type": name, "value": b64encode(packed.value).rstrip(b"=").decode()}
    if name in _DETAIL_TYPES:
        detail["debug"] = json_format.MessageToDict(any_message.unpack_as(packed, _DETAIL_TYPES[name]))
    return detail
