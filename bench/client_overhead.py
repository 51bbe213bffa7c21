"""What the Python client adds to a call, against the bare stub with the same key and deadline."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import grpc
import grpc.aio

from zoomgate import AsyncClient, Client
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc

CALLS = 2000
_REQUEST = auth_service_pb2.GetTokenRequest(user_email="monica@example.com")
_SECONDS = 30.0


def blocking(address: str, key: str, rounds: int) -> Iterator[float]:
    """Give the microseconds a call that the blocking client adds, by round: the calls of both take turns."""
    metadata = (("authorization", f"Bearer {key}"),)
    with grpc.insecure_channel(address) as channel, Client(address, key=key) as client:
        bare = auth_service_pb2_grpc.AuthServiceStub(channel).GetToken
        ours = client.auth.get_token
        for _ in range(rounds):
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(CALLS):
                start = time.perf_counter()
                bare(_REQUEST, metadata=metadata, timeout=_SECONDS)
                middle = time.perf_counter()
                ours(_REQUEST)
                times[0].append(middle - start)
                times[1].append(time.perf_counter() - middle)
            yield _added(*times)


def awaited(address: str, key: str, rounds: int) -> list[float]:
    """Give the microseconds a call that the asyncio client adds, by round."""
    return asyncio.run(_awaited(address, key, rounds))


async def _awaited(address: str, key: str, rounds: int) -> list[float]:
    metadata = (("authorization", f"Bearer {key}"),)
    found = []
    async with grpc.aio.insecure_channel(address) as channel, AsyncClient(address, key=key) as client:
        bare = auth_service_pb2_grpc.AuthServiceStub(channel).GetToken
        ours = client.auth.get_token
        for _ in range(rounds):
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(CALLS):
                start = time.perf_counter()
                await bare(_REQUEST, metadata=metadata, timeout=_SECONDS)
                middle = time.perf_counter()
                await ours(_REQUEST)
                times[0].append(middle - start)
                times[1].append(time.perf_counter() - middle)
            found.append(_added(*times))
    return found


def _added(bare: list[float], ours: list[float]) -> float:
    return (statistics.median(ours) - statistics.median(bare)) * 1e6
