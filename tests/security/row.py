"""Test cases for calls that must be rejected."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import Message

from support.connect_channel import BINARY, GRPC, PROTOCOLS
from support.harness import Harness, RpcError
from zoomgate_server.rpc import json_request

REMEDY = re.compile(
    r"[:;,] (?:or )?(?:send|set|leave (?:(?:it|them|one of them) )?out|leave (?:it|them) empty|remove|omit|correct|use|escape|say|begin"
    r"|start|retry|check)\b"
)
"""Pattern of an instruction to the caller, which must follow the violated rule in a message."""


@dataclass(frozen=True)
class Row:
    """A call that must be rejected, and the expected error.

    Attributes:
        name: A description of the error.
        method: `Service.Method`.
        request: The request, or its bytes.
        fields: All fields with violations.
        reason: The expected reason; empty if gRPC itself rejects the call.
        code: The expected status code.
        caller: The name of the caller.
    """

    name: str
    method: str
    request: Message | bytes
    fields: frozenset[str] = frozenset()
    reason: str = "INVALID_FIELD"
    code: str = "INVALID_ARGUMENT"
    caller: str = "service"

    async def error(self, zoomgate: Harness) -> RpcError:
        """Make the call and return the error. Fail if the call succeeds."""
        service, _, method = self.method.partition(".")
        call = zoomgate.channel.unary_unary(f"/zoomgate.v1.{service}/{method}")
        sent = self.request if isinstance(self.request, bytes) else self.request.SerializeToString()
        return await zoomgate.error_of(call, sent, self.caller)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols with which the call can be made."""
        method = descriptor_pool.Default().FindMethodByName(f"zoomgate.v1.{self.method}")
        if method.server_streaming:
            return (GRPC,)
        if isinstance(self.request, bytes):
            return GRPC, BINARY
        try:
            text = json_format.MessageToJson(self.request)
        except (ValueError, json_format.Error):  # a value that JSON cannot contain, such as the year 0
            return GRPC, BINARY
        is_same = json_format.Parse(text, type(self.request)()) == self.request
        is_small = sum(map(text.count, ",[{")) < json_request.MAX_VALUES
        return PROTOCOLS if is_same and is_small else (GRPC, BINARY)


def fields(*names: str) -> frozenset[str]:
    """Return a set of field names."""
    return frozenset(names)


def without_remedy(errors: Iterable[RpcError]) -> list[str]:
    """Return the messages of an INVALID_ARGUMENT error that do not state how to correct the request."""
    return [
        text
        for error in errors
        if error.code.name == "INVALID_ARGUMENT"
        for text in (*error.violations.values(), error.message)
        if REMEDY.search(text) is None
    ]
