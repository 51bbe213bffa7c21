"""Benchmarks of the Python client: the time that it adds to a call of a gRPC stub with the same key and deadline, and its token cache."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import grpc
import grpc.aio

from bench import upstream
from zoomgate import AsyncClient, Client
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc

CALLS = 2000
CACHED_READS = 200_000
_REQUEST = auth_service_pb2.GetTokenRequest(user_email=upstream.USER)
_SECONDS = 30.0


def measure_blocking(address: str, key: str, rounds: int) -> Iterator[float]:
    """Yield, per round, the microseconds that the blocking client adds to a call. Calls of the client and calls of the stub alternate."""
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
            yield _added_microseconds(*times)


def measure_asyncio(address: str, key: str, rounds: int) -> list[float]:
    """Return, per round, the microseconds that the asyncio client adds to a call."""
    return asyncio.run(_measure_asyncio(address, key, rounds))


async def _measure_asyncio(address: str, key: str, rounds: int) -> list[float]:
    metadata = (("authorization", f"Bearer {key}"),)
    added = []
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
            added.append(_added_microseconds(*times))
    return added


def measure_cached(address: str, key: str, rounds: int) -> Iterator[float]:
    """Yield, per round, how many tokens one thread of the blocking client reads from its cache per second."""
    with Client(address, key=key, cache_tokens=True) as client:
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(CACHED_READS):
                client.auth.get_token(user_email=_REQUEST.user_email)
            yield CACHED_READS / (time.perf_counter() - start)


def _added_microseconds(bare: list[float], ours: list[float]) -> float:
    return (statistics.median(ours) - statistics.median(bare)) * 1e6
