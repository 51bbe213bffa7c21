"""A TCP proxy that breaks connections in the ways that matter to a store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum


class Way(Enum):
    """What happens to requests.

    Attributes:
        FORWARD: They arrive, and so do their answers.
        CUT: They do not arrive; the connection ends.
        LOSE: They arrive; the connection ends instead of their answers.
        STALL: They wait until the way changes.
        SLOW: They arrive `SLOW_SECONDS` later.
    """

    FORWARD = "forward"
    CUT = "cut"
    LOSE = "lose"
    STALL = "stall"
    SLOW = "slow"


SLOW_SECONDS = 0.2


class TcpProxy:
    """Forwards connections. Use `proxying`.

    Args:
        host: Where to.
        port: Where to.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        stalled: How many requests wait.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._way = Way.FORWARD
        self._moved = asyncio.Event()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closed = False
        self.stalled = 0
        self.port = 0

    def turn(self, way: Way) -> None:
        """Change what happens to every request from now on, and to those that wait."""
        self._way = way
        self._moved.set()
        self._moved = asyncio.Event()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        if self._closed:
            writer.close()
            return
        task = asyncio.create_task(self._forward(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        if not task.cancelled():
            task.exception()  # either side went away

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, onward = await asyncio.open_connection(*self._target)
        answers = asyncio.create_task(self._answers(back, writer))
        try:
            while data := await reader.read(65536):
                if self._way is Way.STALL:
                    self.stalled += 1
                    while self._way is Way.STALL:
                        await self._moved.wait()
                    self.stalled -= 1
                if self._way is Way.SLOW:
                    await asyncio.sleep(SLOW_SECONDS)
                if self._way is Way.CUT:
                    break
                onward.write(data)
                await onward.drain()
                if self._way is Way.LOSE:
                    await answers  # they end with the first
                    break
        finally:
            onward.close()  # first: what follows may be cancelled
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            await _end(onward)

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await back.read(65536):
            if self._way is Way.LOSE:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        writers = list(self._connections.values())
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for writer in writers:
            await _end(writer)
        for _ in range(5):  # those that were accepted just now arrive a few turns of the loop later
            await asyncio.sleep(0)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def proxying(address: tuple[str, int]) -> AsyncIterator[TcpProxy]:
    """Run a proxy in front of an address."""
    proxy = TcpProxy(*address)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
