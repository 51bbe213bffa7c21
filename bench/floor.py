"""The floor: what any Python gateway of this kind must do, and nothing else.

`python -m bench.floor pass BASE_URL` forwards ProxyService.Get; `python -m bench.floor echo` answers AuthService.GetToken at once.
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
    """Forwards a GET with a bearer header and gives the body."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Forward."""
        url = URL(self._base + request.url, encoded=True)
        async with self._session.get(url, headers={"Authorization": "Bearer token"}) as response:
            body = await response.read()
            answer = proxy_service_pb2.ZoomResponse(status=response.status, body=body)
            return proxy_service_pb2.GetResponse(response=answer)


class Echo(auth_service_pb2_grpc.AuthServiceServicer):
    """Answers without doing anything."""

    async def GetToken(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Answer."""
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
            passing: Any = PassThrough
            proxy_service_pb2_grpc.add_ProxyServiceServicer_to_server(passing(sys.argv[2], session), server)
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
