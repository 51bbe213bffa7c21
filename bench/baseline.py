"""Baseline of the benchmarks: a gateway with minimal functionality, with the scheduling class and the kind of handlers of the service.

`python -m bench.baseline echo` responds to calls of AuthService.GetToken immediately.
`python -m bench.baseline pass BASE_URL [CERTIFICATE KEY]` forwards calls of ProxyService.Get and Download to BASE_URL; it serves TLS if
there is a certificate.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import uvloop
from yarl import URL

from zoomgate.v1 import auth_service_pb2, proxy_service_pb2


def forward_to(base: str, session: aiohttp.ClientSession) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return a handler that forwards a GET request with a bearer token, and returns the body of the response."""

    async def forward(request: Any, context: Any) -> Any:  # noqa: ARG001
        url = URL(base + request.url, encoded=True)
        async with session.get(url, headers={"Authorization": "Bearer token"}) as response:
            body = await response.read()
            zoom_response = proxy_service_pb2.ZoomResponse(status=response.status, body=body)
            return proxy_service_pb2.GetResponse(response=zoom_response)

    return forward


def stream_from(base: str, session: aiohttp.ClientSession) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Return a handler that requests a file with a bearer token, and returns its bytes as they arrive."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG001
        url = URL(base + request.url, encoded=True)
        async with session.get(url, headers={"Authorization": "Bearer token"}) as response:
            async for chunk in response.content.iter_any():
                yield proxy_service_pb2.DownloadResponse(chunk=chunk)

    return stream


async def echo(request: Any, context: Any) -> Any:  # noqa: ARG001
    """Return a fixed token."""
    token = auth_service_pb2.Token(access_token="t" * 64, token_type="bearer", expires_in=3600, generation=1)
    return auth_service_pb2.GetTokenResponse(token=token)


def credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return the credentials of a server with TLS."""
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        if sys.argv[1] == "pass":
            service = "ProxyService"
            handlers: dict[str, Any] = {
                "Get": grpc.unary_unary_rpc_method_handler(
                    forward_to(sys.argv[2], session),
                    proxy_service_pb2.GetRequest.FromString,
                    proxy_service_pb2.GetResponse.SerializeToString,
                ),
                "Download": grpc.unary_stream_rpc_method_handler(
                    stream_from(sys.argv[2], session),
                    proxy_service_pb2.DownloadRequest.FromString,
                    proxy_service_pb2.DownloadResponse.SerializeToString,
                ),
            }
        else:
            service = "AuthService"
            handlers = {
                "GetToken": grpc.unary_unary_rpc_method_handler(
                    echo,
                    auth_service_pb2.GetTokenRequest.FromString,
                    auth_service_pb2.GetTokenResponse.SerializeToString,
                )
            }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"zoomgate.v1.{service}", handlers),)
        )
        if len(sys.argv) > 3:
            port = server.add_secure_port("127.0.0.1:0", credentials(*map(Path, sys.argv[3:])))
        else:
            port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"ready grpc=127.0.0.1:{port}", flush=True)
        await stop.wait()
        await server.stop(1)


if __name__ == "__main__":
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    uvloop.run(main())
