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
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from multidict import CIMultiDict, CIMultiDictProxy

from zoomgate_server import request_body
from zoomgate_server.call_context import current_unknown_outcome
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.errors import (
    CallerNotAllowed,
    DeadlineExceeded,
    DeadlineTooShort,
    MalformedRequest,
    NotSupported,
    RequestTooLarge,
    ShuttingDown,
    ZoomOutcomeUnknown,
)
from zoomgate_server.rpc import json_request
from zoomgate_server.rpc.middleware.access_log import REQUEST_ID
from zoomgate_server.rpc.middleware.access_policy import UNKNOWN_METHOD
from zoomgate_server.rpc.middleware.pipeline import (
    Handler,
    Method,
    Pipeline,
    UnaryMethod,
    decoded,
    parse_binary,
    receive_decoded,
)

_T = TypeVar("_T")
Metadata = tuple[tuple[str, str], ...]

VERSION_HEADER = "Connect-Protocol-Version"
TIMEOUT_HEADER = "Connect-Timeout-Ms"

MAX_INLINE_BYTES = 16 * 1024
"""Maximum size of a message that is converted on the event loop. JSON of this size takes at most about 30 ms."""

LARGE_REQUEST_BYTES = 256 * 1024
"""Minimum size of a large request. A message in memory can take many times the size of the request."""

MAX_LARGE_REQUESTS = 4
"""Maximum number of concurrent calls with large requests."""

_MAX_ORIGIN = 200
"""Maximum number of characters of an origin in the log."""

_SYSTEM = "connectrpc"
"""The RPC system, as OpenTelemetry names it."""

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
        receive_timeout: Maximum time to receive a request: to wait for other large requests, and to read the body.
        slot_share: The share of this time, or of the caller's if that is less, for which a large request waits for others.
    """

    receive_timeout: float = 10.0
    slot_share: float = 0.8


@dataclass(frozen=True, slots=True)
class _Codec:
    """An encoding of messages."""

    content_type: str
    decode: Callable[[type[Message], bytes], Message]
    encode: Callable[[Message], bytes]


_JSON = _Codec(
    "application/json",
    json_request.parse,
    lambda message: orjson.dumps(json_format.MessageToDict(message)),
)
_BINARY = _Codec(
    "application/proto",
    parse_binary,
    lambda message: message.SerializeToString(),
)
_CODECS = {codec.content_type: codec for codec in (_JSON, _BINARY)}


class _Context:
    """What the stages and services use of the context of a gRPC call.

    Attributes:
        deadline: The caller's deadline, as a reading of the monotonic clock; None if it has none, or an invalid one.
        resources: What the call holds until its end.
        status: The status of a call that failed.
        http_status: The HTTP status of an error, if it is not that of the error's code.
    """

    def __init__(self, headers: CIMultiDictProxy[str], client: str, clock: Clock) -> None:
        self.codec = _JSON
        self.resources = contextlib.ExitStack()
        self.status = status_pb2.Status()
        self.http_status: int | None = None
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._client = client
        self._clock = clock
        milliseconds = _combined(headers, TIMEOUT_HEADER) or ""
        has_deadline = _TIMEOUT.fullmatch(milliseconds)
        self.deadline = clock.monotonic() + int(milliseconds) / 1000 if has_deadline else None
        self._initial: tuple[tuple[str, Any], ...] = ()
        self._trailing: tuple[tuple[str, Any], ...] = ()
        self._code: grpc.StatusCode | None = None

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self.deadline is None else self.deadline - self._clock.monotonic()

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

    def unsupported(self, message: str, *, http_status: int, headers: Mapping[str, str] = {}) -> NotSupported:
        """Return an error with an HTTP status and headers of its own."""
        self.http_status = http_status
        self._initial = tuple(headers.items())
        return NotSupported(message)

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
        clock: The clock of the deadlines.
        large_requests: The limit on concurrent calls with requests of more than `LARGE_REQUEST_BYTES`.
        max_request_bytes: Maximum size of a request message.
        allowed_origins: The origins of web pages whose scripts may call the RPCs.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        clock: Clock,
        large_requests: ConcurrencyLimit,
        max_request_bytes: int,
        allowed_origins: Sequence[str] = (),
        timing: Timing = Timing(),
    ) -> None:
        self._handlers = {rpc.path: self._handler(pipeline, rpc) for rpc in pipeline.unary}
        unknown = Method(UNKNOWN_METHOD, receive_decoded, system=_SYSTEM)
        self._unknown = pipeline.compose(unknown, self._reject_unknown)
        self._clock = clock
        self._large_requests = large_requests
        self._max_request_bytes = max_request_bytes
        self._allowed_origins = frozenset(allowed_origins)
        self._timing = timing
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closing = False
        self._converter = ThreadPoolExecutor(1, "connect-converter")

    async def handle(self, request: web.Request, client: str) -> web.Response:
        """Respond to a request for `/package.Service/Method`. `client` is the address of the sender."""
        origin = _combined(request.headers, "Origin")
        is_allowed = origin in self._allowed_origins
        if is_allowed and request.method == "OPTIONS":
            response = web.Response(status=204, headers=_PREFLIGHT_HEADERS)
        else:
            response = await self._respond(request, client)
        if origin is not None and is_allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "X-Request-Id"
            response.headers["Vary"] = "Origin"
        if self._is_closing:
            response.force_close()
        return response

    async def stop(self, seconds: float) -> None:
        """Reject new requests, and wait at most `seconds` for the running ones, which the pipeline ends."""
        self._is_closing = True
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        self._converter.shutdown(wait=False, cancel_futures=True)

    def _handler(self, pipeline: Pipeline, rpc: UnaryMethod) -> Handler:
        """Return the handler of an RPC, with all stages. It receives an HTTP request, and returns the encoded response."""
        service, _, name = rpc.path.removeprefix("/").partition("/")
        options = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].GetOptions()
        is_repeatable = options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN

        async def respond(message: Message, context: _Context) -> bytes:
            try:
                async with asyncio.timeout(context.time_remaining()) as timeout:
                    response = await rpc.behavior(message, context)
                    if not is_repeatable:
                        current_unknown_outcome.set(
                            ZoomOutcomeUnknown(
                                "This server is shutting down, and the response was lost; check before retrying"
                            )
                        )
                    return await self._convert(response.ByteSize(), context.codec.encode, response)
            except TimeoutError:
                if not timeout.expired():
                    raise
                raise DeadlineExceeded from None

        receive = partial(self._receive, rpc.request)
        return pipeline.compose(Method(rpc.path, receive, system=_SYSTEM), respond)

    async def _respond(self, request: web.Request, client: str) -> web.Response:
        handler = self._handlers.get(request.path, self._unknown)
        if request.method == "OPTIONS" and "Origin" in request.headers:
            handler = self._unknown  # browsers send no credential with it
        context = _Context(request.headers, client, self._clock)
        try:
            with context.resources:
                if (task := asyncio.current_task()) is not None:
                    self._running.add(task)
                    context.resources.callback(self._running.discard, task)
                body = await handler(request, context)
        except grpc.aio.AbortError:
            return _error(context)
        return web.Response(body=body, content_type=context.codec.content_type, headers=context.headers())

    async def _receive(self, kind: type[Message], request: web.Request, context: _Context) -> Message:
        """Return the message of a request. Its caller is authenticated."""
        name = kind.DESCRIPTOR.full_name
        self._check(request, context, name)
        remaining = context.time_remaining()
        timeout = self._timing.receive_timeout
        seconds = timeout if remaining is None else min(timeout, remaining)
        slot_deadline = self._clock.monotonic() + self._timing.slot_share * seconds
        try:
            async with asyncio.timeout(seconds):
                body = await self._read(request, context, slot_deadline)
            decode = partial(context.codec.decode, kind)
            message: Message = await self._convert(len(body), decoded, kind, decode, body)
            remaining = context.time_remaining()
            if remaining is not None and remaining <= 0:
                raise TimeoutError
            return message
        except request_body.BodyTooLarge:
            limit = self._max_request_bytes
            text = f"The request is larger than {limit} bytes; send less"
            raise RequestTooLarge(text, metadata={"limit_bytes": str(limit)}) from None
        except TimeoutError:
            if remaining is not None and remaining < timeout:
                text = f"The timeout ended before the call was started; nothing was done, so send it again with a longer {TIMEOUT_HEADER}"
            else:
                text = f"The request did not arrive within {timeout:g} seconds; nothing was done, so send it again"
            raise DeadlineTooShort(text) from None
        except ConnectionError:
            text = "The connection was closed before the request had arrived; send it again"
            raise MalformedRequest(text, metadata={"type": name}) from None

    def _check(self, request: web.Request, context: _Context, name: str) -> None:
        """Check what precedes the body of a request, and set the codec of the call."""
        if self._is_closing:
            raise ShuttingDown
        self._check_origin(request)
        if request.method != "POST":
            text = "RPCs are called with POST only; send a POST request"
            raise context.unsupported(text, http_status=405, headers={"Allow": "POST"})
        codec = _codec(request)
        if codec is None:
            text = f"The content type is not supported; send {' or '.join(_CODECS)}, in UTF-8"
            raise context.unsupported(text, http_status=415, headers={"Accept-Post": ", ".join(_CODECS)})
        context.codec = codec
        if _combined(request.headers, VERSION_HEADER) not in (None, "1"):
            text = f"This version of the protocol is not supported; set {VERSION_HEADER} to 1, or omit it"
            raise MalformedRequest(text, metadata={"type": name})
        if TIMEOUT_HEADER in request.headers and context.deadline is None:
            text = f"{TIMEOUT_HEADER} is invalid; send a number of milliseconds with at most 10 digits"
            raise MalformedRequest(text, metadata={"type": name})
        if (_combined(request.headers, "Content-Encoding") or "identity").lower() != "identity":
            raise NotSupported("Compressed messages are not supported; send the message uncompressed")

    def _check_origin(self, request: web.Request) -> None:
        """Reject web pages of other origins. A script that cannot read responses must not be able to cause effects either."""
        origin = _combined(request.headers, "Origin")
        if origin is not None and origin not in self._allowed_origins:
            raise CallerNotAllowed(
                "Web pages of this origin may not call RPCs; ask the operator to add it to ZOOMGATE_ALLOWED_ORIGINS",
                internal=f"ZOOMGATE_ALLOWED_ORIGINS does not include {origin[:_MAX_ORIGIN]!a}",
            )

    async def _reject_unknown(self, request: web.Request, context: _Context) -> None:
        self._check_origin(request)
        text = "There is no unary RPC at this path; check its name, and call streams with gRPC"
        raise context.unsupported(text, http_status=404)

    async def _read(self, request: web.Request, context: _Context, slot_deadline: float) -> bytes:
        """Read the body. Most of a large one is read only when the call has a slot, until its end, since it keeps the message."""
        body, limit = bytearray(), self._max_request_bytes
        await request_body.read_into(body, request, LARGE_REQUEST_BYTES, limit=limit)
        if len(body) > LARGE_REQUEST_BYTES:
            await self._large_requests.acquire(slot_deadline)
            context.resources.callback(self._large_requests.release)
            await request_body.read_into(body, request, limit, limit=limit)
        return bytes(body)

    async def _convert(self, size: int, convert: Callable[..., _T], *arguments: Any) -> _T:
        """Return the result of a conversion, which is performed in a thread if the message is large."""
        if size <= MAX_INLINE_BYTES:
            return convert(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._converter, convert, *arguments)


def _combined(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """Return the values of a header as one, or None without any (https://www.rfc-editor.org/rfc/rfc9110#section-5.3)."""
    values = headers.getall(name, None)
    return None if values is None else ", ".join(values)


def _codec(request: web.Request) -> _Codec | None:
    """Return the codec for a content type, which may state its charset."""
    is_utf_8 = (request.charset or "utf-8").lower() in ("utf-8", "utf8")
    return _CODECS.get(request.content_type.lower()) if is_utf_8 else None


def _error(context: _Context) -> web.Response:
    """Return the response for the error of a call."""
    status = context.status
    if context.http_status in (405, 415):  # as the protocol demands, these errors have no code
        return web.Response(status=context.http_status, text=f"{status.message}\n", headers=context.headers())
    code = _CODES[status.code]
    # Connect spells this code differently than gRPC
    name = "canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower()
    body = {"code": name, "message": status.message, "details": [_detail(item) for item in status.details]}
    return web.Response(
        status=context.http_status or _HTTP_STATUS.get(code, 500),
        body=orjson.dumps(body),
        content_type="application/json",
        headers=context.headers(),
    )


def _detail(packed: Any) -> dict[str, Any]:
    """Return a detail of an error. `debug` is its JSON form, for callers without the message types of the details."""
    name = packed.type_url.rpartition("/")[2]
    detail = {"type": name, "value": b64encode(packed.value).rstrip(b"=").decode()}
    if name in _DETAIL_TYPES:
        detail["debug"] = json_format.MessageToDict(any_message.unpack_as(packed, _DETAIL_TYPES[name]))
    return detail
