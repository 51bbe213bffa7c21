"""Tests for gRPC server reflection."""

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from support.harness import Harness, metadata


async def reflect(
    zoomgate: Harness, version: str, request: ServerReflectionRequest
) -> ServerReflectionResponse:
    """Call a version of the reflection service, and return its first response."""
    call = zoomgate.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    async for response in call(iter([request]), metadata=metadata("monica"), timeout=5):
        return response  # type: ignore[no-any-return]
    raise AssertionError("no response")


def messages(
    parent: FileDescriptorProto | DescriptorProto, prefix: str
) -> Iterator[tuple[str, DescriptorProto]]:
    """Return the full names and descriptors of all messages of a file, including nested messages."""
    for message in parent.message_type if isinstance(parent, FileDescriptorProto) else parent.nested_type:
        name = f"{prefix}.{message.name}"
        yield name, message
        yield from messages(message, name)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_only_services_that_it_describes(zoomgate: Harness, version: str) -> None:
    listed = await reflect(zoomgate, version, ServerReflectionRequest(list_services=""))
    names = [service.name for service in listed.list_services_response.service]
    assert "zoomgate.v1.AuthService" in names
    for name in names:
        described = await reflect(zoomgate, version, ServerReflectionRequest(file_containing_symbol=name))
        assert described.HasField("file_descriptor_response"), name


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflected_fields_have_their_json_names(zoomgate: Harness, version: str) -> None:
    """Without them, grpcurl prints `user_email` instead of `userEmail`."""
    described = await reflect(
        zoomgate, version, ServerReflectionRequest(file_containing_symbol="zoomgate.v1.AuthService")
    )
    fields = 0
    for serialized in described.file_descriptor_response.file_descriptor_proto:
        file = FileDescriptorProto.FromString(serialized)
        for name, message in messages(file, file.package):
            expected = descriptor_pool.Default().FindMessageTypeByName(name).fields_by_name
            for field in message.field:
                assert field.json_name == expected[field.name].json_name
                fields += 1
    assert fields > 100


async def test_unknown_symbol_is_reported_as_not_found(zoomgate: Harness) -> None:
    response = await reflect(
        zoomgate, "v1", ServerReflectionRequest(file_containing_symbol="zoomgate.v1.Missing")
    )
    assert response.error_response.error_code == 5
