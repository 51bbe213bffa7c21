"""The unary RPCs over HTTP, with JSON or binary messages: the Connect protocol (https://connectrpc.com/docs/protocol/).

A request passes through the same stages as a gRPC call. Only POST and uncompressed messages are supported.
"""

import asyncio
import contextlib
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio
import orjson
from aiohttp import web
from google.protobuf import any as any_message
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from multidict import CIMultiDict

from zoomgate_server import request_body
from zoomgate_server.errors import CallerNotAllowed, MalformedRequest, ShuttingDown
from zoomgate_server.rpc import json_request
from zoomgate_server.rpc.middleware.access_log import REQUEST_ID
from zoomgate_server.rpc.middleware.access_policy import method_name
from zoomgate_server.rpc.middleware.error_status import status_of
from zoomgate_server.rpc.middleware.pipeline import Handler, Method, Pipeline

_T = TypeVar("_T")
Metadata = tuple[tuple[str, str], ...]

VERSION_HEADER = "Connect-Protocol-Version"
TIMEOUT_HEADER = "Connect-Timeout-Ms"

MAX_INLINE_BYTES = 64 * 1024
"""Maximum size of a message that is converted on the event loop. Several MiB of JSON take seconds."""

MAX_DISCARDED_BYTES = 64 * 1024
"""Maximum size of a body that is read although the request is rejected."""

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
        discard_timeout: Maximum time to read a body that is discarded.
    """

    read_timeout: float = 10.0
    discard_timeout: float = 1.0


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


@dataclass(frozen=True, slots=True)
class _Method:
    """An RPC. Its handler receives a function that returns the request, or raises the error."""

    request: type[Message]
    handler: Handler


class ConnectEndpoint:
    """HTTP endpoint for the unary RPCs of a pipeline.

    Args:
        is_known_caller: Returns whether the metadata of a call contains a valid credential. The bodies of other calls are discarded.
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
        self._methods: dict[str, _Method] = {}
        for unary in pipeline.unary:
            method = Method(
                unary.path, _decode, False, unary.request.DESCRIPTOR.full_name, system="connectrpc"
            )
            self._methods[unary.path] = _Method(unary.request, pipeline.compose(method, unary.behavior))
        self._is_known_caller = is_known_caller
        self._max_request_bytes = max_request_bytes
        self._allowed_origins = frozenset(allowed_origins)
        self._timing = timing
        self._running: set[asyncio.Task[Any] | None] = set()
        self._is_closing = False
        self._converter = ThreadPoolExecutor(1, "connect-converter")

    async def handle(self, request: web.Request, client: str) -> web.Response:
        """Respond to a request for `/package.Service/Method`. `client` is the address of the sender."""
        origin = request.headers.get("Origin")
        if origin is None:
            response = await self._respond(request, client)
        elif origin not in self._allowed_origins:
            # a script that cannot read responses must not be able to cause effects either
            response = _error(
                status_of(
                    CallerNotAllowed(
                        "Web pages of this origin may not call RPCs; ask the operator to add it to ZOOMGATE_ALLOWED_ORIGINS",
                        metadata={"method": method_name(request.path)},
                    )
                )
            )
        else:
            response = (
                web.Response(status=204, headers=_PREFLIGHT_HEADERS)
                if request.method == "OPTIONS"
                else await self._respond(request, client)
            )
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "X-Request-Id"
            response.headers["Vary"] = "Origin"
        if not request.content.is_eof():
            await self._discard_body(request)
        if self._is_closing or not request.content.is_eof():
            response.force_close()
        return response

    async def stop(self) -> None:
        """Reject new requests, and wait for the running ones, which the pipeline ends."""
        self._is_closing = True
        if self._running:
            await asyncio.wait(filter(None, self._running))
        self._converter.shutdown(wait=False, cancel_futures=True)

    async def _respond(self, request: web.Request, client: str) -> web.Response:
        method = self._methods.get(request.path)
        if method is None:
            text = "There is no unary RPC at this path; check its name, and call streams with gRPC"
            return _error(_status(grpc.StatusCode.UNIMPLEMENTED, text), http_status=404)
        # as the protocol demands, these two errors are not errors of a call
        if request.method != "POST":
            text = "RPCs are called with POST only; send a POST request.\n"
            return web.Response(status=405, text=text, headers={"Allow": "POST"})
        content_type = request.content_type.lower()
        codec = _CODECS.get(content_type)
        if codec is None:
            text = f"The content type is not supported; send {' or '.join(_CODECS)}.\n"
            return web.Response(status=415, text=text, headers={"Accept-Post": ", ".join(_CODECS)})
        metadata = {"type": method.request.DESCRIPTOR.full_name}
        if request.headers.get(VERSION_HEADER, "1") != "1":
            text = f"This version of the protocol is not supported; set {VERSION_HEADER} to 1, or omit it"
            return _error(status_of(MalformedRequest(text, metadata=metadata)))
        milliseconds = request.headers.get(TIMEOUT_HEADER)
        if milliseconds is not None and not _TIMEOUT.fullmatch(milliseconds):
            text = f"{TIMEOUT_HEADER} is invalid; send a number of milliseconds with at most 10 digits"
            return _error(status_of(MalformedRequest(text, metadata=metadata)))
        if self._is_closing:
            return _error(status_of(ShuttingDown()))
        seconds = None if milliseconds is None else int(milliseconds) / 1000
        names_and_values = tuple((name.lower(), value) for name, value in request.headers.items())
        context = _Context(names_and_values, client, seconds)
        try:
            async with asyncio.timeout(seconds):
                task = asyncio.current_task()
                self._running.add(task)
                try:
                    # if the body is not read, the request cannot be decoded, even if the credential becomes valid meanwhile
                    decode: Callable[[], Any] = _raise_not_read
                    if self._is_known_caller(names_and_values):
                        body = await self._read(request)
                        decode = await self._convert(len(body), codec.decode, method.request, body)
                    message = await method.handler(decode, context)
                    encode = await self._convert(message.ByteSize(), codec.encode, message)
                finally:
                    self._running.discard(task)
        except _Rejected as rejected:
            return _error(rejected.status)
        except grpc.aio.AbortError:
            return _error(context.status, context.headers())
        except TimeoutError:
            text = "The deadline has passed; the call may have taken effect"
            return _error(_status(grpc.StatusCode.DEADLINE_EXCEEDED, text), context.headers())
        return web.Response(body=encode(), content_type=content_type, headers=context.headers())

    async def _discard_body(self, request: web.Request) -> None:
        """Discard a short body. If the connection were closed while the caller is sending, the response would be lost."""
        remaining = MAX_DISCARDED_BYTES - (request.content_length or 0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(self._timing.discard_timeout):
                while remaining >= 0 and (chunk := await request.content.readany()):
                    remaining -= 0 if request.content_length else len(chunk)

    async def _convert(self, size: int, convert: Callable[..., _T], *arguments: Any) -> Callable[[], _T]:
        """Return a function that returns the result of a conversion. It has been performed in a thread if the message is large."""
        if size <= MAX_INLINE_BYTES:
            return partial(convert, *arguments)
        conversion = asyncio.get_running_loop().run_in_executor(self._converter, convert, *arguments)
        await asyncio.wait([conversion])
        return conversion.result

    async def _read(self, request: web.Request) -> bytes:
        """Read the body."""
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            text = "Compressed messages are not supported; send the message uncompressed"
            raise _Rejected(_status(grpc.StatusCode.UNIMPLEMENTED, text))
        limit, timeout = self._max_request_bytes, self._timing.read_timeout
        try:
            return await request_body.read(request, limit=limit, timeout=timeout)
        except request_body.BodyTooLarge:
            text = f"The request is larger than {limit} bytes; send less"
            raise _Rejected(_status(grpc.StatusCode.RESOURCE_EXHAUSTED, text)) from None
        except TimeoutError:
            text = f"The request did not arrive within {timeout:g} seconds; send it again"
            raise _Rejected(_status(grpc.StatusCode.DEADLINE_EXCEEDED, text)) from None
        except ConnectionError:
            text = "The connection was closed before the request had arrived; send it again"
            raise _Rejected(_status(grpc.StatusCode.CANCELLED, text)) from None


def _decode(decode: Callable[[], Message]) -> Message:
    return decode()


def _raise_not_read() -> Message:
    raise AssertionError("the body is not read without a valid credential")


class _Rejected(Exception):
    """A body that is not accepted."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def _status(code: grpc.StatusCode, message: str) -> status_pb2.Status:
    """Return the status of a request that did not become a call. Like an error of the gRPC library, it has no details."""
    return status_pb2.Status(code=code.value[0], message=message)


def _error(
    status: status_pb2.Status, headers: Mapping[str, str] = {}, *, http_status: int | None = None
) -> web.Response:
    """Return the response for an error. The HTTP status is that of the code by default."""
    code = _CODES[status.code]
    # Connect spells this code differently than gRPC
    name = "canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower()
    body = {"code": name, "message": status.message, "details": [_detail(item) for item in status.details]}
    return web.Response(
        status=http_status or _HTTP_STATUS.get(code, 500),
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
