"""Baseline of the benchmarks: a gateway with minimal functionality.

`python -m bench.baseline pass BASE_URL` forwards calls of ProxyService.Get to BASE_URL.
`python -m bench.baseline echo` responds to calls of AuthService.GetToken immediately.
"""

import asyncio
import signal
import sys
from typing import Any

import aiohttp
import grpc.aio
import uvloop
from yarl import URL

from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc, proxy_service_pb2, proxy_service_pb2_grpc


class PassThrough(proxy_service_pb2_grpc.ProxyServiceServicer):
    """A ProxyService that forwards a GET request with a bearer token, and returns the body of the response."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Forward the request."""
        url = URL(self._base + request.url, encoded=True)
        async with self._session.get(url, headers={"Authorization": "Bearer token"}) as response:
            body = await response.read()
            zoom_response = proxy_service_pb2.ZoomResponse(status=response.status, body=body)
            return proxy_service_pb2.GetResponse(response=zoom_response)


class Echo(auth_service_pb2_grpc.AuthServiceServicer):
    """An AuthService that returns a fixed token."""

    async def GetToken(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return the token."""
        token = auth_service_pb2.Token(
            access_token="t" * 64, token_type="bearer", expires_in=3600, generation=1
        )
        return auth_service_pb2.GetTokenResponse(token=token)


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        if sys.argv[1] == "pass":
            pass_through: Any = PassThrough
            proxy_service_pb2_grpc.add_ProxyServiceServicer_to_server(
                pass_through(sys.argv[2], session), server
            )
        else:
            echo: Any = Echo
            auth_service_pb2_grpc.add_AuthServiceServicer_to_server(echo(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"ready grpc=127.0.0.1:{port}", flush=True)
        await stop.wait()
        await server.stop(1)


if __name__ == "__main__":
    uvloop.run(main())
