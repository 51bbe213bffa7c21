"""Benchmark of GetToken for users whose tokens are not cached yet, compared with users whose tokens are cached."""

import asyncio
from dataclasses import dataclass

import grpc.aio

from bench.many_connections import active_users
from bench.process_stats import memory_kib, processor_seconds
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc

USERS, CONCURRENT_CALLS = 20_000, 16


@dataclass(frozen=True, slots=True)
class ColdTokens:
    """The result for one store.

    Attributes:
        cold: Processor time of the service per call, in microseconds, while the tokens are read from the store.
        warm: The same with cached tokens.
        kib: Growth of the service's memory per cached connection.
    """

    cold: float
    warm: float
    kib: float


async def measure(address: str, key: str, process: int) -> ColdTokens:
    """Call GetToken twice for each user, at a service that has just started."""
    first, *others = active_users(USERS)
    await _call(address, key, [first])
    before = memory_kib(process)
    cold = await _microseconds(address, key, process, others)
    kib = (memory_kib(process) - before) / len(others)
    return ColdTokens(cold, await _microseconds(address, key, process, others), kib)


async def _microseconds(address: str, key: str, process: int, users: list[str]) -> float:
    before = processor_seconds(process)
    async with asyncio.TaskGroup() as group:
        for number in range(CONCURRENT_CALLS):
            group.create_task(_call(address, key, users[number::CONCURRENT_CALLS]))
    return (processor_seconds(process) - before) / len(users) * 1e6


async def _call(address: str, key: str, users: list[str]) -> None:
    """Call GetToken for users, one after the other."""
    metadata = (("authorization", f"Bearer {key}"),)
    async with grpc.aio.insecure_channel(address) as channel:
        get_token = auth_service_pb2_grpc.AuthServiceStub(channel).GetToken
        for user_email in users:
            request = auth_service_pb2.GetTokenRequest(user_email=user_email)
            await get_token(request, metadata=metadata, timeout=30)
