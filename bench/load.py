"""Load on one RPC of one server: processor time per call, and calls per second."""

import contextlib
import http.client
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc

from bench.process_stats import processor_seconds
from bench.server_process import LOAD_CORE, pin_prefix

GRPC = "application/grpc"
CONNECTIONS, STREAMS = 4, 16
WORKER_CONNECTIONS, WORKER_STREAMS = (
    16,
    4,
)  # more connections, because the kernel distributes connections, not calls, among the workers


@dataclass(frozen=True, slots=True)
class Target:
    """One RPC of one server.

    Attributes:
        address: HOST:PORT.
        process: ID of the server's process.
        path: Path of the RPC.
        request: The serialized request.
        key: The caller's key, which the baseline ignores.
        certificate: PEM file of the server's certificate, or None without TLS.
        content_type: Other than for gRPC, the target is called with the Connect protocol over HTTP/1.1.
    """

    address: str
    process: int
    path: str
    request: bytes
    key: str
    certificate: Path | None = None
    content_type: str = GRPC


@dataclass(frozen=True, slots=True)
class Load:
    """The result of load on a target.

    Attributes:
        rate: Calls per second.
        microseconds: Processor time of the server per call. Unlike the rate, it hardly depends on other load on the machine.
    """

    rate: float
    microseconds: float


def load(target: Target, calls: int, directory: Path, *, every_core: bool = False) -> Load:
    """Generate load on a target. Every response must have HTTP status 200.

    Args:
        target: The RPC to call.
        calls: Number of calls.
        directory: Directory for temporary files.
        every_core: Use all cores, and distribute the same number of concurrent calls over more connections.
    """
    connections, streams = (WORKER_CONNECTIONS, WORKER_STREAMS) if every_core else (CONNECTIONS, STREAMS)
    body = directory / "request"
    is_grpc = target.content_type == GRPC
    envelope = b"\0" + len(target.request).to_bytes(4, "big") if is_grpc else b""
    body.write_bytes(envelope + target.request)
    # HTTP/1.1 has no streams, so each concurrent call needs a connection
    concurrency = [f"-c{connections}", f"-m{streams}"] if is_grpc else [f"-c{connections * streams}", "--h1"]
    command = [
        *([] if every_core else pin_prefix(LOAD_CORE)),
        "h2load",
        f"-n{calls}",
        *concurrency,
        "-t1",
        f"-d{body}",
        f"-Hcontent-type: {target.content_type}",
        "-Hte: trailers",
        f"-Hauthorization: Bearer {target.key}",
        f"{'https' if target.certificate else 'http'}://{target.address}{target.path}",
    ]
    before = processor_seconds(target.process)
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = processor_seconds(target.process) - before
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", output)
    assert rate is not None, output
    assert f"{calls} succeeded, 0 failed, 0 errored" in output, output
    return Load(float(rate.group(1)), used / calls * 1e6)


def call(target: Target) -> bytes:
    """Call a target once; raise an error if the call fails, which the load generator would not report."""
    with open_caller(target) as caller:
        return caller()


@contextlib.contextmanager
def open_caller(target: Target) -> Iterator[Callable[[], bytes]]:
    """Open a connection to a target, and yield a function that calls it."""
    authorization = f"Bearer {target.key}"
    if target.content_type == GRPC:
        with open_channel(target) as channel:
            method: Any = channel.unary_unary(target.path)
            yield lambda: method(target.request, metadata=(("authorization", authorization),), timeout=10)
        return
    connection = http.client.HTTPConnection(target.address, timeout=10)
    headers = {"Content-Type": target.content_type, "Authorization": authorization}

    def post() -> bytes:
        connection.request("POST", target.path, target.request, headers)
        response = connection.getresponse()
        body = response.read()
        assert response.status == HTTPStatus.OK, body
        return body

    with contextlib.closing(connection):
        yield post


def open_channel(target: Target) -> grpc.Channel:
    """Open a channel to a target."""
    if target.certificate is None:
        return grpc.insecure_channel(target.address)
    credentials = grpc.ssl_channel_credentials(target.certificate.read_bytes())
    return grpc.secure_channel(target.address, credentials)
