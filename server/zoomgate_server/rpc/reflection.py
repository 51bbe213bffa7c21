"""gRPC server reflection, with the JSON names of fields, under the names of both of its versions."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

_VERSIONS = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
"""The services of both versions, whose messages have the same encoding. The library implements only v1alpha."""


def register(registrar: Any, services: Iterable[str]) -> None:
    """Add reflection to a server; it lists itself and the named services."""
    servicer = _ReflectionServicer([*services, reflection.SERVICE_NAME])
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        ServerReflectionRequest.FromString,
        ServerReflectionResponse.SerializeToString,
    )
    for version in _VERSIONS:
        registrar.add_registered_method_handlers(version, {"ServerReflectionInfo": handler})


class _ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the library has no types
    async def ServerReflectionInfo(  # noqa: N802
        self, requests: AsyncIterator[ServerReflectionRequest], context: Any
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Respond as the library does, and add the JSON names of fields, which Python's descriptors lack."""
        async for response in super().ServerReflectionInfo(requests, context):
            if response.HasField("file_descriptor_response"):
                files = response.file_descriptor_response.file_descriptor_proto
                files[:] = [_with_json_names(file) for file in files]
            yield response


def _with_json_names(serialized: bytes) -> bytes:
    file = FileDescriptorProto.FromString(serialized)
    for message in file.message_type:
        _set_json_names(message, f"{file.package}.{message.name}")
    return file.SerializeToString()


def _set_json_names(message: DescriptorProto, full_name: str) -> None:
    fields = descriptor_pool.Default().FindMessageTypeByName(full_name).fields_by_name
    for field in message.field:
        field.json_name = fields[field.name].json_name
    for nested in message.nested_type:
        _set_json_names(nested, f"{full_name}.{nested.name}")
