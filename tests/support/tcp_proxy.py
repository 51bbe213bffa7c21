"""A TCP proxy that simulates the connection failures that a store must handle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum


class Mode(Enum):
    """Handling of requests by the proxy.

    Attributes:
        FORWARD: Requests and responses are forwarded.
        CUT: Requests are not forwarded; the connection is closed.
        LOSE: Requests are forwarded; the connection is closed instead of forwarding the responses.
        STALL: Requests wait until the mode changes.
        SLOW: Requests are forwarded after `SLOW_SECONDS`.
    """

    FORWARD = "forward"
    CUT = "cut"
    LOSE = "lose"
    STALL = "stall"
    SLOW = "slow"


SLOW_SECONDS = 0.2


@dataclass(frozen=True)
class Gate:
    """A gate that holds a response.

    Attributes:
        responded: Set when the target has responded.
        open: Set by the test to forward the response.
    """

    responded: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


class TcpProxy:
    """A proxy for connections to a host and port, created by `tcp_proxy`.

    Attributes:
        port: The port on which the proxy listens on 127.0.0.1.
        stalled: The number of waiting requests.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._mode = Mode.FORWARD
        self._mode_changed = asyncio.Event()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closed = False
        self._gate: Gate | None = None
        self._silenced = asyncio.Event()
        self.stalled = 0
        self.port = 0

    def set_mode(self, mode: Mode) -> None:
        """Change how all waiting and later requests are handled."""
        self._mode = mode
        self._mode_changed.set()
        self._mode_changed = asyncio.Event()

    def disconnect(self) -> None:
        """Close the present connections. Later connections are not affected."""
        for writer in self._connections.values():
            writer.close()

    def silence(self) -> None:
        """Discard everything that the present connections still send, without closing them. Later connections are not affected."""
        self._silenced.set()
        self._silenced = asyncio.Event()

    def hold_next_response(self) -> Gate:
        """Hold the next response at a gate."""
        self._gate = Gate()
        return self._gate

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        if self._closed:
            writer.close()
            return
        task = asyncio.create_task(self._forward(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._on_closed)

    def _on_closed(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved, since either side may have closed the connection

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silenced = self._silenced
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        responses = asyncio.create_task(self._forward_responses(upstream_reader, writer, silenced))
        try:
            while data := await reader.read(65536):
                if silenced.is_set():
                    continue
                if self._mode is Mode.STALL:
                    self.stalled += 1
                    while self._mode is Mode.STALL:
                        await self._mode_changed.wait()
                    self.stalled -= 1
                if self._mode is Mode.SLOW:
                    await asyncio.sleep(SLOW_SECONDS)
                if self._mode is Mode.CUT:
                    break
                upstream_writer.write(data)
                await upstream_writer.drain()
                if self._mode is Mode.LOSE:
                    await responses  # ends after the first response, which is not forwarded
                    break
        finally:
            upstream_writer.close()  # close this first, since the following statements may be canceled
            responses.cancel()
            await asyncio.gather(responses, return_exceptions=True)
            await _close(upstream_writer)

    async def _forward_responses(
        self, upstream_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silenced: asyncio.Event
    ) -> None:
        while data := await upstream_reader.read(65536):
            if silenced.is_set():
                continue
            if self._mode is Mode.LOSE:
                break
            gate, self._gate = self._gate, None
            if gate is not None:
                gate.responded.set()
                await gate.open.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        writers = list(self._connections.values())
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for writer in writers:
            await _close(writer)
        for _ in range(5):  # asyncio may report a connection a few iterations after accepting it
            await asyncio.sleep(0)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def tcp_proxy(address: tuple[str, int]) -> AsyncIterator[TcpProxy]:
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
