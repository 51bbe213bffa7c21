"""Tests for calls whose deadline ends before Zoom responds. The remedy is a longer deadline, not a retry."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support.harness import MONICA, SECONDS, Harness, RpcError, metadata, serving
from support.raw_upstream import Endless, RawUpstream, raw_upstream, serving_upstream
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.app.timing import Timing
from zoomgate_server.rpc.middleware import authentication

Service = tuple[Harness, RawUpstream]

TIMING = replace(Timing(), calls=authentication.Timing(response_margin=SECONDS - 1.0))
"""Zoom has one second to respond to a call with the deadline `SECONDS`."""

READS: dict[str, Any] = {
    "meetings.GetMeeting": meetings.GetMeetingRequest(user_email=MONICA, meeting_id=1),
    "proxy.Get": proxy.GetRequest(user_email=MONICA, url="/users/me"),
    "proxy.ListPages": proxy.ListPagesRequest(user_email=MONICA, url="/users/me/meetings"),
    "proxy.Download": proxy.DownloadRequest(user_email=MONICA, url="/file"),
}
WRITES: dict[str, Any] = {
    "meetings.CreateMeeting": meetings.CreateMeetingRequest(user_email=MONICA),
    "meetings.DeleteMeeting": meetings.DeleteMeetingRequest(user_email=MONICA, meeting_id=1),
    "proxy.Post": proxy.PostRequest(user_email=MONICA, url="/users/me/meetings", raw=b"{}"),
}


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator[Service]:
    """Run a service whose Zoom receives requests and does not respond."""
    async with serving_upstream(tmp_path, TIMING) as (zoomgate, raw):
        raw.responses = [Endless(b"")]
        yield zoomgate, raw


async def failure_of(zoomgate: Harness, name: str, request: Any) -> RpcError:
    """Return the error of an RPC, which may be a stream."""
    stub, method = name.split(".")
    call = getattr(getattr(zoomgate, stub), method)(request, metadata=metadata(), timeout=SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call.read() if hasattr(call, "read") else call)
    return RpcError.of(raised.value)


@pytest.mark.parametrize("name", READS)
async def test_read_that_ends_at_the_deadline_is_no_outage_of_zoom(silent: Service, name: str) -> None:
    zoomgate, raw = silent
    error = await failure_of(zoomgate, name, READS[name])
    assert error.short == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert "longer deadline" in error.message
    assert error.retry_after is None
    assert len(raw.requests) == 1


@pytest.mark.parametrize("name", WRITES)
async def test_write_that_ends_at_the_deadline_names_it_as_the_cause(silent: Service, name: str) -> None:
    error = await failure_of(silent[0], name, WRITES[name])
    assert error.short == ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
    assert error.message.startswith("The deadline of the call ended before Zoom responded")


@pytest.mark.parametrize("name", ["meetings.GetMeeting", "meetings.CreateMeeting"])
async def test_deadline_that_ends_while_connecting_is_too_short(tmp_path: Path, name: str) -> None:
    """Zoom accepts the network connection and does not respond to the TLS handshake."""
    async with Simulator(SimulatorOptions(port=0)) as zoom, raw_upstream() as raw:
        async with serving(zoom, tmp_path) as zoomgate:
            await zoomgate.connect()
        raw.responses = [Endless(b"")]
        environ = {"ZOOMGATE_ZOOM_API_URL": raw.url.replace("http:", "https:")}
        async with serving(zoom, tmp_path, environ, timing=TIMING) as zoomgate:
            error = await failure_of(zoomgate, name, (READS | WRITES)[name])
    assert error.short == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")
    assert "nothing was sent" in error.message
