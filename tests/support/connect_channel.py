"""Channels that call unary RPCs with the Connect protocol, for generated stubs in the place of a gRPC channel."""

import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import grpc
import grpc.aio
from google.protobuf import descriptor_pool, json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from support.harness import Harness

GRPC, JSON, BINARY = PROTOCOLS = ("grpc", "connect+json", "connect+proto")
_CONTENT_TYPES = {JSON: "application/json", BINARY: "application/proto"}
_CODES = {code.name.lower(): code for code in grpc.StatusCode} | {"canceled": grpc.StatusCode.CANCELLED}


class ConnectChannel:
    """A channel with the part of `grpc.aio.Channel` that stubs use. Streams are not supported."""

    def __init__(self, session: aiohttp.ClientSession, content_type: str) -> None:
        self._session = session
        self._content_type = content_type

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes] = bytes,
        response_deserializer: Callable[[bytes], Any] = bytes,
        _registered_method: bool = False,
    ) -> Any:
        return partial(self._call, path, request_serializer, response_deserializer)

    def unary_stream(self, path: str, *_: Any, **__: Any) -> Any:
        return None

    async def _call(
        self,
        path: str,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        request: Any,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
    ) -> Any:
        is_json = self._content_type == "application/json"
        method = descriptor_pool.Default().FindMethodByName(path.removeprefix("/").replace("/", "."))
        body = serialize(request)
        if is_json:
            body = json_format.MessageToJson(_message(method.input_type, body), indent=None).encode()
        headers = [("Content-Type", self._content_type), ("Connect-Protocol-Version", "1"), *metadata]
        if timeout is not None:
            headers.append(("Connect-Timeout-Ms", str(max(0, int(timeout * 1000)))))
        async with self._session.post(path, data=io.BytesIO(body), headers=headers) as response:
            received = await response.read()
            if response.status != 200:
                raise _error(received, response)
            assert response.content_type == self._content_type
        if is_json:
            message = GetMessageClass(method.output_type)()
            received = json_format.Parse(received, message).SerializeToString()
        return deserialize(received)


@asynccontextmanager
async def over(protocol: str, zoomgate: Harness) -> AsyncIterator[Harness]:
    """Yield a harness whose stubs use one of `PROTOCOLS`."""
    if protocol == GRPC:
        yield zoomgate
        return
    async with aiohttp.ClientSession(zoomgate.http_url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        channel: Any = ConnectChannel(session, _CONTENT_TYPES[protocol])
        yield replace(zoomgate, channel=channel)


def _message(descriptor: Any, body: bytes) -> Message:
    message: Message = GetMessageClass(descriptor).FromString(body)
    return message


def _error(body: bytes, response: aiohttp.ClientResponse) -> grpc.aio.AioRpcError:
    """Return the error that a gRPC client raises for the same status. The JSON form of each detail must match the binary form."""
    assert response.content_type == "application/json", body
    error = json.loads(body)
    code = _CODES[error["code"]]
    status = status_pb2.Status(code=code.value[0], message=error["message"])
    for item in error["details"]:
        value = base64.b64decode(item["value"] + "=" * (-len(item["value"]) % 4), validate=True)
        detail = AnyMessage(type_url=f"type.googleapis.com/{item['type']}", value=value)
        descriptor = descriptor_pool.Default().FindMessageTypeByName(item["type"])
        assert json_format.MessageToDict(_message(descriptor, value)) == item["debug"]
        status.details.append(detail)
    trailing = [("grpc-status-details-bin", status.SerializeToString())] if status.details else []
    if "X-Request-Id" in response.headers:
        trailing.append(("x-request-id", response.headers["X-Request-Id"]))
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=error["message"]
    )
