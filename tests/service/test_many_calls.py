"""Tests for many calls that arrive at the same time."""

import asyncio
from collections import Counter

import grpc.aio

from support.harness import MONICA, Harness, metadata
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub

CALLS, CONNECTIONS = 3_000, 40


async def test_three_thousand_simultaneous_calls_succeed(zoomgate: Harness) -> None:
    """The default limit of gRPC would cancel calls without a reason."""
    await zoomgate.connect()
    channels = [
        grpc.aio.insecure_channel(zoomgate.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CONNECTIONS)
    ]
    request = auth.ValidateUserRequest(user_email=MONICA)

    async def status_of(channel: grpc.aio.Channel) -> grpc.StatusCode:
        return await AuthServiceStub(channel).ValidateUser(request, metadata=metadata(), timeout=60.0).code()

    try:
        calls = [status_of(channels[number % CONNECTIONS]) for number in range(CALLS)]
        assert Counter(await asyncio.gather(*calls)) == {grpc.StatusCode.OK: CALLS}
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
