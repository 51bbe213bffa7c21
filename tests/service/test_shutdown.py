"""Tests for the shutdown.

Calls end with an error that states whether a retry is safe. No token or code is sent to Zoom unless the response can be received and
stored before the process exits.
"""

import asyncio
import contextlib
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.faulty_store import Gate
from support.harness import MONICA, OMAR, Harness, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections.record import State
from zoomgate_server.storage.record_store import Kind, RecordKey

REDIRECT_URI = "http://127.0.0.1:9/elsewhere"
NO_TIME_LEFT = replace(Timing(), drain=Timing().refreshes.call)
"""The drain is as long as a token request may take, so no request may start during the drain."""


def held_read() -> Gate:
    """Return a gate that holds reads of exchange marks."""
    return Gate(after_effect=True, holds=lambda key: isinstance(key, RecordKey) and key.kind is Kind.EXCHANGE)


def held_write(state: State) -> Gate:
    """Return a gate that holds writes of connections in a state."""
    return Gate(after_effect=True, holds=lambda record, _: record.state == state.value)


def refresh_token(zoomgate: Harness) -> Any:
    return zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA)


def create_token(zoomgate: Harness) -> Any:
    zoom = zoomgate.simulator.zoom
    code = zoom.issue_code(zoom.users[OMAR], REDIRECT_URI)
    return zoomgate.auth.CreateToken, pb.CreateTokenRequest(user_email=OMAR, code=code)


def request_token(zoomgate: Harness) -> Any:
    zoom = zoomgate.simulator.zoom
    issued = zoom.exchange(zoom.issue_code(zoom.users[OMAR], REDIRECT_URI), REDIRECT_URI, "")
    request = pb.RequestTokenRequest(user_email=OMAR, refresh_token=issued["refresh_token"])
    return zoomgate.auth.RequestToken, request


def import_connection(zoomgate: Harness) -> Any:
    _, request = request_token(zoomgate)
    imported = pb.ImportConnectionRequest(user_email=OMAR, refresh_token=request.refresh_token)
    return zoomgate.auth.ImportConnection, imported


def delete_connection(zoomgate: Harness) -> Any:
    return zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA)


@pytest.mark.parametrize(
    ("call", "method", "gate"),
    [
        (refresh_token, "put", held_write(State.ACTIVE)),
        (create_token, "get", held_read()),
        (request_token, "get", held_read()),
        (import_connection, "get", held_read()),
        (delete_connection, "put", held_write(State.DISCONNECTED)),
    ],
    ids=["refresh token", "code", "refresh token of a caller", "imported refresh token", "revocation"],
)
async def test_nothing_is_sent_to_zoom_if_the_drain_could_end_before_the_response(
    tmp_path: Path, call: Any, method: str, gate: Gate
) -> None:
    """A slow store delays the call until the drain. The next process can perform the same call."""
    environ = {"ZOOMGATE_DRAIN_SECONDS": "0", "ZOOMGATE_REDIRECT_URI": REDIRECT_URI}
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path) as connecting:
            await connecting.connect()
        async with AsyncExitStack() as service:
            zoomgate = await service.enter_async_context(
                serving(zoom, tmp_path, environ=environ, timing=NO_TIME_LEFT)
            )
            rpc, request = call(zoomgate)
            sent = dict(zoom.zoom.counters)
            with zoomgate.store.intercept(method, gate):
                running = asyncio.create_task(zoomgate.error_of(rpc, request))
                await gate.reached.wait()
                stopping = asyncio.create_task(service.aclose())
                await draining(zoomgate)
                gate.opened.set()
                await stopping
                running.cancel()
        assert dict(zoom.zoom.counters) == sent
        async with serving(zoom, tmp_path, environ={"ZOOMGATE_REDIRECT_URI": REDIRECT_URI}) as zoomgate:
            if call is not delete_connection:  # which has stored the disconnection
                name = type(request).__name__.removesuffix("Request")
                await zoomgate.call(getattr(zoomgate.auth, name), request)
            assert zoomgate.stat("token.refresh_token.refused") == 0


async def draining(zoomgate: Harness) -> None:
    """Wait until the service no longer listens, which is directly followed by the drain."""
    host, _, port = zoomgate.http_url.removeprefix("http://").partition(":")
    listening = True
    while listening:
        await asyncio.sleep(0)
        with contextlib.suppress(OSError), socket.create_server((host, int(port))):
            listening = False
    for _ in range(1000):
        await asyncio.sleep(0)
